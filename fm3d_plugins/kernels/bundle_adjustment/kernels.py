"""The loops over observations and over pairs of observations of one point."""

import numpy as np

from fm3d_plugins.kernels.bundle_adjustment.layout import BEHIND, LENS, POSE
from fm3d_plugins.kernels.compiled import inlined_kernel, kernel

NEAREST = 1e-9
"""Depth below which a point is not before a camera, scene units."""

OWN = POSE + LENS


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
def unknown_of(view, group, num_views, k):
    """Row of the k-th of an observation's eight unknowns."""
    if k < POSE:
        return POSE * view + k
    return POSE * num_views + LENS * group + k - POSE


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


@kernel
def add_observation(rows, weight, error, a, b, matrix, diagonal, right, own, point_right, coupling):
    """One observation's part of the equations of its view, its lens and its point."""
    for j in range(3):
        point_right[j] -= weight * (b[0, j] * error[0] + b[1, j] * error[1])
        for k in range(3):
            own[j, k] += weight * (b[0, j] * b[0, k] + b[1, j] * b[1, k])
    for j in range(OWN):
        row = rows[j]
        right[row] -= weight * (a[0, j] * error[0] + a[1, j] * error[1])
        diagonal[row] += weight * (a[0, j] * a[0, j] + a[1, j] * a[1, j])
        for k in range(OWN):
            matrix[row, rows[k]] += weight * (a[0, j] * a[0, k] + a[1, j] * a[1, k])
        for k in range(3):
            coupling[j, k] = weight * (a[0, j] * b[0, k] + a[1, j] * b[1, k])


@kernel
def take_away(rows, coupling, inverse, point_right, matrix, right):
    """The part of a point that is put in terms of the cameras that see it."""
    solved = np.empty(3)
    for o in range(len(rows)):
        for j in range(OWN):
            row = rows[o, j]
            for k in range(3):
                solved[k] = (
                    coupling[o, j, 0] * inverse[0, k]
                    + coupling[o, j, 1] * inverse[1, k]
                    + coupling[o, j, 2] * inverse[2, k]
                )
            for k in range(3):
                right[row] -= solved[k] * point_right[k]
            for other in range(o + 1):
                for k in range(OWN):
                    column, c = rows[other, k], coupling[other, k]
                    taken = solved[0] * c[0] + solved[1] * c[1] + solved[2] * c[2]
                    matrix[row, column] -= taken
                    if other < o:
                        matrix[column, row] -= taken


@kernel
def reduce_points(
    view, point, group, num_views, errors, weights, by_camera, by_point, damping,
    matrix, diagonal, right, point_inverse, point_right,
):  # fmt: skip
    """Add all observations to the cameras' equations, and take the points' part away again."""
    longest, start = np.int64(0), np.int64(0)
    while start < len(view):
        end = end_of(point, start)
        longest, start = max(longest, end - start), end
    coupling, rows = np.empty((longest, OWN, 3)), np.empty((longest, OWN), np.int64)
    own, grown = np.empty((3, 3)), 1.0 + damping
    start = np.int64(0)
    while start < len(view):
        end, p = end_of(point, start), point[start]
        own[:] = 0.0
        for o in range(start, end):
            k = o - start
            for j in range(OWN):
                rows[k, j] = unknown_of(view[o], group[view[o]], num_views, j)
            add_observation(
                rows[k], weights[o], errors[o], by_camera[o], by_point[o], matrix, diagonal, right,
                own, point_right[p], coupling[k],
            )  # fmt: skip
        invert_symmetric(
            own[0, 0] * grown, own[0, 1], own[0, 2], own[1, 1] * grown, own[1, 2],
            own[2, 2] * grown, point_inverse[p],
        )  # fmt: skip
        count = end - start
        take_away(rows[:count], coupling[:count], point_inverse[p], point_right[p], matrix, right)
        start = end


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
            for j in range(OWN):
                moved += by_camera[o, axis, j] * step[unknown_of(i, g, num_views, j)]
            for k in range(3):
                steps[point[o], k] -= weights[o] * by_point[o, axis, k] * moved
    for p in range(len(steps)):
        x, y, z = steps[p, 0], steps[p, 1], steps[p, 2]
        for k in range(3):
            inverse = point_inverse[p]
            steps[p, k] = inverse[k, 0] * x + inverse[k, 1] * y + inverse[k, 2] * z
