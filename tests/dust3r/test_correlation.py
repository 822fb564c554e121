"""Points that begin with cameras from matches: the published network is left alone."""

import torch

from fm3d_plugins.cell_matching.types import CameraEstimate
from fm3d_plugins.dust3r.configuration import from_text, to_text
from fm3d_plugins.dust3r.correlation import seen_points
from fm3d_plugins.dust3r.inference import PhotoEncodings, decode_pairs
from fm3d_plugins.dust3r.network import DUSt3R, MatchedPrediction, PairPrediction
from fm3d_plugins.dust3r.relative_pose import first_from_second
from fm3d_plugins.geometry.poses import so3_exp

SIZES = {
    "encoder_width": 32, "encoder_depth": 1, "encoder_heads": 2, "decoder_width": 32,
    "decoder_depth": 1, "decoder_heads": 2, "patch_size": 8, "head": "linear",
}  # fmt: skip


def network(**others):
    torch.manual_seed(0)
    return DUSt3R(**SIZES, **others).eval()


def test_the_option_only_adds_weights_of_its_own():
    plain, other = network().state_dict(), network(correlation=True).state_dict()
    assert set(other) - set(plain) == {name for name in other if name.startswith("matching.")}
    assert not any("matching" in name for name in plain)
    assert network().matching is None and network().token_width == 32


def test_sizes_survive_the_text():
    assert from_text(to_text(SIZES | {"correlation": True}))["correlation"] is True


def test_maps_of_zeros_mean_one_depth_seen_by_the_estimated_cameras():
    """Truth: z is 1 in the camera, pixels are where its lens has them, the centre is at its way."""
    turn = torch.tensor([[0.1, -0.3, 0.2]])
    rotation = torch.stack([torch.eye(3)[None], so3_exp(turn)], dim=1)
    center = torch.tensor([[[0.0, 0, 0], [0.5, -0.2, 0.1]]])
    estimate = CameraEstimate(rotation, center, torch.full((1, 2), 0.5).log())
    raw = torch.zeros(1, 4, 16, 24)
    for view in (0, 1):
        points, confidence = seen_points(raw, estimate, view, ("exp", 1.0, float("inf")))
        local = (points[0] - center[0, view]) @ rotation[0, view].mT
        torch.testing.assert_close(local[..., 2], torch.ones(16, 24))
        # The longer side, 24 pixels, spans twice the tangent 0.5: 1/24 per pixel, centres at half.
        across = (torch.arange(24) + 0.5 - 12) / 24
        torch.testing.assert_close(local[..., 0], across.expand(16, 24), atol=1e-5, rtol=0)
        assert (confidence == 2).all()


def test_the_second_camera_follows_from_its_points():
    """Truth: before the heads change anything, it is that of the matches, whatever they say."""
    other = network(correlation=True)
    other.begin_with_matches()
    first, second = torch.rand(2, 1, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        seen = other(first, second)
    assert isinstance(seen, MatchedPrediction)
    rows = {name: value[0] for name, value in vars(seen).items() if name != "matched"}
    # One depth is a plane, from which the pose follows all the same.
    found = first_from_second(PairPrediction(**rows))
    expected = seen.matched.forth.estimate.first_from_camera()[0, 1]
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)


def test_photos_encoded_by_themselves_say_the_same_whatever_their_shapes():
    """Truth: tokens that are kept and pairs that are batched make no difference."""
    other = network(correlation=True)
    photos = [torch.rand(3, 32, 24) * 2 - 1, torch.rand(3, 24, 32) * 2 - 1]
    encodings = PhotoEncodings(other, lambda number: photos[number])
    made = {(i, j): seen for i, j, seen in decode_pairs(encodings, [(0, 1), (1, 0)])}
    with torch.no_grad():
        expected = other(photos[1][None], photos[0][None])
    torch.testing.assert_close(made[1, 0].points_first, expected.points_first[0])
    torch.testing.assert_close(
        made[1, 0].points_second_in_first, expected.points_second_in_first[0]
    )
    assert made[0, 1].points_second_in_first.shape == (24, 32, 3)
