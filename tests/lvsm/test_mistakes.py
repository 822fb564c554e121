"""The golden comparison finds mistakes: each of these leaves every shape as it is."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from fm3d_plugins.geometry import rays
from fm3d_plugins.lvsm import network as lvsm
from fm3d_plugins.lvsm.cameras import normalization
from fm3d_plugins.nn import attention, view_synthesis

GOLDEN_FILES = "lvsm_*_tiny_*.json"


def direction_before_moment(network, patch):
    original = rays.plucker
    patch.setattr(rays, "plucker", lambda *ray: original(*ray).roll(3, dims=-1))


def moment_of_the_other_sign(network, patch):
    original = rays.plucker
    sign = torch.tensor([-1.0, -1, -1, 1, 1, 1])
    patch.setattr(rays, "plucker", lambda *ray: original(*ray) * sign)


def directions_of_any_length(network, patch):
    patch.setattr(rays, "unit", lambda directions, dim: directions)


def pixel_centers_at_integers(network, patch):
    original = rays.pixel_centers
    patch.setattr(rays, "pixel_centers", lambda *size, **kind: original(*size, **kind) - 0.5)


def photos_not_stretched_to_both_signs(network, patch):
    original = network.encode
    patch.setattr(network, "encode", lambda images, rays: original((images + 1) / 2, rays))


def patches_with_channels_slowest(network, patch):
    original = view_synthesis.patchify

    def patchify(images, size):
        values = original(images, size).unflatten(-1, (size**2, -1))
        return values.transpose(-1, -2).flatten(-2)

    patch.setattr(view_synthesis, "patchify", patchify)


def photos_of_patches_with_channels_slowest(network, patch):
    original = view_synthesis.unpatchify

    def unpatchify(patches, size, rows):
        values = patches.unflatten(-1, (-1, size**2)).transpose(-1, -2).flatten(-2)
        return original(values, size, rows)

    patch.setattr(view_synthesis, "unpatchify", unpatchify)


def tokens_kept_from_the_other_end(network, patch):
    """With an encoder: latents last."""
    original = lvsm.run
    patch.setattr(lvsm, "run", lambda blocks, x, part: original(blocks, x.flip(1), part).flip(1))


def targets_matched_with_scenes_slowest(network, patch):
    patch.setattr(lvsm, "matched", lambda scene, count: scene.repeat(count, 1, 1))


def no_norm_before_the_decoder(network, patch):
    network.decoder_norm = nn.Identity()


def no_norm_of_queries_and_keys(network, patch):
    for module in network.modules():
        if isinstance(module, attention.SelfAttention):
            module.q_norm = module.k_norm = nn.Identity()


def keys_normalized_as_queries(network, patch):
    for module in network.modules():
        if isinstance(module, attention.SelfAttention):
            module.k_norm = module.q_norm


def approximate_gelu(network, patch):
    def forward(mlp, features):
        return mlp.fc2(functional.gelu(mlp.fc1(features), approximate="tanh"))

    patch.setattr(attention.Mlp, "forward", forward)


MISTAKES = [
    direction_before_moment,
    moment_of_the_other_sign,
    directions_of_any_length,
    pixel_centers_at_integers,
    photos_not_stretched_to_both_signs,
    patches_with_channels_slowest,
    photos_of_patches_with_channels_slowest,
    tokens_kept_from_the_other_end,
    targets_matched_with_scenes_slowest,
    no_norm_before_the_decoder,
    no_norm_of_queries_and_keys,
    keys_normalized_as_queries,
    approximate_gelu,
]


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.__name__)
def test_golden_renders_reveal(mistake, golden, monkeypatch):
    """Of targets that the published code counts fastest, so of two scenes at least."""
    mistake(golden.network, monkeypatch)
    with torch.no_grad():
        renders = golden.render()[1]
    with pytest.raises(AssertionError, match="Tensor-likes are not close"):
        golden.assert_near(renders, golden.tensors["output.render"])


@pytest.mark.parametrize("given", [slice(2), slice(2, None)], ids=["context", "targets"])
def test_golden_cameras_reveal_normalization_by_some_of_them(given, shared, assert_near):
    from safetensors.torch import load_file

    functions = load_file(shared / "golden" / "lvsm_functions.safetensors")
    cameras = functions["pose_norm.c2w_in"]
    ours = normalization(cameras[given]).apply_to_pose(cameras)
    with pytest.raises(AssertionError, match="Tensor-likes are not close"):
        assert_near(ours, functions["pose_norm.c2w_out_scale1.35"])
