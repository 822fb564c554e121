"""Where held-out cameras are put before they are scored: the protocol, always named beside PSNR.

Optimised training cameras live in a frame of their own, which need not be the frame of the cameras
that a dataparser gives for held-out photos. `none` scores those as given. `sim3` moves them by the
similarity from the initial to the optimised training cameras, as Lin et al. 2021 (BARF, section
4.2), who fit camera centres; here what cameras see is fitted (`pixel_units.align_in_pixels`).
`photometric:k` then takes k optimiser steps on each held-out camera's own pose, the scene frozen:
the figure then tells how good the scene is, whatever the held-out pose was.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from fm3d_plugins.camera_optimization.camera_optimizer import CameraOptimizer
from fm3d_plugins.camera_optimization.pixel_units import align_in_pixels, unit_motions
from fm3d_plugins.geometry.alignment import Similarity
from fm3d_plugins.geometry.looked_at import distance_looked_at
from fm3d_plugins.geometry.poses import so3_exp
from fm3d_plugins.nerfstudio_cameras import image_sizes, opengl_rows, world_from_cameras

FIRST_STEP, LAST_STEP = 0.5, 0.02
"""Step length of the photometric protocol, pixels; it decays exponentially."""

HeldOutView = tuple[Cameras, dict[str, Any]]


@dataclass(frozen=True)
class TestPoseProtocol:
    """One of the protocols above."""

    __test__ = False  # No test, whatever pytest makes of the name.

    kind: Literal["none", "sim3", "photometric"]
    steps: int = 0

    @property
    def name(self) -> str:
        """As it is written on the command line and beside every PSNR."""
        return f"photometric:{self.steps}" if self.kind == "photometric" else self.kind

    @classmethod
    def parse(cls, text: str) -> "TestPoseProtocol":
        """Read none, sim3 or photometric:k.

        Raises:
            ValueError: It is none of these.
        """
        kind, _, steps = text.partition(":")
        if kind in ("none", "sim3") and text == kind:
            return cls(kind)
        if kind == "photometric" and steps.isascii() and steps.isdigit() and int(steps) > 0:
            return cls("photometric", int(steps))
        raise ValueError(
            f"The test-pose protocol is {text!r}. Expected none, sim3, or photometric:K with K "
            "steps of at least 1, such as photometric:50. Choose one of them."
        )


@runtime_checkable
class RenderedModel(Protocol):
    """What the protocols ask of a model.

    Python 3.12 looks attributes up without `__getattr__`, by which torch finds submodules: none can
    be named here.
    """

    training: bool

    def train(self, mode: bool = True) -> Any:
        """Begin or end training mode, as every torch module does."""
        ...

    def render_loss(self, camera: Cameras, batch: dict[str, Any]) -> Float[Tensor, ""]:
        """Difference between a photo and its render, differentiable in `camera_to_worlds`."""
        ...


@dataclass(frozen=True)
class TrainingCameras:
    """Where the training cameras began and where the scene has them; OpenCV, float64."""

    initial: Float[Tensor, "view 4 4"]
    """world_from_camera as given. Its frame is that of the held-out cameras."""
    optimised: Float[Tensor, "view 4 4"]
    """The same cameras in the frame of the trained scene."""
    motions: Float[Tensor, "view 6 6"]
    """Units of about one pixel for the optimised cameras; see `unit_motions`."""
    reach: Float[Tensor, ""]
    """How far away what they look at is, units of the trained scene."""

    def similarity(self) -> Similarity:
        """From the initial to the optimised cameras: how the scene's frame has moved."""
        return align_in_pixels(self.initial, self.optimised, self.motions)


def training_cameras(cameras: Cameras, optimizer: CameraOptimizer) -> TrainingCameras:
    """The training views of a dataset (OpenGL, frame of the dataparser) and their corrections."""
    with torch.no_grad():
        correction = optimizer(torch.arange(len(cameras))).double().cpu()
    initial = world_from_cameras(cameras).double().cpu()
    optimised = initial.clone()
    optimised[:, :3, :3] = correction[:, :, :3] @ initial[:, :3, :3]
    optimised[:, :3, 3] += correction[:, :, 3]
    reach = distance_looked_at(optimised)
    motions = unit_motions(
        optimised,
        cameras.get_intrinsics_matrices().double().cpu(),
        image_sizes(cameras).cpu(),
        reach,
    )
    return TrainingCameras(initial, optimised, motions, reach)


def place_held_out(
    model: RenderedModel,
    views: list[HeldOutView],
    protocol: TestPoseProtocol,
    trained: TrainingCameras,
    focal_factors: Float[Tensor, " held_out"],
) -> list[HeldOutView]:
    """Held-out views with their cameras where the protocol puts them.

    Args:
        views: Cameras, each in a batch of one, and their photos. Not modified.
        focal_factors: Of the held-out cameras.
    """
    if protocol.kind == "none":
        return views
    similarity = trained.similarity()
    placed = []
    for (camera, batch), factor in zip(views, focal_factors, strict=True):
        moved = similarity.apply_to_pose(world_from_cameras(camera).double().cpu())
        opengl = opengl_rows(moved).to(camera.camera_to_worlds)
        focal = {"fx": camera.fx * factor.to(opengl), "fy": camera.fy * factor.to(opengl)}
        placed.append((replace(camera, camera_to_worlds=opengl, **focal), batch))
    if protocol.kind == "sim3":
        return placed
    return [
        (refine(model, camera, batch, protocol.steps, trained.reach), batch)
        for camera, batch in placed
    ]


def refine(
    model: RenderedModel,
    camera: Cameras,
    batch: dict[str, Any],
    steps: int,
    reach: Float[Tensor, ""],
) -> Cameras:
    """The camera after `steps` Adam steps on its pose that lower `model.render_loss`.

    The pose moves in the units of `unit_motions`, about one pixel each. The model is not changed,
    and is in evaluation mode meanwhile: in training it would correct the camera as one of its own,
    draw random backgrounds and remember what it sees.

    Args:
        reach: How far away what the cameras look at is, scene units.
    """
    given = camera.camera_to_worlds
    on_cpu = camera.to("cpu")
    intrinsics = on_cpu.get_intrinsics_matrices()
    motions = unit_motions(world_from_cameras(on_cpu), intrinsics, image_sizes(on_cpu), reach)
    motion = motions[0].to(given)
    adjustment = torch.zeros(6, device=given.device, requires_grad=True)
    optimizer = torch.optim.Adam([adjustment], lr=FIRST_STEP)
    decay = (LAST_STEP / FIRST_STEP) ** (1 / max(1, steps - 1))
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, decay)
    was_training = model.training
    model.train(False)
    try:
        for _ in range(steps):
            with torch.enable_grad():
                loss = model.render_loss(_moved(camera, motion @ adjustment), batch)
                (adjustment.grad,) = torch.autograd.grad(loss, adjustment)
            optimizer.step()
            scheduler.step()
    finally:
        model.train(was_training)
    with torch.no_grad():
        return _moved(camera, motion @ adjustment)


def _moved(camera: Cameras, tangent: Float[Tensor, "6"]) -> Cameras:
    """The camera turned about its centre and shifted, in world axes; differentiable."""
    given = camera.camera_to_worlds
    rotation = so3_exp(tangent[3:]) @ given[..., :3]
    centre = given[..., 3:] + tangent[:3, None]
    return replace(camera, camera_to_worlds=torch.cat([rotation, centre], dim=-1))
