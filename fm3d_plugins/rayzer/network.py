"""RayZer (Jiang et al. 2025, arXiv 2505.00702): cameras and views of photos in order."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fm3d_plugins.cell_matching.path import Matched, MatchingConfig, MatchingPath
from fm3d_plugins.geometry.rays import plucker_maps
from fm3d_plugins.nn.linear import Linear
from fm3d_plugins.nn.patches import patch_grid
from fm3d_plugins.nn.view_planning import Pass
from fm3d_plugins.nn.view_synthesis import (
    RAY_CHANNELS,
    ImageHead,
    PatchTokenizer,
    ViewNetwork,
    initialize,
    learned_tokens,
    make_blocks,
    matched,
    run,
)
from fm3d_plugins.rayzer.cameras import (
    Canonical,
    PosePredictor,
    PredictedCameras,
    RotationForm,
    grid_waves,
    waves,
)


@dataclass(frozen=True)
class RayZerConfig:
    """Sizes; the defaults are the published network of 238e6 parameters."""

    width: int = 768
    head_width: int = 64
    patch_size: int = 16
    camera_depth: int = 8
    """Blocks of the camera estimator."""
    scene_depth: int = 12
    """Of the scene encoder."""
    decoder_depth: int = 12
    """Of the rendering decoder."""
    num_latents: int = 3072
    """Tokens that hold a scene."""
    canonical: Canonical = "middle"
    """The view whose camera is the identity."""
    rotation: RotationForm = "6d"
    num_views: int = 24
    """Photos that it was trained with, in one sequence; no other number is of use."""
    num_contexts: int = 16
    """Of these, photos that the scene was made of."""
    correlation: bool = False
    """**Departure:** predictions are added to cameras from matches of features
    (`cell_matching/path.py`), not to cameras that all stand at the canonical one."""


class RayZerOutputs(NamedTuple):
    """What one pass says."""

    cameras: PredictedCameras
    """Of all views."""
    renders: Float[Tensor, "scene target 3 height width"]
    """Of the target views, RGB in (0, 1)."""
    matched: Matched | None = None
    """What the cameras begin with, where the network matches; the canonical view is first."""


class GivenCameras(NamedTuple):
    """Cameras to render with in place of the predicted ones, in the canonical one's frame."""

    world_from_camera: Float[Tensor, "scene view 4 4"]
    intrinsics: Float[Tensor, "scene view 3 3"]
    """In pixels of the images."""


class RayZer(ViewNetwork):
    """Photos in the order of a video to cameras, a scene, and views of it.

    Builds on `torch.device("meta")` too. It was trained with 24 photos, 16 of which it sees the
    scene through (`geometry`), and is not to be trusted with other numbers: its tokens carry
    their photo's number.
    """

    advice = "Choose a checkpoint of RayZer, or build the network with the checkpoint's sizes."
    stacks = ("transformer_encoder", "transformer_encoder_geom", "transformer_decoder")

    def __init__(self, config: RayZerConfig = RayZerConfig()) -> None:  # noqa: B008
        super().__init__()
        self.config = config
        width, size = config.width, config.patch_size
        self.image_tokenizer = PatchTokenizer(3, size, width)
        self.target_pose_tokenizer = PatchTokenizer(RAY_CHANNELS, size, width)
        self.target_pose_tokenizer2 = PatchTokenizer(RAY_CHANNELS, size, width)
        self.pe_embedder = _embedder(width)
        self.temporal_pe_embedder = _embedder(width)
        self.cam_code = learned_tokens(1, width)
        self.transformer_encoder = make_blocks(config.camera_depth, width, config.head_width)
        self.pose_predictor = PosePredictor(width, config.canonical, config.rotation)
        self.mlp_fuse = nn.Sequential(
            nn.LayerNorm(2 * width, bias=False),
            Linear(2 * width, width),
            nn.SiLU(),
            Linear(width, width),
        )
        self.scene_code = learned_tokens(config.num_latents, width)
        self.transformer_encoder_geom = make_blocks(config.scene_depth, width, config.head_width)
        self.decoder_ln = nn.LayerNorm(width, bias=False)
        self.transformer_decoder = make_blocks(config.decoder_depth, width, config.head_width)
        self.image_head = ImageHead(width, size)
        self.matching = self.first_embedder = None
        if config.correlation:
            self.matching = MatchingPath(MatchingConfig(), None, size)
            self.first_embedder = Linear(len(self.pose_predictor.identity) + 4, width)
            initialize(self.first_embedder)

    def camera_pass(self, view: int) -> Pass:
        """What the cameras cost, by the number of tokens of a photo."""
        return Pass(self.config.num_views * (view + 1), self.config.camera_depth)

    def passes(self, view: int) -> tuple[list[Pass], list[Pass]]:
        """What a scene costs once, and each view, by the number of tokens of a photo."""
        config, latents = self.config, self.config.num_latents
        once = Pass(latents + config.num_contexts * view, config.scene_depth)
        return [once], [Pass(latents + view, config.decoder_depth)]

    def tokens(
        self, images: Float[Tensor, "scene view 3 height width"]
    ) -> Float[Tensor, "scene view token feature"]:
        """Photos as tokens that know their photo's number and their place in it."""
        grid = [side // self.config.patch_size for side in images.shape[-2:]]
        tokens = self.image_tokenizer(2 * images - 1)
        num_views, (rows, columns) = images.shape[1], grid
        half = self.config.width // 2
        spatial = grid_waves(rows, columns, half, images.device).expand(num_views, -1, -1)
        number = torch.arange(num_views, device=images.device)
        temporal = waves(number, half)[:, None].expand_as(spatial)
        return tokens + self.pe_embedder(torch.cat([spatial, temporal], dim=-1))

    def canonical_first(self, num_views: int) -> list[int]:
        """Numbers of the views, that of the canonical one before the others in their order."""
        canonical = self.pose_predictor.canonical_view(num_views)
        return [canonical, *(view for view in range(num_views) if view != canonical)]

    def match(self, images: Float[Tensor, "scene view 3 height width"]) -> Matched | None:
        """Cameras from matches of the canonical view with the others, where the network matches.

        Views are in the order of `canonical_first`.
        """
        if self.matching is None:
            return None
        order = self.canonical_first(images.shape[1])
        grid = patch_grid(images, self.config.patch_size)
        return self.matching(images[:, order], None, grid)

    def first_cameras(
        self, matched: Matched | None, size: tuple[int, int]
    ) -> PredictedCameras | None:
        """What predictions are added to, in the order of the photos; none without matches.

        Args:
            size: Rows and columns of the images.
        """
        if matched is None:
            return None
        order = self.canonical_first(matched.estimate.center.shape[1])
        back = [order.index(view) for view in range(len(order))]
        return PredictedCameras.of(matched.estimate.of_views(back), size, self.config.rotation)

    def see(
        self, images: Float[Tensor, "scene view 3 height width"]
    ) -> tuple[Float[Tensor, "scene view token feature"], PredictedCameras, Matched | None]:
        """Tokens of photos, the cameras of all, and what these began with."""
        tokens, matched = self.tokens(images), self.match(images)
        first = self.first_cameras(matched, (images.shape[-2], images.shape[-1]))
        return tokens, self.estimate_cameras(tokens, first), matched

    def estimate_cameras(
        self,
        tokens: Float[Tensor, "scene view token feature"],
        first: PredictedCameras | None = None,
    ) -> PredictedCameras:
        """Cameras of all photos from their tokens, which stay as they are.

        Args:
            first: Where the network matches, what predictions are added to.
        """
        num_scenes, num_views = tokens.shape[:2]
        number = torch.arange(num_views, device=tokens.device)
        codes = self.cam_code + self.temporal_pe_embedder(waves(number, self.config.width))
        codes = codes.expand(num_scenes, -1, -1)
        if self.first_embedder is not None:
            assert first is not None
            codes = codes + self.first_embedder(first.numbers)
        sequence = torch.cat([codes, tokens.flatten(1, 2)], dim=1)
        return self.pose_predictor(run(self.transformer_encoder, sequence, slice(num_views)), first)

    def encode(
        self,
        tokens: Float[Tensor, "scene view token feature"],
        rays: Float[Tensor, "scene view 6 height width"],
    ) -> Float[Tensor, "scene latent feature"]:
        """Tokens that hold the scene, from those of some of the photos and their cameras' rays."""
        fused = self.mlp_fuse(torch.cat([tokens, self.target_pose_tokenizer(rays)], dim=-1))
        own = self.scene_code.to(fused.dtype).expand(len(fused), -1, -1)
        sequence = torch.cat([own, fused.flatten(1, 2)], dim=1)
        return run(self.transformer_encoder_geom, sequence, slice(own.shape[1]))

    def render(
        self,
        scene: Float[Tensor, "scene latent feature"],
        rays: Float[Tensor, "scene target 6 height width"],
    ) -> Float[Tensor, "scene target 3 height width"]:
        """Views of encoded scenes, each independent of the others. RGB in (0, 1)."""
        num_targets, rows = rays.shape[1], rays.shape[-2] // self.config.patch_size
        targets = self.target_pose_tokenizer2(rays).flatten(0, 1)
        tokens = torch.cat([targets, matched(scene, num_targets)], dim=1)
        part = slice(targets.shape[1])
        targets = run(self.transformer_decoder, self.decoder_ln(tokens), part)
        return self.image_head(targets, rows).unflatten(0, (-1, num_targets))

    def forward(
        self,
        images: Float[Tensor, "scene view 3 height width"],
        context: Int[Tensor, " some_view"],
        targets: Int[Tensor, " target"],
        given: GivenCameras | None = None,
    ) -> RayZerOutputs:
        """Cameras of all photos, and the target photos as seen through the context photos.

        Args:
            images: RGB in [0, 1], in the order of a video; sides are multiples of the patch size.
            context: Numbers of the photos that the scene is made of.
            targets: Numbers of the photos to render; of them only the cameras are used.
            given: Cameras to render with in place of those that are predicted.
        """
        tokens, cameras, matched = self.see(images)
        height, width = images.shape[-2:]
        if given is None:
            with torch.autocast(images.device.type, enabled=False):
                given = GivenCameras(cameras.world_from_camera(), cameras.intrinsics(height, width))
        # Cameras need all digits, whatever type products are taken in.
        with torch.autocast(images.device.type, enabled=False):
            rays = plucker_maps(given.intrinsics, given.world_from_camera, height, width)
        scene = self.encode(tokens[:, context], rays[:, context])
        return RayZerOutputs(cameras, self.render(scene, rays[:, targets]), matched)


def _embedder(width: int) -> nn.Sequential:
    embedder = nn.Sequential(Linear(width, width), nn.SiLU(), Linear(width, width))
    embedder.apply(initialize)
    return embedder
