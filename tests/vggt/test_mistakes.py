"""The golden comparison finds mistakes: each of these leaves every shape as it is."""

import pytest
import torch
from torch.nn import functional

from fm3d_plugins.nn import attention, dense_prediction, dinov2
from fm3d_plugins.nn.attention import TransformerBlock
from fm3d_plugins.nn.dense_prediction import ResidualUnit
from fm3d_plugins.nn.positions import RotaryTables, rotate
from fm3d_plugins.vggt import aggregator, camera_head, dense_head


def set_eps(module, eps):
    for block in module.modules():
        if isinstance(block, TransformerBlock):
            block.norm1.eps = block.norm2.eps = eps


def alternating_blocks_with_eps_of_dino(network, patch):
    set_eps(network.aggregator.frame_blocks, 1e-6)
    set_eps(network.aggregator.global_blocks, 1e-6)


def dino_with_default_eps(network, patch):
    set_eps(network.aggregator.patch_embed, 1e-5)
    network.aggregator.patch_embed.norm.eps = 1e-5


def positions_resized_without_antialiasing(network, patch):
    original = functional.interpolate
    plain = lambda *args, **options: original(*args, **(options | {"antialias": False}))  # noqa: E731
    patch.setattr(dinov2.functional, "interpolate", plain)


def rotary_positions_from_zero(network, patch):
    original = aggregator.grid_positions
    patch.setattr(aggregator, "grid_positions", lambda *args: original(*args) - 1)


def rotary_rows_and_columns_swapped(network, patch):
    original = aggregator.grid_positions
    patch.setattr(aggregator, "grid_positions", lambda *args: original(*args).flip(-1))


def rotary_pairs_interleaved(network, patch):
    def interleaved(features, tables):
        paired = features.unflatten(-1, (2, -1, 2)).transpose(-1, -2).flatten(-3)
        turned = rotate(paired, tables)
        return turned.unflatten(-1, (2, 2, -1)).transpose(-1, -2).flatten(-3)

    patch.setattr(attention, "rotate", interleaved)


def heads_normalized_after_rotation(network, patch):
    # Norm the turned features and turn nothing afterwards: `project` norms, then rotates.
    def project(self, tokens, positions=None):
        features = self.qkv(tokens).unflatten(-1, (3, self.num_heads, -1))
        queries, keys, values = features.unbind(-3)
        if isinstance(positions, RotaryTables):
            queries, keys = rotate(queries, positions), rotate(keys, positions)
        return attention.HeadFeatures(self.q_norm(queries), self.k_norm(keys), values)

    patch.setattr(attention.SelfAttention, "project", project)


def special_tokens_of_the_first_photo_for_all(network, patch):
    with torch.no_grad():
        for token in (network.aggregator.camera_token, network.aggregator.register_token):
            token[:, 1] = token[:, 0]


def residual_unit_skips_the_rectifier(network, patch):
    for module in network.modules():
        if isinstance(module, ResidualUnit):
            module.rectified_skip = False


def no_positions_in_the_dense_heads(network, patch):
    patch.setattr(dense_head, "add_positions_", lambda features, aspect_ratio: None)


def dense_maps_resized_by_pixel_areas(network, patch):
    def resize(features, size):
        return functional.interpolate(features, size, mode="bilinear", align_corners=False)

    patch.setattr(dense_prediction, "resize", resize)
    patch.setattr(dense_head, "resize", resize)


def camera_rounds_see_positive_fields_of_view(network, patch):
    original = camera_head.CameraHead._change

    def change(self, tokens, estimate):
        seen = torch.cat([estimate[..., :7], estimate[..., 7:].relu()], dim=-1)
        return original(self, tokens, seen)

    patch.setattr(camera_head.CameraHead, "_change", change)


def approximate_gelu(network, patch):
    def forward(mlp, features):
        return mlp.fc2(functional.gelu(mlp.fc1(features), approximate="tanh"))

    patch.setattr(attention.Mlp, "forward", forward)


MISTAKES = [
    alternating_blocks_with_eps_of_dino,
    dino_with_default_eps,
    positions_resized_without_antialiasing,
    rotary_positions_from_zero,
    rotary_rows_and_columns_swapped,
    rotary_pairs_interleaved,
    heads_normalized_after_rotation,
    special_tokens_of_the_first_photo_for_all,
    residual_unit_skips_the_rectifier,
    no_positions_in_the_dense_heads,
    dense_maps_resized_by_pixel_areas,
    camera_rounds_see_positive_fields_of_view,
    approximate_gelu,
]


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.__name__)
def test_golden_outputs_reveal(mistake, golden, monkeypatch):
    case = golden("vits")
    mistake(case.network, monkeypatch)
    with torch.no_grad(), pytest.raises(AssertionError, match="Tensor-likes are not close"):
        case.check_outputs()


def test_epsilon_of_the_camera_modulation_is_the_published_one(golden):
    """Its mistake changes the golden outputs by 6e-6, which no comparison can tell from noise."""
    assert golden("vits").network.camera_head.adaln_norm.eps == 1e-6
