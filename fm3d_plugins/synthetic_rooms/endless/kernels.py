"""Views of endless rooms, one room after the other; compiled by Numba."""

import math

import numpy as np

from fm3d_plugins.kernels.compiled import kernel
from fm3d_plugins.kernels.simd import take
from fm3d_plugins.synthetic_rooms.endless.drawing_kernels import (
    NEAREST_VIEW,
    TRIES,
    draw_path,
    draw_room,
    keeps_clear,
    uniform,
)
from fm3d_plugins.synthetic_rooms.endless.layout import (
    FACE_COLUMNS,
    GLOSS,
    LIGHTS,
    MOST_SOLIDS,
    ROOM_ENTRIES,
    SOLID_COLUMNS,
)
from fm3d_plugins.synthetic_rooms.endless.shading_kernels import (
    albedo,
    light_at,
    low_noise,
    shown,
    surface,
)
from fm3d_plugins.synthetic_rooms.endless.tracing_kernels import (
    MAP_COLUMNS,
    map_solids,
    shadows,
    trace,
)

LEAST = 1e-7
"""No component of a direction is smaller, so that nothing is divided by 0."""


@kernel
def direct(pose, lens, x, y, d, i):
    """Write the ray through a place of the image; its z component in the camera is 1."""
    a, b = (x - lens[0, 2]) / lens[0, 0], (y - lens[1, 2]) / lens[1, 1]
    for k in range(3):
        value = pose[k, 0] * a + pose[k, 1] * b + pose[k, 2]
        d[k, i] = value if abs(value) > LEAST else LEAST


@kernel
def padded(count):
    """The next multiple of 16."""
    return (count + 15) // 16 * 16


@kernel
def ones(count):
    """Directions, [3, count]."""
    rays = np.empty((3, count), np.float32)
    for i in range(count):
        rays[0, i] = rays[1, i] = rays[2, i] = 1.0
    return rays


@kernel
def sees_far(room, solids, count, maps, pose, lens, width, height):
    """Whether nothing stands right before a camera: looked at in a grid of 4 x 4 rays."""
    d, t = np.empty((3, 16), np.float32), np.empty(16, np.float32)
    found = np.empty(16, np.float32)
    for i in range(16):
        direct(pose, lens, (0.05 + 0.3 * (i % 4)) * width, (0.05 + 0.3 * (i // 4)) * height, d, i)
    o = (pose[0, 3], pose[1, 3], pose[2, 3])
    map_solids(solids, count, o, maps)
    trace(room, maps, count, o, d, t, found)
    for i in range(16):
        if t[i] < NEAREST_VIEW:
            return False
    return True


@kernel
def choose_path(state, room, solids, count, maps, kind, lens, width, height, poses):
    """Draw paths until one is clear; things that are in the way of many are taken out.

    Returns:
        How many things are left.
    """
    tries = 0
    while True:
        draw_path(state, room, kind, poses)
        is_clear = True
        for v in range(poses.shape[0]):
            pose = poses[v]
            if not (
                keeps_clear(room, solids, count, pose[0, 3], pose[1, 3], pose[2, 3])
                and sees_far(room, solids, count, maps, pose, lens, width, height)
            ):
                is_clear = False
                break
        if is_clear:
            return count
        tries += 1
        if tries % TRIES == 0 and count > 0:
            count -= 1


@kernel
def render_view(room, solids, count, faces, noise, maps, pose, lens, image, depth, normals):
    """One view: colours of 2 x 2 samples per pixel, depth and normals at the pixels' centres."""
    height, width = depth.shape
    o = (pose[0, 3], pose[1, 3], pose[2, 3])
    lamp = (room[LIGHTS], room[LIGHTS + 1], room[LIGHTS + 2])
    map_solids(solids, count, o, maps[0])
    map_solids(solids, count, lamp, maps[1])
    num_centers, num_samples = padded(width), padded(4 * width)
    d, to_points = ones(num_samples), ones(num_samples)
    t, found = np.empty(num_samples, np.float32), np.empty(num_samples, np.float32)
    clear = np.empty(num_samples, np.float32)
    middle = ones(num_centers)
    far, what = np.empty(num_centers, np.float32), np.empty(num_centers, np.float32)
    pixel = 1.0 / lens[0, 0]
    for row in range(height):
        for i in range(width):
            direct(pose, lens, i + 0.5, row + 0.5, middle, i)
            for k in range(4):
                x, y = i + 0.25 + 0.5 * (k & 1), row + 0.25 + 0.5 * (k >> 1)
                direct(pose, lens, x, y, d, 4 * i + k)
        trace(room, maps[0], count, o, middle, far, what)
        trace(room, maps[0], count, o, d, t, found)
        for i in range(num_samples):
            for k in range(3):
                ray = o[k] + np.float64(t[i]) * d[k, i] - lamp[k]
                to_points[k, i] = ray if abs(ray) > LEAST else LEAST
        shadows(maps[1], count, to_points, clear)
        for i in range(width):
            red, green, blue = 0.0, 0.0, 0.0
            lit_face, lit_clear = -1, 0.0
            lr, lg, lb, shine, low = 0.0, 0.0, 0.0, 0.0, 0.0
            for k in range(5):
                # Four samples of colour, then the centre, whose normal is kept.
                at = 4 * i + k
                if k < 4:
                    away, number = np.float64(t[at]), np.int64(found[at])
                    dx, dy, dz = d[0, at], d[1, at], d[2, at]
                else:
                    away, number = np.float64(far[i]), np.int64(what[i])
                    dx, dy, dz = middle[0, i], middle[1, i], middle[2, i]
                p = (o[0] + away * dx, o[1] + away * dy, o[2] + away * dz)
                nx, ny, nz, row_of_face, u, v = surface(room, solids, number, p)
                if k == 4:
                    depth[row, i] = away
                    normals[row, i, 0], normals[row, i, 1], normals[row, i, 2] = nx, ny, nz
                    continue
                face = faces[row_of_face]
                if row_of_face != lit_face or clear[at] != lit_clear:
                    # What changes little in a pixel: once for each face and shadow in it.
                    low = low_noise(face, noise, u, v)
                    lit_face, lit_clear = row_of_face, clear[at]
                    lr, lg, lb, shine = light_at(
                        room, face[GLOSS], o, p, (nx, ny, nz), np.float64(clear[at])
                    )
                r, g, b = albedo(face, noise, low, u, v, away * pixel)
                red += shown(r, lr, shine)
                green += shown(g, lg, shine)
                blue += shown(b, lb, shine)
            image[0, row, i] = 0.25 * red
            image[1, row, i] = 0.25 * green
            image[2, row, i] = 0.25 * blue


@kernel
def render_rooms(
    counter, num_rooms, seeds, shares, fields, noise, images, depth, normals, lenses, poses
):
    """Draw and render rooms, whichever this thread takes.

    Args:
        seeds: [room], uint64; each makes the room, its lens and its path.
        shares: [3], of the kinds of paths, ascending to 1.
        fields: [2], least and greatest field of view along the longer side, radians.
        noise: As `rooms.noise_tables` makes it.
        images: [room, view, 3, height, width], written: RGB in [0, 1].
        depth: [room, view, height, width], written: z in the camera, metres.
        normals: [room, view, height, width, 3], written: world frame, towards the camera.
        lenses: [room, view, 3, 3], written: pixels.
        poses: [room, view, 4, 4], written: world_from_camera, OpenCV.
    """
    num_views, height, width = depth.shape[1:]
    room = np.empty(ROOM_ENTRIES)
    solids = np.empty((MOST_SOLIDS, SOLID_COLUMNS))
    faces = np.empty((6 * (MOST_SOLIDS + 1), FACE_COLUMNS))
    maps = np.empty((2, MOST_SOLIDS, MAP_COLUMNS), np.float32)
    state, lens, path = np.empty(1, np.uint64), np.zeros((3, 3)), np.empty((num_views, 4, 4))
    while True:
        r = take(counter)
        if r >= num_rooms:
            return
        state[0] = seeds[r]
        chosen = uniform(state, 0.0, 1.0)
        kind = 0 if chosen < shares[0] else (1 if chosen < shares[1] else 2)
        focal = 0.5 / math.tan(0.5 * uniform(state, fields[0], fields[1])) * max(width, height)
        lens[0, 0], lens[1, 1] = focal, focal
        lens[0, 2], lens[1, 2], lens[2, 2] = 0.5 * width, 0.5 * height, 1.0
        count = draw_room(state, room, solids, faces)
        count = choose_path(state, room, solids, count, maps[0], kind, lens, width, height, path)
        for v in range(num_views):
            for i in range(9):
                lenses[r, v, i // 3, i % 3] = lens[i // 3, i % 3]
            for i in range(16):
                poses[r, v, i // 4, i % 4] = path[v, i // 4, i % 4]
            render_view(
                room, solids, count, faces, noise, maps, path[v], lens,
                images[r, v], depth[r, v], normals[r, v],
            )  # fmt: skip
