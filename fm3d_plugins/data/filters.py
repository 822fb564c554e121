"""Which scenes of a data set, and which of their frames, are worth training with."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fm3d_plugins.data.frames import canvas_of
from fm3d_plugins.data.overlap import Frusta
from fm3d_plugins.data.scenes import CapturedScene
from fm3d_plugins.data.skipped import Skipped, SkippedError
from fm3d_plugins.files import is_file
from fm3d_plugins.photos.pixels import open_stored

TOO_FEW = "too few usable frames"
TOO_LITTLE = "too little overlap"
STILL = "all cameras in one place"
ABSENT = "photo absent"
NO_DEPTH = "no depth"
ODD_LENS = "focal length or principal point"
FAR_AWAY = "camera far from the others"

FARTHEST_CAMERA = 100.0
"""Times the median distance of cameras from their middle; beyond, an estimate has gone astray."""

LEAST_MOVEMENT = 1e-4
"""Of cameras, in distances to what they look at or of the origin."""

TRIED = 8
"""Frames of a scene whose overlap with others is looked at."""


@dataclass(frozen=True)
class SceneFilters:
    """What a scene and its frames have to be."""

    min_frames: int = 4
    """Usable frames of a scene; never less than a step takes."""
    min_overlap: float = 0.3
    """Share of the image that a view has in common with the first that was drawn of its scene."""
    min_fov_degrees: float = 5.0
    """Least field of view along the longer side."""
    max_fov_degrees: float = 150.0
    """Greatest field of view along the longer side."""
    require_depth: bool = False
    """Leave out frames without a depth map, as networks need that learn depth."""
    min_known_depth: float = 0.1
    """Share of a view's pixels whose depth is known, where there are depth maps."""

    def check(self) -> None:
        """Refuse what nothing could pass.

        Raises:
            ValueError: Some option is.
        """
        is_lens = 0 < self.min_fov_degrees < self.max_fov_degrees < 180
        shares = (self.min_overlap, self.min_known_depth)
        if self.min_frames < 1 or not is_lens or not all(0 <= share < 1 for share in shares):
            raise ValueError(
                f"Found {self}. Expected at least one frame, fields of view between 0 and 180 "
                "degrees, the least below the greatest, and shares from 0 to below 1."
            )


def usable(
    scene: CapturedScene,
    filters: SceneFilters,
    num_views: int,
    shapes: Sequence[tuple[int, int]],
    skipped: Skipped,
) -> tuple[CapturedScene, Frusta]:
    """What of a scene can be used. Of photos at most one is looked at.

    Args:
        num_views: That a step takes.
        shapes: Rows and columns of images: photos are at least as large, where their size is told.
        skipped: Is told of frames that are left out.

    Raises:
        SkippedError: The scene cannot be used.
        ValueError, OSError: The photo's size cannot be read.
    """
    names: dict[str, Bool[Tensor, " frame"]] = {}
    is_there = torch.tensor([not isinstance(p, Path) or is_file(p) for p in scene.photos])
    if bool(is_there.any()):
        sizes = stated_sizes(scene, int(is_there.nonzero()[0]))
        names[ODD_LENS] = has_sound_lens(scene, sizes, filters)
    names[ABSENT] = is_there
    if filters.require_depth:
        has_depth = [file is not None and is_file(file.path) for file in scene.depths]
        names[NO_DEPTH] = torch.tensor(has_depth or [False] * len(scene))
    names[FAR_AWAY] = is_among_others(scene.world_from_camera)
    is_kept = torch.ones(len(scene), dtype=torch.bool)
    for reason, is_right in names.items():
        lost = int((is_kept & ~is_right).sum())
        if lost:
            skipped.frames(scene.name, reason, lost)
        is_kept &= is_right
    wanted = max(filters.min_frames, num_views)
    if int(is_kept.sum()) < wanted:
        raise SkippedError(TOO_FEW, f"{int(is_kept.sum())} of {len(scene)}, expected {wanted}")
    kept = scene.of_frames(is_kept)
    sizes = sizes[is_kept]
    width, height = (int(side) for side in (sizes / kept.downscale).amin(0))
    for rows, columns in shapes:
        if width > 1:
            canvas_of(width, height, columns, rows)
    frusta = Frusta.of(kept, sizes)
    _require_movement(frusta)
    _require_overlap(frusta, filters, num_views)
    return kept, frusta


def stated_sizes(scene: CapturedScene, number: int) -> Float[Tensor, "frame 2"]:
    """The sizes that intrinsics are of; if none are told, one photo's, for all.

    Raises:
        ValueError: The photo is no image.
        OSError: It cannot be read.
    """
    if scene.sizes is not None:
        return scene.sizes.double()
    content = scene.photo_bytes(number)
    try:
        size = open_stored(content).size
    except Exception as error:  # Pillow's decoders raise many types on damaged files.
        raise ValueError(
            f"Frame {number} of the scene {scene.name} ({scene.source}) is no image: {error}. "
            "Restore it, or drop the frame."
        ) from error
    return torch.tensor(size, dtype=torch.float64).expand(len(scene), 2)


def has_sound_lens(
    scene: CapturedScene, sizes: Float[Tensor, "frame 2"], filters: SceneFilters
) -> Bool[Tensor, " frame"]:
    """Fields of view within limits, square pixels by and large, the axis within the photo."""
    focal = scene.intrinsics[:, (0, 1), (0, 1)].double()
    angles = torch.rad2deg(2 * torch.atan(sizes / (2 * focal))).amax(1)
    is_angle = (angles >= filters.min_fov_degrees) & (angles <= filters.max_fov_degrees)
    center = scene.intrinsics[:, :2, 2] / sizes
    is_inside = ((center > 0) & (center < 1)).all(1)
    # In units of the sides the proportions of a photo are not known.
    ratio = focal[:, 0] / focal[:, 1]
    is_square = (ratio > 0.5) & (ratio < 2) | (sizes <= 1).all(1)  # noqa: PLR2004 (twice as wide)
    return is_angle & is_inside & is_square


def is_among_others(world_from_camera: Float[Tensor, "frame 4 4"]) -> Bool[Tensor, " frame"]:
    """Cameras that are not absurdly far from the others."""
    centres = world_from_camera[:, :3, 3]
    distance = (centres - centres.median(0).values).norm(dim=1)
    usual = distance.median()
    return (distance <= FARTHEST_CAMERA * usual) | (usual == 0)


def _require_movement(frusta: Frusta) -> None:
    centres = frusta.world_from_camera[:, :3, 3]
    spread = (centres - centres.mean(0)).norm(dim=1).max()
    rounding = 1e-9 * centres.abs().max()
    if float(spread) <= max(float(rounding), LEAST_MOVEMENT * float(frusta.depth.median())):
        raise SkippedError(STILL, f"{float(spread):.3g} scene units apart")


def _require_overlap(frusta: Frusta, filters: SceneFilters, num_views: int) -> None:
    count = len(frusta.depth)
    rows = sorted({round(i * (count - 1) / (TRIED - 1)) for i in range(TRIED)})
    most = max(int((frusta.shared(row) >= filters.min_overlap).sum()) for row in rows)
    if most < num_views:
        raise SkippedError(
            TOO_LITTLE,
            f"{most} views share {filters.min_overlap:.0%} with one, expected {num_views}",
        )
