"""Whether photos show a thing before a plain backdrop, and what of them shows the backdrop.

A backdrop is black, white, or a studio's sweep: one colour that changes slowly across a photo, by
its light and by the lens. Gaussians of its colour before it change no photo that is trained on, and
hang before the thing in every other one. So it is told which pixels must show none.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor
from torch.nn.functional import avg_pool2d, max_pool2d

from fm3d_plugins.backgrounds.regions import (
    Regions,
    connected,
    counted,
    frame_of,
    grown,
    small,
)
from fm3d_plugins.kernels.threads import get_num_threads

ALIKE = 0.04
"""By how much a colour may differ from the backdrop's there, in each of its channels."""

FIRST_GUESSES = (0.2, 0.1, 0.05)
"""By how much it may while the backdrop is being found, which begins as the middle colour."""

LEAST_SHARE, LEAST_SHARE_OF_ONE = 0.75, 0.4
"""Share of the frames' pixels that are alike: of the photos with a backdrop, and of each of them.
The rest is the thing."""

LEAST_PHOTOS = 0.75
"""Share of the photos that have a backdrop: some may be taken from too close, or elsewhere."""

MOST_TEXTURE, SMOOTHED = 0.02, 5
"""Deviation of a backdrop's colours from its quadratic, means of squares of so many pixels, as a
share of the photo's contrast: sweeps, JPEG files and noise have up to 0.014, dark rooms and bare
tables from 0.03."""

MOST_DIFFERENCE, MOST_GAIN = 0.15, 4.0
"""Of the mean colours of two photos' backdrops, in each channel, when one is made brighter or
darker by a factor, and the largest such factor. Photos may be exposed differently."""

NUM_TERMS = 6
"""1, x, y, x^2, xy, y^2, where x and y are -1 and 1 at the sides of a photo."""


@dataclass(frozen=True)
class PlainBackground(Regions):
    """The backdrop of photos."""

    coefficients: Float[Tensor, "view 6 3"]
    """Of each photo's, for `backdrop`."""

    def colors(self, photo: int, height: int, width: int) -> Float[Tensor, "_ _ 3"]:
        """The backdrop behind a photo, [height, width, 3]."""
        return backdrop(self.coefficients[photo], height, width)


def backdrop(
    coefficients: Float[Tensor, "6 3"], height: int, width: int
) -> Float[Tensor, "{height} {width} 3"]:
    """The colours of a backdrop in all pixels of a photo."""
    y = torch.linspace(-1 + 1 / height, 1 - 1 / height, height).to(coefficients)[:, None, None]
    x = torch.linspace(-1 + 1 / width, 1 - 1 / width, width).to(coefficients)[:, None]
    return _quadratic(coefficients, x, y)


def backdrop_at(
    coefficients: Float[Tensor, "*#ray 6 3"], place: Float[Tensor, "*ray 2"]
) -> Float[Tensor, "*ray 3"]:
    """The colours of a backdrop, or of one for each, at places in photos.

    Args:
        place: Across and down, from 0 to 1 along a photo's sides.
    """
    x, y = (2 * place - 1).split(1, dim=-1)
    return _quadratic(coefficients, x, y)


def _quadratic(coefficients: Tensor, x: Tensor, y: Tensor) -> Tensor:
    a, b, c, d, e, f = coefficients.unbind(-2)
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
        return _backdrop_of(small(image), counted(mask, *image.shape[:2]))

    with ThreadPoolExecutor(min(8, get_num_threads())) as pool:
        found = list(pool.map(found_in, images, masks))
    known = [one for one in found if one is not None and one.is_plain]
    if not known or len(known) < LEAST_PHOTOS * len(found):
        return None
    alike, total = torch.tensor([one.alike for one in known]).T
    if alike.sum() < LEAST_SHARE * total.sum() or not _is_one_color(known):
        return None
    found = [one if one is not None and one.is_plain else None for one in found]
    mean = torch.stack([one.terms for one in known]).mean(0)
    nothing = torch.zeros(1, 1, dtype=torch.bool)
    return PlainBackground(
        [nothing if one is None else one.is_shown for one in found],
        [nothing if one is None else one.may_be_shown for one in found],
        torch.stack([mean if one is None else one.terms for one in found]),
    )


def with_all_terms(coefficients: Float[Tensor, "*terms 3"]) -> Float[Tensor, "6 3"]:
    """Those of checkpoints; older ones hold the first, one colour, alone."""
    if coefficients.ndim > 1:
        return coefficients
    return torch.cat([coefficients[None], coefficients.new_zeros(NUM_TERMS - 1, 3)])


@dataclass(frozen=True)
class _Backdrop:
    """One photo's; see `PlainBackground`."""

    terms: Float[Tensor, "6 3"]
    is_shown: Bool[Tensor, "h w"]
    may_be_shown: Bool[Tensor, "h w"]
    alike: tuple[int, int]
    """How many pixels of the frame have its colour, of how many that count."""
    texture: float
    """See `MOST_TEXTURE`."""

    @property
    def is_plain(self) -> bool:
        """Whether it is a backdrop, and no part of a scene."""
        return self.alike[0] >= LEAST_SHARE_OF_ONE * self.alike[1] and self.texture <= MOST_TEXTURE


def _backdrop_of(colors: Float[Tensor, "h w 3"], counts: Bool[Tensor, "h w"]) -> _Backdrop | None:
    """What is most like one in a photo; None where nothing of its frame counts."""
    frame = counts & frame_of(*counts.shape)
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
    return _Backdrop(terms, region, grown(alike), share, _texture(colors, region, terms))


def _texture(
    colors: Float[Tensor, "h w 3"], region: Bool[Tensor, "h w"], terms: Float[Tensor, "6 3"]
) -> float:
    """How much a backdrop's brightness differs from its quadratic; 0 where it is too small."""
    rest = (colors - backdrop(terms, *region.shape)).mean(-1)
    # Only where a whole square lies inside.
    outside = max_pool2d((~region)[None].float(), SMOOTHED, 1, SMOOTHED // 2)[0] > 0
    smooth = avg_pool2d(rest[None], SMOOTHED, 1, SMOOTHED // 2, count_include_pad=False)[0]
    if outside.all():
        return 0.0
    brightness = colors.mean(-1)
    contrast = brightness.quantile(0.995) - brightness.quantile(0.005)
    deviation = smooth[~outside].square().mean().sqrt()
    return float(deviation / contrast.clamp_min(1e-6))


def _is_one_color(backdrops: Sequence[_Backdrop]) -> bool:
    """Whether backdrops differ in the exposure of the photos alone."""
    colors = torch.stack([backdrop(one.terms, 8, 8).mean((0, 1)) for one in backdrops])
    middle = colors.median(0).values
    gain = (colors @ middle / (middle @ middle).clamp_min(1e-6)).clamp(1 / MOST_GAIN, MOST_GAIN)
    return bool((colors - gain[:, None] * middle).abs().max() <= MOST_DIFFERENCE)


def _region(
    colors: Float[Tensor, "h w 3"],
    counts: Bool[Tensor, "h w"],
    frame: Bool[Tensor, "h w"],
    terms: Float[Tensor, "6 3"],
) -> Bool[Tensor, "h w"]:
    """What has a backdrop's colour and is connected with the frame by such pixels."""
    return connected(counts & _is_near(colors, terms, ALIKE), frame)


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
