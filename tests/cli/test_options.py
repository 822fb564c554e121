"""How `fm3d` commands read their words: switches stand alone, printed commands can be pasted."""

import shlex

import pytest

from fm3d_plugins.cli import main as cli
from fm3d_plugins.cli.options import run_with_options


def given(*words):
    """What a command with one switch of each default gets."""
    seen = []

    def command(overwrite: bool = False, drop_sky: bool = True) -> None:
        seen.append((overwrite, drop_sky))

    run_with_options(command, "fm3d test", words)
    return seen.pop()


def test_a_switch_is_a_word_alone():
    assert given() == (False, True)
    assert given("--overwrite") == (True, True)
    assert given("--no-overwrite", "--no-drop-sky") == (False, False)
    with pytest.raises(SystemExit):
        given("--overwrite", "True")


SWITCHES = {
    "process sfm": ["--overwrite", "--skip-unreadable"],
    "process vggt": ["--overwrite", "--drop-sky", "--use-known-poses", "--commercial-only"],
    "process dust3r": ["--keep-squares", "--commercial-only"],
    "export": ["--overwrite"],
    "export-cameras": ["--overwrite"],
    "film": ["--loop"],
    "sample": ["--overwrite"],
    "evaluate --protocol": ["--commercial-only"],
    "weights fetch": ["--commercial-only"],
}


@pytest.mark.parametrize("command", SWITCHES)
def test_switches_of_every_command_stand_alone(command, capsys):
    with pytest.raises(SystemExit):
        cli.main([*command.split(), "--help"])
    said = capsys.readouterr().out
    assert "{True,False}" not in said
    for switch in SWITCHES[command]:
        assert f"{switch}, --no-{switch[2:]}" in said


def test_a_printed_command_can_be_pasted_whatever_the_folder_is_called(tmp_path, capsys):
    """Truth: the shell's own rules, by which the words come back."""
    folder = tmp_path / "it's a room; $(touch x) & more"
    size = ["--num-photos", "2", "--width", "48", "--height", "36"]
    cli.main(["sample", "--output-dir", str(folder), *size])
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Next: ")]
    assert shlex.split(line) == ["Next:", "ns-train", "3dgs", "--data", str(folder), "sfm"]
