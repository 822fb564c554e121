"""Furniture and ornaments of the synthetic rooms, composed of textured solids."""

from random import Random

from fm3d_plugins.synthetic_rooms.scene import Solid, Texture, Vector, cube, turned

Palette = tuple[Vector, Vector, Vector, Vector]

SCHEMES: tuple[Palette, ...] = (
    ((0.13, 0.45, 0.47), (0.94, 0.87, 0.72), (0.90, 0.45, 0.31), (0.93, 0.70, 0.28)),
    ((0.17, 0.28, 0.47), (0.93, 0.89, 0.80), (0.85, 0.33, 0.24), (0.55, 0.72, 0.78)),
    ((0.46, 0.54, 0.28), (0.95, 0.85, 0.62), (0.76, 0.38, 0.22), (0.25, 0.36, 0.28)),
    ((0.78, 0.28, 0.24), (0.96, 0.90, 0.78), (0.95, 0.72, 0.36), (0.28, 0.42, 0.46)),
    ((0.88, 0.60, 0.54), (0.97, 0.92, 0.83), (0.36, 0.52, 0.50), (0.62, 0.28, 0.26)),
    ((0.93, 0.68, 0.24), (0.27, 0.34, 0.42), (0.96, 0.91, 0.80), (0.80, 0.40, 0.24)),
    ((0.34, 0.56, 0.62), (0.96, 0.80, 0.56), (0.92, 0.93, 0.88), (0.18, 0.30, 0.42)),
    ((0.55, 0.26, 0.30), (0.94, 0.78, 0.60), (0.86, 0.52, 0.40), (0.35, 0.42, 0.34)),
)
"""Colours that go together: no thing mixes two schemes."""

WOODS: tuple[Palette, ...] = (
    ((0.78, 0.57, 0.36), (0.62, 0.40, 0.22), (0.47, 0.28, 0.14), (0.36, 0.22, 0.12)),
    ((0.66, 0.43, 0.26), (0.50, 0.29, 0.16), (0.34, 0.19, 0.10), (0.27, 0.15, 0.08)),
    ((0.85, 0.70, 0.50), (0.74, 0.56, 0.36), (0.58, 0.41, 0.24), (0.45, 0.31, 0.18)),
)
_PAPER: Vector = (0.90, 0.86, 0.77)


def accents(rng: Random) -> Palette:
    """The four colours of one scheme, in any order."""
    a, b, c, d = rng.sample(rng.choice(SCHEMES), 4)
    return a, b, c, d


def _tones(color: Vector) -> Palette:
    """Four tones of one colour."""

    def scaled(factor: float) -> Vector:
        return color[0] * factor, color[1] * factor, color[2] * factor

    return scaled(0.95), scaled(0.82), scaled(1.03), scaled(0.68)


def wood(rng: Random, gloss: float = 0.0) -> Texture:
    """A wood with its own grain."""
    return Texture("wood", rng.choice(WOODS), 0.16, rng.randrange(1 << 20), gloss)


def painted(rng: Random, pattern: str, scale: float, gloss: float = 0.0) -> Texture:
    """A pattern of its own in the colours of one scheme."""
    return Texture(pattern, accents(rng), scale, rng.randrange(1 << 20), gloss)


def _art(rng: Random, style: int) -> Texture:
    """A poster; its seed modulo six is the composition."""
    light, *rest = sorted(rng.choice(SCHEMES), key=sum, reverse=True)
    colors = (_PAPER if style in (0, 5) else light, rest[0], rest[1], rest[2])
    return Texture("poster", colors, 0.2, 6 * rng.randrange(1 << 16) + style)


def framed_picture(
    rng: Random, center: Vector, width: float, height: float, wall: int, style: int
) -> list[Solid]:
    """A picture in a frame that hangs on wall 0..3 (-x, +x, -y, +y); `center` is on the wall."""
    frame, art, thin = wood(rng), _art(rng, style), 0.012
    axis, sign = wall // 2, -1.0 if wall % 2 else 1.0
    solids = []
    for out, depth, grow, faces in ((thin, thin, 0.035, (frame,)), (0.03, 0.006, 0.0, (art,))):
        half = (width / 2 + grow, depth) if axis else (depth, width / 2 + grow)
        place = list(center)
        place[axis] += sign * out
        size = (half[0], half[1], height / 2 + grow)
        solids.append(Solid("box", (place[0], place[1], place[2]), size, faces))
    return solids


def bookshelf(rng: Random, corner: Vector, width: float, height: float) -> list[Solid]:
    """A shelf full of books against the +y wall; `corner` is its left front end on the floor."""
    x0, y0, z0 = corner
    deep, board, grain = 0.15, 0.016, wood(rng)
    middle = x0 + width / 2
    solids = [
        Solid("box", (x0, y0 + deep, z0 + height / 2), (board, deep, height / 2), (grain,)),
        Solid("box", (x0 + width, y0 + deep, z0 + height / 2), (board, deep, height / 2), (grain,)),
        Solid(
            "box", (middle, y0 + 2 * deep, z0 + height / 2), (width / 2, 0.01, height / 2), (grain,)
        ),
    ]
    rows = 5
    for row in range(rows + 1):
        z = z0 + 0.06 + row * (height - 0.08) / rows
        solids.append(Solid("box", (middle, y0 + deep, z), (width / 2, deep, board), (grain,)))
        if row < rows:
            room = (height - 0.08) / rows - 2 * board
            solids += _books(rng, x0 + 0.03, x0 + width - 0.03, y0 + 0.02, z + board, room)
    return solids


def _book_faces(rng: Random) -> tuple[Texture, ...]:
    cover, band, ink, _ = accents(rng)
    colors = (cover, band, ink, _PAPER)
    spine = Texture("spine", colors, 0.1, rng.randrange(1 << 20))
    pages = Texture("plaster", (_PAPER, (0.8, 0.75, 0.65), _PAPER, cover), 0.02, 3)
    return spine, spine, spine, spine, pages, pages


def _books(rng: Random, x: float, end: float, y: float, z: float, room: float) -> list[Solid]:
    """A row of upright books with a gap or an ornament here and there."""
    solids = []
    while True:
        if rng.random() < 0.09 and x + 0.2 < end:
            radius = rng.uniform(0.06, 0.08)
            ball = painted(rng, "spots", 0.06, 0.6)
            place = (x + radius + 0.02, y + 0.12, z + radius)
            solids.append(Solid("ellipsoid", place, cube(radius), (ball,)))
            x += 2 * radius + 0.04
        thick, tall = rng.uniform(0.026, 0.062), rng.uniform(0.66, 0.94) * room
        if x + thick > end:
            return solids
        deep = rng.uniform(0.085, 0.12)
        place = (x + thick / 2, y + rng.uniform(0.0, 0.02) + deep, z + tall / 2)
        size = (thick / 2 - 0.0008, deep, tall / 2)
        solids.append(Solid("box", place, size, _book_faces(rng)))
        x += thick


def sofa(rng: Random, center: Vector, width: float, turn_degrees: float) -> list[Solid]:
    """A sofa with cushions; it faces -y when not turned. `center` is on the floor."""
    body, cushion = painted(rng, "quilt", 0.17), painted(rng, "quilt", 0.11)
    a, b, c, d = accents(rng)
    plain = Texture("plaster", _tones(a), 0.12, rng.randrange(1 << 20))
    half = width / 2

    def part(offset: Vector, size: Vector, texture: Texture, rounding: float, tilt: float = 0.0):
        place = turned(center, turn_degrees, offset)
        return Solid("rounded_box", place, size, (texture,), turn_degrees, tilt, rounding)

    solids = [
        part((0.0, 0.0, 0.2), (half, 0.38, 0.16), plain, 0.04),
        part((0.0, 0.32, 0.55), (half, 0.11, 0.3), body, 0.08),
        part((-half, 0.0, 0.36), (0.1, 0.4, 0.24), plain, 0.08),
        part((half, 0.0, 0.36), (0.1, 0.4, 0.24), plain, 0.08),
    ]
    for side in (-0.5, 0.5):
        seat = (half / 2 - 0.06, 0.34, 0.08)
        solids.append(part((side * (half - 0.1), -0.04, 0.42), seat, body, 0.06))
        pillow = (0.19, 0.07, 0.17)
        solids.append(part((side * half * 1.1, 0.12, 0.66), pillow, cushion, 0.065, -18.0))
        cushion = Texture("spots", (d, a, c, b), 0.09, rng.randrange(1 << 20))
    return solids


def coffee_table(rng: Random, center: Vector, radius: float, height: float) -> list[Solid]:
    """A round table on four legs; `center` is on the floor."""
    top = wood(rng, gloss=0.5)
    place = (center[0], center[1], center[2] + height - 0.02)
    solids = [Solid("frustum", place, (radius - 0.015, radius, 0.02), (top,))]
    for turn in (45.0, 135.0, 225.0, 315.0):
        x, y, z = turned(center, turn, (0.72 * radius, 0.0, height / 2 - 0.02))
        solids.append(Solid("frustum", (x, y, z), (0.018, 0.032, height / 2 - 0.02), (top,)))
    return solids


def still_life(rng: Random, center: Vector, radius: float) -> list[Solid]:
    """What stands on a table: a glazed ball, a ring, a vase with fruit, a pile of books."""
    start = rng.uniform(0.0, 360.0)

    def spot(turn: float, reach: float, z: float) -> Vector:
        return turned(center, start + turn, (reach * radius, 0.0, z))

    ring, ball = painted(rng, "marble", 0.22, 0.5), painted(rng, "spots", 0.09, 1.0)
    vase, cup = painted(rng, "marble", 0.16, 0.7), painted(rng, "spots", 0.05, 0.8)
    solids = [
        Solid("torus", spot(0.0, 0.55, 0.05), (0.12, 0.05, 1.0), (ring,)),
        Solid("ellipsoid", spot(120.0, 0.5, 0.13), (0.13, 0.13, 0.13), (ball,)),
        Solid("frustum", spot(240.0, 0.5, 0.09), (0.05, 0.095, 0.09), (vase,)),
        Solid("frustum", spot(240.0, 0.5, 0.22), (0.095, 0.045, 0.04), (vase,)),
        Solid("frustum", spot(180.0, 0.82, 0.04), (0.03, 0.042, 0.04), (cup,)),
    ]
    for fruit in range(3):
        round_fruit = painted(rng, "marble", 0.07, 0.4)
        place = spot(20.0 * fruit + 40.0, 0.82 - 0.1 * (fruit % 2), 0.038)
        solids.append(Solid("ellipsoid", place, (0.04, 0.04, 0.038), (round_fruit,)))
    for level in range(3):
        size = (0.11 - 0.01 * level, 0.08 - 0.008 * level, 0.014)
        place = spot(300.0, 0.6, 0.014 + 0.028 * level)
        turn = rng.uniform(0.0, 90.0)
        cover = (painted(rng, "poster", 0.1),)
        solids.append(Solid("box", place, size, cover, turn))
    return solids


def globe(rng: Random, center: Vector, radius: float) -> list[Solid]:
    """A globe on a foot; `center` is where the foot stands."""
    sea, land = rng.choice(((0.12, 0.33, 0.5), (0.1, 0.4, 0.42))), (0.5, 0.55, 0.26)
    colors = (sea, land, (0.8, 0.62, 0.36), (0.93, 0.92, 0.88))
    earth, brass = Texture("globe", colors, 1.0, rng.randrange(1 << 20), 0.5), wood(rng, 0.4)
    x, y, z = center
    return [
        Solid("frustum", (x, y, z + 0.02), (0.6 * radius, 0.5 * radius, 0.02), (brass,)),
        Solid("frustum", (x, y, z + 0.07), (0.03, 0.02, 0.04), (brass,)),
        Solid("ellipsoid", (x, y, z + 0.1 + radius), cube(radius), (earth,), 40.0, 23.0),
    ]


def plant(rng: Random, center: Vector, height: float) -> list[Solid]:
    """A potted plant; `center` is on the floor."""
    pot = painted(rng, "tiles", 0.09, 0.3)
    greens = ((0.20, 0.36, 0.14), (0.36, 0.52, 0.18), (0.13, 0.28, 0.13), (0.62, 0.68, 0.30))
    x, y, z = center
    solids = [
        Solid("frustum", (x, y, z + 0.16), (0.13, 0.18, 0.16), (pot,)),
        Solid("frustum", (x, y, z + 0.2 + height / 4), (0.025, 0.015, height / 4), (wood(rng),)),
    ]
    for _ in range(12):
        leaf = Texture("spots", greens, rng.uniform(0.05, 0.09), rng.randrange(1 << 20))
        turn, rise = rng.uniform(0.0, 360.0), rng.uniform(0.45, 0.95) * height
        place = turned(center, turn, (rng.uniform(0.05, 0.17), 0.0, rise))
        size = (rng.uniform(0.09, 0.15), rng.uniform(0.04, 0.07), rng.uniform(0.1, 0.17))
        solids.append(Solid("ellipsoid", place, size, (leaf,), turn, rng.uniform(-40.0, 40.0)))
    return solids


def sideboard(rng: Random, center: Vector, width: float, turn_degrees: float) -> list[Solid]:
    """A low cabinet with painted doors; it faces -y when not turned. `center` is on the floor."""
    grain, half = wood(rng), width / 2
    body = turned(center, turn_degrees, (0.0, 0.0, 0.4))
    solids = [Solid("box", body, (half, 0.2, 0.34), (grain,), turn_degrees)]
    for door in (-1, 0, 1):
        paint = Texture("tiles", accents(rng), rng.uniform(0.07, 0.12), rng.randrange(1 << 20))
        place = turned(center, turn_degrees, (door * width / 3, -0.205, 0.4))
        solids.append(Solid("box", place, (width / 6 - 0.02, 0.012, 0.3), (paint,), turn_degrees))
    top = turned(center, turn_degrees, (0.0, 0.0, 0.755))
    return [*solids, Solid("box", top, (half + 0.02, 0.23, 0.015), (wood(rng, 0.4),), turn_degrees)]


def toys(rng: Random, center: Vector) -> list[Solid]:
    """A big ball, a tower of cubes and a pouf, spread around a point on the floor."""
    ball = painted(rng, "tiles", 0.13, 0.5)
    solids = [Solid("ellipsoid", turned(center, 0.0, (-0.95, -0.1, 0.17)), cube(0.17), (ball,))]
    for level, half in enumerate((0.13, 0.11, 0.09)):
        faces = tuple(
            Texture(pattern, accents(rng), 0.08, 6 * rng.randrange(1 << 16) + rng.randrange(6))
            for pattern in ("poster", "quilt", "poster", "tiles", "wood", "poster")
        )
        place = turned(center, 0.0, (0.95, -0.25, (0.13, 0.37, 0.57)[level]))
        solids.append(Solid("box", place, cube(half), faces, rng.uniform(0.0, 90.0)))
    pouf = painted(rng, "quilt", 0.12)
    place = turned(center, 0.0, (1.0, 0.45, 0.18))
    return [*solids, Solid("rounded_box", place, (0.26, 0.26, 0.18), (pouf,), 20.0, 0.0, 0.12)]
