"""Captures of things before a background, for the tests of the methods that look for one."""

import shutil
from pathlib import Path

from PIL import Image

BOX = (30, 20, 60, 50)
"""Columns and rows of the thing: left, upper, right, lower; of photos of 96 x 72 pixels."""


def before(background: Image.Image, capture: Path, folder: Path) -> Path:
    """A copy of a capture whose photos show their middle alone, before the background."""
    scene = folder / "scene"
    shutil.copytree(capture, scene)
    for photo in (scene / "images").iterdir():
        canvas = background.copy()
        canvas.paste(Image.open(photo).convert("RGB").crop(BOX), BOX)
        canvas.save(photo, quality=95)
    return scene


def one_color(level: int) -> Image.Image:
    """Black (0) to white (255)."""
    return Image.new("RGB", (96, 72), (level, level, level))
