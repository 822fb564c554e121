"""What the documents show really runs."""

import re
from pathlib import Path

import pytest

from fm3d_plugins.cli.main import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def snippets(language):
    for path in DOCUMENTS:
        for code in re.findall(rf"```{language}\n(.*?)```", path.read_text(), re.DOTALL):
            yield pytest.param(code, id=f"{path.name}-{code.splitlines()[0][:30]}")


@pytest.mark.parametrize("code", snippets("python"))
def test_python_snippet_runs(code):
    names = {"__name__": "snippet"}
    exec(compile(code, "snippet", "exec"), names)  # noqa: S102
    assert len(names) > 2


def test_commands_in_the_documents_exist():
    words = {
        word for path in DOCUMENTS for word in re.findall(r"\bfm3d ([a-z-]+)", path.read_text())
    }
    assert words
    assert words <= set(COMMANDS)


def test_links_lead_to_files():
    for path in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
            assert (path.parent / target).is_file(), (path.name, target)
