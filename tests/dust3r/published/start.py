"""Where the published global alignment starts: a spanning tree of the pairs, or known poses."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fm3d_plugins.backends.opencv import absolute_pose
from fm3d_plugins.geometry.alignment import Similarity, umeyama
from fm3d_plugins.geometry.focal import weiszfeld_focal
from fm3d_plugins.geometry.poses import invert, pose_from_rotation_translation, transform_points
from tests.dust3r.published.parameters import (
    FOCAL_UNIT,
    MEAN_PAIR_SCALE,
    OfficialParameters,
    PairBatch,
    integer_pixels,
    pose_parameters,
)

PNP_ITERATIONS, PNP_PIXELS = 10, 5.0
"""Hypotheses and largest reprojection error where a pose comes from points and pixels."""

LEAST_CONFIDENCE = 3.0
"""Pixels below it give no pose."""

AXIS_SHARE = 1e-2
"""Length of the cameras' z axes that are aligned with their centres, per distance of cameras."""


@dataclass
class _Tree:
    """What the spanning tree has placed so far."""

    points: dict[int, Float[Tensor, "_ 3"]] = field(default_factory=dict)
    poses: dict[int, Float[Tensor, "4 4"]] = field(default_factory=dict)
    focals: dict[int, float] = field(default_factory=dict)
    order: list[tuple[int, int]] = field(default_factory=list)


def pair_scores(batch: PairBatch) -> Float[Tensor, " pair"]:
    """Mean confidence of the first photo times that of the second."""
    scores = [
        batch.map_of(pair, 0)[1].mean() * batch.map_of(pair, 1)[1].mean()
        for pair in range(len(batch.edges))
    ]
    return torch.stack(scores)


def photo_confidence(batch: PairBatch) -> Float[Tensor, "photo pixel"]:
    """Every pixel's largest confidence over all pairs; 0 in padding."""
    largest = batch.confidence.new_zeros(batch.is_pixel.shape)
    for (first, second), confidence in zip(batch.edges.tolist(), batch.confidence, strict=True):
        largest[first] = torch.maximum(largest[first], confidence[0])
        largest[second] = torch.maximum(largest[second], confidence[1])
    return largest * batch.is_pixel


@torch.no_grad()
def start_from_tree(parameters: OfficialParameters, *, has_stale_focals: bool = True) -> None:
    """Chain the pairs along the spanning tree of highest scores, and set all parameters.

    Args:
        has_stale_focals: The published code gives the first photo of a tree edge, if it has no
            focal length yet, that of the pointmap of the **edge before**. Where focal lengths
            differ the result is wrong by as much. Without it, each has that of its own pointmap.

    Raises:
        ValueError: The pairs do not join all photos, or a photo gets no pose from its pixels.
            The message names photos. (The published code takes the identity.)
    """
    batch = parameters.batch
    tree = _grow(batch, has_stale_focals)
    _complete(batch, tree)
    _set_pairs(parameters, tree)
    factor = 1.0
    if parameters.is_scale_normalized:
        factor = float(MEAN_PAIR_SCALE / parameters.pairs[:, 7].mean().exp())
    for photo in range(len(batch.sizes)):
        pose = tree.poses[photo].clone()
        pose[:3, 3] *= factor
        points = tree.points[photo] * factor
        set_camera(parameters, photo, pose, tree.focals[photo])
        set_depth(parameters, photo, transform_points(invert(pose), points)[:, 2])


@torch.no_grad()
def start_from_known_poses(
    parameters: OfficialParameters,
    world_from_camera: Float[Tensor, "photo 4 4"],
    focals: Float[Tensor, " photo"],
) -> None:
    """Pairs placed by the known poses of their two cameras; poses and focals are held.

    As published, the second camera of a pair is found with the first one's focal length and
    mask, which is wrong where cameras differ; the optimiser recovers.

    Raises:
        ValueError: The sizes of two photos of a pair differ, or a pair gives no relative pose.
    """
    batch = parameters.batch
    sure = photo_confidence(batch) > LEAST_CONFIDENCE
    best: dict[int, tuple[float, Tensor]] = {}
    for pair, first in enumerate(batch.edges[:, 0].tolist()):
        similarity = _place_by_cameras(batch, pair, sure[first], world_from_camera, focals)
        _set_pair(parameters, pair, similarity)
        points, confidence = batch.map_of(pair, 0)
        score = float(confidence.mean())
        if first not in best or score > best[first][0]:
            best[first] = (score, points[:, 2] * similarity.scale)
    for photo, (pose, focal) in enumerate(zip(world_from_camera, focals.tolist(), strict=True)):
        set_camera(parameters, photo, pose, focal)
        set_depth(parameters, photo, best[photo][1])
    parameters.is_scale_normalized = False
    parameters.cameras.requires_grad_(False)
    parameters.focals.requires_grad_(False)


def set_camera(
    parameters: OfficialParameters, photo: int, pose: Float[Tensor, "4 4"], focal: float
) -> None:
    """Put one photo's pose and focal length in pixels into its parameters."""
    parameters.cameras[photo] = pose_parameters(pose[:3, :3], pose[:3, 3])
    parameters.focals[photo, 0] = FOCAL_UNIT * torch.tensor(focal).log()


def set_depth(parameters: OfficialParameters, photo: int, depth: Float[Tensor, " pixel"]) -> None:
    """Put one photo's depth into its parameters; depths that are not positive become 1."""
    parameters.log_depth[photo, : len(depth)] = depth.log().nan_to_num(0.0, neginf=0.0)


def _grow(batch: PairBatch, has_stale_focals: bool) -> _Tree:
    """Follow the tree's edges by falling score from the best one."""
    waiting = _tree_edges(batch)
    tree, previous = _Tree(), None
    while waiting:
        pair = waiting.pop(0)
        first, second = batch.edges[pair].tolist()
        (points_first, sure_first), (points_second, sure_second) = (
            batch.map_of(pair, side) for side in (0, 1)
        )
        if previous is None:
            tree.points = {first: points_first, second: points_second}
            tree.poses[first] = torch.eye(4, dtype=points_first.dtype)
            tree.focals[first] = own_focal(batch, pair)
        else:
            if has_stale_focals and first not in tree.focals:
                tree.focals[first] = own_focal(batch, previous)
            if first in tree.points:
                moved = umeyama(points_first, tree.points[first], sure_first)
                tree.points[second] = moved.apply(points_second)
            elif second in tree.points:
                moved = umeyama(points_second, tree.points[second], sure_second)
                tree.points[first] = moved.apply(points_first)
            else:
                waiting.append(pair)
                continue
            pose = pose_from_rotation_translation(moved.rotation, moved.translation)
            tree.poses.setdefault(first, pose)
        tree.order.append((first, second))
        previous = pair
    return tree


def _tree_edges(batch: PairBatch) -> list[int]:
    """Pairs of the spanning tree by falling score; of both orders of a pair the better one."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import minimum_spanning_tree

    scores, num_photos = pair_scores(batch).double(), len(batch.sizes)
    rows, columns = batch.edges.T.numpy()
    graph = coo_matrix((-scores.numpy(), (rows, columns)), shape=(num_photos, num_photos))
    tree = minimum_spanning_tree(graph.tocsr()).tocoo()
    if tree.nnz != num_photos - 1:
        raise ValueError(
            f"The {len(batch.edges)} pairs join the {num_photos} photos into "
            f"{num_photos - tree.nnz} separate groups; expected one. Add pairs between the groups."
        )
    wanted = set(zip(tree.row.tolist(), tree.col.tolist(), strict=True))
    pairs = [pair for pair, edge in enumerate(batch.edges.tolist()) if tuple(edge) in wanted]
    return sorted(pairs, key=lambda pair: -float(scores[pair]))


def own_focal(batch: PairBatch, pair: int) -> float:
    """Focal length of a pair's first photo by its pointmap."""
    height, width = batch.sizes[int(batch.edges[pair, 0])]
    points, _ = batch.map_of(pair, 0)
    pixels = integer_pixels((height, width)) - torch.tensor([width / 2, height / 2])
    return float(weiszfeld_focal(pixels.to(points), points))


def _complete(batch: PairBatch, tree: _Tree) -> None:
    """Focal lengths by each photo's best pair, then poses by its points and pixels."""
    scores, confidence = pair_scores(batch), photo_confidence(batch)
    for photo, (height, width) in enumerate(batch.sizes):
        if photo not in tree.focals:
            own = (batch.edges[:, 0] == photo).nonzero().flatten()
            if len(own) == 0:
                raise ValueError(
                    f"No pair has photo {photo} as its first, so its focal length is unknown. "
                    "Expected every pair in both orders: symmetrise the graph."
                )
            tree.focals[photo] = own_focal(batch, int(own[scores[own].argmax()]))
        if photo not in tree.poses:
            sure = confidence[photo, : height * width] > LEAST_CONFIDENCE
            pixels = integer_pixels((height, width))
            try:
                camera_from_world = pose_of(
                    tree.points[photo][sure], pixels[sure], (height, width), tree.focals[photo]
                )
            except ValueError as error:
                raise ValueError(f"Photo {photo} has no pose. {error}") from error
            tree.poses[photo] = invert(camera_from_world)


def pose_of(
    points: Float[Tensor, "point 3"],
    pixels: Float[Tensor, "point 2"],
    size: tuple[int, int],
    focal: float,
    iterations: int = PNP_ITERATIONS,
) -> Float[Tensor, "4 4"]:
    """Pose `camera_from_points` of a photo whose principal point is (width / 2, height / 2)."""
    height, width = size
    rows = [[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]]
    pose, _ = absolute_pose(
        points, pixels, torch.tensor(rows), threshold=PNP_PIXELS, iterations=iterations
    )
    return pose


def _set_pairs(parameters: OfficialParameters, tree: _Tree) -> None:
    """Every pair where its first photo's points are, by raw confidence."""
    for pair, first in enumerate(parameters.batch.edges[:, 0].tolist()):
        points, confidence = parameters.batch.map_of(pair, 0)
        _set_pair(parameters, pair, umeyama(points, tree.points[first], confidence))


def _set_pair(parameters: OfficialParameters, pair: int, similarity: Similarity) -> None:
    pose = pose_parameters(similarity.rotation, similarity.translation / similarity.scale)
    parameters.pairs[pair] = torch.cat([pose, similarity.scale.log().reshape(1)])


def _place_by_cameras(
    batch: PairBatch,
    pair: int,
    sure: Bool[Tensor, " pixel"],
    world_from_camera: Float[Tensor, "photo 4 4"],
    focals: Float[Tensor, " photo"],
) -> Similarity:
    """Similarity of a pair that brings its two cameras to their known poses."""
    first, second = batch.edges[pair].tolist()
    if batch.sizes[first] != batch.sizes[second]:
        raise ValueError(
            f"The photos {first} and {second} have the sizes {batch.sizes[first]} and "
            f"{batch.sizes[second]}; the published start from known poses needs equal ones. Use "
            "the default alignment, which takes any."
        )
    points, _ = batch.map_of(pair, 1)
    pixels, size = integer_pixels(batch.sizes[first]), batch.sizes[first]
    used = sure[: len(points)]
    try:
        second_from_first = pose_of(points[used], pixels[used], size, float(focals[first]))
    except ValueError as error:
        raise ValueError(
            f"The pair of photos {first} and {second} gives no relative pose. {error}"
        ) from error
    in_pair = torch.stack([torch.eye(4).to(points), invert(second_from_first)])
    return umeyama(
        _centers_and_axes(in_pair), _centers_and_axes(world_from_camera[[first, second]].to(points))
    )


def _centers_and_axes(poses: Float[Tensor, "2 4 4"]) -> Float[Tensor, "4 3"]:
    """Centres of two cameras, and points a little before them."""
    centers = poses[:, :3, 3]
    length = AXIS_SHARE * (centers[1] - centers[0]).norm()
    return torch.cat([centers, centers + length * poses[:, :3, 2]])
