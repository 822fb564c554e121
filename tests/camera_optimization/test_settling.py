"""When a rough scene puts cameras right before training, and when it need not."""

import pytest
import torch
from nerfstudio.cameras.rays import RayBundle

from fm3d_plugins.camera_optimization import settling
from fm3d_plugins.camera_optimization.camera_optimizer import TRACKS
from fm3d_plugins.camera_optimization.rough_scene import STILL, SmallPhotos
from fm3d_plugins.camera_optimization.settling import (
    known_to_be_right,
    moved_cameras,
    settle_before_training,
    track_errors,
)
from fm3d_plugins.camera_optimization.track_anchors import PhotoTracks
from fm3d_plugins.camera_photos import CAMERA_CONFIDENCE, GIVEN_CAMERAS
from fm3d_plugins.geometry.poses import invert, so3_exp, transform_points
from fm3d_plugins.nerfstudio_cameras import intrinsics_matrices, world_from_cameras

SHRINKING = 4.0
LIMIT = STILL * SHRINKING


def small(cameras):
    """Of `cameras`, whose pixels are those of the small photos."""
    images = [torch.zeros(36, 48, 3)] * len(cameras)
    poses = world_from_cameras(cameras)
    return SmallPhotos(images, [None] * len(images), intrinsics_matrices(cameras), poses, SHRINKING)


def tracks_of(photos):
    """Exact ones, of points near the origin that all photos see."""
    points = torch.rand(20, 3, generator=torch.Generator().manual_seed(0)) - 0.5
    views = len(photos.images)
    seen = transform_points(invert(photos.world_from_camera), points.expand(views, 20, 3))
    return PhotoTracks(
        points=points,
        point_index=torch.arange(20).repeat(views),
        photo_index=torch.arange(views).repeat_interleave(20),
        rays=(seen[..., :2] / seen[..., 2:]).flatten(0, 1),
    )


def test_tracks_are_where_exact_cameras_see_them(ring):
    photos = small(ring())
    assert track_errors(tracks_of(photos), photos).max() < 1e-3
    assert known_to_be_right({TRACKS: tracks_of(photos)}, photos)


def test_cameras_turned_about_their_axes_see_tracks_beside_their_pixels(ring):
    """A turn by w about the optical axis moves a point at r pixels from the centre by r w."""
    photos = small(ring())
    tracks, turn = tracks_of(photos), so3_exp(torch.tensor([0.0, 0.0, 0.01]))
    photos.world_from_camera[:, :3, :3] = photos.world_from_camera[:, :3, :3] @ turn
    focal_lengths = SHRINKING * torch.tensor([40.0, 44.0])
    # The picture is turned before its focal lengths, 40 and 44 pixels, squeeze it.
    across = torch.stack([tracks.rays[:, 1], -tracks.rays[:, 0]], dim=-1)
    expected = (0.01 * across * focal_lengths).norm(dim=-1)
    torch.testing.assert_close(track_errors(tracks, photos), expected, rtol=0.02, atol=1e-3)


def test_points_behind_a_camera_speak_against_it(ring):
    photos = small(ring())
    tracks = tracks_of(photos)
    photos.world_from_camera[:, :3, :3] = photos.world_from_camera[:, :3, :3] @ torch.diag(
        torch.tensor([-1.0, 1.0, -1.0])
    )
    assert track_errors(tracks, photos).isinf().all()
    assert not known_to_be_right({TRACKS: tracks}, photos)


@pytest.mark.parametrize(("deviation", "is_right"), [(0.5 * LIMIT, True), (2 * LIMIT, False)])
def test_standard_deviations_tell_whether_cameras_are_right(ring, deviation, is_right):
    photos = small(ring())
    confidence = torch.full((len(photos.images),), 1 / (1 + deviation**2))
    assert known_to_be_right({CAMERA_CONFIDENCE: confidence}, photos) is is_right


def test_cameras_of_which_nothing_is_told_are_not_known_to_be_right(ring):
    assert not known_to_be_right({}, small(ring()))


def test_no_photo_is_read_for_cameras_that_stay_or_without_a_rough_scene(ring, make_optimizer):
    """Truth: no datamanager is asked for any, as there is none; and no camera moves."""
    settle_before_training(None, make_optimizer(ring(), mode="off"), 100)
    without = make_optimizer(ring(), rough_scene=False)
    settle_before_training(None, without, 100)
    assert not without.pose_adjustment.any()


def test_rough_scene_for_cameras_that_stay_is_refused(ring, make_optimizer):
    with pytest.raises(ValueError, match="cameras stay as given.*mode SO3xR3"):
        make_optimizer(ring(), mode="off", rough_scene=True)


@pytest.mark.parametrize("mode", ["SO3xR3", "SE3"])
def test_corrected_rays_aimed_at_uncorrected_points_pass_through_the_points(
    ring, make_optimizer, disturb, mode
):
    cameras = ring()
    optimizer = disturb(make_optimizer(cameras, mode))
    points = torch.rand(5, 3, generator=torch.Generator().manual_seed(0)) - 0.5
    photo = torch.arange(5)
    offsets = optimizer.uncorrected(points, photo) - cameras.camera_to_worlds[:, :, 3]
    distance = offsets.norm(dim=-1, keepdim=True)
    rays = RayBundle(
        origins=cameras.camera_to_worlds[:, :, 3].clone(),
        directions=offsets / distance,
        pixel_area=torch.ones(5, 1),
        camera_indices=photo[:, None],
    )
    optimizer.apply_to_raybundle(rays)
    torch.testing.assert_close(rays.origins + distance * rays.directions, points)


def test_moved_cameras_see_pixels_along_corrected_rays(ring, make_optimizer, disturb):
    """Truth: nerfstudio's rays of the given cameras, corrected as in training."""
    cameras = ring()
    optimizer = disturb(make_optimizer(cameras))
    pixels, photo = torch.tensor([[3.5, 7.5]]).repeat(5, 1), torch.arange(5)[:, None]
    rays = cameras.generate_rays(camera_indices=photo, coords=pixels)
    optimizer.apply_to_raybundle(rays)
    moved = moved_cameras(cameras, optimizer).generate_rays(camera_indices=photo, coords=pixels)
    torch.testing.assert_close(moved.origins, rays.origins)
    torch.testing.assert_close(moved.directions, rays.directions)


class Manager:
    """A datamanager as far as `settle_before_training` asks for one."""

    def __init__(self, cameras, metadata):
        self.cameras = cameras
        metadata = metadata | {GIVEN_CAMERAS: cameras}
        self.train_dataset = type("Photos", (list,), {"metadata": metadata})([0, 1])

        self.settled = []

    def train_pinholes(self):
        return type("Pinholes", (), {"cameras": self.cameras})()

    def take_settled(self, pinholes):
        self.settled.append(pinholes)


@pytest.mark.parametrize("rough_scene", [None, True])
def test_cameras_that_are_known_to_be_right_are_settled_only_if_asked(
    ring, make_optimizer, monkeypatch, rough_scene
):
    cameras = ring()
    photos, calls = small(cameras), []
    monkeypatch.setattr(settling, "small_photos", lambda pinholes: photos)
    monkeypatch.setattr(settling, "settle_cameras", lambda *inputs: calls.append(inputs) or 1.0)
    optimizer = make_optimizer(cameras, rough_scene=rough_scene)
    manager = Manager(cameras, {TRACKS: tracks_of(photos)})
    settle_before_training(manager, optimizer, 100)
    assert len(calls) == len(manager.settled) == (rough_scene is True)


def test_lenses_without_pinholes_are_refused_only_if_a_rough_scene_was_asked_for(
    ring, make_optimizer, monkeypatch
):
    def refuse(self):
        raise ValueError("no pinhole")

    monkeypatch.setattr(Manager, "train_pinholes", refuse)
    settle_before_training(Manager(ring(), {}), make_optimizer(ring()), 100)
    with pytest.raises(ValueError, match="no pinhole"):
        settle_before_training(Manager(ring(), {}), make_optimizer(ring(), rough_scene=True), 100)
