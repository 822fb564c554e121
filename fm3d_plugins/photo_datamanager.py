"""What every datamanager here does with photos: checked, scaled exactly, and as they were given."""

from copy import deepcopy
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.datasets.base_dataset import InputDataset
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor
from torch.nn.functional import interpolate

from fm3d_plugins.input_checks import check_dataparser_outputs, checked_parsing
from fm3d_plugins.io.depth_files import DepthFiles
from fm3d_plugins.scene_points import settle_points

GIVEN_CAMERAS = "given_cameras"
"""Key of a dataset's metadata under which the dataparser's cameras are handed over, at the size of
the photos that the dataset gives out, lens distortion included."""

DEPTH_FILES = "depth_files"
"""Key of a dataset's metadata under which a datamanager hands `DepthFiles` to the model."""

LATENT_CAMERAS = "latent_cameras"
"""Key of a dataparser's metadata: whether cameras are of a network's own space, no real poses."""

RENDERED_VIEWS = "rendered_views"
"""Key of a dataparser's metadata: [V] bool, which training views a network made; none where absent.
They come behind the photos."""

VIEW_WEIGHTS = "view_weights"
"""Key of a dataparser's metadata: [V], by how much the colours of each training view count; 1 where
absent."""

CPU_IMAGE_SIZE = 640
"""Long side in pixels that a CPU gets through in minutes."""


@dataclass
class PhotoOptions:
    """Options of every datamanager of photos; a base of its config."""

    max_image_size: int | None = None
    """Long side in pixels above which photos are scaled down; 0: never. None: 640 on a CPU, never
    on CUDA."""
    accept_latent_cameras: bool = False
    """Use cameras of a space that only the network that predicted them understands. They are no
    real poses: optimise them, and expect little."""


class PhotoDatasets:
    """Stands before a datamanager of nerfstudio's among the bases of one of this package's.

    What is wrong with the input ends the program with one message. Datasets hold under
    `GIVEN_CAMERAS` the cameras as they were given, and under `DEPTH_FILES` what the dataparser says
    about depth.
    """

    config: Any
    device: torch.device | str
    dataparser: Any
    test_split: str
    train_dataparser_outputs: DataparserOutputs

    takes_rendered_views: ClassVar[bool] = False
    """Whether the method learns a scene from its views, and may learn from rendered ones too."""

    def __init__(self, config: Any, **kwargs: Any) -> None:
        """Args:
        config: With `PhotoOptions`.
        kwargs: As nerfstudio's pipeline passes them.
        """
        data = config.data if config.data is not None else config.dataparser.data
        with checked_parsing(config.dataparser, data):
            self._expect_photos(config.dataparser)
            super().__init__(config, **kwargs)  # pyright: ignore[reportCallIssue] (a mixin)
            settle_points(self.train_dataparser_outputs.metadata)
            self._expect_real_cameras()
        if self.is_on_cpu and getattr(config, "cache_images", None) == "cpu":
            # Above 500 photos nerfstudio says so; it pins memory and needs a CUDA driver.
            config.cache_images = "gpu"

    def _expect_photos(self, dataparser: Any) -> None:
        is_adding = getattr(dataparser, "adds_rendered_views", False)
        if is_adding and not self.takes_rendered_views:
            raise ValueError(
                "The dataparser adds rendered views to the photos, but this method trains no scene "
                "on views: a network looks at the photos themselves. Expected photos alone. Name "
                "the dataparser that gives the posed scene, or train 3dgs or nerf."
            )

    def _expect_real_cameras(self) -> None:
        metadata = self.train_dataparser_outputs.metadata
        if metadata.get(LATENT_CAMERAS) and not self.config.accept_latent_cameras:
            raise ValueError(
                "These cameras are latent: they lie in a space that only the network that "
                "predicted them understands, and are no poses of the photos (of RayZer's, trained "
                "on DL3DV, 6 % of relative poses there are right to 30 degrees). Expected real "
                "ones. Name another dataparser (vggt, dust3r, sfm), or use them all the same with "
                "--pipeline.datamanager.accept-latent-cameras True."
            )

    @property
    def is_on_cpu(self) -> bool:
        """Whether the photos are for a CPU."""
        return torch.device(self.device).type == "cpu"

    def create_train_dataset(self) -> InputDataset:
        """Called by nerfstudio's datamanager."""
        return self._dataset(self.train_dataparser_outputs)

    def create_eval_dataset(self) -> InputDataset:
        """Called by nerfstudio's datamanager."""
        return self._dataset(self.dataparser.get_dataparser_outputs(split=self.test_split))

    def _dataset(self, outputs: DataparserOutputs) -> InputDataset:
        check_dataparser_outputs(outputs)
        limit = self.config.max_image_size
        if limit is None and self.is_on_cpu:
            limit = CPU_IMAGE_SIZE
        scale = training_scale(
            self.train_dataparser_outputs.cameras,
            limit,
            self.config.camera_res_scale_factor,
            # Once, not again for held-out photos.
            is_said=getattr(self, "train_dataset", None) is None,
        )
        dataset = InputDataset(outputs) if scale == 1.0 else ScaledDataset(outputs, scale)
        # `ns-export cameras` (nerfstudio 1.1.5) asks for a dictionary that not all parsers make.
        dataset.cameras.metadata = dataset.cameras.metadata or {}
        # A copy: where photos are loaded and their distortion is undone, intrinsics change.
        dataset.metadata[GIVEN_CAMERAS] = deepcopy(dataset.cameras)
        dataset.metadata[DEPTH_FILES] = depth_files_of(outputs)
        return dataset


def depth_files_of(outputs: DataparserOutputs) -> DepthFiles:
    """What a dataparser says about depth; whatever is absent is empty.

    Reads the metadata `depth_filenames`, `depth_unit_scale_factor` and
    `depth_confidence_filenames`.
    """
    metadata = outputs.metadata
    return DepthFiles(
        photos=outputs.image_filenames,
        depths=metadata.get("depth_filenames") or (),
        confidences=metadata.get("depth_confidence_filenames") or (),
        scale=float(metadata.get("depth_unit_scale_factor") or 1.0)
        * float(outputs.dataparser_scale),
    )


def training_scale(cameras: Cameras, limit: int | None, factor: float, *, is_said: bool) -> float:
    """How much to scale photos by so that none is larger than a limit.

    Args:
        limit: Long side in pixels; 0 or none: no limit.
        factor: What the user asked for besides; at most 1.
        is_said: Tell the user where the limit decides.
    """
    largest = int(torch.maximum(cameras.width, cameras.height).max())
    if not limit or largest * factor <= limit:
        return factor
    if is_said:
        CONSOLE.print(
            f"Photos are scaled down from {largest} to {limit} pixels (long side). "
            "Another limit: --pipeline.datamanager.max-image-size N (0: none)."
        )
    return limit / largest


class ScaledDataset(InputDataset):
    """nerfstudio's dataset with photos scaled down by area, and cameras exactly with them.

    Rendered views, which are small already, become no longer than the longest photo.

    nerfstudio's own scaling rounds photo and camera sizes in different precisions, and fails where
    they differ by a pixel (1131 x 848 to 640 is such a case). Here each camera's size is rounded
    once, and its focal lengths and principal point follow that size along each axis.
    """

    def __init__(self, outputs: DataparserOutputs, scale: float) -> None:
        """Args:
        scale: New size over old, at most 1.
        """
        super().__init__(outputs)
        cameras = self.cameras
        longest = torch.maximum(cameras.width, cameras.height).double()
        scales = torch.full_like(longest, scale)
        if RENDERED_VIEWS in self.metadata:
            is_small = self.metadata[RENDERED_VIEWS][:, None]
            scales[is_small] = (scale * longest.max() / longest[is_small]).clamp_max(1)
        for size, focal, centre in (
            (cameras.width, cameras.fx, cameras.cx),
            (cameras.height, cameras.fy, cameras.cy),
        ):
            scaled = (size.double() * scales).round().clamp_min(1).to(size.dtype)
            ratio = (scaled.double() / size.double()).to(focal.dtype)
            size.copy_(scaled)
            focal.mul_(ratio)
            centre.mul_(ratio)

    def get_data(
        self, image_idx: int, image_type: Literal["uint8", "float32"] = "float32"
    ) -> dict[str, Tensor | int]:
        """nerfstudio's batch of one photo: `image` [H, W, C], `mask` [H, W, 1] if there is one."""
        data = super().get_data(image_idx, image_type)
        camera = self.cameras[image_idx]
        size = (int(camera.height.item()), int(camera.width.item()))
        data["image"] = _resized(data["image"], size, "area")
        if "mask" in data:
            data["mask"] = _resized(data["mask"], size, "nearest")
        return data


def _resized(image: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    planes = image.float().permute(2, 0, 1)[None]
    resized = interpolate(planes, size=size, mode=mode)[0].permute(1, 2, 0)
    return (resized.round() if image.dtype == torch.uint8 else resized).to(image.dtype)
