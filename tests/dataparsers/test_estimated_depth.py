"""Depth of an estimator reaches nerfstudio's datasets and this package's depth supervision."""

import copy
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from nerfstudio.configs.method_configs import all_methods
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.data.datasets.depth_dataset import DepthDataset
from PIL import Image

from fm3d_plugins.cli.process import process
from fm3d_plugins.dataparsers.estimated import EstimatedDataParserConfig
from fm3d_plugins.estimators.base import Estimator
from fm3d_plugins.geometry.pixel_map import PixelMap
from fm3d_plugins.io.transforms import read_transforms
from fm3d_plugins.synthetic_rooms.capture import DRAFT, write_sample
from fm3d_plugins.view_depth import ViewDepth

NUM_PHOTOS, WIDTH, HEIGHT = 9, 96, 72
PADDING = 3
"""Columns of the maps left of the photo."""


@dataclass(frozen=True)
class Truth(Estimator):
    """Exact cameras and depth of a synthetic capture; maps at half size, padded on the left."""

    name: ClassVar[str] = "truth"
    bias: float = 0.0
    """Added to every depth, metres."""

    def estimate(self, photos):
        root = photos.folder.parent
        scene = read_transforms(root)
        depth = torch.stack([true_depth(root, name)[::2, ::2] for name in scene.names]) + self.bias
        # Depth of the pixel whose centre lies a quarter map pixel off: near enough.
        padded = torch.nn.functional.pad(depth, (PADDING, 0))
        maps = ViewDepth(
            depth=padded.half(),
            confidence=(0.5 * (padded > 0)).half(),
            map_from_photo=PixelMap(
                torch.full((len(scene), 2), 0.5), torch.tensor([[PADDING, 0.0]] * len(scene))
            ),
        )
        return replace(scene, depth=maps)


def true_depth(root, name):
    with Image.open(root / "depth" / f"{name.removesuffix('.jpg')}.png") as image:
        return torch.from_numpy(np.array(image).astype(np.float32)) / 1000


@pytest.fixture(scope="module")
def capture(tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("capture") / "sample"
    write_sample(
        folder, num_photos=NUM_PHOTOS, width=WIDTH, height=HEIGHT, quality=DRAFT, num_threads=1
    )
    return folder


def parser_config(capture, cache, **estimator):
    return EstimatedDataParserConfig(data=capture, estimator=Truth(**estimator), cache_dir=cache)


def assert_is_true_depth(depth, truth):
    """The map holds every second pixel; half precision is good to 1 / 2048."""
    held = truth[::2, ::2].repeat_interleave(2, 0).repeat_interleave(2, 1)
    torch.testing.assert_close(depth, held, rtol=1 / 2000, atol=0)


@pytest.mark.parametrize("split", ["train", "val"])
def test_nerfstudio_reads_z_depth_in_the_frame_of_its_cameras(capture, tmp_path, split):
    outputs = parser_config(capture, tmp_path).setup().get_dataparser_outputs(split)
    dataset = DepthDataset(outputs)
    assert len(dataset) == {"train": 7, "val": 2}[split]
    for row, photo in enumerate(outputs.image_filenames):
        depth = dataset.get_data(row)["depth_image"].squeeze(-1) / outputs.dataparser_scale
        assert_is_true_depth(depth, true_depth(capture, photo.name))
        confidence = np.load(outputs.metadata["depth_confidence_filenames"][row])
        assert confidence.shape == (HEIGHT // 2, WIDTH // 2)
        assert (confidence == 0.5).all()


def test_files_are_written_once_and_another_estimate_gets_its_own(capture, tmp_path):
    def files(**estimator):
        outputs = parser_config(capture, tmp_path, **estimator).setup().get_dataparser_outputs()
        return outputs.metadata["depth_filenames"]

    first = files()
    written = [file.stat().st_mtime_ns for file in first]
    assert files() == first
    assert [file.stat().st_mtime_ns for file in first] == written
    assert not set(files(bias=1.0)) & set(first)
    assert all(file.is_relative_to(tmp_path) for file in first)


@pytest.mark.parametrize("method", ["3dgs", "nerf"])
def test_depth_supervision_takes_the_maps(capture, tmp_path, method):
    config = copy.deepcopy(all_methods[method])
    manager = config.pipeline.datamanager
    manager.data = capture
    manager.dataparser = parser_config(capture, tmp_path)
    config.pipeline.model.depth.weight = 0.5
    config.pipeline.model.camera_optimizer.mode = "off"
    if method == "nerf":
        manager.train_num_rays_per_batch = 256
        config.pipeline.model.log2_table_size = 12
        config.pipeline.model.num_levels = 4
    config.output_dir = tmp_path / "runs"
    config.max_num_iterations = 2
    config.vis = "tensorboard"
    config.logging.local_writer.enable = False
    config.set_timestamp()
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    _, losses, _ = trainer.pipeline.get_train_loss_dict(0)
    assert losses["depth_loss"].isfinite() and losses["depth_loss"] > 0


@pytest.fixture(scope="module")
def processed(capture, tmp_path_factory):
    folder = tmp_path_factory.mktemp("process")
    process(Truth(), capture, folder / "scene", cache_dir=folder / "cache")
    return folder / "scene"


def test_processed_scene_is_read_by_nerfstudio_with_its_depth(capture, processed):
    config = NerfstudioDataParserConfig(data=processed, eval_mode="all", load_3D_points=True)
    outputs = config.setup().get_dataparser_outputs("train")
    dataset = DepthDataset(outputs)
    assert len(dataset) == NUM_PHOTOS
    for row, photo in enumerate(outputs.image_filenames):
        depth = dataset.get_data(row)["depth_image"].squeeze(-1) / outputs.dataparser_scale
        assert_is_true_depth(depth, true_depth(capture, photo.name))
        confidence = np.load(processed / "depth_confidence" / f"{photo.name}.npy")
        assert (confidence == 0.5).all()


def test_processed_scene_keeps_its_cameras_beside_the_depth(capture, processed):
    found, expected = read_transforms(processed), read_transforms(capture)
    assert found.names == expected.names
    torch.testing.assert_close(found.world_from_camera, expected.world_from_camera)
