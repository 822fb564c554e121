"""The path within the network: an option that leaves the published network as it is."""

import torch

from fm3d_plugins.cell_matching.losses import cameras_of, path_losses
from fm3d_plugins.cell_matching.path import MatchingConfig, MatchingPath
from fm3d_plugins.data.synthetic import EndlessRooms
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


def test_cameras_have_all_digits_where_products_have_few():
    """Truth: under bfloat16 autocast, cameras and losses of the same matches are the same."""
    torch.manual_seed(0)
    path = MatchingPath(TINY, token_width=None, patch_size=4)
    batch = EndlessRooms(1).batch(0, num_scenes=2, num_views=3, height=32, width=32)
    cameras = cameras_of(batch)
    matched = path(batch.images, None, (8, 8))

    def losses():
        return path_losses(path, matched, batch, cameras, 0, 16)

    expected = losses()
    with torch.autocast("cpu", torch.bfloat16):
        assert path(batch.images, None, (8, 8)).estimate.rotation.dtype == torch.float32
        found = losses()
    torch.testing.assert_close(found.estimate, expected.estimate)
    torch.testing.assert_close(found.matching, expected.matching)


def test_sizes_survive_the_text():
    assert from_text(to_text({"matching": TINY})) == {"matching": TINY}
    assert from_text(to_text({"matching": None})) == {"matching": None}
