"""DUSt3R as an estimator: pointmaps of pairs of photos, aligned into one scene."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from fm3d_plugins.checkpoints import CATALOGUE, locate
from fm3d_plugins.disk_space import temporary_folder
from fm3d_plugins.dust3r.alignment.global_alignment import align_globally
from fm3d_plugins.dust3r.alignment.views import AlignedViews, AlignmentPriors
from fm3d_plugins.dust3r.inference import (
    PhotoEncodings,
    architecture,
    decode_pairs,
    load_network,
    photo_descriptors,
)
from fm3d_plugins.dust3r.network import DUSt3RConfig
from fm3d_plugins.dust3r.pair_pointmaps import PairPointmaps, PairStore
from fm3d_plugins.dust3r.pairs import PairGraph, require_connected, symmetrised
from fm3d_plugins.dust3r.planning import make_plan, workload
from fm3d_plugins.errors import listed
from fm3d_plugins.estimators.camera_groups import camera_groups
from fm3d_plugins.estimators.dense.cameras import DenseCameras, scaled_focals
from fm3d_plugins.estimators.dense.estimator import DenseEstimator, digest_of_scene
from fm3d_plugins.estimators.dense.seen_photos import SeenPhotos
from fm3d_plugins.estimators.dust3r.localisation import (
    NEAREST,
    KnownScene,
    found_cameras,
    pairs_to_make,
)
from fm3d_plugins.estimators.dust3r.masking import masked_pair, view_depth
from fm3d_plugins.estimators.dust3r.match_tracks import tracked_points
from fm3d_plugins.estimators.network_weights import trained_with
from fm3d_plugins.estimators.stages import Stages
from fm3d_plugins.geometry.known_cameras import KnownCameras
from fm3d_plugins.nn.planning import DTYPES, Plan, Precision, choose_device, choose_precision
from fm3d_plugins.photos.canvas import Canvases, plan_own_canvases
from fm3d_plugins.photos.photo_set import PhotoSet
from fm3d_plugins.photos.similarity import similarity_matrix
from fm3d_plugins.progress import say
from fm3d_plugins.scene import SceneGeometry

COMPLETE_UP_TO = 12
"""Photos of which all pairs are made by default: 132 predictions."""

NEIGHBOURS = 6
"""Photos most like it with which each of more photos is paired by default."""

PUBLISHED_SIZE = 512
"""Longer side of the images that most published weights were trained with, pixels."""

FOR_SQUARES = 224
"""Side of the images of published weights that saw squares alone."""

LOW_INFLUENCE = 0.2
"""A pair whose say in the result ends below this contradicts the others."""


@dataclass(frozen=True)
class Dust3r(DenseEstimator):
    """Cameras, depth and points by DUSt3R (Wang et al. 2024), which sees photos two at a time.

    `point_confidence` and the confidence of depth are 1 - 1/c of the network's c, which grows
    with certainty from 1; they are relative: compare them within one scene.
    """

    name: ClassVar[str] = "dust3r"

    weights: str = "naver/DUSt3R_ViTLarge_BaseDecoder_512_dpt"
    """official: those published; small: those that come with this package; or published weights by
    name (`fm3d weights list`), or a file or folder."""
    resolution: int | None = None
    """Longer side of what the network sees, pixels; a multiple of its patch's, 16. None: as it was
    trained, 512 where that is not known. Weights for 224 pixels see squares of that side."""
    pairs: str = "auto"
    """Which photos are seen together, always both ways: complete (all), swin-k or logwin-k (the
    next k, or those 1, 2, 4 … on, by name; add -noncyclic), oneref-r (all with photo r),
    retrieval-k (the k most like each). auto: complete up to 12 photos, else retrieval-6."""
    keep_squares: bool = True
    """Give square photos whole. Otherwise a quarter of their height is cut off, as by DUSt3R's
    own loader, because its networks saw no squares in training."""

    precision: Precision = "float32"
    """Of the matrices. float32, as published: bfloat16 moves depth by up to 12 %. auto: bfloat16
    where the device is fast at it."""
    own_matches: bool = False
    """Let --refine connect photos that features do not by the network's own matches, too. They help
    to place a photo, but verify none."""
    localize: Path | None = None
    """Folder that `fm3d process dust3r` wrote before: the photos are found in that scene, in its
    frame, and only their cameras are estimated."""

    @property
    def refines_by_tracks(self) -> bool:
        """As `own_matches` says."""
        return self.own_matches

    def identity(self) -> dict:
        """Everything besides the photos that the result depends on, as JSON values."""
        identity = super().identity()
        if self.localize is not None:
            identity["options"]["localize"] = digest_of_scene(self.localize)
        return identity

    def find_cameras(self, photos: PhotoSet) -> SceneGeometry:
        """Find a camera and a depth map for every photo, and points that several photos see.

        Raises:
            ValueError: Options make no sense, memory does not suffice, weights are damaged or
                refused, or pairs cannot be aligned.
            FileNotFoundError: The weights are not here and cannot be fetched.
        """
        self._expect_sensible(photos)
        if self.localize is not None:
            return self._localise(photos, self.localize)
        sizes = [(photo.width, photo.height) for photo in photos]
        groups = camera_groups(photos.photos, self.camera)
        known = self.read_known(photos, sizes)
        canvases = self.canvases(sizes)
        stages = Stages()
        with temporary_folder("dust3r") as temporary:
            folder = temporary
            seen = SeenPhotos(photos, canvases, drop_sky=self.drop_sky, folder=folder)
            pairs = self._see(seen, folder, stages)
            with stages.stage("Aligning pairs", total=1) as report:
                with _naming(seen.names):
                    aligned = self._align(pairs, canvases, sizes, groups, known)
                report(1)
            cameras = self._cameras(aligned, canvases, known)
            maps = canvases.map_from_photo
            depth = view_depth(seen, maps, aligned.depth, aligned.confidence)
            with stages.stage("Matching pixels", total=1) as report:
                tracked = tracked_points(pairs, depth, cameras, list(seen.shapes), seen.colors)
                report(1)
        provenance = {"seconds": stages.seconds, "pairs": len(aligned.pairs)}
        scene = tracked.added_to(self.scene(photos, groups, cameras, depth, provenance))
        _say_contradictions(aligned, scene.names)
        return scene

    def _expect_sensible(self, photos: PhotoSet) -> None:
        self.expect_ranges({})
        if len(photos) < 2 and self.localize is None:
            raise ValueError(
                f"{photos.folder} holds {len(photos)} photo. Expected at least 2, as dust3r sees "
                "pairs. Add photos, or use the estimator vggt, which takes a single one."
            )
        if self.own_matches and self.refine == "off":
            raise ValueError(
                "own_matches helps --refine, which is off. Expected --refine map, or leave it out."
            )
        if self.pairs != "auto":
            PairGraph.from_name(self.pairs)

    def canvases(self, sizes: Sequence[tuple[int, int]]) -> Canvases:
        """How photos of these widths and heights are brought to what the network sees.

        Raises:
            ValueError: The resolution does not fit to the network or the photos.
            ValueError, FileNotFoundError: As `located_weights`, of others than published weights.
        """
        patch, usual = self._patch_and_size()
        resolution = self.resolution or usual
        framing = "long" if self.keep_squares else "no-squares"
        return plan_own_canvases(
            sizes,
            resolution=resolution,
            patch=patch,
            framing="short" if resolution == FOR_SQUARES else framing,
        )

    def _patch_and_size(self) -> tuple[int, int]:
        """Side of the network's patches, and of the images that it sees best; pixels."""
        row = CATALOGUE.get(self.named_weights)
        if row is not None and not row.comes_with_package:
            return DUSt3RConfig.patch_size, row.image_size or PUBLISHED_SIZE
        file = locate(self.named_weights, commercial_only=self.commercial_only)
        trained = trained_with(file)
        patch = architecture(file.path).config.patch_size
        return patch, trained.image_size if trained else PUBLISHED_SIZE

    def _see(self, photos: SeenPhotos, folder: Path, stages: Stages) -> PairStore:
        """The network's predictions of all pairs, in files."""
        graph = self._graph(len(photos))
        encodings, plan = self._prepare(graph, photos)
        chosen = symmetrised(_pairs(graph, encodings, len(photos), stages))
        require_connected(chosen, photos.names)
        store = PairStore(folder)
        for pair in _seen_pairs(photos, encodings, chosen, plan, stages):
            store.put(pair)
        return store

    def _localise(self, photos: PhotoSet, folder: Path) -> SceneGeometry:
        """Cameras of photos in a scene that is there already."""
        scene = KnownScene.read(folder)
        both = PhotoSet(photos.folder, (*scene.photos.photos, *photos.photos))
        canvases = self.canvases([(photo.width, photo.height) for photo in both])
        seen = SeenPhotos(both, canvases, drop_sky=self.drop_sky)
        encodings, plan = self._prepare(PairGraph("swin", NEAREST), seen)
        descriptors = photo_descriptors(encodings, range(len(both)))
        similarity = similarity_matrix(descriptors - descriptors.mean(0))
        chosen = pairs_to_make(similarity, len(scene.photos))
        made: dict[int, list[PairPointmaps]] = {}
        stages = Stages()
        for pair in _seen_pairs(seen, encodings, chosen, plan, stages):
            made.setdefault(max(pair.first, pair.second), []).append(pair)
        focals = {}
        if self.focal_length is not None:
            sizes = [(photo.width, photo.height) for photo in photos]
            scaled = scaled_focals(self.focal_length, sizes).tolist()
            focals = dict(enumerate(scaled, start=len(scene.photos)))
        found, reasons = found_cameras(scene, photos, canvases, made, focals)
        for name, reason in reasons.items():
            say(f"{name} is not found: {reason}", "yellow")
        say(f"dust3r: {len(found)} of {len(photos)} photos found in {folder}.")
        return replace(found, provenance=self.identity() | {"seconds": stages.seconds})

    def _graph(self, count: int) -> PairGraph:
        name = self.pairs
        if name == "auto":
            name = "complete" if count <= COMPLETE_UP_TO else f"retrieval-{NEIGHBOURS}"
        return PairGraph.from_name(name)

    def _prepare(self, graph: PairGraph, photos: SeenPhotos) -> tuple[PhotoEncodings, Plan]:
        """The network, loaded only after it is known that it will fit, before photos."""
        file = self.located_weights()
        device = choose_device(self.device)
        precision = choose_precision(self.precision, device)
        # Which photos are alike is not known yet, but how many pairs that will make is.
        counted = PairGraph("swin", graph.number) if graph.needs_similarity else graph
        pairs = symmetrised(counted.pairs(len(photos)))
        sketch = architecture(file.path)
        plan = make_plan(
            workload(sketch, photos.shapes, pairs, DTYPES[precision], device),
            precision=precision,
            device=device,
            available=self.budget(device),
        )
        say(plan.sentence)
        network = load_network(file, DTYPES[precision], device)
        return PhotoEncodings(
            network,
            lambda row: photos.image(row) * 2 - 1,
            kept=plan.kept,
            sizes=photos.shapes,
        ), plan

    def _align(
        self,
        pairs: PairStore,
        canvases: Canvases,
        sizes: Sequence[tuple[int, int]],
        groups: Sequence[int],
        known: KnownCameras | None,
    ) -> AlignedViews:
        """One world for all pairs, in which what the user knows is kept."""
        maps = canvases.map_from_photo
        given: dict[int, Float[Tensor, "3 3"]] = {}
        if known is not None:
            given = {
                row: maps[row].intrinsics_on_map(matrix.double())
                for row, matrix in known.intrinsics.items()
            }
        elif self.focal_length is not None:
            focals = scaled_focals(self.focal_length, sizes).tolist()
            for row, (size, focal) in enumerate(zip(sizes, focals, strict=True)):
                matrix = torch.tensor([[focal, 0, size[0] / 2], [0, focal, size[1] / 2], [0, 0, 1]])
                given[row] = maps[row].intrinsics_on_map(matrix.double())
        poses = known.world_from_camera if known is not None and self.use_known_poses else {}
        beforehand = AlignmentPriors(poses, given, focal_groups=tuple(groups))
        return align_globally(pairs, canvases.shapes, beforehand)

    def _cameras(
        self, aligned: AlignedViews, canvases: Canvases, known: KnownCameras | None
    ) -> DenseCameras:
        """Cameras in photo pixels; depth agrees with them already."""
        count = len(aligned.world_from_camera)
        cameras = DenseCameras(
            world_from_camera=aligned.world_from_camera.double(),
            intrinsics=canvases.map_from_photo.intrinsics_on_photo(aligned.intrinsics.double()),
            distortion=torch.zeros(count, 6, dtype=torch.float64),
            depth_scale=torch.ones(count, dtype=torch.float64),
        )
        if known is None:
            return cameras
        for row, distortion in known.distortion.items():
            cameras.distortion[row] = distortion
        what = "Cameras" if self.use_known_poses else "Intrinsics"
        note = (
            f"{what} of {len(known.intrinsics)} photos are the given ones; the rest follows them."
        )
        return replace(cameras, notes=(note,))


@contextmanager
def _naming(names: Sequence[str]) -> Iterator[None]:
    """Add the file names of photos that an error tells by their numbers."""
    try:
        yield
    except ValueError as error:
        numbers = sorted({int(found) for found in re.findall(r"photos? (\d+)", str(error))})
        listed = ", ".join(f"{n} is {names[n]}" for n in numbers if n < len(names))
        who = f" (Photos by number: {listed}.)" if listed else ""
        raise ValueError(
            f"dust3r cannot align these photos: {error}{who} Photos that do not overlap with the "
            "others, or untrained weights, have this effect: leave such photos out, or try other "
            "--pairs."
        ) from error


def _seen_pairs(
    photos: SeenPhotos,
    encodings: PhotoEncodings,
    pairs: Sequence[tuple[int, int]],
    plan: Plan,
    stages: Stages,
) -> Iterator[PairPointmaps]:
    """What the network says of pairs of photos, made when it is asked for."""
    with stages.stage("Seeing pairs", total=len(pairs)) as report:
        for first, second, seen in decode_pairs(
            encodings, pairs, pairs_at_once=plan.at_once, report=report
        ):
            yield masked_pair(photos, first, second, seen)


def _pairs(
    graph: PairGraph, encodings: PhotoEncodings, count: int, stages: Stages
) -> list[tuple[int, int]]:
    """Each pair once; photos are encoded first where their likeness decides."""
    if not graph.needs_similarity:
        return graph.pairs(count)
    with stages.stage("Encoding photos", total=count) as report:
        descriptors = photo_descriptors(encodings, range(count))
        report(count)
    return graph.pairs(count, similarity_matrix(descriptors - descriptors.mean(0)))


def _say_contradictions(aligned: AlignedViews, names: Sequence[str]) -> None:
    """One line about how well the pairs fit, with those that contradict the others."""
    report = aligned.report
    if report is None:
        return
    say(f"Aligned {len(aligned.pairs)} pairs: median distance {report.residual:.1%} of the depth.")
    contradicting = [
        f"{names[first]} - {names[second]}"
        for (first, second), influence in zip(
            aligned.pairs.tolist(), report.pair_influence.tolist(), strict=True
        )
        if influence < LOW_INFLUENCE
    ]
    if contradicting:
        say(
            f"{len(contradicting)} pairs contradict the others and count for little: "
            f"{listed(contradicting, 8)}",
            "yellow",
        )
