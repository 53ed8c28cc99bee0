"""Tuning on servers whose best setting is known: vLLM's stand-in, with queues and slow prompts.

A first token takes 0.04 s for each running request, by 2048 / max-num-batched-tokens, and no more
than max-num-seqs run at once. With a limit of 0.4 s at most ten people are served in time with 2048
tokens in a step, and forty with 8192: then max-num-seqs decides.
"""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest
from filelock import FileLock

from gearshift.bench import Wish, parse_goals
from gearshift.bench.tuning import Aim, Outcome, Point, Trial, Verdict, keep, open_tuning, tune
from gearshift.bench.tuning.alone import folder, is_tuning
from gearshift.bench.tuning.capacity import most_users
from gearshift.bench.tuning.result import failed, sentence, verdict
from gearshift.bench.tuning.retest import Round, gain
from gearshift.engine import servers
from gearshift.engine.profiles import profiles
from gearshift.engine.start import Wish as StartWish
from gearshift.engine.start import carry_out, prepare
from gearshift.errors import EngineError, GearshiftError
from gearshift.settings import load_settings
from places import free_port
from stand_in import end_stand_in, small_model, stand_in, stand_in_processes, stand_in_starts

GEARSHIFT = [sys.executable, "-c", "from gearshift.cli import main; main()"]
GOALS = parse_goals("p100 ttft < 0.4")
ROOM = 1_000_000  # 256 sequences with 8192 tokens in a step are too many
GRID = "max-num-seqs=4/8/16/256, max-num-batched-tokens=512/2048/8192"
LOAD = Wish(requests=24, input_tokens=8, output_tokens=3, warmup=1)


@pytest.fixture
def model(tmp_path):
    return small_model(tmp_path / "models" / "small")


@pytest.fixture
def play(tmp_path, monkeypatch):
    """A stand-in for vLLM, taken by all servers of the test."""
    folder = tmp_path / "stand-in"

    def begin(**plays):
        plays = {"start_seconds": 0.1, "batching": 0.04, "slow_tokens": 0.15} | plays
        monkeypatch.setenv("GEARSHIFT_VLLM_PYTHON", str(stand_in(folder, **plays)))
        load_settings.cache_clear()

    begin.folder = folder
    yield begin
    end_stand_in(folder)


def starts(play):
    return [one for one in stand_in_starts(play.folder) if one.role == "api"]


def nothing_is_left(play):
    assert stand_in_processes(play.folder) == {}
    assert servers.status(load_settings()) == []


def aim(model, **fields):
    fields = {"goals": GOALS, "parameters": GRID, "load": LOAD, "rounds": 3, "most": 40} | fields
    return Aim(str(model), **fields)


def search(wanted, **options):
    settings = load_settings()
    return tune(open_tuning(wanted, settings), settings, **options)


# ---- the most people


def point(users, holds, margin=None):
    return Point(users, holds, margin or (0.5 if holds else 2.0), {}, 1.0, 1.0, 24, 0, 1.0)


@pytest.mark.parametrize("first", [1, 4, 9])
@pytest.mark.parametrize("limit", [0, 1, 2, 3, 7, 8, 13, 20, 37, 64])
def test_bisection_finds_exactly_how_many_a_server_holds(limit, first):
    asked = []

    def ask(users):
        asked.append(users)
        return point(users, users <= limit)

    found, loses = most_users(ask, first, 64)
    assert not loses
    assert found == limit or (limit > 20 and limit / 1.05 <= found <= limit)
    assert len(asked) == len(set(asked)) <= 12


@pytest.mark.parametrize("limit", [5, 17, 40, 100])
def test_where_waiting_grows_evenly_few_loads_are_enough(limit):
    asked = []

    def ask(users):
        asked.append(users)
        return point(users, users <= limit, (users - 0.5) / limit)

    found, _ = most_users(ask, 4, 256)
    assert limit / 1.05 <= found <= limit
    assert len([users for users in asked if users not in (4, 8, 16, 32, 64, 128)]) <= 3


def test_a_loser_is_asked_once_and_who_holds_as_many_goes_on():
    asked = []

    def ask(users):
        asked.append(users)
        return point(users, users <= 11)

    assert most_users(ask, 4, 64, beat=12) == (0, True)
    assert asked == [12]
    assert most_users(ask, 4, 64, beat=10) == (11, False)


# ---- the search


@pytest.mark.soak
def test_the_best_setting_is_found_by_a_third_of_the_grids_starts_and_a_failed_one_is_explained(
    play, model
):
    play(room=ROOM)
    found = search(aim(model, starts=4))
    assert [trial.outcome for trial in found.trials[:1]] == [Outcome.MEASURED]
    assert found.starts == 4
    assert found.best.setting == {"max_num_seqs": 16, "max_num_batched_tokens": 8192}
    assert found.best.users == 16  # exactly: the seventeenth waits for a whole answer
    assert 4 <= found.default.users <= 10  # ten, on a machine that is not busy
    (broken,) = [trial for trial in found.trials if trial.outcome is Outcome.FAILED]
    assert broken.setting == {"max_num_seqs": 256, "max_num_batched_tokens": 8192}
    assert broken.cause == "cuda-oom"
    assert "warming up sampler with 256" in broken.evidence
    assert "--max-num-seqs 64" in broken.fix
    assert found.best.label == "a correction"
    what, gained = verdict(found)
    assert what is Verdict.BETTER
    assert gained.interval[0] > 0.1
    assert len(found.rounds) == 3
    assert len(starts(play)) == 4 + 4  # so many rounds take one more
    nothing_is_left(play)

    record = keep(found, load_settings())
    assert record["profile"] == "tuned-small"
    assert "--max-num-seqs=16" in record["command"]
    start = prepare(StartWish(str(model), profile="tuned-small"), load_settings())
    assert "--max-num-batched-tokens=8192" in start.record.command
    assert "answers in time" in start.profile.reasons["max_num_seqs"]


@pytest.mark.soak
def test_losers_are_stopped_after_one_load_and_settings_that_cannot_work_are_not_started(
    play, model
):
    play()
    words = "max-num-seqs=2/4/8/64, max-num-batched-tokens=48/2048/8192"
    found = search(aim(model, parameters=words, starts=6, rounds=0, most=16))
    stopped = [trial for trial in found.trials if trial.outcome is Outcome.STOPPED]
    assert stopped
    assert all(len(trial.points) == 1 for trial in stopped)
    assert all(trial.points[0].users > trial.users for trial in stopped)
    pruned = [trial for trial in found.trials if trial.outcome is Outcome.PRUNED]
    for trial in pruned:
        assert trial.setting == {"max_num_seqs": 64, "max_num_batched_tokens": 48}
        assert "a step of 48 tokens is too small for 64 sequences" in trial.reason
    assert len(starts(play)) == found.starts <= 6
    keys = [tuple(trial.setting.items()) for trial in found.trials]
    assert len(set(keys)) == len(keys)
    nothing_is_left(play)


@pytest.mark.soak  # noise is a gain once in forty times, as 95 % means
def test_the_defaults_are_fine_where_nothing_that_is_searched_matters(play, model):
    play(batching=0.001)
    easy = parse_goals("p100 ttft < 5")  # also where the machine is busy with other things
    found = search(aim(model, goals=easy, parameters="max-num-batched-tokens=1024/4096", most=6))
    what, gained = verdict(found)
    assert what is Verdict.DEFAULT
    assert found.default.users == found.best.users == 6
    record = keep(found, load_settings())
    assert record["sentence"].startswith("vLLM's defaults are fine")
    if found.best is not found.default:
        assert gained.interval[0] <= 0
    assert not [part for part in record["command"] if "batched" in part]
    assert profiles(load_settings().home_dir)["tuned-small"].values == {}
    nothing_is_left(play)


@pytest.mark.soak
def test_nobody_holds_the_goals_and_the_nearest_is_told(play, model):
    play(batching=0.6)
    found = search(aim(model, parameters="max-num-seqs=4/8", starts=2))
    assert found.best is None
    assert verdict(found) == (Verdict.NONE, None)
    error = failed(found)
    assert "No setting holds p100 ttft < 0.4 with one person; the nearest was" in error.message
    assert re.search(r"\(p100 ttft < 0.4: \d", error.message)
    record = keep(found, load_settings())
    assert record["best"] is record["command"] is record["profile"] is None
    nothing_is_left(play)


def test_defaults_that_were_not_compared_are_not_called_fine(play, model):
    play(batching=0.001)
    found = search(aim(model, parameters="max-num-seqs=4/8", starts=1, rounds=0, most=2))
    assert verdict(found) == (Verdict.UNPROVEN, None)
    assert "nothing else was measured" in sentence(found)
    nothing_is_left(play)


def trial(number, setting, users, outcome=Outcome.MEASURED):
    points = [point(users or 1, holds=outcome is Outcome.MEASURED)]
    return Trial(number, "the search", setting, outcome, points, users)


def test_a_search_that_broke_off_says_so_and_makes_no_profile(play, model):
    play()
    settings = load_settings()
    found = open_tuning(aim(model), settings)
    found.trials.append(trial(1, {}, 8))
    found.trials.append(trial(2, {"max_num_seqs": 4}, 8, Outcome.STOPPED))
    kept = keep(found, settings)
    assert (kept["complete"], kept["verdict"], kept["profile"]) == (False, "unproven", None)
    assert "has not come to its end: the best so far is vLLM's defaults (8 people" in sentence(
        found
    )
    assert profiles(settings.home_dir).keys() == {"latency", "throughput"}
    found.trials.clear()
    assert "nothing was measured" in sentence(found)
    found.complete = True
    assert verdict(found) == (Verdict.NONE, None)


def test_defaults_that_broke_under_load_are_nothing_to_beat(play, model):
    play()
    found = open_tuning(aim(model), load_settings())
    found.trials.append(trial(1, {}, 0, Outcome.FAILED))
    found.trials.append(trial(2, {"max_num_seqs": 4}, 8))
    found.complete = True
    assert verdict(found) == (Verdict.ONLY, None)
    assert "vLLM's defaults do not work" in sentence(found)


def test_rounds_in_which_the_client_was_in_the_way_prove_nothing():
    good = [Round(point(8, holds=True), point(8, holds=True)) for _ in range(4)]
    bad = Round(
        point(8, holds=True), replace(point(8, holds=True), goodput_per_s=90.0, invalid="?")
    )
    assert gain([*good, bad]) == gain(good)
    assert gain([bad]) is None


def test_prompts_and_weights_that_have_changed_are_another_question(play, model, tmp_path):
    play()
    settings, file = load_settings(), tmp_path / "asked.txt"
    with pytest.raises(GearshiftError, match="cannot read"):  # before anything is started
        open_tuning(aim(model, load=Wish(prompts=str(file))), settings)
    names = set()
    for text in ("Why?", "How?"):
        file.write_text(text, "utf-8")
        names.add(open_tuning(aim(model, load=Wish(prompts=str(file))), settings).name)
    (model / "model.safetensors").write_bytes(b"others")
    names.add(open_tuning(aim(model, load=Wish(prompts=str(file))), settings).name)
    assert len(names) == 3


def test_the_server_of_a_search_that_was_killed_ends_before_any_other(play, model):
    play()
    settings, port = load_settings(), free_port()
    folder(settings.home_dir).mkdir(parents=True)
    (folder(settings.home_dir) / "port").write_text(str(port), "ascii")
    carry_out(StartWish(str(model), port=port), settings)
    assert stand_in_processes(play.folder)
    step = threading.Event()
    step.set()
    found = search(aim(model), cancel=step, fresh=True)
    assert found.cancelled
    nothing_is_left(play)


def test_a_disk_that_refuses_is_said_as_such(play, model):
    play()
    folder(load_settings().home_dir).write_text("a file")
    with pytest.raises(EngineError, match="the search cannot be kept in"):
        search(aim(model))


def test_who_comes_while_another_tunes_loses_nothing_that_was_kept(play, model):
    play(batching=0.001)
    first = subprocess.run(command(model), capture_output=True, text=True, timeout=300)
    place = folder(load_settings().home_dir)
    (kept,) = place.glob("*.json")
    before = kept.read_bytes()
    assert not is_tuning(load_settings().home_dir)
    with FileLock(place / "lock"):
        assert is_tuning(load_settings().home_dir)
        refused = subprocess.run(command(model), capture_output=True, text=True, timeout=60)
    assert (first.returncode, refused.returncode) == (0, 1)
    assert json.loads(refused.stdout)["error"]["kind"] == "busy"
    assert kept.read_bytes() == before


def test_all_contexts_are_asked_the_same_and_more_people_get_more_requests(play, model):
    play()
    settings = load_settings()
    tuning = open_tuning(aim(model, parameters="max-model-len", load=Wish(requests=24)), settings)
    assert tuning.aim.load.room == 4096 - 128
    assert min(tuning.space.parameters[0].choices) >= 1500, "shorter ones cannot hold a question"
    assert [tuning.aim.wish(users, 0).requests for users in (4, 40)] == [24, 80]
    prompts = model.parent / "asked.txt"
    names = []
    for text in ("Why?", "How?"):
        prompts.write_text(text, "utf-8")
        asked = aim(model, parameters="max-num-seqs=4/8", load=Wish(prompts=str(prompts)))
        names.append(open_tuning(asked, settings).name)
    assert names[0] != names[1], "other prompts are another question"


def test_a_server_that_breaks_under_load_is_a_failure_and_the_search_goes_on(play, model):
    play(exit_after=4, slow_tokens=2.0)
    wanted = aim(model, parameters="max-num-seqs=4/8", starts=2)
    with pytest.raises(Exception, match="does not start with vLLM's defaults"):
        search(wanted)
    nothing_is_left(play)


# ---- cancelled, killed, gone on with


def test_cancelled_in_a_start_and_in_a_load_it_leaves_nothing_and_goes_on(play, model):
    play(start_seconds=5, batching=0.001)
    cancel = threading.Event()

    def in_the_start(tuning):
        if "at once" not in tuning.now and stand_in_processes(play.folder):
            cancel.set()

    wanted = aim(model, parameters="max-num-seqs=8/16", starts=2, rounds=0, most=8)
    found = search(wanted, step=in_the_start, cancel=cancel)
    assert found.cancelled
    assert found.trials == []
    nothing_is_left(play)

    play(batching=0.001)
    cancel = threading.Event()

    def in_the_load(tuning):
        if tuning.trial is not None and tuning.trial.points and tuning.progress.done:
            cancel.set()

    found = search(wanted, step=in_the_load, cancel=cancel)
    assert found.cancelled
    nothing_is_left(play)
    measured = found.trials and found.trials[0].points

    seen = []
    found = search(wanted, step=lambda tuning: seen.append(tuning.now))
    assert not found.cancelled
    assert found.starts == 2
    assert found.default.users == 8
    assert not measured  # it was cancelled within its first trial,
    assert "vLLM's defaults: 4 at once" not in seen  # whose first load was kept
    nothing_is_left(play)


def command(model, *more):
    return [
        *GEARSHIFT, "tune", str(model), "--slo", "p100 ttft < 0.4", "--parameters",
        "max-num-seqs=4/8", "--trials", "2", "--input-tokens", "8", "--output-tokens", "3",
        "--max-users", "12", "--users", "8", "--rounds", "1", "--json", *map(str, more),
    ]  # fmt: skip


def test_the_same_command_goes_on_after_a_kill_and_ends_what_was_left(play, model):
    play(batching=0.001)
    child = subprocess.Popen(
        command(model), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    said = []
    for line in child.stderr:
        said.append(line)
        if "12 at once" in line:  # it has measured eight
            break
    os.kill(child.pid, signal.SIGKILL)
    child.communicate()
    assert stand_in_processes(play.folder)  # nobody could end it
    began = len(starts(play))
    again = subprocess.run(command(model), capture_output=True, text=True, timeout=300)
    assert again.returncode == 0, again.stderr
    assert "8 at once" not in again.stderr.split("max-num-seqs")[0], again.stderr
    found = json.loads(again.stdout)
    assert found["starts"] == 2
    assert len(starts(play)) > began
    nothing_is_left(play)

    known = len(stand_in_starts(play.folder))
    third = subprocess.run(command(model), capture_output=True, text=True, timeout=60)
    assert json.loads(third.stdout)["best"] == found["best"]
    assert len(stand_in_starts(play.folder)) == known, "all was known: no server was needed"
    assert "measured before" in third.stderr


def test_ctrl_c_keeps_what_was_measured(play, model):
    play(batching=0.001)
    child = subprocess.Popen(
        command(model), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    for line in child.stderr:
        if "at once" in line:
            break
    child.send_signal(signal.SIGINT)
    out, said = child.communicate(timeout=60)
    assert child.returncode == 0, said
    found = json.loads(out)
    assert found["cancelled"]
    assert found["profile"] is None
    assert "the same command goes on where it stopped" in said
    nothing_is_left(play)


# ---- the command


def test_the_json_has_the_keys_that_scripts_depend_on(play, model):
    play(batching=0.001)
    line = command(model, "--name", "mine")
    done = subprocess.run(line, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found.keys() >= {
        "trials", "best", "default", "gain", "confidence_interval", "command",
    }  # fmt: skip
    assert found["command"][:3] == ["gearshift", "serve", str(model)]
    assert found["profile"] == "mine"
    assert found["default"]["label"] == "vLLM's defaults"
    for trial in found["trials"]:
        assert trial.keys() >= {"setting", "outcome", "users", "points", "reason", "cause", "fix"}
    served = [*GEARSHIFT, "serve", str(model), "--profile", "mine", "--dry-run", "--json"]
    shown = subprocess.run(served, capture_output=True, text=True, timeout=60)
    assert shown.returncode == 0, shown.stderr
    expected = [part for part in found["command"] if "max-num-seqs" in part]
    assert [p for p in json.loads(shown.stdout)["command"] if "max-num-seqs" in p] == expected


@pytest.mark.parametrize(
    ("arguments", "status", "kind"),
    [
        (["--slo", "fast"], 1, "error"),
        (["--parameters", "speed"], 1, "parameters"),
        (["--parameters", "max-num-seqs=many"], 1, "parameters"),
        (["--parameters", "max-num-seqs=4"], 1, "parameters"),
        (["--parameters", "gpu-memory-utilization"], 1, "parameters"),
        (["--name", "latency"], 1, "profile"),
        (["--trials", "0"], 2, "usage"),
        (["--requests", "5", "--duration", "5"], 2, "usage"),
    ],
)
def test_what_cannot_be_searched_is_said_at_once(play, model, arguments, status, kind):
    play()
    line = [*GEARSHIFT, "tune", str(model), *arguments, "--json"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60)
    assert done.returncode == status, done.stderr
    error = json.loads(done.stdout)["error"]
    assert error["kind"] == kind
    assert error["hint"]
    assert "Traceback" not in done.stderr
    assert stand_in_starts(play.folder) == []


def test_a_model_that_does_not_start_at_all_is_explained_and_not_tried_again(play, model):
    play(crash="oom")
    began = time.monotonic()
    done = subprocess.run(command(model), capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert "does not start with vLLM's defaults" in found["error"]["message"]
    assert found["error"]["hint"]
    assert [trial["outcome"] for trial in found["trials"]] == ["failed"]
    assert found["trials"][0]["cause"]
    assert len(starts(play)) == 1
    assert time.monotonic() - began < 50
    nothing_is_left(play)
