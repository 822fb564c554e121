"""What every scene file asks of a scene before writing, and of the photos after reading."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from fm3d_plugins.errors import listed
from fm3d_plugins.files import is_file
from fm3d_plugins.geometry.cameras import equal_cameras
from fm3d_plugins.geometry.poses import nearest_rotation
from fm3d_plugins.photos.fitting import fitted_photos
from fm3d_plugins.scene import SceneGeometry

MAX_ROTATION_ERROR = 1e-2
"""Largest entry of R - nearest rotation that still counts as rounding in a file."""

MOST_ROUNDING = 2e-4
"""Share of the cameras' extent by which rounding may move one: 0.1 pixels of a photo 500 long."""

ONE_PLACE = 1e-12
"""Extent of cameras, over their distance to the origin, that rounding of 64-bit numbers makes."""


Options = ParamSpec("Options")
Found = TypeVar("Found")


def naming_its_path(
    read: Callable[Concatenate[Path, Options], Found],
) -> Callable[Concatenate[str | Path, Options], Found]:
    """Let a reader's errors name what was read also where `SceneGeometry` or a library raises them.

    The path may be a text.

    Raises:
        ValueError: For whatever is wrong with a file, but OSError for what the system says.
    """

    @wraps(read)
    def named(path: str | Path, *args: Options.args, **kwargs: Options.kwargs) -> Found:
        try:
            return read(Path(path), *args, **kwargs)
        except OSError:
            raise
        except Exception as error:
            if isinstance(error, ValueError) and str(path) in str(error):
                raise
            kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
            raise ValueError(f"{path}: {kind}{error}") from error

    return named


def require_exportable(scene: SceneGeometry, path: Path, allow_latent: bool) -> None:
    """Raise ValueError where a file for other programs cannot hold this scene's cameras."""
    if scene.scale == "latent" and not allow_latent:
        raise ValueError(
            f"The scene for {path} lies in a latent space, which only the network that made it "
            "understands; expected 'metric' or 'relative' geometry. Other programs would take it "
            "for real geometry: allow latent scenes explicitly if that is what you want."
        )
    rotations = scene.world_from_camera[:, :3, :3].double()
    errors = (rotations - nearest_rotation(rotations)).abs().flatten(1).amax(1)
    for wrong, what, expected in (
        (errors > MAX_ROTATION_ERROR, "a pose without a proper rotation", "rigid transforms"),
        (scene.intrinsics[:, 0, 1] != 0, "intrinsics with skew", "none: the file has no place"),
        (_differs_within_camera(scene), "a shared camera_index but another camera", "equal ones"),
    ):
        if bool(wrong.any()):
            names = [name for name, is_wrong in zip(scene.names, wrong, strict=True) if is_wrong]
            raise ValueError(
                f"The scene for {path} has {what} in {len(names)} of {len(scene)} views "
                f"({listed(names)}); expected {expected}. Correct or drop these views."
            )


def _differs_within_camera(scene: SceneGeometry) -> Bool[Tensor, " view"]:
    """Which views differ from the first view of their camera in what they ought to share."""
    camera = equal_cameras(scene.camera_index)
    views = torch.arange(len(scene))
    first = torch.full_like(views, len(scene)).scatter_reduce(0, camera, views, "amin")[camera]
    alike = equal_cameras(scene.intrinsics, scene.distortion, scene.image_sizes)
    return alike != alike[first]


def require_photos(
    paths: Mapping[str, Path], sizes: Iterable[tuple[int, int]], source: Path
) -> None:
    """Check that the photos exist and have the size that their cameras were made for.

    Only headers are read, no pixels; see `photos.fitting`.

    Args:
        paths: File of each view, in the order of `sizes`.
        sizes: Width and height in pixels.
        source: The file that lists them, for the messages.

    Raises:
        FileNotFoundError: Photos are absent; all are listed.
        ValueError: Photos have another size, or are no images; all are listed.
    """
    missing = [name for name, path in paths.items() if not is_file(path)]
    if missing:
        folder = paths[missing[0]].parent
        raise FileNotFoundError(
            f"{source} lists {len(paths)} photos but {len(missing)} files are absent under "
            f"{folder}: {', '.join(missing)}. Restore them, correct the folder, or drop those "
            "frames from the file."
        )
    _, faults = fitted_photos(list(paths.values()), list(sizes))
    if faults:
        raise ValueError(misfits(source, faults, list(paths)))


def require_fine_positions(path: Path, centres: Float64[Tensor, "view 3"]) -> None:
    """Refuse cameras so far from the origin that nerfstudio's parsers, which read positions as
    32-bit numbers before they centre them, would move them.

    Args:
        centres: Of the cameras, in the frame of the file.

    Raises:
        ValueError: They would be moved by more than `MOST_ROUNDING` of their extent.
    """
    middle = centres.mean(0)
    extent = float((centres - middle).norm(dim=-1).max())
    rounding = float((centres.float().double() - centres).norm(dim=-1).max())
    is_in_one_place = extent <= ONE_PLACE * float(centres.abs().max())
    if rounding > MOST_ROUNDING * extent and not is_in_one_place:
        place = ", ".join(f"{value:.0f}" for value in middle.tolist())
        raise ValueError(
            f"The cameras of {path} lie about ({place}), within {extent:.3g} units of each other: "
            f"nerfstudio's 32-bit numbers would move them by up to {rounding:.2g}. Expected "
            "cameras near the origin. Subtract that place from all positions, of points as well, "
            f"or let the dataparser `given` do so: --data PHOTOS given --poses {path}."
        )


def misfits(source: Path | str, faults: Mapping[int, str], names: Sequence[str]) -> str:
    """The message about photos that do not fit their cameras; all are listed.

    Args:
        source: What lists the photos.
        faults: By the row of the photo.
    """
    said = "; ".join(f"{names[row]} {fault}" for row, fault in faults.items())
    return (
        f"{source} does not fit {len(faults)} of {len(names)} photos: {said}. "
        "Expected photos at the size of their cameras. Use the photos that the cameras were "
        "made from, or scale the cameras."
    )
