"""VGGT as an estimator: photos to cameras, depth and points in one forward pass, or in chunks."""

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fm3d_plugins.estimators.base import Estimator
from fm3d_plugins.estimators.camera_groups import camera_groups
from fm3d_plugins.network_photos import Canvas, Framing, plan_canvas
from fm3d_plugins.photos import PhotoSet
from fm3d_plugins.scene import SceneGeometry, ViewDepth

if TYPE_CHECKING:
    from fm3d_plugins.estimators.chunks.joining import JoinedViews
    from fm3d_plugins.estimators.chunks.plan import Chunks
    from fm3d_plugins.estimators.dense_cameras import DenseCameras, KnownCameras
    from fm3d_plugins.estimators.dense_points import DensePoints
    from fm3d_plugins.estimators.depth_store import DepthStore
    from fm3d_plugins.estimators.stages import Stages
    from fm3d_plugins.vggt.network import VGGT
    from fm3d_plugins.vggt.planning import Plan

UNSURE = 0.1
"""Median confidence (1 - 1/c, so c of 1.1) of a photo below which its camera is doubted."""

OVERLAP_SHARE = 1 / 3
"""Of a chunk, that it shares with the one before it."""


@dataclass(frozen=True)
class Vggt(Estimator):
    """Cameras, depth and points by VGGT (Wang et al. 2025), a network that sees all photos at once.

    `point_confidence` and the confidence of depth are 1 - 1/c of the network's c, which grows
    with certainty from 1; they are relative: compare them within one scene.
    """

    name: ClassVar[str] = "vggt"

    weights: str = "facebook/VGGT-1B"
    """Published weights by name (`fm3d weights list`), or a file or folder."""
    commercial_only: bool = False
    """Refuse weights whose licence forbids commercial use."""
    resolution: int = 518
    """Longer side of what the network sees, pixels; a multiple of 14. It was trained at 518."""
    framing: Framing = "fit"
    """How photos are brought to that size. fit: whole, pixels square; crop or pad: as VGGT's own
    loader (height cut at the width, or white margins to a square); square: black margins."""
    reference: str = "first"
    """The photo whose camera is the world: first (by name), central (the one most like the
    others), or a file name. The network treats it differently from the others."""
    camera: Literal["auto", "shared", "per-photo"] = "auto"
    """Which photos share one focal length: those that agree in size and EXIF; all; none."""
    focal_length: float | None = None
    """Known focal length in pixels of the largest photo; None: as the network sees it."""
    known_cameras: Path | None = None
    """Posed scene (transforms.json or COLMAP folder) with cameras of some or all photos, which
    are kept as they are; all else is aligned to them."""
    use_known_poses: bool = True
    """Otherwise only the intrinsics of known_cameras count."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of the matrices; auto: bfloat16 where the device is fast at it."""
    chunk_size: int | None = None
    """Most photos at once; None: as many as memory holds."""
    overlap: int | None = None
    """Photos that a chunk shares with the one before it; None: a third of the chunk."""
    order: Literal["auto", "sequence", "unordered"] = "auto"
    """Whether the names' order is the path of the camera; matters for chunks only."""
    drop_sky: bool = True
    """Leave out the depth of smooth, bright areas that hang from a photo's upper border."""
    confidence_percentile: float = 20.0
    """Percent of the pixels, the least sure ones, that become no points."""
    min_confidence: float = 0.1
    """Pixels below this confidence (0 to 1) become no points."""
    consistent_views: int = 1
    """Other views that must agree on a pixel's depth for it to become a point; 0: none."""
    depth_tolerance: float = 0.05
    """Relative difference of depths that still agree."""
    max_points: int = 200_000
    """Most points, spread evenly over space."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: CUDA where there is a device."""
    memory_gib: float | None = None
    """Memory that may be used, GiB; None: what is free on the device."""

    def identity(self) -> dict:
        """Everything besides the photos that the result depends on, as JSON values."""
        from fm3d_plugins.estimators.weights_identity import weights_sha256

        identity = super().identity()
        options = identity["options"]
        for name in ("device", "memory_gib", "commercial_only"):
            del options[name]
        if self.known_cameras is not None:
            options["known_cameras"] = _digest(self.known_cameras)
        return identity | {"weights_sha256": weights_sha256(self.weights)}

    def estimate(self, photos: PhotoSet) -> SceneGeometry:
        """Find a camera and a depth map for every photo, and points.

        Raises:
            ValueError: Options make no sense, memory does not suffice, weights are damaged or
                refused, or chunks do not fit together.
            FileNotFoundError: The weights are not here and cannot be fetched.
        """
        from fm3d_plugins.estimators.depth_store import DepthStore
        from fm3d_plugins.estimators.stages import Stages

        self._expect_sensible(photos)
        sizes = [(photo.width, photo.height) for photo in photos]
        groups = camera_groups(photos.photos, self.camera)
        known = self._known(photos, sizes)
        network, plan, canvas = self._prepare(sizes)
        _print(plan.sentence)
        stages = Stages()
        is_cut = plan.photos_at_once < len(photos)
        shape = len(photos), canvas.height, canvas.width
        with TemporaryDirectory(prefix="fm3d-vggt-", ignore_cleanup_errors=True) as folder:
            maps = DepthStore(shape, canvas.map_from_photo(), Path(folder) if is_cut else None)
            joined = self._see(network, plan, photos, canvas, maps, stages)
            del network
            cameras = self._cameras(joined, canvas, sizes, groups, known)
            depth = maps.finished(joined.depth_scale * cameras.depth_scale)
            points = self._points(depth, cameras, photos, canvas, stages)
        scene = SceneGeometry(
            names=tuple(photo.name for photo in photos),
            image_sizes=torch.tensor(sizes),
            world_from_camera=cameras.world_from_camera,
            intrinsics=cameras.intrinsics,
            distortion=cameras.distortion,
            camera_index=_shared_cameras(groups, cameras),
            points=points.points,
            point_colors=points.colors,
            point_confidence=points.confidence,
            tracks=points.tracks,
            depth=depth,
            provenance=self.identity() | {"seconds": stages.seconds, "plan": plan.sentence},
        )
        names = [photo.name for photo in photos]
        _say(scene, depth, [*joined.complaints(names), *cameras.notes])
        return scene

    def _expect_sensible(self, photos: PhotoSet) -> None:
        ranges: dict[str, tuple[float, float]] = {
            "chunk_size": (2, float("inf")),
            "overlap": (1, float("inf")),
            "max_points": (1, float("inf")),
            "memory_gib": (0.1, float("inf")),
            "focal_length": (1, float("inf")),
            "confidence_percentile": (0, 100),
            "min_confidence": (0, 1),
            "depth_tolerance": (0, 1),
            "consistent_views": (0, 6),
        }
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise ValueError(f"{name} is {value}. Expected a number from {low} to {high}.")
        names = {photo.name for photo in photos}
        if self.reference not in {"first", "central"} | names:
            raise ValueError(
                f"The reference {self.reference!r} is not among the {len(names)} photos (first: "
                f"{photos.photos[0].name}). Expected first, central or a file name."
            )
        if self.focal_length is not None and self.known_cameras is not None:
            raise ValueError(
                "Both focal_length and known_cameras are given. Expected one of them, as both say "
                "what the focal length is. Leave one out."
            )

    def _known(self, photos: PhotoSet, sizes: list[tuple[int, int]]) -> "KnownCameras | None":
        from fm3d_plugins.estimators.dense_cameras import known_cameras
        from fm3d_plugins.io.posed_scenes import read_posed_scene

        if self.known_cameras is None:
            return None
        scene = read_posed_scene(self.known_cameras)
        names = [photo.name for photo in photos]
        return known_cameras(scene, names, sizes, str(self.known_cameras))

    def _prepare(self, sizes: list[tuple[int, int]]) -> "tuple[VGGT, Plan, Canvas]":
        """The network, loaded only after it is known that it will fit."""
        from fm3d_plugins.backends.checkpoints import locate
        from fm3d_plugins.memory import available_memory
        from fm3d_plugins.vggt.inference import architecture, load_network
        from fm3d_plugins.vggt.planning import (
            DTYPES,
            choose_precision,
            frames_per_pass,
            make_plan,
            workload,
        )

        file = locate(self.weights, commercial_only=self.commercial_only)
        device = self._device()
        sketch = architecture(file.path)
        patch = sketch.aggregator.config.patch_size
        canvas = plan_canvas(sizes, longest=self.resolution, patch=patch, framing=self.framing)
        precision = choose_precision(self.precision, device)
        budget = int(self.memory_gib * 2**30) if self.memory_gib else available_memory(device)
        shape, in_pass = (canvas.height, canvas.width), frames_per_pass(device)
        plan = make_plan(
            workload(sketch, len(sizes), *shape, DTYPES[precision], in_pass),
            precision=precision,
            device=device,
            available=budget,
            chunk_size=self.chunk_size,
        )
        return load_network(file, DTYPES[precision], device), plan, canvas

    def _device(self) -> torch.device:
        if self.device == "cpu" or (self.device == "auto" and not torch.cuda.is_available()):
            return torch.device("cpu")
        if not torch.cuda.is_available():
            raise ValueError("device is cuda, but there is no CUDA device. Set it to auto or cpu.")
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))

    def _see(
        self,
        network: "VGGT",
        plan: "Plan",
        photos: PhotoSet,
        canvas: Canvas,
        maps: "DepthStore",
        stages: "Stages",
    ) -> "JoinedViews":
        """Run the network on all photos, or on chunks that are then joined."""
        from fm3d_plugins.estimators.chunks.joining import join_chunks
        from fm3d_plugins.estimators.network_chunks import predictions
        from fm3d_plugins.vggt.inference import predict

        chunks = self._chunks(plan, photos, canvas)
        total = sum(len(members) for members in chunks.members)
        with stages.stage("Seeing photos", total=total) as report:
            seen = predictions(
                partial(predict, network),
                chunks,
                photos,
                canvas,
                drop_sky=self.drop_sky,
                report=report,
            )
            names = [photo.name for photo in photos]
            return join_chunks(seen, chunks, sink=maps.put, names=names)

    def _chunks(self, plan: "Plan", photos: PhotoSet, canvas: Canvas) -> "Chunks":
        """Which photos are seen together; the reference comes first where all are."""
        from fm3d_plugins.estimators.chunks.plan import plan_chunks
        from fm3d_plugins.estimators.chunks.similarity import (
            looks_like_a_sequence,
            photo_descriptors,
            similarity_matrix,
        )
        from fm3d_plugins.estimators.network_chunks import colors_on_canvas

        count, size = len(photos), plan.photos_at_once
        if size == count and self.reference != "central":
            names = [photo.name for photo in photos]
            first = 0 if self.reference == "first" else names.index(self.reference)
            return plan_chunks(
                count, chunk_size=max(2, count), overlap=1, order=_from(first, count)
            )
        colors = (colors_on_canvas(photos, canvas, row) for row in range(count))
        similarity = similarity_matrix(photo_descriptors(colors))
        if size == count:
            order = _from(int(similarity.sum(1).argmax()), count)
            return plan_chunks(count, chunk_size=max(2, count), overlap=1, order=order)
        is_path = self.order == "sequence"
        if self.order == "auto":
            is_path = looks_like_a_sequence(similarity)
        return plan_chunks(
            count,
            chunk_size=size,
            overlap=min(self.overlap or max(1, round(OVERLAP_SHARE * size)), size - 1),
            order=list(range(count)) if is_path else None,
            similarity=similarity,
        )

    def _cameras(
        self,
        joined: "JoinedViews",
        canvas: Canvas,
        sizes: list[tuple[int, int]],
        groups: list[int],
        known: "KnownCameras | None",
    ) -> "DenseCameras":
        from fm3d_plugins.estimators.dense_cameras import (
            photo_focals,
            respect_known,
            settle_cameras,
        )

        focals = photo_focals(joined.intrinsics, canvas.map_from_photo())
        cameras = settle_cameras(joined.world_from_camera, focals, sizes, groups, self.focal_length)
        if known is None:
            return cameras
        return respect_known(cameras, known, use_poses=self.use_known_poses)

    def _points(
        self,
        depth: ViewDepth,
        cameras: "DenseCameras",
        photos: PhotoSet,
        canvas: Canvas,
        stages: "Stages",
    ) -> "DensePoints":
        from fm3d_plugins.estimators.dense_points import PointOptions, points_from_views
        from fm3d_plugins.estimators.network_chunks import colors_on_canvas

        options = PointOptions(
            percentile=self.confidence_percentile,
            least_confidence=self.min_confidence,
            consistent_views=self.consistent_views,
            tolerance=self.depth_tolerance,
            max_points=self.max_points,
        )
        colors_of = partial(colors_on_canvas, photos, canvas)
        with stages.stage("Making points", total=len(depth)) as report:
            return points_from_views(depth, cameras, colors_of, options, report)


def _from(first: int, count: int) -> list[int]:
    """All rows, one of them before the others."""
    return [first, *(row for row in range(count) if row != first)]


def _shared_cameras(groups: list[int], cameras: "DenseCameras") -> Int[Tensor, " view"]:
    """Views of a group whose intrinsics are equal share a camera; given ones may differ."""
    numbers = torch.cat(
        [
            torch.tensor(groups, dtype=torch.float64)[:, None],
            cameras.intrinsics.flatten(1),
            cameras.distortion,
        ],
        dim=1,
    )
    return numbers.unique(dim=0, return_inverse=True)[1]


def _digest(path: Path) -> str:
    """Of the files that `read_posed_scene` may read there."""
    import hashlib

    total = hashlib.blake2b(digest_size=16)
    files = [path] if path.is_file() else sorted(path.rglob("*"))
    for file in files:
        if file.suffix in (".json", ".bin", ".txt"):
            total.update(file.read_bytes())
    return total.hexdigest()


def _median_confidence(confidence: Float[Tensor, "rows columns"]) -> float:
    known = confidence[confidence > 0].float()
    return float(known.median()) if len(known) else 0.0


def _say(scene: SceneGeometry, depth: ViewDepth, notes: list[str]) -> None:
    """One line about the result, and one for each thing that the user should know."""
    surety = [_median_confidence(values) for values in depth.confidence]
    focals = sorted({round(float(matrix[0, 0]), 1) for matrix in scene.intrinsics})
    listed = f"{focals[0]:g}" if len(focals) == 1 else f"{focals[0]:g} to {focals[-1]:g}"
    _print(
        f"vggt: {len(scene)} photos, {len(scene.points)} points, focal length {listed} px, median "
        f"confidence {sorted(surety)[len(surety) // 2]:.2f} (0 to 1)."
    )
    for note in notes:
        _print(note)
    doubted = [name for name, value in zip(scene.names, surety, strict=True) if value < UNSURE]
    if doubted:
        _print(
            f"vggt is unsure of {len(doubted)} photos, which may not overlap with the others or "
            f"show things that move: {', '.join(doubted[:10])}",
            "yellow",
        )


def _print(line: str, style: str | None = None) -> None:
    from nerfstudio.utils.rich_utils import CONSOLE

    CONSOLE.print(line, style=style, markup=False, highlight=False, soft_wrap=True)
