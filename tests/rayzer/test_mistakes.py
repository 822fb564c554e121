"""The golden comparison finds mistakes: each of these leaves every shape as it is."""

import pytest
import torch
from torch import nn

from fm3d_plugins.geometry import rays
from fm3d_plugins.nn.attention import SelfAttention
from fm3d_plugins.rayzer import cameras
from fm3d_plugins.rayzer import network as rayzer

GOLDEN_FILES = "rayzer_tiny_*.json"


def focal_length_of_one(network, patch):
    patch.setattr(cameras, "FOCAL", 1.0)


def other_canonical_view(network, patch):
    is_middle = network.pose_predictor.canonical == "middle"
    network.pose_predictor.canonical = "first" if is_middle else "middle"


def canonical_view_second(network, patch):
    swap = lambda module, arguments: (arguments[0].roll(arguments[0].shape[-1] // 2, -1),)  # noqa: E731
    network.pose_predictor.rel_head.register_forward_pre_hook(swap)


def rotation_with_rows_for_columns(network, patch):
    original = cameras.rotation_from_6d
    patch.setattr(cameras, "rotation_from_6d", lambda six: original(six).transpose(-1, -2))


def world_and_camera_exchanged(network, patch):
    original = cameras.PredictedCameras.world_from_camera
    patch.setattr(
        cameras.PredictedCameras, "world_from_camera", lambda self: original(self).inverse()
    )


def shuffled_frames(network, patch):
    """All photos are there, and each in its place of the result; only their numbers differ."""
    original = network.tokens

    def tokens(images):
        order = torch.arange(images.shape[1]).flip(0)
        return original(images[:, order])[:, order]

    patch.setattr(network, "tokens", tokens)


def frames_counted_from_one(network, patch):
    original = rayzer.waves
    patch.setattr(rayzer, "waves", lambda positions, channels: original(positions + 1, channels))


def waves_interleaved(network, patch):
    def interleaved(positions, channels):
        return original(positions, channels).unflatten(-1, (2, -1)).transpose(-1, -2).flatten(-2)

    original = rayzer.waves
    patch.setattr(rayzer, "waves", interleaved)


def one_tokenizer_for_all_rays(network, patch):
    network.target_pose_tokenizer2 = network.target_pose_tokenizer


def latents_last(network, patch):
    original = rayzer.run
    patch.setattr(rayzer, "run", lambda blocks, x, part: original(blocks, x.flip(1), part).flip(1))


def no_norm_of_queries_and_keys(network, patch):
    for module in network.modules():
        if isinstance(module, SelfAttention):
            module.q_norm = module.k_norm = nn.Identity()


def pixel_centers_at_integers(network, patch):
    original = rays.pixel_centers
    patch.setattr(rays, "pixel_centers", lambda *size, **kind: original(*size, **kind) - 0.5)


def rows_counted_by_columns(network, patch):
    original = rayzer.grid_waves
    patch.setattr(rayzer, "grid_waves", lambda r, c, *rest: original(c, r, *rest))


def focal_length_in_units_of_the_other_side(network, patch):
    original = cameras.PredictedCameras.intrinsics
    patch.setattr(cameras.PredictedCameras, "intrinsics", lambda self, h, w: original(self, w, h))


MISTAKES = [
    focal_length_of_one,
    other_canonical_view,
    canonical_view_second,
    rotation_with_rows_for_columns,
    world_and_camera_exchanged,
    shuffled_frames,
    frames_counted_from_one,
    waves_interleaved,
    one_tokenizer_for_all_rays,
    latents_last,
    no_norm_of_queries_and_keys,
    pixel_centers_at_integers,
]
MISTAKES_OF_OBLONG_PHOTOS = [rows_counted_by_columns, focal_length_in_units_of_the_other_side]


@pytest.mark.parametrize(
    "mistake", MISTAKES + MISTAKES_OF_OBLONG_PHOTOS, ids=lambda mistake: mistake.__name__
)
def test_golden_renders_reveal(mistake, golden, monkeypatch):
    if mistake in MISTAKES_OF_OBLONG_PHOTOS and golden.is_square:
        pytest.skip("needs photos that are not square")
    mistake(golden.network, monkeypatch)
    with torch.no_grad():
        renders = golden.predict().renders
    with pytest.raises(AssertionError, match="Tensor-likes are not close"):
        golden.assert_near(renders, golden.tensors["output.render"])
