"""Say what is wrong with a scene at once and in one message, before anything long begins."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from nerfstudio.data.dataparsers.base_dataparser import DataParserConfig, DataparserOutputs
from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

from fm3d_plugins.errors import one_line_errors
from fm3d_plugins.parsed_scenes import automatic_downscale
from fm3d_plugins.progress import say
from fm3d_plugins.scene_points import use_own_parser


def data_of(manager: Any) -> Path | None:
    """Where a datamanager's config says that the photos or the posed scene are, if it says so."""
    data = getattr(manager, "data", None)
    if data is None:
        data = getattr(getattr(manager, "dataparser", None), "data", None)
    return None if data is None else Path(data)


@contextlib.contextmanager
def checked_parsing(dataparser: DataParserConfig, data: Path) -> Iterator[None]:
    """Run a dataparser; what is wrong with its input ends the program with one message.

    nerfstudio's own parsers answer a wrong file with KeyError or AssertionError, so these count
    as the user's here; transforms.json and COLMAP models are checked before they parse them.
    """
    with one_line_errors():
        check_input(dataparser, data)
    use_own_parser(dataparser)
    try:
        with one_line_errors():
            yield
    except (KeyError, AssertionError, RuntimeError) as error:
        if os.environ.get("FM3D_TRACEBACK"):
            raise
        name = type(dataparser).__name__.removesuffix("Config")
        raise SystemExit(
            f"Error: the dataparser {name} cannot read {data} ({type(error).__name__}: {error}). "
            "Name the right dataparser after --data (nerfstudio-data, colmap, sfm, ...), or mend "
            "the scene. FM3D_TRACEBACK=1 shows where it failed."
        ) from error


def check_input(dataparser: DataParserConfig, data: Path) -> None:
    """Refuse what a dataparser cannot read, as far as that can be told quickly.

    A config with a method `check_input(data)` says itself what it asks for.

    Raises:
        ValueError: A scene's description makes no sense, or weights are refused.
        OSError: Files are absent.
    """
    if not data.expanduser().exists():
        raise FileNotFoundError(
            f"there is no {data}. Expected a folder of photos or a posed scene. "
            "Check the path after --data."
        )
    check = getattr(dataparser, "check_input", None)
    if check is not None:
        check(data)
    elif isinstance(dataparser, NerfstudioDataParserConfig):
        _check_transforms(data, dataparser)
    elif isinstance(dataparser, ColmapDataParserConfig):
        _check_colmap(data, dataparser)


def _check_transforms(data: Path, dataparser: NerfstudioDataParserConfig) -> None:
    from fm3d_plugins.io.transforms import check_transforms

    path = data if data.suffix == ".json" else data / "transforms.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{data} holds no transforms.json. Expected a posed scene in nerfstudio's format. "
            "For photos without poses name an estimator: --data FOLDER sfm."
        )
    check_transforms(path, require_images=_reads_originals(dataparser))


def _check_colmap(data: Path, dataparser: ColmapDataParserConfig) -> None:
    from fm3d_plugins.io.colmap import check_colmap
    from fm3d_plugins.io.colmap_files import largest_model
    from fm3d_plugins.io.posed_scenes import colmap_model

    usual = ColmapDataParserConfig().colmap_path
    if dataparser.colmap_path == usual and not (data / usual).is_dir():
        found = colmap_model(data, tell=False)
        if found is not None:
            say(f"The COLMAP model is {found}; there is no {data / usual}.")
            dataparser.colmap_path = found.relative_to(data)
    dataparser.colmap_path = largest_model(data / dataparser.colmap_path).relative_to(data)
    photos = data / dataparser.images_path
    _use_copies_that_are_there(photos, dataparser)
    check_colmap(data / dataparser.colmap_path, photos if _reads_originals(dataparser) else None)


def _use_copies_that_are_there(photos: Path, dataparser: ColmapDataParserConfig) -> None:
    """Keep nerfstudio's parser from asking whether it may make smaller copies of large photos.

    Without copies photos are read as they are: methods here scale them down themselves.

    Raises:
        FileNotFoundError: Copies are asked for by the dataparser's options, and absent.
    """
    factor = dataparser.downscale_factor or automatic_downscale(photos)
    if factor == 1:
        return
    copies = photos.parent / f"{photos.name}_{factor}"
    folders = {file.relative_to(photos).parent for file in photos.rglob("*") if file.is_file()}
    if copies.is_dir() and all((copies / folder).is_dir() for folder in folders):
        return
    if dataparser.downscale_factor is not None:
        raise FileNotFoundError(
            f"There is no folder {copies} with copies of all photos, smaller by {factor}, as "
            "--downscale-factor says. Make them, or leave the option out: photos are scaled down "
            "as they are read (--pipeline.datamanager.max-image-size)."
        )
    dataparser.downscale_factor = 1


def _reads_originals(dataparser: ColmapDataParserConfig | NerfstudioDataParserConfig) -> bool:
    """Whether not smaller copies are asked for, beside which the photos need not be there."""
    return (dataparser.downscale_factor or 1) == 1


def check_dataparser_outputs(outputs: DataparserOutputs) -> None:
    """Refuse cameras and files that would fail later, deep inside a thread.

    Raises:
        FileNotFoundError: Photos or masks are absent; every name is listed.
        ValueError: A pose is not finite, or a focal length is not positive.
    """
    for what, files in (
        ("photos", outputs.image_filenames),
        ("masks", outputs.mask_filenames or []),
    ):
        absent = [str(file) for file in files if file is not None and not Path(file).is_file()]
        if absent:
            raise FileNotFoundError(
                f"{len(absent)} of {len(files)} {what} that the scene names are absent:\n  "
                + "\n  ".join(absent)
                + "\nPut them there, or take them out of the scene's description."
            )
    cameras = outputs.cameras
    finite = cameras.camera_to_worlds.isfinite().flatten(1).all(-1)
    focal = torch.stack([cameras.fx, cameras.fy], -1).flatten(1)
    positive = (focal.isfinite() & (focal > 0)).all(-1)
    for good, what in ((finite, "a pose that is not finite"), (positive, "a focal length <= 0")):
        wrong = [
            Path(file).name
            for file, usable in zip(outputs.image_filenames, good.tolist(), strict=True)
            if not usable
        ]
        if wrong:
            raise ValueError(
                f"{len(wrong)} of {len(good)} cameras have {what}: {', '.join(wrong)}. "
                "Expected finite poses and positive focal lengths in pixels. "
                "Correct these frames or take them out."
            )
