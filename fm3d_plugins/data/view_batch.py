"""What networks are trained with: views of several scenes, with all that is known of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fm3d_plugins.geometry.cameras import project
from fm3d_plugins.geometry.pointmaps import pointmap_from_depth
from fm3d_plugins.geometry.poses import invert, transform_points
from fm3d_plugins.geometry.precision import in_full_precision

WHOLE = slice(None)
"""As a part of a batch's scenes: all of them."""

SAME_SURFACE = 0.02
"""Share of its depth by which a point may lie off the surface that another view sees there."""


@dataclass(frozen=True)
class ViewBatch:
    """Views of several scenes, as many of each and all of one size; each scene in its own frame."""

    images: Float[Tensor, "scene view 3 height width"]
    """RGB in [0, 1]."""
    intrinsics: Float[Tensor, "scene view 3 3"]
    """In pixels of `images`."""
    world_from_camera: Float[Tensor, "scene view 4 4"]
    """OpenCV axes, scene units."""
    depth: Float[Tensor, "scene view height width"] | None = None
    """z in the camera at the pixels' centres, scene units; none where nothing is known of it."""
    is_valid: Bool[Tensor, "scene view height width"] | None = None
    """Pixels whose depth is known; there if `depth` is."""
    first: int = 0
    """Place of the first of these scenes in the batch of a step, of which they may be a part."""

    def __post_init__(self) -> None:
        assert (self.depth is None) == (self.is_valid is None)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def num_views(self) -> int:
        """Of each scene."""
        return self.images.shape[1]

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of the images."""
        return self.images.shape[-2], self.images.shape[-1]

    def to(self, device: torch.device | str) -> "ViewBatch":
        """The same on a device."""
        return self._changed(lambda tensor: tensor.to(device))

    def of_views(self, numbers: Sequence[int]) -> "ViewBatch":
        """Some of each scene's views, in this order."""
        chosen = list(numbers)
        return self._changed(lambda tensor: tensor[:, chosen])

    def of_scenes(self, part: slice) -> "ViewBatch":
        """Some of the scenes."""
        first = self.first + part.indices(len(self))[0]
        return replace(self._changed(lambda tensor: tensor[part]), first=first)

    @in_full_precision
    def points(self) -> Float[Tensor, "scene view height width 3"]:
        """What the pixels show, in each scene's world frame; anything where it is not known."""
        return pointmap_from_depth(self._depth(), self.intrinsics, self.world_from_camera)

    @in_full_precision
    def correspondences(
        self, first: int, second: int
    ) -> tuple[
        Float[Tensor, "scene height width 2"],
        Bool[Tensor, "scene height width"],
    ]:
        """Where one view's pixels lie in another, and which of them are seen there.

        Returns:
            (x, y) in pixels of the second view, and whether the point lies within that image,
            before the camera, and no further than 2 % behind or before what is seen there.
        """
        depth, is_valid = self._depth(), self.is_valid
        assert is_valid is not None
        rows, columns = self.size
        points = self.of_views([first]).points()[:, 0].flatten(1, 2)
        local = transform_points(invert(self.world_from_camera[:, second]), points)
        z = local[..., 2]
        is_before = z > 0
        ahead = torch.where(is_before[..., None], local, local.new_tensor([0.0, 0, 1]))
        places = project(ahead, self.intrinsics[:, second])
        limits = places.new_tensor([columns, rows])
        is_inside = is_before & (places >= 0).all(-1) & (places < limits).all(-1)
        column, row = torch.where(is_inside[..., None], places, 0).long().unbind(-1)
        there = row * columns + column
        seen = depth[:, second].flatten(1).gather(1, there)
        is_known = is_valid[:, second].flatten(1).gather(1, there)
        is_near = (seen - z).abs() <= SAME_SURFACE * z
        is_seen = is_inside & is_near & is_known & is_valid[:, first].flatten(1)
        shape = (len(self), rows, columns)
        return places.reshape(*shape, 2), is_seen.reshape(shape)

    def is_told(self, first: int, second: int) -> Bool[Tensor, "scene height width"]:
        """Whether depth tells if a view's pixels are seen in another: it is known of them, and
        of what is seen there in their place, if that lies within the image."""
        assert self.is_valid is not None
        if bool(self.is_valid[:, [first, second]].all()):
            return self.is_valid[:, first]
        places, _ = self.correspondences(first, second)
        rows, columns = self.size
        is_inside = ((places >= 0) & (places < places.new_tensor([columns, rows]))).all(-1)
        column, row = torch.where(is_inside[..., None], places, 0).long().unbind(-1)
        there = (row * columns + column).flatten(1)
        is_known = self.is_valid[:, second].flatten(1).gather(1, there).view_as(is_inside)
        return self.is_valid[:, first] & (is_known | ~is_inside)

    def _depth(self) -> Float[Tensor, "scene view height width"]:
        if self.depth is None:
            raise ValueError(
                "These views come without depth; expected scenes with depth maps. Train with "
                "scenes that have them, such as the synthetic ones."
            )
        return self.depth

    def _changed(self, change: Callable[[Tensor], Tensor]) -> "ViewBatch":
        return ViewBatch(
            images=change(self.images),
            intrinsics=change(self.intrinsics),
            world_from_camera=change(self.world_from_camera),
            depth=None if self.depth is None else change(self.depth),
            is_valid=None if self.is_valid is None else change(self.is_valid),
            first=self.first,
        )
