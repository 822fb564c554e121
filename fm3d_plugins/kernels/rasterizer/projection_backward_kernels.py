"""Gradient of the projection: from splats back to gaussians, pose and intrinsics.

Each function is the transpose of a step of `projection_kernels.project_gaussian`, called in reverse
order. A gradient carries the name of its variable with the prefix `d_`.
"""

import math

import numpy as np

from fm3d_plugins.kernels.compiled import kernel
from fm3d_plugins.kernels.rasterizer.definitions import LOW_PASS_VARIANCE
from fm3d_plugins.kernels.rasterizer.projection_kernels import (
    BLOCK,
    NUM_FEATURES,
    SMALLEST_DETERMINANT_RATIO,
    camera_point,
    clamped_slope,
    compensation_ratio,
    direction_from,
    dot,
    image_root,
    load_quaternion,
    parameter_pointers,
    pose_of,
    rotation_rows,
    sh_coefficient,
    triple,
)
from fm3d_plugins.kernels.rasterizer.sh_kernels import evaluate_basis, pull_back_basis
from fm3d_plugins.kernels.simd import keep_alive, offset, pointer, take

NUM_CAMERA_SUMS = 19
"""Per block: 9 of the rotation (row by row), 3 translation, 3 camera centre, 4 pinhole."""


@kernel
def combine(a, x, b, y):
    """a x + b y of two 3-vectors."""
    return a * x[0] + b * y[0], a * x[1] + b * y[1], a * x[2] + b * y[2]


@kernel
def write_triple(data, start, values):
    """Write three neighbouring elements."""
    data[start], data[start + 1], data[start + 2] = values


@kernel
def pull_back_color(
    i, gaussians, d_gaussians, sh_counts, degree, direction, scratch, features, d_features, at
):
    """Write gaussian i's SH gradient; returns the gradient of the unit direction.

    Its colour and the gradient of that start at element `at` of features and d_features.
    """
    basis, d_basis = scratch
    red, green, blue = triple(d_features, at)
    value = triple(features, at)
    # no gradient where the colour is cut off at zero
    red = red if value[0] > 0.0 else 0.0
    green = green if value[1] > 0.0 else 0.0
    blue = blue if value[2] > 0.0 else 0.0
    evaluate_basis(degree, direction, basis)
    for k in range((degree + 1) * (degree + 1)):
        target = sh_coefficient(d_gaussians, sh_counts, i, k)
        write_triple(target, 0, (basis[k] * red, basis[k] * green, basis[k] * blue))
        d_basis[k] = dot((red, green, blue), sh_coefficient(gaussians, sh_counts, i, k))
    return pull_back_basis(degree, direction, d_basis)


@kernel
def pull_back_conic(xx, xy, yy, d_conic, opacity, d_opacity, antialiased):
    """Gradients of the covariance (xx, xy, yy) and of the opacity before compensation."""
    determinant = xx * yy - xy * xy
    a, b, c = yy / determinant, -xy / determinant, xx / determinant
    d_determinant = -(d_conic[0] * a + d_conic[1] * b + d_conic[2] * c) / determinant
    d_xx, d_yy = d_conic[2] / determinant, d_conic[0] / determinant
    d_xy = -d_conic[1] / determinant
    ratio = compensation_ratio(xx, xy, yy, antialiased)
    factor = math.sqrt(ratio)
    if antialiased and ratio > SMALLEST_DETERMINANT_RATIO:
        d_ratio = d_opacity * opacity * 0.5 / factor
        d_determinant -= d_ratio * ratio / determinant
        d_sharp = d_ratio / determinant
        d_xx += d_sharp * (yy - LOW_PASS_VARIANCE)
        d_yy += d_sharp * (xx - LOW_PASS_VARIANCE)
        d_xy -= d_sharp * 2.0 * xy
    d_xx += d_determinant * yy
    d_yy += d_determinant * xx
    d_xy -= d_determinant * 2.0 * xy
    return (d_xx, d_xy, d_yy), d_opacity * factor


@kernel
def pull_back_rotation(quaternion, length, d_r0, d_r1, d_r2):
    """Gradient of the quaternion before normalisation, from those of the rotation's rows."""
    w, x, y, z = quaternion
    d_w = 2.0 * (x * (d_r2[1] - d_r1[2]) + y * (d_r0[2] - d_r2[0]) + z * (d_r1[0] - d_r0[1]))
    d_x = 2.0 * (
        y * (d_r0[1] + d_r1[0])
        + z * (d_r0[2] + d_r2[0])
        + w * (d_r2[1] - d_r1[2])
        - 2.0 * x * (d_r1[1] + d_r2[2])
    )
    d_y = 2.0 * (
        x * (d_r0[1] + d_r1[0])
        + z * (d_r1[2] + d_r2[1])
        + w * (d_r0[2] - d_r2[0])
        - 2.0 * y * (d_r0[0] + d_r2[2])
    )
    d_z = 2.0 * (
        x * (d_r0[2] + d_r2[0])
        + y * (d_r1[2] + d_r2[1])
        + w * (d_r1[0] - d_r0[1])
        - 2.0 * z * (d_r0[0] + d_r1[1])
    )
    along = w * d_w + x * d_x + y * d_y + z * d_z
    inverse = 1.0 / length
    return (
        (d_w - along * w) * inverse,
        (d_x - along * x) * inverse,
        (d_y - along * y) * inverse,
        (d_z - along * z) * inverse,
    )


@kernel
def pull_back_axes(quaternion, length, scale, tx, ty, d_x, d_y):
    """Gradients of quaternion, scale and the rows of J W from those of the rows of J W R S.

    The rows of J W R S are tx . R_k s_k and ty . R_k s_k for the columns R_k of R.
    """
    r0, r1, r2 = rotation_rows(quaternion)
    # with respect to tx . R_k and ty . R_k
    e = (d_x[0] * scale[0], d_x[1] * scale[1], d_x[2] * scale[2])
    f = (d_y[0] * scale[0], d_y[1] * scale[1], d_y[2] * scale[2])
    d_quaternion = pull_back_rotation(
        quaternion,
        length,
        combine(tx[0], e, ty[0], f),
        combine(tx[1], e, ty[1], f),
        combine(tx[2], e, ty[2], f),
    )
    c0, c1, c2 = (r0[0], r1[0], r2[0]), (r0[1], r1[1], r2[1]), (r0[2], r1[2], r2[2])
    d_scale = (
        d_x[0] * dot(tx, c0) + d_y[0] * dot(ty, c0),
        d_x[1] * dot(tx, c1) + d_y[1] * dot(ty, c1),
        d_x[2] * dot(tx, c2) + d_y[2] * dot(ty, c2),
    )
    d_tx = (dot(r0, e), dot(r1, e), dot(r2, e))
    d_ty = (dot(r0, f), dot(r1, f), dot(r2, f))
    return d_quaternion, d_scale, d_tx, d_ty


@kernel
def pull_back_slope(numerator, z, focal, center, size, d_jw, w_axis, w_depth, d_mean):
    """One axis of J W and of the mean: gradients of the numerator, z, focal length.

    The row of J W is focal / z (w_axis - slope w_depth) with the clamped slope; the mean is
    focal numerator / z + center. Also returned: factors of d_jw in the gradients of the two rows.
    """
    inverse = 1.0 / z
    raw = numerator * inverse
    slope = clamped_slope(raw, focal, center, size)
    d_axis, d_depth = dot(d_jw, w_axis), dot(d_jw, w_depth)
    d_scale = d_axis - slope * d_depth
    d_slope = -focal * inverse * d_depth if slope == raw else 0.0
    d_numerator = (d_slope + d_mean * focal) * inverse
    d_z = -d_scale * focal * inverse * inverse - d_numerator * raw
    d_focal = d_scale * inverse + d_mean * raw
    return d_numerator, d_z, d_focal, focal * inverse, -slope * focal * inverse


@kernel
def pull_back_camera(point, rotation, pinhole, size, d_tx, d_ty, d_mean2d, d_depth):
    """Gradients of the camera point, the rows of W and the pinhole.

    From those of the rows of J W, the projected mean and the depth.
    """
    w0, w1, w2 = rotation
    d_px, d_zx, d_fx, x_axis, x_depth = pull_back_slope(
        point[0], point[2], pinhole[0], pinhole[2], size[0], d_tx, w0, w2, d_mean2d[0]
    )
    d_py, d_zy, d_fy, y_axis, y_depth = pull_back_slope(
        point[1], point[2], pinhole[1], pinhole[3], size[1], d_ty, w1, w2, d_mean2d[1]
    )
    d_rotation = (
        combine(x_axis, d_tx, 0.0, d_tx),
        combine(y_axis, d_ty, 0.0, d_ty),
        combine(x_depth, d_tx, y_depth, d_ty),
    )
    d_point = (d_px, d_py, d_zx + d_zy + d_depth)
    return d_point, d_rotation, (d_fx, d_fy, d_mean2d[0], d_mean2d[1])


@kernel
def add_camera_sums(sums, mean, d_point, d_w, d_direction, d_pinhole):
    """Add one gaussian's share to the gradients of pose, camera centre and pinhole."""
    for row in range(3):
        for column in range(3):
            sums[3 * row + column] += d_point[row] * mean[column] + d_w[row][column]
        sums[9 + row] += d_point[row]
        sums[12 + row] -= d_direction[row]
    for k in range(4):
        sums[15 + k] += d_pinhole[k]


@kernel
def pull_back_gaussian(
    i,
    gaussians,
    sh_counts,
    view,
    pinhole,
    image,
    settings,
    scratch,
    features,
    d_splats,
    d_gaussians,
    sums,
):
    """Write the gradients of visible gaussian i and add to the camera's sums."""
    means, quaternions, scales, opacities = gaussians[:4]
    d_means2d, d_features = d_splats
    d_means, d_quaternions, d_scales, d_opacities = d_gaussians[:4]
    pose, center = view
    degree, antialiased = settings
    mean, scale = triple(means, 3 * i), triple(scales, 3 * i)
    point = camera_point(pose, mean)
    quaternion, length = load_quaternion(quaternions, i)
    size = (image[0], image[1])
    row_x, row_y, tx, ty = image_root(point, pose[0], quaternion, scale, pinhole, size)

    at = NUM_FEATURES * i
    direction, distance = direction_from(center, mean)
    d_unit = pull_back_color(
        i,
        gaussians,
        d_gaussians,
        sh_counts,
        degree,
        direction,
        scratch,
        features,
        d_features,
        at + 4,
    )
    d_direction = combine(1.0 / distance, d_unit, -dot(direction, d_unit) / distance, direction)

    xx, xy = dot(row_x, row_x) + LOW_PASS_VARIANCE, dot(row_x, row_y)
    yy = dot(row_y, row_y) + LOW_PASS_VARIANCE
    d_opacity = np.float64(d_features[at + 3])
    d_covariance, d_opacities[i] = pull_back_conic(
        xx, xy, yy, triple(d_features, at), opacities[i], d_opacity, antialiased
    )
    d_row_x = combine(2.0 * d_covariance[0], row_x, d_covariance[1], row_y)
    d_row_y = combine(2.0 * d_covariance[2], row_y, d_covariance[1], row_x)
    d_quaternion, d_scale, d_tx, d_ty = pull_back_axes(
        quaternion, length, scale, tx, ty, d_row_x, d_row_y
    )
    d_quaternions[4 * i] = d_quaternion[0]
    write_triple(d_quaternions, 4 * i + 1, d_quaternion[1:])
    write_triple(d_scales, 3 * i, d_scale)

    d_mean2d = np.float64(d_means2d[2 * i]), np.float64(d_means2d[2 * i + 1])
    d_point, d_rotation, d_pinhole = pull_back_camera(
        point, pose[0], pinhole, size, d_tx, d_ty, d_mean2d, np.float64(d_features[at + 7])
    )
    add_camera_sums(sums, mean, d_point, d_rotation, d_direction, d_pinhole)
    turned = combine(d_point[0], pose[0][0], d_point[1], pose[0][1])
    turned = combine(1.0, turned, d_point[2], pose[0][2])
    write_triple(d_means, 3 * i, combine(1.0, turned, 1.0, d_direction))


@kernel
def clear(data, start, length):
    """Set neighbouring elements to zero."""
    for k in range(start, start + length):
        data[k] = 0.0


@kernel
def clear_coefficients(d_gaussians, i, sh_counts, first):
    """Set the gradients of gaussian i's SH coefficients from `first` on to zero."""
    count, skipped = sh_counts[0], min(first, sh_counts[0])
    clear(d_gaussians[4], 3 * (i * count + skipped), 3 * (count - skipped))
    count, skipped = sh_counts[1], first - skipped
    clear(d_gaussians[5], 3 * (i * count + skipped), 3 * (count - skipped))


@kernel
def clear_gaussian(d_gaussians, i, sh_counts):
    """Set the gradients of an invisible gaussian to zero."""
    d_means, d_quaternions, d_scales, d_opacities = d_gaussians[:4]
    clear(d_means, 3 * i, 3)
    clear(d_quaternions, 4 * i, 4)
    clear(d_scales, 3 * i, 3)
    d_opacities[i] = 0.0
    clear_coefficients(d_gaussians, i, sh_counts, 0)


@kernel
def project_backward(
    counter,
    num_blocks,
    gaussians,
    view,
    pinhole,
    image,
    settings,
    features,
    radii,
    d_splats,
    d_gaussians,
    camera_sums,
):
    """Gradients of `projection_kernels.project`; `camera_sums` gets one row per block."""
    num_gaussians = np.int64(len(radii))
    basis_array, d_basis_array = np.empty(16, np.float64), np.empty(16, np.float64)
    scratch = pointer(basis_array), pointer(d_basis_array)
    data, targets = parameter_pointers(gaussians), parameter_pointers(d_gaussians)
    upstream = pointer(d_splats[0]), pointer(d_splats[1])
    sh_counts = np.int64(gaussians[4].shape[1]), np.int64(gaussians[5].shape[1])
    num_active = (settings[0] + 1) * (settings[0] + 1)
    world_to_camera, center = view
    pose = pose_of(world_to_camera), (center[0], center[1], center[2])
    sums, feature_data = pointer(camera_sums), pointer(features)
    while True:
        block = take(counter)
        if block >= num_blocks:
            break
        block_sums = offset(sums, NUM_CAMERA_SUMS * block)
        clear(block_sums, 0, NUM_CAMERA_SUMS)
        for i in range(block * BLOCK, min(num_gaussians, (block + 1) * BLOCK)):
            if radii[i] == 0:
                clear_gaussian(targets, i, sh_counts)
                continue
            clear_coefficients(targets, i, sh_counts, num_active)
            pull_back_gaussian(
                i,
                data,
                sh_counts,
                pose,
                pinhole,
                image,
                settings,
                scratch,
                feature_data,
                upstream,
                targets,
                block_sums,
            )
    keep_alive(basis_array)
    keep_alive(d_basis_array)
