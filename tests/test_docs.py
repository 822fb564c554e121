"""What the documents show really runs: snippets, commands with their options, names of files."""

import copy
import functools
import inspect
import re
import shlex
import subprocess
import sys
import textwrap
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import tyro

from fm3d_plugins.cli.main import COMMANDS, main
from fm3d_plugins.synthetic_rooms.capture import DRAFT, write_sample

try:
    import tomllib
except ImportError:  # Python 3.10, where pytest brings the same as a package.
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LANGUAGES = {"python", "toml", "bash", "text"}
"""Of code blocks. Only `text` is not tested."""
OUTSIDE = {"pip", "git", "hf", "torchrun"}
"""Programs in the documents that are nobody's here."""
FILE_NAME = re.compile(r"```python\n# (\S+\.py)$", re.MULTILINE)
"""First line of a code block that is a whole file."""
PLACES = ("", "fm3d_plugins", "tests")
"""Folders that names of files in the documents are relative to."""


def blocks(language):
    """Every code block of a language, with its document."""
    for path in DOCUMENTS:
        for code in re.findall(rf"```{language}\n(.*?)```", path.read_text(), re.DOTALL):
            yield path, textwrap.dedent(code)


def snippets(language, whole_files=True):
    return [
        pytest.param(code, id=f"{path.stem}-{code.splitlines()[0][:30]}")
        for path, code in blocks(language)
        if whole_files or not re.match(r"# \S+\.py\n", code)
    ]


def command_lines(code):
    """Words of each command, assignments before it left out."""
    for line in code.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while words and re.fullmatch(r"[A-Z_0-9]+=.*", words[0]):
            del words[0]
        if words:
            yield words


def commands():
    """Every command in a block, and those within the text that name what they train."""
    for path, code in blocks("bash"):
        for words in command_lines(code):
            yield path, words
    for path in DOCUMENTS:
        for found in re.findall(r"`(ns-train \w[\w-]* [^`…]+)`", path.read_text()):
            yield path, shlex.split(found)


def invented():
    """Examples: files that a document writes, and the names of their folders.

    tests/test_adding_a_method.py runs them.
    """
    texts = [code for path in DOCUMENTS for code in re.findall(FILE_NAME, path.read_text())]
    return set(texts), {name.split("/")[-2] for name in texts} - {"method_configs"}


class ParsedError(Exception):
    """Raised in place of running a command."""


@pytest.fixture
def only_parse(monkeypatch):
    """Commands end as soon as their words are understood."""
    parse = tyro.cli

    def parse_and_stop(target, *arguments, **options):
        if isinstance(target, functools.partial):
            idle = functools.wraps(target.func)(lambda *_, **__: None)
            target = functools.partial(idle, *target.args, **target.keywords)
        elif inspect.isfunction(target):
            target = functools.wraps(target)(lambda *_, **__: None)
        parse(target, *arguments, **options)
        raise ParsedError

    monkeypatch.setattr(tyro, "cli", parse_and_stop)


def run_command(program, words, monkeypatch):
    """Call a command of this package or of nerfstudio as its console script does."""
    if program == "fm3d":
        main(words)
    elif program == "ns-train":
        from nerfstudio.configs.method_configs import all_methods

        # Its own parser is that of all methods at once, which takes minutes for all commands here.
        config = copy.deepcopy(all_methods[words[0]])
        flags = (tyro.conf.FlagConversionOff,)  # As nerfstudio has it.
        tyro.cli(type(config), default=config, args=words[1:], config=flags)
    else:
        monkeypatch.setattr(sys, "argv", [program, *words])
        next(iter(entry_points(group="console_scripts", name=program))).load()()


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of photos with that name."""
    folder = tmp_path_factory.mktemp("snippets")
    size = {"num_photos": 8, "width": 240, "height": 180}
    write_sample(folder / "sample", **size, quality=DRAFT, num_threads=1)
    return (folder / "sample" / "images").rename(folder / "photos")


def test_every_code_block_names_a_language_that_is_tested():
    for path in DOCUMENTS:
        fences = re.findall(r"^\s*```(\w*)$", path.read_text(), re.MULTILINE)
        assert set(fences[0::2]) <= LANGUAGES, (path.name, fences[0::2])
        assert not any(fences[1::2]), path.name


@pytest.mark.parametrize("code", snippets("python", whole_files=False))
def test_python_snippet_runs(code, photos, monkeypatch):
    if '"photos"' in code:  # A folder of the reader's.
        monkeypatch.chdir(photos.parent)
    made = {"__name__": "snippet"}
    exec(compile(code, "snippet", "exec"), made)  # noqa: S102
    assert set(made) - {"__name__", "__builtins__"}, "it defines nothing"


@pytest.mark.parametrize("code", snippets("toml"))
def test_entry_points_in_the_documents_are_of_groups_that_are_read(code):
    settings = tomllib.loads(code)
    groups = settings.get("project", {}).get("entry-points", {})
    assert groups or "tool" in settings
    for group, points in groups.items():
        assert group in ("nerfstudio.method_configs", "fm3d_plugins.estimators")
        for value in points.values():
            module, _, attribute = value.partition(":")
            if not invented()[1] & set(module.split(".")):
                assert hasattr(import_module(module), attribute)


@pytest.mark.parametrize("code", snippets("bash"))
def test_block_is_valid_bash(code):
    subprocess.run(["bash", "-n"], input=code, text=True, check=True, timeout=30)
    assert not re.search(r"<[\w.-]+>", code), "bash reads <name> as a redirection"


@pytest.mark.parametrize(
    "words", [pytest.param(words, id=" ".join(words)[:70]) for _, words in commands()]
)
def test_command_is_understood(words, only_parse, monkeypatch):
    """Every word, option and value, by the parser that the command itself has."""
    program, *rest = words
    if program == "make":
        targets = re.search(r"\.PHONY: (.*)", (ROOT / "Makefile").read_text())[1].split()
        assert {word for word in rest if "=" not in word} <= set(targets)
    elif program == "python":
        assert (ROOT / rest[0]).is_file()
    elif program == "fm3d" or program.startswith("ns-"):
        if not invented()[1] & set(rest):
            with pytest.raises(ParsedError):
                run_command(program, rest, monkeypatch)
    else:
        assert program in OUTSIDE or program.startswith(".venv/"), program


def test_a_command_with_a_wrong_word_is_not_understood(only_parse, monkeypatch):
    for line in (
        "ns-train 3dgs --pipeline.model.no-such-option 1",
        "ns-train 3dgs --data photos no-such-parser",
        "ns-eval --no-such-option 1",
        "fm3d process sfm --data photos",
        "fm3d no-such-command",
    ):
        program, *rest = line.split()
        with pytest.raises(SystemExit):
            run_command(program, rest, monkeypatch)


def test_options_in_the_text_are_fields_or_parameters():
    """Options that stand alone: each name in them is declared somewhere."""
    import nerfstudio

    folders = [ROOT / "fm3d_plugins", ROOT / "dataparsers", ROOT / "tests", *nerfstudio.__path__]
    text = "\n".join(path.read_text() for folder in folders for path in Path(folder).rglob("*.py"))
    # Fields and parameters, keys of dictionaries, and options of the benchmarks.
    declared = set(re.findall(r"\b(\w+)\"?: |\"--([\w-]+)\"", text))
    declared = {name for pair in declared for name in pair}
    for path in DOCUMENTS:
        for option in re.findall(r"`--([a-z0-9][\w.-]*\w)", path.read_text()):
            names = option.removeprefix("no-").split(".")  # As --no-overwrite.
            unknown = [name for name in names if not {name, name.replace("-", "_")} & declared]
            assert not unknown, (path.name, option)


def test_commands_in_the_documents_exist():
    words = {
        word for path in DOCUMENTS for word in re.findall(r"\bfm3d ([a-z-]+)", path.read_text())
    }
    assert words
    assert words <= set(COMMANDS)


def places(target):
    return [ROOT / place / target for place in PLACES]


def test_links_and_names_of_files_lead_to_files():
    tops = ("fm3d_plugins", "tests", "dataparsers", "method_configs")
    own = {path.name for folder in tops for path in (ROOT / folder).rglob("*.py")}
    files, folders = invented()
    for path in DOCUMENTS:
        text = path.read_text()
        for target in re.findall(r"\]\(([^)#:]+)[^):]*\)", text):
            assert (path.parent / target).is_file(), (path.name, target)
        for target in re.findall(r"`((?:[\w.]+/)+\w+\.(?:py|md|toml))", text):
            is_there = any(place.is_file() for place in places(target))
            is_invented = target in files or Path(target).parent.name in folders
            assert is_there or is_invented, (path.name, target)
        for name in re.findall(r"`(\w+\.py)`", text):
            assert name in own, (path.name, name)


def test_names_behind_a_file_are_in_that_file():
    """As in `nerf/vanilla.py`: `positional_encoding`."""
    found = 0
    for path in DOCUMENTS:
        pairs = re.findall(r"`([\w/]+\.py)`: ((?:`\w+`(?:, | and )?)+)", path.read_text())
        for target, names in pairs:
            text = next(place for place in places(target) if place.is_file()).read_text()
            for name in re.findall(r"\w+", names.replace(" and ", " ")):
                assert re.search(rf"\b{name}\b", text), (path.name, target, name)
                found += 1
    assert found > 5
