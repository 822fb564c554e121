"""What each step of fine-tuning LVSM on a scene's own photos shows, and asks for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fm3d_plugins.geometry.rays import plucker_maps
from fm3d_plugins.lvsm.cameras import normalization
from fm3d_plugins.lvsm.inference import PosedPhotos
from fm3d_plugins.one_pass.views.sizes import resized_images, resized_intrinsics, size_within

GAIN, GAMMA = (0.6, 1.4), (0.7, 1.4)
"""Ranges of what colours of a varied sample are multiplied by, and raised to."""


@dataclass(frozen=True)
class Sample:
    """Photos of one size, for each sample the context and then the target; and their cameras."""

    images: Float[Tensor, "sample view 3 height width"]
    """RGB in [0, 1]."""
    intrinsics: Float[Tensor, "sample view 3 3"]
    world_from_camera: Float[Tensor, "sample view 4 4"]

    def rays(self) -> Float[Tensor, "sample view 6 height width"]:
        """Plücker coordinates in the frame of each sample's context."""
        frame = normalization(self.world_from_camera[:, :-1])
        poses = frame.apply_to_pose(self.world_from_camera)
        return plucker_maps(self.intrinsics, poses, *self.images.shape[-2:])


@dataclass
class SampleDrawer:
    """Draws samples from a scene's photos, which are made smaller once for each size."""

    photos: PosedPhotos
    contexts_of: Callable[[int], Sequence[int]]
    """Numbers of the photos that a photo is predicted from; always as many."""
    patch_size: int
    """Of the network."""
    is_varied: bool
    """Whether half of the samples are mirrored and most recoloured."""
    _resized: dict[tuple[int, int], PosedPhotos] = field(default_factory=dict)
    _longest: int = 0

    def draw(self, count: int, longest: int) -> Sample:
        """Samples whose photos are at most that long.

        All have the size of the first target; photos of other proportions are squeezed to it, and
        so are their cameras.
        """
        targets = torch.randint(len(self.photos), (count,)).tolist()
        if longest != self._longest:  # Sizes grow, and do not come back.
            self._resized.clear()
            self._longest = longest
        rows, columns = self.photos.images[targets[0]].shape[-2:]
        photos = self._at(size_within(rows, columns, longest, self.patch_size))
        views = torch.tensor([[*self.contexts_of(target), target] for target in targets])
        images = torch.stack([photos.images[view] for view in views.flatten().tolist()])
        sample = Sample(
            images.unflatten(0, tuple(views.shape)),
            photos.intrinsics[views],
            photos.world_from_camera[views],
        )
        return varied(sample) if self.is_varied else sample

    def _at(self, size: tuple[int, int]) -> PosedPhotos:
        if size not in self._resized:
            before = [(image.shape[-2], image.shape[-1]) for image in self.photos.images]
            lenses = zip(self.photos.intrinsics, before, strict=True)
            self._resized[size] = PosedPhotos(
                [resized_images(image[None], *size)[0] for image in self.photos.images],
                torch.stack([resized_intrinsics(lens, shape, size) for lens, shape in lenses]),
                self.photos.world_from_camera,
            )
        return self._resized[size]


def size_at(share: float | int, first: int, last: int) -> int:
    """Long side of photos, pixels, when a share of all steps is done: each doubling of it lasts
    half as long as the one before, because small photos teach most in the same time.

    Args:
        share: In [0, 1].
        first: At the beginning; if it is not below `last`, that holds all the time.
    """
    sizes = [last]
    while sizes[0] / 2 >= first:
        sizes.insert(0, sizes[0] // 2)
    left = (1 - share) * (2 ** len(sizes) - 1)  # In units of the time of the last size.
    stage = next((i for i in range(len(sizes)) if left > 2 ** (len(sizes) - 1 - i) - 1), -1)
    return sizes[stage]


def varied(sample: Sample) -> Sample:
    """Samples of which half are mirrored and most have other colours, each alike in all its views.

    What is said of other photos then has to be seen in the context; a network that learns by heart
    what the scene looks like cannot know it.
    """
    images, count = sample.images, len(sample.images)
    draw = lambda *shape: torch.rand(count, *shape).to(images)  # noqa: E731
    order = torch.rand(count, 3).argsort(-1).to(images.device)
    gains = GAIN[0] + (GAIN[1] - GAIN[0]) * draw(1, 3, 1, 1)
    exponents = GAMMA[0] + (GAMMA[1] - GAMMA[0]) * draw(1, 1, 1, 1)
    channels = order[:, None, :, None, None].expand_as(images)
    colors = (images.gather(2, channels) * gains).clamp(0, 1).pow(exponents)
    colors = torch.where(draw(1, 1, 1, 1) < 0.3, 1 - colors, colors)
    images = torch.where(draw(1, 1, 1, 1) < 0.8, colors, images)
    return mirrored(replace(sample, images=images), torch.rand(count) < 0.5)


def mirrored(sample: Sample, which: Bool[Tensor, " sample"]) -> Sample:
    """Samples of which some are as a mirror would show them: x becomes -x in world and pictures."""
    flags = which.to(sample.images.device).view(-1, 1, 1, 1)
    turn = torch.diag(sample.world_from_camera.new_tensor([-1.0, 1, 1, 1]))
    lenses = sample.intrinsics.clone()
    lenses[..., 0, 2] = sample.images.shape[-1] - lenses[..., 0, 2]
    return Sample(
        torch.where(flags[..., None], sample.images.flip(-1), sample.images),
        torch.where(flags, lenses, sample.intrinsics),
        torch.where(flags, turn @ sample.world_from_camera @ turn, sample.world_from_camera),
    )
