"""Kinds of lenses by the names that files give them, and what becomes of each: the one table.

`docs/lenses.md` shows it to users. COLMAP's models: https://colmap.github.io/cameras.html.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Lens:
    """A formula from rays to pixels, and who can work with it."""

    name: str
    """For messages."""
    camera_type: str
    """Name in nerfstudio's enumeration `CameraType`."""
    transforms_models: tuple[str, ...]
    """Values of `camera_model` in transforms.json, at the top or in frames."""
    colmap_models: tuple[str, ...] = ()
    """COLMAP's models that nerfstudio's COLMAP parser reads as this lens."""
    num_coefficients: int = 6
    """Numbers in `distortion_params` of transforms.json."""
    in_scenes: bool = False
    """`SceneGeometry` holds it: estimators find it, `fm3d` commands read and write it."""
    to_pinhole: bool = False
    """Its photos can be made those of pinholes, which 3dgs, vggt, dust3r, lvsm and rayzer see."""
    has_rays: bool = False
    """Its rays meet in a point: nerf and nerf-vanilla train on the photos as they are."""


PERSPECTIVE = Lens(
    name="perspective",
    camera_type="PERSPECTIVE",
    transforms_models=("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL"),
    colmap_models=("SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV"),
    in_scenes=True,
    to_pinhole=True,
    has_rays=True,
)
"""Radial polynomial k1 to k4 and decentring p1, p2 on the image plane, or no distortion."""

FISHEYE = Lens(
    name="fisheye",
    camera_type="FISHEYE",
    transforms_models=("OPENCV_FISHEYE",),
    colmap_models=("OPENCV_FISHEYE", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE"),
    to_pinhole=True,
    has_rays=True,
)
"""Distance from the middle by the angle to the axis: θ (1 + k1 θ² + k2 θ⁴ + k3 θ⁶ + k4 θ⁸)."""

LENSES = (
    PERSPECTIVE,
    FISHEYE,
    Lens(
        name="fisheye of Project Aria",
        camera_type="FISHEYE624",
        transforms_models=("FISHEYE624",),
        num_coefficients=12,
        has_rays=True,
    ),
    Lens(
        name="panorama",
        camera_type="EQUIRECTANGULAR",
        transforms_models=("EQUIRECTANGULAR",),
        has_rays=True,
    ),
    Lens("stereo panorama", "OMNIDIRECTIONALSTEREO_L", ("OMNIDIRECTIONALSTEREO_L",)),
    Lens("stereo panorama", "OMNIDIRECTIONALSTEREO_R", ("OMNIDIRECTIONALSTEREO_R",)),
    Lens("stereo half panorama", "VR180_L", ("VR180_L",)),
    Lens("stereo half panorama", "VR180_R", ("VR180_R",)),
    Lens("orthographic", "ORTHOPHOTO", ("ORTHOPHOTO",)),
)
"""All that nerfstudio knows. What is not here is refused by every reader."""

WIDEST_HALF_ANGLE = 1.2
"""Radians (69 degrees): as far from the axis as a fisheye photo's pinhole sees. Beyond, a pinhole
photo would be stretched edges and little else."""


def lens_of(camera_model: object) -> Lens | None:
    """The lens that a `camera_model` of transforms.json means; none for an unknown word."""
    return next((lens for lens in LENSES if camera_model in lens.transforms_models), None)


def lens_of_type(camera_type: str) -> Lens | None:
    """The lens by the name of nerfstudio's `CameraType`."""
    return next((lens for lens in LENSES if lens.camera_type == camera_type), None)


def models_where(lenses: Sequence[Lens], field: str = "transforms_models") -> str:
    """Names of the models of some lenses, for messages."""
    return ", ".join(model for lens in lenses for model in getattr(lens, field))


def fisheye_distort(
    normalized: Float[Tensor, "*batch 2"], coefficients: Float[Tensor, "*#batch 4"]
) -> Float[Tensor, "*batch 2"]:
    """Image-plane coordinates behind a fisheye lens (Kannala and Brandt 2006, as in OpenCV).

    Args:
        normalized: (x / z, y / z) of points in front of the camera.
        coefficients: k1 to k4; all 0 for an equidistant lens.

    Returns:
        Coordinates that the focal lengths and the principal point take to pixels.
    """
    radius = normalized.norm(dim=-1, keepdim=True)
    distorted = fisheye_radius(torch.atan(radius), coefficients)
    # Towards the axis the ratio goes to 1.
    ratio = torch.where(radius > 0, distorted / radius.clamp_min(1e-12), 1.0)
    return normalized * ratio


def fisheye_radius(
    angle: Float[Tensor, "*batch 1"], coefficients: Float[Tensor, "*#batch 4"]
) -> Float[Tensor, "*batch 1"]:
    """Distance from the middle, over the focal length, of rays at an angle to the axis."""
    square = angle * angle
    k1, k2, k3, k4 = (coefficients[..., i : i + 1] for i in range(4))
    return angle * (1 + square * (k1 + square * (k2 + square * (k3 + square * k4))))


def fisheye_angle(
    radius: Float[Tensor, " *batch"], coefficients: Float[Tensor, "4"]
) -> Float[Tensor, " *batch"]:
    """Angle to the axis, at most `WIDEST_HALF_ANGLE`, of what a fisheye photo shows at a distance
    from its middle (over the focal length); to 1e-4 radians."""
    angles = torch.linspace(0, WIDEST_HALF_ANGLE, 12001, dtype=radius.dtype)
    # Where a polynomial folds back, the ring before the fold counts.
    reached = fisheye_radius(angles[:, None], coefficients)[:, 0].cummax(0).values
    index = torch.searchsorted(reached, radius.contiguous()).clamp_max(len(angles) - 1)
    return angles[index]
