"""Pinhole cameras with lens distortion, and the one conversion between OpenCV and OpenGL axes.

Camera frame: OpenCV (x right, y down, z forward). Pixels: (0, 0) is the corner of the first
pixel, so the centre of pixel (i, j) is (j + 0.5, i + 0.5). Intrinsics are in pixels.
"""

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

UNDISTORT_ITERATIONS = 20
"""Newton steps of `undistort`; it doubles the digits per step, so strong lenses need about ten."""


def intrinsics_matrix(
    fx: Float[Tensor, "*batch"],
    fy: Float[Tensor, "*batch"],
    cx: Float[Tensor, "*batch"],
    cy: Float[Tensor, "*batch"],
) -> Float[Tensor, "*batch 3 3"]:
    """Calibration matrix [[fx, 0, cx], [0, fy, cy], [0, 0, 1]] in pixels, without skew."""
    zero, one = torch.zeros_like(fx), torch.ones_like(fx)
    rows = [fx, zero, cx, zero, fy, cy, zero, zero, one]
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))


def project(
    points_camera: Float[Tensor, "*batch point 3"],
    intrinsics: Float[Tensor, "*batch 3 3"],
) -> Float[Tensor, "*batch point 2"]:
    """Pixels onto which an undistorted camera maps points.

    Args:
        points_camera: OpenCV camera frame. A point behind the camera gives the pixel of its
            mirror image, a point with z = 0 gives inf or nan: test z before use.
        intrinsics: In pixels; skew is respected.
    """
    homogeneous = points_camera @ intrinsics.transpose(-1, -2)
    return homogeneous[..., :2] / homogeneous[..., 2:]


def is_in_picture(
    points_camera: Float[Tensor, "*batch point 3"],
    intrinsics: Float[Tensor, "*batch 3 3"],
    height: int,
    width: int,
) -> Bool[Tensor, "*batch point"]:
    """Whether points are in front of an undistorted OpenCV camera and in its picture; pixels."""
    x, y = project(points_camera, intrinsics).unbind(-1)
    in_picture = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    return in_picture & (points_camera[..., 2] > 0)


def unproject(
    pixels: Float[Tensor, "*batch point 2"],
    depth: Float[Tensor, "*batch point"],
    intrinsics: Float[Tensor, "*batch 3 3"],
    distortion: Float[Tensor, "*batch 6"] | None = None,
) -> Float[Tensor, "*batch point 3"]:
    """Points in the OpenCV camera frame that are seen at pixels.

    Args:
        depth: The points' z coordinate (not their distance), scene units.
        intrinsics: In pixels; skew is respected.
        distortion: Of the lens, see `distort`; none or zeros is a pinhole.
    """
    return _homogeneous(straight(pixels, intrinsics, distortion)) * depth.unsqueeze(-1)


def straight(
    pixels: Float[Tensor, "*batch point 2"],
    intrinsics: Float[Tensor, "*batch 3 3"],
    distortion: Float[Tensor, "*batch 6"] | None = None,
) -> Float[Tensor, "*batch point 2"]:
    """Coordinates (x / z, y / z) of pixels on the image plane at z = 1, without the lens.

    Arguments as of `unproject`.
    """
    normalized = normalize(pixels, intrinsics)
    if distortion is None or not bool(distortion.any()):
        return normalized
    return undistort(normalized, distortion)


def normalize(
    pixels: Float[Tensor, "*batch point 2"],
    intrinsics: Float[Tensor, "*batch 3 3"],
) -> Float[Tensor, "*batch point 2"]:
    """Coordinates (x / z, y / z) on the image plane at z = 1; lens distortion is not removed."""
    x_focal, y_focal = intrinsics[..., None, 0, 0], intrinsics[..., None, 1, 1]
    y = (pixels[..., 1] - intrinsics[..., None, 1, 2]) / y_focal
    skew = intrinsics[..., None, 0, 1]
    x = (pixels[..., 0] - intrinsics[..., None, 0, 2] - skew * y) / x_focal
    return torch.stack([x, y], dim=-1)


def denormalize(
    normalized: Float[Tensor, "*batch point 2"],
    intrinsics: Float[Tensor, "*batch 3 3"],
) -> Float[Tensor, "*batch point 2"]:
    """Pixels of coordinates on the image plane at z = 1, inverse of `normalize`."""
    return project(_homogeneous(normalized), intrinsics)


def resize_intrinsics(
    intrinsics: Float[Tensor, "*batch 3 3"], scale: Float[Tensor, "*#batch 2"]
) -> Float[Tensor, "*batch 3 3"]:
    """Intrinsics after the image is resized by new size / old size, along x and y.

    Exact because pixel (0, 0) is the image's corner, which a resize keeps in place.
    """
    return _homogeneous(scale).unsqueeze(-1) * intrinsics


def resize_confidence(
    confidence: Float[Tensor, " view"], scale: Float[Tensor, " view"] | float
) -> Float[Tensor, " view"]:
    """1 / (1 + (scale s)²) of 1 / (1 + s²), where s are pixels of images that are resized.

    Args:
        confidence: In (0, 1].
        scale: New size over old size.
    """
    return confidence / (confidence + (1 - confidence) * scale**2)


def crop_intrinsics(
    intrinsics: Float[Tensor, "*batch 3 3"], corner: Float[Tensor, "*#batch 2"]
) -> Float[Tensor, "*batch 3 3"]:
    """Intrinsics after columns and rows before the new corner are cut off; negative ones pad."""
    cut = torch.nn.functional.pad(corner, (0, 1)).unsqueeze(-1) * intrinsics[..., 2:, :]
    return intrinsics - cut


def opengl_from_opencv(
    world_from_camera: Float[Tensor, "*batch rows 4"],
) -> Float[Tensor, "*batch rows 4"]:
    """Turn OpenCV camera axes (y down, z forward) into nerfstudio's OpenGL axes (y up, z back).

    Args:
        world_from_camera: Camera poses as 4x4 or 3x4 matrices. The world frame stays as it is:
            only the camera's own y and z axes flip, which are columns 1 and 2.
    """
    return world_from_camera * world_from_camera.new_tensor([1.0, -1.0, -1.0, 1.0])


def equal_cameras(*numbers: Shaped[Tensor, " view *_"]) -> Int[Tensor, " view"]:
    """The number of each view's camera: views that are equal in all of these numbers share one."""
    rows = torch.cat([part.reshape(len(part), -1).double().cpu() for part in numbers], dim=1)
    return rows.unique(dim=0, return_inverse=True)[1]


def opencv_from_opengl(
    world_from_camera: Float[Tensor, "*batch rows 4"],
) -> Float[Tensor, "*batch rows 4"]:
    """Turn nerfstudio's OpenGL camera axes into OpenCV axes, inverse of `opengl_from_opencv`."""
    return opengl_from_opencv(world_from_camera)


def distort(
    normalized: Float[Tensor, "*batch point 2"],
    distortion: Float[Tensor, "*batch 6"],
) -> Float[Tensor, "*batch point 2"]:
    """Image-plane coordinates after the lens: radial polynomial and decentring (Brown 1966).

    With r² = x² + y²: (x, y) (1 + k1 r² + k2 r⁴ + k3 r⁶ + k4 r⁸)
    + (2 p1 x y + p2 (r² + 2 x²), 2 p2 x y + p1 (r² + 2 y²)).

    Args:
        normalized: Coordinates at z = 1.
        distortion: k1, k2, k3, k4, p1, p2 in nerfstudio's order. OpenCV's and COLMAP's OPENCV
            model is the case k3 = k4 = 0.
    """
    return _distortion_and_jacobian(normalized, distortion)[0]


def undistort(
    distorted: Float[Tensor, "*batch point 2"],
    distortion: Float[Tensor, "*batch 6"],
) -> Float[Tensor, "*batch point 2"]:
    """Image-plane coordinates before the lens, the inverse of `distort` by Newton's method.

    Differentiable. Where the polynomial folds back (far outside a real lens's image) no inverse
    exists and the result means nothing: `distort(undistort(x))` then differs from x.
    """
    undistorted = distorted
    for _ in range(UNDISTORT_ITERATIONS):
        value, jacobian = _distortion_and_jacobian(undistorted, distortion)
        (a, b), (c, d) = (row.unbind(-1) for row in jacobian.unbind(-2))
        x_error, y_error = (value - distorted).unbind(-1)
        determinant = a * d - b * c
        step = torch.stack([d * x_error - b * y_error, a * y_error - c * x_error], dim=-1)
        undistorted = undistorted - step / determinant.unsqueeze(-1)
    return undistorted


def _distortion_and_jacobian(
    normalized: Float[Tensor, "*batch point 2"],
    distortion: Float[Tensor, "*batch 6"],
) -> tuple[Float[Tensor, "*batch point 2"], Float[Tensor, "*batch point 2 2"]]:
    """`distort`'s value and its derivative d(distorted) / d(normalized)."""
    k1, k2, k3, k4, p1, p2 = distortion.unsqueeze(-2).unbind(-1)
    x, y = normalized.unbind(-1)
    r2 = x * x + y * y
    radial = 1 + r2 * (k1 + r2 * (k2 + r2 * (k3 + r2 * k4)))
    radial_slope = k1 + r2 * (2 * k2 + r2 * (3 * k3 + r2 * (4 * k4)))
    value = torch.stack(
        [
            x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
            y * radial + 2 * p2 * x * y + p1 * (r2 + 2 * y * y),
        ],
        dim=-1,
    )
    # The model is the gradient of a potential, so the mixed derivatives are equal.
    mixed = 2 * x * y * radial_slope + 2 * p1 * x + 2 * p2 * y
    jacobian = torch.stack(
        [
            radial + 2 * x * x * radial_slope + 2 * p1 * y + 6 * p2 * x,
            mixed,
            mixed,
            radial + 2 * y * y * radial_slope + 2 * p2 * x + 6 * p1 * y,
        ],
        dim=-1,
    )
    return value, jacobian.unflatten(-1, (2, 2))


def _homogeneous(normalized: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch 3"]:
    """(x, y) -> (x, y, 1)."""
    return torch.nn.functional.pad(normalized, (0, 1), value=1.0)


def camera_distances(
    first: Float[Tensor, "one 4 4"], others: Float[Tensor, "other 4 4"]
) -> Float[Tensor, "one other"]:
    """How differently cameras look: the distance of their positions, in units of the mean distance
    of the others' from their centre, plus the angle between their directions, in radians.
    """
    centers = others[:, :3, 3]
    spread = (centers - centers.mean(0)).norm(dim=-1).mean().clamp_min(1e-9)
    apart = torch.cdist(first[:, :3, 3], centers) / spread
    cosine = first[:, :3, 2] @ others[:, :3, 2].T
    return apart + cosine.clamp(-1, 1).arccos()
