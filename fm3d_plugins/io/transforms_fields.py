"""The fields of nerfstudio's transforms.json, each checked where it is read.

Every message names the file, the field and the frame.
"""

import codecs
import math
import posixpath
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from fm3d_plugins.errors import listed
from fm3d_plugins.files import is_file, read_json
from fm3d_plugins.geometry.lenses import LENSES, PERSPECTIVE, Lens, lens_of, models_where
from fm3d_plugins.geometry.poses import nearest_rotation, pose_from_rotation_translation
from fm3d_plugins.io.scene_checks import MAX_ROTATION_ERROR
from fm3d_plugins.scene import FARTHEST, LARGEST_SIDE

SIZE = ("w", "h")
PINHOLE = ("fl_x", "fl_y", "cx", "cy")
DISTORTION = ("k1", "k2", "k3", "k4", "p1", "p2")
BOTTOM = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=torch.float64)
"""Last row of a rigid transform."""
REMEDY = "Correct the file or make it anew, for example with `fm3d process`."


def load(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The file's top level and its frames, which are at least one."""
    if not is_file(path):
        raise FileNotFoundError(
            f"There is no file {path}. Expected nerfstudio's transforms.json. Check the path, or "
            "estimate cameras first with `fm3d process`."
        )
    meta = read_json(path, REMEDY)
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
    repeated = sorted(str(one) for one, count in Counter(paths).items() if count > 1)
    if repeated:
        raise ValueError(
            f"{path} lists {', '.join(repeated)} more than once as file_path; expected each photo "
            "once. Drop the repeated frames."
        )
    if len({one.is_absolute() for one in paths}) > 1:  # then they have no folder in common
        return tuple(one.as_posix() for one in paths)
    folder = posixpath.commonpath([one.parent for one in paths])
    return tuple(one.relative_to(folder).as_posix() for one in paths)


def cameras_of(
    path: Path, meta: Mapping[str, Any], frames: list[dict[str, Any]], lenses: list[Lens]
) -> Float[Tensor, "view 12"]:
    """w, h, fl_x, fl_y, cx, cy, k1, k2, k3, k4, p1, p2 of each frame; the first six coefficients
    of a lens that has more.

    As nerfstudio does it: a field at the top goes before one in the frame, and any distortion at
    the top goes before all distortion in the frame.
    """
    rows = [
        [*_pinhole(path, meta, frame), *_distortion(path, meta, frame, lens)]
        for frame, lens in zip(frames, lenses, strict=True)
    ]
    return torch.tensor(rows, dtype=torch.float64)


def _frame_name(frame: Mapping[str, Any]) -> str:
    return f"frame {frame['file_path']!r}"


def _pinhole(path: Path, meta: Mapping[str, Any], frame: Mapping[str, Any]) -> Iterator[float]:
    for key in (*SIZE, *PINHOLE):
        source, where = (meta, "the top level") if key in meta else (frame, _frame_name(frame))
        number = _number(path, source, where, key)
        if not key.startswith("c") and number <= 0:
            raise ValueError(
                f"{path}: {key} is {source[key]!r} in {where}; expected a number of pixels above "
                f"0. {REMEDY}"
            )
        if key in SIZE and (number > LARGEST_SIDE or number != int(number)):
            raise ValueError(
                f"{path}: {key} is {source[key]!r:.80} in {where}; expected a whole number of "
                f"pixels up to {LARGEST_SIDE}. {REMEDY}"
            )
        yield number


def _distortion(
    path: Path, meta: Mapping[str, Any], frame: Mapping[str, Any], lens: Lens
) -> list[float]:
    keys = (*DISTORTION, "distortion_params")
    is_top = any(key in meta for key in keys)
    source, where = (meta, "the top level") if is_top else (frame, _frame_name(frame))
    if "distortion_params" not in source:
        return [_number(path, source, where, key) if key in source else 0.0 for key in DISTORTION]
    numbered = source["distortion_params"]
    if not isinstance(numbered, list) or len(numbered) != lens.num_coefficients:
        names = f"the six numbers {', '.join(DISTORTION)}"
        expected = names if lens.num_coefficients == len(DISTORTION) else "12 numbers"
        raise ValueError(
            f"{path}: distortion_params is {numbered!r:.200} in {where}; expected {expected}. "
            f"{REMEDY}"
        )
    names = (*DISTORTION, *(f"distortion_params[{n}]" for n in range(6, len(numbered))))
    values = dict(zip(names, numbered, strict=True))
    return [_number(path, values, where, name) for name in names][: len(DISTORTION)]


def _number(path: Path, source: Mapping[str, Any], where: str, key: str) -> float:
    """A finite number, or ValueError."""
    number = _finite(source.get(key))
    if number is None:
        found = f"is {source[key]!r:.80}" if key in source else "is missing"
        raise ValueError(
            f"{path}: {key} {found} in {where}; expected a finite number there or at the top "
            f"level. {REMEDY}"
        )
    return number


def _finite(value: object) -> float | None:
    """The number that a value is, also in a text, as nerfstudio takes it; None if it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def rigid_matrices(path: Path, frames: list[dict[str, Any]]) -> Float[Tensor, "view 4 4"]:
    """All `transform_matrix`, their rotations freed from rounding."""
    rows = [_rows_of_matrix(frame.get("transform_matrix")) for frame in frames]
    matrices = torch.tensor(
        [[[math.nan] * 4] * 4 if each is None else each for each in rows], dtype=torch.float64
    )
    linear = matrices[:, :3, :3]
    rotations = nearest_rotation(linear.nan_to_num(0, 0, 0))
    # Comparisons that nan fails, too.
    is_finite = (matrices.abs() <= FARTHEST).flatten(1).all(1)
    is_rotation = ((linear - rotations).abs() <= MAX_ROTATION_ERROR).flatten(1).all(1)
    is_affine = ((matrices[:, 3] - BOTTOM).abs() <= 1e-6).all(1)
    faults = []
    for row in (~(is_finite & is_rotation & is_affine)).nonzero().flatten().tolist():
        if rows[row] is None:
            fault = "no matrix of 4 x 4 or 3 x 4 numbers"
        elif not is_finite[row]:
            fault = f"a matrix with nan or infinity, or numbers above {FARTHEST:g}"
        elif not is_rotation[row]:
            fault = f"no rotation (determinant {float(torch.linalg.det(linear[row])):.3g})"
        else:
            fault = f"the last row {rows[row][3]}"
        faults.append(f"{frames[row]['file_path']} has {fault}")
    if faults:
        raise ValueError(
            f"{path}: transform_matrix is unusable in {len(faults)} of {len(frames)} frames: "
            f"{'; '.join(faults)}. Expected rigid camera-to-world matrices with OpenGL axes. "
            "Drop these frames or estimate the cameras anew."
        )
    return pose_from_rotation_translation(rotations, matrices[:, :3, 3])


def _rows_of_matrix(value: object) -> list[list[float]] | None:
    """Four rows of four numbers, also where the last is left out; None for anything else."""
    if not isinstance(value, list) or len(value) not in (3, 4):
        return None
    rows = [*value, list(BOTTOM.tolist())][:4]
    if not all(isinstance(row, list) and len(row) == 4 for row in rows):
        return None
    if not all(type(number) in (int, float) for row in rows for number in row):
        return None
    try:
        return [[float(number) for number in row] for row in rows]
    except OverflowError:
        return None


def require_usable_rest(path: Path, meta: Mapping[str, Any], frames: list[dict[str, Any]]) -> None:
    """Raise ValueError where a field is unusable that nerfstudio's parser asks for besides."""
    for key in ("train_filenames", "val_filenames", "test_filenames"):
        listed_files = meta.get(key, [])
        if not isinstance(listed_files, list) or not all(isinstance(f, str) for f in listed_files):
            raise ValueError(f"{path}: {key} is no list of paths. {REMEDY}")
    scale = _finite(meta.get("applied_scale", 1.0))
    if scale is None or not 1 / FARTHEST <= scale <= FARTHEST:
        found = f"{meta['applied_scale']!r:.80}"
        raise ValueError(f"{path}: applied_scale is {found}; expected a number above 0. {REMEDY}")
    if "applied_transform" in meta:
        rows = _rows_of_matrix(meta["applied_transform"])
        if rows is None or not all(abs(number) <= FARTHEST for row in rows for number in row):
            raise ValueError(
                f"{path}: applied_transform is {meta['applied_transform']!r:.200}; expected 3 x 4 "
                f"finite numbers. {REMEDY}"
            )
    for index, frame in enumerate(frames):
        for key in ("mask_path", "depth_file_path"):
            if not isinstance(frame.get(key) or "", str):
                raise ValueError(
                    f"{path}: frame {index} has the {key} {frame[key]!r:.80}; expected a path. "
                    f"{REMEDY}"
                )


def require_parsed_by_nerfstudio(path: Path, frames: list[dict[str, Any]]) -> None:
    """Raise ValueError for what this package's reader takes and nerfstudio's parser does not."""
    if path.read_bytes().startswith(codecs.BOM_UTF8):
        raise ValueError(
            f"{path} begins with a byte order mark, which nerfstudio's parser does not read. "
            "Expected UTF-8 without one. Save the file anew without it."
        )
    for key in ("mask_path", "depth_file_path"):
        without = [_frame_name(frame) for frame in frames if key not in frame]
        if 0 < len(without) < len(frames):
            raise ValueError(
                f"{path} has no {key} in {len(without)} of {len(frames)} frames "
                f"({listed(without)}). Expected one in every frame, or in none. Add it there, or "
                "take it out everywhere."
            )
