"""DINOv2's stored positions."""

import pytest
import torch

from fm3d_plugins.nn.dinov2 import DinoV2, DinoV2Config


@pytest.fixture
def small():
    torch.manual_seed(0)
    config = DinoV2Config(width=8, depth=1, num_heads=2, patch_size=2, image_size=6)
    return DinoV2(config).eval()


@pytest.mark.parametrize(
    ("name", "grid", "channels"),
    [
        ("pos_embed_70x98", (5, 7), 384),
        ("pos_embed_392x518", (28, 37), 8),
        ("pos_embed_518x518", (37, 37), 8),
    ],
)
def test_positions_match_golden_values(name, grid, channels, shared, golden_weights):
    """Tighter than 1e-4, the effect of the offset of 0.1 that other code adds."""
    from safetensors.torch import load_file

    stored = golden_weights.golden_array("pos_embed", (1, 1370, 384)) * 100
    network = DinoV2(DinoV2Config(width=384, depth=0, num_heads=6))
    with torch.no_grad():
        network.pos_embed.copy_(torch.from_numpy(stored))
    ours = network.position_embedding(*grid)[..., :channels]
    expected = load_file(shared / "golden" / "vggt_fn_geometry.safetensors")[name]
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)


def test_stored_grid_has_its_positions_unchanged(small):
    assert small.position_embedding(3, 3) is small.pos_embed


def test_constant_positions_stay_constant_on_every_grid(small):
    """Truth: interpolation weights sum to one."""
    with torch.no_grad():
        small.pos_embed.fill_(0.7)
    for grid in ((1, 1), (2, 5), (7, 3)):
        resized = small.position_embedding(*grid)
        assert resized.shape == (1, 1 + grid[0] * grid[1], 8)
        torch.testing.assert_close(resized, torch.full_like(resized, 0.7))


def test_images_do_not_influence_each_other_and_gradients_do_not_change_values(small):
    images = torch.randn(3, 3, 4, 6)
    with_gradients = small(images)
    with torch.no_grad():
        alone = torch.cat([small(image[None]) for image in images])
    assert alone.shape == (3, 6, 8)
    torch.testing.assert_close(with_gradients, alone)
