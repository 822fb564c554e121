"""The fields of nerfstudio's transforms.json, each checked where it is read.

Every message names the file, the field and the frame.
"""

import json
import math
import posixpath
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from fm3d_plugins.errors import listed
from fm3d_plugins.geometry.lenses import LENSES, PERSPECTIVE, Lens, lens_of, models_where
from fm3d_plugins.geometry.poses import nearest_rotation, pose_from_rotation_translation
from fm3d_plugins.io.scene_checks import MAX_ROTATION_ERROR

SIZE = ("w", "h")
PINHOLE = ("fl_x", "fl_y", "cx", "cy")
DISTORTION = ("k1", "k2", "k3", "k4", "p1", "p2")
REMEDY = "Correct the file or make it anew, for example with `fm3d process`."


def load(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The file's top level and its frames, which are at least one."""
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no file {path}. Expected nerfstudio's transforms.json. Check the path, or "
            "estimate cameras first with `fm3d process`."
        )
    try:
        meta = json.loads(path.read_text(encoding="utf-8-sig"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no JSON in UTF-8: {error}. {REMEDY}") from error
    frames = meta.get("frames") if isinstance(meta, dict) else None
    if not isinstance(frames, list) or not frames:
        raise ValueError(
            f"{path} has {'an empty' if frames == [] else 'no'} list `frames`; expected one entry "
            f"per photo. {REMEDY}"
        )
    return meta, frames


def lenses_of(path: Path, meta: Mapping[str, Any], frames: list[dict[str, Any]]) -> list[Lens]:
    """The lens of each frame, by `camera_model` at the top or in the frame; OPENCV where neither.

    Raises:
        ValueError: The word is unknown, or a frame contradicts the top level.
    """
    found = []
    for index, frame in enumerate(frames):
        top, own = (s.get("camera_model") if isinstance(s, dict) else None for s in (meta, frame))
        model = top if own is None else own
        lens = lens_of("OPENCV" if model is None else model)
        if lens is None:
            where = "at the top level" if own is None else f"in frame {index}"
            raise ValueError(
                f"{path} has the camera_model {model!r} {where}; expected one of "
                f"{models_where(LENSES)}. {REMEDY}"
            )
        if top is not None and lens_of(top) is not lens:
            raise ValueError(
                f"{path}: frame {index} has the camera_model {own!r}, but the top level {top!r}. "
                "Expected one of them, or two of the same kind of lens. Remove the wrong one."
            )
        found.append(lens)
    return found


def require_perspective(path: Path, lenses: list[Lens], frames: list[dict[str, Any]]) -> None:
    """Raise ValueError where a lens is not of this package's own scenes; photos are named."""
    wrong = [row for row, lens in enumerate(lenses) if not lens.in_scenes]
    if wrong:
        names = listed(frames[row]["file_path"] for row in wrong)
        raise ValueError(
            f"{path} has the camera_model {lenses[wrong[0]].transforms_models[0]!r} in "
            f"{len(wrong)} of {len(frames)} frames ({names}); expected one of "
            f"{models_where([PERSPECTIVE])}. Undistort the photos first, for example with "
            "`colmap image_undistorter`."
        )


def names_of(path: Path, frames: list[dict[str, Any]]) -> tuple[str, ...]:
    """Each photo's path below the folder that all photos have in common."""
    paths = []
    for index, frame in enumerate(frames):
        file_path = frame.get("file_path") if isinstance(frame, dict) else None
        if not isinstance(file_path, str) or not file_path:
            raise ValueError(
                f"{path}: frame {index} has the file_path {file_path!r}; expected the path of a "
                f"photo relative to the file. {REMEDY}"
            )
        paths.append(PurePosixPath(file_path))
    repeated = sorted({str(one) for one in paths if paths.count(one) > 1})
    if repeated:
        raise ValueError(
            f"{path} lists {', '.join(repeated)} more than once as file_path; expected each photo "
            "once. Drop the repeated frames."
        )
    if len({one.is_absolute() for one in paths}) > 1:  # then they have no folder in common
        return tuple(one.as_posix() for one in paths)
    folder = posixpath.commonpath([one.parent for one in paths])
    return tuple(one.relative_to(folder).as_posix() for one in paths)


def camera_of(
    path: Path, meta: Mapping[str, Any], frame: Mapping[str, Any], lens: Lens = PERSPECTIVE
) -> Float[Tensor, " number"]:
    """w, h, fl_x, fl_y, cx, cy, k1, k2, k3, k4, p1, p2 of one frame; the first six coefficients
    of a lens that has more.

    As nerfstudio does it: a field at the top goes before one in the frame, and any distortion at
    the top goes before all distortion in the frame.
    """
    frame_name = f"frame {frame['file_path']!r}"
    numbers = []
    for key in (*SIZE, *PINHOLE):
        source, where = (meta, "the top level") if key in meta else (frame, frame_name)
        numbers.append(_number(path, source, where, key))
        if not key.startswith("c") and numbers[-1] <= 0:
            raise ValueError(
                f"{path}: {key} is {source[key]!r} in {where}; expected a number of pixels above "
                f"0. {REMEDY}"
            )
    keys = (*DISTORTION, "distortion_params")
    source, where = (meta, "the top level") if any(k in meta for k in keys) else (frame, frame_name)
    if "distortion_params" in source:
        numbered = source["distortion_params"]
        if not isinstance(numbered, list) or len(numbered) != lens.num_coefficients:
            names = f"the six numbers {', '.join(DISTORTION)}"
            expected = names if lens.num_coefficients == len(DISTORTION) else "12 numbers"
            raise ValueError(
                f"{path}: distortion_params is {numbered!r} in {where}; expected {expected}. "
                f"{REMEDY}"
            )
        values = {key: numbered[index] for index, key in enumerate(DISTORTION)}
    else:
        values = {key: source.get(key, 0.0) for key in DISTORTION}
    numbers += [_number(path, values, where, key) for key in DISTORTION]
    return torch.tensor(numbers, dtype=torch.float64)


def _number(path: Path, source: Mapping[str, Any], where: str, key: str) -> float:
    """A finite number, or ValueError."""
    try:
        number = float(source[key])
    except (KeyError, TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        found = f"is {source[key]!r}" if key in source else "is missing"
        raise ValueError(
            f"{path}: {key} {found} in {where}; expected a finite number there or at the top "
            f"level. {REMEDY}"
        )
    return number


def rigid_matrices(path: Path, frames: list[dict[str, Any]]) -> Float[Tensor, "view 4 4"]:
    """All `transform_matrix`, their rotations freed from rounding."""
    faults, matrices = [], []
    for frame in frames:
        try:
            matrix = torch.tensor(frame.get("transform_matrix"), dtype=torch.float64)
        except (TypeError, ValueError, RuntimeError):
            matrix = torch.empty(0)
        if matrix.shape not in ((3, 4), (4, 4)):
            faults.append(f"{frame['file_path']} has no matrix of 4 x 4 or 3 x 4 numbers")
            continue
        rotation = nearest_rotation(matrix[:3, :3].nan_to_num(0, 0, 0))
        if not bool(matrix.isfinite().all()):
            faults.append(f"{frame['file_path']} has a matrix with nan or infinity")
        elif float((matrix[:3, :3] - rotation).abs().max()) > MAX_ROTATION_ERROR:
            determinant = float(torch.linalg.det(matrix[:3, :3]))
            faults.append(f"{frame['file_path']} has no rotation (determinant {determinant:.3g})")
        matrices.append(pose_from_rotation_translation(rotation, matrix[:3, 3]))
    if faults:
        raise ValueError(
            f"{path}: transform_matrix is unusable in {len(faults)} of {len(frames)} frames: "
            f"{'; '.join(faults)}. Expected rigid camera-to-world matrices with OpenGL axes. "
            "Drop these frames or estimate the cameras anew."
        )
    return torch.stack(matrices)
