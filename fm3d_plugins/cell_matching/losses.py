"""What the matching learns from: true correspondences, and cameras of true and found matches."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fm3d_plugins.cell_matching.pairs import MatchedPair
from fm3d_plugins.cell_matching.path import Matched, MatchingPath
from fm3d_plugins.cell_matching.types import (
    CameraEstimate,
    Matches,
    cell_centers,
    places_of_cells,
)
from fm3d_plugins.data.synthetic import mixed
from fm3d_plugins.data.view_batch import ViewBatch
from fm3d_plugins.geometry.poses import invert, transform_points
from fm3d_plugins.geometry.precision import in_full_precision

TORN = 1.5
"""Cells by which the four middle pixels of one may lie apart in another photo."""
NOWHERE_WEIGHT = 0.5
ROUND_DECAY = 0.6
"""An estimate before the last counts that much less."""
ROTATION_WEIGHT, DIRECTION_WEIGHT, LENS_WEIGHT = 1.5, 0.2, 0.2
SHORT = 0.03
"""Way, of the mean distance, up to which a true direction does not count; an estimated one does so
in part, as its gradient would grow without bound."""
MOST_NOISE, MOST_OUTLIERS = 0.07, 0.15
"""In halves of the longer side; as a share of the matches."""


def true_cells(
    batch: ViewBatch, rows: int, columns: int
) -> tuple[
    Float[Tensor, "scene other cell 2"],
    Bool[Tensor, "scene other cell"],
    Bool[Tensor, "scene other cell"],
]:
    """Where the first photo's cells lie in each other one, and whether they are seen there.

    Returns:
        (x, y) in cells, whose centres are integers; the mean of the four middle pixels of a cell.
        Whether all four are seen. Whether depth tells it of all four: holes in it tell nothing.
    """
    height, width = batch.size
    side = height // rows
    assert (side * rows, side * columns) == (height, width) and side % 2 == 0
    middle = slice(side // 2 - 1, None, side), slice(side // 2, None, side)
    places, seen, told = [], [], []
    for other in range(1, batch.num_views):
        pixels, is_seen = batch.correspondences(0, other)
        four = torch.stack([pixels[:, y, x] for y in middle for x in middle])
        all_seen = torch.stack([is_seen[:, y, x] for y in middle for x in middle]).all(0)
        reach = (four.amax(0) - four.amin(0)).amax(-1)
        places.append(four.mean(0).flatten(1, 2) / side - 0.5)
        seen.append((all_seen & (reach < TORN * side)).flatten(1))
        is_told = batch.is_told(0, other)
        told.append(torch.stack([is_told[:, y, x] for y in middle for x in middle]).all(0))
    told = [each.flatten(1) for each in told]
    return torch.stack(places, dim=1), torch.stack(seen, dim=1), torch.stack(told, dim=1)


def matching_loss(
    logits: Float[Tensor, "scene other cell place"],
    places: Float[Tensor, "scene other cell 2"],
    is_seen: Bool[Tensor, "scene other cell"],
    is_told: Bool[Tensor, "scene other cell"],
    columns: int,
) -> Float[Tensor, ""]:
    """Cross entropy with the four cells around the true place, by their share, or with none.

    Means over the cells of either kind, of each scene; then over the scenes, as of all losses here.

    Args:
        places, is_seen, is_told: As `true_cells` has them.
    """
    rows = (logits.shape[-1] - 1) // columns
    log_probability = logits.float().log_softmax(-1)
    limits = places.new_tensor([columns - 1, rows - 1])
    inside = torch.minimum(places.clamp_min(0), limits)
    corner = torch.minimum(inside.floor(), (limits - 1).clamp_min(0))
    x, y = (inside - corner).unbind(-1)
    entropy = torch.zeros_like(x)
    for down, share_y in ((0, 1 - y), (1, y)):
        for right, share_x in ((0, 1 - x), (1, x)):
            row = (corner[..., 1] + down).clamp_max(rows - 1)
            column = (corner[..., 0] + right).clamp_max(columns - 1)
            index = (row * columns + column).long()[..., None]
            entropy = entropy - share_x * share_y * log_probability.gather(-1, index)[..., 0]
    cells = (-2, -1)
    is_nowhere = ~is_seen & is_told
    found = (entropy * is_seen).sum(cells) / is_seen.sum(cells).clamp_min(1)
    nowhere = -(log_probability[..., -1] * is_nowhere).sum(cells)
    none = nowhere / is_nowhere.sum(cells).clamp_min(1)
    return (found + NOWHERE_WEIGHT * none).mean()


def disturbed(
    places: Float[Tensor, "scene other cell 2"],
    is_seen: Bool[Tensor, "scene other cell"],
    rows: int,
    columns: int,
    seeds: Sequence[int],
) -> Matches:
    """True places as a matcher might find them: off by noise, some anywhere, less certain there.

    Args:
        places: As `true_cells` has them.
        seeds: Of each scene's random numbers, how much of each fault there is among them.
    """
    faults = [_faults(generator_of(seed), is_seen.shape[1:]) for seed in seeds]
    noise, anywhere, is_wrong, likely = (
        torch.stack(each).to(places.device) for each in zip(*faults, strict=True)
    )
    is_right = is_seen & ~is_wrong
    limits = places.new_tensor([columns, rows]) / max(rows, columns)
    true = places_of_cells(places, rows, columns) + noise
    found = torch.where(is_right[..., None], true, anywhere * limits)
    certainty = torch.sigmoid(likely + torch.where(is_right, 2.0, -1.5))
    own = cell_centers(rows, columns, places).expand(len(places), 1, -1, -1)
    return Matches(
        torch.cat([own, found], dim=1),
        torch.cat([torch.ones_like(certainty[:, :1]), certainty], dim=1),
    )


def _faults(generator: torch.Generator, shape: torch.Size) -> tuple[Tensor, ...]:
    """Of one scene's matches: noise, places anywhere, which are there, and scores of certainty."""
    level = torch.rand(2, generator=generator)
    return (
        torch.randn(*shape, 2, generator=generator) * (MOST_NOISE * level[0] ** 2),
        2 * torch.rand(*shape, 2, generator=generator) - 1,
        torch.rand(shape, generator=generator) < MOST_OUTLIERS * level[1],
        torch.randn(shape, generator=generator),
    )


def generator_of(*numbers: int) -> torch.Generator:
    """Random numbers on the CPU that follow from some numbers."""
    return torch.Generator().manual_seed(mixed(*numbers) >> 1)


@in_full_precision
def true_cameras(
    camera_from_first: Float[Tensor, "scene view 4 4"],
    intrinsics: Float[Tensor, "scene view 3 3"],
    size: tuple[int, int],
) -> CameraEstimate:
    """What an estimate should be, of scenes whose mean distance is 1.

    Args:
        intrinsics: In pixels of images of the size.
        size: Rows and columns.
    """
    tangent = max(size) / 2 / intrinsics[..., 0, 0]
    centers = invert(camera_from_first)[..., :3, 3]
    return CameraEstimate(camera_from_first[..., :3, :3], centers, tangent.log())


@in_full_precision
def cameras_of(batch: ViewBatch) -> CameraEstimate:
    """What an estimate should be, of a batch whose depth is known.

    Raises:
        ValueError: It is not.
    """
    points, is_valid = batch.points().flatten(1, 3), batch.is_valid
    assert is_valid is not None
    first_from_world = invert(batch.world_from_camera[:, :1])
    first_from_camera = first_from_world @ batch.world_from_camera
    known = is_valid.flatten(1)
    distances = transform_points(first_from_world[:, 0], points).norm(dim=-1)
    scale = (distances * known).sum(1) / known.sum(1).clamp_min(1)
    scaled = first_from_camera.clone()
    scaled[..., :3, 3] /= scale.clamp_min(1e-6)[:, None, None]
    return true_cameras(invert(scaled), batch.intrinsics, batch.size)


def estimate_loss(estimates: Sequence[CameraEstimate], truth: CameraEstimate) -> Float[Tensor, ""]:
    """Errors of rotations (matrices), centres, directions and fields of view, over all rounds."""
    total = truth.center.new_zeros(())
    is_long = truth.center.norm(dim=-1)[:, 1:] > SHORT
    for number, estimate in enumerate(estimates):
        off, true = estimate.center[:, 1:], truth.center[:, 1:]
        turned = (estimate.rotation - truth.rotation)[:, 1:].flatten(-2).norm(dim=-1)
        lengths = (off.square().sum(-1) + SHORT**2).sqrt() * true.norm(dim=-1).clamp_min(SHORT)
        direction = (1 - (off * true).sum(-1) / lengths) * is_long
        error = (
            ROTATION_WEIGHT * turned.mean()
            + (off - true).norm(dim=-1).mean()
            + DIRECTION_WEIGHT * direction.mean()
            + LENS_WEIGHT * (estimate.log_tangent - truth.log_tangent).abs().mean()
        )
        total = total + ROUND_DECAY ** (len(estimates) - 1 - number) * error
    return total


@dataclass(frozen=True)
class PathLosses:
    """What the path learns from in a step."""

    matching: Float[Tensor, ""]
    """Of the matches."""
    estimate: Float[Tensor, ""]
    """Of cameras from disturbed true matches and from those found."""


def path_losses(
    path: MatchingPath,
    matched: Matched,
    batch: ViewBatch,
    cameras: CameraEstimate,
    seed: int,
    num_cells: int,
) -> PathLosses:
    """Of a batch that the path has seen.

    Args:
        cameras: As `true_cameras` has them.
        seed: Of what is drawn in this step; what is drawn for a scene follows from its place in the
            step's batch too, so parts of a batch have the losses of the whole.
        num_cells: Matches of a scene that cameras are learnt from, drawn anew.
    """
    rows, columns = matched.grid
    # True places are to be exact, and cameras have all digits, as in the path.
    with torch.autocast(batch.images.device.type, enabled=False):
        places, is_seen, is_told = true_cells(batch, rows, columns)
        seeds = [mixed(seed, batch.first + row) for row in range(len(batch))]
        true = disturbed(places, is_seen, rows, columns, seeds)
        drawn = torch.randperm(rows * columns, generator=generator_of(seed))
        some = drawn[:num_cells].to(places.device)
        examples = Matches.joined([true.of_cells(some), matched.matches.of_cells(some)])
        return PathLosses(
            matching_loss(matched.logits, places, is_seen, is_told, columns),
            estimate_loss(path.pose(examples), CameraEstimate.joined([cameras, cameras])),
        )


def pair_losses(
    path: MatchingPath,
    pair: MatchedPair,
    batch: ViewBatch,
    seed: int,
    num_cells: int,
) -> PathLosses:
    """Of pairs of photos that were matched both ways, in float32; arguments as of `path_losses`.

    Args:
        batch: The pairs' two views.
    """
    rows, columns = pair.back.grid
    learnt = path_losses(path, pair.forth, batch, cameras_of(batch), seed, num_cells)
    with torch.autocast(batch.images.device.type, enabled=False):
        true = true_cells(batch.of_views([1, 0]), rows, columns)
        back = matching_loss(pair.back.logits, *true, columns)
    return PathLosses((learnt.matching + back) / 2, learnt.estimate)
