"""Where an alignment starts: focal lengths, one pointmap per photo, and a pose graph of the pairs.

**Departure** from the published start (a spanning tree of the pairs, which one wrong but confident
pair misleads, and in which a photo can get another one's focal length): all pairs are chained by a
robust pose graph, and every photo's focal length is estimated from its own pointmaps.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fm3d_plugins.dust3r.alignment.samples import PhotoSamples, Samples
from fm3d_plugins.dust3r.alignment.state import State
from fm3d_plugins.dust3r.alignment.views import AlignmentPriors
from fm3d_plugins.geometry.alignment import Similarity, align_cameras, robust_umeyama
from fm3d_plugins.geometry.focal import weiszfeld_focal
from fm3d_plugins.geometry.pose_graph import points_information, solve_pose_graph

PAIR_SPREAD = 0.03
"""How far, as a share of depth, a good pair moves points against the others."""

GRAPH_REACH = 3.0
"""Residual, in units of PAIR_SPREAD, from which the most confident pair counts less in the pose
graph."""

LEAST_TRUST = 0.05
"""Lower bound of a pair's trust, where the most confident pair has 1. Without it a single pair of
far too high confidence would make all others worthless."""

JOINT_POINTS = 400
"""How many points place a photo in a pair's frame."""

JOINT_HYPOTHESES = 64
"""Random triples of points that are tried to place it. With 30 % wrong points all of them hold a
wrong one once in 10^11 times."""


def start_state(samples: Samples, sizes: list[tuple[int, int]], known: AlignmentPriors) -> State:
    """Every unknown's first value; what is known is exactly as given.

    Raises:
        ValueError: A pair's points cannot be aligned, a photo's imply no focal length, or known
            focal lengths of one group differ. The message names pair or photo.
    """
    principal_points = _principal_points(sizes, known)
    base_focals, groups = _focals(samples, principal_points, known)
    shapes = [
        _canonical_points(photo, principal_points[number], base_focals[number])
        for number, photo in enumerate(samples.photos)
    ]
    relative, units, trust, information = _relative_poses(samples, shapes)
    world_from_photo = solve_pose_graph(
        samples.pairs,
        relative,
        information,
        num_nodes=len(sizes),
        loss_scale=GRAPH_REACH * trust,
    ).world_from_node
    scales = torch.linalg.det(world_from_photo[:, :3, :3]).pow(1 / 3)
    cameras = world_from_photo.clone()
    cameras[:, :3, :3] /= scales[:, None, None]
    cameras, factor = _meet_known_poses(cameras, known)
    scales = scales * factor
    first = samples.pairs[:, 0]
    return State(
        log_scales=(scales[first] / units).log(),
        first_of_pair=first,
        world_from_camera=cameras,
        log_focals=torch.zeros(int(groups.max()) + 1, dtype=torch.float64),
        group_of_photo=groups,
        base_focals=base_focals,
        principal_points=principal_points,
        depth=[shape[:, 2] * scale for shape, scale in zip(shapes, scales, strict=True)],
    )


def known_groups(groups: Int[Tensor, " photo"], known: AlignmentPriors) -> list[int]:
    """Focal groups in which some photo's intrinsics are known."""
    return sorted({int(groups[photo]) for photo in known.intrinsics})


def _principal_points(
    sizes: list[tuple[int, int]], known: AlignmentPriors
) -> Float[Tensor, "photo 2"]:
    """Those of known intrinsics, else the middle of the photo."""
    points = torch.tensor([[width / 2, height / 2] for height, width in sizes]).double()
    for photo, intrinsics in known.intrinsics.items():
        points[photo] = intrinsics[:2, 2].double()
    return points


def _focals(
    samples: Samples, principal_points: Float[Tensor, "photo 2"], known: AlignmentPriors
) -> tuple[Float[Tensor, "photo 2"], Int[Tensor, " photo"]]:
    """(fx, fy) of every photo and its focal group: the median over the group's pointmaps."""
    given = known.focal_groups or tuple(range(len(samples.photos)))
    names = sorted(set(given))
    groups = torch.tensor([names.index(name) for name in given])
    focals = torch.empty(len(given), 2, dtype=torch.float64)
    for group in range(len(names)):
        members = (groups == group).nonzero().flatten().tolist()
        found = {photo: known.intrinsics[photo] for photo in members if photo in known.intrinsics}
        if found:
            focals[members] = _known_focal(found)
            continue
        estimates = [_photo_focals(samples, photo, principal_points) for photo in members]
        focals[members] = torch.cat(estimates).median()
    return focals, groups


def _known_focal(found: dict[int, Float[Tensor, "3 3"]]) -> Float[Tensor, " 2"]:
    focals = torch.stack([each.diagonal()[:2] for each in found.values()]).double()
    if not torch.allclose(focals, focals[:1].expand_as(focals), rtol=1e-4):
        raise ValueError(
            f"The photos {sorted(found)} share a focal length, but their known ones differ: "
            f"{focals.tolist()} (fx, fy). Correct the intrinsics, or give them different groups."
        )
    return focals[0]


def _photo_focals(
    samples: Samples, photo: int, principal_points: Float[Tensor, "photo 2"]
) -> Float[Tensor, " pair"]:
    """One focal length per pointmap of a photo in its own frame."""
    each = samples.photos[photo]
    own = torch.tensor(each.is_first)
    pixels = (each.pixels - principal_points[photo]).expand(int(own.sum()), -1, -1)
    try:
        return weiszfeld_focal(pixels, each.points[own], each.weights[own])
    except ValueError as error:
        raise ValueError(
            f"The focal length of photo {photo} cannot be estimated. {error}"
        ) from error


def _canonical_points(
    samples: PhotoSamples, principal_point: Float[Tensor, " 2"], focal: Float[Tensor, " 2"]
) -> Float[Tensor, "pixel 3"]:
    """A photo's points in its own camera, their mean log depth 0: the mean of its own pointmaps."""
    own = torch.tensor(samples.is_first)
    z, weights = samples.points[own][..., 2], samples.weights[own]
    weights = torch.where(z > 0, weights, 0.0) + 1e-9
    log_z = z.clamp(min=1e-3 * float(z.abs().median()) + 1e-30).log()
    # Each pair's unit is taken out first, as the mean over the same pixels with the same weights.
    share = weights.sum(0) / weights.sum()
    centered = log_z - (share * log_z).sum(-1, keepdim=True)
    depth = ((weights * centered).sum(0) / weights.sum(0)).exp()
    plane = (samples.pixels - principal_point) / focal
    return torch.nn.functional.pad(plane, (0, 1), value=1.0) * depth.unsqueeze(-1)


def _relative_poses(samples: Samples, shapes: list[Float[Tensor, "_ 3"]]):
    """Per pair: similarity first_from_second, unit, trust in (0, 1], and information."""
    relative, units, trust, information = [], [], [], []
    for pair, (first, second) in enumerate(samples.pairs.tolist()):
        points, weights = samples.of(first, pair)
        is_used = (weights > 0) & (points[:, 2] > 0)
        ratio = points[is_used, 2] / shapes[first][is_used, 2]
        others, other_weights = samples.of(second, pair)
        try:
            pair_from_second = _place(shapes[second], others, other_weights)
            if not is_used.any():
                raise ValueError("All its points lie behind the first camera.")
        except ValueError as error:
            raise ValueError(
                f"The pair of photos {first} and {second} cannot be aligned: {error}"
            ) from error
        unit = ratio.median()
        units.append(unit)
        matrix = pair_from_second.matrix()
        matrix[:3] /= unit
        relative.append(matrix)
        trust.append((weights.mean() * other_weights.mean()).sqrt())
        z = shapes[second][:, 2]
        share = other_weights / (other_weights * z.square()).sum() / PAIR_SPREAD**2
        information.append(points_information(shapes[second], share))
    confidence = torch.stack(trust)
    return (
        torch.stack(relative),
        torch.stack(units),
        (confidence / confidence.max()).clamp(min=LEAST_TRUST),
        torch.stack(information),
    )


def _place(
    shape: Float[Tensor, "pixel 3"],
    points: Float[Tensor, "pixel 3"],
    weights: Float[Tensor, " pixel"],
) -> Similarity:
    """Similarity from a photo's own frame into a pair's, by the confident half of the points."""
    order = weights.argsort(descending=True)[: max(3, int((weights > 0).sum()) // 2)]
    # Every so many of them, not the most confident ones, which lie together.
    chosen = order[:: max(1, len(order) // JOINT_POINTS)]
    similarity, _ = robust_umeyama(
        shape[chosen],
        points[chosen],
        weights[chosen].clamp(min=1e-9),
        num_hypotheses=JOINT_HYPOTHESES,
    )
    return similarity


def _meet_known_poses(
    cameras: Float[Tensor, "photo 4 4"], known: AlignmentPriors
) -> tuple[Float[Tensor, "photo 4 4"], Float[Tensor, ""]]:
    """Cameras in the world of the known poses, those exactly in place, and the change of unit."""
    if not known.world_from_camera:
        return cameras, cameras.new_ones(())
    photos = sorted(known.world_from_camera)
    poses = torch.stack([known.world_from_camera[photo].double() for photo in photos])
    similarity = align_cameras(cameras[photos], poses)
    cameras = similarity.apply_to_pose(cameras)
    cameras[photos] = poses
    return cameras, similarity.scale
