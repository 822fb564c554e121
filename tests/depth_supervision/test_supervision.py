"""The depth loss: what it sees, what it ignores, where its gradient goes."""

import math

import numpy as np
import pytest
import torch
from nerfstudio.cameras.cameras import Cameras, CameraType

from fm3d_plugins.camera_optimization.camera_optimizer import CameraOptimizerConfig
from fm3d_plugins.camera_photos import GIVEN_CAMERAS
from fm3d_plugins.depth_supervision.alignment import Alignment
from fm3d_plugins.depth_supervision.supervision import (
    MEMORY_RAYS,
    DepthSupervision,
    DepthSupervisionConfig,
    axis_cosines,
)
from fm3d_plugins.io.depth_files import DepthFiles
from fm3d_plugins.nerfstudio_cameras import intrinsics_matrices, positions_in_photo
from fm3d_plugins.photo_datamanager import DEPTH_FILES

torch.set_num_threads(1)
WIDTH, HEIGHT, PHOTOS = 24, 16, 3


def cameras(count=PHOTOS, **options):
    return Cameras(
        camera_to_worlds=torch.eye(4)[None, :3].repeat(count, 1, 1),
        fx=20.0,
        fy=22.0,
        cx=WIDTH / 2,
        cy=HEIGHT / 2,
        width=WIDTH,
        height=HEIGHT,
        **options,
    )


def depth_of(photo):
    """z-depth of a photo's pixels; every photo shows another slope."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return (1 + 0.03 * x + 0.02 * (photo + 1) * y).astype(np.float32)


def supervision(folder, change=lambda depth: depth, confidence=None, given=None, **options):
    files = []
    for photo in range(PHOTOS):
        files.append(folder / f"{photo}.npy")
        np.save(files[-1], change(depth_of(photo)))
    sure = []
    if confidence is not None:
        sure = [folder / "confidence.npy"] * PHOTOS
        np.save(sure[0], confidence)
    config = DepthSupervisionConfig(weight=1.0, anneal_steps=1000, **options)
    module: DepthSupervision = config.setup(num_photos=PHOTOS)
    depth_files = DepthFiles([f.with_suffix(".jpg") for f in files], files, sure, 1.0)
    module.prepare(
        {DEPTH_FILES: depth_files, GIVEN_CAMERAS: cameras() if given is None else given}, "cpu"
    )
    return module


def rendered(photo=0, noise=0.1, seed=0):
    """Depth [H, W, 1] of the scene: the photo's own, times up to 1 +- noise."""
    random = torch.rand(HEIGHT, WIDTH, generator=torch.Generator().manual_seed(seed))
    depth = torch.from_numpy(depth_of(photo)) * (1 + noise * (2 * random - 1))
    return depth[..., None].requires_grad_()


def loss_of_photo(module, depth, opacity=None, photo=0, **options):
    opacity = torch.ones_like(depth) if opacity is None else opacity
    return module.photo_loss(depth, opacity, cameras()[photo], photo, 0, **options)


def test_exact_depth_of_any_scale_and_shift_has_no_loss(tmp_path):
    for change in (lambda d: d, lambda d: 5 * d, lambda d: 0.1 * d + 3):
        module = supervision(tmp_path, change)
        for photo in range(PHOTOS):
            assert float(loss_of_photo(module, rendered(photo, 0.0), photo=photo)) < 1e-5


def test_scale_and_shift_of_the_map_change_neither_loss_nor_gradient(tmp_path):
    results = []
    for change in (lambda d: d, lambda d: 5 * d, lambda d: 0.1 * d + 3):
        depth = rendered()
        loss = loss_of_photo(supervision(tmp_path, change), depth)
        loss.backward()
        results.append((loss.detach(), depth.grad))
    assert results[0][0] > 0.01
    for loss, gradient in results[1:]:
        torch.testing.assert_close(loss, results[0][0], rtol=1e-4, atol=0)
        # Signs at pixels that agree to rounding may differ, so means are compared.
        torch.testing.assert_close(gradient, results[0][1], rtol=1e-3, atol=1e-6)


def test_loss_without_alignment_is_the_mean_relative_error(tmp_path):
    """A scene 10 % too far: |1.1 - 1| / 1.05."""
    depth = (1.1 * torch.from_numpy(depth_of(0)))[..., None]
    loss = loss_of_photo(supervision(tmp_path, alignment="none"), depth)
    torch.testing.assert_close(loss, torch.tensor(0.1 / 1.05))


def test_gradient_moves_the_rendered_depth_towards_the_map(tmp_path):
    depth = torch.from_numpy(depth_of(0))[..., None].clone()
    depth[3, 5] *= 1.5
    depth[9, 9] *= 0.6
    depth.requires_grad_()
    loss_of_photo(supervision(tmp_path), depth).backward()
    assert depth.grad[3, 5] > 1e-4
    assert depth.grad[9, 9] < -1e-4


def test_gradient_is_that_of_finite_differences_without_alignment(tmp_path):
    module = supervision(tmp_path, alignment="none")
    depth = rendered()
    loss_of_photo(module, depth).backward()
    # The size that the error is relative to is held: d|z - a| / size, with the sign of z - a.
    target = torch.from_numpy(depth_of(0))[..., None]
    expected = (depth - target).sign() / ((depth + target) / 2) / target.numel()
    torch.testing.assert_close(depth.grad, expected.detach())


def test_pixels_without_confidence_have_no_influence(tmp_path):
    confidence = np.ones((HEIGHT, WIDTH))
    confidence[:, :8] = 0
    module = supervision(tmp_path, confidence=confidence)
    first, second = rendered(seed=1), rendered(seed=1)
    with torch.no_grad():
        second[:, :8] = 17.0
    losses = [loss_of_photo(module, depth) for depth in (first, second)]
    assert torch.equal(*losses)
    losses[1].backward()
    assert not second.grad[:, :8].any()
    assert second.grad[:, 8:].any()


def test_confidence_of_any_scale_gives_the_same_loss(tmp_path):
    confidence = np.random.default_rng(0).uniform(0.5, 2, (HEIGHT, WIDTH))
    first = loss_of_photo(supervision(tmp_path, confidence=confidence), rendered())
    second = loss_of_photo(supervision(tmp_path, confidence=1e3 * confidence), rendered())
    torch.testing.assert_close(first, second)


def test_masked_and_transparent_pixels_have_no_influence(tmp_path):
    module = supervision(tmp_path)
    keep = torch.ones(HEIGHT, WIDTH, 1)
    keep[5:9] = 0
    for options in ({"mask": keep}, {"opacity": keep}):
        depth = rendered()
        with torch.no_grad():
            depth[5:9] = 30.0
        loss_of_photo(module, depth, **options).backward()
        assert not depth.grad[5:9].any()
        assert depth.grad[9:].any()


def test_opacity_gets_no_gradient(tmp_path):
    """Otherwise turning transparent would be a way out."""
    opacity = torch.full((HEIGHT, WIDTH, 1), 0.7, requires_grad=True)
    loss_of_photo(supervision(tmp_path), rendered(), opacity=opacity).backward()
    assert opacity.grad is None


@pytest.mark.parametrize("what", ["constant map", "two pixels", "constant scene", "all empty"])
def test_degenerate_photos_have_no_loss_and_a_finite_gradient(tmp_path, what):
    confidence = None
    if what == "two pixels":
        confidence = np.zeros((HEIGHT, WIDTH))
        confidence[3, 3:5] = 1
    change = (lambda d: 0 * d + 2) if what == "constant map" else (lambda d: d)
    depth = rendered()
    if what == "constant scene":
        depth = torch.full_like(depth, 2.0).requires_grad_()
    opacity = torch.zeros_like(depth) if what == "all empty" else None
    module = supervision(tmp_path, change, confidence=confidence)
    loss = loss_of_photo(module, depth, opacity=opacity)
    loss.backward()
    assert float(loss) < 1e-6
    assert depth.grad.isfinite().all()
    assert depth.grad.abs().max() < 1e-6


def test_smaller_renders_meet_the_map_at_their_pixels(tmp_path):
    """The map is linear, so its values at the centres of 2 x 2 pixels are exact between them; what
    is nearest is half a pixel off, which is a constant."""
    depth = torch.from_numpy(depth_of(0))[..., None]
    small = torch.nn.functional.avg_pool2d(depth[None, ..., 0], 2)[0, ..., None]
    module = supervision(tmp_path)
    assert float(loss_of_photo(module, small, downscale=2)) < 1e-5
    assert float(loss_of_photo(module, depth)) < 1e-5


def test_undistorted_pixels_meet_the_map_where_the_lens_has_put_them():
    """The middle stays; the rest follows Brown's polynomial: at (0.3, 0), r^2 = 0.09."""
    given = cameras(distortion_params=torch.tensor([0.1, 0.0, 0.0, 0.0, 0.0, 0.0]).repeat(3, 1))
    camera = cameras()[0]
    camera.fx, camera.cx = camera.fx * 1.5, camera.cx - 2  # Cropped and magnified.
    pixels = torch.tensor([[10.0, 8.0], [10.0 + 30 * 0.3, 8.0]])
    found = positions_in_photo(pixels, intrinsics_matrices(camera), given[0])
    expected = torch.tensor([[12.0, 8.0], [12.0 + 20 * 0.3 * (1 + 0.1 * 0.09), 8.0]])
    torch.testing.assert_close(found, expected)


def test_pixels_of_the_undistorted_camera_are_found_in_a_fisheye_photo():
    """An equidistant lens puts a ray at 45 degrees at pi / 4 focal lengths from the middle."""
    given = cameras(camera_type=CameraType.FISHEYE)
    matrix = torch.tensor([[10.0, 0, 12], [0, 10, 8], [0, 0, 1]])
    found = positions_in_photo(torch.tensor([[22.0, 8.0], [12, -2]]), matrix, given[0])
    expected = torch.tensor([[12 + 20 * math.pi / 4, 8.0], [12, 8 - 22 * math.pi / 4]])
    torch.testing.assert_close(found, expected)


def test_equirectangular_photos_have_no_depth(tmp_path):
    with pytest.raises(ValueError, match="optical axis"):
        supervision(tmp_path, given=cameras(camera_type=CameraType.EQUIRECTANGULAR))


def rays(count, seed=0, photos=PHOTOS):
    """Pixels, distances along their rays to the photo's depth, and cosines."""
    generator = torch.Generator().manual_seed(seed)
    pixels = [torch.randint(n, (count,), generator=generator) for n in (photos, HEIGHT, WIDTH)]
    pixels = torch.stack(pixels, dim=-1)
    depth = torch.stack([torch.from_numpy(depth_of(i)) for i in range(PHOTOS)])[
        pixels[:, 0], pixels[:, 1], pixels[:, 2]
    ]
    bundle = cameras().generate_rays(camera_indices=pixels[:, :1], coords=pixels[:, 1:] + 0.5)
    off = CameraOptimizerConfig(mode="off").setup(num_cameras=PHOTOS, device="cpu")
    cosine = axis_cosines(bundle.directions, pixels[:, 0], cameras(), off)
    torch.testing.assert_close(cosine, 1 / bundle.metadata["directions_norm"].squeeze(-1))
    return pixels, depth / cosine, cosine


def test_distance_along_the_ray_is_turned_into_depth(tmp_path):
    pixels, distance, cosine = rays(500)
    module = supervision(tmp_path, lambda d: 3 * d + 1)
    loss = module.ray_loss(distance, torch.ones(500), cosine, pixels, 0)
    wrong = module.ray_loss(distance, torch.ones(500), torch.ones(500), pixels, 0)
    assert float(loss) < 1e-5
    assert float(wrong) > 1e-3


def test_turned_cameras_and_longer_lenses_keep_the_cosine():
    """A ray through the middle lies on the axis however the camera turns."""
    directions = torch.tensor([[0.0, 0.0, -1.0]]).repeat(PHOTOS, 1)
    photo = torch.arange(PHOTOS)
    optimizer = CameraOptimizerConfig(mode="SO3xR3").setup(
        num_cameras=PHOTOS, device="cpu", cameras=cameras()
    )
    with torch.no_grad():
        optimizer.pose_adjustment.copy_(torch.randn(PHOTOS, 6))
    turned = (optimizer(photo)[..., :3] @ directions[..., None]).squeeze(-1)
    assert (turned - directions).abs().max() > 1e-3
    found = axis_cosines(turned, photo, cameras(), optimizer)
    torch.testing.assert_close(found, torch.ones(PHOTOS))


def test_few_rays_per_step_are_aligned_by_those_of_earlier_steps(tmp_path):
    """Two rays per photo fit any map; together with the past, they cannot."""
    module = supervision(tmp_path, lambda d: 2 * d)
    first = module.ray_loss(*_with_opacity(rays(600)), 0)
    assert float(first) < 1e-5
    pixels, distance, cosine = rays(6, seed=1)
    pixels[:, 0] = torch.arange(6) % PHOTOS
    _, distance, cosine = _rays_at(pixels)
    distance = distance * torch.tensor([1.3, 1.0, 1.0, 0.8, 1.0, 1.0])
    loss = module.ray_loss(distance, torch.ones(6), cosine, pixels, 0)
    assert float(loss) > 0.03
    alone = supervision(tmp_path, lambda d: 2 * d)
    assert float(alone.ray_loss(distance, torch.ones(6), cosine, pixels, 1)) == 0


def _rays_at(pixels):
    depth = torch.stack([torch.from_numpy(depth_of(i)) for i in range(PHOTOS)])[
        pixels[:, 0], pixels[:, 1], pixels[:, 2]
    ]
    bundle = cameras().generate_rays(camera_indices=pixels[:, :1], coords=pixels[:, 1:] + 0.5)
    cosine = 1 / bundle.metadata["directions_norm"].squeeze(-1)
    return pixels, depth / cosine, cosine


def _with_opacity(drawn):
    pixels, distance, cosine = drawn
    return distance, torch.ones_like(distance), cosine, pixels


def test_batches_that_suffice_forget_the_past(tmp_path):
    module = supervision(tmp_path)
    pixels, distance, cosine = rays(MEMORY_RAYS, photos=1)
    opacity = torch.ones_like(distance)
    module.ray_loss(2 * distance + 3 * distance.square(), opacity, cosine, pixels, 0)
    again = supervision(tmp_path)
    for each in (module, again):
        each.ray_loss(distance, opacity, cosine, pixels, 1)
    torch.testing.assert_close(module.moments[0], again.moments[0])
    assert not again.moments[1:].any()


def test_memory_is_part_of_the_checkpoint_only_where_depth_is_used(tmp_path):
    module = supervision(tmp_path)
    module.ray_loss(*_with_opacity(rays(300)), 0)
    other = supervision(tmp_path)
    other.load_state_dict(module.state_dict())
    drawn = _with_opacity(rays(30, seed=2))
    assert torch.equal(module.ray_loss(*drawn, 1), other.ray_loss(*drawn, 1))
    assert not DepthSupervisionConfig().setup(num_photos=PHOTOS).state_dict()


def test_photos_aligned_to_points_do_not_follow_the_render(tmp_path):
    """The scene is rendered twice too far; maps of free scale would call that right."""
    module, depth = supervision(tmp_path, alignment="scale"), 2 * rendered(noise=0.0)
    assert float(loss_of_photo(module, depth)) < 1e-5
    count = torch.tensor([1.0, 1.0, 0.0]).double()
    module._anchor(Alignment(torch.ones(PHOTOS).double(), 0 * count, count))
    torch.testing.assert_close(loss_of_photo(module, depth).detach(), torch.tensor(2 / 3))
    assert float(loss_of_photo(module, 2 * rendered(2, 0.0), photo=2)) < 1e-5


def test_weight_falls_evenly_to_its_share_and_stays():
    config = DepthSupervisionConfig(weight=0.5, final_share=0.2)
    config.resolve(200)
    assert config.anneal_steps == 100
    assert config.weight_at(0) == 0.5
    assert math.isclose(config.weight_at(50), 0.3)
    assert math.isclose(config.weight_at(100), 0.1)
    assert math.isclose(config.weight_at(10_000), 0.1)
    config.resolve(999)  # As for a resumed run: what is decided stays.
    assert config.anneal_steps == 100


def test_options_out_of_range_or_without_effect_are_refused():
    for wrong in ({"weight": -1.0}, {"weight": 1.0, "final_share": 1.5}):
        with pytest.raises(ValueError, match="Expected a weight of at least 0"):
            DepthSupervisionConfig(**wrong).check()
    for idle in ({"alignment": "scale"}, {"use_confidence": False}, {"anneal_steps": 3}):
        with pytest.raises(SystemExit, match="has no effect"):
            DepthSupervisionConfig(**idle).resolve(100)
    DepthSupervisionConfig().resolve(100)
