"""True matches and cameras, and losses that are least there."""

from dataclasses import replace

import pytest
import torch

from fm3d_plugins.cell_matching import losses
from fm3d_plugins.cell_matching.losses import (
    disturbed,
    estimate_loss,
    matching_loss,
    true_cameras,
    true_cells,
)
from fm3d_plugins.cell_matching.pose import PoseFromMatches, cell_numbers, standing_still
from fm3d_plugins.cell_matching.types import Matches, cell_centers, places_of_cells
from fm3d_plugins.data.synthetic import EndlessRooms
from fm3d_plugins.vggt.losses import GroundTruth, normalize
from fm3d_plugins.vggt.pose_encoding import encode

ROWS, COLUMNS = 6, 8


@pytest.fixture(scope="module")
def batch():
    return EndlessRooms(1).batch(0, num_scenes=4, num_views=3, height=24, width=32)


@pytest.fixture(scope="module")
def truth(batch):
    return normalize(GroundTruth.of(batch))[0]


def cameras_of(truth):
    """True cameras as the path estimates them."""
    size = tuple(truth.depth.shape[-2:])
    return true_cameras(truth.camera_from_world, truth.intrinsics, size)


def exact(batch):
    """True matches, certain where they are seen."""
    places, is_seen, _ = true_cells(batch, ROWS, COLUMNS)
    found = places_of_cells(places, ROWS, COLUMNS)
    own = cell_centers(ROWS, COLUMNS, found).expand(len(found), 1, -1, -1)
    certainty = torch.cat([torch.ones_like(is_seen[:, :1]), is_seen], dim=1).float()
    return Matches(torch.cat([own, found], dim=1), certainty)


def test_a_view_matches_itself_cell_by_cell(batch):
    places, is_seen, _ = true_cells(batch.of_views([0, 0]), ROWS, COLUMNS)
    expected = cell_centers(ROWS, COLUMNS, places)
    torch.testing.assert_close(
        places_of_cells(places, ROWS, COLUMNS)[:, 0], expected.expand(4, -1, -1),
        atol=1e-4, rtol=0,
    )  # fmt: skip
    assert is_seen.float().mean() > 0.9


def test_true_cameras_leave_nothing_of_true_matches_to_explain(batch, truth):
    """Truth: after the motion and the inverse depth, rays of a match meet; nearly, as inverse
    depths are damped and cells are no points."""
    matches, cameras = exact(batch), cameras_of(truth)
    is_seen = matches.certainty[:, 1:] > 0

    def left(estimate):
        return cell_numbers(matches, estimate)[:, 1:, :, 9:12].norm(dim=-1)[is_seen].mean()

    assert left(cameras) < 0.2 * left(standing_still(matches))


def test_encodings_are_those_of_the_cameras(batch, truth):
    expected = encode(truth.camera_from_world, truth.intrinsics, batch.size)
    torch.testing.assert_close(cameras_of(truth).encodings(*batch.size), expected, atol=1e-5,
                               rtol=0)  # fmt: skip


def test_the_loss_of_matches_is_least_at_the_truth(batch):
    """Truth: with one-hot logits at the nearest cells the loss is below that of equal ones, and
    above it for cells elsewhere."""
    true = places, is_seen, _ = true_cells(batch, ROWS, COLUMNS)
    nearest = places.round()
    inside = torch.minimum(nearest.clamp_min(0), places.new_tensor([COLUMNS - 1, ROWS - 1]))
    index = (inside[..., 1] * COLUMNS + inside[..., 0]).long()
    index = torch.where(is_seen, index, ROWS * COLUMNS)

    def loss(where):
        logits = torch.zeros(*index.shape, ROWS * COLUMNS + 1)
        return matching_loss(logits.scatter(-1, where[..., None], 3.0), *true, COLUMNS)

    equal = 1.5 * torch.log(torch.tensor(ROWS * COLUMNS + 1.0))
    torch.testing.assert_close(
        matching_loss(torch.zeros(*index.shape, ROWS * COLUMNS + 1), *true, COLUMNS),
        equal,
    )
    assert loss(index) < equal < loss((index + COLUMNS // 2) % (ROWS * COLUMNS))


def test_holes_in_depth_teach_nothing(batch):
    """Truth: whatever is said of a cell that depth does not tell about, the loss is the same; all
    is told without holes."""
    assert true_cells(batch, ROWS, COLUMNS)[2].all()
    is_valid = torch.rand(batch.is_valid.shape, generator=torch.Generator().manual_seed(0)) < 0.97
    is_valid[:, 0, : batch.size[0] // 2] = False
    places, is_seen, is_told = true_cells(replace(batch, is_valid=is_valid), ROWS, COLUMNS)
    assert not is_told.unflatten(-1, (ROWS, COLUMNS))[..., : ROWS // 2, :].any()
    assert (is_told & ~is_seen).any() and not (is_seen & ~is_told).any()
    logits = torch.randn(*is_seen.shape, ROWS * COLUMNS + 1)
    other = torch.where(is_told[..., None], logits, torch.randn_like(logits))
    ours, same = (
        matching_loss(said, places, is_seen, is_told, COLUMNS) for said in (logits, other)
    )
    assert torch.equal(ours, same)


def test_disturbed_matches_follow_from_the_seeds_and_are_less_certain_when_wrong(batch):
    places, is_seen, _ = true_cells(batch, ROWS, COLUMNS)
    make = lambda: disturbed(places, is_seen, ROWS, COLUMNS, [3, 1, 2, 0])  # noqa: E731
    ours, again = make(), make()
    assert torch.equal(ours.places, again.places)
    certainty = ours.certainty[:, 1:]
    assert certainty[is_seen].mean() > certainty[~is_seen].mean() + 0.2
    errors = (ours.places[:, 1:] - places_of_cells(places, ROWS, COLUMNS)).norm(dim=-1)
    assert errors[is_seen].median() < 0.05 < errors[~is_seen].median()


def test_what_disturbs_a_scene_is_the_same_in_any_part_of_a_batch(batch):
    places, is_seen, _ = true_cells(batch, ROWS, COLUMNS)
    whole = disturbed(places, is_seen, ROWS, COLUMNS, [3, 1, 2, 0])
    part = disturbed(places[2:], is_seen[2:], ROWS, COLUMNS, [2, 0])
    assert torch.equal(part.places, whole.places[2:])
    assert torch.equal(part.certainty, whole.certainty[2:])


def test_the_loss_of_matches_is_the_mean_over_scenes(batch):
    """Truth: however many cells each scene has that are seen nowhere."""
    of_matches = true_cells(batch, ROWS, COLUMNS)
    is_seen = of_matches[1]
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(*is_seen.shape, ROWS * COLUMNS + 1, generator=generator)
    rows = [slice(row, row + 1) for row in range(len(batch))]
    each = [
        matching_loss(logits[row], *(values[row] for values in of_matches), COLUMNS) for row in rows
    ]
    assert len({int(seen.sum()) for seen in is_seen}) > 1
    torch.testing.assert_close(
        matching_loss(logits, *of_matches, COLUMNS), torch.stack(each).mean()
    )


def test_the_loss_of_estimates_is_zero_at_the_truth_and_its_slope_is_bounded(batch, truth):
    cameras = cameras_of(truth)
    assert estimate_loss([cameras, cameras], cameras) < 0.05
    still = standing_still(exact(batch))
    center = still.center.clone().requires_grad_()
    loss = estimate_loss([type(still)(still.rotation, center, still.log_tangent)], cameras)
    loss.backward()
    assert loss > 0.1 and center.grad.isfinite().all() and center.grad.norm() < 10


def test_cameras_of_exact_matches_are_learnt(batch, truth):
    """Truth: on one batch the loss falls to less than half; the first camera stands still."""
    torch.manual_seed(0)
    network = PoseFromMatches(width=32, num_heads=2, num_queries=2, depth=1, rounds=2)
    matches, cameras = exact(batch), cameras_of(truth)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    losses = []
    for _ in range(35):
        loss = estimate_loss(network(matches), cameras)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 2
    found = network(matches)[-1]
    assert torch.equal(found.rotation[:, 0], torch.eye(3).expand(4, 3, 3))
    assert not found.center[:, 0].any()


def test_cameras_of_a_batch_are_those_of_points_at_unit_mean_distance(batch, truth):
    """Truth: the published normalisation, in the first camera's frame."""
    ours, expected = losses.cameras_of(batch), cameras_of(truth)
    for found, true in zip(vars(ours).values(), vars(expected).values(), strict=True):
        torch.testing.assert_close(found, true, atol=1e-4, rtol=1e-4)
