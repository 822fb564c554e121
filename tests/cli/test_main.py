"""The command `fm3d` itself."""

import subprocess
import sys
from importlib.metadata import version

import pytest

import fm3d_plugins
from fm3d_plugins.cli import main as cli


def test_the_version_is_the_installed_one(capsys):
    cli.main(["--version"])
    assert capsys.readouterr().out == f"fm3d {version('fm3d-plugins')}\n"
    assert fm3d_plugins.__version__ == version("fm3d-plugins")


def test_other_attributes_are_absent():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        fm3d_plugins.nothing  # noqa: B018


def test_it_runs_as_a_module():
    command = [sys.executable, "-m", "fm3d_plugins", "--help"]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    assert said.startswith("usage: fm3d") and all(name in said for name in cli.COMMANDS)
