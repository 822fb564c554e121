"""Networks of the golden files, with all that happens inside of them."""

import re
from dataclasses import dataclass
from functools import partial

import pytest
import torch

from fm3d_plugins.geometry.cameras import intrinsics_matrix
from fm3d_plugins.geometry.rays import plucker_maps
from fm3d_plugins.geometry.trajectories import interpolate_cameras
from fm3d_plugins.lvsm.network import LVSM, LVSMConfig
from fm3d_plugins.nn.patches import patchify
from fm3d_plugins.nn.view_synthesis import load_official


def sizes(description):
    """Our configuration for the published one."""
    model = description["config.model"]
    transformer = model["transformer"]
    return LVSMConfig(
        width=transformer["d"],
        head_width=transformer["d_head"],
        patch_size=model["image_tokenizer"]["patch_size"],
        decoder_depth=transformer.get("n_layer") or transformer["decoder_n_layer"],
        encoder_depth=transformer.get("encoder_n_layer", 0),
        num_latents=transformer.get("n_latent_vectors", 0),
    )


@dataclass
class GoldenCase:
    """A network and what the published code says for the same weights, photos and cameras."""

    network: LVSM
    tensors: dict
    description: dict
    assert_near: object
    keep: object

    @property
    def num_context(self):
        return self.description["training"]["num_input_views"]

    def cameras(self):
        return self.tensors["input.c2w"], intrinsics_matrix(
            *self.tensors["input.fxfycxcy"].unbind(-1)
        )

    def targets(self):
        assert not self.description["training"]["target_has_input"]
        return self.tensors["input.image"][:, -self.description["training"]["num_target_views"] :]

    def rays(self, poses, intrinsics):
        return plucker_maps(intrinsics, poses, *self.tensors["input.image"].shape[-2:])

    def render(self):
        """Scene tokens and target views."""
        rays, images = self.rays(*self.cameras()), self.tensors["input.image"]
        count = self.num_context
        scene = self.network.encode(images[:, :count], rays[:, :count])
        # The photos may be updated in place; a scene that was encoded is kept for what follows.
        kept = scene.clone()
        return kept, self.network.render(scene, rays[:, -self.targets().shape[1] :])

    def stages(self):
        """All that the golden file holds and our structure has, by the golden names."""
        seen = {}
        network, kept = self.network, partial(self.keep, seen)
        has_encoder = bool(network.config.encoder_depth)
        prefix = "stage.decoder_block" if has_encoder else "stage.block"
        norm = (
            "stage.after_decoder_input_layernorm" if has_encoder else "stage.after_input_layernorm"
        )
        first = (network.transformer_encoder if has_encoder else network.transformer_decoder)[0]
        later = network.transformer_decoder[1:]
        handles = [
            network.image_tokenizer.register_forward_hook(
                kept("stage.input_tokens", "stage.posed_input_9ch")
            ),
            network.target_pose_tokenizer.register_forward_hook(
                kept("stage.target_tokens", "stage.target_plucker_6ch")
            ),
            network.decoder_norm.register_forward_hook(kept(norm)),
            first.norm1.register_forward_hook(kept("stage.block0_norm1")),
            first.attn.proj.register_forward_hook(kept("stage.block0_attn_out")),
            first.mlp.register_forward_hook(kept("stage.block0_mlp_out")),
            *(
                block.norm1.register_forward_hook(kept(None, f"{prefix}{number}_out"))
                for number, block in enumerate(later)
            ),
            network.image_head.norm.register_forward_hook(kept(None, f"{prefix}{len(later)}_out")),
        ]
        scene, renders = self.render()
        for handle in handles:
            handle.remove()
        if has_encoder:
            seen["stage.scene_latents"] = scene
        seen["stage.decoded_patches"] = patchify(renders, network.config.patch_size)
        seen["output.render"] = renders
        return seen

    def expected(self, name, shape):
        """The golden tensor; of the last block only the tokens of the targets."""
        tensor = self.tensors[name]
        if name.endswith("_out") and tensor.ndim == 3 and tensor.shape[1] > shape[1]:
            count = shape[1]
            return tensor[:, :count] if self.network.config.encoder_depth else tensor[:, -count:]
        return tensor

    def check(self):
        for name, ours in self.stages().items():
            self.assert_near(ours, self.expected(name, ours.shape))

    def video(self):
        """The golden file's name and our frames of the first scene."""
        name = next(name for name in self.tensors if name.startswith("output.video"))
        per_transition = int(re.search(r"loop_(\d+)_per_transition", name).group(1))
        keys = [each[:1, : self.num_context] for each in self.cameras()]
        rays = self.rays(*interpolate_cameras(*keys, per_transition, loop=True))
        return name, self.network.render(self.render()[0][:1], rays)


@pytest.fixture
def load_golden(golden_files, assert_near, keep):
    """A function from a golden file's path to a `GoldenCase` of its own."""

    def load(path):
        description, weights, tensors = golden_files(path)
        with torch.device("meta"):
            network = LVSM(sizes(description)).eval()
        load_official(network, {name: value.clone() for name, value in weights.items()})
        return GoldenCase(network, tensors, description, assert_near, keep)

    return load


@pytest.fixture
def golden(load_golden, golden_path):
    return load_golden(golden_path)
