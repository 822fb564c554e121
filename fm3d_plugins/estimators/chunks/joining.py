"""Predictions of overlapping chunks, each in its own frame and unit, joined into one world."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fm3d_plugins.errors import listed
from fm3d_plugins.estimators.chunks.joint import JointMeasurement, SharedView, measure_joint
from fm3d_plugins.estimators.chunks.plan import Chunks
from fm3d_plugins.estimators.chunks.prediction import ChunkPrediction
from fm3d_plugins.geometry.neighbours import mean_steps
from fm3d_plugins.geometry.pointmaps import points_at
from fm3d_plugins.geometry.pose_graph import PoseGraphSolution, solve_pose_graph
from fm3d_plugins.geometry.poses import nearest_rotation

POINTS_PER_PHOTO = 1000
"""Pixels of a shared photo that are compared between its chunks."""

SEQUENCE_TRUST = 10.0
"""By how many spreads of its points a planned overlap may be off before it counts as wrong."""

LOOP_TRUST = 1.5
"""The same of chunks that tie two places together: those may only look alike, so in a loop that
does not close they are to blame first. Sound ones are off by a few tenths."""

CONTRADICTED = 0.25
"""A joint whose influence on the result ends below this is reported as contradicted."""

DOUBTFUL_SHARE = 0.6
"""A joint with a smaller share of agreeing points is reported."""

MOST_NAMES = 8
"""Longer lists of photos in a message are shortened."""

DepthSink = Callable[[int, Tensor, Tensor], None]
"""Takes a photo's number, depth [height, width] in its chunk's unit, and confidence."""


@dataclass(frozen=True)
class Joint:
    """Two chunks with photos in common, and how well they agree."""

    chunks: tuple[int, int]
    """Their numbers in the plan."""
    photos: tuple[int, ...]
    """The photos in both."""
    inlier_share: float
    """Share of the compared points that agree; 0 if nothing could be measured."""
    residual: float
    """Median distance of the compared points as a share of their depth; inf likewise."""
    influence: float
    """1 where the joint holds in the joined world, towards 0 where all others contradict it; 0 if
    nothing could be measured."""
    failure: str | None = None
    """Why nothing could be measured, or none."""

    def complaint(self, names: Sequence[str]) -> str | None:
        """What a user should know of this joint, in one line; none where all is well."""
        place = f"chunks {self.chunks[0]} and {self.chunks[1]} ({_photos(self.photos, names)})"
        if self.failure is not None:
            return f"{place} could not be joined directly: {self.failure}"
        if self.influence < CONTRADICTED:
            return f"{place}: their overlap is contradicted by the other chunks and was left out"
        if self.inlier_share < DOUBTFUL_SHARE:
            return (
                f"{place} disagree: only {self.inlier_share:.0%} of their common points fit, "
                f"at a median distance of {self.residual:.1%} of the depth"
            )
        return None


@dataclass(frozen=True)
class JoinedViews:
    """All photos in one world: that of the first chunk, in its unit."""

    world_from_camera: Float[Tensor, "photo 4 4"]
    """Rigid OpenCV cameras, float64."""
    intrinsics: Float[Tensor, "photo 3 3"]
    """In pixels of the depth maps, float64."""
    depth_scale: Float[Tensor, " photo"]
    """Multiplies the depth that the sink was given for a photo."""
    joints: tuple[Joint, ...]
    """Every pair of chunks with common photos."""

    @property
    def drift(self) -> float:
        """How many times as far off a camera is from all others as within its chunk.

        If each chunk is turned and shifted at random against the one that it is joined to, two
        photos that are n joints apart differ by n such errors, and one photo from the mean of all
        by half as many squares.
        """
        joined = [joint.chunks for joint in self.joints if joint.influence > 0]
        return (1 + mean_steps(np.array(joined, dtype=np.int64).reshape(-1, 2)) / 2) ** 0.5

    def complaints(self, names: Sequence[str]) -> list[str]:
        """One line for each joint that a user should know of, with the photos' names."""
        lines = (joint.complaint(names) for joint in self.joints)
        return [line for line in lines if line is not None]


@dataclass(frozen=True)
class _ChunkCameras:
    """What is kept of a chunk to the end."""

    world_from_camera: Float[Tensor, "view 4 4"]
    intrinsics: Float[Tensor, "view 3 3"]
    confidence: Float[Tensor, " view"]


@dataclass(frozen=True)
class _MeasuredPair:
    chunks: tuple[int, int]
    photos: tuple[int, ...]
    is_loop: bool
    measurement: JointMeasurement | None
    failure: str | None


def join_chunks(
    predictions: Iterable[ChunkPrediction],
    plan: Chunks,
    names: Sequence[str],
    *,
    sink: DepthSink | None = None,
) -> JoinedViews:
    """Join chunks as they come; of each, only cameras and a few points of open photos are kept.

    Each pair of chunks with common photos is measured (`measure_joint`) as soon as both are
    there, and all pairs are made to agree by a pose graph over the chunks. A photo of several
    chunks gets the mean of their cameras, weighted by confidence and by how central it is; chunks
    that only tie two places together are left out of it.

    Args:
        predictions: One for each chunk of the plan, in the plan's order.
        names: Of all photos, for messages.
        sink: Is given the depth of every photo once, from the chunk where it is most central.
            Multiply by the result's `depth_scale`.

    Raises:
        ValueError: A prediction is not of the planned photos, or chunks cannot be joined; the
            message names the photos.
    """
    joiner = _Joiner(plan, names)
    for prediction in predictions:
        joiner.add(prediction, sink)
    return joiner.finish()


class _Joiner:
    """Chunks that came so far."""

    def __init__(self, plan: Chunks, names: Sequence[str]) -> None:
        self.plan = plan
        self.names = names
        self.homes = plan.homes
        self.last_chunk = {
            photo: chunk for chunk, photos in enumerate(plan.members) for photo in photos
        }
        self.chunks: list[_ChunkCameras] = []
        self.pairs: list[_MeasuredPair] = []
        self.open: dict[int, dict[int, SharedView]] = {}
        """By photo and chunk; a photo is closed once its last chunk has come."""
        self.sizes: dict[int, torch.Size] = {}

    def add(self, prediction: ChunkPrediction, sink: DepthSink | None) -> None:
        """Measure a chunk against the earlier ones, hand its depth on, and forget the rest."""
        number = len(self.chunks)
        self._require_planned(number, prediction)
        self.chunks.append(
            _ChunkCameras(
                prediction.world_from_camera.detach().double().cpu(),
                prediction.intrinsics.detach().double().cpu(),
                _mean_confidence(prediction.confidence).cpu(),
            )
        )
        for view, photo in enumerate(prediction.view_index):
            if photo in self.open or self.last_chunk[photo] > number:
                self.open.setdefault(photo, {})[number] = _sample(prediction, view)
            if sink is not None and self.homes[photo] == number:
                sink(photo, prediction.depth[view], prediction.confidence[view])
        for earlier in range(number):
            self._measure(earlier, number)
        for photo in [photo for photo in self.open if self.last_chunk[photo] == number]:
            del self.open[photo]

    def finish(self) -> JoinedViews:
        """Solve for the chunks' frames, then place every photo."""
        if len(self.chunks) != len(self.plan.members):
            raise ValueError(
                f"{len(self.chunks)} predictions came for {len(self.plan.members)} chunks. "
                "Expected one for each. Hand over the missing ones."
            )
        used = [pair for pair in self.pairs if pair.measurement is not None]
        placed = self._reached(used)
        used = [pair for pair in used if pair.chunks[0] in placed]
        solution = _solve(used, placed)
        # A loop's chunk that fits nowhere has no place; no photo depends on it.
        world_from_chunk = torch.full((len(self.chunks), 4, 4), torch.nan, dtype=torch.float64)
        world_from_chunk[placed] = solution.world_from_node
        scale = torch.linalg.det(world_from_chunk[:, :3, :3]).pow(1 / 3)
        cameras, intrinsics = self._fuse(world_from_chunk, scale)
        influence = dict(zip((p.chunks for p in used), solution.influence.tolist(), strict=True))
        joints = tuple(_joint(pair, influence.get(pair.chunks, 0.0)) for pair in self.pairs)
        return JoinedViews(cameras, intrinsics, scale[list(self.homes)], joints)

    def _require_planned(self, number: int, prediction: ChunkPrediction) -> None:
        planned = self.plan.members[number] if number < len(self.plan.members) else ()
        if tuple(prediction.view_index) != planned:
            found = _photos(prediction.view_index, self.names)
            raise ValueError(
                f"The prediction of chunk {number} is of {found}. Expected "
                f"{_photos(planned, self.names)}, in this order. Predict the chunks in the plan's "
                "order."
            )
        size = prediction.depth.shape[-2:]
        for photo in planned:
            if self.sizes.setdefault(photo, size) != size:
                raise ValueError(
                    f"The depth of {_photos([photo], self.names)} is {tuple(size)} in chunk "
                    f"{number} and was {tuple(self.sizes[photo])} before. Expected the same size "
                    "in all its chunks, as pixels are compared. Resize the photo alike for each."
                )

    def _measure(self, earlier: int, later: int) -> None:
        """Compare two chunks, if they have photos in common."""
        photos = tuple(
            photo
            for photo in self.plan.members[later]
            if earlier in self.open.get(photo, {}) and later in self.open[photo]
        )
        if not photos:
            return
        views = [[self.open[photo][chunk] for photo in photos] for chunk in (earlier, later)]
        measurement = failure = None
        try:
            measurement = measure_joint(*views)
        except ValueError as error:
            failure = str(error)
        is_loop = self.plan.is_loop[later]
        self.pairs.append(_MeasuredPair((earlier, later), photos, is_loop, measurement, failure))

    def _reached(self, used: Sequence[_MeasuredPair]) -> list[int]:
        """Chunks that are joined to the first one.

        Raises:
            ValueError: One that photos depend on is not; with the photos and the reason.
        """
        reached = {0}
        for _ in self.chunks:
            reached |= {c for pair in used if reached & set(pair.chunks) for c in pair.chunks}
        numbers = range(len(self.chunks))
        lost = [chunk for chunk in numbers if chunk not in reached and not self.plan.is_loop[chunk]]
        if not lost:
            return sorted(reached)
        photos = sorted({photo for chunk in lost for photo in self.plan.members[chunk]})
        reasons = [
            f"chunks {pair.chunks[0]} and {pair.chunks[1]} through "
            f"{_photos(pair.photos, self.names)}: {pair.failure}"
            for pair in self.pairs
            if pair.failure and (pair.chunks[0] in reached) != (pair.chunks[1] in reached)
        ]
        raise ValueError(
            f"The chunks {lost} with {_photos(photos, self.names)} cannot be joined to the others. "
            f"Tried: {'; '.join(reasons) or 'none, they have no photos in common'}. Expected the "
            "predictions of shared photos to agree. Use a larger overlap, leave out photos that "
            "are blurred or show nothing, or take more photos between these places."
        )

    def _fuse(
        self, world_from_chunk: Float[Tensor, "chunk 4 4"], scale: Float[Tensor, " chunk"]
    ) -> tuple[Float[Tensor, "photo 4 4"], Float[Tensor, "photo 3 3"]]:
        """Weighted mean of every photo's cameras and intrinsics over its chunks."""
        num_photos = self.plan.num_photos
        cameras = torch.zeros(num_photos, 4, 4, dtype=torch.float64)
        intrinsics = torch.zeros(num_photos, 3, 3, dtype=torch.float64)
        total = torch.zeros(num_photos, dtype=torch.float64)
        for number, chunk in enumerate(self.chunks):
            # A chunk of two places may be wrong about one of them without being needed for either.
            if self.plan.is_loop[number]:
                continue
            photos = torch.tensor(self.plan.members[number])
            weights = torch.tensor(self.plan.centrality[number]).double() * chunk.confidence
            placed = world_from_chunk[number] @ chunk.world_from_camera
            placed[:, :3, :3] /= scale[number]
            cameras.index_add_(0, photos, weights[:, None, None] * placed)
            intrinsics.index_add_(0, photos, weights[:, None, None] * chunk.intrinsics)
            total.index_add_(0, photos, weights)
        cameras, intrinsics = cameras / total[:, None, None], intrinsics / total[:, None, None]
        cameras[:, :3, :3] = nearest_rotation(cameras[:, :3, :3])
        return cameras, intrinsics


def _solve(pairs: Sequence[_MeasuredPair], chunks: Sequence[int]) -> PoseGraphSolution:
    """Frames of the given chunks, in their order; the first is the world."""
    node = {chunk: row for row, chunk in enumerate(chunks)}
    edges = [[node[chunk] for chunk in pair.chunks] for pair in pairs]
    trust = [LOOP_TRUST if pair.is_loop else SEQUENCE_TRUST for pair in pairs]
    measured = [pair.measurement for pair in pairs if pair.measurement is not None]
    empty = torch.zeros(0, dtype=torch.float64)
    return solve_pose_graph(
        torch.tensor(edges, dtype=torch.long).reshape(-1, 2),
        torch.cat([empty, *(joint.first_from_second.flatten() for joint in measured)]).reshape(
            -1, 4, 4
        ),
        torch.cat([empty, *(joint.information.flatten() for joint in measured)]).reshape(-1, 7, 7),
        num_nodes=len(chunks),
        loss_scale=torch.tensor(trust, dtype=torch.float64),
    )


def _joint(pair: _MeasuredPair, influence: float) -> Joint:
    if pair.measurement is None:
        return Joint(pair.chunks, pair.photos, 0.0, float("inf"), 0.0, pair.failure)
    measured = pair.measurement
    return Joint(pair.chunks, pair.photos, measured.inlier_share, measured.residual, influence)


def _sample(prediction: ChunkPrediction, view: int) -> SharedView:
    """The same scattered pixels of a photo in every chunk."""
    height, width = prediction.depth.shape[-2:]
    generator = torch.Generator().manual_seed(prediction.view_index[view])
    chosen = torch.randperm(height * width, generator=generator)[:POINTS_PER_PHOTO]
    pixels = (torch.stack([chosen % width, chosen // width], dim=-1) + 0.5).double()
    depth, confidence = (
        part[view].detach().flatten()[chosen.to(part.device)].double().cpu()
        for part in (prediction.depth, prediction.confidence)
    )
    camera = prediction.world_from_camera[view].detach().double().cpu()
    intrinsics = prediction.intrinsics[view].detach().double().cpu()
    points = points_at(pixels, depth, intrinsics, camera)
    return SharedView(points, depth, confidence, camera)


def _mean_confidence(confidence: Float[Tensor, "view height width"]) -> Float[Tensor, " view"]:
    """Mean over the pixels; a view without any keeps a little, to have a place at all."""
    mean = confidence.detach().double().nan_to_num(0.0).flatten(1).mean(1)
    return mean.clamp(min=1e-6)


def _photos(photos: Iterable[int], names: Sequence[str]) -> str:
    return listed([names[photo] for photo in photos], MOST_NAMES)
