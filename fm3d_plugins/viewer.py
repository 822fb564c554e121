"""All that this package asks of nerfstudio's viewer. Written for viser 0.2.7, which it pins."""

from typing import Any

from jaxtyping import Float
from nerfstudio.viewer.viewer import VISER_NERFSTUDIO_SCALE_RATIO, Viewer
from nerfstudio.viewer.viewer_elements import ViewerControl
from torch import Tensor

from fm3d_plugins.geometry.poses import quaternion_wxyz_from_rotation

STEP_AHEAD = 0.5
"""Units of the viewer, in which nerfstudio draws a photo about 0.1 before its camera."""


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
