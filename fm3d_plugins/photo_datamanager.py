"""What every datamanager here does with photos: checked, fitted to cameras, as they were given."""

import filecmp
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
import tyro
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.datasets.base_dataset import InputDataset
from nerfstudio.utils.rich_utils import CONSOLE

from fm3d_plugins.camera_photos import RENDERED_VIEWS, CameraPhotos, fit_of
from fm3d_plugins.errors import listed, one_line_errors
from fm3d_plugins.input_checks import check_dataparser_outputs, checked_parsing, data_of
from fm3d_plugins.io.depth_files import DepthFiles
from fm3d_plugins.parsed_scenes import MASKS_BESIDE, completed, missing_test_list, scene_folder
from fm3d_plugins.photos.fitting import Fit, OrientationRule
from fm3d_plugins.photos.masks import folder_of_masks, require_own_masks
from fm3d_plugins.progress import say
from fm3d_plugins.scene_points import settle_points

DEPTH_FILES = "depth_files"
"""Key of a dataset's metadata under which a datamanager hands `DepthFiles` to the model."""

LATENT_CAMERAS = "latent_cameras"
"""Key of a dataparser's metadata: whether cameras are of a network's own space, no real poses."""

VIEW_WEIGHTS = "view_weights"
"""Key of a dataparser's metadata: [V], by how much the colours of each training view count; 1 where
absent."""

RGBA = 4
"""Channels of a photo that is transparent in places."""

FEWEST_TRAINED = 2
"""Photos. One alone says nothing of depth."""

CPU_IMAGE_SIZE = 640
"""Long side in pixels that a CPU gets through in minutes."""


@dataclass
class PhotoOptions:
    """Options of every datamanager of photos; a base of its config."""

    max_image_size: int | None = None
    """Long side in pixels above which photos are scaled down; 0: never. None: 640 on a CPU, never
    on CUDA."""
    accept_latent_cameras: bool = False
    """Use cameras of a space that only the network that predicted them understands. They are no
    real poses: optimise them, and expect little."""
    exif_orientation: OrientationRule = "auto"
    """Whether cameras are of the photos as stored or upright, where the EXIF orientation leaves
    the size as it is (mirrored, upside-down, square). auto: as the scene's other photos, else
    upright."""

    # nerfstudio's, without effect here: all photos are read, on the device.
    masks_on_gpu: tyro.conf.Suppress[bool] = False
    images_on_gpu: tyro.conf.Suppress[bool] = False
    eval_num_images_to_sample_from: tyro.conf.Suppress[int] = -1
    eval_num_times_to_repeat_images: tyro.conf.Suppress[int] = -1
    eval_image_indices: tyro.conf.Suppress[tuple[int, ...] | None] = None


@dataclass
class UnsampledPhotoOptions(PhotoOptions):
    """Options of photos that are all looked at, in order; a base of a datamanager's config."""

    # nerfstudio's, without effect here: no photo is drawn.
    train_cameras_sampling_strategy: tyro.conf.Suppress[Literal["random", "fps"]] = "random"
    train_cameras_sampling_seed: tyro.conf.Suppress[int] = 42
    fps_reset_every: tyro.conf.Suppress[int] = 100


class PhotoDatasets:
    """Stands before a datamanager of nerfstudio's among the bases of one of this package's.

    What is wrong with the input ends the program with one message. Datasets hold under
    `GIVEN_CAMERAS` the cameras as they were given, and under `DEPTH_FILES` what the dataparser says
    about depth.
    """

    config: Any
    device: torch.device | str
    dataparser: Any
    test_split: str
    test_mode: str
    train_dataparser_outputs: DataparserOutputs

    takes_rendered_views: ClassVar[bool] = False
    """Whether the method learns a scene from its views, and may learn from rendered ones too."""

    sees_pinholes: ClassVar[bool] = True
    """Whether photos and cameras are handed over without lens distortion; if not, as they are."""

    settles_when_resumed: ClassVar[bool] = False
    """Whether a resumed run needs the rough scene once more, because no checkpoint holds what
    `take_settled` makes."""

    def __init__(self, config: Any, **kwargs: Any) -> None:
        """Args:
        config: With `PhotoOptions`.
        kwargs: As nerfstudio's pipeline passes them.
        """
        with checked_parsing(config.dataparser, data_of(config) or Path()):
            self._expect_photos(config.dataparser)
            super().__init__(config, **kwargs)  # pyright: ignore[reportCallIssue] (a mixin)
            settle_points(self.train_dataparser_outputs.metadata)
            self._expect_real_cameras()
        if self.is_on_cpu and getattr(config, "cache_images", None) == "cpu":
            # Above 500 photos nerfstudio says so; it pins memory and needs a CUDA driver.
            config.cache_images = "gpu"

    def _expect_photos(self, dataparser: Any) -> None:
        is_adding = getattr(dataparser, "adds_rendered_views", False)
        if is_adding and not self.takes_rendered_views:
            raise ValueError(
                "The dataparser adds rendered views to the photos, but this method trains no scene "
                "on views: a network looks at the photos themselves. Expected photos alone. Name "
                "the dataparser that gives the posed scene, or train 3dgs or nerf."
            )

    def _expect_real_cameras(self) -> None:
        metadata = self.train_dataparser_outputs.metadata
        if metadata.get(LATENT_CAMERAS) and not self.config.accept_latent_cameras:
            raise ValueError(
                "These cameras are latent: they lie in a space that only the network that "
                "predicted them understands, and are no poses of the photos (of RayZer's, trained "
                "on DL3DV, 6 % of relative poses there are right to 30 degrees). Expected real "
                "ones. Name another dataparser (vggt, dust3r, sfm), or use them all the same with "
                "--pipeline.datamanager.accept-latent-cameras True."
            )

    @property
    def is_on_cpu(self) -> bool:
        """Whether the photos are for a CPU."""
        return torch.device(self.device).type == "cpu"

    def create_train_dataset(self) -> InputDataset:
        """Called by nerfstudio's datamanager, before the other."""
        splits = {"train": self.train_dataparser_outputs}
        splits[self.test_split] = self.dataparser.get_dataparser_outputs(split=self.test_split)
        for split, outputs in splits.items():
            completed(outputs, self.dataparser, split)
            check_dataparser_outputs(outputs)
        self._held_out_outputs = splits[self.test_split]
        if not self.train_dataparser_outputs.image_filenames:
            raise ValueError(
                "No photo is left to train on: all are held out. Expected at least one. Change "
                "what is held out (the dataparser's --eval-mode), or give more photos."
            )
        if self.test_mode == "val":
            self._say_what_cannot_be_scored()
            self._settle_masks_beside(list(splits.values()))
        self._train_fit, self._held_out_fit = self._fits(list(splits.values()))
        limit = self.config.max_image_size
        if limit is None and self.is_on_cpu:
            limit = CPU_IMAGE_SIZE
        longest = max(max(photo.size) for photo in self._train_fit.photos)
        self._scale = training_scale(longest, limit, self.config.camera_res_scale_factor)
        return self._dataset(self.train_dataparser_outputs, self._train_fit)

    def train_pinholes(self) -> CameraPhotos:
        """The training photos with lens distortion undone, whatever is trained on.

        Raises:
            ValueError: Lenses have no pinhole of the same view.
        """
        outputs = self.train_dataparser_outputs
        return CameraPhotos(outputs, self._train_fit, self._scale, as_pinholes=True)

    def take_settled(self, pinholes: CameraPhotos) -> None:
        """Follow training cameras that were put about right before training.

        Args:
            pinholes: As of `train_pinholes`, with the cameras where they are now.
        """

    def create_eval_dataset(self) -> InputDataset:
        """Called by nerfstudio's datamanager."""
        dataset = self._dataset(self._held_out_outputs, self._held_out_fit)
        if self.test_mode != "inference":
            # Training photos are read at once, these when training has gone on for long.
            dataset.require_readable()
        return dataset

    def _load_images(self, split: Literal["train", "eval"], cache_images_device: Any) -> list[dict]:
        """Called by nerfstudio's datamanager of whole photos when it first needs them."""
        with one_line_errors():
            entries = super()._load_images(  # pyright: ignore[reportAttributeAccessIssue]
                split, cache_images_device=cache_images_device
            )
            is_learnt_from = split == "train" and self.test_mode == "val"
            if is_learnt_from and entries and not any(map(shows_anything, entries)):
                raise ValueError(all_masked(len(entries), "training"))
        if is_learnt_from:
            self._say_if_some_are_cut_out([entry["image"].shape[-1] for entry in entries])
        return entries

    def _say_what_cannot_be_scored(self) -> None:
        """Before training, as scoring comes long after it."""
        trained = {str(file) for file in self.train_dataparser_outputs.image_filenames}
        held_out = [str(file) for file in self._held_out_outputs.image_filenames]
        missing = missing_test_list(self.dataparser)
        if not held_out:
            say(
                f"None of these {len(trained)} photos is held out: the run will not be scored, and "
                "ns-eval has nothing to score. Hold some out with the dataparser's --eval-mode "
                "interval (every 8th), or in the scene's own lists of photos.",
                style="yellow",
            )
        elif shared := trained.intersection(held_out):
            say(
                f"{len(shared)} of the {len(held_out)} photos that the run is scored by are also "
                "trained on: scores will flatter. Hold photos out with the dataparser's "
                "--eval-mode interval (every 8th).",
                style="yellow",
            )
        elif copies := same_files(held_out, trained):
            pairs = listed(f"{Path(a).name} is {Path(b).name}" for a, b in copies.items())
            say(
                f"{len(copies)} of the {len(held_out)} photos that the run is scored by are copies "
                f"of photos that are trained on ({pairs}): scores will flatter. Take copies out.",
                style="yellow",
            )
        elif len(trained) < FEWEST_TRAINED:
            say(
                f"Of these {len(trained) + len(held_out)} photos only {len(trained)} is left to "
                f"train on, {len(held_out)} is held out to score the run. To train on all, add "
                "--eval-mode all to the dataparser's options.",
                style="yellow",
            )
        if missing:
            say(
                f"The scene lists photos for training, but none for ns-eval: {missing} is absent. "
                "ns-eval will end in an error. Add it, with the photos to score.",
                style="yellow",
            )

    def _say_if_some_are_cut_out(self, channels: Sequence[int]) -> None:
        """Args:
        channels: Of the training photos, four where some pixels are transparent.
        """
        files = self.train_dataparser_outputs.image_filenames
        if RENDERED_VIEWS in self.train_dataparser_outputs.metadata:
            return  # Of these none is transparent.
        whole = [file.name for file, count in zip(files, channels, strict=True) if count != RGBA]
        if 0 < len(whole) < len(files):
            say(
                f"{len(files) - len(whole)} of the {len(files)} training photos have transparent "
                f"pixels, which show nothing, the others have none ({listed(whole)}). If those are "
                "of the same things, cut them out too, or the scene is told two things.",
                style="yellow",
            )

    def _settle_masks_beside(self, splits: list[DataparserOutputs]) -> None:
        """Say which masks are used of a folder that the scene does not name."""
        masks = {
            Path(photo): mask
            for outputs in splits
            for photo, mask in zip(
                outputs.image_filenames,
                outputs.mask_filenames or [None] * len(outputs.image_filenames),
                strict=True,
            )
        }
        folder = folder_of_masks(next(iter(masks)), scene_folder(self.dataparser))
        found = [mask for mask in masks.values() if mask is not None]
        if any(MASKS_BESIDE in outputs.metadata for outputs in splits):
            require_own_masks(masks)
            whole = [photo.name for photo, mask in masks.items() if mask is None]
            rest = f" The others have none and count whole: {listed(whole)}." if whole else ""
            say(
                f"Masks of {len(found)} of the {len(masks)} photos are in {found[0].parent}: what "
                f"is black in them is ignored.{rest} To train on whole photos rename that folder."
            )
        elif not found and folder is not None:
            photo = next(iter(masks))
            say(
                f"{folder} has no mask of these photos: none is used. Expected names as "
                f"{photo.stem}.png or {photo.name}.png for {photo.name}.",
                style="yellow",
            )

    def _fits(self, splits: list[DataparserOutputs]) -> list[Fit]:
        """Of the photos of several splits, whose EXIF orientations mean the same."""
        rule = self.config.exif_orientation
        fits = [fit_of(outputs, rule) for outputs in splits]
        undecided = sorted({name for fit in fits for name in fit.undecided})
        if rule != "auto" or not undecided:
            return fits
        told = {fit.told for fit in fits} - {None}
        if len(told) == 1:
            rule = "upright" if told.pop() else "stored"
            return [fit_of(outputs, rule) for outputs in splits]
        CONSOLE.print(
            f"{len(undecided)} photos ({listed(undecided)}) have an EXIF orientation, but the "
            "same size with and without it. They are taken upright. If their cameras are of the "
            "stored pictures: --pipeline.datamanager.exif-orientation stored."
        )
        return fits

    def _dataset(self, outputs: DataparserOutputs, fit: Fit) -> CameraPhotos:
        dataset = CameraPhotos(outputs, fit, self._scale, as_pinholes=self.sees_pinholes)
        dataset.metadata[DEPTH_FILES] = depth_files_of(outputs)
        return dataset


def same_files(files: Iterable[str], others: Iterable[str]) -> dict[str, str]:
    """Files that have the bytes of another, and that one."""
    by_size: dict[int, list[str]] = {}
    for other in sorted(others):
        by_size.setdefault(Path(other).stat().st_size, []).append(other)
    found = {}
    for file in files:
        alike = by_size.get(Path(file).stat().st_size, [])
        same = (other for other in alike if filecmp.cmp(file, other, shallow=False))
        if (other := next(same, None)) is not None:
            found[file] = other
    return found


def all_masked(count: int, label: str) -> str:
    """The message about so many photos of a kind of which masks leave nothing."""
    return (
        f"Every pixel of the {count} {label} photos is masked. Expected masks that are zero only "
        "where a photo shall be ignored. Correct the masks, or remove them."
    )


def shows_anything(entry: Mapping[str, Any]) -> bool:
    """Whether the mask of a photo, as nerfstudio's batches hold it, leaves a pixel."""
    return "mask" not in entry or bool(entry["mask"].any())


def depth_files_of(outputs: DataparserOutputs) -> DepthFiles:
    """What a dataparser says about depth; whatever is absent is empty.

    Reads the metadata `depth_filenames`, `depth_unit_scale_factor` and
    `depth_confidence_filenames`.
    """
    metadata = outputs.metadata
    return DepthFiles(
        photos=outputs.image_filenames,
        depths=metadata.get("depth_filenames") or (),
        confidences=metadata.get("depth_confidence_filenames") or (),
        scale=float(metadata.get("depth_unit_scale_factor") or 1.0)
        * float(outputs.dataparser_scale),
    )


def training_scale(longest: int, limit: int | None, factor: float) -> float:
    """How much to scale photos by so that none is larger than a limit; says what the limit does.

    Args:
        longest: Long side of the largest photo, pixels.
        limit: Long side in pixels; 0 or none: no limit.
        factor: What the user asked for besides; at most 1.
    """
    if not limit or longest * factor <= limit:
        return factor
    CONSOLE.print(
        f"Photos are scaled down from {longest} to {limit} pixels (long side). "
        "Another limit: --pipeline.datamanager.max-image-size N (0: none)."
    )
    return limit / longest
