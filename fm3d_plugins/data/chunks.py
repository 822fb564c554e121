"""Scenes of pixelSplat's data sets: several in one torch file, with their encoded photos."""

import io
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from fm3d_plugins.checkpoints.loading import read_torch
from fm3d_plugins.data.scenes import CapturedScene, checked_scene

CAMERA_NUMBERS = 18
"""fx, fy, cx, cy in units of the photo's sides, two of no use, 3 x 4 from world to camera."""

_EXPECTED = (
    "Expected a chunk of pixelSplat's data sets: a list of scenes, each with key, images (encoded "
    f"photos as tensors of bytes) and cameras ({CAMERA_NUMBERS} numbers for each photo). Fetch the "
    "file again, or choose another."
)


def read_chunk(path: Path, *, in_pixels: bool = True) -> list[CapturedScene]:
    """All scenes of a chunk. Nothing in the file is run.

    Args:
        in_pixels: Give intrinsics in pixels, for which every photo's size is read. Otherwise they
            are in units of the photos' sides, and photos stay on the disk until they are opened.

    Raises:
        ValueError: It is damaged, holds Python objects, or is no chunk.
        OSError: It cannot be read.
    """
    content = read_torch(path, _EXPECTED)
    if not isinstance(content, list) or not content:
        found = "no scene" if content == [] else f"a {type(content).__name__}"
        raise ValueError(f"{path} holds {found}. {_EXPECTED}")
    return [_scene(path, index, entry, in_pixels) for index, entry in enumerate(content)]


def _scene(path: Path, index: int, entry: object, in_pixels: bool) -> CapturedScene:
    match entry:
        case {"key": str(name), "images": [_, *_] as images, "cameras": Tensor() as cameras} if (
            cameras.shape == (len(images), CAMERA_NUMBERS)
            and all(isinstance(each, Tensor) and each.dtype == torch.uint8 for each in images)
        ):
            pass
        case _:
            raise ValueError(f"{path}: its scene {index} is {entry!r:.100}. {_EXPECTED}")
    numbers = cameras.double()
    bottom = numbers.new_tensor([[[0, 0, 0, 1]]]).expand(len(images), -1, -1)
    camera_from_world = torch.cat([numbers[:, 6:].unflatten(-1, (3, 4)), bottom], dim=1)
    if not in_pixels:
        scene = checked_scene(name, images, numbers[:, :4], camera_from_world, path)
        return replace(scene, sizes=numbers.new_ones(len(images), 2))
    photos = [each.numpy().tobytes() for each in images]
    sizes = torch.tensor([_size(path, name, i, photo) for i, photo in enumerate(photos)])
    return checked_scene(name, photos, numbers[:, :4] * sizes.repeat(1, 2), camera_from_world, path)


def _size(path: Path, name: str, number: int, photo: bytes) -> tuple[int, int]:
    """Width and height, from the header."""
    from PIL import Image

    try:
        return Image.open(io.BytesIO(photo)).size
    except Exception as error:  # Pillow's decoders raise many types on damaged files.
        raise ValueError(
            f"{path}: photo {number} of the scene {name} is no image ({error}). {_EXPECTED}"
        ) from error
