"""What is drawn in nerfstudio's viewer, through a stand-in that records it."""

from types import SimpleNamespace

import pytest
import torch
import tyro
from nerfstudio.configs.method_configs import all_methods
from nerfstudio.viewer.viewer import VISER_NERFSTUDIO_SCALE_RATIO, Viewer
from nerfstudio.viewer.viewer_elements import ViewerCheckbox

from fm3d_plugins import viewer as viewer_module
from fm3d_plugins.geometry.poses import pose_from_rotation_translation, so3_exp
from fm3d_plugins.running.open_viewer import reach_of_viewer
from fm3d_plugins.training import TrainerConfig
from fm3d_plugins.viewer import (
    BY_CONFIDENCE,
    BY_PHOTO,
    HIDDEN,
    CameraFrusta,
    CloudPoints,
    PointCloudControl,
    SlowRenders,
)


class Scene:
    """Keeps every frustum and cloud that is drawn, by its name."""

    def __init__(self):
        self.frusta = {}
        self.clouds = {}

    def add_point_cloud(self, name, **properties):
        self.clouds[name] = SimpleNamespace(**properties)

    def add_camera_frustum(self, name, **properties):
        self.frusta[name] = SimpleNamespace(**properties)
        return self.frusta[name]


@pytest.fixture
def viewer():
    connected = []
    server = SimpleNamespace(scene=Scene(), on_client_connect=connected.append)
    # nerfstudio draws the frusta with photos later, here for every other camera.
    handles = {row: SimpleNamespace(wxyz=None, position=None) for row in (0, 2)}
    config = SimpleNamespace(camera_frustum_scale=0.1)
    stand_in = Viewer.__new__(Viewer)  # Without its constructor, which starts a server.
    vars(stand_in).update(
        viser_server=server, camera_handles=handles, config=config, connected=connected
    )
    return stand_in


def poses(count, seed):
    generator = torch.Generator().manual_seed(seed)
    rotations = so3_exp(torch.randn(count, 3, generator=generator))
    return pose_from_rotation_translation(rotations, torch.randn(count, 3, generator=generator))


def test_initial_cameras_are_drawn_where_they_began_and_shown_on_demand(viewer):
    initial = poses(3, 0)
    frusta = CameraFrusta(initial, lambda: poses(3, 1), torch.tensor([[0.7, 1.5]] * 3))
    frusta._setup(viewer)
    drawn = viewer.viser_server.scene.frusta
    assert len(drawn) == 3
    for row, frustum in enumerate(drawn.values()):
        expected = initial[row, :3, 3].double() * VISER_NERFSTUDIO_SCALE_RATIO
        torch.testing.assert_close(torch.from_numpy(frustum.position), expected)
        assert frustum.fov == pytest.approx(0.7) and not frustum.visible
    for shown in (True, False):
        frusta.checkbox.cb_hook(ViewerCheckbox("", default_value=shown))
        assert all(frustum.visible == shown for frustum in drawn.values())


def test_photos_move_to_the_current_cameras_when_a_visitor_comes_and_while_training(viewer):
    current = [poses(3, 1)]
    frusta = CameraFrusta(poses(3, 0), lambda: current[0], torch.tensor([[0.7, 1.5]] * 3))
    frusta._setup(viewer)
    viewer.connected[0](None)
    for _ in range(2):
        for row, handle in viewer.camera_handles.items():
            expected = current[0][row, :3, 3].double() * VISER_NERFSTUDIO_SCALE_RATIO
            torch.testing.assert_close(torch.from_numpy(handle.position), expected)
        current[0] = poses(3, 2)
        viewer.update_camera_poses()  # What nerfstudio calls in every step.


def cloud(count=4):
    return CloudPoints(
        positions=torch.arange(3.0 * count).reshape(count, 3),
        colors=torch.arange(3 * count, dtype=torch.uint8).reshape(count, 3),
        confidence=torch.linspace(0, 1, count).half(),
        size=0.01,
    )


def drawn_cloud(viewer):
    (found,) = viewer.viser_server.scene.clouds.values()
    return found


def test_points_are_drawn_in_the_viewers_units_and_colours_as_chosen(viewer):
    control = PointCloudControl(cloud, lambda _: None)
    control._setup(viewer)
    drawn = drawn_cloud(viewer)
    expected = cloud().positions.numpy() * VISER_NERFSTUDIO_SCALE_RATIO
    assert (drawn.points == expected).all() and drawn.visible
    assert drawn.point_size == pytest.approx(0.01 * VISER_NERFSTUDIO_SCALE_RATIO)
    assert (drawn.colors == cloud().colors.numpy()).all()
    control.dropdown.default_value = BY_CONFIDENCE
    control.dropdown.cb_hook(control.dropdown)
    colors = drawn_cloud(viewer).colors
    # Turbo: dark blue where unsure, dark red where sure.
    assert colors[0, 2] > colors[0, 0] and colors[-1, 0] > colors[-1, 2]
    control.dropdown.default_value = HIDDEN
    control.dropdown.cb_hook(control.dropdown)
    assert not drawn_cloud(viewer).visible


def test_slider_thins_cloud_and_render_alike(viewer):
    told = []
    control = PointCloudControl(cloud, told.append)
    control._setup(viewer)
    control.slider.default_value = 0.5
    control.slider.cb_hook(control.slider)
    assert told == [0.5]
    assert len(drawn_cloud(viewer).points) == 2
    control.slider.default_value = 1.0
    control.slider.cb_hook(control.slider)
    assert len(drawn_cloud(viewer).points) == 1


def test_large_clouds_are_drawn_in_part(monkeypatch):
    monkeypatch.setattr(viewer_module, "MOST_POINTS", 30)
    assert len(cloud(100).shown(0.0, BY_PHOTO).positions) == 25
    assert len(cloud(30).shown(0.0, BY_PHOTO).positions) == 30


class Client:
    """Keeps what it is told while it is shown."""

    def __init__(self):
        self.shown = []

    def add_notification(self, title, body, **_):
        self.shown.append(body)
        return SimpleNamespace(remove=lambda: self.shown.remove(body))


def test_slow_views_are_told_of_until_they_are_there(viewer):
    client = Client()
    viewer.viser_server.get_clients = lambda: {0: client}
    slow = SlowRenders()
    with slow.during(60.0):  # No viewer is open yet.
        assert client.shown == []
    slow._setup(viewer)
    with slow.during(1.0):
        assert client.shown == []
    with pytest.raises(InterruptedError), slow.during(60.0):
        assert len(client.shown) == 1 and "60 s" in client.shown[0]
        raise InterruptedError
    assert client.shown == []


@pytest.mark.parametrize(
    "method", ["3dgs", "nerf", "nerf-vanilla", "vggt", "dust3r", "lvsm", "rayzer"]
)
def test_viewers_of_all_methods_listen_on_this_computer_only(method):
    config = all_methods[method]
    assert config.viewer.websocket_host == "127.0.0.1"
    assert type(config)(method_name="x").viewer.websocket_host == "127.0.0.1"


def test_another_address_is_taken_from_the_command_line():
    words = ["--viewer.websocket-host", "0.0.0.0"]
    viewer = tyro.cli(TrainerConfig, default=TrainerConfig(method_name="x"), args=words).viewer
    assert viewer.websocket_host == "0.0.0.0"


def test_it_is_said_who_can_open_the_viewer():
    for host in ("127.0.0.1", "localhost"):
        said = reach_of_viewer(host)
        assert "on this computer only" in said and "--viewer.websocket-host 0.0.0.0" in said
    for host in ("0.0.0.0", "192.168.1.5"):
        assert f"listens on {host}: everyone" in reach_of_viewer(host)
