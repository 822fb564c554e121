"""The light map of a synthetic room: soft light of window and lamps, and one bounce; Numba.

Light does not depend on the camera, so it is worked out once per room, on the nodes of a grid
over every chart, and all views agree. Directions are fixed by a hash of the node: the result does
not depend on how many threads share the nodes.
"""

import math

import numpy as np

from fm3d_plugins.synthetic_rooms.kernels import (
    along,
    dot,
    first_hit,
    light_at,
    ray_to,
    row3,
    sunlight,
    surface,
    trace,
)
from fm3d_plugins.synthetic_rooms.noise import entry, hash01, kernel
from fm3d_plugins.synthetic_rooms.shapes import (
    FIRST_CHART,
    chart_point,
    no_zeros,
    normal_at,
    to_world,
)

_LIFT = 2e-3
"""Metres off the surface at which a node gathers light."""


@entry
def place_nodes(tables, nodes):
    """World position and normal of every node of the light map.

    Nodes on the rim of a chart are drawn in a little: a corner of the room must see the room.

    Args:
        nodes: [nodes, 6], written.
    """
    solids, charts = tables.solids, tables.charts
    for s in range(solids.shape[0]):
        first = np.int64(solids[s, FIRST_CHART])
        last = np.int64(solids[s + 1, FIRST_CHART]) if s + 1 < solids.shape[0] else len(charts)
        for chart in range(first, last):
            nu, nv = np.int64(charts[chart, 1]), np.int64(charts[chart, 2])
            for index in range(nu * nv):
                u = 0.002 + 0.996 * (index % nu) / (nu - 1)
                v = 0.002 + 0.996 * (index // nu) / (nv - 1)
                q = chart_point(solids, s, chart - first, u, v)
                n = to_world(solids, s, normal_at(solids, s, q))
                p = to_world(solids, s, q)
                row = np.int64(charts[chart, 0]) + index
                for axis in range(3):
                    nodes[row, axis] = p[axis] + solids[s, 1 + axis] + _LIFT * n[axis]
                    nodes[row, 3 + axis] = n[axis]


@kernel
def _panel_share(tables, row, p, n, a, b):
    """Share of light from point (a, b) in [-1, 1]^2 of a bright rectangle; 0 in shadow."""
    lights = tables.lights
    center, across, up = row3(lights, row, 1), row3(lights, row, 4), row3(lights, row, 7)
    facing = row3(lights, row, 10)
    q = along(along(along(center, across, a), up, b), facing, 0.03)
    d, length = ray_to(p, q)
    cosines = dot(n, d) * -dot(facing, d)
    if (
        dot(n, d) <= 0.0
        or cosines <= 0.0
        or trace(tables.nodes, tables.solids, p, d, length, -1, True)[1] >= 0
    ):
        return 0.0
    area = 4.0 * math.sqrt(dot(across, across) * dot(up, up))
    return cosines * area / (math.pi * length * length)


@kernel
def _ball_share(tables, row, p, n, a, b):
    """Share of light from a glowing ball, through one point of the half that p sees."""
    lights = tables.lights
    center, radius = row3(lights, row, 1), lights[row, 16]
    d, length = ray_to(p, center)
    cosine = dot(n, d)
    if cosine <= 0.0 or length <= radius:
        return 0.0
    side = (d[1], -d[0], 0.0) if abs(d[2]) < 0.9 else (0.0, d[2], -d[1])
    norm = math.sqrt(dot(side, side))
    side = (side[0] / norm, side[1] / norm, side[2] / norm)
    up = (
        d[1] * side[2] - d[2] * side[1],
        d[2] * side[0] - d[0] * side[2],
        d[0] * side[1] - d[1] * side[0],
    )
    q = along(along(along(center, side, 0.7 * radius * a), up, 0.7 * radius * b), d, -radius)
    ray, reach = ray_to(p, q)
    if trace(tables.nodes, tables.solids, p, ray, reach - 0.02, -1, True)[1] >= 0:
        return 0.0
    return cosine * radius * radius / (length * length)


@entry
def direct_light(tables, nodes, first, last, grid, light):
    """Light of window and lamps at nodes first..last-1, into `light`; `grid`^2 samples each."""
    lights = tables.lights
    for node in range(first, last):
        p, n = row3(nodes, node, 0), row3(nodes, node, 3)
        for row in range(lights.shape[0]):
            share = 0.0
            for sample in range(grid * grid):
                a = (sample % grid + hash01(node, row, sample, 7)) * 2.0 / grid - 1.0
                b = (sample // grid + hash01(node, row, sample, 8)) * 2.0 / grid - 1.0
                if lights[row, 0] == 0.0:
                    share += _panel_share(tables, row, p, n, a, b)
                else:
                    share += _ball_share(tables, row, p, n, a, b)
            for channel in range(3):
                light[node, channel] += share / (grid * grid) * lights[row, 13 + channel]


@entry
def bounced_light(tables, nodes, first, last, num_rays, colors, ambient, light):
    """Light that reaches nodes first..last-1 from other surfaces, into `light`.

    Rays follow the cosine law: a spiral on the unit disc, turned per node, lifted to the
    hemisphere. A surface sends back its mean colour times its direct, sun and ambient light.

    Args:
        num_rays: Rays per node.
        colors: Mean albedo per chart, black for what glows: its light has been counted.
        ambient: [3], stands for all later bounces.
    """
    golden = math.pi * (3.0 - math.sqrt(5.0))
    for node in range(first, last):
        p, n = row3(nodes, node, 0), row3(nodes, node, 3)
        side = (1.0, 0.0, 0.0) if abs(n[0]) < 0.6 else (0.0, 1.0, 0.0)
        k = dot(side, n)
        side = (side[0] - k * n[0], side[1] - k * n[1], side[2] - k * n[2])
        norm = math.sqrt(dot(side, side))
        side = (side[0] / norm, side[1] / norm, side[2] / norm)
        up = (
            n[1] * side[2] - n[2] * side[1],
            n[2] * side[0] - n[0] * side[2],
            n[0] * side[1] - n[1] * side[0],
        )
        start = 2.0 * math.pi * hash01(node, 0, 3, 7)
        r, g, b = 0.0, 0.0, 0.0
        for ray in range(num_rays):
            share = (ray + 0.5) / num_rays
            flat, turn = math.sqrt(share), start + golden * ray
            x, y, z = flat * math.cos(turn), flat * math.sin(turn), math.sqrt(1.0 - share)
            d = no_zeros(along(along((z * n[0], z * n[1], z * n[2]), side, x), up, y))
            t, s = first_hit(tables.nodes, tables.solids, p, d, -1)
            hit = along(p, d, t)
            _, normal, chart, u, v = surface(tables.solids, s, hit)
            if dot(normal, d) > 0.0:  # from within a solid: the node is buried
                continue
            e, sun = (
                light_at(tables.charts, tables.light, chart, u, v),
                sunlight(tables.nodes, tables.solids, tables.sun, hit, normal),
            )
            r += colors[chart, 0] * (e[0] + sun * tables.sun[0, 3] + ambient[0])
            g += colors[chart, 1] * (e[1] + sun * tables.sun[0, 4] + ambient[1])
            b += colors[chart, 2] * (e[2] + sun * tables.sun[0, 5] + ambient[2])
        light[node, 0] += r / num_rays
        light[node, 1] += g / num_rays
        light[node, 2] += b / num_rays
