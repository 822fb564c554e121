"""The golden comparison finds mistakes: each of these leaves every shape as it is."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from fm3d_plugins.dust3r import heads
from fm3d_plugins.dust3r import network as dust3r_network
from fm3d_plugins.nn import attention, dense_prediction
from fm3d_plugins.nn.dense_prediction import ResidualUnit
from fm3d_plugins.nn.positions import rotate


def default_eps(network, patch):
    for module in network.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-5


def rotary_pairs_interleaved(network, patch):
    def interleaved(features, tables):
        paired = features.unflatten(-1, (2, -1, 2)).transpose(-1, -2).flatten(-3)
        turned = rotate(paired, tables)
        return turned.unflatten(-1, (2, 2, -1)).transpose(-1, -2).flatten(-3)

    patch.setattr(attention, "rotate", interleaved)


def rotary_rows_and_columns_swapped(network, patch):
    original = dust3r_network.grid_positions
    patch.setattr(dust3r_network, "grid_positions", lambda *args: original(*args).flip(-1))


def no_positions_across_photos(network, patch):
    original = attention.CrossAttention.forward
    patch.setattr(
        attention.CrossAttention, "forward", lambda self, x, y, _x, _y: original(self, x, y)
    )


def second_photo_reads_the_first_ones_fresh_tokens(network, patch):
    original = type(network)._crossed
    fresh = {}

    def crossed(self, block, tokens, memory, positions, memory_positions):
        is_second = any(block is each for each in self.dec_blocks2)
        memory = fresh.pop("first") if is_second else memory
        result = original(self, block, tokens, memory, positions, memory_positions)
        if not is_second:
            fresh["first"] = result
        return result

    patch.setattr(type(network), "_crossed", crossed)


def one_decoder_for_both(network, patch):
    network.dec_blocks2 = network.dec_blocks


def memory_without_its_norm(network, patch):
    for block in (*network.dec_blocks, *network.dec_blocks2):
        block.norm_y = nn.Identity()


def no_norm_after_the_decoder(network, patch):
    patch.setattr(network.dec_norm, "forward", lambda tokens: tokens)


def decoder_tokens_in_place_of_the_encoders(network, patch):
    original = type(network)._decoded

    def decoded(self, first, second):
        layers = original(self, first, second)
        for side, photos in zip(layers, (first, second), strict=True):
            side[0] = self._embedded(photos)
        return layers

    patch.setattr(type(network), "_decoded", decoded)


def residual_unit_skips_the_rectifier(network, patch):
    for module in network.modules():
        if isinstance(module, ResidualUnit):
            module.rectified_skip = True


def coarse_map_resized_instead_of_cut(network, patch):
    network.downstream_head1.dpt.scratch.doubling = False


def maps_resized_by_pixel_areas(network, patch):
    def resize(features, size):
        return functional.interpolate(features, size, mode="bilinear", align_corners=False)

    patch.setattr(dense_prediction, "resize", resize)
    patch.setattr(heads, "resize", resize)


def stretch_of_the_depth_alone(network, patch):
    original = dust3r_network.points_and_confidence

    def wrong(raw, depth_mode, confidence_mode):
        points, confidence = original(raw, "linear", confidence_mode)
        return torch.cat([points[..., :2], torch.expm1(points[..., 2:])], -1), confidence

    patch.setattr(dust3r_network, "points_and_confidence", wrong)


def confidence_without_its_one(network, patch):
    original = dust3r_network.points_and_confidence

    def wrong(raw, depth_mode, confidence_mode):
        return original(raw, depth_mode, ("exp", 0.0, float("inf")))

    patch.setattr(dust3r_network, "points_and_confidence", wrong)


BOTH = [
    default_eps,
    rotary_pairs_interleaved,
    rotary_rows_and_columns_swapped,
    no_positions_across_photos,
    second_photo_reads_the_first_ones_fresh_tokens,
    one_decoder_for_both,
    memory_without_its_norm,
    no_norm_after_the_decoder,
    stretch_of_the_depth_alone,
    confidence_without_its_one,
]
DENSE = [
    decoder_tokens_in_place_of_the_encoders,
    residual_unit_skips_the_rectifier,
    coarse_map_resized_instead_of_cut,
    maps_resized_by_pixel_areas,
]
CASES = [("linear", mistake) for mistake in BOTH] + [("dpt", mistake) for mistake in DENSE]


@pytest.mark.parametrize(
    ("head", "mistake"), CASES, ids=[f"{head}-{mistake.__name__}" for head, mistake in CASES]
)
def test_golden_points_reveal(head, mistake, golden, monkeypatch):
    found = golden(head)
    found.check("mixed", found.predict("mixed"))
    mistake(found.network, monkeypatch)
    with pytest.raises(AssertionError, match="Tensor-likes are not close"):
        found.check("mixed", found.predict("mixed"))
