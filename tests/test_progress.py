"""Long work is told in a log too."""

from fm3d_plugins import progress


def test_a_log_gets_lines_about_what_is_left(monkeypatch):
    said, seconds = [], iter(range(0, 1000, 20))
    monkeypatch.setattr(progress, "say", said.append)
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(seconds))
    assert list(progress._with_lines("abcde", "Work", 5)) == list("abcde")
    # 20 seconds each: a line after 40 seconds, and one after 80.
    assert said == [
        "Work: 2 of 5, about 1.0 minutes left.",
        "Work: 4 of 5, about 0.3 minutes left.",
    ]


def test_every_item_passes_when_there_is_no_terminal(monkeypatch):
    from nerfstudio.utils.rich_utils import CONSOLE

    monkeypatch.setattr(type(CONSOLE), "is_terminal", False)
    assert list(progress.track(iter(range(3)), "Work", 3)) == [0, 1, 2]
