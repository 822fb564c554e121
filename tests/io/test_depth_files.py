"""Depth maps as files that cover exactly their photos."""

import dataclasses

import numpy as np
import pytest
import torch

from fm3d_plugins.geometry.pixel_map import PixelMap
from fm3d_plugins.io.depth_files import NERFSTUDIO_UNIT, depth_digest, write_depth_maps
from fm3d_plugins.scene import SceneGeometry
from fm3d_plugins.view_depth import ViewDepth

WIDTH, HEIGHT = 64, 48


def scene(dtype=torch.float32, **changes):
    """Two views whose maps hold the photo at half its size with 3 columns of padding left."""
    depth = torch.rand(2, HEIGHT // 2, WIDTH // 2 + 3, generator=torch.Generator().manual_seed(0))
    values = dict(
        names=("a.jpg", "a.png"),
        image_sizes=torch.tensor([[WIDTH, HEIGHT]] * 2),
        world_from_camera=torch.eye(4).repeat(2, 1, 1),
        intrinsics=torch.eye(3).repeat(2, 1, 1),
        distortion=torch.zeros(2, 6),
        camera_index=torch.zeros(2, dtype=torch.long),
        points=torch.zeros(0, 3),
        point_colors=torch.zeros(0, 3, dtype=torch.uint8),
        point_confidence=torch.zeros(0),
        depth=ViewDepth(
            (1 + depth).to(dtype),
            depth.to(dtype),
            PixelMap(torch.full((2, 2), 0.5), torch.tensor([[3.0, 0.0]] * 2)),
        ),
    )
    return SceneGeometry(**{**values, **changes})


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_files_hold_the_map_without_its_padding(tmp_path, dtype):
    original = scene(dtype)
    files = write_depth_maps(original, tmp_path)
    # Photos of one stem have files of their own.
    assert len({*files.depths.values(), *files.confidences.values()}) == 4
    for view, name in enumerate(original.names):
        for file, maps in (
            (files.depths[name], original.depth.depth),
            (files.confidences[name], original.depth.confidence),
        ):
            stored = np.load(file)
            assert stored.dtype == (np.float16 if dtype == torch.float16 else np.float32)
            np.testing.assert_array_equal(stored, maps[view, :, 3:].numpy())


def test_a_unit_divides_depth_alone(tmp_path):
    original = scene(torch.float16)
    files = write_depth_maps(original, tmp_path, unit=NERFSTUDIO_UNIT)
    expected = original.depth.depth[1, :, 3:].float() * 1000
    np.testing.assert_allclose(np.load(files.depths["a.png"]), expected.numpy(), rtol=1e-6)
    np.testing.assert_array_equal(
        np.load(files.confidences["a.png"]), original.depth.confidence[1, :, 3:].numpy()
    )


def test_files_that_exist_are_kept(tmp_path):
    files = write_depth_maps(scene(), tmp_path)
    before = files.depths["a.jpg"].stat().st_mtime_ns
    files.depths["a.png"].unlink()
    write_depth_maps(scene(), tmp_path)
    assert files.depths["a.jpg"].stat().st_mtime_ns == before
    assert files.depths["a.png"].is_file()


def damaged_maps(path):
    """What becomes of a file of the cache, one after the other."""
    whole = path.read_bytes()
    yield whole[: len(whole) // 2]
    yield whole[:20]
    yield b""
    yield b"\x93NUMPY\x01\x00\x10\x00{'descr': 5......."
    yield b"PK\x03\x04 no archive"
    for values in (
        np.full((HEIGHT // 2, WIDTH // 2), np.nan, np.float32),
        np.full((HEIGHT // 2, WIDTH // 2), -1.0, np.float32),
        np.ones((3, 3), np.float32),
        np.ones(5, np.float32),
        np.array(1.0),
    ):
        np.save(path, values)
        yield path.read_bytes()


@pytest.mark.parametrize("kind", ["depths", "confidences"])
def test_files_that_cannot_be_used_are_written_anew(tmp_path, kind, capsys):
    path = getattr(write_depth_maps(scene(), tmp_path), kind)["a.png"]
    whole = path.read_bytes()
    for content in damaged_maps(path):
        path.write_bytes(content)
        capsys.readouterr()
        write_depth_maps(scene(), tmp_path)
        assert path.read_bytes() == whole
        assert f"{path} is not used and made anew" in capsys.readouterr().out
    np.save(path, np.full((HEIGHT // 2, WIDTH // 2), 2.0, np.float32))
    write_depth_maps(scene(), tmp_path)
    # A depth of 2 is one; a confidence of 2 is none.
    assert (path.read_bytes() == whole) == (kind == "confidences")


def test_digest_tells_other_depths_and_other_photos_apart():
    original = scene()
    assert depth_digest(original) == depth_digest(scene())
    nudged = original.depth.depth.clone()
    nudged[1, 0, 0] += 1e-3
    others = (
        scene(names=("a.jpg", "b.png")),
        scene(image_sizes=torch.tensor([[WIDTH, HEIGHT], [HEIGHT, WIDTH]])),
        scene(depth=dataclasses.replace(original.depth, depth=nudged)),
    )
    assert len({depth_digest(original), *map(depth_digest, others)}) == 4


def test_a_scene_without_depth_is_refused(tmp_path):
    with pytest.raises(ValueError, match="estimator that gives depth"):
        write_depth_maps(scene(depth=None), tmp_path)
