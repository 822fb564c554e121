"""Training photos with their depth maps, as they are read from a dataset's files."""

import numpy as np
import pytest
import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.datasets.base_dataset import InputDataset
from nerfstudio.data.scene_box import SceneBox
from PIL import Image

from fm3d_plugins.geometry.cameras import opencv_from_opengl
from fm3d_plugins.one_pass.geometry.depth_views import DepthViews
from fm3d_plugins.photo_datamanager import depth_files_of

WIDTH, HEIGHT = 64, 48


def outputs(folder, *, mode="RGB", mask=None, confidence=True):
    """One photo, red in its left half and blue in its right; depth 2, at half size."""
    pixels = np.zeros((HEIGHT, WIDTH, len(mode)), np.uint8)
    pixels[:, : WIDTH // 2, 0] = pixels[:, WIDTH // 2 :, 2] = 255
    if mode == "RGBA":
        pixels[: HEIGHT // 2, :, 3] = 255
    Image.fromarray(pixels).save(folder / "a.png")
    depth = np.full((HEIGHT // 2, WIDTH // 2), 2.0, np.float32)
    depth[0, :3] = np.nan, np.inf, -1.0
    np.save(folder / "depth.npy", depth)
    np.save(folder / "confidence.npy", np.full_like(depth, 0.7))
    if mask is not None:
        Image.fromarray(mask).save(folder / "mask.png")
    pose = torch.eye(4)[None, :3].clone()
    pose[0, :, 3] = torch.tensor([1.0, 2.0, 3.0])
    size = torch.tensor([WIDTH, HEIGHT])
    return DataparserOutputs(
        image_filenames=[folder / "a.png"],
        cameras=Cameras(pose, 50.0, 52.0, 31.0, 25.0, width=int(size[0]), height=int(size[1])),
        scene_box=SceneBox(torch.tensor([[-1.0] * 3, [1.0] * 3])),
        mask_filenames=[folder / "mask.png"] if mask is not None else None,
        dataparser_scale=0.25,
        metadata={
            "depth_filenames": [folder / "depth.npy"],
            "depth_unit_scale_factor": 10.0,
            "depth_confidence_filenames": [folder / "confidence.npy"] if confidence else None,
        },
    )


def only_view(parsed):
    dataset = InputDataset(parsed)
    (view,) = DepthViews(dataset, dataset.cameras, depth_files_of(parsed))
    return view


def test_depth_is_in_scene_units_and_what_is_no_depth_is_zero(tmp_path):
    """Truth: 2 in the file times 10 per unit times the dataparser's 0.25."""
    view = only_view(outputs(tmp_path))
    assert view.depth[0, :3].tolist() == [0.0, 0.0, 0.0]
    assert view.confidence[0, :3].tolist() == [0.0, 0.0, 0.0]
    assert (view.depth[1:] == 5.0).all() and view.confidence[1:].allclose(torch.tensor(0.7))


def test_camera_is_that_of_the_map_in_opencv_axes(tmp_path):
    view = only_view(outputs(tmp_path))
    expected = torch.tensor([[25.0, 0, 15.5], [0, 26, 12.5], [0, 0, 1]])
    torch.testing.assert_close(view.intrinsics, expected)
    pose = torch.eye(4)
    pose[:3, 3] = torch.tensor([1.0, 2.0, 3.0])
    torch.testing.assert_close(view.world_from_camera, opencv_from_opengl(pose))
    assert not view.distortion.any()


def test_colours_are_means_of_the_photo_under_each_map_pixel(tmp_path):
    view = only_view(outputs(tmp_path))
    assert view.rgb.shape == (HEIGHT // 2, WIDTH // 2, 3)
    assert (view.rgb[:, : WIDTH // 4] == torch.tensor([1.0, 0, 0])).all()
    assert (view.rgb[:, WIDTH // 4 :] == torch.tensor([0.0, 0, 1])).all()


def test_masked_and_transparent_pixels_have_no_depth(tmp_path):
    mask = np.full((HEIGHT, WIDTH), 255, np.uint8)
    mask[:, :10] = 0
    view = only_view(outputs(tmp_path, mode="RGBA", mask=mask))
    assert not view.depth[:, :5].any() and not view.confidence[:, :5].any()
    assert not view.depth[HEIGHT // 4 :].any()
    assert (view.depth[1 : HEIGHT // 4, 5:] == 5.0).all()


def test_without_confidence_every_depth_is_sure(tmp_path):
    view = only_view(outputs(tmp_path, confidence=False))
    assert torch.equal(view.confidence, (view.depth > 0).float())


def test_maps_of_two_sizes_are_refused(tmp_path):
    parsed = outputs(tmp_path)
    np.save(tmp_path / "confidence.npy", np.ones((HEIGHT, WIDTH), np.float32))
    with pytest.raises(ValueError, match="Expected equal sizes"):
        only_view(parsed)


def test_absent_maps_are_named(tmp_path):
    parsed = outputs(tmp_path)
    (tmp_path / "depth.npy").unlink()
    with pytest.raises(FileNotFoundError, match=r"depth\.npy"):
        only_view(parsed)
