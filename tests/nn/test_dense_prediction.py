"""Pieces of the dense prediction transformer."""

import pytest
import torch
from torch.nn import functional

from fm3d_plugins.nn.dense_prediction import (
    FusionBlock,
    FusionPyramid,
    ResidualUnit,
    add_positions_,
    grid_coordinates,
    resize,
)


def test_positions_match_golden_values(shared):
    """Golden: the grid and the embedding, before their factor of 0.1."""
    from safetensors.torch import load_file

    golden = load_file(shared / "golden" / "vggt_fn_geometry.safetensors")
    aspect = 98 / 70
    diagonal = (aspect**2 + 1) ** 0.5
    x = grid_coordinates(7, aspect / diagonal, torch.device("cpu"))
    y = grid_coordinates(5, 1 / diagonal, torch.device("cpu"))
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)
    torch.testing.assert_close(grid, golden["uv_grid"], atol=1e-6, rtol=0)
    features = torch.zeros(1, 16, 5, 7)
    add_positions_(features, aspect)
    expected = 0.1 * golden["uv_embed"].permute(2, 0, 1)
    torch.testing.assert_close(features[0], expected, atol=1e-6, rtol=0)


def test_positions_agree_between_resolutions_of_one_image():
    """Truth: cells are placed by their centres, which 3 x 3 cells of a finer grid share."""
    coarse, fine = torch.zeros(1, 8, 2, 4), torch.zeros(1, 8, 6, 12)
    add_positions_(coarse, 2.0)
    add_positions_(fine, 2.0)
    torch.testing.assert_close(coarse, fine[:, :, 1::3, 1::3])


def test_gradient_passes_the_positions_unchanged():
    features = torch.randn(1, 4, 2, 3, requires_grad=True)
    copy = features * 1
    add_positions_(copy, 1.5)
    copy.square().sum().backward()
    torch.testing.assert_close(features.grad, 2 * copy.detach())


@pytest.mark.parametrize("rectified_skip", [False, True])
def test_residual_unit_with_zero_convolutions_is_its_skip(rectified_skip):
    unit = ResidualUnit(2, rectified_skip=rectified_skip)
    for parameter in unit.parameters():
        torch.nn.init.zeros_(parameter)
    features = torch.randn(1, 2, 3, 4)
    before = features.clone()
    expected = features.relu() if rectified_skip else features
    assert unit(features).equal(expected)
    assert features.equal(before)


def test_resizing_keeps_the_corners_and_is_linear_between():
    """Truth: 0 and 1 at the ends of a row, resized to five pixels, are quarters apart."""
    row = torch.tensor([0.0, 1.0]).expand(1, 1, 2, 2)
    torch.testing.assert_close(
        resize(row, (3, 5))[0, 0], torch.tensor([0, 0.25, 0.5, 0.75, 1]).expand(3, 5)
    )


def test_fusion_may_convolve_before_it_resizes():
    """Oracle: the paper's order, resize and then the 1x1 convolution."""
    torch.manual_seed(0)
    block = FusionBlock(4, with_level=True, rectified_skip=True).double()
    features, level = torch.randn(2, 1, 4, 3, 5, dtype=torch.float64)
    fused = block.resConfUnit2(features + block.resConfUnit1(level))
    expected = block.out_conv(
        functional.interpolate(fused, (6, 9), mode="bilinear", align_corners=True)
    )
    torch.testing.assert_close(block(features, (6, 9), level), expected)


def test_pyramid_doubles_its_finest_level_and_takes_odd_sizes():
    torch.manual_seed(0)
    pyramid = FusionPyramid((3, 4, 5, 6), 8, rectified_skip=True)
    sizes = ((20, 28), (10, 14), (5, 7), (3, 4))
    levels = [torch.randn(2, 3 + i, *size) for i, size in enumerate(sizes)]
    fused = pyramid(levels)
    assert fused.shape == (2, 8, 40, 56)
    for level in range(4):
        changed = [each.clone() for each in levels]
        changed[level] += 1
        assert not torch.allclose(pyramid(changed), fused), f"level {level} is not read"


@pytest.mark.parametrize(
    ("sides", "is_even"),
    [
        (((8, 16), (4, 8), (2, 4), (1, 2)), True),
        (((20, 28), (10, 14), (5, 7), (3, 4)), False),
    ],
)
def test_pyramid_that_doubles_cuts_what_exceeds_the_next_level(sides, is_even):
    """Oracle: double, cut, go on. Only an odd side makes a difference to resizing."""
    torch.manual_seed(0)
    pyramid = FusionPyramid((3, 4, 5, 6), 8, rectified_skip=False, doubling=True).double()
    levels = [torch.randn(2, 3 + i, *size, dtype=torch.float64) for i, size in enumerate(sides)]
    narrow = [getattr(pyramid, f"layer{i + 1}_rn")(level) for i, level in enumerate(levels)]
    fused = None
    for i in (3, 2, 1, 0):
        block = getattr(pyramid, f"refinenet{i + 1}")
        inputs = narrow[i] if fused is None else fused + block.resConfUnit1(narrow[i])
        rows, columns = narrow[i].shape[-2:]
        doubled = resize(block.out_conv(block.resConfUnit2(inputs)), (2 * rows, 2 * columns))
        fused = doubled if i == 0 else doubled[..., : sides[i - 1][0], : sides[i - 1][1]]
    torch.testing.assert_close(pyramid(levels), fused)
    pyramid.doubling = False
    assert torch.allclose(pyramid(levels), fused) == is_even
