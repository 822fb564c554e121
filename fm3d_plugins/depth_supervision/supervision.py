"""The loss that holds a scene's depth against depth maps of its training photos."""

from dataclasses import dataclass, field, fields
from typing import Any

import torch
from jaxtyping import Float, Int
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.configs.base_config import InstantiateConfig
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from fm3d_plugins.camera_optimization.camera_optimizer import CameraOptimizer
from fm3d_plugins.camera_photos import GIVEN_CAMERAS
from fm3d_plugins.depth_supervision.alignment import (
    Alignment,
    AlignmentMode,
    Moments,
    fit,
    relative_errors,
)
from fm3d_plugins.depth_supervision.anchors import align_to_points
from fm3d_plugins.depth_supervision.depth_maps import DepthMaps
from fm3d_plugins.depth_supervision.units import check_depth_unit
from fm3d_plugins.errors import one_line_errors
from fm3d_plugins.geometry.rays import pixel_centers
from fm3d_plugins.io.depth_files import DepthFiles
from fm3d_plugins.nerfstudio_cameras import (
    image_sizes,
    intrinsics_matrices,
    positions_in_photo,
    world_from_cameras,
)
from fm3d_plugins.photo_datamanager import DEPTH_FILES

MEMORY_RAYS = 1024
"""Rays per photo by which a scale and a shift are found. Where a batch holds fewer, those of
earlier steps count, each step less."""

FIT_PIXELS = 1 << 14
"""About as many evenly chosen pixels of a whole photo suffice for a scale and a shift."""

SMALLEST_COSINE = 0.1
"""Rays farther off the optical axis (84 degrees) have no usable z-depth."""


@dataclass
class DepthSupervisionConfig(InstantiateConfig):
    """Whether and how depth maps from the dataparser guide the scene's depth."""

    _target: type = field(default_factory=lambda: DepthSupervision)
    weight: float = 0.0
    """Weight of the depth loss (mean relative error) beside the loss of the colours. 0: off."""
    final_share: float = 0.1
    """Share of the weight that is left when it has fallen."""
    anneal_steps: int | None = None
    """Steps over which the weight falls evenly to that share. None: half of the run."""
    alignment: AlignmentMode = "scale-shift"
    """What a depth map may be wrong by, photo by photo: a factor and a constant, a factor, or
    nothing (depth in the units of the cameras). Found by the dataparser's points, or, in photos
    that show too few, by what is rendered."""
    use_confidence: bool = True
    """Let the dataparser's confidence maps, where it brings them, say how much a pixel counts."""

    def resolve(self, steps: int) -> None:
        """Check the options, and fill in what is None; wrong ones end the program.

        Args:
            steps: Length of the run.
        """
        with one_line_errors():
            self.check()
        if self.weight > 0 and self.anneal_steps is None:
            self.anneal_steps = steps // 2

    def check(self) -> None:
        """Refuse options that are wrong or would have no effect.

        Raises:
            ValueError: A number is out of its range, or something is set although the weight is 0.
        """
        if self.weight < 0 or not 0 <= self.final_share <= 1:
            raise ValueError(
                f"The depth loss has weight {self.weight} and final share {self.final_share}. "
                "Expected a weight of at least 0 and a share from 0 to 1. Change "
                "--pipeline.model.depth.weight or --pipeline.model.depth.final-share."
            )
        changed = [
            entry.name.replace("_", "-")
            for entry in fields(self)
            if entry.name != "_target" and getattr(self, entry.name) != entry.default
        ]
        if self.weight == 0 and changed:
            raise ValueError(
                f"Depth supervision is off, so --pipeline.model.depth.{changed[0]} has no effect. "
                "Expected --pipeline.model.depth.weight with it. Add that, or leave it out."
            )

    def weight_at(self, step: int) -> float:
        """Weight of the loss at a step, counted from 0."""
        assert self.anneal_steps is not None, "resolve() is called before training"
        progress = min(1.0, step / max(1, self.anneal_steps))
        return self.weight * (1 - (1 - self.final_share) * progress)


class DepthSupervision(torch.nn.Module):
    """Aligns every photo's depth map to the scene, and punishes what then differs.

    State: moments of the rays of earlier steps, by which photos are aligned of which a batch holds
    only a few rays. Maps are read by `prepare`, which training calls and evaluation does not.
    """

    config: DepthSupervisionConfig
    moments: Float[Tensor, "photo 7"]

    def __init__(
        self, config: DepthSupervisionConfig, num_photos: int, device: torch.device | str = "cpu"
    ) -> None:
        """Args:
        num_photos: Of the training set.
        device: On which the scene will be trained.
        """
        super().__init__()
        self.config = config
        self.maps: DepthMaps | None = None
        self._cameras: Cameras | None = None
        self._anchored: Alignment | None = None
        self._is_anchored: list[bool] = []
        self._targets: dict[int, tuple[Tensor, Tensor]] = {}
        if self.is_on:
            # Sums over a photo lose digits in float32, which Apple's GPUs cannot exceed.
            dtype = torch.float32 if str(device).startswith("mps") else torch.float64
            moments = torch.zeros(num_photos, Moments.NUM_COLUMNS, dtype=dtype)
            self.register_buffer("moments", moments)

    @property
    def is_on(self) -> bool:
        """Whether depth maps guide the scene at all."""
        return self.config.weight > 0

    def begin_training(self, metadata: dict[str, Any], device: torch.device | str) -> None:
        """`prepare` where depth maps are asked for; what is wrong with them ends the program."""
        if self.is_on:
            with one_line_errors():
                self.prepare(metadata, device)

    def prepare(self, metadata: dict[str, Any], device: torch.device | str) -> None:
        """Read the depth maps, and say what was found.

        Args:
            metadata: Of the training dataset, with `DEPTH_FILES` and `GIVEN_CAMERAS`.
            device: Where the maps are kept.

        Raises:
            ValueError: There are none, they do not suit the photos, the cameras have no z-depth, or
                the unit is wrong where maps are taken as they are.
            FileNotFoundError: Files are absent.
        """
        files, cameras = metadata.get(DEPTH_FILES), metadata.get(GIVEN_CAMERAS)
        if not isinstance(files, DepthFiles) or not isinstance(cameras, Cameras):
            raise ValueError(
                f"Depth supervision got no {DEPTH_FILES!r} and {GIVEN_CAMERAS!r} in the dataset's "
                "metadata. Expected both. Use this package's datamanagers, or leave out "
                "--pipeline.model.depth.weight."
            )
        types = set(cameras.camera_type.flatten().tolist())
        if CameraType.EQUIRECTANGULAR.value in types:
            raise ValueError(
                "Depth supervision got equirectangular photos. Expected lenses with an optical "
                "axis, along which depth is measured. Leave out --pipeline.model.depth.weight."
            )
        sizes = image_sizes(cameras).long()
        self.maps = DepthMaps(files, sizes, device, use_confidence=self.config.use_confidence)
        self._cameras = cameras.to(device)
        self._targets.clear()
        points = metadata.get("points3D_xyz")
        if self.config.alignment == "none":
            check_depth_unit(files, cameras, points)
        if points is not None and self.config.alignment != "none":
            self._anchor(
                align_to_points(points.to(device), self._cameras, self.maps, self.config.alignment)
            )
        self._say(files)

    def _anchor(self, found: Alignment) -> None:
        """Keep what points say of the photos that they are trusted in."""
        # On the CPU too, as every step asks.
        self._is_anchored = (found.trust > 0).tolist()
        self._anchored = Alignment(
            *(v.to(self.moments) for v in (found.scale, found.shift, found.trust))
        )

    def _say(self, files: DepthFiles) -> None:
        assert self.maps is not None
        use = "with" if files.confidences and self.config.use_confidence else "without"
        if self.config.alignment == "none":
            aligned = "taken as they are"
        else:
            count = sum(self._is_anchored)
            aligned = f"{count} of them aligned to the scene's points, the rest to what is rendered"
            if self._anchored is None:
                aligned = (
                    "aligned to what is rendered, as the dataparser brings no points (they help: "
                    "nerfstudio-data --load-3D-points True)"
                )
        CONSOLE.print(
            f"Depth maps of {len(files.depths)} photos guide the scene, {use} confidence, "
            f"{aligned}; {100 * self.maps.share_valid:.0f} % of their pixels hold a depth."
        )

    def ray_loss(
        self,
        distance: Float[Tensor, " ray"],
        opacity: Float[Tensor, " ray"],
        cosine: Float[Tensor, " ray"],
        pixels: Int[Tensor, "ray 3"],
        step: int,
    ) -> Float[Tensor, ""]:
        """Loss of rays of many photos.

        Args:
            distance: At which each ray ends, scene units; the gradient goes here.
            opacity: How much of each ray ends at all, 0 to 1.
            cosine: Of the angle between each ray and the optical axis: z-depth over distance.
            pixels: Photo, row and column.
            step: Of the training.
        """
        assert self.maps is not None, "prepare() is called before training"
        photo = pixels[:, 0]
        target, confidence = self.maps.at(photo, pixels[:, [2, 1]] + 0.5)
        confidence = confidence.where(cosine > SMALLEST_COSINE, 0.0)
        depth, weight = distance * cosine, _weight(confidence, opacity)
        is_fresh = (confidence > 0).to(self.moments)
        # Not a list of them, whose length a GPU would have to be asked for.
        fresh = self.moments.new_zeros(len(self.moments)).index_add(0, photo, is_fresh)
        before = Moments.from_table(self.moments).faded((1 - fresh / MEMORY_RAYS).clamp(0, 1))
        alignment, kept = self._fit(target, depth, weight, photo, before)
        self.moments = kept.table()
        if self._anchored is not None:
            alignment = alignment.replaced(self._anchored)
        count = (confidence > 0).sum()
        return self.config.weight_at(step) * _loss(depth, target, weight, photo, alignment, count)

    def photo_loss(
        self,
        depth: Float[Tensor, "height width 1"],
        opacity: Float[Tensor, "height width 1"],
        camera: Cameras,
        photo: int,
        step: int,
        *,
        downscale: int = 1,
        mask: Float[Tensor, "height width 1"] | None = None,
    ) -> Float[Tensor, ""]:
        """Loss of a whole photo.

        Args:
            depth: Rendered z-depth, scene units; the gradient goes here.
            opacity: 0 to 1.
            camera: The undistorted camera at full resolution that shows what was rendered.
            photo: Row in the training set.
            step: Of the training.
            downscale: Size of the camera over that of the render.
            mask: How much of each pixel counts; all of it without a mask.
        """
        target, confidence = self._target(camera, photo, depth.shape[:2], downscale)
        if mask is not None:
            confidence = confidence * mask.flatten()
        depth, weight = depth.flatten(), _weight(confidence, opacity.flatten())
        rows = torch.zeros_like(target, dtype=torch.long)
        if self._anchored is not None and self._is_anchored[photo]:
            alignment = self._anchored.of(photo)
        else:
            nothing = Moments.from_table(torch.zeros_like(self.moments[:1]))
            some = slice(None, None, 1 + len(depth) // FIT_PIXELS)
            alignment, _ = self._fit(target[some], depth[some], weight[some], rows[some], nothing)
        count = (confidence > 0).sum()
        return self.config.weight_at(step) * _loss(depth, target, weight, rows, alignment, count)

    def _fit(
        self,
        target: Float[Tensor, " pixel"],
        rendered: Float[Tensor, " pixel"],
        weight: Float[Tensor, " pixel"],
        photo: Int[Tensor, " pixel"],
        before: Moments,
    ) -> tuple[Alignment, Moments]:
        """`alignment.fit` in the precision of the moments."""
        x, y, w = (values.detach().to(before.weight) for values in (target, rendered, weight))
        return fit(x, y, w, photo, before, self.config.alignment)

    def _target(
        self, camera: Cameras, photo: int, shape: torch.Size, downscale: int
    ) -> tuple[Float[Tensor, " pixel"], Float[Tensor, " pixel"]]:
        """Depth and confidence of a photo at the pixels of its undistorted camera, kept for next
        time."""
        assert self.maps is not None and self._cameras is not None, "prepare() comes first"
        kept = self._targets.get(photo)
        if kept is None or len(kept[0]) != shape.numel():
            centers = pixel_centers(*shape, device=camera.fx.device).flatten(0, 1) * downscale
            intrinsics = intrinsics_matrices(camera).reshape(3, 3)
            positions = positions_in_photo(centers, intrinsics, self._cameras[photo])
            rows = torch.full((len(positions),), photo, device=positions.device)
            kept = self.maps.at(rows, positions)
            self._targets[photo] = kept
        return kept


def _weight(
    confidence: Float[Tensor, " pixel"], opacity: Float[Tensor, " pixel"]
) -> Float[Tensor, " pixel"]:
    """What is rendered where the scene is transparent says nothing about its surfaces."""
    return confidence * opacity.detach()


def _loss(
    rendered: Float[Tensor, " pixel"],
    target: Float[Tensor, " pixel"],
    weight: Float[Tensor, " pixel"],
    photo: Int[Tensor, " pixel"],
    alignment: Alignment,
    count: Int[Tensor, ""],
) -> Float[Tensor, ""]:
    """Sum of weight, trust and relative error over the number of pixels with a depth."""
    error, is_usable = relative_errors(rendered, alignment.apply(target, photo).to(rendered))
    weight = (weight * alignment.trust[photo].to(weight)).where(is_usable, 0.0)
    return (weight * error.where(weight > 0, 0.0)).sum() / count.clamp_min(1)


def axis_cosines(
    directions: Float[Tensor, "ray 3"],
    photo: Int[Tensor, " ray"],
    cameras: Cameras,
    optimizer: CameraOptimizer,
) -> Float[Tensor, " ray"]:
    """Cosine between rays and the optical axes of their (optimised) cameras.

    Args:
        directions: Unit vectors, world frame.
        photo: Row of the training photo.
        cameras: The training cameras as given.
        optimizer: Turns them.
    """
    axis = world_from_cameras(cameras).to(directions)[photo, :3, 2]
    if optimizer.is_on:
        axis = (optimizer(photo)[..., :3].to(axis) @ axis[..., None]).squeeze(-1)
    return (directions * axis).sum(-1)
