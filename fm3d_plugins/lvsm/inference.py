"""LVSM as a function: some posed photos, and any camera, to a picture."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from fm3d_plugins.checkpoints import CheckpointFile, load
from fm3d_plugins.data.views import Views
from fm3d_plugins.files import naming_damage
from fm3d_plugins.geometry.alignment import Similarity
from fm3d_plugins.geometry.rays import plucker_maps
from fm3d_plugins.lvsm.cameras import normalization
from fm3d_plugins.lvsm.network import DECODER_ONLY, ENCODER_DECODER, LVSM, LVSMConfig
from fm3d_plugins.nn.sizes import SIZES_EXPECTED, stored_sizes
from fm3d_plugins.nn.view_synthesis import load_official
from fm3d_plugins.one_pass.views.sizes import resized_images, resized_intrinsics, size_within

METADATA_KEY = "lvsm_config"
"""Entry of a safetensors file's metadata. Without it a checkpoint has a published size."""

LATENTS = "n_light_field_latent"
"""Published name of the weights that only the encoder-decoder has."""


def load_network(file: CheckpointFile, precision: torch.dtype, device: torch.device) -> LVSM:
    """The network with its weights, on a device, for inference.

    Args:
        precision: Of the blocks' matrices.

    Raises:
        ValueError: The file is damaged or of another network.
    """
    weights = load(file)
    published = ENCODER_DECODER if LATENTS in weights else DECODER_ONLY
    with naming_damage(file.path, SIZES_EXPECTED), torch.device("meta"):
        network = LVSM(stored_sizes(file.path, METADATA_KEY, LVSMConfig) or published)
    load_official(network, weights, dtype=precision)
    return network.to(device).eval().requires_grad_(False)


def render_targets(
    network: LVSM, views: Views, context: Sequence[int], targets: Sequence[int]
) -> Float[Tensor, "target 3 height width"]:
    """Some views from others as the published evaluation renders them, RGB in (0, 1).

    The frame of the cameras is made of all views, as published, so that published scores can be
    compared with; everywhere else here it is made of the context alone (`normalization`).
    """
    poses = normalization(views.world_from_camera).apply_to_pose(views.world_from_camera)
    rays = plucker_maps(views.intrinsics, poses, *views.images.shape[-2:])[None]
    seen, asked = list(context), list(targets)
    return network(views.images[None, seen], rays[:, seen], rays[:, asked])[0]


SCENES_KEPT = 4
"""Sets of photos, or sizes of them, whose tokens are kept."""


@dataclass(frozen=True)
class PosedPhotos:
    """Photos without lens distortion, and their cameras; any number, of any sizes."""

    images: Sequence[Float[Tensor, "3 _ _"]]
    """RGB in [0, 1], channels before rows and columns."""
    intrinsics: Float[Tensor, "view 3 3"]
    """Pixels of each image."""
    world_from_camera: Float[Tensor, "view 4 4"]
    """OpenCV axes."""

    def __len__(self) -> int:
        return len(self.images)


@dataclass
class ViewRenderer:
    """Renders cameras from photos; what a scene costs once is kept for the next camera.

    A picture is made at most `image_size` long and brought to the size that was asked for. For a
    smaller one the photos are made smaller too, so that its cost falls faster than its size.
    """

    network: LVSM
    photos: PosedPhotos
    image_size: int
    """Long side, pixels, of what the network sees and says."""
    _scenes: dict[tuple[tuple[int, ...], int], tuple[Tensor, Similarity]] = field(
        default_factory=dict
    )

    def render(
        self,
        context: Sequence[int],
        world_from_camera: Float[Tensor, "target 4 4"],
        intrinsics: Float[Tensor, "target 3 3"],
        height: int,
        width: int,
    ) -> Float[Tensor, "target 3 height width"]:
        """Pictures, in (0, 1), of cameras of one size; differentiable in the network's weights.

        Args:
            context: Numbers of the photos that the network sees.
            intrinsics: Pixels of the picture.
        """
        size = size_within(height, width, self.image_size, self.network.config.patch_size)
        scene, frame = self._scene(tuple(context), min(self.image_size, max(size)))
        rays = plucker_maps(
            resized_intrinsics(intrinsics, (height, width), size),
            frame.apply_to_pose(world_from_camera),
            *size,
        )
        return resized_images(self.network.render(scene, rays[None])[0], height, width)

    def forget(self) -> None:
        """Drop what is kept of scenes: the weights have changed."""
        self._scenes.clear()

    def _scene(self, context: tuple[int, ...], longest: int) -> tuple[Tensor, Similarity]:
        """What the network keeps of some photos, and the frame in which it takes cameras."""
        if (context, longest) in self._scenes:
            return self._scenes[context, longest]
        frame = normalization(self.photos.world_from_camera[list(context)])
        tokens = []
        for view in context:
            image, pose = self.photos.images[view], self.photos.world_from_camera[view]
            before = (image.shape[-2], image.shape[-1])
            size = size_within(*before, longest, self.network.config.patch_size)
            intrinsics = resized_intrinsics(self.photos.intrinsics[view], before, size)
            rays = plucker_maps(intrinsics, frame.apply_to_pose(pose[None])[0], *size)
            photo = resized_images(image[None], *size)
            tokens.append(self.network.photo_tokens(photo[None], rays[None, None]))
        scene = self.network.scene(torch.cat(tokens, dim=1))
        if not scene.requires_grad:
            if len(self._scenes) >= SCENES_KEPT:
                self._scenes.pop(next(iter(self._scenes)))
            self._scenes[context, longest] = (scene, frame)
        return scene, frame
