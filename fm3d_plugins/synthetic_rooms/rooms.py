"""Furnished rooms drawn from a seed: the same plan, with other walls, colours and things."""

import math
from random import Random

from fm3d_plugins.synthetic_rooms import furniture
from fm3d_plugins.synthetic_rooms.scene import Lamp, Room, Solid, Texture, Vector, Window, cube

_WINDOW_HALF_WIDTH, _WINDOW_HALF_HEIGHT = 0.75, 0.6
_WALL_COLORS = (
    ((0.80, 0.42, 0.30), (0.70, 0.33, 0.23), (0.86, 0.52, 0.38), (0.58, 0.26, 0.18)),
    ((0.88, 0.74, 0.48), (0.80, 0.64, 0.38), (0.93, 0.82, 0.60), (0.66, 0.50, 0.28)),
    ((0.55, 0.66, 0.58), (0.45, 0.57, 0.50), (0.66, 0.75, 0.64), (0.33, 0.43, 0.38)),
    ((0.46, 0.58, 0.64), (0.37, 0.48, 0.55), (0.60, 0.70, 0.73), (0.26, 0.35, 0.42)),
)
_BRICK_COLORS = (
    ((0.70, 0.38, 0.26), (0.56, 0.27, 0.19), (0.78, 0.70, 0.60), (0.36, 0.20, 0.17)),
    ((0.85, 0.78, 0.68), (0.74, 0.64, 0.54), (0.88, 0.84, 0.77), (0.60, 0.47, 0.38)),
)
_PAPER_COLORS = (
    ((0.15, 0.33, 0.36), (0.90, 0.72, 0.42), (0.82, 0.42, 0.30), (0.55, 0.62, 0.42)),
    ((0.90, 0.83, 0.68), (0.72, 0.30, 0.24), (0.24, 0.44, 0.44), (0.80, 0.58, 0.24)),
    ((0.30, 0.36, 0.24), (0.93, 0.80, 0.56), (0.86, 0.55, 0.42), (0.62, 0.66, 0.36)),
)
_CEILING = ((0.90, 0.86, 0.78), (0.82, 0.76, 0.66), (0.93, 0.90, 0.84), (0.70, 0.62, 0.52))
_SKY = ((0.45, 0.68, 0.95), (0.92, 0.93, 0.90), (1.0, 1.0, 1.0), (0.25, 0.38, 0.18))


def random_room(seed: int = 0) -> Room:
    """A furnished, sunlit room; every wall and thing has its own pattern, so views match uniquely.

    The floor's middle and the side towards -y are free for cameras (see `capture_cameras` in
    `synthetic`); furniture stands along the other walls and around a table in the middle.
    """
    rng = Random(f"room {seed}")
    size = (rng.uniform(5.4, 5.9), rng.uniform(4.8, 5.2), rng.uniform(2.6, 2.8))
    window = _window(rng, size)
    lamp = Lamp((0.0, 0.35, size[2] - 0.62), 0.2, (34.0, 25.0, 15.0))
    solids = [
        *_window_parts(rng, window),
        *_lamp_parts(rng, lamp, size[2]),
        *_along_the_walls(rng, size),
        *_in_the_middle(rng),
        *_pictures(rng, size),
        *_beams(rng, size),
    ]
    return Room(size, _walls(rng), tuple(solids), window, (lamp,))


def _walls(rng: Random) -> tuple[Texture, Texture, Texture, Texture, Texture, Texture]:
    def texture(pattern, colors, scale, gloss=0.0):
        return Texture(pattern, rng.choice(colors), scale, rng.randrange(1 << 20), gloss)

    brick = texture("brick", _BRICK_COLORS, 0.25)
    paper = texture("wallpaper", _PAPER_COLORS, rng.uniform(0.2, 0.26))
    paint, front = texture("plaster", _WALL_COLORS, 0.4), texture("plaster", _WALL_COLORS, 0.3)
    floor = texture("planks", furniture.WOODS, rng.uniform(0.11, 0.15), 0.35)
    ceiling = texture("plaster", (_CEILING,), 0.35)
    left, back, right = rng.choice(((brick, paper, paint), (brick, paint, paper)))
    return left, right, front, back, floor, ceiling


def _window(rng: Random, size: Vector) -> Window:
    center = (-size[0] / 2 + 0.02, rng.uniform(0.15, 0.5), 1.5)
    aside, rise = rng.uniform(-0.3, -0.1), rng.uniform(0.56, 0.7)
    length = math.sqrt(1.0 + aside * aside + rise * rise)
    to_sun = (-1.0 / length, aside / length, rise / length)
    halves = (_WINDOW_HALF_WIDTH, _WINDOW_HALF_HEIGHT)
    return Window(center, (1.0, 0.0, 0.0), *halves, (3.4, 3.7, 4.2), to_sun, (3.4, 2.7, 1.8))


def _window_parts(rng: Random, window: Window) -> list[Solid]:
    """The bright pane, its frame and glazing bars, and a sill."""
    x, y, z = window.center
    a, b = window.half_width, window.half_height
    pane = Texture("sky", _SKY, 1.0, rng.randrange(1 << 20), 0.0, 2.6)
    white = ((0.93, 0.90, 0.84), (0.86, 0.82, 0.75), (0.95, 0.93, 0.9), (0.7, 0.66, 0.6))
    paint = (Texture("plaster", white, 0.1, rng.randrange(1 << 20)),)
    solids = [Solid("box", (x - 0.01, y, z), (0.008, a, b), (pane,))]
    for side in (-1.0, 1.0):
        solids.append(Solid("box", (x, y + side * (a + 0.03), z), (0.04, 0.03, b + 0.06), paint))
        solids.append(Solid("box", (x, y, z + side * (b + 0.03)), (0.04, a, 0.03), paint))
    for share in (-1.0 / 3.0, 1.0 / 3.0):
        solids.append(
            Solid("box", (x + 0.015, y + 2.0 * a * share / 2.0, z), (0.012, 0.018, b), paint)
        )
    solids.append(Solid("box", (x + 0.015, y, z + 0.1), (0.012, a, 0.018), paint))
    sill = Solid("box", (x + 0.08, y, z - b - 0.075), (0.1, a + 0.1, 0.015), (furniture.wood(rng),))
    return [*solids, sill]


def _lamp_parts(rng: Random, lamp: Lamp, ceiling: float) -> list[Solid]:
    x, y, z = lamp.center
    glow = (1.0, 0.86, 0.62)
    paper = Texture("lantern", (glow, glow, glow, glow), 1.0, rng.randrange(1 << 20), 0.0, 1.5)
    half = (ceiling - z - lamp.radius) / 2
    cord = Solid("frustum", (x, y, ceiling - half), (0.006, 0.006, half), (furniture.wood(rng),))
    ball = cube(lamp.radius - 0.01)
    return [Solid("ellipsoid", lamp.center, ball, (paper,)), cord]


def _along_the_walls(rng: Random, size: Vector) -> list[Solid]:
    x, y = size[0] / 2, size[1] / 2
    shelf = (x - 1.75, y - 0.31, 0.0)
    board = (x - 0.26, rng.uniform(0.35, 0.6), 0.0)
    top = (board[0], board[1], 0.77)
    things = furniture.globe(rng, (top[0], top[1] + 0.35, top[2]), 0.19)
    vase = furniture.painted(rng, "spots", 0.07, 0.8)
    for z, low, high, half in ((0.11, 0.05, 0.1, 0.11), (0.28, 0.1, 0.04, 0.06)):
        place = (top[0], top[1] - 0.4, top[2] + z)
        things.append(Solid("frustum", place, (low, high, half), (vase,)))
    return [
        *furniture.bookshelf(rng, shelf, rng.uniform(1.35, 1.5), rng.uniform(1.8, 1.95)),
        *furniture.sofa(rng, (rng.uniform(-0.95, -0.8), y - 0.5, 0.0), 1.9, 0.0),
        *furniture.plant(rng, (-x + 0.35, y - 0.4, 0.0), rng.uniform(1.2, 1.4)),
        *furniture.sideboard(rng, board, 1.35, -90.0),
        *things,
    ]


def _in_the_middle(rng: Random) -> list[Solid]:
    center = (rng.uniform(-0.15, 0.05), rng.uniform(0.15, 0.3), 0.0)
    height, radius = rng.uniform(0.42, 0.48), rng.uniform(0.5, 0.56)
    weave = furniture.painted(rng, "rug", 0.13)
    table = furniture.coffee_table(rng, (*center[:2], 0.012), radius, height)
    return [
        Solid("box", (center[0], center[1], 0.006), (1.45, 0.95, 0.006), (weave,), -4.0),
        *table,
        *furniture.still_life(rng, (*center[:2], height + 0.012), radius),
        *furniture.toys(rng, (center[0], center[1], 0.012)),
    ]


def _pictures(rng: Random, size: Vector) -> list[Solid]:
    """Framed pictures on all four walls; no two neighbours have the same composition."""
    x, y = size[0] / 2, size[1] / 2
    spots = [
        (3, (-2.05, y, 1.72), 0.5, 0.66),
        (3, (-1.35, y, 1.55), 0.62, 0.48),
        (3, (-0.55, y, 1.62), 0.52, 0.68),
        (3, (0.25, y, 1.5), 0.6, 0.46),
        (3, (-1.3, y, 2.12), 0.56, 0.4),
        (3, (0.2, y, 2.08), 0.5, 0.4),
        (1, (x, 0.05, 1.75), 0.5, 0.66),
        (1, (x, 0.85, 1.8), 0.62, 0.5),
        (1, (x, -0.85, 1.6), 0.7, 0.9),
        (0, (-x, -0.95, 1.6), 0.56, 0.74),
        (0, (-x, 1.6, 1.75), 0.5, 0.66),
        (2, (-1.2, -y, 1.6), 0.7, 0.9),
        (2, (0.9, -y, 1.6), 0.9, 0.7),
    ]
    solids = []
    first = rng.randrange(6)
    for index, (wall, center, width, height) in enumerate(spots):
        scale = rng.uniform(0.9, 1.0)
        solids += furniture.framed_picture(
            rng, center, scale * width, scale * height, wall, (first + index) % 6
        )
    return solids


def _beams(rng: Random, size: Vector) -> list[Solid]:
    grain = furniture.wood(rng)
    half = (0.07, size[1] / 2, 0.06)
    return [
        Solid("box", (share * size[0], 0.0, size[2] - 0.06), half, (grain,))
        for share in (-0.3, 0.0, 0.3)
    ]
