"""Depth and confidence maps as files, one per photo, each over exactly its photo."""

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fm3d_plugins.atomic import atomic_write
from fm3d_plugins.files import kind_of, naming_damage, require_regular
from fm3d_plugins.progress import say
from fm3d_plugins.scene import SceneGeometry

PIXELS_PER_BYTE = 32_000
"""No compression without loss reaches that: a size above it is a damaged header's."""

NERFSTUDIO_UNIT = 1e-3
"""Scene units per unit of a depth file, as `nerfstudio-data` takes it unless told otherwise."""


@dataclass(frozen=True)
class DepthMapFiles:
    """Where the maps of each view are, by the name of its photo. Arrays of [rows, columns]."""

    depths: Mapping[str, Path]
    """z-depth; 0 where it is unknown."""
    confidences: Mapping[str, Path]
    """In [0, 1]."""


@dataclass(frozen=True)
class DepthFiles:
    """Depth maps of some photos, and their confidence."""

    photos: Sequence[Path]
    depths: Sequence[Path]
    """Maps of z-depth as 16- or 32-bit images or .npy, in nerfstudio's convention."""
    confidences: Sequence[Path]
    """Maps of any positive scale (.npy or images); empty: every depth counts alike."""
    scale: float
    """Scene units per unit of the files."""

    def check(self) -> None:
        """Refuse lists that cannot belong to the photos.

        Raises:
            ValueError: No depth maps, or not one map per photo.
            FileNotFoundError: Files are absent.
        """
        if not self.depths:
            raise ValueError(
                f"Depth supervision is on, but the dataparser brings no depth maps for its "
                f"{len(self.photos)} training photos. Expected one map per photo (nerfstudio-data: "
                "`depth_file_path` in every frame of transforms.json). Add them, or leave out "
                "--pipeline.model.depth.weight."
            )
        for what, files in (("depth", self.depths), ("confidence", self.confidences)):
            if files and len(files) != len(self.photos):
                raise ValueError(
                    f"The dataparser brings {len(files)} {what} maps for {len(self.photos)} "
                    "training photos. Expected one per photo. Correct the dataparser's list."
                )
            absent = [str(file) for file in files if not Path(file).is_file()]
            if absent:
                raise FileNotFoundError(
                    f"{len(absent)} of {len(files)} {what} maps are absent (first: {absent[0]}). "
                    "Put them there, or take them out of the scene's description."
                )


def write_depth_maps(scene: SceneGeometry, folder: Path, *, unit: float = 1.0) -> DepthMapFiles:
    """Write depth/<photo>.npy and depth_confidence/<photo>.npy; files that can be used are kept.

    Maps keep the estimator's resolution, but cover exactly their photo: readers stretch a map over
    it. Depth is in half precision where the scene's is and the unit is 1, else in single.

    Args:
        scene: With depth.
        unit: Scene units per unit of the depth files.

    Raises:
        ValueError: The scene has no depth.
    """
    if scene.depth is None:
        raise ValueError(
            "Depth maps of a scene without depth were to be written. Expected an estimator that "
            "gives depth. Choose one, or leave the maps out."
        )
    depths, confidences = {}, {}
    for view, name in enumerate(scene.names):
        depths[name] = folder / "depth" / f"{name}.npy"
        confidences[name] = folder / "depth_confidence" / f"{name}.npy"
        width, height = scene.image_sizes[view].tolist()
        shape = scene.depth.frame_shape(view, (width, height))
        if _is_kept(depths[name], shape, torch.inf) and _is_kept(confidences[name], shape, 1.0):
            continue
        depth, confidence = scene.depth.in_photo_frame(view, (width, height), shape)
        write_map(depths[name], depth if unit == 1.0 else depth.float() / unit)
        write_map(confidences[name], confidence)
    return DepthMapFiles(depths, confidences)


def _is_kept(path: Path, shape: tuple[int, int], highest: float) -> bool:
    """Whether a map is there and can be used; one that cannot is said."""
    if kind_of(path) is None:
        return False
    try:
        values = read_map(path)
        fault = None
        if values.shape != tuple(shape):
            fault = f"it is {list(values.shape)}, expected {list(shape)}"
        elif not ((values >= 0) & (values <= highest) & np.isfinite(values)).all():
            fault = "it holds numbers that no map has"
    except ValueError as error:
        fault = str(error)
    if fault:
        say(f"{path} is not used and made anew: {fault}", "yellow")
    return fault is None


def write_map(path: Path, values: Float[Tensor, "rows columns"]) -> None:
    """Write one .npy file, atomically, in half precision where the values are."""
    values = values if values.dtype == torch.float16 else values.float()
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.save(file, values.detach().cpu().numpy())


def read_map(file: Path) -> Float[np.ndarray, "rows columns"]:
    """One number per pixel, in single precision, of a .npy file or an image.

    Raises:
        ValueError: The file cannot be read, or holds something else.
        OSError: There is no such file, or it is a pipe or a device.
    """
    file = require_regular(Path(file))
    values = _read_npy(file) if file.suffix == ".npy" else _read_image(file)
    squeezed = values.squeeze(-1) if values.ndim == 3 and values.shape[-1] == 1 else values
    is_number = squeezed.dtype.kind in "fui"
    if squeezed.ndim != 2 or not squeezed.size or not is_number:
        raise ValueError(
            f"{file} holds {values.dtype} values of shape {list(values.shape)}. Expected one "
            "number per pixel, [height, width]. Write it anew."
        )
    return squeezed.astype(np.float32)


def _read_npy(file: Path) -> np.ndarray:
    expected = "Expected an array of numbers as numpy.save writes it. Write it anew."
    with naming_damage(file, expected):
        # Mapped: a damaged shape may ask for more memory than there is.
        values = np.lib.format.open_memmap(file, mode="r")
        if values.offset + values.nbytes != file.stat().st_size:
            raise ValueError(f"{file} goes on behind its {values.size} numbers. {expected}")
        return np.array(values)


def _read_image(file: Path) -> Any:
    from PIL import Image

    expected = "Expected a 16- or 32-bit image of one channel, or a .npy file. Write it anew."
    # As bytes: of a file as many would be asked for as a damaged count says.
    with naming_damage(file, expected), Image.open(io.BytesIO(file.read_bytes())) as image:
        (width, height), size = image.size, file.stat().st_size
        if width * height > PIXELS_PER_BYTE * size:
            raise ValueError(f"{file} has {size} bytes for {width} x {height} pixels. {expected}")
        return np.array(image)


def depth_digest(scene: SceneGeometry) -> str:
    """A hash of all that `write_depth_maps` depends on, to tell estimates of the same photos apart.

    The same photos and options can give other depths: on another device, or made anew.
    """
    assert scene.depth is not None
    total = hashlib.blake2b(digest_size=16)
    total.update("\0".join(scene.names).encode())
    for tensor in (
        scene.image_sizes,
        scene.depth.depth,
        scene.depth.confidence,
        scene.depth.map_from_photo.scale,
        scene.depth.map_from_photo.offset,
    ):
        total.update(f"{list(tensor.shape)}{tensor.dtype}".encode())
        total.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return total.hexdigest()
