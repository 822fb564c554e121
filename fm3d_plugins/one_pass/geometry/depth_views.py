"""Training photos with their cameras and depth maps, read one at a time."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.datasets.base_dataset import InputDataset
from torch import Tensor
from torch.nn.functional import interpolate

from fm3d_plugins.geometry.cameras import resize_intrinsics
from fm3d_plugins.io.depth_files import DepthFiles, read_map
from fm3d_plugins.nerfstudio_cameras import (
    image_sizes,
    lens_distortion,
    world_from_cameras,
)

OPAQUE = 0.5
"""Alpha from which a pixel counts as part of the photo."""


@dataclass(frozen=True)
class DepthView:
    """One photo at the resolution of its depth map. OpenCV camera, frame of the dataparser."""

    rgb: Float[Tensor, "rows columns 3"]
    """In [0, 1]; the mean of the photo's pixels under each map pixel."""
    depth: Float[Tensor, "rows columns"]
    """z-depth, scene units; 0 where it is unknown, masked or transparent."""
    confidence: Float[Tensor, "rows columns"]
    """In [0, 1]."""
    world_from_camera: Float[Tensor, "4 4"]
    intrinsics: Float[Tensor, "3 3"]
    """In pixels of the map, which covers exactly the photo."""
    distortion: Float[Tensor, "6"]
    """Of the photo; zeros for a pinhole."""


class DepthViews:
    """The photos of a dataset and what a dataparser's depth files say of them."""

    def __init__(self, dataset: InputDataset, cameras: Cameras, files: DepthFiles) -> None:
        """Args:
            dataset: Of the training photos.
            cameras: Theirs, as given: no lens distortion has been taken out of the photos.
            files: One depth map per photo.

        Raises:
            ValueError: There are no depth maps, or not one per photo.
            FileNotFoundError: Files are absent.
        """
        if not files.depths:
            raise ValueError(
                f"The dataparser brings no depth maps for its {len(files.photos)} training photos. "
                "Expected one that estimates depth, or a scene that has it. Leave the method's own "
                "dataparser in place, or name one with depth after --data."
            )
        files.check()
        self._dataset, self._cameras, self._files = dataset, cameras, files

    def __len__(self) -> int:
        return len(self._files.depths)

    def maps(self, row: int) -> tuple[Float[Tensor, "rows columns"], Float[Tensor, "rows columns"]]:
        """Depth (scene units, 0 where unknown) and confidence of one photo, without opening it."""
        stored = torch.from_numpy(read_map(self._files.depths[row]))
        is_known = stored.isfinite() & (stored > 0)
        depth = torch.where(is_known, stored * self._files.scale, 0.0)
        if not self._files.confidences:
            return depth, is_known.float()
        confidence = torch.from_numpy(read_map(self._files.confidences[row]))
        if confidence.shape != depth.shape:
            raise ValueError(
                f"{self._files.confidences[row]} is {list(confidence.shape)}, the depth map beside "
                f"it {list(depth.shape)}. Expected equal sizes. Write both anew."
            )
        return depth, torch.where(is_known, confidence.nan_to_num(0.0), 0.0)

    def __iter__(self) -> Iterator[DepthView]:
        for row in range(len(self)):
            yield self._view(row)

    def _view(self, row: int) -> DepthView:
        depth, confidence = self.maps(row)
        rows, columns = depth.shape
        data = self._dataset.get_data(row)
        rgb = _resized(data["image"], depth.shape)
        is_used = _used_pixels(data, depth.shape)
        camera = self._cameras[row].to("cpu")
        shrink = depth.new_tensor([columns, rows]) / image_sizes(camera)
        return DepthView(
            rgb=rgb[..., :3].contiguous(),
            depth=depth * is_used,
            confidence=confidence * is_used,
            world_from_camera=world_from_cameras(camera),
            intrinsics=resize_intrinsics(camera.get_intrinsics_matrices(), shrink),
            distortion=lens_distortion(camera),
        )


def _used_pixels(data: dict, shape: torch.Size) -> Bool[Tensor, "rows columns"]:
    """Where a photo is neither masked nor transparent, at the size of its map."""
    is_used = torch.ones(shape, dtype=torch.bool)
    if "mask" in data:
        is_used &= _resized(data["mask"].float(), shape)[..., 0] >= OPAQUE
    if data["image"].shape[-1] == 4:
        is_used &= _resized(data["image"], shape)[..., 3] >= OPAQUE
    return is_used


def _resized(
    image: Float[Tensor, "height width channel"], shape: torch.Size
) -> Float[Tensor, "rows columns channel"]:
    planes = image.permute(2, 0, 1)[None]
    return interpolate(planes, size=tuple(shape), mode="area")[0].permute(1, 2, 0)
