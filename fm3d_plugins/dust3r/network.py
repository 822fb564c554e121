"""DUSt3R (Wang et al. 2024): two photos to the points that they show, in one camera's frame."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fm3d_plugins.cell_matching.pairs import MatchedPair
from fm3d_plugins.dust3r.correlation import Correlation, seen_points
from fm3d_plugins.dust3r.heads import (
    ConfidenceMode,
    DenseHead,
    DepthMode,
    LinearHead,
    points_and_confidence,
)
from fm3d_plugins.nn.attention import TransformerBlock, joined, recomputed, step
from fm3d_plugins.nn.crossing import CrossingBlock
from fm3d_plugins.nn.linear import Linear
from fm3d_plugins.nn.patches import PatchEmbedding, patch_grid
from fm3d_plugins.nn.positions import RotaryTables, grid_positions, rotary_tables
from fm3d_plugins.nn.weights import matrix_names

EPS = 1e-6
"""Of every LayerNorm."""
CONVERTED_PARTS = ("patch_embed", "enc_blocks", "decoder_embed", "dec_blocks", "dec_blocks2")
"""Whose matrices may be kept in a smaller type."""
HEAD_IMAGES_PER_PASS_CUDA = 8
HEAD_IMAGES_PER_PASS_CPU = 1
"""A dense head needs some 400 MB for an image of 512 x 384; more of them save a CPU no time."""


@dataclass(frozen=True)
class DUSt3RConfig:
    """Sizes of the network; the defaults are the published ones for 512 pixels with dense heads."""

    encoder_width: int = 1024
    encoder_depth: int = 24
    encoder_heads: int = 16
    decoder_width: int = 768
    decoder_depth: int = 12
    decoder_heads: int = 12
    mlp_ratio: float | int = 4
    patch_size: int = 16
    """Side of a patch, pixels."""
    rotary_base: float = 100.0
    head: Literal["dpt", "linear"] = "dpt"
    depth_mode: DepthMode = "exp"
    """How a distance from the camera follows from the head's map."""
    confidence_mode: ConfidenceMode = ("exp", 1.0, float("inf"))
    """Likewise the confidence: kind, lower bound, upper bound."""
    correlation: bool = False
    """**Departure:** decoders are told of matches between the photos and of cameras from them, and
    heads change points of one depth that these cameras see (`dust3r/correlation.py`)."""


@dataclass(frozen=True)
class EncodedPhotos:
    """What the encoder says of photos of one size, each by itself."""

    tokens: Float[Tensor, "photo token channel"]
    """After the encoder's last norm, row by row; where the network matches, with the features of
    a patch's cells in further channels."""
    grid: tuple[int, int]
    """Patches in a column and in a row."""
    evidence: Float[Tensor, "photo token decoder_channel"] | None = None
    """What is added to the tokens of either decoder, where the network matches."""

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass(frozen=True)
class PairPrediction:
    """Points of both photos of pairs, in the frame of the first photo's camera.

    OpenCV axes; each pair has a unit of its own. Confidence is above 1; only its order means
    something.
    """

    points_first: Float[Tensor, "*batch height width 3"]
    confidence_first: Float[Tensor, "*batch height width"]
    points_second_in_first: Float[Tensor, "*batch second_height second_width 3"]
    confidence_second: Float[Tensor, "*batch second_height second_width"]


@dataclass(frozen=True)
class MatchedPrediction(PairPrediction):
    """The same of a network that matches."""

    matched: MatchedPair
    """What the points begin with."""


class DUSt3R(nn.Module):
    """Siamese encoder, two decoders that read each other, and a head for each photo.

    Attributes are named as in the published state dict (`weights.load_official`), where the first
    convolutions of dense heads stand under two names: here only under `layer{n}_rn`. Builds on
    `torch.device("meta")` too.

    Args:
        sizes: Fields of `DUSt3RConfig`.
    """

    def __init__(self, **sizes: Any) -> None:
        super().__init__()
        self.config = config = DUSt3RConfig(**sizes)
        width, inner = config.encoder_width, config.decoder_width
        self.patch_embed = PatchEmbedding(config.patch_size, width)
        # Stands for hidden patches in pretraining; published files hold it.
        self.mask_token = nn.Parameter(torch.zeros(1, 1, inner))
        self.enc_blocks = nn.ModuleList(_encoder_block(config) for _ in range(config.encoder_depth))
        self.enc_norm = nn.LayerNorm(width, eps=EPS)
        self.decoder_embed = Linear(width, inner)
        self.dec_blocks = nn.ModuleList(_decoder_block(config) for _ in range(config.decoder_depth))
        self.dec_blocks2 = nn.ModuleList(
            _decoder_block(config) for _ in range(config.decoder_depth)
        )
        self.dec_norm = nn.LayerNorm(inner, eps=EPS)
        self.downstream_head1, self.downstream_head2 = _head(config), _head(config)
        self.matching = Correlation(width, inner, config.patch_size) if config.correlation else None

    @property
    def token_width(self) -> int:
        """Channels of `EncodedPhotos.tokens`."""
        return self.config.encoder_width + (self.matching.channels if self.matching else 0)

    def begin_with_matches(self) -> None:
        """Let linear heads say zeros: points are what the matches' cameras see of one depth."""
        for head in (self.downstream_head1, self.downstream_head2):
            if isinstance(head, LinearHead):
                nn.init.zeros_(head.proj.weight)
                nn.init.zeros_(head.proj.bias)

    def matrix_names(self) -> set[str]:
        """State dict names of the matrices of the encoder and the decoders.

        In bfloat16 they need half of the memory and their products less time. Norms, the stream of
        tokens and the heads are always float32.
        """
        return matrix_names(self, CONVERTED_PARTS)

    def forward(
        self,
        first: Float[Tensor, "pair 3 height width"],
        second: Float[Tensor, "pair 3 second_height second_width"],
    ) -> PairPrediction:
        """Points of pairs of photos; `encode`, then `decode`."""
        return self.decode(self.encode(first), self.encode(second))

    def encode(
        self,
        images: Float[Tensor, "photo 3 height width"],
        *,
        photos_per_pass: int | None = None,
    ) -> EncodedPhotos:
        """Tokens of each photo by itself.

        Args:
            images: RGB in [-1, 1]; sides are multiples of the patch size.
            photos_per_pass: Without gradients, photos in the wide layers at once; by default all.

        Raises:
            ValueError: Sides that patches do not fill.
        """
        grid = patch_grid(images, self.config.patch_size)
        # In the stream's type; the copy keeps `step`, which works in place, off other tensors.
        tokens = self.patch_embed(images).to(self.enc_norm.weight.dtype, copy=True)
        positions = self._positions(grid, self.config.encoder_heads, tokens)
        for block in self.enc_blocks:
            tokens = step(block, tokens, positions, 1, photos_per_pass)
        tokens = self.enc_norm(tokens)
        if self.matching is not None:
            tokens = self.matching.added(images, tokens, grid)
        return EncodedPhotos(tokens, grid)

    def decode(self, first: EncodedPhotos, second: EncodedPhotos) -> PairPrediction:
        """Points of as many pairs as there are photos on each side.

        The two sides may differ in size. Exchanging them does more than exchange the results:
        the frame is always the first photo's.
        """
        matched = None
        if self.matching is not None:
            first, second, matched = self._matched(self.matching, first, second)
        layers_first, layers_second = self._decoded(first, second)
        maps = [
            self._map(self.downstream_head1, layers_first, first.grid),
            self._map(self.downstream_head2, layers_second, second.grid),
        ]
        modes = self.config.depth_mode, self.config.confidence_mode
        if matched is None:
            sides = [points_and_confidence(raw, *modes) for raw in maps]
        else:
            cameras = matched.forth.estimate
            sides = [seen_points(raw, cameras, view, modes[1]) for view, raw in enumerate(maps)]
        (points, confidence), (points_second, confidence_second) = sides
        seen = points, confidence, points_second, confidence_second
        return PairPrediction(*seen) if matched is None else MatchedPrediction(*seen, matched)

    def _matched(
        self, matching: Correlation, first: EncodedPhotos, second: EncodedPhotos
    ) -> tuple[EncodedPhotos, EncodedPhotos, MatchedPair]:
        """Both sides without features and with what matches tell of them; and the matches."""
        tokens, features = matching.parted(first.tokens, first.grid)
        second_tokens, second_features = matching.parted(second.tokens, second.grid)
        matched = matching.matched(features, second_features)
        evidence = matching.evidence(matched, first.grid, second.grid)
        return (
            EncodedPhotos(tokens, first.grid, evidence[0]),
            EncodedPhotos(second_tokens, second.grid, evidence[1]),
            matched,
        )

    def _decoded(
        self, first: EncodedPhotos, second: EncodedPhotos
    ) -> tuple[list[Tensor], list[Tensor]]:
        """The layers of tokens that the heads read, of both sides."""
        streams = [self._embedded(photos) for photos in (first, second)]
        heads = self.config.decoder_heads
        positions = [
            self._positions(photos.grid, heads, stream)
            for photos, stream in zip((first, second), streams, strict=True)
        ]
        kept: list[dict[int, Tensor]] = [{0: first.tokens}, {0: second.tokens}]
        wanted = self.downstream_head1.layers
        for number, blocks in enumerate(zip(self.dec_blocks, self.dec_blocks2, strict=True), 1):
            # Both read what the other was before this layer.
            streams = [
                self._crossed(blocks[0], streams[0], streams[1], positions[0], positions[1]),
                self._crossed(blocks[1], streams[1], streams[0], positions[1], positions[0]),
            ]
            if number in wanted:
                is_last = number == self.config.decoder_depth
                for side, stream in zip(kept, streams, strict=True):
                    side[number] = self.dec_norm(stream) if is_last else stream
        return [kept[0][layer] for layer in wanted], [kept[1][layer] for layer in wanted]

    def _crossed(
        self,
        block: nn.Module,
        tokens: Float[Tensor, "pair token channel"],
        memory: Float[Tensor, "pair memory_token channel"],
        positions: RotaryTables,
        memory_positions: RotaryTables,
    ) -> Float[Tensor, "pair token channel"]:
        """One decoder block; its inside is recomputed in training."""
        if self.training and torch.is_grad_enabled():
            return recomputed(block, tokens, memory, positions, memory_positions)
        return block(tokens, memory, positions, memory_positions)

    def _embedded(self, photos: EncodedPhotos) -> Float[Tensor, "photo token channel"]:
        """Tokens in the decoders' width, in the stream's type."""
        tokens = photos.tokens.to(self.decoder_embed.weight.dtype)
        stream = self.decoder_embed(tokens).to(self.dec_norm.weight.dtype)
        return stream if photos.evidence is None else stream + photos.evidence

    def _map(
        self,
        head: nn.Module,
        layers: Sequence[Float[Tensor, "image token _"]],
        grid: tuple[int, int],
    ) -> Float[Tensor, "image 4 height width"]:
        """A head's map, never in reduced precision; without gradients a few images at a time."""
        images, device = len(layers[0]), layers[0].device
        per_pass = images if torch.is_grad_enabled() else head_images_per_pass(device)
        # The meta device, where plans count operations, knows no autocast.
        is_meta = device.type == "meta"
        plain = nullcontext() if is_meta else torch.autocast(device.type, enabled=False)
        with plain:
            chunks = zip(*(layer.split(per_pass) for layer in layers), strict=True)
            return joined([head(chunk, grid) for chunk in chunks])

    def _positions(
        self,
        grid: tuple[int, int],
        num_heads: int,
        tokens: Float[Tensor, "photo token channel"],
    ) -> RotaryTables:
        places = grid_positions(*grid, tokens.device)
        head_width = tokens.shape[-1] // num_heads
        return rotary_tables(places, head_width, self.config.rotary_base, tokens.dtype)


def head_images_per_pass(device: torch.device) -> int:
    """Images that a head works on at once, without gradients."""
    return HEAD_IMAGES_PER_PASS_CUDA if device.type == "cuda" else HEAD_IMAGES_PER_PASS_CPU


def _encoder_block(config: DUSt3RConfig) -> TransformerBlock:
    return TransformerBlock(
        config.encoder_width,
        config.encoder_heads,
        mlp_ratio=config.mlp_ratio,
        eps=EPS,
        layer_scale=None,
    )


def _decoder_block(config: DUSt3RConfig) -> CrossingBlock:
    return CrossingBlock(
        config.decoder_width, config.decoder_heads, mlp_ratio=config.mlp_ratio, eps=EPS
    )


def _head(config: DUSt3RConfig) -> DenseHead | LinearHead:
    if config.head == "linear":
        return LinearHead(config.decoder_width, config.decoder_depth, config.patch_size)
    if config.patch_size != 16:
        raise ValueError(
            f"The patches have {config.patch_size} pixels; dense heads are made for 16. Use "
            "patches of 16 pixels, or the linear head."
        )
    return DenseHead(config.encoder_width, config.decoder_width, config.decoder_depth)
