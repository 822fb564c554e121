"""Imports point one way: a block may use only the blocks before it."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "fm3d_plugins"

LAYERS = [
    {"atomic", "cache_folder", "compatibility", "errors", "memory", "progress"},
    {"geometry", "photos", "scene", "io"},
    {
        "backends",
        "camera_optimization",
        "checkpoints",
        "depth_supervision",
        "one_pass",
        "photo_datamanager",
        "input_checks",
        "kernels",
        "nerfstudio_cameras",
        "nn",
        "synthetic_rooms",
        "training",
        "viewer",
    },
    {"dust3r", "gaussian_splatting", "nerf", "vggt"},
    {"estimators"},
    {"dataparsers", "cli"},
    {"method_configs"},
]
METHODS = {"dust3r", "gaussian_splatting", "nerf", "vggt"}
"""A method never imports another method."""


def sources():
    for folder, name in (
        (PACKAGE, None),
        (ROOT / "dataparsers", "dataparsers"),
        (ROOT / "method_configs", "method_configs"),
    ):
        for path in folder.rglob("*.py"):
            block = name or path.relative_to(folder).parts[0].removesuffix(".py")
            if block != "__init__":
                yield path, block


def imported_blocks(path):
    for node in ast.walk(ast.parse(path.read_text())):
        modules = []
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            modules = [node.module]
            if node.module == "fm3d_plugins":
                modules = [f"fm3d_plugins.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        for module in modules:
            parts = module.split(".")
            if parts[0] == "fm3d_plugins" and len(parts) > 1:
                yield parts[1]


def level(block):
    return next(i for i, layer in enumerate(LAYERS) if block in layer)


def test_every_module_belongs_to_a_layer():
    assert {block for _, block in sources()} == set().union(*LAYERS)


def test_imports_point_towards_lower_layers():
    upward = [
        f"{path.relative_to(ROOT)} imports {used}"
        for path, block in sources()
        for used in imported_blocks(path)
        if level(used) > level(block) or (used in METHODS and block in METHODS and used != block)
    ]
    assert not upward, upward


def test_top_level_folders_are_never_imported_by_their_bare_names():
    bare = [
        str(path)
        for path, _ in sources()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom)
        and (node.module or "").split(".")[0] in ("dataparsers", "method_configs")
    ]
    assert not bare
