"""The course of training in a log: few lines, and all that the table would say."""

import pytest

from fm3d_plugins.running import step_log
from fm3d_plugins.running.step_log import StepLog, StepLogConfig, step_line, writer


@pytest.fixture
def said(monkeypatch):
    lines, seconds = [], iter(range(0, 10_000))
    monkeypatch.setattr(step_log, "say", lines.append)
    monkeypatch.setattr(step_log.time, "monotonic", lambda: next(seconds))
    monkeypatch.setattr(type(step_log.CONSOLE), "is_terminal", False)
    monkeypatch.setitem(writer.GLOBAL_BUFFER, "max_iter", 1000)
    monkeypatch.setattr(writer, "EVENT_STORAGE", [])
    return lines


def test_a_log_gets_a_line_every_few_seconds_with_what_is_left(said):
    log = StepLog(StepLogConfig())
    for step in range(45):  # One second each.
        log.write_stats_log(step)
    assert said == [
        # Steps count from 0: ten seconds after the first, eleven are done.
        "Step 11 of 1000 (1 %), 1000 ms each, 16 min left.",
        "Step 21 of 1000 (2 %), 1000 ms each, 16 min left.",
        "Step 31 of 1000 (3 %), 1000 ms each, 16 min left.",
        "Step 41 of 1000 (4 %), 1000 ms each, 16 min left.",
    ]


def test_lines_become_seldom_but_are_never_more_than_half_a_minute_apart(said):
    log = StepLog(StepLogConfig())
    for step in range(1000):
        log.write_stats_log(step)
    numbers = [int(line.split()[1]) for line in said]
    assert numbers[:12] == list(range(11, 130, 10))
    assert {b - a for a, b in zip(numbers[11:], numbers[12:], strict=False)} == {30}


def test_held_out_psnr_stands_in_the_lines(said):
    log = StepLog(StepLogConfig())
    writer.EVENT_STORAGE.append({"name": "Test PSNR", "event": 23.456})
    log.write_stats_log(0)
    writer.EVENT_STORAGE.clear()
    for step in range(1, 12):
        log.write_stats_log(step)
    assert said == ["Step 11 of 1000 (1 %), 1000 ms each, 16 min left, held-out PSNR 23.5 dB."]


def test_runs_without_steps_have_no_lines(said, monkeypatch):
    """Whatever events another run has left in nerfstudio's storage."""
    monkeypatch.setitem(writer.GLOBAL_BUFFER, "max_iter", None)
    log = StepLog(StepLogConfig())
    for step in range(50):
        log.write_stats_log(step)
    assert not said


def test_a_resumed_run_counts_from_where_it_was(said):
    log = StepLog(StepLogConfig())
    for step in range(500, 511):
        log.write_stats_log(step)
    assert said == ["Step 511 of 1500 (34 %), 1000 ms each, 16 min left."]


def test_the_configuration_is_no_step_of_a_resumed_run(said):
    """nerfstudio hands over the step of the first event there is, which is the configuration's."""
    log = StepLog(StepLogConfig())
    writer.EVENT_STORAGE += [{"name": "config", "step": 0}, {"name": "loss", "step": 500}]
    log.write_stats_log(0)
    writer.EVENT_STORAGE.clear()
    for step in range(501, 511):
        log.write_stats_log(step)
    assert said == ["Step 511 of 1500 (34 %), 1000 ms each, 16 min left."]


def test_a_line_of_the_last_step():
    assert (
        step_line(10, 10, 0.05, None)
        == "Step 10 of 10 (100 %), 50 ms each, less than a second left."
    )
