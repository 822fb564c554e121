"""A posed scene with views that LVSM renders between its training photos, as more to train on."""

import hashlib
import math
import shutil
import time
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import tyro
from filelock import FileLock
from jaxtyping import UInt8
from nerfstudio.cameras.cameras import CameraType
from nerfstudio.data.dataparsers.base_dataparser import (
    DataParser,
    DataParserConfig,
    DataparserOutputs,
)
from nerfstudio.plugins.registry_dataparser import DataParserSpecification

from fm3d_plugins.atomic import atomic_directory
from fm3d_plugins.cache_folder import cache_folder
from fm3d_plugins.camera_photos import CAMERA_CONFIDENCE, RENDERED_VIEWS
from fm3d_plugins.checkpoints import CheckpointFile, locate, require_obtainable
from fm3d_plugins.checkpoints.loading import read_torch
from fm3d_plugins.errors import one_line_errors
from fm3d_plugins.estimators.cache import content_hash
from fm3d_plugins.files import naming_damage, require_regular
from fm3d_plugins.input_checks import check_dataparser_outputs, check_input, checked_parsing
from fm3d_plugins.io.depth_files import read_map, write_map
from fm3d_plugins.lvsm.between import CamerasBetween, cameras_between, rendered_between
from fm3d_plugins.lvsm.inference import PosedPhotos, ViewRenderer, load_network
from fm3d_plugins.nerfstudio_cameras import calibrations, with_pinholes
from fm3d_plugins.nerfstudio_commands import require_device_of_method
from fm3d_plugins.nn.planning import (
    DTYPES,
    Precision,
    choose_device,
    choose_precision,
    duration,
)
from fm3d_plugins.parsed_scenes import DOWNSCALE, FULL_SIZES, completed
from fm3d_plugins.photo_datamanager import LATENT_CAMERAS, VIEW_WEIGHTS
from fm3d_plugins.progress import say, track
from fm3d_plugins.scene_points import use_own_parser

CAMERAS = "cameras.pt"
"""Name of the file beside the pictures that holds `CamerasBetween`."""

MAPS = ("depth_filenames", "depth_confidence_filenames")
"""Entries of a dataparser's metadata with one map per photo; 0 is no depth, and no confidence."""


@dataclass
class LvsmDataParserConfig(DataParserConfig):
    """A posed scene, and views between its photos that LVSM renders."""

    _target: type = field(default_factory=lambda: LvsmDataParser)
    inner: str = "nerfstudio-data"
    """The dataparser that gives the posed scene: any that may stand in this one's place."""
    inner_options: tuple[str, ...] = ()
    """Its options, as NAME=VALUE without dashes: eval-mode=interval scale-factor=2."""
    num_views: int = 20
    """Views to render, all between neighbouring training photos."""
    weight: float = 0.3
    """By how much the colours of a rendered view count, over 0 and up to 1, as a photo's do."""
    weights: str = "coast01/LVSM/decoder_only_256"
    """Published weights by name (`fm3d weights list`), or a file or folder."""
    commercial_only: bool = False
    """Refuse weights whose licence forbids commercial use, or is not known."""
    precision: Precision = "auto"
    """Of the network's matrices. auto: bfloat16 where the device multiplies it fast."""
    image_size: int = 256
    """Long side, pixels, of the photos that the network sees and of the views."""
    num_contexts: int = 2
    """Photos, the nearest ones, that each view is made from."""
    cache_dir: Path | None = None
    """Where views are kept. None: FM3D_CACHE_DIR or the user's cache folder."""

    adds_rendered_views: ClassVar[bool] = True

    @property
    def estimator(self) -> Any:
        """That of the inner dataparser; the trainer asks by it whether cameras are estimated."""
        with one_line_errors():
            inner: Any = self.inner_config()
        return inner.estimator  # Absent in most: an AttributeError says so.

    def check_input(self, data: Path) -> None:
        """Refuse what the inner dataparser cannot read, and weights that cannot be had.

        Raises:
            ValueError, OSError: One of these.
        """
        self.check()
        check_input(self.inner_config(), data)
        require_obtainable(self.weights, commercial_only=self.commercial_only)

    def inner_config(self) -> DataParserConfig:
        """The inner dataparser's config with its options.

        Raises:
            ValueError: There is no such dataparser.
            SystemExit: An option is not understood; what is wrong was printed.
        """
        # While that module is loaded, it loads this one.
        from nerfstudio.configs.dataparser_configs import all_dataparsers

        known = {k: v for k, v in all_dataparsers.items() if not isinstance(v, type(self))}
        if self.inner not in known:
            raise ValueError(
                f"The inner dataparser is {self.inner!r}. Expected one of: "
                f"{', '.join(sorted(known))}. Change --inner."
            )
        default = deepcopy(known[self.inner])
        config = tyro.cli(
            type(default),
            default=default,
            args=[f"--{option}" for option in self.inner_options],
            prog=f"ns-train 3dgs {self.inner}",
            config=(tyro.conf.FlagConversionOff,),
        )
        return replace(config, data=self.data)

    def check(self) -> None:
        """Refuse numbers out of their range.

        Raises:
            ValueError: One is.
        """
        counts = {n: getattr(self, n) for n in ("num_views", "num_contexts", "image_size")}
        wrong = [name for name, count in counts.items() if count < 1]
        if not (math.isfinite(self.weight) and 0 < self.weight <= 1):
            wrong.append("weight")
        if wrong:
            name = wrong[0]
            raise ValueError(
                f"{name} is {getattr(self, name)}. Expected counts of at least 1, and a weight "
                f"over 0 and up to 1. Change --{name.replace('_', '-')}."
            )


class LvsmDataParser(DataParser):
    """The inner dataparser's outputs, and for training rendered views behind the photos.

    They are made from training photos alone and kept on disk, by content. `metadata` says which
    views are rendered (`rendered_views` [V] bool) and by how much each counts (`view_weights` [V]).
    Masks of rendered views are full, depth and confidence maps are 0.
    """

    config: LvsmDataParserConfig

    def __init__(self, config: LvsmDataParserConfig) -> None:
        super().__init__(config)
        with one_line_errors():
            require_device_of_method()
            config.check()
            self._inner_config = config.inner_config()
            use_own_parser(self._inner_config)
        self.inner: DataParser = self._inner_config.setup()
        self.includes_time = self.inner.includes_time

    def _generate_dataparser_outputs(self, split: str = "train", **kwargs) -> DataparserOutputs:
        with checked_parsing(self._inner_config, self.config.data):
            outputs = self.inner.get_dataparser_outputs(split, **kwargs)
            completed(outputs, self.inner, split)
        if split != "train":
            return outputs
        with one_line_errors():
            _expect_usable(outputs)
            return with_views(outputs, self.views_folder(outputs), self.config.weight)

    def views_folder(self, outputs: DataparserOutputs) -> Path:
        """Where the rendered views of some training photos are; they are made if they are not."""
        config = self.config
        weights = locate(config.weights, commercial_only=config.commercial_only)
        made_from = {
            "package": version("fm3d-plugins"),
            "files": [
                file and hashlib.blake2b(Path(file).read_bytes()).hexdigest()
                for file in (*outputs.image_filenames, *(outputs.mask_filenames or ()))
            ],
            "backgrounds": [outputs.alpha_color, outputs.metadata.get("mask_color")],
            "poses": outputs.cameras.camera_to_worlds.tolist(),
            "lenses": calibrations(outputs.cameras).tolist(),
            "weights": weights.sha256,
            "options": [
                *(config.num_views, config.num_contexts, config.image_size, config.precision),
            ],
        }
        folder = cache_folder(config.cache_dir) / "views" / f"lvsm-{content_hash(made_from)}"
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Other processes that want the same views, such as the ranks of a run, wait for them.
        with FileLock(folder.with_suffix(".lock")):
            if _is_kept(folder, config.num_views):
                say(f"{config.num_views} rendered views read from {folder}")
            else:
                shutil.rmtree(folder, ignore_errors=True)
                with atomic_directory(folder) as made:
                    self._render(outputs, weights, made)
        return folder

    def _render(self, outputs: DataparserOutputs, weights: CheckpointFile, folder: Path) -> None:
        config, device = self.config, choose_device("auto")
        photos = undistorted(outputs, config.image_size, device)
        precision = choose_precision(config.precision, device)
        network = load_network(weights, DTYPES[precision], device)
        count, longest = config.num_views, config.image_size
        cameras = cameras_between(photos, count, longest, network.config.patch_size)
        renderer = ViewRenderer(network, photos, longest)
        views = rendered_between(renderer, cameras, config.num_contexts)
        start = time.perf_counter()
        for number, picture in enumerate(track(views, "Rendering views", total=count)):
            pixels = (255 * picture.movedim(0, -1)).round().to(torch.uint8).cpu()
            write_view(folder, number, pixels.numpy(), network.config.patch_size)
            if number == 0:
                seconds = count * (time.perf_counter() - start)
                say(
                    f"Rendering {count} views between {len(photos)} photos on {device.type}: "
                    f"{duration(seconds)}, as the first one took. They are kept for later runs."
                )
        torch.save({name: value.cpu() for name, value in vars(cameras).items()}, folder / CAMERAS)


def _is_kept(folder: Path, count: int) -> bool:
    """Whether views are there and can be used; those that cannot are said."""
    from PIL import Image

    if not folder.is_dir():
        return False
    try:
        cameras = read_cameras(folder)
        if len(cameras.sizes) != count:
            raise ValueError(f"it holds {len(cameras.sizes)} views, expected {count}")
        kinds = (view_files(folder, kind, count) for kind in ("view", "mask", "depth"))
        for *pictures, depth, size in zip(*kinds, cameras.sizes.tolist(), strict=True):
            for file in pictures:
                with Image.open(require_regular(file)) as image:
                    image.load()
                    if list(image.size) != size:
                        raise ValueError(f"{file.name} is {image.size}, expected {size}")
            if read_map(depth).any():
                raise ValueError(f"{depth.name} holds depth")
    except Exception as error:  # Decoders raise many types on damaged files.
        say(f"{folder} is not used and made anew: {error}", "yellow")
        return False
    return True


def read_cameras(folder: Path) -> CamerasBetween:
    """The cameras of rendered views.

    Raises:
        ValueError: They are not finite, or their counts disagree.
    """
    expected = "Expected the cameras of rendered views. Delete the folder, and it is made anew."
    with naming_damage(folder / CAMERAS, expected):
        cameras = CamerasBetween(**read_torch(folder / CAMERAS, expected))  # type: ignore[arg-type]
        counts = {len(value) for value in vars(cameras).values()}
        finite = all(bool(value.isfinite().all()) for value in vars(cameras).values())
    if len(counts) != 1 or not finite or not bool((cameras.sizes > 0).all()):
        raise ValueError(f"{folder / CAMERAS} holds cameras that are not finite or not of one set")
    return cameras


def write_view(
    folder: Path, number: int, pixels: UInt8[np.ndarray, "height width 3"], patch_size: int
) -> None:
    """A picture, the mask that leaves all of it, and a map of no depth, one number per patch."""
    from PIL import Image

    height, width, _ = pixels.shape
    Image.fromarray(pixels).save(folder / f"view_{number:04d}.png")
    Image.new("L", (width, height), 255).save(folder / f"mask_{number:04d}.png")
    nothing = torch.zeros(height // patch_size, width // patch_size)
    write_map(folder / f"depth_{number:04d}.npy", nothing)


def view_files(folder: Path, kind: str, count: int) -> list[Path]:
    """Those of all views: view (PNG), mask (PNG) or depth (.npy)."""
    return [folder / f"{kind}_{n:04d}{'.npy' if kind == 'depth' else '.png'}" for n in range(count)]


def with_views(outputs: DataparserOutputs, folder: Path, weight: float) -> DataparserOutputs:
    """A dataparser's outputs with the rendered views of a folder behind the photos.

    Raises:
        ValueError: The photos have files of a kind that rendered views lack.
    """
    cameras = read_cameras(folder)
    count, files = len(cameras.sizes), partial(view_files, folder, count=len(cameras.sizes))
    photos, metadata = outputs.image_filenames, dict(outputs.metadata)
    for name, values in outputs.metadata.items():
        if name in MAPS and values:
            metadata[name] = [*values, *files("depth")]
        elif isinstance(values, list) and values and isinstance(values[0], Path):
            raise ValueError(
                f"The inner dataparser brings files of its photos as {name!r}, which rendered "
                f"views lack. Expected none but photos, masks and depth maps. Leave {name} out of "
                "the scene, or the dataparser lvsm."
            )
    is_rendered = torch.arange(len(photos) + count) >= len(photos)
    if CAMERA_CONFIDENCE in metadata:
        given = metadata[CAMERA_CONFIDENCE]
        metadata[CAMERA_CONFIDENCE] = torch.cat([given, given.new_ones(count)])
    if FULL_SIZES in metadata:
        times = metadata[DOWNSCALE]
        metadata[FULL_SIZES] = torch.cat([metadata[FULL_SIZES], cameras.sizes.cpu() * times])
    metadata[RENDERED_VIEWS] = is_rendered
    metadata[VIEW_WEIGHTS] = torch.where(is_rendered, weight, 1.0)
    masks = outputs.mask_filenames
    return replace(
        outputs,
        image_filenames=[*photos, *files("view")],
        mask_filenames=None if masks is None else [*masks, *files("mask")],
        cameras=with_pinholes(
            outputs.cameras, cameras.world_from_camera, cameras.intrinsics, cameras.sizes
        ),
        metadata=metadata,
    )


@dataclass
class _ParsedConfig(DataParserConfig):
    """Hands on what a dataparser has said of its training photos: no other photo is in reach."""

    outputs: Any = None

    def setup(self, **_) -> Any:
        return self

    includes_time: ClassVar[bool] = False

    def get_dataparser_outputs(self, split: str = "train") -> DataparserOutputs:
        return self.outputs


def undistorted(outputs: DataparserOutputs, longest: int, device: torch.device) -> PosedPhotos:
    """Photos as the method `lvsm` sees them, at most that long, and their exact cameras."""
    # Its base loads nerfstudio's table of dataparsers, which loads this module.
    from fm3d_plugins.lvsm.datamanager import LvsmDataManager, LvsmDataManagerConfig

    cameras = outputs.cameras
    largest = int(torch.maximum(cameras.width, cameras.height).max())
    config = LvsmDataManagerConfig(
        dataparser=_ParsedConfig(data=Path(), outputs=outputs),
        max_image_size=0,
        camera_res_scale_factor=min(1.0, longest / largest),
    )
    # Not to train: nothing is said of what is held out.
    return LvsmDataManager(config, device=device, test_mode="test").photos()


def _expect_usable(outputs: DataparserOutputs) -> None:
    """Refuse scenes that no view can be rendered of.

    Raises:
        ValueError, FileNotFoundError: What is wrong with the scene.
    """
    check_dataparser_outputs(outputs)
    cameras = outputs.cameras
    found = {
        "fisheye lenses or panoramas": (cameras.camera_type != CameraType.PERSPECTIVE.value).any(),
        "times (it moves)": cameras.times is not None,
        "latent cameras": outputs.metadata.get(LATENT_CAMERAS),
    }
    for what, is_there in found.items():
        if is_there:
            raise ValueError(
                f"The inner dataparser gives a scene with {what}. Expected real cameras with "
                "perspective lenses, of a scene that stands still. Leave the dataparser lvsm out."
            )


lvsm = DataParserSpecification(
    config=LvsmDataParserConfig(),
    description="A posed scene, and views between its photos that LVSM renders.",
)
