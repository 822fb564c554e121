"""config.yml of a run, read without running what stands in it.

nerfstudio writes its configs as YAML with Python's own tags and reads them with a loader that
imports and calls whatever a tag names. Here only config classes, classes to build from them, paths
and plain values are made, and any other tag is refused by name.
"""

import re
import sys
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import torch
import yaml
from nerfstudio.engine.trainer import TrainerConfig

from fm3d_plugins.errors import listed
from fm3d_plugins.estimators.base import ENTRY_POINT_GROUP
from fm3d_plugins.files import kind_of
from fm3d_plugins.progress import say

PACKAGES = ("nerfstudio", "fm3d_plugins")
"""Whose classes a config may name, besides torch's optimisers and registered estimators."""

FUNCTIONS = frozenset(
    {
        "nerfstudio.data.utils.nerfstudio_collate.nerfstudio_collate",
        "nerfstudio.data.datamanagers.base_datamanager.variable_res_collate",
    }
)
"""The only functions that nerfstudio's configs hold."""

MOVED = {
    f"fm3d_plugins.training.{name}": f"fm3d_plugins.running.{module}.{name}"
    for name, module in (
        ("MachineConfig", "machine"),
        ("FusedAdamConfig", "optimization"),
        ("DecayConfig", "optimization"),
    )
}
"""Names in configs that were saved earlier, and what they name now."""

LARGEST = 4_000_000
"""Bytes; those that are written have some ten thousand."""

_OF_VALUES = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError)
"""What PyYAML raises for values that are not what their tag says."""

_OF_RUNS = frozenset({"method_name"})
"""Fields that every run's config has."""

_PYTHON = "tag:yaml.org,2002:python/"
_PATHS = re.compile(r"pathlib(\._local)?\.(Pure)?(Posix|Windows)?Path")
_EXPECTED = (
    "Expected the config.yml that ns-train wrote: config classes of nerfstudio and fm3d_plugins, "
    "paths and plain values."
)


def read_run_config(path: Path) -> TrainerConfig:
    """The config of a run.

    Other fields that the file lacks get their defaults; those that their class no longer has are
    left out, with a line.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no config, or names what a config does not hold; nothing of it was run.
        OSError: It is no regular file, or cannot be read.
    """
    kind = kind_of(path)
    if kind is None:
        raise FileNotFoundError(
            f"There is no {path}. Expected the config.yml that ns-train wrote, or a folder with "
            "runs, such as outputs. ns-train names the place when it begins."
        )
    if kind != "a file" or path.stat().st_size > LARGEST:
        found = kind if kind != "a file" else f"a file of {path.stat().st_size} bytes"
        raise ValueError(f"{path} is {found}. {_EXPECTED} Give its path.")
    try:
        config = yaml.load(path.read_bytes(), Loader=_ConfigLoader)  # noqa: S506
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}" if mark else ""
        reason = str(error.problem or error.context).replace("\n", " ")
        raise ValueError(f"{path}{where}: {reason}. {_EXPECTED} Nothing of it was run.") from error
    except (yaml.YAMLError, RecursionError, *_OF_VALUES) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path} cannot be read: {reason}. {_EXPECTED}") from error
    if not isinstance(config, TrainerConfig):
        found = "nothing" if config is None else f"a {type(config).__name__}"
        raise ValueError(f"{path} holds {found}, no config of a run. {_EXPECTED}")
    return config


class _ConfigLoader(yaml.SafeLoader):
    """Plain values of YAML, and what is registered below."""


def _refusal(node: yaml.Node, what: str) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(problem=what, problem_mark=node.start_mark)


def _named(name: str, node: yaml.Node) -> Any:
    """The class or function of a dotted name, if a config may hold it."""
    name = MOVED.get(name, name)
    module, _, attribute = name.rpartition(".")
    found = None
    if module.split(".")[0] in PACKAGES or _is_registered_estimator(module, attribute):
        try:
            found = vars(import_module(module)).get(attribute)
        except Exception as error:
            raise _refusal(node, f"{name} cannot be imported ({error})") from error
    elif module.split(".")[:2] == ["torch", "optim"]:
        found = vars(sys.modules.get(module, object)).get(attribute)
        if not (isinstance(found, type) and issubclass(found, torch.optim.Optimizer)):
            found = None
    # What a module has only imported (such as `subprocess.Popen`) belongs to another one.
    is_own = getattr(found, "__module__", None) == module
    if not is_own or not (isinstance(found, type) or name in FUNCTIONS):
        raise _refusal(node, f"it names {name}, which is refused")
    return found


def _is_registered_estimator(module: str, attribute: str) -> bool:
    """Whether an installed package offers it as an estimator of its own."""
    points = entry_points(group=ENTRY_POINT_GROUP)
    return any(point.value == f"{module}:{attribute}" for point in points)


def _name(loader: _ConfigLoader, name: str, node: yaml.Node) -> Any:
    return _named(name, node)


def _object(loader: _ConfigLoader, name: str, node: yaml.Node) -> Any:
    """A config; its fields are set and nothing is called."""
    kind = _named(name, node)
    if not (isinstance(kind, type) and is_dataclass(kind) and isinstance(node, yaml.MappingNode)):
        raise _refusal(node, f"it makes an object of {name}, which is no config class")
    given = loader.construct_mapping(node, deep=True)
    lacking = _OF_RUNS - set(given) if issubclass(kind, TrainerConfig) else ()
    values = {}
    for entry in fields(kind):
        default = entry.default
        if default is MISSING and entry.default_factory is not MISSING:
            default = entry.default_factory()
        value = given.pop(entry.name, default)
        if value is MISSING:
            raise _refusal(node, f"{name} lacks its field {entry.name}")
        if _is_config(default) and value is not None and not _is_config(value):
            found = f"{entry.name} of {name} is a {type(value).__name__}"
            raise _refusal(node, f"{found}, expected a {type(default).__name__}")
        if entry.name == "_target" and not isinstance(value, type):
            raise _refusal(node, f"_target of {name} is no class")
        if value != default and not _fits(value, _hints(kind).get(entry.name)):
            raise _refusal(node, f"{entry.name} of {name} is {value!r:.80}, of a wrong type")
        values[entry.name] = value
    if lacking:
        raise _refusal(node, f"it is cut off, or of no run: it lacks {listed(sorted(lacking))}")
    if given:
        say(f"{name} has no fields {listed(sorted(map(str, given)))}: left out.", "yellow")
    made = object.__new__(kind)
    vars(made).update(values)
    return made


@cache
def _hints(kind: type) -> dict[str, Any]:
    """Types of a config's fields; none where they cannot be told."""
    try:
        return get_type_hints(kind)
    except (NameError, TypeError):
        return {}


def _fits(value: object, hint: Any) -> bool:
    """Whether a plain value is of a field's type; what is no plain type takes anything."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, each) for each in arguments)
    if origin is Literal:
        return value in arguments
    if origin in (list, tuple, dict):
        return isinstance(value, (list, tuple) if origin in (list, tuple) else dict)
    if hint is float:
        return isinstance(value, float) or type(value) is int
    if hint is Path:
        return isinstance(value, str | Path)
    return type(value) is hint if hint in (int, bool, str, type(None)) else True


def _is_config(value: object) -> bool:
    return is_dataclass(value) and not isinstance(value, type)


def _applied(loader: _ConfigLoader, name: str, node: yaml.Node) -> Any:
    """A path or a member of an enumeration: what else would be called is refused."""
    if not isinstance(node, yaml.SequenceNode):
        raise _refusal(node, f"it calls {name}, which is refused")
    arguments = loader.construct_sequence(node, deep=True)
    if _PATHS.fullmatch(name):
        if not all(isinstance(part, str) for part in arguments):
            raise _refusal(node, f"{name} has parts that are no text")
        pure = PureWindowsPath if "Windows" in name else PurePosixPath
        return Path(pure(*arguments).as_posix())
    kind = _named(name, node)
    if isinstance(kind, type) and issubclass(kind, Enum) and len(arguments) == 1:
        return kind(arguments[0])
    raise _refusal(node, f"it calls {name}, which is refused")


def _tuple(loader: _ConfigLoader, node: yaml.Node) -> tuple:
    if not isinstance(node, yaml.SequenceNode):
        raise _refusal(node, "a tuple is no list")
    return tuple(loader.construct_sequence(node, deep=True))


_ConfigLoader.add_constructor(f"{_PYTHON}tuple", _tuple)
_ConfigLoader.add_multi_constructor(f"{_PYTHON}name:", _name)
_ConfigLoader.add_multi_constructor(f"{_PYTHON}object:", _object)
_ConfigLoader.add_multi_constructor(f"{_PYTHON}object/apply:", _applied)
