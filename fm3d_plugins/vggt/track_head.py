"""VGGT's track head (Wang et al. 2025, section 3.3): where points of the first photo are in others.

The tracker is that of VGGSfM (Wang et al. 2024), after CoTracker (Karaev et al. 2023).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fm3d_plugins.nn.attention import Mlp
from fm3d_plugins.nn.positions import sinusoids
from fm3d_plugins.vggt.correlation import feature_pyramid, local_correlations, sample
from fm3d_plugins.vggt.dense_head import DenseHead, DenseHeadConfig
from fm3d_plugins.vggt.track_transformer import TrackTransformer

FLOW_SCALE = 518
"""Flows are divided by this many cells of the feature map."""
FLOW_SPREAD = 1000
"""Largest factor, nearly, by which `flow_embedding` multiplies a flow."""
POSITION_BASE = 10000.0


@dataclass(frozen=True)
class TrackHeadConfig:
    """Sizes of the track head."""

    maps: DenseHeadConfig = field(default_factory=lambda: DenseHeadConfig(features=128))
    """The head that makes feature maps; its `features` are also those of a track."""
    rounds: int = 4
    stride: int = 2
    """Pixels per cell of the feature maps."""
    correlation_levels: int = 7
    correlation_radius: int = 4
    width: int = 384
    """Of the transformer."""
    depth: int = 6

    @property
    def smallest_side(self) -> int:
        """Shortest side of an image, pixels, for which all correlation levels have a cell."""
        return self.stride * 2 ** (self.correlation_levels - 1)


class TrackHead(nn.Module):
    """Feature maps of every photo, and the tracker that follows points through them."""

    def __init__(self, config: TrackHeadConfig, token_width: int, patch_size: int) -> None:
        super().__init__()
        self.config = config
        self.feature_extractor = DenseHead(
            config.maps,
            token_width,
            output_channels=None,
            patch_size=patch_size,
            stride=config.stride,
            positions=False,
        )
        self.tracker = Tracker(config)


class Tracker(nn.Module):
    """Positions and features of points, updated in a few rounds from local correlations."""

    def __init__(self, config: TrackHeadConfig) -> None:
        super().__init__()
        self.config = config
        width = config.maps.features
        correlations = config.correlation_levels * (2 * config.correlation_radius + 1) ** 2
        token_width = 3 * width + 4
        self.corr_mlp = Mlp(correlations, config.width, width)
        self.query_ref_token = nn.Parameter(torch.randn(1, 2, token_width))
        self.updateformer = TrackTransformer(token_width, config.width, width + 2, config.depth)
        self.fmap_norm = nn.LayerNorm(width)
        self.ffeat_norm = nn.GroupNorm(1, width)
        self.ffeat_updater = nn.Sequential(nn.Linear(width, width), nn.GELU())
        self.vis_predictor = nn.Sequential(nn.Linear(width, 1))
        self.conf_predictor = nn.Sequential(nn.Linear(width, 1))

    def forward(
        self,
        query_points: Float[Tensor, "batch point 2"],
        maps: Float[Tensor, "batch view channel rows columns"],
    ) -> tuple[
        list[Float[Tensor, "batch view point 2"]],
        Float[Tensor, "batch view point"],
        Float[Tensor, "batch view point"],
    ]:
        """Tracks after every round (the last being the best), visibility, and confidence.

        Args:
            query_points: (x, y) in pixels of the first photo. A track is in the same units, and
                in the first photo it is the query itself. The centre of the first pixel counts
                as (0, 0).
            maps: Features of every photo.
        """
        batch, views = maps.shape[:2]
        maps = self.fmap_norm(maps.permute(0, 1, 3, 4, 2))
        query = query_points / self.config.stride
        feature = sample(maps[:, 0].permute(0, 3, 1, 2), query)
        features = feature.unsqueeze(1).expand(-1, views, -1, -1)
        positions = query.unsqueeze(1).expand(-1, views, -1, -1)
        pyramid = feature_pyramid(maps.flatten(0, 1), self.config.correlation_levels)
        fixed = self._fixed_embedding(query, (maps.shape[2], maps.shape[3]), views)
        tracks = []
        for _ in range(self.config.rounds):
            positions = positions.detach()
            change = self._change(pyramid, positions, features, fixed)
            positions = positions + change[..., :2]
            positions = torch.cat([query.unsqueeze(1), positions[:, 1:]], dim=1)
            normed = self.ffeat_norm(change[..., 2:].flatten(0, 2)).view_as(features)
            features = features + self.ffeat_updater(normed)
            tracks.append(positions * self.config.stride)
        visibility = self.vis_predictor(features).squeeze(-1).sigmoid()
        confidence = self.conf_predictor(features).squeeze(-1).sigmoid()
        return tracks, visibility, confidence

    def _change(
        self,
        pyramid: Sequence[Float[Tensor, "image _ _ channel"]],
        positions: Float[Tensor, "batch view point 2"],
        features: Float[Tensor, "batch view point channel"],
        fixed: Float[Tensor, "batch view point token_channel"],
    ) -> Float[Tensor, "batch view point change"]:
        """What one round adds: to positions (2, cells), then what the features' update reads."""
        correlations = local_correlations(
            pyramid,
            features.flatten(0, 1),
            positions.flatten(0, 1),
            self.config.correlation_radius,
        )
        evidence = self.corr_mlp(correlations).unflatten(0, features.shape[:2])
        flow = flow_embedding(positions - positions[:, :1], features.shape[-1] // 2)
        tokens = torch.cat([flow, evidence, features], dim=-1) + fixed
        return self.updateformer(tokens.transpose(1, 2)).transpose(1, 2)

    def _fixed_embedding(
        self, query: Float[Tensor, "batch point 2"], grid: tuple[int, int], views: int
    ) -> Float[Tensor, "batch {views} point token_channel"]:
        """What tells a token where its point starts, and whether its photo is the first."""
        table = position_table(*grid, self.query_ref_token.shape[-1], query.device)
        # Table and interpolation are float32 whatever the network is, as published.
        place = sample(table.expand(len(query), -1, -1, -1), query.float()).unsqueeze(1)
        first, others = self.query_ref_token[0]
        reference = torch.stack([first, *[others] * (views - 1)])[None, :, None]
        return place + reference


def flow_embedding(
    flow: Float[Tensor, "*batch 2"], channels_per_axis: int
) -> Float[Tensor, "*batch channel"]:
    """Sines and cosines of multiples of the flow, interleaved, x then y; then the flow itself.

    Channel pair j holds flow * 2 j * 1000 / channels_per_axis, rounded to float32 after sine and
    cosine as published; the flow, in units of 518 cells, comes twice.
    """
    pairs = torch.arange(0, channels_per_axis, 2, dtype=flow.dtype, device=flow.device)
    angles = flow.unsqueeze(-1) * (pairs * (FLOW_SPREAD / channels_per_axis))
    waves = torch.stack([angles.sin().float(), angles.cos().float()], dim=-1).flatten(-3)
    scaled = flow / FLOW_SCALE
    return torch.cat([waves.to(flow.dtype), scaled, scaled], dim=-1)


def position_table(
    rows: int, columns: int, num_channels: int, device: torch.device
) -> Float[Tensor, "1 {num_channels} {rows} {columns}"]:
    """Sinusoids of every cell of a grid: half of the channels for x, then half for y."""
    x = torch.arange(columns, dtype=torch.float32, device=device)
    y = torch.arange(rows, dtype=torch.float32, device=device)
    across = sinusoids(x, num_channels // 2, POSITION_BASE).T[:, None, :]
    down = sinusoids(y, num_channels // 2, POSITION_BASE).T[:, :, None]
    table = torch.cat([across.expand(-1, rows, -1), down.expand(-1, -1, columns)])
    return table.unsqueeze(0)
