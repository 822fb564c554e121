"""`gpu_check.py`: what it does after an interruption, with parts that fail, and in its table."""

import importlib
import json
import sys
from pathlib import Path

import pytest

ABOUT = {"processor": "some", "GPU": "none"}


@pytest.fixture
def gpu_check(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    return importlib.import_module("gpu_check")


def done(**figures):
    return {"state": "done", "seconds": 1.0, "rows": [{"what": "a thing", **figures}]}


def test_a_run_that_was_stopped_goes_on_with_what_is_missing(gpu_check, tmp_path):
    path, ran = tmp_path / "results.json", []

    def stopped(name):
        ran.append(name)
        if name == "second":
            raise KeyboardInterrupt
        return done()

    def whole(name):
        ran.append(name)
        return done()

    names = ["first", "second", "third"]
    with pytest.raises(KeyboardInterrupt):
        gpu_check.check(names, path, ABOUT, stopped)
    results = gpu_check.check(names, path, ABOUT, whole)
    assert ran == ["first", "second", "second", "third"]
    assert list(results) == names
    assert json.loads(path.read_text()) == {"about": ABOUT, "parts": results}
    gpu_check.check(names, path, ABOUT, whole)
    assert len(ran) == 4
    gpu_check.check(["first"], path, ABOUT, whole, again=True)
    assert ran[4:] == ["first"]


@pytest.mark.parametrize("state", ["failed", "skipped"])
def test_what_failed_or_was_skipped_is_tried_again(gpu_check, tmp_path, state):
    path = tmp_path / "results.json"
    gpu_check.check(
        ["part"], path, ABOUT, lambda _: {"state": state, "reason": "absent", "seconds": 0.0}
    )
    assert gpu_check.check(["part"], path, ABOUT, lambda _: done())["part"]["state"] == "done"


def test_results_of_another_machine_are_not_mixed_in(gpu_check, tmp_path):
    path = tmp_path / "results.json"
    gpu_check.check(["part"], path, ABOUT, lambda _: done())
    with pytest.raises(SystemExit, match="Name another file with --json"):
        gpu_check.check(["part"], path, {**ABOUT, "GPU": "another"}, lambda _: done())


@pytest.mark.parametrize(
    "program, reason",
    [
        ("raise ValueError('no memory')", "exit code 1: ValueError: no memory"),
        ("import time; time.sleep(60)", "no result after 3 s"),
        ("pass", "exit code 0: nothing was said"),
    ],
)
def test_a_part_that_fails_says_why(gpu_check, program, reason):
    outcome = gpu_check.outcome_of([sys.executable, "-c", program], limit=3)
    assert outcome["state"] == "failed"
    assert outcome["reason"] == reason
    assert outcome["seconds"] < 30


def test_the_last_line_of_a_part_is_its_outcome(gpu_check):
    program = f"print('Training'); print('{json.dumps({'state': 'skipped', 'reason': 'x'})}')"
    outcome = gpu_check.outcome_of([sys.executable, "-c", program], limit=30)
    assert (outcome["state"], outcome["reason"]) == ("skipped", "x")


def test_the_table_shows_figures_and_reasons(gpu_check):
    results = {
        "parity": done(rgb=0.00123456, gaussians=200),
        "vggt": {"state": "failed", "reason": "no result after 80 s", "seconds": 80.0},
        "nerf-tinycudann": {"state": "skipped", "reason": "not installed", "seconds": 1.0},
    }
    lines = [" ".join(line.split()) for line in gpu_check.table(ABOUT, results)]
    assert lines == [
        "processor some",
        "GPU none",
        "parity a thing rgb 0.001235, gaussians 200",
        "vggt FAILED: no result after 80 s",
        "nerf-tinycudann SKIPPED: not installed",
    ]
