"""Cameras of a file, made those of the photos at hand: turned upright and scaled."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fm3d_plugins.geometry.cameras import intrinsics_matrix, resize_intrinsics
from fm3d_plugins.io.pose_files.nvm import radial_distortion
from fm3d_plugins.io.pose_files.posed_photos import PosedPhotos
from fm3d_plugins.io.scene_checks import misfits
from fm3d_plugins.photos.fitting import TURNED, exif_orientation
from fm3d_plugins.photos.photo import Photo
from fm3d_plugins.scene import Tracks

MOST_ASPECT_ERROR = 0.01
"""By which a scaled copy's sides may differ in their ratio, as programs round differently."""

MOST_OFF_CENTRE = 0.25
"""Of half a side; a principal point farther off is that of a picture of another size."""

AS_STORED = 1

QUARTER_TURNS = {1: 0, 6: 1, 3: 2, 8: 3}
"""Clockwise, that make a stored picture upright, by EXIF orientation; others also mirror it."""


@dataclass(frozen=True)
class Fitted:
    """A camera in pixels of its upright photo."""

    world_from_camera: Float[Tensor, "4 4"]
    intrinsics: Float[Tensor, "3 3"]
    distortion: Float[Tensor, "6"]
    picture_size: tuple[int, int]
    """Of the picture that the file means, as it lies."""
    quarter_turns: int
    scale: tuple[float, float]
    """Of the turned picture, to the photo."""

    def pixels(self, pixels: Float[Tensor, "point 2"]) -> Float[Tensor, "point 2"]:
        """Pixels of the file's picture in the photo."""
        return turned(pixels, self.picture_size, self.quarter_turns) * pixels.new_tensor(self.scale)


def fitted_cameras(
    prior: PosedPhotos, photos: Sequence[Photo], pose_of: Mapping[int, int], source: str
) -> dict[int, Fitted]:
    """The camera of each photo that has a pose, by its row.

    A camera means the photo as it is stored or upright, whichever has its shape. Where both have
    it, the other photos tell, and where none does the photo is upright.

    Raises:
        ValueError: Photos have another shape than their cameras; all are named.
    """
    faults: dict[int, str] = {}
    ways: dict[int, dict[int, tuple[int, int]]] = {}
    orientations = {row: _orientation(photos[row]) for row in pose_of}
    for row, pose in pose_of.items():
        ways[row] = _ways(prior, pose, photos[row], orientations[row])
        if not ways[row]:
            faults[row] = _fault(prior, pose, photos[row])
    told = {
        next(iter(each)) != AS_STORED
        for row, each in ways.items()
        if len(each) == 1 and orientations[row] in TURNED
    }
    means_stored = told == {True}
    found = {}
    for row, each in ways.items():
        orientation = (max if means_stored else min)(each, key=lambda way: way != AS_STORED)\
            if each else AS_STORED  # fmt: skip
        if orientation not in QUARTER_TURNS:
            faults[row] = f"is stored mirrored (EXIF orientation {orientation}), as is its camera"
        if row in faults:
            continue
        try:
            found[row] = _fitted(
                prior, pose_of[row], photos[row], each[orientation], QUARTER_TURNS[orientation]
            )
        except ValueError as error:
            faults[row] = f"cannot be fitted: {error}"
    if faults:
        raise ValueError(misfits(source, faults, [photo.name for photo in photos]))
    return found


def turned(
    pixels: Float[Tensor, "point 2"], size: tuple[int, int], quarter_turns: int
) -> Float[Tensor, "point 2"]:
    """Pixels after their picture is turned clockwise.

    Args:
        size: Width and height of the picture before.
    """
    width, height = size
    x, y = pixels.unbind(-1)
    if quarter_turns == 1:
        x, y = height - y, x
    elif quarter_turns == 2:
        x, y = width - x, height - y
    elif quarter_turns == 3:
        x, y = y, width - x
    return torch.stack([x, y], dim=-1)


def _orientation(photo: Photo) -> int:
    # Plain photos are upright as they are stored.
    return AS_STORED if photo.is_plain else exif_orientation(photo.path)


def _ways(
    prior: PosedPhotos, pose: int, photo: Photo, orientation: int
) -> dict[int, tuple[int, int]]:
    """EXIF orientations by which the file's picture may have to be turned, with its size."""
    upright = (photo.width, photo.height)
    stored = upright[::-1] if orientation in TURNED else upright
    width, height = prior.image_sizes[pose].tolist()
    possible = {}
    for way, own in ((AS_STORED, upright), (orientation, stored)):
        picture = (width, height) if width else own
        is_copy = abs(own[0] * picture[1] / (own[1] * picture[0]) - 1) <= MOST_ASPECT_ERROR
        middle = prior.principal_points[pose] / prior.principal_points.new_tensor(picture)
        # Where the size is told, the principal point may be anywhere.
        is_near = bool(width) or not bool(((2 * middle - 1).abs() > MOST_OFF_CENTRE).any())
        if is_copy and is_near:
            possible.setdefault(way, picture)
    return possible


def _fault(prior: PosedPhotos, pose: int, photo: Photo) -> str:
    width, height = prior.image_sizes[pose].tolist()
    own = f"is {photo.width} x {photo.height}"
    if width:
        return f"{own} but its camera {width} x {height}, which is another shape"
    x, y = prior.principal_points[pose].tolist()
    return f"{own} but the principal point of its camera ({x:.1f}, {y:.1f})"


def _fitted(
    prior: PosedPhotos, pose: int, photo: Photo, picture: tuple[int, int], turns: int
) -> Fitted:
    focals = prior.focals[pose]
    size = focals.new_tensor(picture)
    middle = prior.principal_points[pose]
    middle = torch.where(middle.isnan(), size / 2, middle)
    distortion = prior.distortion[pose].clone()
    if inverse := float(prior.inverse_radial[pose]):
        radius = float((torch.maximum(middle, size - middle) / focals).norm())
        distortion[:3] = torch.from_numpy(radial_distortion(inverse, radius))
    # Clockwise on the picture; y points down.
    turn = torch.linalg.matrix_power(focals.new_tensor([[0.0, -1], [1, 0]]), turns)
    world_from_camera = prior.world_from_camera[pose].clone()
    world_from_camera[:3, :2] = world_from_camera[:3, :2] @ turn.T
    # The decentring is 2 (q v) v + |v|² q with q = (p2, p1).
    distortion[4:] = (turn @ distortion[4:].flip(0)).flip(0)
    fx, fy = (turn.abs() @ focals).unbind()
    cx, cy = turned(middle[None], picture, turns)[0].unbind()
    upright = picture[::-1] if turns % 2 else picture
    scale = (photo.width / upright[0], photo.height / upright[1])
    return Fitted(
        world_from_camera,
        resize_intrinsics(intrinsics_matrix(fx, fy, cx, cy), focals.new_tensor(scale)),
        distortion,
        picture,
        turns,
        scale,
    )


def fitted_tracks(prior: PosedPhotos, cameras: Mapping[int, tuple[int, Fitted]]) -> Tracks | None:
    """The prior's observations in views of a scene; None if it has none.

    Args:
        cameras: The view and its camera, by row of the pose.
    """
    tracks = prior.tracks
    if tracks is None:
        return None
    parts = []
    for pose, (view, camera) in sorted(cameras.items(), key=lambda each: each[1][0]):
        rows = tracks.view_index == pose
        pixels = camera.pixels(tracks.pixels[rows].double())
        points = tracks.point_index[rows].long()
        parts.append((points, torch.full_like(points, view), pixels))
    points, views, pixels = (torch.cat(each) for each in zip(*parts, strict=True))
    return Tracks(points, views, pixels)
