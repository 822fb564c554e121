"""What nerfstudio's dataparsers pass over, added to what they say of a scene."""

import math
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from nerfstudio.cameras.cameras import CameraType
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.dataparsers.colmap_dataparser import (
    MAX_AUTO_RESOLUTION,
    ColmapDataParser,
)
from nerfstudio.data.dataparsers.nerfstudio_dataparser import Nerfstudio
from torch import Tensor

from fm3d_plugins.files import require_regular
from fm3d_plugins.geometry.alignment import Similarity
from fm3d_plugins.geometry.lenses import FISHEYE
from fm3d_plugins.io.transforms_fields import lenses_of, load
from fm3d_plugins.nerfstudio_cameras import dataparser_frame, image_sizes
from fm3d_plugins.photos.masks import MASKS, mask_beside, names_of_mask

FULL_SIZES = "full_sizes"
"""Key of metadata: [V, 2] int, width and height of each photo before it was scaled down into the
file that is read. The cameras' focal lengths and principal points are those of it, divided by
`DOWNSCALE`; where absent, nothing was scaled down."""

DOWNSCALE = "downscale"
"""Key of metadata: by how much."""

MASKS_BESIDE = "masks_beside"
"""Key of metadata: whether the masks were found in a folder, and not named by the scene. Photos
without one have None in their list then."""

FISHEYE_RADIUS = "fisheye_crop_radius"
"""Key of cameras' metadata, nerfstudio's: pixels from the middle that a fisheye's picture reaches.
A parser states it for the photos before they are scaled down."""


GUESSED_TRANSFORM = ((0.0, 1, 0, 0), (1, 0, 0, 0), (0, 0, -1, 0))
"""What nerfstudio takes for the `applied_transform` of a transforms.json that has none and stands
beside colmap/sparse/0."""

SMALLEST_VOLUME = 1e-9
"""Of a unit cube after a transform that can be undone."""


class FisheyeColmapParser(ColmapDataParser):
    """nerfstudio's COLMAP parser, which also takes fisheye lenses that have a k4, and masks that
    are called as COLMAP calls them.

    nerfstudio 1.1.5 takes a k4 for another number of COLMAP's FULL_OPENCV and refuses it, and knows
    masks as `1.png` alone, where COLMAP writes `1.jpg.png`.
    """

    fourth_coefficients: Mapping[Path, float] = {}
    """By photo, before smaller copies take its place; `completed` puts them into the cameras."""

    def _get_all_images_and_cameras(self, recon_dir: Path) -> dict[str, Any]:
        meta = super()._get_all_images_and_cameras(recon_dir)
        self._name_masks(meta["frames"])
        if meta["camera_model"] in FISHEYE.transforms_models:
            frames = meta["frames"]
            self.fourth_coefficients = {Path(f["file_path"]): f.pop("k4", 0.0) for f in frames}
        return meta

    def _name_masks(self, frames: list[dict[str, Any]]) -> None:
        """Of the names that `--masks-path` allows, the one that is there, where one is."""
        if self.config.masks_path is None:
            return
        folder = self.config.data / self.config.masks_path
        for frame in frames:
            photo = Path(frame["file_path"]).relative_to(self.config.data / self.config.images_path)
            names = names_of_mask(folder / photo)
            there = next((name for name in names if name.is_file()), None)
            frame["mask_path"] = frame["mask_path"] if there is None else there.as_posix()


def completed(outputs: DataparserOutputs, dataparser: Any, split: str) -> DataparserOutputs:
    """A dataparser's outputs, in place, with what this package asks for besides.

    nerfstudio's parser of transforms.json passes over `camera_model` in frames, which then counts
    where none stands at the top.

    A parser that reads copies of the photos (`images_2`) divides its cameras' sizes and rounds
    them; programs that make copies round in other ways. So the undivided sizes are added. It
    expects copies of named masks too; the masks themselves stand in for absent ones.

    Where a scene names no masks, those in a folder `masks` are its masks.

    Args:
        dataparser: After it has parsed.
        split: That the outputs are of.
    """
    factor = downscale_factor(dataparser)
    if factor > 1 and FULL_SIZES not in outputs.metadata:
        outputs.metadata[FULL_SIZES] = _full_sizes(dataparser, split)
        outputs.metadata[DOWNSCALE] = factor
    masks: list[Any] = outputs.mask_filenames or []
    if masks and factor > 1:
        outputs.mask_filenames = [_mask_that_is_there(mask, factor) for mask in masks]
    elif not masks:
        _add_masks_beside(outputs, scene_folder(dataparser), factor)
    if isinstance(dataparser, Nerfstudio):
        _set_lenses_of_frames(outputs, dataparser)
    if isinstance(dataparser, FisheyeColmapParser) and dataparser.fourth_coefficients:
        _set_fourth_coefficients(outputs, dataparser)
    return outputs


def _mask_that_is_there(mask: Any, factor: int) -> Any:
    """A smaller copy of a mask, or where there is none the mask itself."""
    if mask is None or mask.is_file():
        return mask
    folder = mask.parent.name.removesuffix(f"_{factor}")
    original = mask.parent.parent / folder / mask.name
    return original if original.is_file() else mask


def scene_folder(dataparser: Any) -> Path:
    """The folder of the scene that a dataparser reads."""
    config = getattr(dataparser, "config", None)  # None where another has parsed it already.
    data = Path(getattr(config, "data", None) or "")
    return data.parent if data.suffix == ".json" else data


def _add_masks_beside(outputs: DataparserOutputs, scene: Path, factor: int) -> None:
    """The masks of a folder beside the photos, None for photos that have none in it."""
    folders = (MASKS,) if factor == 1 else (f"{MASKS}_{factor}", MASKS)
    masks: list[Any] = [mask_beside(Path(f), scene, folders) for f in outputs.image_filenames]
    if any(masks):
        outputs.mask_filenames = masks
        outputs.metadata[MASKS_BESIDE] = True


def input_frame(outputs: DataparserOutputs, dataparser: Any) -> Similarity:
    """From the frame and unit that the user gave into those of a dataparser's outputs, float64.

    That of the poses in transforms.json, of the COLMAP model, or of the estimated scene. The
    `dataparser_transform` of nerfstudio's parser of transforms.json is not that: it begins at the
    frame before `applied_transform`, which the file states, or nerfstudio guesses.

    Raises:
        ValueError: The file's `applied_transform` leads to no frame.
    """
    transform = outputs.dataparser_transform.double().cpu()
    parser = getattr(dataparser, "inner", dataparser)  # Where one adds views to another's scene.
    if isinstance(parser, Nerfstudio):
        applied = _applied_transform(parser.config.data)
        if applied is not None:
            transform = (_square(transform) @ applied.inverse())[:3]
    return dataparser_frame(transform, outputs.dataparser_scale)


def moved_origin(dataparser: Any) -> list[float] | None:
    """Where in the user's frame an estimator put its scene's origin; None where it stayed.

    It does where cameras are so far away that single precision would round them.
    """
    parser = getattr(dataparser, "inner", dataparser)  # Where one adds views to another's scene.
    scene = getattr(parser, "scene", None)
    return None if scene is None else scene().provenance.get("origin")


def _applied_transform(data: Path) -> Float[Tensor, "4 4"] | None:
    """Into the frame of a file's poses, as nerfstudio's parser has it; none where it has none."""
    path = data if data.suffix == ".json" else data / "transforms.json"
    meta, _ = load(path)
    stated = meta.get("applied_transform")
    if stated is None:
        is_guessed = (data / "colmap/sparse/0").exists()
        return _square(torch.tensor(GUESSED_TRANSFORM).double()) if is_guessed else None
    matrix = _square(torch.tensor(stated, dtype=torch.float64))
    if not bool(matrix.isfinite().all()) or float(matrix.det().abs()) < SMALLEST_VOLUME:
        raise ValueError(
            f"{path}: applied_transform is {stated}, which flattens the scene. Expected three rows "
            "of a rotation and a shift. Correct it, or remove it."
        )
    return matrix


def _square(rows: Float[Tensor, "rows 4"]) -> Float[Tensor, "4 4"]:
    return torch.cat([rows[:3], rows.new_tensor([[0.0, 0, 0, 1]])])


def _set_fourth_coefficients(outputs: DataparserOutputs, dataparser: FisheyeColmapParser) -> None:
    folder = dataparser.config.data / dataparser.config.images_path
    factor = downscale_factor(dataparser)
    copies = folder.parent / f"{folder.name}_{factor}" if factor > 1 else folder
    for row, file in enumerate(outputs.image_filenames):
        original = folder / Path(file).relative_to(copies)
        assert outputs.cameras.distortion_params is not None
        outputs.cameras.distortion_params[row, 3] = dataparser.fourth_coefficients[original]


def _set_lenses_of_frames(outputs: DataparserOutputs, dataparser: Nerfstudio) -> None:
    data = dataparser.config.data
    path = data if data.suffix == ".json" else data / "transforms.json"
    meta, frames = load(path)
    if "camera_model" in meta:
        return
    lenses = {
        dataparser._get_fname(Path(frame["file_path"]), path.parent): lens
        for frame, lens in zip(frames, lenses_of(path, meta, frames), strict=True)
    }
    kinds = [CameraType[lenses[Path(file)].camera_type] for file in outputs.image_filenames]
    outputs.cameras.camera_type = torch.tensor([[kind.value] for kind in kinds]).reshape(-1, 1)
    if meta.get(FISHEYE_RADIUS) is not None and FISHEYE.name in {x.name for x in lenses.values()}:
        outputs.cameras.metadata = {FISHEYE_RADIUS: meta[FISHEYE_RADIUS]}


def missing_test_list(dataparser: Any) -> str | None:
    """What a scene lacks that lists photos to train on, but none to score; none where it has all.

    nerfstudio's parsers then train, and end in an error when the run is scored.
    """
    parser = getattr(dataparser, "inner", dataparser)  # Where one adds views to another's scene.
    if isinstance(parser, Nerfstudio):
        data = parser.config.data
        path = data if data.suffix == ".json" else data / "transforms.json"
        meta, _ = load(path)
        there = [split for split in ("train", "val", "test") if f"{split}_filenames" in meta]
        return f"`test_filenames` in {path}" if there and "test" not in there else None
    if isinstance(parser, ColmapDataParser):
        data = parser.config.data
        names = ("train_list.txt", "test_list.txt", "validation_list.txt")
        there = [name for name in names if (data / name).is_file()]
        path = data / "test_list.txt"
        return str(path) if there and path.name not in there else None
    return None


def downscale_factor(dataparser: Any) -> int:
    """By how much the copies are smaller that a parser of nerfstudio's has decided to read."""
    for name in ("downscale_factor", "_downscale_factor"):
        factor = getattr(dataparser, name, None)
        if factor is not None:
            return int(factor)
    return 1


def automatic_downscale(photos: Path) -> int:
    """By how much smaller copies are that nerfstudio's COLMAP parser reads unless told otherwise.

    By its rule, of one photo's size; 1 where no photo can be read.
    """
    from PIL import Image

    for file in sorted(photos.rglob("*")):
        try:
            with Image.open(require_regular(file)) as image:
                longest = max(image.size)
        except (OSError, ValueError, Image.DecompressionBombError):
            continue
        return 2 ** max(0, math.ceil(math.log2(longest / MAX_AUTO_RESOLUTION)))
    return 1


def _full_sizes(dataparser: Any, split: str) -> Int[Tensor, "view 2"]:
    """Sizes of the cameras when nothing is scaled down: asked of a copy of the parser."""
    whole = deepcopy(dataparser)
    for name in ("downscale_factor", "_downscale_factor"):
        if hasattr(whole, name):
            setattr(whole, name, 1)
    if hasattr(whole.config, "load_3D_points"):
        whole.config.load_3D_points = False
    return image_sizes(whole.get_dataparser_outputs(split=split).cameras).long()
