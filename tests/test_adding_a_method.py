"""The estimator and the method of docs/adding_a_method.md work as they stand there."""

import copy
import re
from importlib import import_module
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest
import torch
from nerfstudio.configs.method_configs import all_methods
from nerfstudio.utils.eval_utils import eval_setup

import fm3d_plugins
from fm3d_plugins import method_configs
from fm3d_plugins.dataparsers.estimated import EstimatedDataParserConfig
from fm3d_plugins.estimators import base
from fm3d_plugins.geometry.cameras import project
from fm3d_plugins.geometry.poses import invert, transform_points
from fm3d_plugins.photos.photo_set import find_photos
from fm3d_plugins.synthetic_rooms.capture import DRAFT, write_sample

PAGE = Path(__file__).resolve().parents[1] / "docs" / "adding_a_method.md"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The page's files in a folder, and importable."""
    folder = tmp_path_factory.mktemp("page")
    found = re.findall(r"```python\n# (\S+\.py)\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(found) == 5
    for name, code in found:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        (path.parent / "__init__.py").touch()
        path.write_text(code)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        for package, place in ((fm3d_plugins, "fm3d_plugins"), (method_configs, "method_configs")):
            patch.setattr(package, "__path__", [*package.__path__, str(folder / place)])
        yield folder


def test_entry_points_of_the_page_name_what_is_in_its_files(written):
    values = re.findall(r'^ *[\w-]+ = "([\w.]+):(\w+)"$', PAGE.read_text(), re.MULTILINE)
    assert len(values) == 2
    for module, name in values:
        assert hasattr(import_module(module), name)


@pytest.fixture(scope="module")
def capture(tmp_path_factory):
    folder = tmp_path_factory.mktemp("capture") / "sample"
    write_sample(folder, num_photos=5, width=64, height=48, quality=DRAFT, num_threads=1)
    return folder


@pytest.fixture
def turntable(written, monkeypatch):
    points = [EntryPoint("turntable", "turntable.estimator:Turntable", base.ENTRY_POINT_GROUP)]
    monkeypatch.setattr(base, "entry_points", EntryPoints(points).select)
    return base.estimator_class("turntable")


def test_estimator_of_the_page_sees_the_axis_in_the_middle_of_every_photo(turntable, capture):
    scene = turntable(elevation_degrees=30.0).find_cameras(find_photos(capture))
    axis = transform_points(invert(scene.world_from_camera), torch.zeros(5, 1, 3).double())
    torch.testing.assert_close(axis[:, 0, 2], torch.ones(5).double())  # Radius 1.
    torch.testing.assert_close(
        project(axis, scene.intrinsics)[:, 0], torch.tensor([[32.0, 24.0]]).double().repeat(5, 1)
    )
    assert bool((scene.world_from_camera[:, 2, 1] < 0).all())  # Down in the photo is down.
    torch.testing.assert_close(
        scene.world_from_camera[:, 2, 3], torch.full((5,), 0.5, dtype=torch.float64)
    )


def test_estimator_of_the_page_is_a_dataparser(turntable, capture, tmp_path):
    parser = EstimatedDataParserConfig(
        data=capture, estimator=turntable(), cache_dir=tmp_path
    ).setup()
    outputs = parser.get_dataparser_outputs("train")
    assert len(outputs.cameras) == 4
    assert len(outputs.metadata["points3D_xyz"]) == 0
    with pytest.raises(SystemExit, match="fov_degrees is 0"):
        EstimatedDataParserConfig(
            data=capture, estimator=turntable(fov_degrees=0.0), cache_dir=tmp_path
        ).setup().get_dataparser_outputs("train")


def test_method_of_the_page_trains_and_is_loaded(
    written, capture, tmp_path, train_run, monkeypatch
):
    method = import_module("fm3d_plugins.method_configs.sky").method
    monkeypatch.setitem(all_methods, "sky", method.config)  # As its entry point does.
    config = copy.deepcopy(method.config)
    config.pipeline.datamanager.data = capture
    config.output_dir, config.vis, config.max_num_iterations = tmp_path, "tensorboard", 30
    config.viewer.quit_on_train_completion = True
    config.logging.local_writer.enable = False
    config.set_timestamp()
    config.save_config()
    losses = []
    trainer = train_run(config, losses)
    # A room is no sky: after 30 steps it had fallen by an eighth.
    assert sum(losses[-4:]) < 0.95 * sum(losses[:4])
    assert config.optimizers["coefficients"]["optimizer"].lr == pytest.approx(0.02)
    _, pipeline, _, _ = eval_setup(trainer.base_dir / "config.yml", test_mode="test")
    metrics = pipeline.get_average_eval_image_metrics()
    assert metrics["psnr"] > 8.0
    assert metrics["test_poses"] == "none"
