"""Rendering any camera from photos of any size."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from fm3d_plugins.data.views import Views
from fm3d_plugins.geometry.alignment import Similarity
from fm3d_plugins.geometry.poses import pose_from_rotation_translation, rotation_from_6d
from fm3d_plugins.geometry.rays import plucker_maps
from fm3d_plugins.lvsm.inference import PosedPhotos, ViewRenderer, render_targets
from fm3d_plugins.lvsm.network import LVSM, LVSMConfig

HEIGHT, WIDTH, FOCAL = 24, 32, 30.0


@pytest.fixture(params=["decoder-only", "encoder-decoder"])
def network(request):
    torch.manual_seed(0)
    both = {"encoder_depth": 1, "num_latents": 8} if request.param == "encoder-decoder" else {}
    made = LVSM(LVSMConfig(width=32, head_width=16, decoder_depth=2, **both))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return made.eval().requires_grad_(False)


def pinhole(width, height):
    return torch.tensor([[FOCAL, 0, width / 2], [0, FOCAL, height / 2], [0, 0, 1.0]])


@pytest.fixture
def scene():
    torch.manual_seed(1)
    poses = pose_from_rotation_translation(rotation_from_6d(torch.randn(4, 6)), torch.randn(4, 3))
    images = [torch.rand(3, HEIGHT, WIDTH) for _ in range(3)]
    return PosedPhotos(images, pinhole(WIDTH, HEIGHT).repeat(3, 1, 1), poses[:3]), poses[3:]


def render(network, photos, target, context=(0, 1), size=(HEIGHT, WIDTH), image_size=32):
    renderer = ViewRenderer(network, photos, image_size)
    return renderer.render(context, target, pinhole(size[1], size[0])[None], *size)


def test_a_render_does_not_depend_on_the_worlds_frame_and_unit(network, scene):
    """The contexts alone make the frame, so that a similarity of the world changes nothing."""
    photos, target = scene
    moved = Similarity(
        torch.tensor(2.5), rotation_from_6d(torch.randn(6)), torch.tensor([3.0, -1, 7])
    )
    elsewhere = PosedPhotos(
        photos.images, photos.intrinsics, moved.apply_to_pose(photos.world_from_camera)
    )
    expected = render(network, photos, target)
    assert expected.std() > 0.01
    torch.testing.assert_close(
        render(network, elsewhere, moved.apply_to_pose(target)), expected, atol=2e-4, rtol=0
    )


def test_targets_do_not_see_each_other(network, scene):
    photos, target = scene
    both = torch.cat([target, photos.world_from_camera[2:]])
    renderer = ViewRenderer(network, photos, 32)
    intrinsics = pinhole(WIDTH, HEIGHT).repeat(2, 1, 1)
    together = renderer.render((0, 1), both, intrinsics, HEIGHT, WIDTH)
    alone = [renderer.render((0, 1), each[None], intrinsics[:1], HEIGHT, WIDTH) for each in both]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=0)


def test_other_photos_show_and_what_is_kept_is_of_the_right_ones(network, scene):
    photos, target = scene
    renderer = ViewRenderer(network, photos, 32)
    arguments = (target, pinhole(WIDTH, HEIGHT)[None], HEIGHT, WIDTH)
    first = renderer.render((0, 1), *arguments)
    other = renderer.render((0, 2), *arguments)
    assert (first - other).abs().max() > 1e-3
    assert torch.equal(renderer.render((0, 1), *arguments), first)
    renderer.forget()
    torch.testing.assert_close(renderer.render((0, 1), *arguments), first)


@pytest.mark.parametrize("size", [(24, 32), (12, 16), (48, 64), (31, 17), (5, 200)])
def test_any_size_is_rendered_at_that_size(network, scene, size):
    pictures = render(network, *scene, size=size)
    assert pictures.shape == (1, 3, *size)
    assert pictures.isfinite().all() and pictures.min() >= 0 and pictures.max() <= 1


def test_a_larger_picture_is_the_smaller_one_enlarged(network, scene):
    """Beyond the network's size nothing new is computed: intrinsics follow the size exactly."""
    photos, target = scene
    renderer = ViewRenderer(network, photos, 32)
    small = renderer.render((0, 1), target, pinhole(WIDTH, HEIGHT)[None], HEIGHT, WIDTH)
    doubled = torch.diag(torch.tensor([2.0, 2, 1])) @ pinhole(WIDTH, HEIGHT)
    large = renderer.render((0, 1), target, doubled[None], 2 * HEIGHT, 2 * WIDTH)
    expected = interpolate(small, (2 * HEIGHT, 2 * WIDTH), mode="bilinear", antialias=True)
    torch.testing.assert_close(large, expected, atol=1e-5, rtol=0)


def test_photos_of_several_sizes_are_seen_together(network, scene):
    photos, target = scene
    images = [photos.images[0], torch.rand(3, 16, 40), photos.images[2]]
    mixed = PosedPhotos(images, photos.intrinsics, photos.world_from_camera)
    assert render(network, mixed, target, context=(0, 1, 2)).isfinite().all()


def published_frame(world_from_camera):
    """Poses as the published loader gives them, in numpy: mean axes of all, largest number 1."""
    poses = world_from_camera.double().numpy()
    center, forward = poses[:, :3, 3].mean(0), poses[:, :3, 2].mean(0)
    forward = forward / np.linalg.norm(forward)
    right = np.cross(poses[:, :3, 1].mean(0), forward)
    right = right / np.linalg.norm(right)
    down = np.cross(forward, right)
    mean = np.eye(4)
    mean[:3] = np.stack([right, down / np.linalg.norm(down), forward, center], axis=1)
    poses = np.linalg.inv(mean) @ poses
    poses[:, :3, 3] /= 1.35 * np.abs(poses[:, :3, 3]).max()
    return torch.from_numpy(poses).float()


@pytest.fixture
def views(scene):
    """Two contexts and two targets."""
    photos, target = scene
    images = torch.stack([*photos.images, torch.rand(3, HEIGHT, WIDTH)])
    poses = torch.cat([photos.world_from_camera, target])
    return Views(images, poses, pinhole(WIDTH, HEIGHT).repeat(4, 1, 1))


def test_the_published_evaluation_makes_the_frame_of_all_views(network, views):
    rays = plucker_maps(views.intrinsics, published_frame(views.world_from_camera), HEIGHT, WIDTH)[
        None
    ]
    expected = network(views.images[None, [2, 0]], rays[:, [2, 0]], rays[:, [1, 3]])[0]
    ours = render_targets(network, views, [2, 0], [1, 3])
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=0)
    moved = views.world_from_camera.clone()
    moved[3, :3, 3] += 5.0
    other = render_targets(network, replace(views, world_from_camera=moved), [2, 0], [1, 3])
    assert (other[0] - ours[0]).abs().max() > 1e-3, "a target's camera has its part in the frame"


def test_the_published_evaluation_shows_no_target(network, views):
    ours = render_targets(network, views, [0, 1], [2, 3])
    images = views.images.clone()
    images[2:] = 0
    blind = render_targets(network, replace(views, images=images), [0, 1], [2, 3])
    assert torch.equal(blind, ours)
    images[0] = 0
    other = render_targets(network, replace(views, images=images), [0, 1], [2, 3])
    assert not torch.equal(other, ours)
