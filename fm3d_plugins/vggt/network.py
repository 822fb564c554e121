"""VGGT, the visual geometry grounded transformer (Wang et al. 2025): the whole network."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fm3d_plugins.cell_matching.path import Matched, MatchingConfig, MatchingPath
from fm3d_plugins.nn.attention import joined
from fm3d_plugins.nn.patches import patch_grid
from fm3d_plugins.nn.weights import matrix_names
from fm3d_plugins.vggt.aggregator import Aggregator, AggregatorConfig
from fm3d_plugins.vggt.camera_head import CameraHead, CameraHeadConfig
from fm3d_plugins.vggt.dense_head import (
    DenseHead,
    DenseHeadConfig,
    depth_and_confidence,
    points_and_confidence,
)
from fm3d_plugins.vggt.track_head import TrackHead, TrackHeadConfig

PUBLISHED_BACKBONE = AggregatorConfig()
PUBLISHED_CAMERA = CameraHeadConfig()
PUBLISHED_DENSE = DenseHeadConfig()
PUBLISHED_TRACKS = TrackHeadConfig()
HEADS = ("camera", "depth", "points", "tracks")
FRAMES_PER_PASS_CUDA = 8
FRAMES_PER_PASS_CPU = 2
"""The dense heads need some 300 MB a frame, and more frames save them no time on a CPU."""
BACKBONE_FRAMES_PER_FRAME = 4
"""The backbone's wide layers need about a sixth of the dense heads' memory per frame, and fewer,
larger products leave threads less to wait for (27 CPU-s instead of 40 for 4 photos through DINOv2
and 4 pairs of blocks, on two busy cores)."""


@dataclass(frozen=True)
class VGGTOutputs:
    """What the heads say; none where a head was not asked. Batch axes are those of the images."""

    pose_encodings: list[Float[Tensor, "*batch view 9"]] | None = None
    """After every round of the camera head, the last being the best: `pose_encoding.decode`."""
    depth: Float[Tensor, "*batch view height width"] | None = None
    """z coordinate in the camera frame, in the scene's own units."""
    depth_confidence: Float[Tensor, "*batch view height width"] | None = None
    """Above 1; only its order means something."""
    points: Float[Tensor, "*batch view height width 3"] | None = None
    """In the first photo's camera frame (OpenCV), same units."""
    points_confidence: Float[Tensor, "*batch view height width"] | None = None
    tracks: list[Float[Tensor, "*batch view point 2"]] | None = None
    """(x, y) in pixels, after every round of the track head."""
    visibility: Float[Tensor, "*batch view point"] | None = None
    """Probability that the point is seen."""
    track_confidence: Float[Tensor, "*batch view point"] | None = None
    """Probability that the position is right."""
    matched: Matched | None = None
    """What the cameras begin with, where the network matches; one batch axis, of all scenes."""


class VGGT(nn.Module):
    """Backbone and heads; the defaults are the published network of 1.26e9 parameters.

    Attributes are named as in the published state dict (`weights.load_official`). A head whose
    config is none does not exist. `matching`, a departure, gives the camera head its first
    estimate; the published network has none. Builds on `torch.device("meta")` too.
    """

    def __init__(
        self,
        *,
        aggregator: AggregatorConfig = PUBLISHED_BACKBONE,
        camera: CameraHeadConfig | None = PUBLISHED_CAMERA,
        depth: DenseHeadConfig | None = PUBLISHED_DENSE,
        points: DenseHeadConfig | None = PUBLISHED_DENSE,
        tracks: TrackHeadConfig | None = PUBLISHED_TRACKS,
        matching: MatchingConfig | None = None,
    ) -> None:
        super().__init__()
        width, patch_size = 2 * aggregator.width, aggregator.patch_size
        self.aggregator = Aggregator(aggregator)
        self.camera_head = camera and CameraHead(camera, width)
        self.point_head = points and DenseHead(points, width, 4, patch_size=patch_size)
        self.depth_head = depth and DenseHead(depth, width, 2, patch_size=patch_size)
        self.track_head = tracks and TrackHead(tracks, width, patch_size)
        self.matching = matching and MatchingPath(matching, width, patch_size)
        unknown = {layer for layers in self.layers.values() for layer in layers} - set(
            range(aggregator.depth)
        )
        if unknown:
            raise ValueError(
                f"The heads read the layers {sorted(unknown)}, but the backbone has layers 0 to "
                f"{aggregator.depth - 1}. Make the backbone deeper or change the heads' `layers`."
            )

    @property
    def layers(self) -> dict[str, tuple[int, ...]]:
        """Of every head that exists, the backbone's layers that it reads, from 0.

        A head may be taken away by setting its attribute to none.
        """
        layers = {}
        if self.camera_head is not None:
            layers["camera"] = (self.aggregator.config.depth - 1,)
        if self.depth_head is not None:
            layers["depth"] = self.depth_head.config.layers
        if self.point_head is not None:
            layers["points"] = self.point_head.config.layers
        if self.track_head is not None:
            layers["tracks"] = self.track_head.config.maps.layers
        return layers

    def matrix_names(self) -> set[str]:
        """State dict names of the backbone's linear layers and patches.

        In bfloat16 they need half of the memory and their products less time. Norms, layer scales,
        the stream of tokens and the heads are always float32.
        """
        return matrix_names(self, ["aggregator"])

    def forward(
        self,
        images: Float[Tensor, "*batch view 3 height width"],
        query_points: Float[Tensor, "*batch point 2"] | None = None,
        *,
        heads: Sequence[str] = HEADS,
        frames_per_pass: int | None = None,
    ) -> VGGTOutputs:
        """Geometry of one or several scenes.

        Args:
            images: RGB in [0, 1], sides multiples of the patch size; the first photo's camera is
                the world, the order of the others has no influence.
            query_points: (x, y) in pixels of the first photo, to be tracked; without them there
                are no tracks. Here the centre of the first pixel is (0, 0), as published.
            heads: Which outputs to compute: `camera`, `depth`, `points`, `tracks`. Only what
                these read is kept.
            frames_per_pass: Photos that the dense heads work on at once; without gradients the
                backbone's wide layers take four times as many. Bounds the memory and has no
                other influence. By default 8, or 2 on a CPU.

        Raises:
            ValueError: For sizes or heads that the network does not have.
        """
        if frames_per_pass is None:
            frames_per_pass = default_frames_per_pass(images.device)
        if query_points is None:
            # The default asks for all heads, and tracks need points to follow.
            heads = [head for head in heads if head != "tracks" or self.track_head is None]
        self._check_heads(heads, query_points)
        grid = patch_grid(images, self.aggregator.config.patch_size)
        self._check_sizes(images, query_points, frames_per_pass)
        batch = images.shape[:-4]
        scenes = images.reshape(-1, *images.shape[-4:])
        layers = {layer for head in heads for layer in self.layers[head]}
        tokens = Tokens(
            self.aggregator(
                scenes, layers, frames_per_pass=BACKBONE_FRAMES_PER_FRAME * frames_per_pass
            ),
            grid=grid,
            num_special=self.aggregator.num_special,
            frames_per_pass=frames_per_pass,
        )
        if query_points is not None:
            query_points = query_points.reshape(-1, *query_points.shape[-2:])
        results: dict[str, Any] = {}
        matched = None
        for head in heads:
            if head == "camera":
                encodings, matched = self._cameras(scenes, tokens)
                results["pose_encodings"] = encodings
            else:
                results |= self._outputs(head, tokens, query_points)
        outputs = {name: _with_batch(value, batch) for name, value in results.items()}
        return VGGTOutputs(**outputs, matched=matched)

    def _cameras(
        self, scenes: Float[Tensor, "batch view 3 height width"], tokens: "Tokens"
    ) -> tuple[list[Float[Tensor, "batch view 9"]], Matched | None]:
        """Pose encodings after every round, and the matches that they begin with, if any."""
        assert self.camera_head is not None
        last = tokens.layers[self.layers["camera"][0]]
        if self.matching is None:
            return self.camera_head(last[:, :, 0]), None
        matched = self.matching(scenes, last[:, :, tokens.num_special :], tokens.grid)
        first = matched.estimate.encodings(scenes.shape[-2], scenes.shape[-1])
        return self.camera_head(last[:, :, 0], first), matched

    def _outputs(
        self, head: str, tokens: "Tokens", query_points: Float[Tensor, "batch point 2"] | None
    ) -> dict[str, Any]:
        """What another head than that of cameras says, by the names of `VGGTOutputs`."""
        layers = self.layers[head]
        if head == "depth" and self.depth_head is not None:
            maps = tokens.per_photo(layers, self.depth_head, depth_and_confidence)
            return dict(zip(("depth", "depth_confidence"), maps, strict=True))
        if head == "points" and self.point_head is not None:
            maps = tokens.per_photo(layers, self.point_head, points_and_confidence)
            return dict(zip(("points", "points_confidence"), maps, strict=True))
        assert self.track_head is not None
        extractor = self.track_head.feature_extractor
        (features,) = tokens.per_photo(layers, extractor, lambda raw: (raw,))
        names = ("tracks", "visibility", "track_confidence")
        return dict(zip(names, self.track_head.tracker(query_points, features), strict=True))

    def _check_heads(
        self, heads: Sequence[str], query_points: Float[Tensor, "*batch point 2"] | None
    ) -> None:
        """Refuse heads that do not exist and options that would do nothing."""
        present = self.layers
        absent = [head for head in heads if head not in present]
        if absent:
            raise ValueError(
                f"This network has no head {', '.join(map(repr, absent))}; it has "
                f"{', '.join(present)}. Ask for those in `heads`."
            )
        if query_points is not None and "tracks" not in heads:
            raise ValueError(
                "There are query points, but `tracks` is not among the heads "
                f"({', '.join(heads)}). Add it, or leave the query points out."
            )
        if not heads:
            raise ValueError(
                "No head is asked for that could say something; tracks need query points. "
                f"Name some of {', '.join(present)} in `heads`, or give `query_points`."
            )

    def _check_sizes(
        self,
        images: Float[Tensor, "*batch view 3 height width"],
        query_points: Float[Tensor, "*batch point 2"] | None,
        frames_per_pass: int,
    ) -> None:
        """Refuse sizes that would fail deep inside."""
        if frames_per_pass < 1 or images.shape[-4] < 1:
            raise ValueError(
                f"Found {images.shape[-4]} photos and frames_per_pass={frames_per_pass}; "
                "expected at least 1 of both."
            )
        if query_points is not None and self.track_head is not None:
            height, width = images.shape[-2:]
            smallest = self.track_head.config.smallest_side
            if min(height, width) < smallest:
                raise ValueError(
                    f"The images have {height} x {width} pixels; tracks need sides of at least "
                    f"{smallest}. Use larger images, or leave the query points out."
                )


def default_frames_per_pass(device: torch.device) -> int:
    """Photos that the heads work on at once; more gain little time on a CPU."""
    return FRAMES_PER_PASS_CUDA if device.type == "cuda" else FRAMES_PER_PASS_CPU


@dataclass(frozen=True)
class Tokens:
    """The backbone's tokens by layer, and how dense heads read them."""

    layers: dict[int, Float[Tensor, "batch view token channel"]]
    grid: tuple[int, int]
    """Patches in a column and in a row."""
    num_special: int
    """Tokens before the patches."""
    frames_per_pass: int

    def per_photo(
        self,
        layers: Sequence[int],
        head: nn.Module,
        finish: Callable[[Tensor], tuple[Tensor, ...]],
    ) -> list[Float[Tensor, "batch view ..."]]:
        """A dense head's output, activated by `finish`, computed a few photos at a time."""
        batch, views = self.layers[layers[0]].shape[:2]
        frames = [self.layers[layer].flatten(0, 1)[:, self.num_special :] for layer in layers]
        parts = [
            finish(head(chunk, self.grid))
            for chunk in zip(*(frame.split(self.frames_per_pass) for frame in frames), strict=True)
        ]
        columns = zip(*parts, strict=True)
        return [joined(column).unflatten(0, (batch, views)) for column in columns]


def _with_batch(value: Any, batch: Sequence[int]) -> Any:
    """A tensor, or a list of tensors, with the images' batch axes in place of one."""
    if isinstance(value, list):
        return [_with_batch(each, batch) for each in value]
    return value.reshape(*batch, *value.shape[1:])
