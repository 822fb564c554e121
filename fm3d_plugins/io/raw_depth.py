"""Depth maps as programs of multi-view stereo write them: PFM, and COLMAP's own.

PFM (Debevec's portable float map, netpbm.sourceforge.net/doc/pfm.html): the lines `Pf`, width and
height, and a number whose sign tells the order of bytes (below 0: little-endian); then single
precision, row by row from the lowest.

COLMAP (colmap.github.io/format.html, "Dense Reconstruction"): the text `width&height&channels&`,
then little-endian single precision, row by row from the top, channel by channel.
"""

import re
from pathlib import Path

import numpy as np
from jaxtyping import Float

from fm3d_plugins.files import require_regular

_PFM = re.compile(rb"Pf[ \t]*\r?\n[ \t]*(\d{1,6})[ \t]+(\d{1,6})\s+([-+]?\d[\d.]{0,20})[ \t]*\r?\n")
_COLMAP = re.compile(rb"(\d{1,6})&(\d{1,6})&1&")
_REMEDY = "Write it anew, or leave its frame out."


def read_pfm(path: Path) -> Float[np.ndarray, "rows columns"]:
    """A PFM file of one channel, in single precision, the highest row first.

    Raises:
        ValueError: It is none.
        OSError: There is no such file, or it is a pipe or a device.
    """
    content = require_regular(path).read_bytes()
    match = _PFM.match(content)
    scale = _scale(match[3]) if match else 0.0
    if match is None or scale == 0:
        raise ValueError(
            f"{path} begins with {content[:40]!r}; expected a PFM file of one channel (Pf, width "
            f"and height, a scale that is not 0). {_REMEDY}"
        )
    order = "<f4" if scale < 0 else ">f4"
    return _floats(path, content[match.end() :], int(match[1]), int(match[2]), order)[::-1].copy()


def read_colmap_depth(path: Path) -> Float[np.ndarray, "rows columns"]:
    """A depth map of COLMAP's dense workspace, in single precision; 0 where it is unknown.

    Raises:
        ValueError: It is none.
        OSError: There is no such file, or it is a pipe or a device.
    """
    content = require_regular(path).read_bytes()
    match = _COLMAP.match(content)
    if match is None:
        raise ValueError(
            f"{path} begins with {content[:40]!r}; expected a map of COLMAP with one channel "
            f"(width&height&1&). {_REMEDY}"
        )
    return _floats(path, content[match.end() :], int(match[1]), int(match[2]), "<f4")


def _scale(text: bytes) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def _floats(
    path: Path, content: bytes, width: int, height: int, order: str
) -> Float[np.ndarray, "rows columns"]:
    if width * height == 0 or len(content) != 4 * width * height:
        raise ValueError(
            f"{path} has {len(content)} bytes behind its head for {width} x {height} numbers of 4 "
            f"bytes; expected exactly as many, and at least one. {_REMEDY}"
        )
    return np.frombuffer(content, order).astype(np.float32).reshape(height, width)
