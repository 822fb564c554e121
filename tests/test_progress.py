"""Long work is told in a log too."""

import time

from fm3d_plugins import progress


def test_a_log_gets_lines_about_what_is_left(monkeypatch):
    said = []
    monkeypatch.setattr(progress, "say", said.append)
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.5)

    def items():
        yield "a"
        time.sleep(0.75)
        yield "b"

    assert list(progress._with_lines(items(), "Work", 5)) == ["a", "b"]
    # Half a second for one of five: four times as long is left.
    assert said == ["Work: 1 of 5, about 0.0 minutes left."]


def test_what_takes_long_before_its_first_item_shows_signs_of_life(monkeypatch):
    said = []
    monkeypatch.setattr(progress, "say", said.append)
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.2)

    def items():
        while not said:
            time.sleep(0.01)
        yield "a"

    assert list(progress._with_lines(items(), "Work", 1)) == ["a"]
    assert said[0].startswith("Work: none of 1 yet, after ")


def test_lines_of_others_count_as_signs_of_life(capsys, monkeypatch):
    monkeypatch.setattr(progress, "LINE_SECONDS", 1.0)
    with progress.signs_of_life(lambda seconds: "Still there."):
        for _ in range(15):
            time.sleep(0.1)
            progress.say("A line.")
    assert "Still there." not in capsys.readouterr().out


def test_every_item_passes_when_there_is_no_terminal(monkeypatch):
    from nerfstudio.utils.rich_utils import CONSOLE

    monkeypatch.setattr(type(CONSOLE), "is_terminal", False)
    assert list(progress.track(iter(range(3)), "Work", 3)) == [0, 1, 2]
