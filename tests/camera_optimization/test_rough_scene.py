"""Cameras that a rough scene puts right, by photos of blobs whose cameras are known."""

import pytest
import torch

from fm3d_plugins.camera_optimization.held_out_poses import training_cameras
from fm3d_plugins.camera_optimization.pixel_units import align_in_pixels
from fm3d_plugins.camera_optimization.rough_scene import (
    FEWEST_STEPS,
    SIDE,
    VISITS,
    SmallPhotos,
    num_steps,
    settle_cameras,
    small_photos,
)
from fm3d_plugins.camera_photos import CameraPhotos
from fm3d_plugins.geometry.poses import invert, so3_exp, so3_log
from fm3d_plugins.kernels.rasterizer import rasterize
from fm3d_plugins.nerfstudio_cameras import intrinsics_matrices, opengl_rows, world_from_cameras

STEPS = 300


def photos_of_blobs(cameras):
    """Of 80 coloured balls within half a unit from the origin, before grey."""
    generator = torch.Generator().manual_seed(0)
    poses, intrinsics = world_from_cameras(cameras), intrinsics_matrices(cameras)
    means = torch.rand(80, 3, generator=generator) - 0.5
    colors = 3 * torch.rand(80, 1, 3, generator=generator) - 1.5
    images = [
        rasterize(
            means,
            torch.tensor([1.0, 0, 0, 0]).repeat(80, 1),
            torch.full((80, 3), 0.07),
            torch.full((80,), 0.95),
            colors,
            invert(poses[view]),
            intrinsics[view],
            width=96,
            height=72,
            sh_degree=0,
            background=torch.full((3,), 0.5),
        ).rgb.clamp(0, 1)
        for view in range(len(cameras))
    ]
    return SmallPhotos(images, [None] * len(images), intrinsics, poses, 1.0)


def disturbed(cameras, pixels):
    """Cameras whose pictures are off by so many pixels, by turns."""
    generator = torch.Generator().manual_seed(1)
    turns = torch.randn(len(cameras), 3, generator=generator)
    turns *= pixels / float(cameras.fx[0]) / turns.norm(dim=-1, keepdim=True)
    poses = world_from_cameras(cameras).clone()
    poses[:, :3, :3] = so3_exp(turns) @ poses[:, :3, :3]
    moved = cameras[:]
    moved.camera_to_worlds = opengl_rows(poses)
    return moved


def pixels_off(cameras, optimizer, truth):
    """Mean error of cameras in units of about one pixel, but for a similarity of all of them."""
    found = training_cameras(cameras, optimizer)
    truth = world_from_cameras(truth).double()
    placed = align_in_pixels(found.optimised, truth, found.motions).apply_to_pose(found.optimised)
    turns = so3_log(truth[:, :3, :3] @ placed[:, :3, :3].mT)
    error = torch.cat([truth[:, :3, 3] - placed[:, :3, 3], turns], dim=-1)[..., None]
    return float((torch.linalg.inv(found.motions.double()) @ error).norm(dim=(1, 2)).mean())


@pytest.fixture
def cameras(ring):
    return ring(count=12, width=96, height=72, focal=80.0)


def test_cameras_that_are_off_by_pixels_come_twice_as_near(cameras, make_optimizer):
    """Truth: the cameras that the photos were rendered from."""
    photos = photos_of_blobs(cameras)
    wrong = disturbed(cameras, 4.0)
    seen = SmallPhotos(
        photos.images, photos.masks, photos.intrinsics, world_from_cameras(wrong), 1.0
    )
    optimizer = make_optimizer(wrong)
    before = pixels_off(wrong, optimizer, cameras)
    moved = settle_cameras(optimizer, seen, STEPS, torch.Generator().manual_seed(0))
    assert before > 2
    assert moved > 1
    assert pixels_off(wrong, optimizer, cameras) < before / 2


def test_exact_cameras_stay_exactly_as_they_are(cameras, make_optimizer):
    optimizer = make_optimizer(cameras)
    state = torch.get_rng_state()
    moved = settle_cameras(
        optimizer, photos_of_blobs(cameras), STEPS, torch.Generator().manual_seed(0)
    )
    assert moved == 0.0
    assert not any(parameter.any() for parameter in optimizer.parameters())
    # A run's random numbers are those of one without a rough scene.
    assert torch.equal(state, torch.get_rng_state())


def test_steps_follow_photos_between_a_least_number_and_the_run():
    assert num_steps(2, 10_000) == FEWEST_STEPS
    assert num_steps(1000, 100_000) == 1000 * VISITS
    assert num_steps(1000, 60) == 60


class Pinholes(CameraPhotos):
    """Photos from memory."""

    def __init__(self, cameras, entries):
        self.cameras, self.entries = cameras, entries

    def __len__(self):
        return len(self.entries)

    def get_data(self, image_idx, image_type="float32"):
        assert image_type == "uint8"
        return self.entries[image_idx]


def test_small_photos_keep_their_fields_of_view_and_masks(ring):
    cameras = ring(count=2, width=4 * SIDE, height=2 * SIDE, focal=300.0)
    image = torch.zeros(2 * SIDE, 4 * SIDE, 3, dtype=torch.uint8)
    image[:, : 2 * SIDE] = 255
    mask = torch.ones(2 * SIDE, 4 * SIDE, 1, dtype=torch.bool)
    mask[SIDE:] = False
    entries = [{"image": image, "mask": mask}, {"image": image}]
    small = small_photos(Pinholes(cameras, entries))
    assert small.shrinking == 4
    assert small.images[0].shape == (SIDE // 2, SIDE, 3)
    assert torch.equal(small.images[0][0, :, 0], (torch.arange(SIDE) < SIDE // 2).float())
    assert small.masks[0].flatten(1).mean(-1).tolist() == [1.0] * (SIDE // 4) + [0.0] * (SIDE // 4)
    assert small.masks[1] is None
    # fx 300, fy 330, and the middle of 480 x 240, over four.
    expected = torch.tensor([[75.0, 0, 60], [0, 82.5, 30], [0, 0, 1]]).repeat(2, 1, 1)
    torch.testing.assert_close(small.intrinsics, expected)
