"""From the description of a room to the arrays that the compiled renderer reads."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from fm3d_plugins.synthetic_rooms.scene import PATTERNS, SHAPES, Room, Solid, Texture, Vector

_LEAF_SIZE = 2


class Tables(NamedTuple):
    """A room as float64 tables, one row per item; the readers document the columns."""

    nodes: Float[np.ndarray, "node 9"]
    """Tree in depth-first order: low corner, high corner, next node after a miss, first solid,
    number of solids (0 for inner nodes)."""
    solids: Float[np.ndarray, "solid 18"]
    """See `shapes`; row 0 is the room's shell."""
    charts: Float[np.ndarray, "chart 7"]
    """First light-map node, nodes along u and v, extent along u and v in metres, texture,
    solid."""
    textures: Float[np.ndarray, "texture 20"]
    """See `noise.palette`."""
    lights: Float[np.ndarray, "light 17"]
    """0 for a panel or 1 for a ball, centre, half width, half height, normal, radiance, radius."""
    sun: Float[np.ndarray, "1 18"]
    """To the sun, its radiance, and the window: centre, half width, half height, normal."""
    light: Float[np.ndarray, "light_node 3"]
    """The light map."""


def build_tables(room: Room, light_spacing: float) -> Tables:
    """Lay out a room as tables with a dark light map.

    Args:
        light_spacing: Metres between the nodes of the light map.
    """
    x, y, z = room.size
    shell = Solid("shell", (0.0, 0.0, 0.5 * z), (0.5 * x, 0.5 * y, 0.5 * z), room.walls)
    nodes, order = _build_tree([_bounds(solid) for solid in room.solids])
    solids = [shell, *(room.solids[i] for i in order)]
    textures: dict[Texture, int] = {}
    solid_rows, chart_rows, num_light_nodes = [], [], 0
    for solid in solids:
        solid_rows.append(_solid_row(solid, len(chart_rows)))
        for extent, texture in zip(_chart_extents(solid), _per_face(solid), strict=True):
            counts = [max(2, 1 + math.ceil(length / light_spacing)) for length in extent]
            index = textures.setdefault(texture, len(textures))
            owner = len(solid_rows) - 1
            chart_rows.append([num_light_nodes, *counts, *extent, index, owner])
            num_light_nodes += counts[0] * counts[1]
    return Tables(
        nodes,
        np.array(solid_rows, dtype=np.float64),
        np.array(chart_rows, dtype=np.float64),
        np.array([_texture_row(texture) for texture in textures], dtype=np.float64),
        _light_rows(room),
        _sun_row(room),
        np.zeros((num_light_nodes, 3)),
    )


def mean_colors(tables: Tables) -> Float[np.ndarray, "chart 3"]:
    """What a chart reflects on average: the mean of its palette, and nothing where it glows."""
    textures = tables.textures[tables.charts[:, 5].astype(np.int64)]
    return textures[:, 8:].reshape(-1, 4, 3).mean(1) * (textures[:, 4:5] == 0.0)


def _rotation(solid: Solid) -> Float[np.ndarray, "3 3"]:
    """world_from_local of a solid: tilt about its x axis, then turn about the upright."""
    c, s = math.cos(math.radians(solid.turn_degrees)), math.sin(math.radians(solid.turn_degrees))
    turn = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
    c, s = math.cos(math.radians(solid.tilt_degrees)), math.sin(math.radians(solid.tilt_degrees))
    return turn @ np.array([[1.0, 0.0, 0.0], [0.0, c, -s], [0.0, s, c]])


def _half_extents(solid: Solid) -> Vector:
    a, b, c = solid.size
    if solid.shape == "frustum":
        return max(a, b), max(a, b), c
    if solid.shape == "torus":
        return a + b, a + b, b
    return a, b, c


def _bounds(solid: Solid) -> Float[np.ndarray, "2 3"]:
    """Low and high corner of the upright box around a solid, with a hair of margin."""
    reach = np.abs(_rotation(solid)) @ np.array(_half_extents(solid)) + 1e-6
    return np.stack([np.array(solid.center) - reach, np.array(solid.center) + reach])


def _build_tree(
    bounds: Sequence[Float[np.ndarray, "2 3"]],
) -> tuple[Float[np.ndarray, "node 9"], list[int]]:
    """A bounding-volume tree, split by the surface area heuristic.

    Returns:
        Its nodes in depth-first order, where solids are numbered from 1 in the order of the leaves
        (0 is the shell), and that order.
    """
    rows: list[list[float]] = []
    order: list[int] = []

    def add(items: list[int]) -> None:
        box = np.stack([bounds[i] for i in items])
        row = len(rows)
        rows.append([*box[:, 0].min(0), *box[:, 1].max(0), 0.0, 0.0, 0.0])
        if len(items) <= _LEAF_SIZE:
            rows[row][7:] = [1.0 + len(order), float(len(items))]
            order.extend(items)
        else:
            left, right = _split(box)
            add([items[i] for i in left])
            add([items[i] for i in right])
        rows[row][6] = float(len(rows))

    if bounds:
        add(list(range(len(bounds))))
    return np.array(rows, dtype=np.float64).reshape(-1, 9), order


def _split(
    boxes: Float[np.ndarray, "item 2 3"],
) -> tuple[Int[np.ndarray, " left"], Int[np.ndarray, " right"]]:
    """Halves of a set of boxes with the least sum of (surface area of the hull) x (count)."""
    best_cost, best = math.inf, None
    counts = np.arange(1, len(boxes))
    for axis in range(3):
        order = np.argsort(boxes.mean(1)[:, axis], kind="stable")
        ranked = boxes[order]
        ahead, behind = _hull_areas(ranked)[:-1], _hull_areas(ranked[::-1])[::-1][1:]
        costs = ahead * counts + behind * counts[::-1]
        at = int(costs.argmin())
        if costs[at] < best_cost:
            best_cost, best = costs[at], (order[: at + 1], order[at + 1 :])
    assert best is not None
    return best


def _hull_areas(boxes: Float[np.ndarray, "item 2 3"]) -> Float[np.ndarray, " item"]:
    """Half the surface of the box around the first 1, 2, ... of a row of boxes."""
    low = np.minimum.accumulate(boxes[:, 0])
    x, y, z = (np.maximum.accumulate(boxes[:, 1]) - low).T
    return x * y + y * z + z * x


def _solid_row(solid: Solid, first_chart: int) -> list[float]:
    local_from_world = _rotation(solid).T.ravel().tolist()
    kind = float(SHAPES.index(solid.shape))
    row = [kind, *solid.center, *local_from_world, *solid.size]
    return [*row, solid.rounding, float(first_chart)]


def _per_face(solid: Solid) -> tuple[Texture, ...]:
    count = len(_chart_extents(solid))
    return solid.textures if len(solid.textures) == count else solid.textures * count


def _chart_extents(solid: Solid) -> list[tuple[float, float]]:
    """Metres along u and v of every chart of a solid."""
    a, b, c = solid.size
    if solid.shape == "ellipsoid":
        return [(math.pi * (a + b), math.pi * c)]
    if solid.shape == "torus":
        return [(2.0 * math.pi * a, 2.0 * math.pi * b)]
    if solid.shape == "frustum":
        slant = math.hypot(2.0 * c, a - b)
        return [(math.pi * (a + b), slant), (2.0 * a, 2.0 * a), (2.0 * b, 2.0 * b)]
    sides = [(2.0 * b, 2.0 * c)] * 2 + [(2.0 * a, 2.0 * c)] * 2
    return [*sides, (2.0 * a, 2.0 * b), (2.0 * a, 2.0 * b)]


def _linear(color: Vector) -> list[float]:
    """Linear RGB of an sRGB colour."""
    return [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in color]


def _texture_row(texture: Texture) -> list[float]:
    row = [float(PATTERNS.index(texture.pattern)), float(texture.seed), texture.scale]
    row += [texture.gloss, texture.emission, 0.0, 0.0, 0.0]
    for color in texture.colors:
        row += _linear(color)
    return row


def _window_axes(room: Room) -> list[float]:
    """Half width, half height and normal of the window."""
    window = room.window
    nx, ny, _ = window.inward
    across = [-ny * window.half_width, nx * window.half_width, 0.0]
    return [*across, 0.0, 0.0, window.half_height, *window.inward]


def _light_rows(room: Room) -> Float[np.ndarray, "light 17"]:
    window = room.window
    rows = [[0.0, *window.center, *_window_axes(room), *window.sky_radiance, 0.0]]
    for lamp in room.lamps:
        rows.append([1.0, *lamp.center, *[0.0] * 9, *lamp.radiance, lamp.radius])
    return np.array(rows, dtype=np.float64)


def _sun_row(room: Room) -> Float[np.ndarray, "1 18"]:
    window = room.window
    row = [*window.to_sun, *window.sun_radiance, *window.center, *_window_axes(room)]
    return np.array([row], dtype=np.float64)
