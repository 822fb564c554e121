"""Views by LVSM as a nerfstudio model. The network itself is `network.py`."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from fm3d_plugins.backends.perceptual import PerceptualKind, perceptual_distance
from fm3d_plugins.checkpoints import CATALOGUE, CheckpointFile, about_small, weights_meant
from fm3d_plugins.errors import one_line_errors
from fm3d_plugins.lvsm.contexts import nearest, spread_out
from fm3d_plugins.lvsm.inference import PosedPhotos, ViewRenderer, load_network
from fm3d_plugins.lvsm.network import LVSM
from fm3d_plugins.lvsm.tuning import SampleDrawer, size_at
from fm3d_plugins.memory import available_memory
from fm3d_plugins.nerfstudio_cameras import pinhole, world_from_cameras
from fm3d_plugins.nn.perceptual import rendering_loss
from fm3d_plugins.one_pass.views.model import ViewModel, ViewModelConfig
from fm3d_plugins.running.plan import RunPlan

OFFICIAL_WEIGHTS = "coast01/LVSM/decoder_only_256"
"""Those that are taken unless others are named."""

USUAL_SIZE = 256
"""Long side in pixels of the images that most published weights were trained with."""

KEPT_PER_BLOCK = 18
"""Numbers of each token, in units of the width, that a block keeps for the backward pass."""

MORE_CONTEXTS = 2
"""Fine-tuning draws the context from this many nearest photos more than it takes."""

AGREEMENT = 10.0
"""Confidence is exp(-AGREEMENT * difference) of two renders, in [0, 1] colours."""


@dataclass
class LvsmModelConfig(ViewModelConfig):
    """The network, and what it sees of a scene."""

    _target: type = field(default_factory=lambda: LvsmModel)
    weights: str = OFFICIAL_WEIGHTS
    """Published weights by name (`fm3d weights list`), or a file or folder. official: these;
    small: those that come with this package, trained on small images of synthetic rooms."""
    image_size: int = 0
    """Long side, pixels, of what the network sees and says. 0: as it was trained, 256 where that
    is not known."""
    num_contexts: int = 2
    """Photos that a view is made from; published scene weights were trained with 2."""
    contexts: Literal["spread", "nearest"] = "spread"
    """Which: the same for all views, spread out over the scene; or those nearest to each view."""
    confidence: bool = False
    """Also show how well renders from two halves of the contexts agree, from 0 to 1; takes three
    times as long, and at least 2 contexts."""
    samples_per_step: int = 1
    """Photos that a step of fine-tuning predicts, at `image_size`; smaller ones are more."""
    first_size: int | None = None
    """Long side, pixels, of the photos at the first steps of fine-tuning; it is doubled on the way
    to `image_size`. For weights that know little: they learn faster so. None: `image_size`."""
    varied: bool = False
    """Mirror and recolour the photos that it is fine-tuned with, so that it learns to look at the
    contexts, not what this scene looks like. For weights that know little."""
    perceptual: PerceptualKind = "vgg19"
    """What fine-tuning lowers besides the squared error; vgg19 is the published distance."""
    perceptual_weights: Path | None = None
    """Weights of VGG19 (MatConvNet's imagenet-vgg-verydeep-19.mat, or safetensors). None: the
    squared error alone, unless perceptual is lpips."""

    def resolve(self, device_type: str, max_num_iterations: int | None) -> RunPlan:
        """As for every network; weights by their name, images at the size that they know."""
        with one_line_errors():
            self.weights = weights_meant(self.weights, "lvsm", OFFICIAL_WEIGHTS)
        row = CATALOGUE.get(self.weights)
        self.image_size = self.image_size or (row and row.image_size) or USUAL_SIZE
        plan = super().resolve(device_type, max_num_iterations)
        sentence = f"{plan.sentence} {about_small(self.weights)}".rstrip()
        return replace(plan, sentence=sentence, datamanager={"max_image_size": self.image_size})


class LvsmModel(ViewModel):
    """Views as LVSM makes them; `confidence` [H, W, 1] in [0, 1] stands beside if asked for."""

    config: LvsmModelConfig

    def load(self, file: CheckpointFile, precision: torch.dtype, device: torch.device) -> LVSM:
        """The network with its weights."""
        return load_network(file, precision, device)

    def populate_modules(self) -> None:
        """Load the network, and what fine-tuning compares with (called by nerfstudio)."""
        super().populate_modules()
        self._tuned_size, self._is_recomputed = 0, False
        config, self.distance = self.config, None
        if config.num_steps:
            with one_line_errors():
                self.distance = perceptual_distance(config.perceptual, config.perceptual_weights)

    def hold(self, photos: PosedPhotos, names: Sequence[str]) -> None:
        """Take the photos that views are made from."""
        self.renderer = ViewRenderer(self.network, photos, self.config.image_size)
        self.names, patch_size = list(names), self.network.config.patch_size
        self.samples = SampleDrawer(photos, self._contexts, patch_size, self.config.varied)
        self.choose(spread_out(photos.world_from_camera, self.config.num_contexts))

    def choose(self, context: Sequence[int]) -> None:
        """Make views from these photos from now on, where they are the same for all."""
        self.context = list(context)

    def context_of(
        self, world_from_camera: Float[Tensor, "4 4"], without: int | None = None
    ) -> list[int]:
        """Numbers of the photos that a view is made from.

        Args:
            without: Number of a photo that must not be among them.
        """
        excluded = [] if without is None else [without]
        if self.config.contexts == "spread" and not set(excluded) & set(self.context):
            return self.context
        poses, count = self.renderer.photos.world_from_camera, self.config.num_contexts
        return nearest(world_from_camera, poses, count, excluded)

    def tune(self, step: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Loss and metrics of a step of fine-tuning, in which some photos are predicted.

        The loss is the squared error of the colours, and half the perceptual distance if there is
        one. The smaller the photos, the more of them: all steps take about the same time.
        """
        config, last = self.config, self.config.image_size
        longest = size_at(step / config.num_steps, config.first_size or last, last)
        sample = self.samples.draw(config.samples_per_step * (last // longest) ** 2, longest)
        rays, network = sample.rays(), self.network
        if longest != self._tuned_size:
            # Once per size: what torch keeps of the memory of a step does not count as free.
            self._tuned_size, self._is_recomputed = longest, self._is_large(rays)
        network.train(self._is_recomputed)  # Then blocks are computed again to save memory.
        scene = network.encode(sample.images[:, :-1], rays[:, :-1])
        renders, targets = network.render(scene, rays[:, -1:])[:, 0], sample.images[:, -1]
        self.renderer.forget()
        error = (renders.detach() - targets).square().mean()
        loss = rendering_loss(renders, targets, self.distance).total
        return {"main_loss": loss}, {"psnr": -10 * error.log10()}

    def _is_large(self, rays: Float[Tensor, "sample view 6 height width"]) -> bool:
        """Whether what blocks keep for the backward pass takes much of the memory that is free."""
        config = self.network.config
        tokens = rays[:, :, 0].numel() // config.patch_size**2 + len(rays) * config.num_latents
        depth = config.decoder_depth + config.encoder_depth
        kept = 4 * KEPT_PER_BLOCK * tokens * config.width * depth
        return kept > available_memory(self.device) / 4

    def _contexts(self, view: int) -> list[int]:
        """Photos that a photo is predicted from; of the nearest ones another choice each time."""
        if self.config.contexts == "spread":
            return self.context_of(self.renderer.photos.world_from_camera[view], view)
        poses, count = self.renderer.photos.world_from_camera, self.config.num_contexts
        close = nearest(poses[view], poses, count + MORE_CONTEXTS, [view])
        return [close[i] for i in torch.randperm(len(close))[:count].tolist()]

    def render(self, camera: Cameras) -> dict[str, Float[Tensor, "h w channel"]]:
        """`rgb`, and `confidence` if asked for."""
        seen, pose = pinhole(camera), world_from_cameras(camera).reshape(1, 4, 4)
        context, shape = self.context_of(pose[0]), (seen.height, seen.width)

        def view(numbers: Sequence[int]) -> Float[Tensor, "h w 3"]:
            pictures = self.renderer.render(numbers, pose, seen.intrinsics[None], *shape)
            return pictures[0].movedim(0, -1)

        outputs = {"rgb": view(context)}
        if self.config.confidence and len(context) > 1:
            difference = (view(context[::2]) - view(context[1::2])).abs()
            outputs["confidence"] = (-AGREEMENT * difference.mean(-1, keepdim=True)).exp()
        return outputs
