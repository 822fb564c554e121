"""RayZer as an estimator: photos in order to cameras in a space of the network's own."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from fm3d_plugins.checkpoints import CheckpointFile, locate
from fm3d_plugins.estimators.network_weights import NetworkEstimator, trained_with
from fm3d_plugins.estimators.stages import Stages
from fm3d_plugins.nn.planning import (
    DTYPES,
    Precision,
    choose_device,
    choose_precision,
    duration,
    gib,
)
from fm3d_plugins.nn.view_planning import plan_views
from fm3d_plugins.photos.photo_set import PhotoSet
from fm3d_plugins.progress import say
from fm3d_plugins.rayzer.inference import (
    canvases_of,
    in_trained_number,
    load_network,
    on_canvases,
)
from fm3d_plugins.rayzer.network import RayZerConfig
from fm3d_plugins.scene import SceneGeometry, Tracks

PUBLISHED_SIZE = 256
"""Side of the images that the published weights were trained with, pixels."""


@dataclass(frozen=True)
class Rayzer(NetworkEstimator):
    """Latent cameras by RayZer (Jiang et al. 2025), learned without any poses; no points.

    The cameras tell the network itself where a photo lies among the others. They are no real
    poses, and methods refuse them unless told to accept latent cameras.
    """

    name: ClassVar[str] = "rayzer"

    weights: str = "hwjiang/RayZer"
    """official: those published; small: those that come with this package; or published weights by
    name (`fm3d weights list`), or a file or folder."""
    resolution: int | None = None
    """Side of the square middle of each photo that the network sees, pixels. None: as it was
    trained, 256 for published weights."""
    spacing: int | None = None
    """Of more photos than the network was trained with, every so many-th is taken, around the
    middle one; 0: evenly from first to last. None: 0 for published weights, which were trained on
    whole paths, 1 for those trained with `rayzer-train`, which saw photos that overlap."""
    precision: Precision = "auto"
    """Of the matrices; auto: bfloat16 where the device is fast at it."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: CUDA where there is a device."""

    def size(self) -> int:
        """Side of what the network sees, pixels.

        Raises:
            ValueError, FileNotFoundError: As `checkpoints.locate`, if the weights are to tell.
        """
        if self.resolution is not None:
            return self.resolution
        file = locate(self.named_weights, commercial_only=self.commercial_only)
        trained = trained_with(file)
        return trained.image_size if trained else PUBLISHED_SIZE

    def chosen(self, count: int, file: CheckpointFile, config: RayZerConfig) -> list[int]:
        """Numbers of the photos that the network sees.

        Raises:
            ValueError: As `in_trained_number`.
        """
        spacing = self.spacing
        if spacing is None:
            is_own = trained_with(file) is not None and count > config.num_views
            spacing = 1 if is_own else 0
        return in_trained_number(count, config, spacing)

    def estimate(self, photos: PhotoSet) -> SceneGeometry:
        """Predict a camera for each of as many photos as the network was trained with.

        Raises:
            ValueError: There are fewer photos, or the weights are damaged or refused.
            FileNotFoundError: The weights are not here and cannot be fetched.
        """
        file, size = self.located_weights(), self.size()
        device = choose_device(self.device)
        precision = choose_precision(self.precision, device)
        network = load_network(file, DTYPES[precision], device)
        rows = self.chosen(len(photos), file, network.config)
        chosen = [photos.photos[row] for row in rows]
        sizes = [(photo.width, photo.height) for photo in chosen]
        canvases = canvases_of(sizes, size, network.config.patch_size)
        needed = network.camera_pass((size // network.config.patch_size) ** 2)
        work = f"rayzer, cameras of {len(chosen)} photos of {size} pixels,"
        plan = plan_views(network, [], [needed], work=work, precision=precision, device=device)
        say(
            f"{work} on {device.type}: about {duration(plan.view)} and {gib(plan.bytes)} of memory."
        )
        stages = Stages()
        with stages.stage("Seeing photos", total=1) as report, torch.inference_mode():
            images = on_canvases((photo.open() for photo in chosen), canvases).to(device)
            _, cameras, _ = network.see(images[None])
            report(1)
        intrinsics = cameras.intrinsics(size, size)[0].double().cpu()
        none = torch.zeros(0, dtype=torch.long)
        return SceneGeometry(
            names=tuple(photo.name for photo in chosen),
            image_sizes=torch.tensor(sizes),
            world_from_camera=cameras.world_from_camera()[0].double().cpu(),
            intrinsics=canvases.map_from_photo.intrinsics_on_photo(intrinsics),
            distortion=torch.zeros(len(chosen), 6, dtype=torch.float64),
            camera_index=torch.arange(len(chosen)),
            points=torch.zeros(0, 3),
            point_colors=torch.zeros(0, 3, dtype=torch.uint8),
            point_confidence=torch.zeros(0),
            tracks=Tracks(none, none, torch.zeros(0, 2, dtype=torch.float64)),
            scale="latent",
            unregistered=tuple(
                photo.name for row, photo in enumerate(photos) if row not in set(rows)
            ),
            provenance=self.identity() | {"seconds": stages.seconds},
        )
