"""Projection of gaussians to splats, forward, one gaussian at a time in double precision.

The definition is `torch_reference._project`. Names: a pinhole is the tuple (fx, fy, cx, cy); a
3-vector is a tuple; a view is the 3x4 matrix and the camera's centre; an image is (width, height,
near, far). `gaussians` is (means, quaternions, scales, opacities, SH coefficients, further SH
coefficients) and `splats` is (means2d, features), both as pointers inside the loops.
"""

import math

import numpy as np

from fm3d_plugins.kernels.compiled import kernel
from fm3d_plugins.kernels.rasterizer.definitions import (
    FRUSTUM_MARGIN,
    LOW_PASS_VARIANCE,
    MIN_ALPHA,
    RADIUS_SIGMAS,
)
from fm3d_plugins.kernels.rasterizer.sh_kernels import evaluate_basis
from fm3d_plugins.kernels.rasterizer.torch_reference import (
    SMALLEST_DETERMINANT_RATIO,
    SMALLEST_QUATERNION,
)
from fm3d_plugins.kernels.simd import keep_alive, offset, pointer, take

BLOCK = 256
"""Gaussians handed to a thread at once."""

NUM_FEATURES = 8
"""Per splat: conic xx, xy, yy; opacity; red, green, blue; depth."""

LARGEST_RADIUS = 2**30


@kernel
def dot(a, b):
    """Inner product."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@kernel
def triple(data, start):
    """Three neighbouring elements, as doubles."""
    return np.float64(data[start]), np.float64(data[start + 1]), np.float64(data[start + 2])


@kernel
def pose_of(world_to_camera):
    """Rows of the rotation, and the translation, of a 3x4 matrix."""
    m = world_to_camera
    return (
        ((m[0, 0], m[0, 1], m[0, 2]), (m[1, 0], m[1, 1], m[1, 2]), (m[2, 0], m[2, 1], m[2, 2])),
        (m[0, 3], m[1, 3], m[2, 3]),
    )


@kernel
def camera_point(pose, mean):
    """A mean in the camera's frame."""
    rotation, translation = pose
    return (
        dot(rotation[0], mean) + translation[0],
        dot(rotation[1], mean) + translation[1],
        dot(rotation[2], mean) + translation[2],
    )


@kernel
def rotation_rows(quaternion):
    """Rows of the rotation matrix of a unit quaternion (w, x, y, z)."""
    w, x, y, z = quaternion
    return (
        (1.0 - 2.0 * (y * y + z * z), 2.0 * (x * y - w * z), 2.0 * (x * z + w * y)),
        (2.0 * (x * y + w * z), 1.0 - 2.0 * (x * x + z * z), 2.0 * (y * z - w * x)),
        (2.0 * (x * z - w * y), 2.0 * (y * z + w * x), 1.0 - 2.0 * (x * x + y * y)),
    )


@kernel
def load_quaternion(quaternions, i):
    """The normalised quaternion and the length it had."""
    w = np.float64(quaternions[4 * i])
    x, y, z = triple(quaternions, 4 * i + 1)
    length = math.sqrt(w * w + x * x + y * y + z * z)
    inverse = 1.0 / max(length, SMALLEST_QUATERNION)
    return (w * inverse, x * inverse, y * inverse, z * inverse), length


@kernel
def clamped_slope(slope, focal, center, size):
    """A camera-plane coordinate x / z kept slightly outside the image, as for the Jacobian."""
    margin = FRUSTUM_MARGIN * 0.5 * size / focal
    return min(max(slope, -center / focal - margin), (size - center) / focal + margin)


@kernel
def image_root(point, rotation, quaternion, scale, pinhole, size):
    """Rows of J W R S, whose Gram matrix is the covariance in the image, and rows of J W."""
    inverse_z = 1.0 / point[2]
    u = clamped_slope(point[0] * inverse_z, pinhole[0], pinhole[2], size[0])
    v = clamped_slope(point[1] * inverse_z, pinhole[1], pinhole[3], size[1])
    jx, jy = pinhole[0] * inverse_z, pinhole[1] * inverse_z
    w0, w1, w2 = rotation
    tx = (jx * (w0[0] - u * w2[0]), jx * (w0[1] - u * w2[1]), jx * (w0[2] - u * w2[2]))
    ty = (jy * (w1[0] - v * w2[0]), jy * (w1[1] - v * w2[1]), jy * (w1[2] - v * w2[2]))
    r0, r1, r2 = rotation_rows(quaternion)
    c0, c1, c2 = (r0[0], r1[0], r2[0]), (r0[1], r1[1], r2[1]), (r0[2], r1[2], r2[2])
    row_x = (dot(tx, c0) * scale[0], dot(tx, c1) * scale[1], dot(tx, c2) * scale[2])
    row_y = (dot(ty, c0) * scale[0], dot(ty, c1) * scale[1], dot(ty, c2) * scale[2])
    return row_x, row_y, tx, ty


@kernel
def compensation_ratio(xx, xy, yy, antialiased):
    """Squared opacity factor of the low-pass filter; xx and yy include it."""
    if not antialiased:
        return 1.0
    sharp = (xx - LOW_PASS_VARIANCE) * (yy - LOW_PASS_VARIANCE) - xy * xy
    return max(sharp / (xx * yy - xy * xy), SMALLEST_DETERMINANT_RATIO)


@kernel
def direction_from(center, mean):
    """Unit vector from the camera's centre to a mean, and its length before."""
    x, y, z = mean[0] - center[0], mean[1] - center[1], mean[2] - center[2]
    length = math.sqrt(x * x + y * y + z * z)
    inverse = 1.0 / length
    return (x * inverse, y * inverse, z * inverse), length


@kernel
def visible_radius(mean2d, xx, yy, determinant, opacity, size):
    """Radius in pixels, or 0 if no pixel centre can see the splat (non-finite ones included)."""
    level = 2.0 * math.log(opacity / MIN_ALPHA) if opacity > MIN_ALPHA else -1.0
    if not (determinant > 0.0 and level >= 0.0):
        return 0
    half_x, half_y = math.sqrt(level * xx), math.sqrt(level * yy)
    u, v = mean2d
    on_x = u + half_x >= 0.5 and u - half_x <= size[0] - 0.5
    on_y = v + half_y >= 0.5 and v - half_y <= size[1] - 0.5
    if not (on_x and on_y and math.isfinite(half_x) and math.isfinite(half_y)):
        return 0
    half_trace = 0.5 * (xx + yy)
    longer = half_trace + math.sqrt(max(half_trace * half_trace - determinant, 0.01))
    return int(min(math.ceil(RADIUS_SIGMAS * math.sqrt(longer)), LARGEST_RADIUS))


@kernel
def sh_coefficient(gaussians, counts, i, k):
    """Where SH coefficient k of gaussian i is; `counts` says how many each part has."""
    if k < counts[0]:
        return offset(gaussians[4], 3 * (i * counts[0] + k))
    return offset(gaussians[5], 3 * (i * counts[1] + k - counts[0]))


@kernel
def write_colors(i, gaussians, sh_counts, degree, direction, basis, features, at):
    """Write max(SH + 1/2, 0) to elements `at`...; returns whether all are finite."""
    evaluate_basis(degree, direction, basis)
    red = green = blue = 0.5
    for k in range((degree + 1) * (degree + 1)):
        coefficient = sh_coefficient(gaussians, sh_counts, i, k)
        red += basis[k] * coefficient[0]
        green += basis[k] * coefficient[1]
        blue += basis[k] * coefficient[2]
    features[at], features[at + 1], features[at + 2] = (
        max(red, 0.0),
        max(green, 0.0),
        max(blue, 0.0),
    )
    return math.isfinite(red + green + blue)


@kernel
def project_gaussian(i, gaussians, sh_counts, view, pinhole, image, settings, basis, splats):
    """Write splat i; returns its radius, 0 if it is invisible."""
    means, quaternions, scales, opacities = gaussians[:4]
    means2d, features = splats
    pose, center = view
    width, height, near, far = image
    degree, antialiased = settings
    mean = triple(means, 3 * i)
    point = camera_point(pose, mean)
    quaternion, length = load_quaternion(quaternions, i)
    if not (near <= point[2] <= far and length > SMALLEST_QUATERNION):
        return 0
    size = (width, height)
    row_x, row_y, _, _ = image_root(
        point, pose[0], quaternion, triple(scales, 3 * i), pinhole, size
    )
    xx, xy = dot(row_x, row_x) + LOW_PASS_VARIANCE, dot(row_x, row_y)
    yy = dot(row_y, row_y) + LOW_PASS_VARIANCE
    determinant = xx * yy - xy * xy
    opacity = opacities[i] * math.sqrt(compensation_ratio(xx, xy, yy, antialiased))
    inverse_z = 1.0 / point[2]
    u = pinhole[0] * point[0] * inverse_z + pinhole[2]
    v = pinhole[1] * point[1] * inverse_z + pinhole[3]
    radius = visible_radius((u, v), xx, yy, determinant, opacity, size)
    if radius == 0:
        return 0
    direction, _ = direction_from(center, mean)
    at = NUM_FEATURES * i
    if not write_colors(i, gaussians, sh_counts, degree, direction, basis, features, at + 4):
        return 0
    means2d[2 * i], means2d[2 * i + 1] = u, v
    inverse = 1.0 / determinant
    features[at], features[at + 1], features[at + 2] = yy * inverse, -xy * inverse, xx * inverse
    features[at + 3], features[at + 7] = opacity, point[2]
    return radius


@kernel
def parameter_pointers(gaussians):
    """Pointers to the six parameter arrays."""
    means, quaternions, scales, opacities, sh_first, sh_rest = gaussians
    return (
        pointer(means),
        pointer(quaternions),
        pointer(scales),
        pointer(opacities),
        pointer(sh_first),
        pointer(sh_rest),
    )


@kernel
def project(counter, num_blocks, gaussians, view, pinhole, image, settings, splats, radii):
    """Project all gaussians; invisible ones become zeros. Settings: (degree, antialiased)."""
    num_gaussians = np.int64(len(radii))
    basis_array = np.empty(16, np.float64)
    basis = pointer(basis_array)
    data = parameter_pointers(gaussians)
    targets = pointer(splats[0]), pointer(splats[1])
    sh_counts = np.int64(gaussians[4].shape[1]), np.int64(gaussians[5].shape[1])
    world_to_camera, center = view
    pose = pose_of(world_to_camera), (center[0], center[1], center[2])
    while True:
        block = take(counter)
        if block >= num_blocks:
            break
        for i in range(block * BLOCK, min(num_gaussians, (block + 1) * BLOCK)):
            radius = project_gaussian(
                i, data, sh_counts, pose, pinhole, image, settings, basis, targets
            )
            radii[i] = radius
            if radius == 0:
                targets[0][2 * i] = targets[0][2 * i + 1] = 0.0
                for k in range(NUM_FEATURES):
                    targets[1][NUM_FEATURES * i + k] = 0.0
    keep_alive(basis_array)
