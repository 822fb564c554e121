"""Photos that agree in all that is known of them, and yet were taken at different zooms."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float32

from fm3d_plugins.backends.pycolmap.mapping import lens_deviations
from fm3d_plugins.backends.pycolmap.models import SparseModel
from fm3d_plugins.geometry.cameras import denormalize, distort
from fm3d_plugins.geometry.poses import invert, transform_points

SAME_ZOOM = 1.08
"""Largest ratio of neighbouring focal lengths of one zoom. Photos of one lens, each with a camera
of its own, came out within 1.02 of their neighbours on fox and sceaux, and within 1.03 on
banana."""

WIDEST_ZOOM = 1.2
"""Largest ratio of any two focal lengths of one zoom: above it they run on, and none is shared."""

LARGEST_DEVIATION = 0.02
"""Standard deviation of the logarithm of a focal length up to which its photo tells it: a quarter
of what parts two zooms. It is 0.1 and more on small things that turn before a background."""

SIGNIFICANT = 4.0
"""Standard deviations from the middle focal length at which a photo with a larger one tells it."""

MUCH_BETTER = 0.85
"""Mean reprojection error in the photos that were parted from the others, over what it is in the
model with shared cameras, at which the parted ones are believed: it is half and less at a zoom of
1.6, and 0.99 without any zoom. The square of it where the model has fewer photos."""

ENOUGH_PHOTOS = 0.9
"""Of the photos of the model with shared cameras, at least so many must be in the other."""

Focals = Mapping[int, float]
"""Focal lengths by row of the photo, in units of its longer side."""


def relative_focals(model: SparseModel, image_sizes: Sequence[tuple[int, int]]) -> dict[int, float]:
    """Focal lengths of those photos of a model, a camera for each, that tell their own."""
    rows, bends = model.image_index.tolist(), model.distortion[:, 0].tolist()
    lenses = {
        row: "SIMPLE_RADIAL" if bend else "SIMPLE_PINHOLE"
        for row, bend in zip(rows, bends, strict=True)
    }
    found = lens_deviations(model, lenses)
    deviations = np.array([found[row].focal for row in rows])
    focals = model.intrinsics[:, 0, 0] / [max(image_sizes[row]) for row in rows]
    apart = np.abs(np.log(focals / np.median(focals)))
    told = (deviations <= LARGEST_DEVIATION) | (apart >= SIGNIFICANT * deviations)
    return {row: float(focals[view]) for view, row in enumerate(rows) if told[view]}


def parted_by_zoom(focals: Focals, groups: Sequence[int]) -> list[int]:
    """Cameras of photos, those that shared one parted where their focal lengths say so.

    Neighbours up to `SAME_ZOOM` apart are of one zoom; where the focal lengths of a zoom run
    through more than `WIDEST_ZOOM`, every photo gets a camera of its own. A photo without a focal
    length has a camera of its own wherever the others are parted.

    Args:
        focals: Each photo's own, of photos that have one.
        groups: Which photos share a camera, by numbers from 0.

    Returns:
        New numbers from 0, in order of first use.
    """
    keys: list[tuple[int, ...]] = [(group,) for group in groups]
    for group in set(groups):
        rows = [row for row, own in enumerate(groups) if own == group]
        zooms = _zooms({row: focals[row] for row in rows if row in focals})
        if len(zooms) > 1:
            for row in rows:
                keys[row] = (group, -1, row)
            for number, members in enumerate(zooms):
                for row in members:
                    keys[row] = (group, number)
    number_of = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    return [number_of[key] for key in keys]


def _zooms(focals: Focals) -> list[list[int]]:
    """Rows of each zoom, from wide to long."""
    ordered = sorted(focals, key=lambda row: focals[row])
    zooms: list[list[int]] = []
    for row in ordered:
        if zooms and focals[row] <= SAME_ZOOM * focals[zooms[-1][-1]]:
            zooms[-1].append(row)
        else:
            zooms.append([row])
    parted = []
    for members in zooms:
        runs_on = focals[members[-1]] > WIDEST_ZOOM * focals[members[0]]
        parted += [[row] for row in members] if runs_on else [members]
    return parted


def odd_rows(groups: Sequence[int], parted: Sequence[int]) -> list[int]:
    """Photos that no longer share a camera with the most of those that they shared one with."""
    odd = []
    for group in set(groups):
        rows = [row for row, own in enumerate(groups) if own == group]
        most = Counter(parted[row] for row in rows).most_common(1)[0][0]
        odd += [row for row in rows if parted[row] != most]
    return sorted(odd)


def explains_more(
    parted: SparseModel,
    together: SparseModel | None,
    odd: Sequence[int],
    keypoints: Sequence[Float32[np.ndarray, "_feature _"]],
) -> bool:
    """Whether a model with more cameras is to be believed rather than one with fewer.

    Args:
        odd: Photos on which they are compared, by row.
        keypoints: Of each photo; x and y first, in pixels of the models.
    """
    if together is None or len(parted) > len(together):
        return True
    if len(parted) < ENOUGH_PHOTOS * len(together):
        return False
    needed = MUCH_BETTER if len(parted) == len(together) else MUCH_BETTER**2
    return error_in(parted, odd, keypoints) <= needed * error_in(together, odd, keypoints)


def error_in(
    model: SparseModel, rows: Sequence[int], keypoints: Sequence[Float32[np.ndarray, "_feature _"]]
) -> float:
    """Mean reprojection error in some photos, pixels; infinite where the model has none of them."""
    row = model.image_index[model.track_view]
    chosen = np.flatnonzero(np.isin(row, list(rows)))
    if not len(chosen):
        return math.inf
    view = model.track_view[chosen]
    seen = np.stack(
        [
            keypoints[r][k, :2]
            for r, k in zip(row[chosen], model.track_keypoint[chosen], strict=True)
        ]
    )
    camera_from_world = invert(torch.from_numpy(model.world_from_camera[view]))
    points = torch.from_numpy(model.points[model.track_point[chosen]])[:, None]
    in_camera = transform_points(camera_from_world, points)
    bent = distort(
        in_camera[..., :2] / in_camera[..., 2:], torch.from_numpy(model.distortion[view])
    )
    pixels = denormalize(bent, torch.from_numpy(model.intrinsics[view]))[:, 0]
    return float((pixels - torch.from_numpy(seen.astype(np.float64))).norm(dim=-1).mean())


def told_zooms(
    model: SparseModel, scales: Sequence[float], before: Sequence[int], after: Sequence[int]
) -> str:
    """A sentence for the user about the zooms of cameras that were parted.

    Args:
        scales: Working pixels over the photo's own, by row.
        before: Cameras of all photos, as they were.
        after: As they are.
    """
    focals = {
        row: model.intrinsics[view, 0, 0] / scales[row]
        for view, row in enumerate(model.image_index.tolist())
    }
    parted = [
        group
        for group in dict.fromkeys(before)
        if len({new for old, new in zip(before, after, strict=True) if old == group}) > 1
    ]
    cameras: dict[int, list[float]] = {}
    for row, focal in focals.items():
        if before[row] in parted:
            cameras.setdefault(after[row], []).append(focal)
    told = sorted((math.fsum(each) / len(each), len(each)) for each in cameras.values())
    listed = ", ".join(f"{focal:.0f} px ({count})" for focal, count in told)
    return (
        "sfm: photos that would share a camera were taken at several zooms, and share one by "
        f"zoom: focal lengths (and photos) {listed}. Other: --camera shared or per-photo."
    )
