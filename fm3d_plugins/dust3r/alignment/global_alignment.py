"""Many pairs' pointmaps become cameras and depth of all photos in one world."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from fm3d_plugins.dust3r.alignment.depth_fusion import fuse_depth
from fm3d_plugins.dust3r.alignment.samples import Samples, take_samples
from fm3d_plugins.dust3r.alignment.solver import (
    Solution,
    Unknowns,
    median_residual,
    pair_influence,
    solve,
)
from fm3d_plugins.dust3r.alignment.start import known_groups, start_state
from fm3d_plugins.dust3r.alignment.state import State
from fm3d_plugins.dust3r.alignment.views import AlignedViews, AlignmentPriors, AlignmentReport
from fm3d_plugins.dust3r.pair_pointmaps import PairPointmaps
from fm3d_plugins.geometry.cameras import intrinsics_matrix

SAMPLES_PER_PHOTO = 1500
"""Pixels of every photo that cameras are solved on; depth has all."""

MAX_STEPS = 60
"""Most steps of the solver; about fifteen are usual."""


@torch.no_grad()
def align_globally(
    pairs: Iterable[PairPointmaps],
    sizes: Sequence[tuple[int, int]],
    known: AlignmentPriors | None = None,
) -> AlignedViews:
    """Cameras and depth on which all pairs agree best (Wang et al. 2024, section 3.4).

    Works on a sample of pixels, then gives every pixel its depth in closed form: no pair's maps
    are kept. Without two known poses the unit is the geometric mean of the pairs' units.

    Args:
        pairs: Read three times, so a list or a `PairStore`, not an iterator that is used up. Both
            orders of every pair, best.
        sizes: (height, width) of every photo as the network saw it.
        known: Cameras that are kept exactly; none: nothing is known.

    Raises:
        ValueError: The pairs cannot be aligned; the message names the pair or the photos.
    """
    if isinstance(pairs, Iterator):
        raise ValueError(
            "The pairs are an iterator, which can be read only once; expected something that can "
            "be read again. Put them into a list or a PairStore."
        )
    known = known or AlignmentPriors()
    photo_sizes = [(height, width) for height, width in sizes]
    known.require_usable(len(photo_sizes))
    samples = take_samples(pairs, photo_sizes, SAMPLES_PER_PHOTO)
    state = start_state(samples, photo_sizes, known)
    solution = solve(state, samples, _unknowns(state, known), MAX_STEPS)
    solution = _normalized(solution, known)
    share = pair_influence(solution, samples)
    depth, confidence = fuse_depth(pairs, solution.state, photo_sizes, share, solution.reach)
    return _views(solution, samples, share, depth, confidence)


def _unknowns(state: State, known: AlignmentPriors) -> Unknowns:
    """Without a known pose, the first photo's holds the world in place."""
    cameras = torch.ones(len(state.world_from_camera), dtype=torch.bool)
    cameras[sorted(known.world_from_camera) or [0]] = False
    groups = torch.ones(len(state.log_focals), dtype=torch.bool)
    groups[known_groups(state.group_of_photo, known)] = False
    return Unknowns(cameras, groups, not _is_scale_known(known))


def _is_scale_known(known: AlignmentPriors) -> bool:
    """Whether two known cameras are at different places."""
    centers = [pose[:3, 3] for pose in known.world_from_camera.values()]
    return any(not torch.equal(center, centers[0]) for center in centers[1:])


def _normalized(solution: Solution, known: AlignmentPriors) -> Solution:
    """The same world in the mean unit of the pairs, about a camera that must stay, if free."""
    if _is_scale_known(known):
        return solution
    state = solution.state
    shift = state.log_scales.mean()
    factor = (-shift).exp()
    held = min(known.world_from_camera, default=0)
    center = state.world_from_camera[held, :3, 3].clone()
    cameras = state.world_from_camera.clone()
    others = [photo for photo in range(len(cameras)) if photo not in known.world_from_camera]
    cameras[others, :3, 3] = center + factor * (cameras[others, :3, 3] - center)
    normalized = replace(
        state,
        log_scales=state.log_scales - shift,
        world_from_camera=cameras,
        depth=[each * factor for each in state.depth],
    )
    return replace(solution, state=normalized)


def _views(
    solution: Solution,
    samples: Samples,
    share: Float[Tensor, " pair"],
    depth: list[Float[Tensor, "_ _"]],
    confidence: list[Float[Tensor, "_ _"]],
) -> AlignedViews:
    state = solution.state
    report = AlignmentReport(
        solution.steps, solution.is_converged, median_residual(state, samples), share
    )
    (fx, fy), (cx, cy) = state.focals().unbind(-1), state.principal_points.unbind(-1)
    return AlignedViews(
        world_from_camera=state.world_from_camera,
        intrinsics=intrinsics_matrix(fx, fy, cx, cy),
        depth=depth,
        confidence=confidence,
        pairs=samples.pairs,
        pair_scales=state.log_scales.exp(),
        report=report,
    )
