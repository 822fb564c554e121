"""All that this package asks of nerfstudio's viewer. Written for viser 0.2.7, which it pins."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, UInt8
from nerfstudio.utils.colormaps import ColormapOptions, apply_colormap
from nerfstudio.viewer.viewer import VISER_NERFSTUDIO_SCALE_RATIO, Viewer
from nerfstudio.viewer.viewer_elements import (
    ViewerCheckbox,
    ViewerControl,
    ViewerDropdown,
    ViewerSlider,
    ViewerText,
)
from torch import Tensor

from fm3d_plugins.geometry.poses import quaternion_wxyz_from_rotation

STEP_AHEAD = 0.5
"""Units of the viewer, in which nerfstudio draws a photo about 0.1 before its camera."""

FRUSTUM_COLOR = (255, 140, 0)
"""Of frusta beside nerfstudio's own: orange, as nothing else in the viewer."""

FRUSTUM_SCALE = 0.6
"""Their size, over that of nerfstudio's."""


SLOW_SECONDS = 2.0
"""From this on visitors are told that a picture is being made."""

CLOUD = "/points"
"""Name of the point cloud in the viewer's scene."""

MOST_POINTS = 200_000
"""More make every change of the slider slow; every second, third, ... point is drawn then."""

HIDDEN, BY_PHOTO, BY_CONFIDENCE = "hidden", "photo colours", "confidence"
"""What the points may look like."""


class StartAtPhoto(ViewerControl):
    """Begins every visit where a photo was taken; nerfstudio's own start may lie behind a wall.

    nerfstudio finds it as an attribute of the pipeline.
    """

    def __init__(self, world_from_camera: Float[Tensor, "4 4"]) -> None:
        """Args:
        world_from_camera: The photo's camera, OpenCV axes, frame of the dataparser.
        """
        (self._wxyz,), (position,) = _viser_poses(world_from_camera[None])
        # A little ahead of the photo, which is drawn in front of its camera.
        self._position = position + STEP_AHEAD * world_from_camera[:3, 2].double().numpy()

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
        initial: Float[Tensor, "view 4 4"],
        current: Callable[[], Float[Tensor, "view 4 4"]],
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
        self._handles = _add_frusta(viewer, "/initial_cameras", self._initial, self._shapes)
        self._show(self.checkbox)
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


class ContextControl(ViewerControl):
    """Names the photos that views are made from, lets others be named, and draws their frusta.

    nerfstudio finds it as an attribute of the pipeline; `text` must be an attribute itself.
    """

    def __init__(
        self,
        world_from_camera: Float[Tensor, "view 4 4"],
        fovs_and_aspects: Float[Tensor, "view 2"],
        names: Sequence[str],
        chosen: Sequence[int],
        choose: Callable[[list[int]], None],
    ) -> None:
        """Args:
        world_from_camera: Of all photos, OpenCV axes, frame of the dataparser.
        fovs_and_aspects: Vertical field of view in radians; width over height.
        chosen: Numbers of the photos that are in use.
        choose: Is told others.
        """
        self._poses, self._shapes = world_from_camera.detach().cpu(), fovs_and_aspects.tolist()
        self._names, self._choose = list(names), choose
        self._chosen, self._handles = list(chosen), []
        self.text = ViewerText(
            "Context photos",
            self._named(),
            cb_hook=lambda text: self.change(text.value) and self._draw(),
            hint="Photos that views are made from, names separated by commas",
        )

    def _setup(self, viewer: Viewer) -> None:
        super()._setup(viewer)
        self._draw()

    def _named(self) -> str:
        return ", ".join(self._names[view] for view in self._chosen)

    def change(self, names: str) -> bool:
        """Take the photos that are named, separated by commas; False if there are no such."""
        words = [word.strip() for word in names.split(",") if word.strip()]
        if not words or not set(words) <= set(self._names):
            return False
        self._chosen = [self._names.index(word) for word in dict.fromkeys(words)]
        self._choose(self._chosen)
        return True

    def _draw(self) -> None:
        for handle in self._handles:
            handle.remove()
        shapes = [self._shapes[view] for view in self._chosen]
        self._handles = _add_frusta(self.viewer, "/context", self._poses[self._chosen], shapes)


class SlowRenders(ViewerControl):
    """Tells visitors that a picture is being made, where that takes long.

    nerfstudio finds it as an attribute of the model.
    """

    _server: Any = None

    def _setup(self, viewer: Viewer) -> None:
        super()._setup(viewer)
        self._server = viewer.viser_server

    @contextmanager
    def during(self, seconds: float) -> Iterator[None]:
        """What is done here is expected to take that long."""
        clients = {} if self._server is None else self._server.get_clients()
        notices = []
        if seconds > SLOW_SECONDS:
            body = f"This view takes about {seconds:.0f} s; moving starts another."
            notices = [
                client.add_notification("Rendering", body, loading=True, with_close_button=False)
                for client in clients.values()
            ]
        try:
            yield
        finally:
            for notice in notices:
                notice.remove()


@dataclass(frozen=True)
class CloudPoints:
    """Points to draw, in the frame of the dataparser."""

    positions: Float[Tensor, "point 3"]
    colors: UInt8[Tensor, "point 3"]
    confidence: Float[Tensor, " point"]
    """In [0, 1]."""
    size: float
    """Of a drawn point, scene units."""

    def shown(self, threshold: float, style: str) -> "CloudPoints":
        """At most `MOST_POINTS` of those whose confidence reaches a threshold."""
        rows = (self.confidence >= threshold).nonzero().squeeze(-1)
        rows = rows[:: max(1, -(-len(rows) // MOST_POINTS))]
        confidence, colors = self.confidence[rows], self.colors[rows]
        if style == BY_CONFIDENCE:
            painted = apply_colormap(confidence.float()[:, None], ColormapOptions(colormap="turbo"))
            colors = (painted * 255).round().to(torch.uint8)
        return CloudPoints(self.positions[rows], colors, confidence, self.size)


class PointCloudControl(ViewerControl):
    """Draws a point cloud, which a slider thins by confidence together with the render.

    nerfstudio finds it as an attribute of the pipeline; `dropdown` and `slider` must be attributes
    of the pipeline themselves.
    """

    def __init__(
        self, cloud: Callable[[], CloudPoints], show_from: Callable[[float], None]
    ) -> None:
        """Args:
        cloud: The points as they are when the viewer begins or an element changes.
        show_from: Is told from which confidence on points are to be rendered.
        """
        self._cloud, self._show_from = cloud, show_from
        self.dropdown = ViewerDropdown(
            "Points",
            BY_PHOTO,
            [BY_PHOTO, BY_CONFIDENCE, HIDDEN],
            cb_hook=lambda _: self._draw(),
            hint="Colours of the point cloud; hidden shows the rendered output alone",
        )
        self.slider = ViewerSlider(
            "Least confidence",
            0.0,
            0.0,
            1.0,
            0.01,
            cb_hook=self._threshold_changed,
            hint="Points of a lower confidence are neither drawn nor rendered",
        )

    def _setup(self, viewer: Viewer) -> None:
        super()._setup(viewer)
        self._draw()

    def _threshold_changed(self, slider: ViewerSlider) -> None:
        self._show_from(float(slider.value))
        self._draw()

    def _draw(self) -> None:
        """Replace what was drawn before; viser does so for equal names."""
        points = self._cloud().shown(float(self.slider.value), self.dropdown.value)
        positions = points.positions.detach().cpu().float() * VISER_NERFSTUDIO_SCALE_RATIO
        self.viewer.viser_server.scene.add_point_cloud(
            CLOUD,
            points=positions.numpy(),
            colors=points.colors.cpu().numpy(),
            point_size=points.size * VISER_NERFSTUDIO_SCALE_RATIO,
            point_shape="circle",
            visible=self.dropdown.value != HIDDEN and len(positions) > 0,
        )


def _add_frusta(
    viewer: Viewer, folder: str, poses: Float[Tensor, "view 4 4"], shapes: Sequence[Sequence[float]]
) -> list[Any]:
    """Draw small empty frusta of OpenCV cameras, given vertical fields of view and aspects."""
    wxyz, positions = _viser_poses(poses)
    return [
        viewer.viser_server.scene.add_camera_frustum(
            f"{folder}/{i:05d}",
            fov=fov,
            aspect=aspect,
            scale=FRUSTUM_SCALE * viewer.config.camera_frustum_scale,
            color=FRUSTUM_COLOR,
            wxyz=wxyz[i],
            position=positions[i],
        )
        for i, (fov, aspect) in enumerate(shapes)
    ]


def _viser_poses(world_from_camera: Float[Tensor, "view 4 4"]) -> tuple[Any, Any]:
    """Quaternions (wxyz) and positions of OpenCV cameras, as viser takes them."""
    wxyz = quaternion_wxyz_from_rotation(world_from_camera[:, :3, :3]).double().numpy()
    return wxyz, (world_from_camera[:, :3, 3] * VISER_NERFSTUDIO_SCALE_RATIO).double().numpy()
