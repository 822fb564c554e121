"""Small synthetic scenes whose every number is known."""

from collections.abc import Callable

import pytest
import torch

from fm3d_plugins.geometry.cameras import denormalize, distort, intrinsics_matrix
from fm3d_plugins.geometry.poses import invert, se3_exp, transform_points
from fm3d_plugins.geometry.rays import camera_rays
from fm3d_plugins.scene import SceneGeometry, Tracks

NAMES = ("a photo.jpg", "b.jpg", "ünï 照片.jpg", "d.png")
SIZES = ((64, 48), (64, 48), (48, 64), (64, 48))


@pytest.fixture
def make_scene() -> Callable[..., SceneGeometry]:
    """Build four views of thirty points; options choose lens and sharing of cameras."""

    def make(*, distortion=(0.0,) * 6, is_shared=False, dtype=torch.float64) -> SceneGeometry:
        generator = torch.Generator().manual_seed(0)
        views = torch.arange(len(NAMES))
        camera_index = torch.zeros_like(views) if is_shared else torch.tensor([0, 0, 1, 2])
        step = camera_index.double()
        intrinsics = intrinsics_matrix(60 + step, 61 + step, 31.5 - step, 24.25 + step)
        lens = torch.tensor(distortion, dtype=torch.float64) * (1 + 0.1 * step).unsqueeze(-1)
        twists = 0.2 * torch.randn(4, 6, generator=generator, dtype=torch.float64)
        world_from_camera = se3_exp(twists)
        points = torch.randn(30, 3, generator=generator, dtype=torch.float64)
        points[:, 2] += 8
        points_camera = transform_points(invert(world_from_camera), points.expand(4, 30, 3))
        normalized = points_camera[..., :2] / points_camera[..., 2:]
        pixels = denormalize(distort(normalized, lens), intrinsics)
        view, point = (torch.rand(4, 30, generator=generator) < 0.7).nonzero().unbind(-1)
        return SceneGeometry(
            names=NAMES,
            image_sizes=torch.tensor(SIZES[:1] * 4 if is_shared else SIZES),
            world_from_camera=world_from_camera.to(dtype),
            intrinsics=intrinsics.to(dtype),
            distortion=lens.to(dtype),
            camera_index=camera_index,
            points=points.to(dtype),
            point_colors=torch.randint(0, 256, (30, 3), generator=generator, dtype=torch.uint8),
            point_confidence=torch.rand(30, generator=generator),
            tracks=Tracks(point, view, pixels[view, point].to(dtype)),
            scale="metric",
            unregistered=("lost.jpg",),
            provenance={"estimator": "test"},
        )

    return make


@pytest.fixture
def write_photos():
    """Write a grey photo of the right size for every view."""

    def write(scene: SceneGeometry, folder) -> None:
        image_module = pytest.importorskip("PIL.Image")
        folder.mkdir(parents=True, exist_ok=True)
        for name, size in zip(scene.names, scene.image_sizes.tolist(), strict=True):
            image_module.new("RGB", tuple(size), (90, 90, 90)).save(folder / name)

    return write


@pytest.fixture(scope="session")
def largest_pixel_shift():
    """The measure of a camera round trip: where rays of one scene land in images of another."""

    def measure(first, second):
        """Pixels by which rays through random pixels of `first` miss them when seen by `second`."""
        generator = torch.Generator().manual_seed(1)
        share = torch.rand(len(first), 50, 2, generator=generator, dtype=torch.float64)
        pixels = share * first.image_sizes.unsqueeze(1)
        origins, directions = camera_rays(
            pixels,
            first.intrinsics.double(),
            first.world_from_camera.double(),
            first.distortion.double(),
        )
        distance = 1 + 9 * torch.rand(len(first), 50, 1, generator=generator, dtype=torch.float64)
        camera_from_world = invert(second.world_from_camera.double())
        points = transform_points(camera_from_world, origins + distance * directions)
        normalized = points[..., :2] / points[..., 2:]
        seen = denormalize(
            distort(normalized, second.distortion.double()), second.intrinsics.double()
        )
        return float((seen - pixels).norm(dim=-1).max())

    return measure
