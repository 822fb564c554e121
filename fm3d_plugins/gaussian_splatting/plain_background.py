"""Whether photos show a thing before a plain backdrop, and what of them shows the backdrop.

A backdrop is black, white, or a studio's sweep: one colour that changes slowly across a photo, by
its light and by the lens. Gaussians of its colour before it change no photo that is trained on, and
hang before the thing in every other one. So it is told which pixels must show none.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor
from torch.nn.functional import interpolate, max_pool2d

from fm3d_plugins.dense_points import in_floats
from fm3d_plugins.geometry.cameras import project
from fm3d_plugins.geometry.poses import invert, transform_points
from fm3d_plugins.kernels.threads import get_num_threads

WORKING_SIZE = 320
"""Long side in pixels at which photos are looked at: noise is averaged away."""

BORDER = 0.03
"""Width of the frame that is looked at, as a share of a photo's side."""

ALIKE = 0.04
"""By how much a colour may differ from the backdrop's there, in each of its channels."""

FIRST_GUESSES = (0.2, 0.1, 0.05)
"""By how much it may while the backdrop is being found, which begins as the middle colour."""

LEAST_SHARE, LEAST_SHARE_OF_ONE = 0.75, 0.4
"""Share of the frames' pixels that are alike: of all photos, and of each. The rest is the thing."""

MOST_DIFFERENCE = 0.15
"""Of the mean colours of two photos' backdrops, in each channel."""

LEAST_LOOKS = 0.5
"""Share of the photos that have a point of the thing within their frame, of what is usual. Fewer
have what is close before one of the cameras."""

NUM_TERMS = 6
"""1, x, y, x^2, xy, y^2, where x and y are -1 and 1 at the sides of a photo."""


@dataclass(frozen=True)
class PlainBackground:
    """The backdrop of photos."""

    coefficients: Float[Tensor, "view 6 3"]
    """Of each photo's, for `backdrop`."""
    is_shown: Sequence[Bool[Tensor, "_ _"]]
    """Where a small copy of each photo shows it, up to the thing."""
    may_be_shown: Sequence[Bool[Tensor, "_ _"]]
    """Where else the copy has its colour, and a pixel around, as outlines are mixed."""


def backdrop(
    coefficients: Float[Tensor, "6 3"], height: int, width: int
) -> Float[Tensor, "{height} {width} 3"]:
    """The colours of a backdrop in all pixels of a photo."""
    y = torch.linspace(-1 + 1 / height, 1 - 1 / height, height).to(coefficients)[:, None, None]
    x = torch.linspace(-1 + 1 / width, 1 - 1 / width, width).to(coefficients)[:, None]
    a, b, c, d, e, f = coefficients
    return (a + b * x + c * y + d * x**2 + e * x * y + f * y**2).clamp(0, 1)


def plain_background(
    images: Sequence[Shaped[Tensor, "_ _ 3"]], masks: Sequence[Tensor | None]
) -> PlainBackground | None:
    """The backdrop before which all photos show their thing, or None.

    Args:
        images: Colours in [0, 1], or bytes.
        masks: [H, W, 1] each, above one half where a photo counts; None: everywhere.
    """

    def found_in(image: Tensor, mask: Tensor | None) -> _Backdrop | None:
        colors = _small(in_floats(image))
        counts = torch.ones(colors.shape[:2], dtype=torch.bool)
        if mask is not None:
            counts = _small(mask.float().cpu().reshape(*image.shape[:2], 1))[..., 0] > 0.5  # noqa: PLR2004
        return _backdrop_of(colors, counts)

    with ThreadPoolExecutor(min(8, get_num_threads())) as pool:
        found = list(pool.map(found_in, images, masks))
    counted = [one for one in found if one is not None]
    if not counted:
        return None
    alike, total = torch.tensor([one.alike for one in counted]).T
    if alike.sum() < LEAST_SHARE * total.sum() or (alike < LEAST_SHARE_OF_ONE * total).any():
        return None
    middle = torch.stack([backdrop(one.terms, 8, 8).mean((0, 1)) for one in counted])
    if (middle - middle.median(0).values).abs().max() > MOST_DIFFERENCE:
        return None
    mean = torch.stack([one.terms for one in counted]).mean(0)
    nothing = torch.zeros(1, 1, dtype=torch.bool)
    return PlainBackground(
        torch.stack([mean if one is None else one.terms for one in found]),
        [nothing if one is None else one.is_shown for one in found],
        [nothing if one is None else one.may_be_shown for one in found],
    )


def with_all_terms(coefficients: Float[Tensor, "*terms 3"]) -> Float[Tensor, "6 3"]:
    """Those of checkpoints; older ones hold the first, one colour, alone."""
    if coefficients.ndim > 1:
        return coefficients
    return torch.cat([coefficients[None], coefficients.new_zeros(NUM_TERMS - 1, 3)])


def resized(region: Bool[Tensor, "_ _"], height: int, width: int) -> Float[Tensor, "_ _ 1"]:
    """1 inside a region of a small copy, 0 outside, at a photo's size."""
    return interpolate(region[None, None].float(), (height, width), mode="nearest")[0, 0, ..., None]


def without(entry: Mapping[str, Any], region: Bool[Tensor, "_ _"]) -> dict[str, Any]:
    """A photo as nerfstudio's batches hold it, whose mask leaves out a region of a small copy."""
    kept = 1 - resized(region, *entry["image"].shape[:2])
    mask = entry.get("mask")
    return {**entry, "mask": kept if mask is None else kept * mask.float().cpu()}


def may_be_things(
    points: Float[Tensor, "point 3"],
    plain: PlainBackground,
    intrinsics: Float[Tensor, "view 3 3"],
    world_from_camera: Float[Tensor, "view 4 4"],
    sizes: Int[Tensor, "view 2"],
) -> Bool[Tensor, " point"]:
    """Whether points lie where no photo shows its backdrop and about as many look as elsewhere.

    Args:
        points: World frame.
        intrinsics: Pixels of the photos.
        world_from_camera: OpenCV cameras.
        sizes: Width and height of the photos.
    """
    seen = torch.zeros(len(points), dtype=torch.int64)
    is_before = torch.zeros(len(points), dtype=torch.bool)
    cameras = zip(plain.is_shown, intrinsics, world_from_camera, sizes, strict=True)
    for region, matrix, pose, size in cameras:
        local = transform_points(invert(pose.float()), points)
        place = project(local, matrix.float()) / size
        inside = (local[:, 2] > 0) & ((place >= 0) & (place < 1)).all(-1)
        column, row = (place[inside] * place.new_tensor(region.T.shape)).long().unbind(-1)
        seen += inside
        # A pixel of the small copy aside, as cameras are not exact.
        is_before[inside.nonzero()[:, 0]] |= ~_grown(~region)[row, column]
    if bool(is_before.all()):
        return ~is_before
    return (seen >= LEAST_LOOKS * seen[~is_before].median()) & ~is_before


@dataclass(frozen=True)
class _Backdrop:
    """One photo's; see `PlainBackground`."""

    terms: Float[Tensor, "6 3"]
    is_shown: Bool[Tensor, "h w"]
    may_be_shown: Bool[Tensor, "h w"]
    alike: tuple[int, int]
    """How many pixels of the frame have its colour, of how many that count."""


def _backdrop_of(colors: Float[Tensor, "h w 3"], counts: Bool[Tensor, "h w"]) -> _Backdrop | None:
    """What is most like one in a photo; None where nothing of its frame counts."""
    frame = counts & _frame(*counts.shape)
    if frame.sum() < NUM_TERMS:
        return None
    terms = colors.new_zeros(NUM_TERMS, 3)
    terms[0] = colors[frame].median(0).values
    for tolerance in (*FIRST_GUESSES, ALIKE):
        terms = _fitted(colors, frame & _is_near(colors, terms, tolerance), terms)
    # Then with what lies inside the frame: a lens darkens corners more than a quadratic does.
    region = _region(colors, counts, frame, terms)
    terms = _fitted(colors, region, terms)
    region = _region(colors, counts, frame, terms)
    alike = _is_near(colors, terms, ALIKE)
    share = int((alike & frame).sum()), int(frame.sum())
    return _Backdrop(terms, region, _grown(alike), share)


def _region(
    colors: Float[Tensor, "h w 3"],
    counts: Bool[Tensor, "h w"],
    frame: Bool[Tensor, "h w"],
    terms: Float[Tensor, "6 3"],
) -> Bool[Tensor, "h w"]:
    """What has a backdrop's colour and is connected with the frame by such pixels."""
    return connected(counts & _is_near(colors, terms, ALIKE), frame)


def connected(inside: Bool[Tensor, "h w"], start: Bool[Tensor, "h w"]) -> Bool[Tensor, "h w"]:
    """What of a region touches, by way of its pixels and their eight neighbours, those to start."""
    from scipy import ndimage

    parts = np.empty(inside.shape, np.int32)
    ndimage.label(inside.numpy(), structure=np.ones((3, 3)), output=parts)
    is_reached = np.zeros(parts.max(initial=0) + 1, bool)
    is_reached[parts[(inside & start).numpy()]] = True
    return torch.from_numpy(is_reached[parts])


def _grown(region: Bool[Tensor, "h w"]) -> Bool[Tensor, "h w"]:
    """A region and the pixels that touch it."""
    return max_pool2d(region[None].float(), 3, stride=1, padding=1)[0] > 0


def _is_near(
    colors: Float[Tensor, "h w 3"], terms: Float[Tensor, "6 3"], tolerance: float
) -> Bool[Tensor, "h w"]:
    return ((colors - backdrop(terms, *colors.shape[:2])).abs() <= tolerance).all(-1)


def _fitted(
    colors: Float[Tensor, "h w 3"], where: Bool[Tensor, "h w"], otherwise: Float[Tensor, "6 3"]
) -> Float[Tensor, "6 3"]:
    """Least squares over some pixels; as it was where they are too few."""
    if where.sum() < 2 * NUM_TERMS:
        return otherwise
    height, width = where.shape
    y, x = where.nonzero().float().unbind(-1)
    x, y = (2 * x + 1) / width - 1, (2 * y + 1) / height - 1
    design = torch.stack([torch.ones_like(x), x, y, x**2, x * y, y**2], -1).double()
    # Pulled a little to one colour: pixels of one corner say nothing of the others.
    pull = 1e-4 * len(x) * torch.ones(NUM_TERMS).double()
    pull[0] = 0
    known = colors[where].double()
    return torch.linalg.solve(design.T @ design + pull.diag(), design.T @ known).float()


def _frame(height: int, width: int) -> Bool[Tensor, "{height} {width}"]:
    """Pixels along the border."""
    rows, columns = (max(1, round(BORDER * side)) for side in (height, width))
    frame = torch.ones(height, width, dtype=torch.bool)
    frame[rows : height - rows, columns : width - columns] = False
    return frame


def _small(image: Float[Tensor, "_ _ channel"]) -> Float[Tensor, "_ _ channel"]:
    factor = min(1.0, WORKING_SIZE / max(image.shape[:2]))
    size = [max(1, round(side * factor)) for side in image.shape[:2]]
    planes = image.permute(2, 0, 1)[None]
    return interpolate(planes, size, mode="area")[0].permute(1, 2, 0)
