"""Description of a synthetic room: solids, textures, window and lamps. Metres, z up.

Nothing here renders: `tables` turns a `Room` into the arrays the renderer reads.
"""

import math
from dataclasses import dataclass

Vector = tuple[float, float, float]

SHAPES = ("shell", "box", "rounded_box", "ellipsoid", "frustum", "torus")
"""What a solid can be; the shell is the inside of the room's box."""

PATTERNS = (
    "plaster", "planks", "brick", "tiles", "marble", "spots", "rug", "poster", "spine", "globe",
    "wallpaper", "wood", "quilt", "sky", "lantern",
)  # fmt: skip
"""What can be painted on a solid; drawn by `textures`."""


@dataclass(frozen=True)
class Texture:
    """A procedural material. Colours are sRGB in [0, 1]."""

    pattern: str
    """One of PATTERNS."""
    colors: tuple[Vector, Vector, Vector, Vector]
    scale: float = 0.2
    """Size of the pattern's cells, metres."""
    seed: int = 0
    gloss: float = 0.0
    """Strength of the mirror reflection; 1 is a glazed surface."""
    emission: float = 0.0
    """Radiance of a white point of the pattern; 0 for surfaces that only reflect."""

    def __post_init__(self):
        if self.pattern not in PATTERNS:
            raise ValueError(
                f"The texture pattern is {self.pattern!r}. Expected one of {', '.join(PATTERNS)}. "
                "Correct `pattern`."
            )


@dataclass(frozen=True)
class Solid:
    """One solid. `size` is half extents (boxes), semi-axes (ellipsoid), bottom radius, top radius
    and half height (frustum), or ring and tube radius and an unused number (torus)."""

    shape: str
    """One of SHAPES."""
    center: Vector
    size: Vector
    textures: tuple[Texture, ...]
    """One for all faces; or for boxes one per face in the order -x, +x, -y, +y, -z, +z, and for
    frustums side, bottom, top."""
    turn_degrees: float = 0.0
    """Rotation about the upright axis."""
    tilt_degrees: float = 0.0
    """Rotation about the solid's own x axis, before the turn."""
    rounding: float = 0.0
    """Radius of the edges of a rounded box, metres."""

    def __post_init__(self):
        num_faces = {"frustum": 3, "ellipsoid": 1, "torus": 1}.get(self.shape, 6)
        if self.shape not in SHAPES or len(self.textures) not in (1, num_faces):
            raise ValueError(
                f"A solid has shape {self.shape!r} and {len(self.textures)} textures. Expected one "
                f"of {', '.join(SHAPES)} with 1 or {num_faces} textures. Correct its description."
            )
        if min(self.size) <= 0.0 or self.rounding > min(self.size):
            raise ValueError(
                f"A {self.shape} has size {self.size} and rounding {self.rounding}. Expected "
                "positive lengths and a rounding of at most the smallest. Correct its description."
            )


@dataclass(frozen=True)
class Window:
    """A bright rectangle on a wall: daylight, and the sun that shines through it."""

    center: Vector
    inward: Vector
    """Unit normal into the room, horizontal."""
    half_width: float
    half_height: float
    sky_radiance: Vector
    to_sun: Vector
    """Unit vector towards the sun; against `inward`."""
    sun_radiance: Vector
    """Light reflected by a white surface that faces the sun."""


@dataclass(frozen=True)
class Lamp:
    """A glowing ball."""

    center: Vector
    radius: float
    radiance: Vector


@dataclass(frozen=True)
class Room:
    """A closed room. The box |x| <= size[0] / 2, |y| <= size[1] / 2, 0 <= z <= size[2]."""

    size: Vector
    walls: tuple[Texture, Texture, Texture, Texture, Texture, Texture]
    """Textures of -x, +x, -y, +y, floor, ceiling."""
    solids: tuple[Solid, ...]
    window: Window
    lamps: tuple[Lamp, ...]
    ambient: Vector = (0.24, 0.2, 0.17)
    """Light of the second and later bounces, in units of radiance of a white surface."""
    exposure: float = 1.6


def cube(half: float) -> Vector:
    """Three equal lengths: the size of a cube or ball."""
    return half, half, half


def turned(solid_center: Vector, turn_degrees: float, offset: Vector) -> Vector:
    """The point at `offset` in axes turned about the upright through `solid_center`."""
    c, s = math.cos(math.radians(turn_degrees)), math.sin(math.radians(turn_degrees))
    x, y, z = offset
    return (
        solid_center[0] + c * x - s * y,
        solid_center[1] + s * x + c * y,
        solid_center[2] + z,
    )
