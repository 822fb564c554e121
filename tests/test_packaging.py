"""The distribution holds every module, and its entry points load."""

from importlib.metadata import entry_points
from pathlib import Path

try:
    import tomllib
except ImportError:  # Python 3.10, where pytest brings the same as a package.
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]


def test_every_folder_with_modules_is_a_listed_package():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for path in (ROOT / "fm3d_plugins").rglob("*.py")
    }
    mapped = {name for name, folder in settings["package-dir"].items() if (ROOT / folder).is_dir()}
    assert set(settings["packages"]) == folders | mapped


def test_every_entry_point_is_installed_and_of_the_kind_that_its_reader_accepts():
    """nerfstudio passes over anything else with a warning."""
    from nerfstudio.plugins.registry_dataparser import DataParserSpecification
    from nerfstudio.plugins.types import MethodSpecification

    from fm3d_plugins.estimators.base import ENTRY_POINT_GROUP, Estimator

    accepted = {
        "nerfstudio.method_configs": lambda found: isinstance(found, MethodSpecification),
        "nerfstudio.dataparser_configs": lambda found: isinstance(found, DataParserSpecification),
        ENTRY_POINT_GROUP: lambda found: issubclass(found, Estimator),
        "console_scripts": callable,
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {**project["entry-points"], "console_scripts": project["scripts"]}
    assert set(declared) >= {
        "nerfstudio.method_configs",
        "nerfstudio.dataparser_configs",
        "console_scripts",
    }
    for group, points in declared.items():
        installed = {
            point.name: point.value
            for point in entry_points(group=group)
            if point.value.startswith("fm3d_plugins.")
        }
        assert installed == points, f"{group}: install the package again"
        for point in entry_points(group=group):
            if point.name in points:
                assert accepted[group](point.load()), point


def test_every_method_and_every_estimator_has_an_entry_point():
    from nerfstudio.configs.dataparser_configs import all_dataparsers
    from nerfstudio.configs.method_configs import all_methods

    from fm3d_plugins.estimators.base import estimator_names

    own = {
        name: config
        for name, config in all_methods.items()
        if type(config).__module__.startswith("fm3d_plugins.")
    }
    modules = {path.stem for path in (ROOT / "method_configs").glob("*.py")}
    modules -= {"__init__", "one_pass", "network_training"}  # What several methods share.
    named = {
        point.value.partition(":")[0].rpartition(".")[2]
        for point in entry_points(group="nerfstudio.method_configs")
        if point.value.startswith("fm3d_plugins.")
    }
    assert named == modules
    assert all(name == config.method_name for name, config in own.items())
    assert len(own) >= len(modules)
    assert set(estimator_names()) <= set(all_dataparsers)
