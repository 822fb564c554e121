"""VGGT as an estimator: photos to cameras, depth and points in one forward pass, or in chunks."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

from fm3d_plugins.disk_space import temporary_folder
from fm3d_plugins.estimators.camera_groups import camera_groups
from fm3d_plugins.estimators.chunks.joining import JoinedViews, join_chunks
from fm3d_plugins.estimators.chunks.plan import Chunks, plan_chunks
from fm3d_plugins.estimators.dense.cameras import photo_focals
from fm3d_plugins.estimators.dense.depth_store import DepthStore
from fm3d_plugins.estimators.dense.estimator import DenseEstimator
from fm3d_plugins.estimators.dense.seen_photos import SeenPhotos
from fm3d_plugins.estimators.network_weights import trained_with
from fm3d_plugins.estimators.refinement.belief import DRIFT
from fm3d_plugins.estimators.stages import Stages
from fm3d_plugins.estimators.vggt.network_chunks import predictions
from fm3d_plugins.nn.planning import DTYPES, Plan, choose_device, choose_precision
from fm3d_plugins.photos.canvas import Canvases, Framing, plan_common_canvas
from fm3d_plugins.photos.photo_set import PhotoSet
from fm3d_plugins.photos.similarity import (
    looks_like_a_sequence,
    photo_descriptors,
    similarity_matrix,
)
from fm3d_plugins.progress import say
from fm3d_plugins.scene import SceneGeometry
from fm3d_plugins.vggt.inference import architecture, load_network, predict, usual_size
from fm3d_plugins.vggt.network import VGGT, default_frames_per_pass
from fm3d_plugins.vggt.planning import make_plan, workload

OVERLAP_SHARE, LEAST_OVERLAP = 1 / 3, 2
"""Share of a chunk's photos that are also in the chunk before it, and their number at least."""


@dataclass(frozen=True)
class Vggt(DenseEstimator):
    """Cameras, depth and points by VGGT (Wang et al. 2025), a network that sees all photos at once.

    `point_confidence` and the confidence of depth are 1 - 1/c of the network's c, which grows
    with certainty from 1; they are relative: compare them within one scene.
    """

    name: ClassVar[str] = "vggt"

    weights: str = "facebook/VGGT-1B"
    """official: those published; small: those that come with this package; or published weights by
    name (`fm3d weights list`), or a file or folder."""
    resolution: int | None = None
    """Longer side of what the network sees, pixels; a multiple of its patch's, 14. None: as it was
    trained, 518 for published weights."""
    framing: Framing = "fit"
    """How photos are brought to that size. fit: whole, pixels square; crop or pad: as VGGT's own
    loader (height cut at the width, or white margins to a square); square: black margins."""
    reference: str = "first"
    """The photo whose camera is the world: first (by name), central (the one most like the
    others), or a file name. The network treats it differently from the others."""
    chunk_size: int | None = None
    """Most photos at once; None: as many as memory holds, or as weights that say so were trained
    with."""
    overlap: int | None = None
    """Photos that a chunk shares with the one before it; None: a third of the chunk, two at
    least."""
    order: Literal["auto", "sequence", "unordered"] = "auto"
    """Whether the names' order is the path of the camera; matters for chunks only."""

    def find_cameras(self, photos: PhotoSet) -> SceneGeometry:
        """Find a camera and a depth map for every photo.

        Raises:
            ValueError: Options make no sense, memory does not suffice, weights are damaged or
                refused, or chunks do not fit together.
            FileNotFoundError: The weights are not here and cannot be fetched.
        """
        self._expect_sensible(photos)
        sizes = [(photo.width, photo.height) for photo in photos]
        groups = camera_groups(photos.photos, self.camera)
        known = self.read_known(photos, sizes)
        network, plan, canvases = self._prepare(sizes)
        stages = Stages()
        is_cut = plan.at_once < len(photos)
        with temporary_folder("vggt") as temporary:
            folder = temporary if is_cut else None
            seen = SeenPhotos(photos, canvases, drop_sky=self.drop_sky, folder=folder)
            maps = DepthStore((len(seen), *seen.common_shape), canvases.map_from_photo, folder)
            chunks = self._chunks(plan, seen)
            joined = _joined(network, chunks, seen, maps, stages)
            del network
            focals = photo_focals(joined.intrinsics, canvases.map_from_photo)
            cameras = self.settled_cameras(joined.world_from_camera, focals, sizes, groups, known)
            depth = maps.finished(joined.depth_scale * cameras.depth_scale, seen.all_colors)
        provenance = {"seconds": stages.seconds, "plan": plan.sentence, DRIFT: joined.drift}
        scene = self.scene(photos, groups, cameras, depth, provenance)
        for complaint in joined.complaints(seen.names):
            say(complaint, "yellow")
        return scene

    def _expect_sensible(self, photos: PhotoSet) -> None:
        self.expect_ranges({"chunk_size": (2, float("inf")), "overlap": (1, float("inf"))})
        names = {photo.name for photo in photos}
        if self.reference not in {"first", "central"} | names:
            raise ValueError(
                f"The reference {self.reference!r} is not among the {len(names)} photos (first: "
                f"{photos.photos[0].name}). Expected first, central or a file name."
            )

    def _prepare(self, sizes: Sequence[tuple[int, int]]) -> tuple[VGGT, Plan, Canvases]:
        """The network, loaded only after it is known that it will fit."""
        file = self.located_weights()
        device = choose_device(self.device)
        sketch, trained = architecture(file.path), trained_with(file)
        patch = sketch.aggregator.config.patch_size
        canvases = plan_common_canvas(
            sizes, longest=self.resolution or usual_size(sketch, trained), patch=patch,
            framing=self.framing,
        )  # fmt: skip
        precision = choose_precision(self.precision, device)
        shape, in_pass = canvases.common_shape, default_frames_per_pass(device)
        plan = make_plan(
            workload(sketch, len(sizes), *shape, DTYPES[precision], in_pass),
            precision=precision,
            device=device,
            available=self.budget(device),
            chunk_size=self.chunk_size or (trained and trained.num_views),
        )
        say(plan.sentence)
        return load_network(file, DTYPES[precision], device), plan, canvases

    def _chunks(self, plan: Plan, photos: SeenPhotos) -> Chunks:
        """Which photos are seen together; the reference comes first where all are."""
        count, size = len(photos), plan.at_once
        if size == count and self.reference != "central":
            first = 0 if self.reference == "first" else photos.names.index(self.reference)
            return _whole(first, count)
        similarity = similarity_matrix(photo_descriptors(map(photos.colors, range(count))))
        if size == count:
            return _whole(int(similarity.sum(1).argmax()), count)
        is_path = self.order == "sequence"
        if self.order == "auto":
            is_path = looks_like_a_sequence(similarity)
        return plan_chunks(
            count,
            chunk_size=size,
            overlap=min(self.overlap or max(LEAST_OVERLAP, round(OVERLAP_SHARE * size)), size - 1),
            order=list(range(count)) if is_path else None,
            similarity=similarity,
        )


def _joined(
    network: VGGT, chunks: Chunks, photos: SeenPhotos, maps: DepthStore, stages: Stages
) -> JoinedViews:
    """Run the network on all photos, or on chunks that are then joined."""
    total = sum(len(members) for members in chunks.members)
    with stages.stage("Seeing photos", total=total) as report:
        seen = predictions(partial(predict, network), chunks, photos, report)
        return join_chunks(seen, chunks, photos.names, sink=maps.put)


def _whole(first: int, count: int) -> Chunks:
    """All photos in one chunk, one of them before the others."""
    order = [first, *(row for row in range(count) if row != first)]
    return plan_chunks(count, chunk_size=max(2, count), overlap=1, order=order)
