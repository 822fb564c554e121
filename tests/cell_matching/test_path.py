"""The path within the network: an option that leaves the published network as it is."""

import torch

from fm3d_plugins.cell_matching.path import MatchingConfig, MatchingPath
from fm3d_plugins.vggt.configuration import from_text, to_text
from fm3d_plugins.vggt.network import VGGT
from fm3d_plugins.vggt.training import SmallVGGT

TINY = MatchingConfig(feature_width=16, feature_blocks=1, pose_width=32, pose_heads=2)


def small(correlation):
    torch.manual_seed(0)
    return SmallVGGT(width=32, depth=2, head_width=16, dense_features=8,
                     correlation=correlation).build().eval()  # fmt: skip


def test_the_option_only_adds_weights_of_its_own():
    plain, other = small(False).state_dict(), small(True).state_dict()
    assert set(other) - set(plain) == {name for name in other if name.startswith("matching.")}
    assert set(plain) <= set(other)
    assert not any("matching" in name for name in plain)
    with torch.device("meta"):
        assert VGGT().matching is None


def test_the_camera_head_begins_with_the_cameras_of_the_matches():
    """Truth: while its changes are zero, it says what the matches do; others are unchanged."""
    network, plain = small(True), small(False)
    images = torch.rand(2, 3, 3, 16, 24)
    outputs = network(images, heads=("camera", "depth"))
    assert outputs.matched is not None
    first = outputs.matched.estimate.encodings(16, 24)
    for encoding in outputs.pose_encodings:
        torch.testing.assert_close(encoding, first)
    without = plain(images, heads=("camera",))
    assert without.matched is None
    assert network(images[0, :1], heads=("camera",)).pose_encodings[-1].shape == (1, 9)


def test_large_images_are_matched_smaller():
    path = MatchingPath(TINY, token_width=12, patch_size=8)
    images, tokens = torch.rand(1, 2, 3, 160, 240), torch.randn(1, 2, 600, 12)
    matched = path(images, tokens, (20, 30))
    assert matched.grid == (16, 24) and matched.logits.shape == (1, 1, 384, 385)


def test_features_of_pixels_alone_need_no_tokens():
    path = MatchingPath(TINY, token_width=None, patch_size=4)
    assert not any("token" in name for name in path.state_dict())
    matched = path(torch.rand(1, 3, 3, 80, 96), None, (20, 24))
    assert matched.grid == (20, 24) and matched.estimate.center.shape == (1, 3, 3)


def test_sizes_survive_the_text():
    assert from_text(to_text({"matching": TINY})) == {"matching": TINY}
    assert from_text(to_text({"matching": None})) == {"matching": None}
