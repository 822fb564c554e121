"""Imports point one way: a block may use only the blocks before it, and modules form no circle."""

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "fm3d_plugins"
OUTSIDE = ("dataparsers", "method_configs")
"""Folders beside the package that are installed under it."""

ORDER = [
    "errors",
    "files",
    "disk_space",
    "overwriting",
    "atomic",
    "cache_folder",
    "compatibility",
    "memory",
    "progress",
    "panels",
    "geometry",
    "photos",
    "view_depth",
    "scene",
    "io",
    "nn",
    "kernels",
    "checkpoints",
    "backends",
    "synthetic_rooms",
    "effort",
    "nerfstudio_commands",
    "nerfstudio_cameras",
    "parsed_scenes",
    "scene_points",
    "input_checks",
    "undistortion",
    "camera_photos",
    "dense_points",
    "backgrounds",
    "random_points",
    "photo_datamanager",
    "running",
    "training",
    "scene_training",
    "viewer",
    "exposure",
    "camera_optimization",
    "surfaces",
    "depth_supervision",
    "data",
    "one_pass",
    "network_training",
    "cell_matching",
    "gaussian_splatting",
    "nerf",
    "vggt",
    "dust3r",
    "lvsm",
    "rayzer",
    "estimators",
    "dataparsers",
    "cli",
    "method_configs",
]
METHODS = {"dust3r", "gaussian_splatting", "lvsm", "nerf", "rayzer", "vggt"}
"""A method never imports another method."""


def sources():
    """Every module by its dotted name."""
    for folder in (PACKAGE, *(ROOT / name for name in OUTSIDE)):
        for path in folder.rglob("*.py"):
            parts = path.relative_to(folder.parent).with_suffix("").parts
            if any((folder / part).is_symlink() for part in parts[1:2]):
                continue
            name = ".".join(parts).removesuffix(".__init__")
            yield name if folder == PACKAGE else f"fm3d_plugins.{name}", path


MODULES = dict(sources())


def imported(path):
    """Modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports by a relative name"
            inner = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from ((each if each in MODULES else node.module) for each in inner)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def block(module):
    name = module.split(".")[1] if "." in module else None
    return "cli" if name == "__main__" else name


@pytest.mark.parametrize(
    ("line", "module"),
    [
        ("from fm3d_plugins.nn import linear", "fm3d_plugins.nn.linear"),
        ("from fm3d_plugins.nn.linear import Linear", "fm3d_plugins.nn.linear"),
        ("def f():\n    import fm3d_plugins.nn.linear as x", "fm3d_plugins.nn.linear"),
        ("from fm3d_plugins import dataparsers", "fm3d_plugins.dataparsers"),
    ],
)
def test_every_form_of_import_is_seen(line, module, tmp_path):
    path = tmp_path / "module.py"
    path.write_text(line)
    assert list(imported(path)) == [module]


def test_every_block_has_its_place():
    assert {block(name) for name in MODULES} - {None} == set(ORDER)


def test_imports_point_towards_earlier_blocks():
    wrong = []
    for name, path in MODULES.items():
        for used in imported(path):
            if block(name) is None or not used.startswith("fm3d_plugins."):
                continue
            here, there = block(name), block(used)
            is_upward = ORDER.index(there) > ORDER.index(here)
            if is_upward or ({here, there} <= METHODS and here != there):
                wrong.append(f"{name} imports {used}")
    assert not wrong, wrong


def test_modules_import_each_other_in_no_circle():
    graph = {
        name: {used for used in imported(path) if used in MODULES and used != name}
        for name, path in MODULES.items()
    }
    # A circle raises CycleError, which names it.
    assert len(list(TopologicalSorter(graph).static_order())) == len(MODULES)


def test_the_document_shows_the_same_order():
    text = (ROOT / "docs" / "architecture.md").read_text()
    table = text[text.index("| block |") : text.index("## The types")]
    first_cells = [line.split("|")[1] for line in table.splitlines()[2:] if line.startswith("|")]
    named = re.findall(r"`([a-z_0-9]+)(?:/|\.py)`", " ".join(first_cells))
    assert named == ORDER


def test_axes_are_converted_where_the_conventions_say():
    text = (ROOT / "docs" / "conventions.md").read_text()
    pair = ("opengl_from_opencv", "opencv_from_opengl")
    callers = {
        path.relative_to(ROOT).as_posix().removeprefix("fm3d_plugins/")
        for path in MODULES.values()
        if any(name in path.read_text() for name in pair)
    } - {"geometry/cameras.py"}
    paragraph = text[text.index("Four modules call it") : text.index("* Quaternions")]
    assert callers == set(re.findall(r"`([\w/]+\.py)`", paragraph))


def test_top_level_folders_are_never_imported_by_their_bare_names():
    bare = [
        name
        for name, path in MODULES.items()
        for used in imported(path)
        if used.split(".")[0] in OUTSIDE
    ]
    assert not bare
