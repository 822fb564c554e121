"""Rooms and paths of cameras drawn from a seed; compiled by Numba.

Random numbers are splitmix64's (Steele et al. 2014), so that a seed means the same room everywhere.
"""

import math

import numpy as np

from fm3d_plugins.kernels.compiled import kernel
from fm3d_plugins.synthetic_rooms.endless.layout import (
    AMBIENT,
    ARC,
    AXES,
    BOX,
    CELL,
    CENTER,
    COLOR,
    CYLINDER,
    FACES,
    GAIN,
    GLOSS,
    GRAIN,
    HALF,
    KIND,
    LIGHTS,
    MIXING,
    MOST_SOLIDS,
    NUM_LIGHTS,
    NUM_PATTERNS,
    PATTERN,
    SEED,
    SHIFT,
    SIZE,
    SPHERE,
    TURN,
    WALK,
)

_STEP, _MIX1 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9)
_MIX2 = np.uint64(0x94D049BB133111EB)
_S30, _S27, _S31, _S11 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(11)

WALL_MARGIN, SOLID_MARGIN = 0.3, 0.28
"""Metres from a camera to walls and to things, at least."""
NEAREST_VIEW = 0.8
"""Metres to what a camera sees at the middle and around it, at least."""
TRIES = 12
"""Paths drawn before a thing is taken out of the room."""


@kernel
def uniform(state, low, high):
    """The next number of a stream in [low, high)."""
    state[0] += _STEP
    z = state[0]
    z = (z ^ (z >> _S30)) * _MIX1
    z = (z ^ (z >> _S27)) * _MIX2
    z = z ^ (z >> _S31)
    return low + (high - low) * np.float64(z >> _S11) * (1.0 / 9007199254740992.0)


@kernel
def draw_face(state, faces, row, coarseness):
    """A pattern, its sizes and its colours."""
    face = faces[row]
    face[PATTERN] = np.floor(uniform(state, 0.0, NUM_PATTERNS))
    face[SEED] = np.floor(uniform(state, 0.0, 1048576.0))
    face[CELL] = coarseness * math.exp(uniform(state, -1.9, -0.6))
    angle = uniform(state, -math.pi, math.pi)
    if uniform(state, 0.0, 1.0) < 0.5:
        angle = 0.1 * angle
    face[TURN], face[TURN + 1] = math.cos(angle), math.sin(angle)
    face[SHIFT], face[SHIFT + 1] = uniform(state, -50.0, 50.0), uniform(state, -50.0, 50.0)
    face[GRAIN] = coarseness * math.exp(uniform(state, -1.6, -0.3))
    tone = uniform(state, 0.3, 0.72)
    for c in range(3):
        face[COLOR + c] = tone + uniform(state, -0.16, 0.16)
    strengths = (uniform(state, 0.3, 0.75), uniform(state, 0.2, 0.5), uniform(state, 0.12, 0.4))
    for i in range(3):
        grey = 1.0 if uniform(state, 0.0, 1.0) < 0.5 else -1.0
        for c in range(3):
            face[MIXING + 3 * i + c] = strengths[i] * (0.7 * grey + uniform(state, -0.65, 0.65))
    face[GLOSS] = max(0.0, uniform(state, -0.5, 0.7))


@kernel
def draw_solid(state, solids, row, room):
    """A thing: on the floor, on another thing, on a wall, or hanging in the air."""
    solid = solids[row]
    x, y, z = 0.5 * room[SIZE], 0.5 * room[SIZE + 1], room[SIZE + 2]
    place = uniform(state, 0.0, 1.0)
    shape = uniform(state, 0.0, 1.0)
    yaw = uniform(state, -math.pi, math.pi)
    kind = BOX if shape < 0.5 else (SPHERE if shape < 0.75 else CYLINDER)
    a, b, c = uniform(state, 0.12, 0.5), uniform(state, 0.12, 0.5), uniform(state, 0.12, 0.55)
    if kind == CYLINDER:
        b = a = 0.7 * a
        c = 1.3 * c
    if kind == SPHERE and uniform(state, 0.0, 1.0) < 0.6:
        b = c = a
    px, py, pz = uniform(state, -0.6, 0.6) * x, uniform(state, -0.6, 0.6) * y, c
    tilt = 0.0
    if place < 0.2 and row > 0:
        # On top of a thing that stands.
        below = solids[np.int64(uniform(state, 0.0, row))]
        a, b, c = 0.6 * a, 0.6 * b, 0.6 * c
        px, py = below[CENTER], below[CENTER + 1]
        pz = min(below[CENTER + 2] + below[HALF + 2] + c, z - c)
    elif place < 0.38:
        # A plate on one of the walls.
        kind, yaw, side = BOX, 0.0, 1.0 if uniform(state, 0.0, 1.0) < 0.5 else -1.0
        c = uniform(state, 0.25, 0.6)
        pz = uniform(state, c + 0.3, max(c + 0.31, z - c - 0.2))
        if uniform(state, 0.0, 1.0) < 0.5:
            a, b = uniform(state, 0.01, 0.06), uniform(state, 0.3, 0.8)
            px, py = side * (x - a), uniform(state, -0.8, 0.8) * (y - b)
        else:
            a, b = uniform(state, 0.3, 0.8), uniform(state, 0.01, 0.06)
            px, py = uniform(state, -0.8, 0.8) * (x - a), side * (y - b)
    elif place < 0.55:
        tilt = uniform(state, -1.2, 1.2)
        pz = uniform(state, 0.8, z - 0.6)
    elif place < 0.65:
        # A table or a low platform.
        kind, a, b, c = BOX, uniform(state, 0.3, 0.8), uniform(state, 0.3, 0.8), 0.04
        pz = uniform(state, 0.3, 0.8)
    solid[KIND] = kind
    solid[CENTER], solid[CENTER + 1], solid[CENTER + 2] = px, py, pz
    solid[HALF], solid[HALF + 1], solid[HALF + 2] = a, b, c
    s, r, t, u = math.sin(yaw), math.cos(yaw), math.sin(tilt), math.cos(tilt)
    axes = (r, s, 0.0, -s * u, r * u, t, s * t, -r * t, u)
    for i in range(9):
        solid[AXES + i] = axes[i]
    solid[FACES] = 6 * (row + 1)


@kernel
def draw_room(state, room, solids, faces):
    """Sizes, things, textures and lamps of a room; returns how many things there are."""
    room[SIZE], room[SIZE + 1] = uniform(state, 4.0, 8.5), uniform(state, 4.0, 8.5)
    room[SIZE + 2] = uniform(state, 2.6, 4.2)
    for f in range(6):
        draw_face(state, faces, f, 1.5)
    count = np.int64(uniform(state, 7.0, MOST_SOLIDS + 1.0))
    for s in range(count):
        draw_solid(state, solids, s, room)
        first = 6 * (s + 1)
        draw_face(state, faces, first, 0.8)
        is_dice = solids[s, KIND] == BOX and uniform(state, 0.0, 1.0) < 0.5
        for f in range(first + 1, first + 6):
            if is_dice and f % 2 == 0:
                draw_face(state, faces, f, 0.8)
            else:
                for column in range(faces.shape[1]):
                    faces[f, column] = faces[f - 1, column]
                faces[f, SHIFT] = uniform(state, -50.0, 50.0)
                faces[f, SHIFT + 1] = uniform(state, -50.0, 50.0)
    ambient = uniform(state, 0.25, 0.5)
    for c in range(3):
        room[AMBIENT + c] = ambient * uniform(state, 0.85, 1.15)
    for k in range(NUM_LIGHTS):
        lamp = LIGHTS + 6 * k
        room[lamp] = uniform(state, -0.4, 0.4) * room[SIZE]
        room[lamp + 1] = uniform(state, -0.4, 0.4) * room[SIZE + 1]
        room[lamp + 2] = uniform(state, 0.75, 0.95) * room[SIZE + 2]
        power = uniform(state, 1.5, 4.0) if k == 0 else uniform(state, 0.0, 1.5)
        warmth = uniform(state, -0.25, 0.25)
        room[lamp + 3], room[lamp + 4] = power * (1.0 + warmth), power
        room[lamp + 5] = power * (1.0 - warmth)
    room[GAIN] = uniform(state, 1.05, 1.45)
    return count


@kernel
def keeps_clear(room, solids, count, x, y, z):
    """Whether a camera may be at a place: off the walls, and outside of all things."""
    a, b = 0.5 * room[SIZE] - WALL_MARGIN, 0.5 * room[SIZE + 1] - WALL_MARGIN
    if abs(x) > a or abs(y) > b or z < WALL_MARGIN or z > room[SIZE + 2] - WALL_MARGIN:
        return False
    for s in range(count):
        inside = True
        for i in range(3):
            axis = AXES + 3 * i
            along = (
                solids[s, axis] * (x - solids[s, CENTER])
                + solids[s, axis + 1] * (y - solids[s, CENTER + 1])
                + solids[s, axis + 2] * (z - solids[s, CENTER + 2])
            )
            if abs(along) > solids[s, HALF + i] + SOLID_MARGIN:
                inside = False
        if inside:
            return False
    return True


@kernel
def aim(pose, ex, ey, ez, yaw, pitch, roll):
    """Write world_from_camera (OpenCV) of a camera that looks along yaw and pitch."""
    cy, sy, cp, sp = math.cos(yaw), math.sin(yaw), math.cos(pitch), math.sin(pitch)
    cr, sr = math.cos(roll), math.sin(roll)
    forward = (cp * cy, cp * sy, sp)
    right = (sy, -cy, 0.0)
    down = (sp * cy, sp * sy, -cp)
    eye = (ex, ey, ez)
    for i in range(3):
        pose[i, 0] = cr * right[i] + sr * down[i]
        pose[i, 1] = cr * down[i] - sr * right[i]
        pose[i, 2] = forward[i]
        pose[i, 3] = eye[i]
        pose[3, i] = 0.0
    pose[3, 3] = 1.0


@kernel
def draw_path(state, room, kind, poses):
    """Cameras in order along one path of a kind; it may lead through things."""
    x, y, z = 0.5 * room[SIZE], 0.5 * room[SIZE + 1], room[SIZE + 2]
    count = poses.shape[0]
    heading = uniform(state, -math.pi, math.pi)
    high = min(z - WALL_MARGIN, 2.4)
    begin, end = uniform(state, 0.6, high), 0.0
    end = min(max(begin + uniform(state, -0.4, 0.4), 0.5), high)
    roll = uniform(state, -0.08, 0.08)
    # For an arc: the point that is looked at, the radius, and the span of azimuth.
    tx, ty = uniform(state, -0.3, 0.3) * x, uniform(state, -0.3, 0.3) * y
    tz = uniform(state, 0.3, 1.3)
    radius = uniform(state, 1.3, max(1.4, 1.1 * min(x, y)))
    growth = uniform(state, -0.2, 0.2)
    span = uniform(state, 0.26, 1.1)
    # Otherwise: the place, the way, and the turn.
    px, py = uniform(state, -0.8, 0.8) * x, uniform(state, -0.8, 0.8) * y
    if kind != ARC:
        # Rather into the room than at the nearest wall.
        heading = math.atan2(-py, -px) + uniform(state, -0.9, 0.9)
    length = uniform(state, 0.6, 2.2) if kind == WALK else uniform(state, 0.0, 0.4)
    turn = uniform(state, -0.6, 0.6) if kind == WALK else uniform(state, 0.35, 1.2)
    way = heading + uniform(state, -1.8, 1.8)
    pitch0, pitch1 = uniform(state, -0.35, 0.15), uniform(state, -0.35, 0.15)
    if uniform(state, 0.0, 1.0) < 0.5:
        span, turn = -span, -turn
    for v in range(count):
        s = (v + uniform(state, 0.0, 1.0)) / count
        ez = begin + (end - begin) * s
        jitter = uniform(state, -0.03, 0.03)
        if kind == ARC:
            r, angle = radius * (1.0 + growth * (s - 0.5)), heading + span * (s - 0.5)
            ex, ey = tx + r * math.cos(angle), ty + r * math.sin(angle)
            yaw = angle + math.pi + jitter
            pitch = math.atan2(tz - ez, r) + uniform(state, -0.03, 0.03)
        else:
            ex = px + length * (s - 0.5) * math.cos(way)
            ey = py + length * (s - 0.5) * math.sin(way)
            yaw = heading + turn * (s - 0.5) + jitter
            pitch = pitch0 + (pitch1 - pitch0) * s
        aim(poses[v], ex, ey, ez, yaw, pitch, roll + 0.5 * jitter)
