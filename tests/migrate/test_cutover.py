"""The switch is watched and goes back by itself, and the way back is exact."""

import json
import threading
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gearshift.cli import app
from gearshift.errors import EngineError
from gearshift.migrate.cutover import cut_over
from gearshift.migrate.rollback import roll_back
from gearshift.providers import LLMServiceFactory

MODEL = "small:1b"
ENV = Path(".env")
BEFORE = b"# mine\r\nexport LLM_PROVIDER = ollama\nX='1'"


def quiet(seconds, counts):
    """Nobody looks."""


def switch(sides, watch=0.4, on_counts=quiet):
    return cut_over(MODEL, sides.settings, watch, 0.1, 0.05, on_counts)


def test_it_is_switched_and_goes_back_to_the_byte(sides):
    ENV.write_bytes(BEFORE)
    ENV.chmod(0o640)
    seen = []
    done = switch(sides, on_counts=lambda seconds, counts: seen.append(counts))
    assert (done.active, done.previous, done.reason) == ("vllm", "ollama", None)
    assert done.fallback_ready
    assert LLMServiceFactory.active() == "vllm"
    assert b"LLM_PROVIDER=vllm" in ENV.read_bytes()
    assert seen[-1].requests >= seen[-1].probes >= 2
    assert roll_back(sides.settings)["exact"] is True
    assert ENV.read_bytes() == BEFORE
    assert ENV.stat().st_mode & 0o777 == 0o640
    assert LLMServiceFactory.active() == "ollama"
    assert roll_back(sides.settings)["active"] == "ollama"  # said twice


def test_without_a_file_there_is_none_afterwards(sides):
    switch(sides, watch=0)
    assert ENV.exists()
    roll_back(sides.settings)
    assert not ENV.exists()


def test_said_twice_it_still_goes_back_to_what_was_before_the_first(sides):
    ENV.write_bytes(BEFORE)
    switch(sides, watch=0)
    switch(sides, watch=0)
    roll_back(sides.settings)
    assert ENV.read_bytes() == BEFORE


def test_what_was_changed_since_is_kept(sides):
    ENV.write_bytes(BEFORE)
    switch(sides, watch=0)
    ENV.write_bytes(ENV.read_bytes() + b"DEFAULT_MODEL=other\r\n")
    assert roll_back(sides.settings)["exact"] is False
    assert ENV.read_bytes() == BEFORE + b"\r\nDEFAULT_MODEL=other\r\n"


def test_a_second_one_after_a_change_goes_back_to_before_the_first(sides):
    ENV.write_bytes(BEFORE)
    switch(sides, watch=0)
    ENV.write_bytes(ENV.read_bytes() + b"DEFAULT_MODEL=other\r\n")
    switch(sides, watch=0)
    assert roll_back(sides.settings)["active"] == "ollama"
    assert ENV.read_bytes() == BEFORE + b"\r\nDEFAULT_MODEL=other\r\n"


def test_one_that_was_killed_in_between_goes_back_exactly(sides, monkeypatch):
    class Killed(BaseException):
        pass

    def kill(name):
        raise Killed

    ENV.write_bytes(BEFORE)
    with monkeypatch.context() as patch:
        patch.setattr(LLMServiceFactory, "switch", kill)
        with pytest.raises(Killed):
            switch(sides, watch=0)
    assert ENV.read_bytes() != BEFORE
    assert roll_back(sides.settings)["exact"] is True
    assert ENV.read_bytes() == BEFORE


def test_a_link_stays_a_link(sides, tmp_path):
    real = tmp_path / "real.env"
    real.write_bytes(BEFORE)
    ENV.symlink_to(real)
    switch(sides, watch=0)
    assert b"LLM_PROVIDER=vllm" in real.read_bytes()
    roll_back(sides.settings)
    assert (ENV.is_symlink(), real.read_bytes()) == (True, BEFORE)


def test_what_is_no_file_is_said(sides):
    ENV.mkdir()
    with pytest.raises(EngineError, match="cannot be read"):
        switch(sides, watch=0)


def test_the_way_back_is_found_from_another_folder(sides, tmp_path, monkeypatch):
    ENV.write_bytes(BEFORE)
    file = ENV.absolute()
    switch(sides, watch=0)
    monkeypatch.chdir(tmp_path)
    roll_back(sides.settings)
    assert file.read_bytes() == BEFORE


def test_a_server_that_begins_to_fail_is_left(sides):
    ENV.write_bytes(BEFORE)

    def break_it(seconds, counts):
        sides.status = 500

    done = switch(sides, watch=20, on_counts=break_it)
    assert "3 requests in a row failed" in done.reason
    assert "it broke" in done.reason
    assert (done.active, ENV.read_bytes()) == ("ollama", BEFORE)


def test_so_is_one_that_fails_for_other_people(sides):
    def others_fail(seconds, counts):
        sides.others = (40, 12)

    done = switch(sides, watch=20, on_counts=others_fail)
    assert "12 of 4" in done.reason
    assert done.counts.probes_failed == 0
    assert done.active == "ollama"


def test_as_many_errors_as_before_are_no_reason(sides):
    sides.others = (100, 12)

    def as_before(seconds, counts):
        sides.others = (200, 24)

    assert switch(sides, on_counts=as_before).reason is None


def test_who_stops_watching_keeps_the_switch(sides):
    def stop(seconds, counts):
        raise KeyboardInterrupt

    done = switch(sides, watch=60, on_counts=stop)
    assert (done.active, done.reason) == ("vllm", None)
    assert done.watched_s < 60


@pytest.mark.parametrize(
    ("names", "status", "why"),
    [(("other",), 200, "answers to other, and not to"), ((MODEL,), 500, "it broke")],
)
def test_what_cannot_go_well_is_not_begun(sides, names, status, why):
    sides.names, sides.status = names, status
    ENV.write_bytes(BEFORE)
    with pytest.raises(EngineError, match=why):
        switch(sides)
    assert ENV.read_bytes() == BEFORE
    with pytest.raises(EngineError, match="no cut-over"):
        roll_back(sides.settings)


def test_the_environment_that_wins_is_said_before(sides, monkeypatch):
    monkeypatch.setenv("LLM_PROVIDER", "ollama")
    with pytest.raises(EngineError, match="wins over"):
        switch(sides)
    assert not ENV.exists()


def test_the_commands_tell_it_as_json(sides):
    command = ["migrate", "cutover", MODEL, "--watch", "0.2", "--interval", "0.1", "--json"]
    found = CliRunner().invoke(app, command)
    assert found.exit_code == 0, found.stderr
    row = json.loads(found.stdout)
    assert (row["active"], row["previous"], row["rolled_back"]) == ("vllm", "ollama", False)
    back = CliRunner().invoke(app, ["migrate", "rollback", "--json"])
    assert json.loads(back.stdout)["active"] == "ollama"


def test_the_command_that_went_back_has_failed(sides):
    timer = threading.Timer(0.5, lambda: setattr(sides, "status", 500))
    timer.start()
    command = ["migrate", "cutover", MODEL, "--watch", "60", "--interval", "0.1", "--json"]
    found = CliRunner().invoke(app, command)
    timer.join()
    assert found.exit_code == 1
    row = json.loads(found.stdout)
    assert (row["active"], row["rolled_back"]) == ("ollama", True)
    assert row["error"]["kind"] == "cutover"
