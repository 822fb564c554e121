"""The loops over observations and over pairs of observations of one point."""

import numpy as np

from fm3d_plugins.kernels.bundle_adjustment.blocks import take_product
from fm3d_plugins.kernels.bundle_adjustment.layout import BEHIND, LENS, POSE
from fm3d_plugins.kernels.compiled import inlined_kernel, kernel
from fm3d_plugins.kernels.simd import offset, pointer

take_poses, take_lenses = take_product(POSE, POSE), take_product(LENS, LENS)
take_lens_and_pose = take_product(LENS, POSE)

NEAREST = 1e-9
"""Depth below which a point is not before a camera, scene units."""


@inlined_kernel
def in_camera(rotation, center, point):
    """A point in a camera's frame."""
    x, y, z = point[0] - center[0], point[1] - center[1], point[2] - center[2]
    return (
        rotation[0, 0] * x + rotation[0, 1] * y + rotation[0, 2] * z,
        rotation[1, 0] * x + rotation[1, 1] * y + rotation[1, 2] * z,
        rotation[2, 0] * x + rotation[2, 1] * y + rotation[2, 2] * z,
    )


@inlined_kernel
def through_lens(u, v, lens):
    """Image-plane coordinates after the lens, their symmetric derivative, and that by k1."""
    k1, k2, k3, k4, p1, p2 = lens[0], lens[1], lens[2], lens[3], lens[4], lens[5]
    r2 = u * u + v * v
    radial = 1.0 + r2 * (k1 + r2 * (k2 + r2 * (k3 + r2 * k4)))
    slope = k1 + r2 * (2.0 * k2 + r2 * (3.0 * k3 + r2 * 4.0 * k4))
    x = u * radial + 2.0 * p1 * u * v + p2 * (r2 + 2.0 * u * u)
    y = v * radial + 2.0 * p2 * u * v + p1 * (r2 + 2.0 * v * v)
    mixed = 2.0 * u * v * slope + 2.0 * p1 * u + 2.0 * p2 * v
    x_by_u = radial + 2.0 * u * u * slope + 2.0 * p1 * v + 6.0 * p2 * u
    y_by_v = radial + 2.0 * v * v * slope + 2.0 * p2 * u + 6.0 * p1 * v
    return x, y, x_by_u, mixed, y_by_v, u * r2, v * r2


@kernel
def errors_of(rotations, centers, group, focal, middle, lenses, points, view, point, pixel, errors):
    """Projected minus seen pixels."""
    for o in range(len(view)):
        i = view[o]
        x, y, z = in_camera(rotations[i], centers[i], points[point[o]])
        if z < NEAREST:
            errors[o, 0] = errors[o, 1] = BEHIND
            continue
        g = group[i]
        bent = through_lens(x / z, y / z, lenses[g])
        errors[o, 0] = focal[g, 0] * bent[0] + middle[g, 0] - pixel[o, 0]
        errors[o, 1] = focal[g, 1] * bent[1] + middle[g, 1] - pixel[o, 1]


@kernel
def derivatives_of(
    rotations, centers, group, focal, middle, lenses, points, view, point, pixel,
    by_camera, by_point,
):  # fmt: skip
    """Derivatives of the errors."""
    for o in range(len(view)):
        i = view[o]
        rotation, g = rotations[i], group[i]
        x, y, z = in_camera(rotation, centers[i], points[point[o]])
        by_camera[o] = 0.0
        by_point[o] = 0.0
        if z < NEAREST:
            continue
        u, v = x / z, y / z
        bent_x, bent_y, x_by_u, mixed, y_by_v, x_by_k, y_by_k = through_lens(u, v, lenses[g])
        for axis in range(2):
            f = focal[g, axis]
            a, b = (x_by_u, mixed) if axis == 0 else (mixed, y_by_v)
            # By the point in the camera's frame.
            dx, dy = f * a / z, f * b / z
            dz = -(dx * u + dy * v)
            # Turned by w it moves by w x p.
            by_camera[o, axis, 0] = dz * y - dy * z
            by_camera[o, axis, 1] = dx * z - dz * x
            by_camera[o, axis, 2] = dy * x - dx * y
            for k in range(3):
                along = dx * rotation[0, k] + dy * rotation[1, k] + dz * rotation[2, k]
                by_point[o, axis, k] = along
                by_camera[o, axis, 3 + k] = -along
            by_camera[o, axis, 6] = f * (bent_x if axis == 0 else bent_y)
            by_camera[o, axis, 7] = f * (x_by_k if axis == 0 else y_by_k)


@inlined_kernel
def invert_symmetric(a, b, c, d, e, f, out):
    """Inverse of [[a, b, c], [b, d, e], [c, e, f]]; zero where there is none."""
    ca, cb, cc = d * f - e * e, c * e - b * f, b * e - c * d
    determinant = a * ca + b * cb + c * cc
    if not determinant > 0.0:
        out[:] = 0.0
        return
    out[0, 0], out[0, 1], out[0, 2] = ca, cb, cc
    out[1, 1], out[1, 2], out[2, 2] = a * f - c * c, b * c - a * e, a * d - b * b
    out[1, 0], out[2, 0], out[2, 1] = cb, cc, out[1, 2]
    for j in range(3):
        for k in range(3):
            out[j, k] /= determinant


@kernel
def end_of(point, start):
    """Row after the last observation of the point that is seen in row `start`."""
    end = start + 1
    while end < len(point) and point[end] == point[start]:
        end += 1
    return end


@inlined_kernel
def add_to_block(matrix, row, column, weight, a, b, height, width):
    """Add weight * aᵀ b to a block; a and b have the two axes' rows."""
    for j in range(height):
        x, y = weight * a[0, j], weight * a[1, j]
        for k in range(width):
            matrix[row + j, column + k] += x * b[0, k] + y * b[1, k]


@inlined_kernel
def take_from_block(matrix, row, column, a, b, height, width):
    """Take aᵀ b from a block; a and b have three rows, one for each number of a point."""
    for j in range(height):
        x, y, z = a[0, j], a[1, j], a[2, j]
        for k in range(width):
            matrix[row + j, column + k] -= x * b[0, k] + y * b[1, k] + z * b[2, k]


@inlined_kernel
def take_from_right(right, row, solved, point_right, height):
    """Take from the right side what a point's own takes with it."""
    for j in range(height):
        for k in range(3):
            right[row + j] -= solved[k, j] * point_right[k]


@inlined_kernel
def take_symmetric(matrix, row, column, solved, coupling, one, other, size):
    """Take the block of two views or two lenses below the diagonal, or on it, in both orders."""
    if row[one] >= row[other]:
        take_from_block(matrix, row[one], column[other], solved[one], coupling[other], size, size)
    if row[other] >= row[one] and one != other:
        take_from_block(matrix, row[other], column[one], solved[other], coupling[one], size, size)


@inlined_kernel
def solve_coupling(inverse, coupling, solved, size):
    """inverse @ coupling, three rows."""
    for k in range(3):
        for j in range(size):
            solved[k, j] = (
                inverse[k, 0] * coupling[0, j]
                + inverse[k, 1] * coupling[1, j]
                + inverse[k, 2] * coupling[2, j]
            )


@kernel
def add_observation(
    pose, lens, weight, error, a, b, matrix, diagonal, right, own, point_right, by_pose, by_lens
):
    """One observation's part of the equations of its view, its lens and its point.

    Args:
        pose: First row of the view's unknowns.
        lens: Of the lens's.
        by_pose: Gets the part of view and point, 3 x 6.
        by_lens: To which that of lens and point is added, 3 x 2.
    """
    for j in range(3):
        x, y = weight * b[0, j], weight * b[1, j]
        point_right[j] -= x * error[0] + y * error[1]
        for k in range(3):
            own[j, k] += x * b[0, k] + y * b[1, k]
        for k in range(POSE):
            by_pose[j, k] = x * a[0, k] + y * a[1, k]
        for k in range(LENS):
            by_lens[j, k] += x * a[0, POSE + k] + y * a[1, POSE + k]
    for j in range(POSE + LENS):
        row = pose + j if j < POSE else lens + j - POSE
        right[row] -= weight * (a[0, j] * error[0] + a[1, j] * error[1])
        diagonal[row] += weight * (a[0, j] * a[0, j] + a[1, j] * a[1, j])
    add_to_block(matrix, pose, pose, weight, a, a, POSE, POSE)
    add_to_block(matrix, lens, pose, weight, a[:, POSE:], a, LENS, POSE)
    add_to_block(matrix, lens, lens, weight, a[:, POSE:], a[:, POSE:], LENS, LENS)


@inlined_kernel
def take_block(out, width, row, column, solved, coupled, size):
    """Take from one block of two views (`size` is POSE) or two lenses (LENS)."""
    place = offset(out, row * width + column)
    if size == POSE:
        take_poses(place, width, solved, coupled)
    else:
        take_lenses(place, width, solved, coupled)


@inlined_kernel
def take_blocks(matrix, rows, count, solved, coupled, size):
    """Take from the blocks of all pairs of a point's views, or of its lenses.

    Below the diagonal only; one on it, of two observations by one view, is taken in both orders.

    Args:
        rows: First rows of the unknowns.
        solved: Pointer to the couplings after the point's inverse.
        coupled: To these before it.
    """
    width, out, part = matrix.shape[0], pointer(matrix), 3 * size
    for one in range(count):
        for other in range(one + 1):
            if rows[one] >= rows[other]:
                a, b = offset(solved, part * one), offset(coupled, part * other)
                take_block(out, width, rows[one], rows[other], a, b, size)
            if rows[other] >= rows[one] and one != other:
                a, b = offset(solved, part * other), offset(coupled, part * one)
                take_block(out, width, rows[other], rows[one], a, b, size)


@kernel
def take_away(
    poses, views, by_pose, lenses, count, by_lens, inverse, point_right, matrix, right, scratch
):
    """The part of a point that is put in terms of the views and lenses that see it.

    Only blocks on and below the diagonal are touched.

    Args:
        poses: First rows of the views' unknowns, of which the first `views` count.
        lenses: Of the lenses', each once, of which the first `count` count.
        scratch: As large as `by_pose`, and as `by_lens`.
    """
    solved_pose, solved_lens = scratch
    for one in range(views):
        solve_coupling(inverse, by_pose[one], solved_pose[one], POSE)
        take_from_right(right, poses[one], solved_pose[one], point_right, POSE)
    for one in range(count):
        solve_coupling(inverse, by_lens[one], solved_lens[one], LENS)
        take_from_right(right, lenses[one], solved_lens[one], point_right, LENS)
    pose, lens = pointer(by_pose), pointer(by_lens)
    take_blocks(matrix, poses, views, pointer(solved_pose), pose, POSE)
    take_blocks(matrix, lenses, count, pointer(solved_lens), lens, LENS)
    width, out = matrix.shape[0], pointer(matrix)
    for one in range(count):
        solved = offset(pointer(solved_lens), 3 * LENS * one)
        for other in range(views):
            place = offset(out, lenses[one] * width + poses[other])
            take_lens_and_pose(place, width, solved, offset(pose, 3 * POSE * other))


@kernel
def longest_track(point):
    """Most observations of a point."""
    longest, start = np.int64(0), np.int64(0)
    while start < len(point):
        end = end_of(point, start)
        longest, start = max(longest, end - start), end
    return longest


@kernel
def mirror(matrix):
    """Copy what is below the diagonal to above it."""
    for row in range(len(matrix)):
        for column in range(row):
            matrix[column, row] = matrix[row, column]


@kernel
def reduce_points(
    view, point, group, num_views, errors, weights, by_camera, by_point, damping,
    matrix, diagonal, right, point_inverse, point_right,
):  # fmt: skip
    """Add all observations to the cameras' equations, and take the points' part away again."""
    longest = longest_track(point)
    poses, lenses = np.empty(longest, np.int64), np.empty(longest, np.int64)
    by_pose, by_lens = np.empty((longest, 3, POSE)), np.empty((longest, 3, LENS))
    scratch = (np.empty((longest, 3, POSE)), np.empty((longest, 3, LENS)))
    # Where a lens stands among those of the point at hand.
    place = np.full(group.max() + 1, -1, np.int64)
    own, grown = np.empty((3, 3)), 1.0 + damping
    start = np.int64(0)
    while start < len(view):
        end, p = end_of(point, start), point[start]
        own[:] = 0.0
        count = 0
        for o in range(start, end):
            lens = group[view[o]]
            if place[lens] < 0:
                place[lens] = count
                lenses[count] = POSE * num_views + LENS * lens
                by_lens[count] = 0.0
                count += 1
            poses[o - start] = POSE * view[o]
            add_observation(
                POSE * view[o], POSE * num_views + LENS * lens, weights[o], errors[o],
                by_camera[o], by_point[o], matrix, diagonal, right, own, point_right[p],
                by_pose[o - start], by_lens[place[lens]],
            )  # fmt: skip
        invert_symmetric(
            own[0, 0] * grown, own[0, 1], own[0, 2], own[1, 1] * grown, own[1, 2],
            own[2, 2] * grown, point_inverse[p],
        )  # fmt: skip
        views = end - start
        take_away(
            poses, views, by_pose, lenses, count, by_lens, point_inverse[p], point_right[p], matrix,
            right, scratch,
        )  # fmt: skip
        for o in range(start, end):
            place[group[view[o]]] = -1
        start = end
    mirror(matrix)


@kernel
def substitute_points(
    view, point, group, num_views, weights, by_camera, by_point, point_inverse, point_right, step,
    steps,
):  # fmt: skip
    """The points' steps, once the cameras' is known."""
    steps[:] = point_right
    for o in range(len(view)):
        i, g = view[o], group[view[o]]
        for axis in range(2):
            moved = 0.0
            for j in range(POSE):
                moved += by_camera[o, axis, j] * step[POSE * i + j]
            for j in range(LENS):
                moved += by_camera[o, axis, POSE + j] * step[POSE * num_views + LENS * g + j]
            for k in range(3):
                steps[point[o], k] -= weights[o] * by_point[o, axis, k] * moved
    for p in range(len(steps)):
        x, y, z = steps[p, 0], steps[p, 1], steps[p, 2]
        for k in range(3):
            inverse = point_inverse[p]
            steps[p, k] = inverse[k, 0] * x + inverse[k, 1] * y + inverse[k, 2] * z
