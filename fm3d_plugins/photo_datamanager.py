"""What every datamanager here does with photos: checked, scaled exactly, and as they were given."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.datasets.base_dataset import InputDataset
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor
from torch.nn.functional import interpolate

from fm3d_plugins.errors import listed
from fm3d_plugins.geometry.lenses import LENSES, lens_of_type
from fm3d_plugins.input_checks import check_dataparser_outputs, checked_parsing
from fm3d_plugins.io.depth_files import DepthFiles
from fm3d_plugins.io.scene_checks import misfits
from fm3d_plugins.nerfstudio_cameras import image_sizes
from fm3d_plugins.parsed_scenes import (
    DOWNSCALE,
    FISHEYE_RADIUS,
    FULL_SIZES,
    completed,
    use_own_parser,
)
from fm3d_plugins.photos.fitting import Fit, OrientationRule, fitted_photos
from fm3d_plugins.scene_points import settle_points
from fm3d_plugins.undistortion import PinholeView, pinhole_view

GIVEN_CAMERAS = "given_cameras"
"""Key of a dataset's metadata under which the dataparser's cameras are handed over, at the size of
the photos that the dataset gives out, lens distortion included."""

DEPTH_FILES = "depth_files"
"""Key of a dataset's metadata under which a datamanager hands `DepthFiles` to the model."""

LATENT_CAMERAS = "latent_cameras"
"""Key of a dataparser's metadata: whether cameras are of a network's own space, no real poses."""

RENDERED_VIEWS = "rendered_views"
"""Key of a dataparser's metadata: [V] bool, which training views a network made; none where absent.
They come behind the photos."""

VIEW_WEIGHTS = "view_weights"
"""Key of a dataparser's metadata: [V], by how much the colours of each training view count; 1 where
absent."""

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
    train_dataparser_outputs: DataparserOutputs

    takes_rendered_views: ClassVar[bool] = False
    """Whether the method learns a scene from its views, and may learn from rendered ones too."""

    sees_pinholes: ClassVar[bool] = True
    """Whether photos and cameras are handed over without lens distortion; if not, as they are."""

    def __init__(self, config: Any, **kwargs: Any) -> None:
        """Args:
        config: With `PhotoOptions`.
        kwargs: As nerfstudio's pipeline passes them.
        """
        data = config.data if config.data is not None else config.dataparser.data
        with checked_parsing(config.dataparser, data):
            use_own_parser(config.dataparser)
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
        train, self._held_out_fit = self._fits(list(splits.values()))
        limit = self.config.max_image_size
        if limit is None and self.is_on_cpu:
            limit = CPU_IMAGE_SIZE
        longest = max(max(photo.size) for photo in train.photos)
        self._scale = training_scale(longest, limit, self.config.camera_res_scale_factor)
        return self._dataset(self.train_dataparser_outputs, train)

    def create_eval_dataset(self) -> InputDataset:
        """Called by nerfstudio's datamanager."""
        return self._dataset(self._held_out_outputs, self._held_out_fit)

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

    def _dataset(self, outputs: DataparserOutputs, fit: Fit) -> InputDataset:
        dataset = CameraPhotos(outputs, fit, self._scale, as_pinholes=self.sees_pinholes)
        dataset.metadata[DEPTH_FILES] = depth_files_of(outputs)
        return dataset


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


def fit_of(outputs: DataparserOutputs, orientation: OrientationRule = "auto") -> Fit:
    """How the photo files of a scene become the pixels of its cameras, at the files' size.

    Raises:
        ValueError: Photos or masks have other sizes than their cameras; all are listed.
    """
    files = [Path(file) for file in outputs.image_filenames]
    sizes = outputs.metadata.get(FULL_SIZES)
    sizes = image_sizes(outputs.cameras) if sizes is None else sizes
    fit, faults = fitted_photos(
        files,
        [(width, height) for width, height in sizes.long().tolist()],
        downscale=outputs.metadata.get(DOWNSCALE, 1),
        orientation=orientation,
    )
    if faults:
        raise ValueError(misfits("The scene", faults, [str(file) for file in files]))
    masks = [Path(mask) for mask in outputs.mask_filenames or ()]
    wrong = [
        fault
        for photo, mask in zip(fit.photos, masks, strict=bool(masks))
        if (fault := photo.mask_fault(mask))
    ]
    if wrong:
        raise ValueError(
            f"{len(wrong)} of {len(masks)} masks cannot be used: {'; '.join(wrong)}. Expected "
            "images of the size of their photos. Make them anew, or leave masks out."
        )
    return fit


class CameraPhotos(InputDataset):
    """nerfstudio's dataset with exactly the pixels that its cameras were made for, perhaps scaled.

    nerfstudio reads a file's stored pixels whatever its camera's size, and its scaling rounds photo
    and camera sizes in different precisions (1131 x 848 to 640 differs by a pixel). Here each
    photo's size is rounded once, photos are scaled by area, and focal lengths and principal point
    follow that size along each axis. Rendered views, which are small already, become no longer than
    the longest photo.

    Where pinholes are asked for, photos, masks and cameras are those after `undistortion`, so that
    whoever takes them from here (training, scoring, ns-render) sees the same. `GIVEN_CAMERAS` keeps
    the lenses.
    """

    def __init__(
        self, outputs: DataparserOutputs, fit: Fit, scale: float = 1.0, *, as_pinholes: bool = False
    ) -> None:
        """Args:
            outputs: Of a dataparser, after `completed`.
            fit: Of their photos.
            scale: New size over that of the files, at most 1.
            as_pinholes: Undo lens distortion.

        Raises:
            ValueError: Lenses cannot be used in this way; all photos are named.
        """
        super().__init__(outputs)
        # `ns-export cameras` (nerfstudio 1.1.5) asks for a dictionary that not all parsers make.
        self.cameras.metadata = self.cameras.metadata or {}
        self._scale_cameras(fit, scale)
        self.metadata[GIVEN_CAMERAS] = deepcopy(self.cameras)
        _check_lenses(self.cameras, self.image_filenames)
        self._views = self._pinhole_views() if as_pinholes else [None] * len(self)

    def _scale_cameras(self, fit: Fit, scale: float) -> None:
        self._photos = fit.photos
        cameras = self.cameras
        for name in ("fx", "fy", "cx", "cy", "width", "height", "camera_type", "distortion_params"):
            values = getattr(cameras, name)
            if values is not None:  # What all cameras share is one number in memory.
                setattr(cameras, name, values.contiguous().clone())
        files = torch.tensor([photo.size for photo in fit.photos]).double().reshape(-1, 2)
        longest = files.amax(-1)
        scales = torch.full_like(longest, scale)
        if RENDERED_VIEWS in self.metadata:
            is_small = self.metadata[RENDERED_VIEWS]
            scales[is_small] = (scale * longest.max() / longest[is_small]).clamp_max(1)
        sizes = (files * scales[:, None]).round().clamp_min(1)
        given = self.metadata.get(FULL_SIZES)
        given = image_sizes(cameras) if given is None else given
        ratios = sizes / (given.double() / self.metadata.get(DOWNSCALE, 1))
        for axis, (size, focal, centre) in enumerate(
            ((cameras.width, cameras.fx, cameras.cx), (cameras.height, cameras.fy, cameras.cy))
        ):
            size.copy_(sizes[:, axis : axis + 1])
            focal.mul_(ratios[:, axis : axis + 1])
            centre.mul_(ratios[:, axis : axis + 1])
        said = cameras.metadata or {}
        if said.get(FISHEYE_RADIUS) is not None:
            times = scale / self.metadata.get(DOWNSCALE, 1)
            cameras.metadata = said | {FISHEYE_RADIUS: float(said[FISHEYE_RADIUS]) * times}

    def _pinhole_views(self) -> list[PinholeView | None]:
        """What becomes of each photo, in whose place its camera is put."""
        views, faults, cameras = [], {}, self.cameras
        for row in range(len(self)):
            try:
                view = pinhole_view(self.metadata[GIVEN_CAMERAS][row].to("cpu"))
            except ValueError as error:
                faults[row], view = str(error), None
            views.append(view)
        if faults:
            raise ValueError(_lens_message(faults, self.image_filenames))
        for row, view in enumerate(views):
            if view is None:
                continue
            cameras.fx[row], cameras.fy[row] = view.intrinsics[0, 0], view.intrinsics[1, 1]
            cameras.cx[row], cameras.cy[row] = view.intrinsics[0, 2], view.intrinsics[1, 2]
            cameras.width[row], cameras.height[row] = view.width, view.height
            cameras.camera_type[row] = CameraType.PERSPECTIVE.value
            if cameras.distortion_params is not None:
                cameras.distortion_params[row] = 0
        return views

    def get_numpy_image(self, image_idx: int) -> UInt8[np.ndarray, "height width channel"]:
        """The file's pixels as the camera sees them, RGB or RGBA, not scaled yet."""
        return self._photos[image_idx].read()

    def get_data(
        self, image_idx: int, image_type: Literal["uint8", "float32"] = "float32"
    ) -> dict[str, Tensor | int]:
        """nerfstudio's batch of one photo: `image` [H, W, C], `mask` [H, W, 1] if there is one.

        Pixels have eight bits in both types: what is saved as floats is what was scored as bytes.
        """
        image, mask = self.get_image_uint8(image_idx), None
        masks = self._dataparser_outputs.mask_filenames
        if masks is not None:
            read = self._photos[image_idx].read_mask(Path(masks[image_idx]))
            mask = torch.from_numpy(read)[..., None]
            if self.mask_color:
                color = (255 * torch.tensor(self.mask_color)).round().to(torch.uint8)
                image = torch.where(mask, image, color)
        given = self.metadata[GIVEN_CAMERAS][image_idx]
        size = (int(given.height.item()), int(given.width.item()))
        image = _resized(image, size, "area")
        mask = None if mask is None else _resized(mask, size, "nearest")
        image, mask = self._through_pinhole(image_idx, image, mask)
        data: dict[str, Any] = {"image_idx": image_idx, "image": image}
        if image_type == "float32":
            data["image"] = image.float() / 255
        return data if mask is None else data | {"mask": mask}

    def _through_pinhole(
        self, row: int, image: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        view = self._views[row]
        if view is None:
            return image, mask
        radius = (self.metadata[GIVEN_CAMERAS].metadata or {}).get(FISHEYE_RADIUS)
        if radius is not None and view.given.camera_type.item() == CameraType.FISHEYE.value:
            disc = fisheye_disc(*image.shape[:2], radius=radius)[..., None]
            mask = disc if mask is None else mask & disc
        seen = view.of_image(image).round().to(image.dtype)
        return seen, None if mask is None else view.of_mask(mask)


def fisheye_disc(height: int, width: int, *, radius: float) -> Bool[Tensor, "height width"]:
    """Pixels of a fisheye photo that its lens reaches: nerfstudio's crop, about the middle."""
    y, x = torch.arange(height) - height // 2, torch.arange(width) - width // 2
    return y[:, None].square() + x[None].square() < radius**2


def _check_lenses(cameras: Cameras, files: Sequence[Path]) -> None:
    """Raise ValueError where no method can use a lens; all photos are named."""
    faults = {}
    for row, number in enumerate(cameras.camera_type.flatten().tolist()):
        kind = CameraType(number).name
        lens = lens_of_type(kind)
        if lens is None or not lens.has_rays:
            faults[row] = (
                f"its lens is {lens.name if lens else kind}. Expected lenses whose rays meet in a "
                f"point ({', '.join(lens.name for lens in LENSES if lens.has_rays)}). Take these "
                "photos out"
            )
    if faults:
        raise ValueError(_lens_message(faults, files))


def _lens_message(faults: Mapping[int, str], files: Sequence[Path]) -> str:
    said = []
    for reason in sorted(set(faults.values())):
        names = [Path(files[row]).name for row, fault in faults.items() if fault == reason]
        said.append(f"Photos cannot be used ({listed(names)}): {reason}.")
    return " ".join(said)


def _resized(image: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    if image.shape[:2] == size:
        return image
    planes = image.float().permute(2, 0, 1)[None]
    resized = interpolate(planes, size=size, mode=mode)[0].permute(1, 2, 0)
    return (resized.round() if image.dtype == torch.uint8 else resized).to(image.dtype)
