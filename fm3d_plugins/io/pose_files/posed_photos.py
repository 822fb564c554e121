"""`PosedPhotos`: what every reader of pose files returns, whatever its format."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from fm3d_plugins.errors import listed
from fm3d_plugins.geometry.cameras import opencv_from_opengl
from fm3d_plugins.geometry.poses import nearest_rotation, pose_from_rotation_translation
from fm3d_plugins.io.scene_checks import MAX_ROTATION_ERROR
from fm3d_plugins.io.transforms import GREY
from fm3d_plugins.scene import LARGEST_FOCAL, LARGEST_SIDE, Tracks


@dataclass(frozen=True)
class PosedPhotos:
    """Cameras of photos that are known by name only; OpenCV cameras, float64, on the CPU.

    Pixels are those of the pictures that the file was made from; what it leaves unsaid of them is
    for the photos to tell.
    """

    names: tuple[str, ...]
    """As the file has them: a path of any system, a file name, or one without its suffix."""
    world_from_camera: Float[Tensor, "view 4 4"]
    """Rigid."""
    focals: Float[Tensor, "view 2"]
    """Along x and y, pixels."""
    principal_points: Float[Tensor, "view 2"]
    """Pixels from the corner; nan: the middle of the photo."""
    image_sizes: Int[Tensor, "view 2"]
    """Width and height in pixels; 0: those of the photo."""
    distortion: Float[Tensor, "view 6"]
    """k1, k2, k3, k4, p1, p2, see `geometry.cameras.distort`."""
    inverse_radial: Float[Tensor, " view"]
    """r of a lens that is told the other way round, (x, y) = (1 + r d²) (x', y') with (x', y') as
    seen, (x, y) without the lens, and d² = x'² + y'²; 0 where `distortion` tells."""
    camera_index: Int[Tensor, " view"]
    """Views with different numbers do not share a camera; equal ones do if all else is equal."""
    points: Float[Tensor, "point 3"]
    point_colors: UInt8[Tensor, "point 3"]
    point_confidence: Float[Tensor, " point"]
    tracks: Tracks | None = None
    scale: Literal["metric", "relative"] = "relative"
    without_pose: tuple[str, ...] = ()
    """Photos that the file names and gives no pose."""

    def __post_init__(self) -> None:
        """Refuse what no camera can be.

        Raises:
            ValueError: There is no view; a number is not finite; a focal length or size is not that
                of a camera; a pose is not rigid.
        """
        if not self.names:
            raise ValueError(
                f"There is no photo with a pose ({len(self.without_pose)} without). Expected at "
                "least one. Align the photos, and export them again."
            )
        rotation = self.world_from_camera[:, :3, :3].nan_to_num(0, 0, 0)
        off = (rotation - nearest_rotation(rotation)).abs().flatten(1).amax(1)
        finite = (
            self.world_from_camera.isfinite().all(-1).all(-1)
            & self.distortion.isfinite().all(-1)
            & self.inverse_radial.isfinite()
        )
        sizes, middles = self.image_sizes, self.principal_points
        for usable, what in (
            (finite, "numbers that are not finite"),
            (off <= MAX_ROTATION_ERROR, "a pose whose 3 x 3 part is no rotation"),
            (((self.focals > 0) & (self.focals < LARGEST_FOCAL)).all(-1),
             f"a focal length that is not between 0 and {LARGEST_FOCAL:g} pixels"),
            (~middles.isinf().any(-1) & (middles.isnan().all(-1) | ~middles.isnan().any(-1)),
             "a principal point that is not finite"),
            (((sizes > 0) & (sizes <= LARGEST_SIDE)).all(-1) | (sizes == 0).all(-1),
             f"a size that is not of 1 to {LARGEST_SIDE} pixels"),
        ):  # fmt: skip
            if not bool(usable.all()):
                wrong = [name for name, good in zip(self.names, usable.tolist(), strict=True)
                         if not good]  # fmt: skip
                raise ValueError(
                    f"{len(wrong)} of {len(self.names)} photos have {what}: "
                    f"{listed(printable(wrong))}. Expected rigid poses and the intrinsics of "
                    "cameras. Export the file anew."
                )
        for name in ("points", "point_confidence"):
            if not bool(getattr(self, name).isfinite().all()):
                raise ValueError(
                    f"There are {name.replace('_', ' ')} that are not finite. Export the file anew."
                )

    def __len__(self) -> int:
        return len(self.names)


def posed_photos(
    names: Sequence[str],
    world_from_camera: Float[Tensor, "view 4 4"],
    focals: Float[Tensor, "view 2"],
    *,
    axes: Literal["opencv", "opengl"],
    principal_points: Float[Tensor, "view 2"] | None = None,
    image_sizes: Sequence[Sequence[int]] | None = None,
    distortion: Float[Tensor, "view 6"] | None = None,
    inverse_radial: Float[Tensor, " view"] | None = None,
    camera_index: Sequence[int] | None = None,
    points: Float[Tensor, "point 3"] | None = None,
    point_colors: UInt8[Tensor, "point 3"] | None = None,
    scale: Literal["metric", "relative"] = "relative",
    without_pose: Sequence[str] = (),
) -> PosedPhotos:
    """Photos with the fields that a format has; what it lacks is filled as the class says.

    Args:
        axes: Of the cameras: opencv (y down, z forward), or opengl (y up, z backward).

    Raises:
        ValueError: As `PosedPhotos`.
    """
    count = len(names)
    poses = world_from_camera.double().reshape(-1, 4, 4)
    if axes == "opengl":
        poses = opencv_from_opengl(poses)
    found = torch.zeros(0, 3, dtype=torch.float64) if points is None else points.double()
    zeros = torch.zeros(count, 6, dtype=torch.float64)
    return PosedPhotos(
        names=tuple(names),
        world_from_camera=poses,
        focals=focals.double(),
        principal_points=zeros[:, :2] + torch.nan
        if principal_points is None
        else principal_points.double(),
        image_sizes=torch.zeros(count, 2, dtype=torch.long)
        if image_sizes is None
        else torch.tensor(image_sizes, dtype=torch.long).reshape(-1, 2),
        distortion=zeros if distortion is None else distortion.double(),
        inverse_radial=zeros[:, 0] if inverse_radial is None else inverse_radial.double(),
        camera_index=torch.zeros(count, dtype=torch.long)
        if camera_index is None
        else torch.tensor(camera_index, dtype=torch.long),
        points=found,
        point_colors=torch.full(found.shape, GREY, dtype=torch.uint8)
        if point_colors is None
        else point_colors,
        point_confidence=found.new_ones(len(found)),
        scale=scale,
        without_pose=tuple(without_pose),
    )


def without_rounding(world_from_camera: Float[Tensor, "*batch 4 4"]) -> Float[Tensor, "*batch 4 4"]:
    """Poses whose rotations are exact where they were rotations but for the digits of a file."""
    rotation = world_from_camera[..., :3, :3]
    nearest = nearest_rotation(rotation.nan_to_num(0, 0, 0))
    is_near = (rotation - nearest).abs().amax((-2, -1)) <= MAX_ROTATION_ERROR
    kept = torch.where(is_near[..., None, None], nearest, rotation)
    return pose_from_rotation_translation(kept, world_from_camera[..., :3, 3])


def printable(names: Sequence[str]) -> list[str]:
    """Names of a file in a message, without what a terminal would obey."""
    return ["".join(c if c.isprintable() else "\ufffd" for c in name) for name in names]
