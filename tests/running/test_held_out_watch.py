"""Looks at held-out photos take little of the time."""

from fm3d_plugins.running import held_out_watch
from fm3d_plugins.running.held_out_watch import MOST_LOOKS, SHARE, HeldOutWatch


class Clock:
    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(held_out_watch.time, "monotonic", lambda: self.now)


def run(watch, clock, steps, step_seconds, look_seconds):
    looks = []
    for step in range(steps):
        clock.now += step_seconds
        if watch.is_due(step):
            with watch.timed(step):
                clock.now += look_seconds
            looks.append(step)
    return looks


def test_cheap_looks_come_evenly(monkeypatch):
    looks = run(HeldOutWatch(1000), Clock(monkeypatch), 1000, 1.0, 0.01)
    assert looks == list(range(50, 1000, 50))
    assert len(looks) < MOST_LOOKS


def test_dear_looks_come_as_seldom_as_their_share_asks(monkeypatch):
    clock = Clock(monkeypatch)
    looks = run(HeldOutWatch(1000), clock, 1000, 1.0, 5.0)
    # 5 s at 2 percent: 250 s from one to the next, after the first.
    assert looks == [50, 100, 350, 600, 850]
    assert 5.0 * (len(looks) - 2) <= SHARE * 1000


def test_a_first_look_that_reads_photos_for_long_puts_off_no_other(monkeypatch):
    watch, clock = HeldOutWatch(1000), Clock(monkeypatch)
    assert run(watch, clock, 60, 1.0, 30.0) == [50]
    assert run(watch, clock, 1000, 1.0, 0.01)[:3] == [100, 150, 200]


def test_a_run_of_few_steps_may_look_after_each(monkeypatch):
    assert run(HeldOutWatch(3), Clock(monkeypatch), 3, 1.0, 0.0) == [1, 2]
