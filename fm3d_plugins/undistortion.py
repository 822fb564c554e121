"""Photos of lenses with distortion made those of pinholes, which splats are drawn for."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from nerfstudio.cameras.cameras import Cameras, CameraType
from torch import Tensor
from torch.nn.functional import grid_sample

from fm3d_plugins.errors import require
from fm3d_plugins.geometry.cameras import intrinsics_matrix
from fm3d_plugins.geometry.lenses import fisheye_angle, lens_of_type
from fm3d_plugins.geometry.rays import pixel_centers
from fm3d_plugins.nerfstudio_cameras import (
    image_sizes,
    intrinsics_matrices,
    lens_distortion,
    positions_in_photo,
)


@dataclass(frozen=True)
class PinholeView:
    """What a pinhole sees of a photo that a lens has distorted: all its pixels are in the photo."""

    intrinsics: Float[Tensor, "3 3"]
    """Pixels."""
    width: int
    height: int
    given: Cameras
    """The photo's own camera, a single one."""

    def of_image(
        self, image: Shaped[Tensor, "rows columns channel"]
    ) -> Float[Tensor, "height width channel"]:
        """The photo through the pinhole; bilinear."""
        return self._sampled(image, "border")

    def of_mask(self, mask: Bool[Tensor, "rows columns 1"]) -> Bool[Tensor, "height width 1"]:
        """Which pixels are made of pixels alone that count."""
        return self._sampled(mask.float(), "zeros") > 0.999

    def _sampled(self, image: Tensor, padding: str) -> Tensor:
        centers = pixel_centers(self.height, self.width).flatten(0, 1)
        positions = positions_in_photo(centers, self.intrinsics, self.given)
        size = torch.tensor(image.shape[1::-1])
        grid = (2 * positions / size - 1).reshape(1, self.height, self.width, 2)
        planes = image.float().permute(2, 0, 1)[None]
        found = grid_sample(planes, grid, padding_mode=padding, align_corners=False)
        return found[0].permute(1, 2, 0)


def pinhole_view(camera: Cameras) -> PinholeView | None:
    """The pinhole that sees most of a photo without seeing beyond it; none if it is one.

    Perspective lenses keep about their picture: OpenCV's rectangle without blank pixels, as
    nerfstudio has it. Of fisheye lenses a pinhole of the photo's size sees what its edges show in
    the middle of each side, and no more than `WIDEST_HALF_ANGLE`.

    Args:
        camera: A single one, on the CPU.

    Raises:
        ValueError: The lens cannot be made a pinhole.
    """
    kind = CameraType(int(camera.camera_type.flatten()[0]))
    lens = lens_of_type(kind.name)
    if lens is None or not lens.to_pinhole:
        raise ValueError(
            f"its lens is {lens.name if lens else kind.name}. Expected perspective or fisheye "
            "lenses, whose photos can be made those of pinholes. Train nerf, which takes any lens "
            "whose rays meet in a point, or undistort the photos first"
        )
    if kind == CameraType.FISHEYE:
        return _fisheye_view(camera)
    if not bool(lens_distortion(camera).any()):
        return None
    return _perspective_view(camera)


def _perspective_view(camera: Cameras) -> PinholeView:
    k1, k2, k3, k4, p1, p2 = lens_distortion(camera).flatten().double().tolist()
    if k4:
        raise ValueError(
            f"its distortion has k4 = {k4:g}. Expected k1, k2, k3, p1 and p2 alone. Train nerf, "
            "which takes it, or undistort the photos first"
        )
    cv2 = require("cv2", purpose="Undoing lens distortion", install="opencv-python-headless")
    width, height = image_sizes(camera).flatten().tolist()
    matrix = intrinsics_matrices(camera).reshape(3, 3).double().numpy().copy()
    matrix[:2, 2] -= 0.5  # OpenCV's pixel (0, 0) is the centre of the first pixel.
    coefficients = np.array([k1, k2, p1, p2, k3])
    found, (x, y, columns, rows) = cv2.getOptimalNewCameraMatrix(
        matrix, coefficients, (width, height), 0
    )
    if columns < 1 or rows < 1 or not np.isfinite(found).all() or found[0, 0] <= 0:
        raise ValueError(
            "its distortion folds the picture over, so that no pinhole sees it. Expected "
            "coefficients of the lens. Calibrate it anew, or undistort the photos first"
        )
    found[0, 2] += 0.5 - x
    found[1, 2] += 0.5 - y
    return PinholeView(torch.from_numpy(found).float(), columns, rows, camera)


def _fisheye_view(camera: Cameras) -> PinholeView:
    coefficients = lens_distortion(camera).flatten().double()
    if bool(coefficients[4:].any()):
        raise ValueError(
            "it is a fisheye with p1 and p2. Expected k1 to k4 alone. Calibrate it by that formula"
        )
    width, height = image_sizes(camera).flatten().tolist()
    fx, fy, cx, cy = (
        float(value) for value in (camera.fx, camera.fy, camera.cx, camera.cy)
    )  # fmt: skip
    edges = torch.tensor([cx / fx, (width - cx) / fx, cy / fy, (height - cy) / fy]).double()
    left, right, top, bottom = fisheye_angle(edges.clamp_min(0), coefficients[:4]).tan().tolist()
    focal = max(width / (left + right), height / (top + bottom))
    center = (width + focal * (left - right)) / 2, (height + focal * (top - bottom)) / 2
    numbers = torch.tensor([focal, focal, *center])
    return PinholeView(intrinsics_matrix(*numbers.unbind()), width, height, camera)
