"""LVSM, the large view synthesis model (Jin et al. 2025, arXiv 2410.17242): both networks."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fm3d_plugins.nn.view_planning import Pass
from fm3d_plugins.nn.view_synthesis import (
    RAY_CHANNELS,
    ImageHead,
    PatchTokenizer,
    ViewNetwork,
    learned_tokens,
    make_blocks,
    matched,
    published_name,
    run,
)


@dataclass(frozen=True)
class LVSMConfig:
    """Sizes; the defaults are the published decoder-only network of 171e6 parameters."""

    width: int = 768
    head_width: int = 64
    patch_size: int = 8
    decoder_depth: int = 24
    """Blocks that see the tokens of a target view."""
    encoder_depth: int = 0
    """Blocks that make latent tokens of the photos, once per scene; 0: decoder-only."""
    num_latents: int = 0
    """Latent tokens, with an encoder only."""

    def __post_init__(self) -> None:
        if self.decoder_depth < 1 or (self.encoder_depth > 0) != (self.num_latents > 0):
            raise ValueError(
                f"Found {self.encoder_depth} blocks in the encoder, {self.decoder_depth} in the "
                f"decoder and {self.num_latents} latent tokens; expected a decoder, and an encoder "
                "and latent tokens either both or not at all."
            )


DECODER_ONLY = LVSMConfig()
ENCODER_DECODER = LVSMConfig(decoder_depth=12, encoder_depth=12, num_latents=3072)
"""The published one, of 173e6 parameters."""


class LVSM(ViewNetwork):
    """Posed photos to photos at other poses. Builds on `torch.device("meta")` too.

    Cameras are given by maps of Plücker coordinates (`geometry.rays.plucker_maps`), in a frame
    that `lvsm.cameras.normalization` chooses.
    """

    advice = (
        "Choose the checkpoint of this architecture (decoder-only or encoder-decoder), or build "
        "the network with the checkpoint's sizes."
    )
    stacks = ("transformer_encoder", "transformer_decoder")

    def __init__(self, config: LVSMConfig = DECODER_ONLY) -> None:
        super().__init__()
        self.config = config
        size, width = config.patch_size, config.width
        self.image_tokenizer = PatchTokenizer(3 + RAY_CHANNELS, size, width)
        self.target_pose_tokenizer = PatchTokenizer(RAY_CHANNELS, size, width)
        self.image_head = ImageHead(width, size)
        self.latents = learned_tokens(config.num_latents, width) if config.num_latents else None
        self.transformer_encoder = make_blocks(config.encoder_depth, width, config.head_width)
        self.transformer_decoder = make_blocks(config.decoder_depth, width, config.head_width)
        self.decoder_norm = nn.LayerNorm(width, bias=False)

    def passes(self, context: int, target: int) -> tuple[list[Pass], list[Pass]]:
        """What a scene costs once, and each view, by the numbers of tokens of photos and views."""
        config, latents = self.config, self.config.num_latents
        once = [Pass(latents + context, config.encoder_depth)] if latents else []
        return once, [Pass((latents or context) + target, config.decoder_depth)]

    def photo_tokens(
        self,
        images: Float[Tensor, "scene view 3 height width"],
        rays: Float[Tensor, "scene view 6 height width"],
    ) -> Float[Tensor, "scene token feature"]:
        """Tokens of posed photos, one photo after the other.

        Args:
            images: RGB in [0, 1]; sides are multiples of the patch size.
            rays: Of their cameras.
        """
        posed = torch.cat([2 * images - 1, rays], dim=2)
        return self.image_tokenizer(posed).flatten(1, 2)

    def scene(
        self, tokens: Float[Tensor, "scene token feature"]
    ) -> Float[Tensor, "scene some_token feature"]:
        """What is kept of scenes: their photos' tokens, or those that the encoder makes of them."""
        if self.latents is None:
            return tokens
        own = self.latents.to(tokens.dtype).expand(len(tokens), -1, -1)
        return run(self.transformer_encoder, torch.cat([own, tokens], dim=1), slice(own.shape[1]))

    def encode(
        self,
        images: Float[Tensor, "scene view 3 height width"],
        rays: Float[Tensor, "scene view 6 height width"],
    ) -> Float[Tensor, "scene token feature"]:
        """What is kept of scenes that photos of one size show; arguments as of `photo_tokens`."""
        return self.scene(self.photo_tokens(images, rays))

    def render(
        self,
        scene: Float[Tensor, "scene token feature"],
        rays: Float[Tensor, "scene target 6 height width"],
    ) -> Float[Tensor, "scene target 3 height width"]:
        """Views of scenes, each independent of the others. RGB in (0, 1).

        Args:
            scene: As `LVSM.scene` says.
            rays: Of the target views' cameras.
        """
        num_targets, rows = rays.shape[1], rays.shape[-2] // self.config.patch_size
        targets = self.target_pose_tokenizer(rays).flatten(0, 1)
        memory, count = matched(scene, num_targets), targets.shape[1]
        # The published order, which has no influence: tokens carry no position.
        if self.latents is None:
            tokens, part = torch.cat([memory, targets], dim=1), slice(-count, None)
        else:
            tokens, part = torch.cat([targets, memory], dim=1), slice(count)
        targets = run(self.transformer_decoder, self.decoder_norm(tokens), part)
        return self.image_head(targets, rows).unflatten(0, (-1, num_targets))

    def forward(
        self,
        images: Float[Tensor, "scene view 3 height width"],
        rays: Float[Tensor, "scene view 6 height width"],
        target_rays: Float[Tensor, "scene target 6 height width"],
    ) -> Float[Tensor, "scene target 3 height width"]:
        """Views of what some photos show; arguments as of `photo_tokens` and `render`."""
        return self.render(self.encode(images, rays), target_rays)

    def published_name(self, name: str) -> str:
        """Of a parameter by its name here."""
        if self.latents is None:
            name = name.replace("decoder_norm", "transformer_input_layernorm")
            return published_name(name).replace("transformer_decoder", "transformer_blocks")
        name = name.replace("decoder_norm", "transformer_input_layernorm_decoder")
        return "n_light_field_latent" if name == "latents" else published_name(name)
