"""Photos at a size that training can afford."""

from typing import Literal

import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.datasets.base_dataset import InputDataset
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor
from torch.nn.functional import interpolate


def scaled_dataset(outputs: DataparserOutputs, scale: float) -> InputDataset:
    """The photos at `scale` times their size; nerfstudio's own dataset where that is 1."""
    return InputDataset(outputs) if scale == 1.0 else ScaledDataset(outputs, scale)


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
        for size, focal, centre in (
            (cameras.width, cameras.fx, cameras.cx),
            (cameras.height, cameras.fy, cameras.cy),
        ):
            scaled = (size.double() * scale).round().clamp_min(1).to(size.dtype)
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
