"""All that this package asks of nerfstudio's viewer. Written for viser 0.2.7, which it pins."""

from collections.abc import Callable
from typing import Any

from jaxtyping import Float
from nerfstudio.viewer.viewer import VISER_NERFSTUDIO_SCALE_RATIO, Viewer
from nerfstudio.viewer.viewer_elements import ViewerCheckbox, ViewerControl
from torch import Tensor

from fm3d_plugins.geometry.poses import quaternion_wxyz_from_rotation

STEP_AHEAD = 0.5
"""Units of the viewer, in which nerfstudio draws a photo about 0.1 before its camera."""

INITIAL_COLOR = (255, 140, 0)
"""Of the frusta where cameras began: orange, as nothing else in the viewer."""

INITIAL_SCALE = 0.6
"""Their size, over that of nerfstudio's frusta."""


class StartAtPhoto(ViewerControl):
    """Begins every visit where a photo was taken; nerfstudio's own start may lie behind a wall.

    nerfstudio finds it as an attribute of the pipeline.
    """

    def __init__(self, world_from_camera: Float[Tensor, "3 4"]) -> None:
        """Args:
        world_from_camera: The photo's camera, OpenCV axes, frame of the dataparser.
        """
        self._wxyz = quaternion_wxyz_from_rotation(world_from_camera[:3, :3]).double().numpy()
        # A little ahead of the photo, which is drawn in front of its camera.
        position = world_from_camera[:3, 3] * VISER_NERFSTUDIO_SCALE_RATIO
        self._position = (position + STEP_AHEAD * world_from_camera[:3, 2]).double().numpy()

    def _setup(self, viewer: Viewer) -> None:
        super()._setup(viewer)
        viewer.viser_server.on_client_connect(self._place)

    def _place(self, client: Any) -> None:
        with client.atomic():
            client.camera.wxyz = self._wxyz
            client.camera.position = self._position


class CameraFrusta(ViewerControl):
    """Draws training cameras where they are now, and small empty frusta where they began.

    nerfstudio finds it as an attribute of the pipeline. Its own `Viewer.update_camera_poses`
    (1.1.5) multiplies corrections from the wrong side, camera axes for world axes, and runs only
    while training; this replaces it.
    """

    def __init__(
        self,
        initial: Float[Tensor, "view 3 4"],
        current: Callable[[], Float[Tensor, "view 3 4"]],
        fovs_and_aspects: Float[Tensor, "view 2"],
    ) -> None:
        """Args:
        initial: world_from_camera as given, OpenCV axes, frame of the dataparser.
        current: The same cameras as they are now.
        fovs_and_aspects: Vertical field of view in radians; width over height.
        """
        self._initial, self._current = initial.detach().cpu(), current
        self._shapes = fovs_and_aspects.tolist()
        self._handles: list[Any] = []
        self.checkbox = ViewerCheckbox(
            "Initial cameras", default_value=False, cb_hook=self._show, hint="Before optimisation"
        )

    def _setup(self, viewer: Viewer) -> None:
        super()._setup(viewer)
        wxyz, positions = _viser_poses(self._initial)
        for i, (fov, aspect) in enumerate(self._shapes):
            self._handles.append(
                viewer.viser_server.scene.add_camera_frustum(
                    f"/initial_cameras/{i:05d}",
                    fov=fov,
                    aspect=aspect,
                    scale=INITIAL_SCALE * viewer.config.camera_frustum_scale,
                    color=INITIAL_COLOR,
                    wxyz=wxyz[i],
                    position=positions[i],
                    visible=bool(self.checkbox.value),
                )
            )
        viewer.update_camera_poses = self._place  # type: ignore[method-assign]
        viewer.viser_server.on_client_connect(lambda _: self._place())

    def _place(self) -> None:
        """Move nerfstudio's frusta, which bear the photos, to the current cameras."""
        handles = getattr(self.viewer, "camera_handles", {})
        wxyz, positions = _viser_poses(self._current().detach().cpu())
        for row, handle in handles.items():
            handle.wxyz, handle.position = wxyz[row], positions[row]

    def _show(self, checkbox: ViewerCheckbox) -> None:
        for handle in self._handles:
            handle.visible = bool(checkbox.value)


def _viser_poses(world_from_camera: Float[Tensor, "view 3 4"]) -> tuple[Any, Any]:
    """Quaternions (wxyz) and positions of OpenCV cameras, as viser takes them."""
    wxyz = quaternion_wxyz_from_rotation(world_from_camera[:, :, :3]).double().numpy()
    return wxyz, (world_from_camera[:, :, 3] * VISER_NERFSTUDIO_SCALE_RATIO).double().numpy()
