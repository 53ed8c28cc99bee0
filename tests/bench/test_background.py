"""Work in the background: one measurement at a time, whatever its kind."""

import threading

import pytest

from gearshift.bench.background import Background
from gearshift.errors import GearshiftError


class Waits(Background):
    what = "something waits"

    def __init__(self, ends_with=None):
        super().__init__()
        self.goes_on = threading.Event()
        self.ends_with = ends_with

    def work(self):
        while not (self.goes_on.is_set() or self.cancelling):
            self.cancelled.wait(0.01)
        if self.ends_with is not None:
            raise self.ends_with


class Another(Waits):
    what = "something else waits"


def ended(job):
    job.goes_on.set()
    job._thread.join()
    assert not job.running


def test_two_would_measure_each_other():
    first = Waits()
    first.begin()
    with pytest.raises(GearshiftError, match="something waits already") as refused:
        Another().begin()
    assert "cancel" in refused.value.hint
    first.cancel()
    ended(first)
    second = Another()
    second.begin()
    ended(second)
    assert second.problem is None


def test_a_failure_is_kept_for_the_page_and_a_bug_is_no_silence(caplog):
    known = GearshiftError("no server", hint="start one")
    job = Waits(known)
    job.begin()
    ended(job)
    assert job.problem is known
    bug = Waits(KeyError("x"))
    bug.begin()
    ended(bug)
    assert "unexpected KeyError" in bug.problem.message
    assert "unexpected, while measuring" in caplog.text
    bug.dismiss()
    assert bug.problem is None
