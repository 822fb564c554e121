"""Cameras between those of photos."""

import math

import pytest
import torch

from fm3d_plugins.geometry.cameras import intrinsics_matrix
from fm3d_plugins.geometry.poses import pose_from_rotation_translation, so3_exp
from fm3d_plugins.lvsm.between import cameras_between
from fm3d_plugins.lvsm.inference import PosedPhotos

PATCH = 8


def photos_at(*positions, turns=None, sizes=None):
    """Photos on the x axis, each turned about the y axis; sizes are rows and columns."""
    count = len(positions)
    centers = torch.zeros(count, 3)
    centers[:, 0] = torch.tensor(positions)
    rotations = torch.zeros(count, 3)
    rotations[:, 1] = torch.tensor(turns or [0.0] * count)
    sizes = sizes or [(48, 64)] * count
    numbers = torch.tensor([[w, w + 1.0, w / 2, h / 2] for h, w in sizes])
    return PosedPhotos(
        [torch.zeros(3, *size) for size in sizes],
        intrinsics_matrix(*numbers.unbind(-1)),
        pose_from_rotation_translation(so3_exp(rotations), centers),
    )


def test_each_camera_goes_where_the_gap_is_widest():
    """Gaps 1 and 2.2: into the wide one (2.2), again into it (1.1), then into the other (0.73)."""
    for count, expected in ((1, [2.1]), (3, [0.5, 1 + 2.2 / 3, 1 + 4.4 / 3])):
        found = cameras_between(photos_at(0.0, 3.2, 1.0), count, 64, PATCH)
        places = sorted(found.world_from_camera[:, 0, 3].tolist())
        assert places == pytest.approx(expected, abs=1e-5)
        assert found.sizes.tolist() == [[64, 48]] * count


def test_half_way_is_half_of_the_turn():
    found = cameras_between(photos_at(0.0, 2.0, turns=[0.0, 1.0]), 1, 64, PATCH)
    expected = photos_at(1.0, turns=[0.5]).world_from_camera
    torch.testing.assert_close(found.world_from_camera, expected, atol=1e-6, rtol=0)


def test_lens_and_aspect_ratio_are_the_first_photos():
    photos = photos_at(0.0, 1.0, sizes=[(30, 60), (60, 30)])
    found = cameras_between(photos, 2, 32, PATCH)
    assert found.sizes.tolist() == [[32, 16]] * 2
    scale = torch.tensor([32 / 60, 16 / 30, 1.0])[:, None]
    for lens in found.intrinsics:
        torch.testing.assert_close(lens, scale * photos.intrinsics[0])


def test_a_circle_is_not_cut_across():
    """Photos on a circle: every new camera is near it, none in its middle."""
    angles = torch.arange(12) * (2 * math.pi / 12)
    turns = torch.zeros(12, 3)
    turns[:, 1] = angles
    centers = torch.stack([angles.sin(), torch.zeros(12), -angles.cos()], dim=-1)
    given = photos_at(*[0.0] * 12)
    poses = pose_from_rotation_translation(so3_exp(-turns), centers)
    found = cameras_between(PosedPhotos(given.images, given.intrinsics, poses), 30, 64, PATCH)
    # The middle of a chord of 30 degrees is cos(15 degrees) from the centre.
    assert found.world_from_camera[:, :3, 3].norm(dim=-1).min() > math.cos(math.pi / 12) - 1e-4


@pytest.mark.parametrize("positions", [(0.0,), (1.0, 1.0)])
def test_photos_of_one_camera_have_nothing_between_them(positions):
    with pytest.raises(ValueError, match=r"not taken from two places.*at least 2 photos"):
        cameras_between(photos_at(*positions), 3, 64, PATCH)
