"""The distribution holds every module, and its entry points load."""

from importlib.metadata import entry_points
from pathlib import Path

import pytest

try:
    import tomllib
except ImportError:  # Python 3.10
    tomllib = None

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.skipif(tomllib is None, reason="needs tomllib (Python 3.11 or newer)")
def test_every_folder_with_modules_is_a_listed_package():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for path in (ROOT / "fm3d_plugins").rglob("*.py")
    }
    mapped = {name for name, folder in settings["package-dir"].items() if (ROOT / folder).is_dir()}
    assert set(settings["packages"]) == folders | mapped


def test_entry_points_are_instances_that_nerfstudio_accepts():
    """nerfstudio passes over anything else with a warning."""
    from nerfstudio.plugins.registry_dataparser import DataParserSpecification
    from nerfstudio.plugins.types import MethodSpecification

    expected = {
        "nerfstudio.method_configs": MethodSpecification,
        "nerfstudio.dataparser_configs": DataParserSpecification,
    }
    found = 0
    for group, kind in expected.items():
        for point in entry_points(group=group):
            if point.value.startswith("fm3d_plugins."):
                assert isinstance(point.load(), kind), point
                found += 1
    assert found >= 2
