"""Point clouds and meshes in PLY files, as MeshLab, CloudCompare, Open3D and others read them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from fm3d_plugins.atomic import atomic_write
from fm3d_plugins.files import naming_damage
from fm3d_plugins.progress import say
from fm3d_plugins.scene import FARTHEST

_TYPES = {
    "char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4",
    "float": "f4", "double": "f8", "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2",
    "int32": "i4", "uint32": "u4", "float32": "f4", "float64": "f8",
}  # fmt: skip
_BYTE_ORDERS = {"ascii": "=", "binary_little_endian": "<", "binary_big_endian": ">"}
_COLOR_NAMES = (
    ("red", "green", "blue"),
    ("diffuse_red", "diffuse_green", "diffuse_blue"),
    ("r", "g", "b"),
)
_MAX_HEADER_LINES = 1000
_COUNT = re.compile(r"[0-9]{1,18}")
_LONGEST_END = 1000
"""Bytes of line ends behind the last vertex."""


@dataclass(frozen=True)
class PointCloud:
    """Points and what the file says of them. Frame and unit are those of whoever wrote it."""

    points: Float[Tensor, "point 3"]
    colors: UInt8[Tensor, "point 3"] | None = None
    confidence: Float[Tensor, " point"] | None = None


def write_ply(
    path: Path,
    points: Float[Tensor, "point 3"],
    colors: UInt8[Tensor, "point 3"] | None = None,
    confidence: Float[Tensor, " point"] | None = None,
    normals: Float[Tensor, "point 3"] | None = None,
    faces: Int[Tensor, "face 3"] | None = None,
) -> None:
    """Write a binary little-endian PLY file, atomically. Coordinates keep their precision.

    Args:
        normals: Unit vectors.
        faces: Rows of the points at the corners of triangles: the file is a mesh.
    """
    real = "f8" if points.dtype == torch.float64 else "f4"
    columns = [(name, real, points[:, axis]) for axis, name in enumerate("xyz")]
    if normals is not None:
        columns += [(f"n{name}", "f4", normals[:, axis]) for axis, name in enumerate("xyz")]
    if colors is not None:
        columns += [(name, "u1", colors[:, axis]) for axis, name in enumerate(_COLOR_NAMES[0])]
    if confidence is not None:
        columns.append(("confidence", "f4", confidence))
    table, triangles, further = vertex_table(columns), b"", []
    if faces is not None:
        rows = np.empty(len(faces), [("count", "u1"), ("rows", "<i4", 3)])
        rows["count"], rows["rows"] = 3, faces.detach().cpu().numpy()
        triangles = rows.tobytes()
        further = [f"element face {len(faces)}", "property list uchar int vertex_indices"]
    with atomic_write(path) as temporary:
        temporary.write_bytes(ply_header(table, *further) + table.tobytes() + triangles)


def vertex_table(columns: Sequence[tuple[str, str, Tensor]]) -> np.ndarray:
    """Rows of a PLY file's vertices.

    Args:
        columns: Name, numpy's code of the type, and values of each property.
    """
    table = np.empty(len(columns[0][2]), dtype=[(name, f"<{code}") for name, code, _ in columns])
    for name, _, values in columns:
        table[name] = values.detach().cpu().numpy()
    return table


def ply_header(table: np.ndarray, *further: str) -> bytes:
    """First lines of a PLY file whose vertices are a table's rows.

    Args:
        further: Lines of other elements.
    """
    words = {"f8": "double", "f4": "float", "u1": "uchar"}
    properties = [(name, table.dtype[name].str.lstrip("<|")) for name in table.dtype.names or ()]
    header = [
        "ply",
        "format binary_little_endian 1.0",
        f"element vertex {len(table)}",
        *(f"property {words[code]} {name}" for name, code in properties),
        *further,
        "end_header\n",
    ]
    return "\n".join(header).encode("ascii")


def read_ply(path: str | Path) -> PointCloud:
    """Read the vertices of an ASCII or binary PLY file; faces and unknown properties are skipped.

    Coordinates keep the file's precision. Colours may be 8-bit, 16-bit, or floats in [0, 1]
    or [0, 255]. Points that are not finite are left out, which is said.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is no PLY file, is cut off or goes on behind its vertices, has no
            vertex positions or none that is finite, or colours out of range.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no file {path}. Expected a PLY point cloud. Check the path."
        )
    with naming_damage(path, "Expected a PLY point cloud. Export it anew."):
        return _finite(path, _read(path))


def _read(path: Path) -> PointCloud:
    with path.open("rb") as file:
        encoding, count, properties, is_all = _read_header(path, file)
        dtype = np.dtype([(name, _BYTE_ORDERS[encoding] + code) for name, code in properties])
        table = (
            _read_ascii(path, file, count, dtype)
            if encoding == "ascii"
            else _read_binary(path, file, count, dtype)
        )
        if is_all and file.read(_LONGEST_END).strip():
            raise ValueError(f"{path} goes on behind its {count} vertices. Export it anew.")
    names = table.dtype.names or ()
    if not {"x", "y", "z"} <= set(names):
        raise ValueError(
            f"{path} has the vertex properties {', '.join(names) or '(none)'}; expected x, y and "
            "z among them. Export the file as a point cloud."
        )
    color_names = next((group for group in _COLOR_NAMES if set(group) <= set(names)), None)
    return PointCloud(
        points=_stack(table, ("x", "y", "z")),
        colors=_colors(path, table, color_names) if color_names else None,
        confidence=_stack(table, ("confidence",))[:, 0] if "confidence" in names else None,
    )


def _finite(path: Path, cloud: PointCloud) -> PointCloud:
    """The points that are somewhere; those left out are said.

    Raises:
        ValueError: None is.
    """
    keep = (cloud.points.abs() <= FARTHEST).all(1)
    if cloud.confidence is not None:
        keep &= cloud.confidence.isfinite()
    if bool(keep.all()):
        return cloud
    if not bool(keep.any()):
        raise ValueError(
            f"{path} has {len(keep)} points, none of which is finite. Export the file anew."
        )
    say(f"{path}: {int((~keep).sum())} of {len(keep)} points are not finite and left out.")
    rest = (None if each is None else each[keep] for each in (cloud.colors, cloud.confidence))
    return PointCloud(cloud.points[keep], *rest)


def _read_header(path: Path, file: BinaryIO) -> tuple[str, int, list[tuple[str, str]], bool]:
    """Encoding, number of vertices, (name, numpy code) of each property, and whether the file holds
    nothing else; file at the data."""
    if file.readline().strip() != b"ply":
        raise ValueError(f"{path} does not begin with 'ply'. Expected a PLY file. Export it anew.")
    encoding, element, count, is_all = "", "", -1, True
    properties: list[tuple[str, str]] = []
    for _ in range(_MAX_HEADER_LINES):
        raw = file.readline(_LONGEST_END)
        line = raw.decode("ascii", errors="replace").strip()
        words = line.split()
        if line == "end_header" or not raw:
            break
        if words[:1] == ["format"]:
            encoding = " ".join(words[1:2])
        elif words[:1] == ["element"] and len(words) == 3 and _COUNT.fullmatch(words[2]):
            element = words[1]
            is_all &= element == "vertex" or int(words[2]) == 0
            if element == "vertex":
                if count >= 0:
                    raise _unusable(path, line, "vertices once")
                count = int(words[2])
            elif count < 0 and words[2] != "0":
                raise _unusable(path, line, "'vertex' as the first element")
        elif words[:1] == ["property"] and element == "vertex":
            if len(words) != 3 or words[1] not in _TYPES:
                raise _unusable(path, line, "one number per vertex property")
            properties.append((words[2], _TYPES[words[1]]))
        elif words[:1] not in ([], ["comment"], ["obj_info"], ["property"]):
            raise _unusable(path, line, "a PLY header")
    if encoding not in _BYTE_ORDERS or count < 0 or line != "end_header":
        raise _unusable(path, line, "format, 'element vertex' and 'end_header'")
    return encoding, count, properties, is_all


def _unusable(path: Path, line: str, expected: str) -> ValueError:
    return ValueError(
        f"{path}: the PLY header has the line {line[:80]!r}, expected {expected}. "
        "Export the point cloud anew, as binary little-endian PLY."
    )


def _read_binary(path: Path, file: BinaryIO, count: int, dtype: np.dtype) -> np.ndarray:
    # Asked before reading: a damaged count may ask for more memory than there is.
    available = path.stat().st_size - file.tell()
    if available < count * dtype.itemsize:
        raise _cut_off(path, count, available // dtype.itemsize)
    return np.frombuffer(file.read(count * dtype.itemsize), dtype=dtype, count=count)


def _read_ascii(path: Path, file: BinaryIO, count: int, dtype: np.dtype) -> np.ndarray:
    lines = [line for _, line in zip(range(count), file, strict=False)]
    rows = [tuple(line.split()) for line in lines]
    names = dtype.names or ()
    complete = sum(len(row) == len(names) for row in rows)
    if complete < count:
        raise _cut_off(path, count, complete)
    try:
        # Through float64, so that "12.0" is taken for an integer as other readers do.
        numbers = np.array(rows, dtype=np.float64).reshape(count, len(names))
    except ValueError as error:
        raise ValueError(
            f"{path} holds a vertex that is not made of numbers: {error}. Expected {len(names)} "
            "numbers per line. Export the file anew."
        ) from error
    table = np.empty(count, dtype)
    for column, name in enumerate(names):
        kind, values = dtype[name], numbers[:, column]
        if (
            kind.kind in "iu"
            and not ((values >= np.iinfo(kind).min) & (values <= np.iinfo(kind).max)).all()
        ):
            raise ValueError(
                f"{path} has numbers for {name} that its type has no room for. Export it anew."
            )
        with np.errstate(over="ignore"):
            table[name] = values
    return table


def _cut_off(path: Path, expected: int, found: int) -> ValueError:
    return ValueError(
        f"{path} promises {expected} vertices but holds {found} complete ones; it is cut off or "
        "damaged. Copy or export it anew."
    )


def _stack(table: np.ndarray, names: tuple[str, ...]) -> Float[Tensor, "point column"]:
    """Columns side by side, as float64 where any of them needs it and float32 otherwise."""
    wide = any(table.dtype[name].itemsize > 4 for name in names)
    real = np.float64 if wide else np.float32
    return torch.from_numpy(np.stack([table[name].astype(real) for name in names], axis=-1))


def _colors(path: Path, table: np.ndarray, names: tuple[str, ...]) -> UInt8[Tensor, "point 3"]:
    """8-bit colours of whatever the file stores: by type, and where that leaves a choice by size.

    Floats are fractions unless one is above 1; whole numbers of more than 8 bits have 8 bits
    unless one is above 255.
    """
    columns = np.stack([table[name] for name in names], axis=-1)
    if columns.dtype.itemsize == 1:
        return torch.from_numpy(columns.astype(np.uint8))
    values = columns.astype(np.float64)
    highest = values.max(initial=0.0)
    if not (values.min(initial=0.0) >= 0 and highest <= 65535):  # Not a number fails, too.
        raise ValueError(
            f"{path} has colours from {values.min()} to {highest}. Expected fractions in [0, 1] or "
            "8-bit or 16-bit numbers. Export the file anew."
        )
    if columns.dtype.kind == "f" and highest <= 1:
        values = values * 255
    elif highest > 255:
        values = values * (255 / 65535)
    return torch.from_numpy(np.round(values).astype(np.uint8))
