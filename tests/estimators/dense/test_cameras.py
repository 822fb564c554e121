"""Cameras from a network's say: focal lengths that photos share, and cameras that are known."""

import math

import pytest
import torch

from fm3d_plugins.estimators.dense.cameras import (
    known_cameras,
    mended_focals,
    photo_focals,
    respect_known,
    settle_cameras,
)
from fm3d_plugins.geometry.alignment import Similarity
from fm3d_plugins.geometry.pixel_map import PixelMap
from fm3d_plugins.geometry.poses import se3_exp, so3_exp
from fm3d_plugins.scene import SceneGeometry


def poses(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return se3_exp(torch.randn(count, 6, generator=generator, dtype=torch.float64))


def scene(names, sizes, world_from_camera, focals):
    count = len(names)
    intrinsics = torch.eye(3, dtype=torch.float64).repeat(count, 1, 1)
    intrinsics[:, 0, 0] = intrinsics[:, 1, 1] = torch.tensor(focals, dtype=torch.float64)
    intrinsics[:, :2, 2] = torch.tensor(sizes, dtype=torch.float64) / 2 + 3
    return SceneGeometry(
        names=tuple(names),
        image_sizes=torch.tensor(sizes),
        world_from_camera=world_from_camera,
        intrinsics=intrinsics,
        distortion=torch.full((count, 6), 0.01, dtype=torch.float64),
        camera_index=torch.arange(count),
        points=torch.zeros(0, 3),
        point_colors=torch.zeros(0, 3, dtype=torch.uint8),
        point_confidence=torch.zeros(0),
    )


def test_absurd_fields_of_view_take_the_median_of_the_others():
    """518 px: focal lengths 400, 600 and 500 are cameras, infinity, 5 and -300 are none."""
    intrinsics = torch.eye(3).repeat(6, 1, 1)
    focals = torch.tensor([400.0, math.inf, 600.0, 5.0, 500.0, -300.0])
    intrinsics[:, 0, 0] = intrinsics[:, 1, 1] = focals
    mended, fine = mended_focals(intrinsics, 518)
    assert fine.tolist() == [True, False, True, False, True, False]
    assert mended[:, 0, 0].tolist() == [400, 500, 600, 500, 500, 500]
    assert torch.equal(mended[:, 1, 1], mended[:, 0, 0])
    with pytest.raises(ValueError, match="none of 1 photos"):
        mended_focals(intrinsics[1:2], 518)


def test_focal_lengths_in_photo_pixels_are_the_geometric_mean_of_both_axes():
    intrinsics = torch.eye(3).repeat(2, 1, 1)
    intrinsics[:, 0, 0], intrinsics[:, 1, 1] = 200.0, 800.0
    scale, offset = torch.tensor([[0.5, 0.5], [0.5, 2.0]]), torch.tensor([[9.0, 9.0], [0.0, 0.0]])
    maps = PixelMap(scale, offset)
    # sqrt(400 x 1600) and sqrt(400 x 400).
    assert photo_focals(intrinsics, maps).tolist() == pytest.approx([800, 400])


def test_photos_of_a_group_share_the_median_focal_length_and_their_depth_follows():
    sizes = [(640, 480)] * 3 + [(1280, 960)]
    focals = torch.tensor([500.0, 520.0, 600.0, 900.0], dtype=torch.float64)
    given = poses(4)
    cameras = settle_cameras(given, focals, sizes, [0, 0, 0, 1])
    settled = cameras.intrinsics[:, 0, 0]
    assert settled.tolist() == pytest.approx([520, 520, 520, 900])
    assert torch.equal(cameras.intrinsics[:, 1, 1], settled)
    assert cameras.intrinsics[3, :2, 2].tolist() == [640, 480]
    # focal / depth, what the network has seen of parallax, stays.
    torch.testing.assert_close(settled / cameras.depth_scale, focals)
    assert torch.equal(cameras.world_from_camera, given)


def test_a_known_focal_length_is_taken_for_the_largest_photo_and_scaled_for_others():
    sizes = [(640, 480), (320, 240)]
    focals = torch.tensor([500.0, 260.0], dtype=torch.float64)
    cameras = settle_cameras(poses(2), focals, sizes, [0, 1], focal_length=600.0)
    assert cameras.intrinsics[:, 0, 0].tolist() == pytest.approx([600, 300])
    assert "600" in cameras.notes[0]


def test_known_poses_are_kept_and_all_others_follow_by_one_similarity():
    """Truth: the network is right but for a similarity, so all poses come out as they are."""
    truth = poses(6, seed=1)
    tilt = so3_exp(torch.tensor([0.3, -0.2, 0.9], dtype=torch.float64))
    shift = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    network_from_truth = Similarity(torch.tensor(0.25, dtype=torch.float64), tilt, shift)
    seen = network_from_truth.apply_to_pose(truth)
    names = [f"{row}.jpg" for row in range(6)]
    sizes = [(640, 480)] * 6
    focals = torch.full((6,), 500.0, dtype=torch.float64)
    given = scene(["4.jpg", "0.jpg", "sub/2.jpg", "x.jpg"], sizes[:4],
                  torch.stack([truth[4], truth[0], truth[2], truth[3]]), [550.0] * 4)  # fmt: skip
    known = known_cameras(given, names, sizes, "given.json")
    cameras = respect_known(settle_cameras(seen, focals, sizes, [0] * 6), known)
    torch.testing.assert_close(cameras.world_from_camera, truth, atol=1e-9, rtol=0)
    for row in (0, 2, 4):
        assert torch.equal(cameras.world_from_camera[row], truth[row])
        assert cameras.intrinsics[row, 0, 0] == 550 and cameras.intrinsics[row, 0, 2] == 323
        assert cameras.distortion[row, 0] == 0.01
        # The similarity's 4, and 550 / 500 for the longer focal length.
        assert float(cameras.depth_scale[row]) == pytest.approx(4.4)
    assert cameras.intrinsics[1, 0, 0] == 500
    assert float(cameras.depth_scale[1]) == pytest.approx(4)
    assert "Aligned to 3 given poses" in cameras.notes[-1]


def test_known_intrinsics_alone_leave_the_poses_as_seen():
    names, sizes = ["a.jpg", "b.jpg"], [(320, 240)] * 2
    seen = poses(2)
    given = scene(["b.jpg"], [(640, 480)], poses(1, seed=3), [600.0])
    known = known_cameras(given, names, sizes, "given.json")
    focals = torch.full((2,), 250.0, dtype=torch.float64)
    cameras = settle_cameras(seen, focals, sizes, [0, 0])
    cameras = respect_known(cameras, known, use_poses=False)
    assert torch.equal(cameras.world_from_camera, seen)
    # A photo of half the size has half the focal length.
    assert cameras.intrinsics[:, 0, 0].tolist() == [250, 300]


def test_known_cameras_of_other_photos_or_formats_are_refused():
    given = scene(["b.jpg"], [(640, 480)], poses(1), [600.0])
    with pytest.raises(ValueError, match="none of which is among"):
        known_cameras(given, ["c.jpg"], [(640, 480)], "given.json")
    with pytest.raises(ValueError, match="same photo or a scaled copy"):
        known_cameras(given, ["b.jpg"], [(480, 640)], "given.json")
