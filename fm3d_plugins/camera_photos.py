"""Photos as a dataset whose pixels are exactly those that its cameras were made for."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.datasets.base_dataset import InputDataset
from torch import Tensor
from torch.nn.functional import interpolate

from fm3d_plugins.errors import listed
from fm3d_plugins.geometry.cameras import resize_confidence
from fm3d_plugins.geometry.lenses import LENSES, lens_of_type
from fm3d_plugins.io.scene_checks import misfits
from fm3d_plugins.nerfstudio_cameras import image_sizes
from fm3d_plugins.parsed_scenes import DOWNSCALE, FISHEYE_RADIUS, FULL_SIZES
from fm3d_plugins.photos.fitting import Fit, OrientationRule, fitted_photos
from fm3d_plugins.undistortion import PinholeView, pinhole_view

GIVEN_CAMERAS = "given_cameras"
"""Key of a dataset's metadata under which the dataparser's cameras are handed over, at the size of
the photos that the dataset gives out, lens distortion included."""

CAMERA_CONFIDENCE = "camera_confidence"
"""Key of a dataparser's metadata: [V], 1 / (1 + s²) of each camera whose standard deviation moves
its photo by s pixels. A dataset hands it on in pixels of the photos that it gives out."""

RENDERED_VIEWS = "rendered_views"
"""Key of a dataparser's metadata: [V] bool, which training views a network made; none where absent.
They come behind the photos."""


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
    masks = outputs.mask_filenames or ()
    wrong = [
        fault
        for photo, mask in zip(fit.photos, masks, strict=bool(masks))
        if mask is not None and (fault := photo.mask_fault(Path(mask)))
    ]
    if wrong:
        raise ValueError(
            f"{len(wrong)} of {len(masks)} masks cannot be used: {'; '.join(wrong)}. Expected "
            "images of the size of their photos. Make them anew, or leave masks out (rename their "
            "folder)."
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
        confidence = self.metadata.get(CAMERA_CONFIDENCE)
        if confidence is not None:
            scale_of_photo = (sizes / given)[:, 0].to(confidence)
            self.metadata[CAMERA_CONFIDENCE] = resize_confidence(confidence, scale_of_photo)
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

        Raises:
            ValueError: A file cannot be decoded; all others of this dataset that cannot are named.
        """
        try:
            image, mask = self.get_image_uint8(image_idx), self._read_mask(image_idx)
        except ValueError:
            self.require_readable()
            raise
        if mask is not None:
            if self.mask_color:
                color = (255 * torch.tensor(self.mask_color)).round().to(torch.uint8)
                image = torch.where(mask, image, color)
        size = self._given_size(image_idx)
        image = _resized(image, size, "area")
        mask = None if mask is None else _resized(mask, size, "nearest")
        image, mask = self._through_pinhole(image_idx, image, mask)
        data: dict[str, Any] = {"image_idx": image_idx, "image": image}
        if image_type == "float32":
            data["image"] = image.float() / 255
        return data if mask is None else data | {"mask": mask}

    def region_seen(self, row: int, region: Bool[Tensor, "_ _"]) -> Bool[Tensor, "_ _"]:
        """A region of a photo, or of a small copy, before lens distortion was undone, as it is
        seen here."""
        view = self._views[row]
        if view is None:
            return region
        return view.of_mask(_resized(region[..., None], self._given_size(row), "nearest"))[..., 0]

    def mask(self, row: int) -> Bool[Tensor, "height width 1"] | None:
        """Which pixels of a photo count, as `get_data` gives them; none without a mask."""
        mask = self._read_mask(row)
        if mask is None and (self.cameras.metadata or {}).get(FISHEYE_RADIUS) is None:
            return None
        size = self._given_size(row)
        blank = torch.zeros(*size, 1, dtype=torch.uint8)
        mask = None if mask is None else _resized(mask, size, "nearest")
        return self._through_pinhole(row, blank, mask)[1]

    def _given_size(self, row: int) -> tuple[int, int]:
        """Height and width of a photo before lens distortion is undone."""
        given = self.metadata[GIVEN_CAMERAS][row]
        return int(given.height.item()), int(given.width.item())

    def _read_mask(self, image_idx: int) -> Bool[Tensor, "height width 1"] | None:
        masks = self._dataparser_outputs.mask_filenames
        mask = None if masks is None else masks[image_idx]
        if mask is None:
            return None
        return torch.from_numpy(self._photos[image_idx].read_mask(Path(mask)))[..., None]

    def require_readable(self) -> None:
        """Decode every photo and mask.

        Raises:
            ValueError: Some cannot be decoded; all are named.
        """
        faults = []
        for row in range(len(self)):
            try:
                self.get_numpy_image(row)
                self._read_mask(row)
            except ValueError as error:
                faults.append(str(error))
        if faults:
            raise ValueError("\n".join(faults))

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
