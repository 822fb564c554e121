"""The lens of each camera: as many numbers as the photos tell, and none that cannot be right.

Photos all around a thing, taken at one height, leave the ratio of the two focal lengths open: a
world that is stretched along the ring's axis looks the same through a lens that is. Where it is
free, an adjustment pays for every wrong match and every bend of the ring with it.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fm3d_plugins.backends.pycolmap.mapping import LensDeviations, lens_deviations, refine_model
from fm3d_plugins.backends.pycolmap.models import SparseModel
from fm3d_plugins.estimators.sfm.attempts import implausibility, odd_cameras

RICH_LENS_VIEWS = 8
"""Photos from which a camera may have more numbers than a focal length and k1."""

SIGNIFICANT = 4.0
"""Standard deviations from zero at which a number is believed not to be zero."""

LARGEST_DEVIATIONS = {"aspect": 0.005, "k2": 0.15, "p1": 0.002, "p2": 0.002}
"""Standard deviations up to which the photos tell a number. The aspect's is 0.0001 to 0.003 on
photos from many sides (banana, fox, sceaux), and 0.2 and more on rings around a thing."""

LARGEST_FOCAL_DEVIATION = 0.05
"""Of the logarithm: two photos tell their focal length if it is surer than that."""

SAID_FOCAL_DEVIATION = 0.01
"""Of the logarithm, from which on it is said."""

BENT = 0.03
"""How far k1 moves an image's corner, in units of its distance from the centre, from which a lens
without distortion is tried as well."""

AS_GOOD = 1.1
"""Mean reprojection error of a simpler lens, over that of one that explains no more."""


@dataclass(frozen=True)
class Step:
    """From one lens to the next richer one."""

    lens: str
    gains: tuple[str, ...]
    """The new numbers: the step is worth it if one of them is not zero."""
    holds_focal: bool = False
    """Whether focal lengths stay, which keeps both of OPENCV's equal."""


RATIO = "fy / fx"

ONE_FOCAL_LENGTH = {"PINHOLE": "SIMPLE_PINHOLE", "OPENCV": "RADIAL"}
"""Lenses with two, and what they are with one."""

STEPS = (
    Step("RADIAL", ("k2",)),
    Step("OPENCV", ("p1", "p2"), holds_focal=True),
    Step("OPENCV", ("aspect",)),
)
"""From SIMPLE_RADIAL upwards. Each has the numbers of those before, so the photos must tell these
as well."""


def first_lens(camera_model: str, num_photos: int) -> str:
    """The lens model with which a camera that took so many photos is first estimated.

    While photos join, a single one seldom tells its lens distortion: ten photos by ten people
    (sacre_coeur) are all joined without, and three to eight of them with. Nor does it ever have
    more numbers than a focal length and k1: among few photos they go anywhere.

    Args:
        camera_model: As asked for; or auto.
    """
    if camera_model in ("SIMPLE_PINHOLE", "PINHOLE"):
        return "SIMPLE_PINHOLE"
    asked = camera_model != "auto"
    return "SIMPLE_RADIAL" if asked or num_photos > 1 else "SIMPLE_PINHOLE"


def is_bent(model: SparseModel | None, image_sizes: Sequence[tuple[int, int]]) -> bool:
    """Whether some camera of a model has much radial distortion."""
    if model is None:
        return False
    sizes = np.array([image_sizes[row] for row in model.image_index], dtype=np.float64)
    corner = ((sizes / 2 / model.intrinsics[:, (0, 1), (0, 1)]) ** 2).sum(axis=1)
    return bool((np.abs(model.distortion[:, 0]) * corner >= BENT).any())


def explains_as_much(simpler: SparseModel | None, other: SparseModel | None) -> bool:
    """Whether a model with a simpler lens has as many photos, about as well explained."""
    if simpler is None or other is None or len(simpler) < len(other):
        return simpler is not None and other is None
    return simpler.mean_error <= AS_GOOD * other.mean_error


def refine_by_evidence(
    model: SparseModel,
    groups: Sequence[int],
    image_sizes: Sequence[tuple[int, int]],
    folder: Path,
) -> SparseModel:
    """The model adjusted once more, each camera with the lens that its photos tell.

    Args:
        model: One that a mapper returned.
        groups: The camera of every photo, by row.
        image_sizes: Width and height of every photo, pixels.
        folder: Where models are written.
    """
    views = Counter(groups[row] for row in model.image_index)
    lens = dict.fromkeys(views, "SIMPLE_RADIAL")
    best = refine_model(model, folder / "simple", lens)
    if implausibility(best, image_sizes) is not None:
        straight = refine_model(model, folder / "straight", dict.fromkeys(views, "SIMPLE_PINHOLE"))
        return straight if implausibility(straight, image_sizes) is None else model
    rich = [group for group, count in views.items() if count >= RICH_LENS_VIEWS]
    told: tuple[str, ...] = ()
    asked, deviations = None, {}
    for number, step in enumerate(STEPS):
        told += step.gains
        if rich and asked is not best:
            asked, deviations = best, lens_deviations(best, dict.fromkeys(rich, "OPENCV"))
        chosen = [group for group in rich if are_told(deviations[group], told)]
        # Twice, for cameras that gain nothing go back to the lens they had.
        for attempt in ("all", "significant"):
            if not chosen:
                break
            place = folder / f"{number}-{attempt}"
            lenses = dict.fromkeys(chosen, step.lens)
            richer = refine_model(best, place, lenses, holds_focal=step.holds_focal)
            kept = _worth_it(richer, step, deviations, chosen, groups, image_sizes)
            if kept == chosen:
                if implausibility(richer, image_sizes) is None:
                    best, lens = richer, lens | lenses
                break
            chosen = kept
    plain = [group for group in lens if lens[group] == "SIMPLE_RADIAL"]
    return _without_idle_k1(best, plain, groups, image_sizes, folder / "plain")


def _without_idle_k1(
    model: SparseModel,
    plain: Sequence[int],
    groups: Sequence[int],
    image_sizes: Sequence[tuple[int, int]],
    folder: Path,
) -> SparseModel:
    """The model with k1 left out of those SIMPLE_RADIAL cameras whose photos do not show it."""
    deviations = lens_deviations(model, dict.fromkeys(plain, "SIMPLE_RADIAL")) if plain else {}
    camera_of = np.array([groups[row] for row in model.image_index])
    k1 = {group: float(model.distortion[camera_of == group, 0][0]) for group in plain}
    idle = [
        group
        for group in plain
        if not abs(k1[group]) >= SIGNIFICANT * deviations[group].distortion["k1"]
    ]
    if not idle:
        return model
    simpler = refine_model(model, folder, dict.fromkeys(idle, "SIMPLE_PINHOLE"))
    return simpler if implausibility(simpler, image_sizes) is None else model


def are_told(deviations: LensDeviations, names: Sequence[str]) -> bool:
    """Whether photos tell some numbers of a lens."""
    return all(_deviation(deviations, name) <= LARGEST_DEVIATIONS[name] for name in names)


def _deviation(deviations: LensDeviations, name: str) -> float:
    return deviations.aspect if name == "aspect" else deviations.distortion[name]


def _worth_it(
    richer: SparseModel,
    step: Step,
    deviations: Mapping[int, LensDeviations],
    chosen: Sequence[int],
    groups: Sequence[int],
    image_sizes: Sequence[tuple[int, int]],
) -> list[int]:
    """Cameras that are believable with a richer lens, and whose new numbers are not zero."""
    odd = odd_cameras(richer, image_sizes)
    camera_of = np.array([groups[row] for row in richer.image_index])
    kept = []
    for group in chosen:
        view = int(np.flatnonzero(camera_of == group)[0])
        values = _values(richer, view)
        is_new = any(
            abs(values[name]) >= SIGNIFICANT * _deviation(deviations[group], name)
            for name in step.gains
        )
        if is_new and not odd[view]:
            kept.append(group)
    return kept


def _values(model: SparseModel, view: int) -> dict[str, float]:
    fx, fy = model.intrinsics[view, (0, 1), (0, 1)]
    _, k2, _, _, p1, p2 = model.distortion[view].tolist()
    return {"aspect": float(np.log(fy / fx)), "k2": k2, "p1": p1, "p2": p2}


def with_told_focal(
    model: SparseModel,
    groups: Sequence[int],
    image_sizes: Sequence[tuple[int, int]],
    folder: Path,
) -> SparseModel | None:
    """The model with focal lengths adjusted that were guessed; None where the photos tell none.

    Two photos tell it unless they look at one place from about the same distance (Bougnoux 1998):
    then a longer lens is a larger distance.

    Args:
        model: Joined with the focal lengths held.
        groups, image_sizes, folder: As of `refine_by_evidence`.
    """
    lenses = dict.fromkeys([groups[row] for row in model.image_index.tolist()], "SIMPLE_PINHOLE")

    def is_told(one: SparseModel) -> bool:
        found = lens_deviations(one, lenses).values()
        return all(deviations.focal <= LARGEST_FOCAL_DEVIATION for deviations in found)

    # Before, for where it is not told the adjustment takes it anywhere; after, for it has moved.
    if not is_told(model):
        return None
    adjusted = refine_model(model, folder, lenses)
    fault = implausibility(adjusted, image_sizes)
    return adjusted if fault is None and is_told(adjusted) else None


def unsure_focals(model: SparseModel, groups: Sequence[int]) -> dict[int, float]:
    """Cameras whose photos do not tell their focal length well, with its logarithm's deviation."""
    lenses = dict.fromkeys([groups[row] for row in model.image_index.tolist()], "SIMPLE_PINHOLE")
    found = {group: each.focal for group, each in lens_deviations(model, lenses).items()}
    return {group: each for group, each in found.items() if not each <= SAID_FOCAL_DEVIATION}


def untold(model: SparseModel, groups: Sequence[int], lens: str) -> list[str]:
    """Numbers of a lens that was asked for which the photos of some camera do not tell."""
    cameras = dict.fromkeys([groups[row] for row in model.image_index.tolist()], lens)
    missing: dict[str, None] = {}
    for deviations in lens_deviations(model, cameras).values():
        values = {"aspect": deviations.aspect, **deviations.distortion}
        for name, limit in LARGEST_DEVIATIONS.items():
            if name in values and not values[name] <= limit:
                missing[RATIO if name == "aspect" else name] = None
    return list(missing)


def refine_as_asked(
    model: SparseModel, groups: Sequence[int], folder: Path, lens: str
) -> tuple[SparseModel, list[str]]:
    """The model adjusted with a lens that was asked for.

    Two focal lengths whose ratio the photos do not tell stay equal.

    Returns:
        The model, and the numbers of the lens that the photos of some camera do not tell.
    """
    missing = untold(model, groups, lens)
    cameras = [groups[row] for row in model.image_index.tolist()]
    is_square = RATIO in missing
    if is_square:
        simple = dict.fromkeys(cameras, ONE_FOCAL_LENGTH[lens])
        model = refine_model(model, folder / "one_focal_length", simple)
    asked = dict.fromkeys(cameras, lens)
    return refine_model(model, folder / "asked", asked, holds_focal=is_square), missing
