"""The three files of a COLMAP model (cameras, images, points3D), as they are.

Format: https://colmap.github.io/format.html. Binary files are written, text is read too. Tracks are
kept once, as the point that each observation of an image sees; the copy of them in points3D is
written and not read.
"""

import os
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64, UInt8

from fm3d_plugins.progress import say
from fm3d_plugins.scene import FARTHEST, LARGEST_SIDE

CAMERA_MODELS = {
    "SIMPLE_PINHOLE": (0, ("f", "cx", "cy")),
    "PINHOLE": (1, ("fx", "fy", "cx", "cy")),
    "SIMPLE_RADIAL": (2, ("f", "cx", "cy", "k1")),
    "RADIAL": (3, ("f", "cx", "cy", "k1", "k2")),
    "OPENCV": (4, ("fx", "fy", "cx", "cy", "k1", "k2", "p1", "p2")),
    "FULL_OPENCV": (6, ("fx", "fy", "cx", "cy", "k1", "k2", "p1", "p2", "k3", "q1", "q2", "q3")),
}
"""Identifier and parameters of the models that scenes hold; q1 to q3 are of the denominator."""

FISHEYE_MODELS = {
    "OPENCV_FISHEYE": (5, ("fx", "fy", "cx", "cy", "k1", "k2", "k3", "k4")),
    "SIMPLE_RADIAL_FISHEYE": (8, ("f", "cx", "cy", "k1")),
    "RADIAL_FISHEYE": (9, ("f", "cx", "cy", "k1", "k2")),
}
"""Those that nerfstudio reads besides."""

READ_MODELS = CAMERA_MODELS | FISHEYE_MODELS

DISTORTION = ("k1", "k2", "k3", "k4", "p1", "p2")
"""Lens distortion in nerfstudio's order."""

OTHER_MODELS = {
    7: "FOV", 10: "THIN_PRISM_FISHEYE", 11: "RAD_TAN_THIN_PRISM_FISHEYE",
    12: "SIMPLE_DIVISION", 13: "DIVISION", 14: "SIMPLE_FISHEYE", 15: "FISHEYE", 16: "EUCM",
    17: "EQUIRECTANGULAR",
}  # fmt: skip
"""COLMAP's models that are not read at all, named in the message."""

QUATERNION_ROUNDING = 1e-2
"""By how much the length of a quaternion in a file may differ from 1."""

_OBSERVATION = np.dtype([("pixel", "<f8", 2), ("point_id", "<i8")])
_POINT = np.dtype(
    [("id", "<i8"), ("xyz", "<f8", 3), ("rgb", "u1", 3), ("error", "<f8"), ("length", "<u8")]
)
_TRACK_ENTRY = np.dtype([("image_id", "<u4"), ("index", "<u4")])
_IMAGE = struct.Struct("<I7dI")
_CAMERA = struct.Struct("<Ii2Q")
_COUNT = struct.Struct("<Q")


@dataclass(frozen=True)
class ColmapCamera:
    """Intrinsics by COLMAP's model name; pixels, corner of the first pixel at (0, 0)."""

    model: str
    width: int
    height: int
    parameters: tuple[float, ...]


@dataclass(frozen=True)
class ColmapImage:
    """One registered photo: pose `camera_from_world` and what it observes."""

    name: str
    camera_id: int
    quaternion_wxyz: tuple[float, ...]
    translation: tuple[float, ...]
    pixels: Float64[np.ndarray, "observation 2"]
    point_ids: Int64[np.ndarray, " observation"]
    """-1 where the observation has no 3D point."""


@dataclass(frozen=True)
class ColmapModel:
    """Contents of the three files; cameras and images by their identifiers."""

    cameras: dict[int, ColmapCamera]
    images: dict[int, ColmapImage]
    point_ids: Int64[np.ndarray, " point"]
    xyz: Float64[np.ndarray, "point 3"]
    rgb: UInt8[np.ndarray, "point 3"]
    errors: Float64[np.ndarray, " point"]
    """Mean reprojection error in pixels, -1 where unknown."""


def calibration(
    model: str, parameters: Sequence[float]
) -> tuple[Float64[np.ndarray, "3 3"], Float64[np.ndarray, "6"]]:
    """Pinhole matrix and `DISTORTION` of a camera; what its model lacks is zero."""
    values = dict(zip(READ_MODELS[model][1], parameters, strict=True))
    fx, fy = (values.get(name, values.get("f", 0.0)) for name in ("fx", "fy"))
    matrix = np.array([[fx, 0.0, values["cx"]], [0.0, fy, values["cy"]], [0.0, 0.0, 1.0]])
    return matrix, np.array([values.get(name, 0.0) for name in DISTORTION])


def write_model(model: ColmapModel, folder: Path) -> None:
    """Write the three files, binary, into an existing folder."""
    (folder / "cameras.bin").write_bytes(b"".join(_binary_cameras(model)))
    (folder / "images.bin").write_bytes(b"".join(_binary_images(model)))
    (folder / "points3D.bin").write_bytes(b"".join(_binary_points(model)))


def read_model(folder: Path) -> ColmapModel:
    """Read a model; where both kinds of files are present the binary ones, as COLMAP does.

    Raises:
        FileNotFoundError: The folder lacks one of the three files.
        ValueError: A file is cut off or damaged, holds what no model does (identifiers twice,
            numbers that are not finite, bytes behind its end), or an unsupported camera model.
    """
    for suffix, cameras, images, points in (
        (".bin", _read_binary_cameras, _read_binary_images, _read_binary_points),
        (".txt", _read_text_cameras, _read_text_images, _read_text_points),
    ):
        paths = [folder / f"{name}{suffix}" for name in ("cameras", "images", "points3D")]
        if not all(path.is_file() for path in paths):
            continue
        parsed = [
            _parsed(path, parse)
            for path, parse in zip(paths, (cameras, images, points), strict=True)
        ]
        table = parsed[2]
        return ColmapModel(
            parsed[0], parsed[1], table["id"], table["xyz"], table["rgb"], table["error"]
        )
    raise FileNotFoundError(
        f"{folder} holds no COLMAP model. Expected cameras, images and points3D, all as .bin or "
        "all as .txt. Point to the folder that holds them, often sparse/0."
    )


def read_points(folder: Path) -> np.ndarray:
    """Points of a model: a table with `id`, `xyz`, `rgb` (bytes) and `error`, in the file's order.

    Raises:
        FileNotFoundError: The folder holds no points3D, binary or text.
        ValueError: The file is cut off or damaged.
    """
    for suffix, parse in ((".bin", _read_binary_points), (".txt", _read_text_points)):
        path = folder / f"points3D{suffix}"
        if path.is_file():
            return _parsed(path, parse)
    raise FileNotFoundError(
        f"{folder} holds no points3D.bin or points3D.txt. Expected the points of a COLMAP model. "
        "Point to the folder that holds them, often sparse/0."
    )


def _parsed(path: Path, parse: Callable[[bytes], Any]) -> Any:
    """What a parser makes of a file; what it cannot take is named with the file."""
    try:
        return parse(path.read_bytes())
    except UnsupportedCameraError as error:
        raise UnsupportedCameraError(f"{path}: {error}") from error
    except Exception as error:
        raise ValueError(
            f"{path} is cut off or damaged ({error}). Expected a file of a COLMAP model "
            "that ends where its contents say. Copy or export it anew."
        ) from error


def num_images(folder: Path) -> int:
    """How many images a model says it has; 0 where there is none that can be counted."""
    try:
        if (folder / "images.bin").is_file():
            with (folder / "images.bin").open("rb") as file:
                (count,) = _COUNT.unpack(file.read(_COUNT.size))
                room = (folder / "images.bin").stat().st_size // (_IMAGE.size + 1 + _COUNT.size)
                return count if count <= room else 0
        if (folder / "images.txt").is_file():
            # Every image has two lines, of which the second may be empty.
            lines = list(_lines((folder / "images.txt").read_bytes().rstrip(b"\r\n")))
            return (len(lines) + 1) // 2
    except (OSError, struct.error):
        pass
    return 0


def largest_model(folder: Path, *, tell: bool = True) -> Path:
    """The model with most images among a model's folder and those beside it (sparse/0, 1, ...).

    COLMAP writes one for every part of the photos that it could not join, and the first need not
    be the largest. Said where it is not the one that was named. A model named otherwise than `0` is
    one's own choice, and kept.

    Args:
        tell: Say it.
    """
    if folder.name != "0" or not folder.parent.is_dir():
        return folder
    beside = [path for path in sorted(folder.parent.iterdir()) if path.name.isdecimal()]
    counts = {path: num_images(path) for path in (folder, *beside)}
    best = max(counts, key=lambda path: counts[path])
    if counts[best] <= counts[folder]:
        return folder
    if tell:
        say(
            f"{best} is taken: it has {counts[best]} images, {folder} has {counts[folder]}. For "
            f"the latter, give it another name than 0."
        )
    return best


class UnsupportedCameraError(ValueError):
    """A camera model that cannot be used for what was asked."""


def unsupported(camera_id: int, model: str, expected: Iterable[str]) -> UnsupportedCameraError:
    """The error about a camera of a model that is not among those expected."""
    return UnsupportedCameraError(
        f"camera {camera_id} has the model {model}. Expected one of "
        f"{', '.join(expected)}. Undistort the photos first with "
        "`colmap image_undistorter`, or estimate with another camera model."
    )


def _tracks(model: ColmapModel) -> tuple[np.ndarray, np.ndarray]:
    """All track entries ordered by point, and where each point's entries begin and end."""
    entries, owners = [np.empty(0, _TRACK_ENTRY)], [np.empty(0, np.int64)]
    for image_id, image in model.images.items():
        (index,) = np.nonzero(image.point_ids >= 0)
        entry = np.empty(len(index), _TRACK_ENTRY)
        entry["image_id"], entry["index"] = image_id, index
        entries.append(entry)
        owners.append(image.point_ids[index])
    owner = np.concatenate(owners)
    order = np.argsort(owner, kind="stable")
    starts = np.searchsorted(owner[order], model.point_ids, side="left")
    ends = np.searchsorted(owner[order], model.point_ids, side="right")
    return np.concatenate(entries)[order], np.stack([starts, ends], axis=-1)


def _binary_cameras(model: ColmapModel) -> Iterator[bytes]:
    yield _COUNT.pack(len(model.cameras))
    for camera_id, camera in model.cameras.items():
        model_id = CAMERA_MODELS[camera.model][0]
        yield _CAMERA.pack(camera_id, model_id, camera.width, camera.height)
        yield struct.pack(f"<{len(camera.parameters)}d", *camera.parameters)


def _binary_images(model: ColmapModel) -> Iterator[bytes]:
    yield _COUNT.pack(len(model.images))
    for image_id, image in model.images.items():
        pose = (*image.quaternion_wxyz, *image.translation)
        yield _IMAGE.pack(image_id, *pose, image.camera_id)
        yield os.fsencode(image.name) + b"\0"
        table = np.empty(len(image.pixels), _OBSERVATION)
        table["pixel"], table["point_id"] = image.pixels, image.point_ids
        yield _COUNT.pack(len(table)) + table.tobytes()


def _binary_points(model: ColmapModel) -> Iterator[bytes]:
    entries, spans = _tracks(model)
    table = np.empty(len(model.point_ids), _POINT)
    table["id"], table["xyz"], table["rgb"] = model.point_ids, model.xyz, model.rgb
    table["error"], table["length"] = model.errors, spans[:, 1] - spans[:, 0]
    yield _COUNT.pack(len(table))
    heads, tracks = table.tobytes(), entries.tobytes()
    size, entry_size = _POINT.itemsize, _TRACK_ENTRY.itemsize
    for row, (start, end) in enumerate(spans.tolist()):
        yield heads[size * row : size * (row + 1)]
        yield tracks[entry_size * start : entry_size * end]


def _camera(
    camera_id: int, model: str, width: int, height: int, parameters: tuple[float, ...]
) -> ColmapCamera:
    """The camera, if there can be one like it and its distortion has no denominator."""
    values = zip(READ_MODELS[model][1], parameters, strict=True)
    if any(value for name, value in values if name.startswith("q")):
        raise unsupported(camera_id, f"{model} with a denominator (k4, k5, k6)", READ_MODELS)
    if not (0 < width <= LARGEST_SIDE and 0 < height <= LARGEST_SIDE):
        raise ValueError(f"camera {camera_id} has {width} x {height} pixels")
    if not np.isfinite(parameters).all():
        raise ValueError(f"camera {camera_id} has parameters that are not finite")
    return ColmapCamera(model, width, height, parameters)


def _image(image_id: int, name: str, camera_id: int, pose: Sequence[float]) -> ColmapImage:
    """The image without its observations, if it can stand there."""
    length = float(np.linalg.norm(pose[:4]))
    if not abs(length - 1) <= QUATERNION_ROUNDING:
        raise ValueError(f"the quaternion of image {image_id} has the length {length:.4g}")
    if not np.abs(pose).max() <= FARTHEST:
        raise ValueError(f"image {image_id} is at no finite place")
    nothing = np.empty((0, 2)), np.empty(0, np.int64)
    return ColmapImage(name, camera_id, tuple(pose[:4]), tuple(pose[4:]), *nothing)


def _points(table: np.ndarray) -> np.ndarray:
    """The same table, if every point is finite and there once."""
    if not (np.abs(table["xyz"]) <= FARTHEST).all() or np.isnan(table["error"]).any():
        raise ValueError("points are not finite")
    if len(np.unique(table["id"])) < len(table) or (table["id"] < 0).any():
        raise ValueError("identifiers of points are there twice, or negative")
    return table


def _add(table: dict[int, Any], key: int, value: Any) -> None:
    """Put in what is not there yet."""
    if not 0 <= key < 1 << 32 or key in table:
        raise ValueError(f"the identifier {key} is there twice, or is none")
    table[key] = value


def _expect_end(data: bytes, offset: int) -> None:
    if offset != len(data):
        raise ValueError(f"{len(data)} bytes instead of {offset}")


def _read_binary_cameras(data: bytes) -> dict[int, ColmapCamera]:
    names = {number: name for name, (number, _) in READ_MODELS.items()}
    offset, cameras = _COUNT.size, {}
    for _ in range(_COUNT.unpack_from(data)[0]):
        camera_id, model_id, width, height = _CAMERA.unpack_from(data, offset)
        if model_id not in names:
            unknown = OTHER_MODELS.get(model_id, f"number {model_id}")
            raise unsupported(camera_id, unknown, READ_MODELS)
        name = names[model_id]
        layout = struct.Struct(f"<{len(READ_MODELS[name][1])}d")
        parameters = layout.unpack_from(data, offset + _CAMERA.size)
        _add(cameras, camera_id, _camera(camera_id, name, width, height, parameters))
        offset += _CAMERA.size + layout.size
    _expect_end(data, offset)
    return cameras


def _read_binary_images(data: bytes) -> dict[int, ColmapImage]:
    offset, images = _COUNT.size, {}
    for _ in range(_COUNT.unpack_from(data)[0]):
        image_id, *pose, camera_id = _IMAGE.unpack_from(data, offset)
        end = data.index(b"\0", offset + _IMAGE.size)
        name = os.fsdecode(data[offset + _IMAGE.size : end])
        (count,) = _COUNT.unpack_from(data, end + 1)
        table = np.frombuffer(data, _OBSERVATION, count, end + 1 + _COUNT.size)
        image = _image(image_id, name, camera_id, pose)
        _add(images, image_id, replace(image, pixels=table["pixel"], point_ids=table["point_id"]))
        offset = end + 1 + _COUNT.size + table.nbytes
    _expect_end(data, offset)
    return images


def _read_binary_points(data: bytes) -> np.ndarray:
    length_offset = _POINT.itemsize - _COUNT.size
    offset, heads = _COUNT.size, []
    for _ in range(_COUNT.unpack_from(data)[0]):
        (length,) = _COUNT.unpack_from(data, offset + length_offset)
        heads.append(data[offset : offset + _POINT.itemsize])
        offset += _POINT.itemsize + _TRACK_ENTRY.itemsize * length
    _expect_end(data, offset)
    return _points(np.frombuffer(b"".join(heads), _POINT))


def _lines(data: bytes) -> Iterator[str]:
    """Lines that are no comments; blank ones stay, an image without observations has one."""
    for line in os.fsdecode(data).split("\n"):
        if not line.startswith("#"):
            yield line.rstrip("\r")


def _read_text_cameras(data: bytes) -> dict[int, ColmapCamera]:
    cameras = {}
    for line in filter(str.strip, _lines(data)):
        camera_id, model, width, height, *parameters = line.split()
        if model not in READ_MODELS:
            raise unsupported(int(camera_id), model, READ_MODELS)
        if len(parameters) != len(READ_MODELS[model][1]):
            raise ValueError(f"camera {camera_id} has {len(parameters)} parameters")
        numbers = tuple(map(float, parameters))
        camera = _camera(int(camera_id), model, int(width), int(height), numbers)
        _add(cameras, int(camera_id), camera)
    return cameras


def _read_text_images(data: bytes) -> dict[int, ColmapImage]:
    lines, images = _lines(data), {}
    for line in lines:
        if not line.strip():
            continue
        image_id, *pose, camera_id, name = line.split(maxsplit=9)
        image = _image(int(image_id), name, int(camera_id), tuple(map(float, pose)))
        words = next(lines, "").split()
        pixels = np.array([words[0::3], words[1::3]], dtype=np.float64).T
        point_ids = np.array([int(word) for word in words[2::3]], dtype=np.int64)
        if len(pixels) != len(point_ids):
            raise ValueError(f"an observation of image {image_id} lacks numbers")
        _add(images, int(image_id), replace(image, pixels=pixels, point_ids=point_ids))
    return images


def _read_text_points(data: bytes) -> np.ndarray:
    rows = [line.split(maxsplit=8)[:8] for line in _lines(data) if line.strip()]
    table = np.zeros(len(rows), _POINT)
    for row, (point_id, x, y, z, r, g, b, error) in zip(table, rows, strict=True):
        row["id"], row["xyz"] = int(point_id), (float(x), float(y), float(z))
        row["rgb"], row["error"] = tuple(bytes((int(r), int(g), int(b)))), float(error)
    return _points(table)
