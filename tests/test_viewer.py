"""What is drawn in nerfstudio's viewer, through a stand-in that records it."""

from types import SimpleNamespace

import pytest
import torch
from nerfstudio.viewer.viewer import VISER_NERFSTUDIO_SCALE_RATIO, Viewer
from nerfstudio.viewer.viewer_elements import ViewerCheckbox

from fm3d_plugins.geometry.poses import so3_exp
from fm3d_plugins.viewer import CameraFrusta


class Scene:
    """Keeps every frustum that is drawn, by its name."""

    def __init__(self):
        self.frusta = {}

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
    return torch.cat([rotations, torch.randn(count, 3, 1, generator=generator)], dim=-1)


def test_initial_cameras_are_drawn_where_they_began_and_shown_on_demand(viewer):
    initial = poses(3, 0)
    frusta = CameraFrusta(initial, lambda: poses(3, 1), torch.tensor([[0.7, 1.5]] * 3))
    frusta._setup(viewer)
    drawn = viewer.viser_server.scene.frusta
    assert len(drawn) == 3
    for row, frustum in enumerate(drawn.values()):
        expected = initial[row, :, 3].double() * VISER_NERFSTUDIO_SCALE_RATIO
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
            expected = current[0][row, :, 3].double() * VISER_NERFSTUDIO_SCALE_RATIO
            torch.testing.assert_close(torch.from_numpy(handle.position), expected)
        current[0] = poses(3, 2)
        viewer.update_camera_poses()  # What nerfstudio calls in every step.
