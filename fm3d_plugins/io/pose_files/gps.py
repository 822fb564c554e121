"""Positions that cameras wrote into their photos' EXIF, in local metres."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from fm3d_plugins.io.pose_files.reading import files_in
from fm3d_plugins.photos.photo import READ_SUFFIXES

if TYPE_CHECKING:
    from PIL.Image import Exif

LOOKED_FOR = "EXIF GPS: photos with latitude and longitude"

_GPS_IFD = 0x8825
_LATITUDE_REF, _LATITUDE, _LONGITUDE_REF, _LONGITUDE, _ALTITUDE_REF, _ALTITUDE = range(1, 7)

_SEMI_MAJOR, _FLATTENING = 6378137.0, 1 / 298.257223563
"""WGS84, metres."""


@dataclass(frozen=True)
class Positions:
    """Where photos were taken."""

    names: tuple[str, ...]
    """File names."""
    east_north_up: Float[Tensor, "photo 3"]
    """Metres from their mean: east, north, up there."""
    has_altitude: bool
    """Otherwise all are at the height 0."""


def find(path: Path) -> tuple[Path, ...]:
    """Photos that tell where they were taken."""
    patterns = [
        pattern for suffix in READ_SUFFIXES for pattern in (f"*{suffix}", f"*{suffix.upper()}")
    ]
    for folder in (".", "images", "photos"):
        photos = files_in(path, (folder,), patterns)
        found = tuple(file for file in photos if _place(file) is not None)
        if found:
            return found
    return ()


def read(files: tuple[Path, ...]) -> Positions:
    """Positions of photos; those without altitude are left out where others have one.

    Raises:
        ValueError: None is left.
    """
    places = {file.name: place for file in files if (place := _place(file)) is not None}
    with_altitude = {name: place for name, place in places.items() if place[2] is not None}
    chosen = with_altitude or places
    if not chosen:
        raise ValueError(
            f"None of {len(files)} photos ({files[0]}, ...) has a position in its EXIF."
        )
    rows = [(latitude, longitude, height or 0.0) for latitude, longitude, height in chosen.values()]
    table = torch.tensor(rows, dtype=torch.float64)
    return Positions(tuple(chosen), east_north_up(table), bool(with_altitude))


def east_north_up(places: Float[Tensor, "place 3"]) -> Float[Tensor, "place 3"]:
    """Metres from the mean, along east, north and up there.

    Args:
        places: Latitude and longitude in degrees, height above the ellipsoid WGS84 in metres.
    """
    earth = _earth_centered(places)
    middle = earth.mean(0)
    # A height of kilometres tilts up by far less than GPS can tell.
    longitude = torch.atan2(middle[1], middle[0])
    eccentricity = _FLATTENING * (2 - _FLATTENING)
    latitude = torch.atan2(middle[2], (1 - eccentricity) * middle[:2].norm())
    (sin_lat, sin_lon), (cos_lat, cos_lon) = (
        [float(f(angle)) for angle in (latitude, longitude)] for f in (torch.sin, torch.cos)
    )
    axes = earth.new_tensor(
        [
            [-sin_lon, cos_lon, 0.0],
            [-sin_lat * cos_lon, -sin_lat * sin_lon, cos_lat],
            [cos_lat * cos_lon, cos_lat * sin_lon, sin_lat],
        ]
    )
    return (earth - middle) @ axes.T


def _earth_centered(places: Float[Tensor, "place 3"]) -> Float[Tensor, "place 3"]:
    """Cartesian metres from the middle of the Earth (WGS84)."""
    latitude, longitude = torch.deg2rad(places[:, :2]).unbind(-1)
    height = places[:, 2]
    eccentricity = _FLATTENING * (2 - _FLATTENING)
    curvature = _SEMI_MAJOR / (1 - eccentricity * latitude.sin().square()).sqrt()
    return torch.stack(
        [
            (curvature + height) * latitude.cos() * longitude.cos(),
            (curvature + height) * latitude.cos() * longitude.sin(),
            (curvature * (1 - eccentricity) + height) * latitude.sin(),
        ],
        dim=-1,
    )


def _place(path: Path) -> tuple[float, float, float | None] | None:
    """Latitude, longitude (degrees) and altitude (metres) of a photo; None if it does not tell."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            fields = _gps_fields(image.getexif())
    except Exception:  # Pillow's decoders raise many types on damaged files.
        return None
    latitude = _degrees(fields.get(_LATITUDE), fields.get(_LATITUDE_REF), "S")
    longitude = _degrees(fields.get(_LONGITUDE), fields.get(_LONGITUDE_REF), "W")
    if latitude is None or longitude is None or abs(latitude) > 90 or abs(longitude) > 180:
        return None
    if latitude == longitude == 0:  # What cameras write that have no fix.
        return None
    altitude = _finite(fields.get(_ALTITUDE))
    below = fields.get(_ALTITUDE_REF) in (1, b"\x01", "\x01")
    return latitude, longitude, -altitude if altitude is not None and below else altitude


def _gps_fields(exif: "Exif") -> Mapping[int, Any]:
    return exif.get_ifd(_GPS_IFD)


def _degrees(parts: Any, reference: Any, negative: str) -> float | None:
    """Degrees, minutes, seconds as a signed number of degrees."""
    values = parts if isinstance(parts, tuple | list) else (parts,)
    numbers = [_finite(value) for value in values]
    if not numbers or any(value is None for value in numbers):
        return None
    total = sum(value / 60**place for place, value in enumerate(numbers) if value is not None)
    reference = reference.decode("ascii", "ignore") if isinstance(reference, bytes) else reference
    return -total if str(reference).strip("\0 ").upper() == negative else total


def _finite(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError, ArithmeticError):
        return None
    return number if math.isfinite(number) else None
