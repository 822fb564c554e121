"""Networks of the golden files, with all that happens inside of them."""

import re
from dataclasses import dataclass
from functools import partial

import pytest
import torch

from fm3d_plugins.geometry.rays import plucker_maps
from fm3d_plugins.geometry.trajectories import interpolate_cameras
from fm3d_plugins.nn.patches import patchify
from fm3d_plugins.nn.view_synthesis import load_official
from fm3d_plugins.rayzer.network import RayZer, RayZerConfig


def sizes(description):
    """Our configuration for the published one."""
    model = description["config.model"]
    transformer = model["transformer"]
    assert model["input_with_pe"] and model["pose_latent"]["length"] == 1
    return RayZerConfig(
        width=transformer["d"],
        head_width=transformer["d_head"],
        patch_size=model["image_tokenizer"]["patch_size"],
        camera_depth=transformer["encoder_n_layer"],
        scene_depth=transformer["encoder_geom_n_layer"],
        decoder_depth=transformer["decoder_n_layer"],
        num_latents=model["scene_latent"]["length"],
        canonical=model["pose_latent"]["canonical"],
        rotation={"6d": "6d", "quat": "quaternion"}[
            model["pose_latent"].get("representation", "6d")
        ],
    )


@dataclass
class GoldenCase:
    """A network and what the published code says for the same weights and photos."""

    network: RayZer
    tensors: dict
    description: dict
    assert_near: object
    keep: object

    @property
    def is_square(self):
        height, width = self.tensors["input.image"].shape[-2:]
        return height == width

    def predict(self):
        tensors = self.tensors
        return self.network(
            tensors["input.image"], tensors["input.context_indices"], self.target_numbers()
        )

    def target_numbers(self):
        return self.tensors["input.target_indices"]

    def stages(self):
        """All that the golden file holds, by the golden names."""
        seen = {}
        network, kept = self.network, partial(self.keep, seen)
        handles = [
            module.register_forward_hook(hook)
            for module, hook in (
                (network.image_tokenizer, kept("stage.image_tokens_no_pe")),
                (
                    network.pe_embedder,
                    kept("stage.spatial_temporal_pe_embedded", "stage.spatial_temporal_pe_raw"),
                ),
                (network.temporal_pe_embedder, kept("stage.camera_pe_embedded")),
                (
                    network.transformer_encoder[0].norm1,
                    kept(None, "stage.encoder_in_tokens_cam_then_img"),
                ),
                (
                    network.pose_predictor,
                    kept(None, "stage.camera_tokens_after_encoder"),
                ),
                (
                    network.target_pose_tokenizer,
                    kept("stage.plucker_emb_input", "stage.plucker_input"),
                ),
                (
                    network.target_pose_tokenizer2,
                    kept("stage.plucker_emb_target", "stage.plucker_target"),
                ),
                (network.mlp_fuse, kept("stage.fused_tokens")),
                (network.decoder_ln, kept("stage.after_decoder_ln", "before the norm")),
            )
        ]
        outputs = self.predict()
        for handle in handles:
            handle.remove()
        num_latents, num_targets = network.config.num_latents, len(self.target_numbers())
        for name in ("stage.spatial_temporal_pe_raw", "stage.spatial_temporal_pe_embedded"):
            seen[name] = seen[name].repeat(len(outputs.renders), 1, 1)  # made once for all scenes
        # The decoder's norm sees the scene's tokens behind those of each of its targets.
        decoded = seen.pop("before the norm")
        seen["stage.scene_tokens_after_geom"] = decoded[::num_targets, -num_latents:]
        seen["stage.cam_info13"] = outputs.cameras.numbers
        seen["stage.decoded_patches"] = patchify(outputs.renders, network.config.patch_size)
        seen["output.render"] = outputs.renders
        seen["output.c2w"] = outputs.cameras.world_from_camera()
        # In units of the photo's sides: pixels of a photo of one pixel.
        intrinsics = outputs.cameras.intrinsics(1, 1)
        seen["output.fxfycxcy"] = intrinsics[..., [0, 1, 0, 1], [0, 1, 2, 2]]
        return seen

    def check(self):
        for name, ours in self.stages().items():
            self.assert_near(ours, self.tensors[name])

    def video(self):
        """The golden file's name and our frames of the first scene."""
        name = next(name for name in self.tensors if name.startswith("output.video"))
        per_transition = int(re.search(r"_(\d+)_per_transition", name).group(1))
        network, images = self.network, self.tensors["input.image"][:1]
        context, targets = self.tensors["input.context_indices"], self.target_numbers()
        height, width = images.shape[-2:]
        tokens = network.tokens(images)
        cameras = network.estimate_cameras(tokens)
        poses, intrinsics = cameras.world_from_camera(), cameras.intrinsics(height, width)
        rays = plucker_maps(intrinsics, poses, height, width)
        scene = network.encode(tokens[:, context], rays[:, context])
        path = interpolate_cameras(poses[:, targets], intrinsics[:, targets], per_transition)
        return name, network.render(scene, plucker_maps(*path[::-1], height, width))


@pytest.fixture
def load_golden(golden_files, assert_near, keep):
    """A function from a golden file's path to a `GoldenCase` of its own."""

    def load(path):
        description, weights, tensors = golden_files(path)
        with torch.device("meta"):
            network = RayZer(sizes(description)).eval()
        load_official(network, {name: value.clone() for name, value in weights.items()})
        return GoldenCase(network, tensors, description, assert_near, keep)

    return load


@pytest.fixture
def golden(load_golden, golden_path):
    return load_golden(golden_path)
