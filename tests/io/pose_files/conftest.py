"""One rig of cameras that are known exactly, and the oracle that every reader must return them."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fm3d_plugins.geometry.cameras import denormalize, distort, intrinsics_matrix
from fm3d_plugins.geometry.poses import invert, se3_exp, transform_points

NAMES = ("IMG_0001.jpg", "IMG_0002.jpg", "b c.jpg", "ünï.jpg")
WIDTH, HEIGHT = 640, 480


def make_rig():
    """Poses (OpenCV, world from camera), lenses, and points before all cameras; float64."""
    generator = torch.Generator().manual_seed(3)
    twists = 0.4 * torch.randn(len(NAMES), 6, generator=generator, dtype=torch.float64)
    points = torch.randn(12, 3, generator=generator, dtype=torch.float64)
    points[:, 2] += 6
    poses = se3_exp(twists)
    return SimpleNamespace(
        names=NAMES,
        size=(WIDTH, HEIGHT),
        poses=poses,
        camera_from_world=invert(poses),
        points=points,
        colors=torch.randint(0, 256, (12, 3), generator=generator, dtype=torch.uint8),
        focals=500 + torch.arange(len(NAMES), dtype=torch.float64),
        middle=(331.5, 236.25),
    )


@pytest.fixture
def rig():
    return make_rig()


@pytest.fixture
def opengl(rig):
    """The same poses with OpenGL axes (y up, z backward) of the cameras."""
    return rig.poses @ torch.diag(torch.tensor([1.0, -1, -1, 1], dtype=torch.float64))


def normalized(rig, row):
    """Image-plane coordinates of the rig's points in a camera, OpenCV axes; NumPy."""
    here = transform_points(rig.camera_from_world[row], rig.points).numpy()
    assert (here[:, 2] > 0).all()
    return here[:, 0] / here[:, 2], here[:, 1] / here[:, 2]


def expect_poses(found, rig, names=None):
    """Poses are the rig's to 1e-6, under the names that the file has."""
    assert list(found.names) == list(names or rig.names)
    torch.testing.assert_close(found.world_from_camera, rig.poses, atol=1e-6, rtol=0)


def expect_pixels(found, rig, formula, size=None):
    """Points fall on the pixels that the format's own formula gives.

    Args:
        formula: Pixels [point] of x and of y from (row, x, y) on the image plane.
    """
    for row in range(len(found)):
        x, y = normalized(rig, row)
        expected = np.stack(formula(row, x, y), axis=-1)
        plane = torch.from_numpy(np.stack([x, y], axis=-1))
        width, height = size or found.image_sizes[row].tolist()
        middle = found.principal_points[row]
        if middle.isnan().any():
            middle = torch.tensor([width / 2, height / 2], dtype=torch.float64)
        matrix = intrinsics_matrix(*found.focals[row], *middle)
        pixels = denormalize(distort(plane, found.distortion[row]), matrix)
        np.testing.assert_allclose(pixels.numpy(), expected, atol=1e-6)


@pytest.fixture
def expect():
    """The functions above, as test files cannot import from each other."""
    return SimpleNamespace(poses=expect_poses, pixels=expect_pixels, normalized=normalized)
