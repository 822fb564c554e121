"""Corrections of the training cameras, optimised together with the scene."""

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from nerfstudio.cameras import camera_optimizers
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.cameras.rays import RayBundle
from torch import Tensor
from torch.nn import Parameter

from fm3d_plugins.camera_optimization.pixel_units import unit_motions, zoom_effect
from fm3d_plugins.camera_optimization.track_anchors import PhotoTracks, TrackAnchors
from fm3d_plugins.camera_photos import GIVEN_CAMERAS
from fm3d_plugins.geometry.looked_at import distance_looked_at
from fm3d_plugins.geometry.poses import se3_exp, so3_exp
from fm3d_plugins.nerfstudio_cameras import calibrations, image_sizes, world_from_cameras

MOST_HELD = 100.0
"""Times the pull of a camera that is sure to one pixel: all that are sure to a tenth or better."""

TRACKS = "tracks"
"""Key of the dataparser's metadata: `PhotoTracks` of the training photos, where there are any."""

STILL = 0.1
"""Pixels of a correction below which the pull fades, so that it has a gradient at zero."""


@dataclass
class CameraOptimizerConfig(camera_optimizers.CameraOptimizerConfig):
    """Whether and how the training cameras are optimised."""

    _target: type = field(default_factory=lambda: CameraOptimizer)
    mode: Literal["off", "SO3xR3", "SE3"] | None = None  # type: ignore[assignment]
    """off: cameras stay as given. SO3xR3: turn about the camera's centre, and shift. SE3: both as
    one screw motion. None: SO3xR3 where an estimator made the cameras, off where they are given."""
    focal_length: bool = True
    """Also find one factor of the focal length for each group of cameras with equal intrinsics."""
    rough_scene: bool | None = None
    """Before training, find corrections of many pixels with a scene of few gaussians and small
    photos, about 10 CPU seconds, which is then thrown away. None: where poses are optimised and
    the dataparser tells nothing (`camera_confidence`, `tracks`) by which they are right already."""
    pull: float = 5e-4
    """Loss per pixel by which a camera's correction moves its picture, over the variance that the
    dataparser tells of it (pixels squared; 1 where it does not). A pull of constant strength: what
    the photos hardly show stays as given."""
    track_weight: float = 0.0
    """Weight of Huber's loss (1 pixel) of how far the dataparser's tracks, pixels in which photos
    show the same point, are from where the cameras see it, such as 0.01. 0: they are not used."""
    trans_l2_penalty: float = 0.0
    """Weight of the squared shift (scene units), over the camera's variance, in the loss."""
    rot_l2_penalty: float = 0.0
    """Weight of the squared turn (radians), over the camera's variance, in the loss."""

    def resolve(self, is_estimated: bool) -> str:
        """Decide what is None, and say so in one line.

        Args:
            is_estimated: The dataparser's cameras come from an estimator.
        """
        why = "as asked"
        if self.mode is None:
            self.mode = "SO3xR3" if is_estimated else "off"
            why = "cameras are estimated" if is_estimated else "cameras are given"
        what = "off" if self.mode == "off" else f"on ({self.mode})"
        focal = ", with a focal-length factor" if self.mode != "off" and self.focal_length else ""
        return (
            f"Camera optimisation is {what}{focal}: {why}. "
            "Another choice: --pipeline.model.camera-optimizer.mode off|SO3xR3|SE3."
        )


class CameraOptimizer(camera_optimizers.CameraOptimizer):
    """Moves training cameras; nerfstudio's viewer and exporter know its base class.

    Corrections act in world axes: the turn about the camera's own centre, the shift on the centre.
    `pose_adjustment` [V, 6] holds them in units of about one pixel (see `pixel_units`), zero for
    the initial pose: one step length then suits turns, shifts and scenes of any size.

    A focal factor 1 + e moves every camera back by e times the distance of what it looks at: what
    lies there then keeps its size, and only the perspective changes. Otherwise the whole scene
    would have to change its depth before a better focal length could lower the loss.

    The gauge: the first training camera stays, and so does the mean square distance of all centres
    from it (`hold_gauge`), but for those moves with the focal length, so that the scene as a whole
    neither drifts nor shrinks.
    """

    config: CameraOptimizerConfig
    pose_adjustment: Float[Tensor, "view 6"]
    focal_adjustment: Float[Tensor, " group"]
    motions: Float[Tensor, "view 6 6"]
    initial_centres: Float[Tensor, "view 3"]
    confidence: Float[Tensor, " view"]
    group: Int[Tensor, " view"]
    focal_unit: Float[Tensor, " group"]
    axes: Float[Tensor, "view 3"]
    dolly: Float[Tensor, "view 3"]
    rotations: Float[Tensor, "view 3 3"]
    focal_lengths: Float[Tensor, "view 2"]
    calibrations: Float[Tensor, "group number"]

    def __init__(
        self,
        config: CameraOptimizerConfig,
        num_cameras: int,
        device: torch.device | str,
        cameras: Cameras | None = None,
        confidence: Float[Tensor, " view"] | None = None,
        tracks: PhotoTracks | None = None,
        **_: Any,
    ) -> None:
        """Args:
            cameras: The training cameras as the dataparser gives them (OpenGL axes).
            confidence: Of each, in [0, 1]: 1 / (1 + s²), its standard deviation moving the photo
                that is trained on by s pixels; as of one pixel where none is given.
            tracks: Of the training photos, in the frame of the cameras.

        Raises:
            ValueError: Cameras are to be optimised but not given, or tracks are to be used but not
                given; or cameras stay, but a rough scene was asked for.
        """
        torch.nn.Module.__init__(self)
        self.config, self.num_cameras, self.device = config, num_cameras, device
        self.non_trainable_camera_indices = torch.zeros(1, dtype=torch.long)
        self._drawn: Int[Tensor, " drawn"] | None = None
        self._corrections: Float[Tensor, "drawn 3 4"] | None = None
        self.track_anchors: TrackAnchors | None = None
        if not self.is_on:
            _expect_no_rough_scene(config)
            return
        if cameras is None or len(cameras) != num_cameras:
            raise ValueError(
                f"Camera optimisation got {0 if cameras is None else len(cameras)} cameras of "
                f"{num_cameras} training photos. Expected all, in the dataset's metadata under "
                f"{GIVEN_CAMERAS!r}. Use this package's datamanagers, or mode off."
            )
        cameras = cameras.to("cpu")
        poses, intrinsics = world_from_cameras(cameras), cameras.get_intrinsics_matrices()
        self.pose_adjustment = Parameter(torch.zeros(num_cameras, 6))
        reach = distance_looked_at(poses)
        motions = unit_motions(poses, intrinsics, image_sizes(cameras), reach)
        self.register_buffer("motions", motions)
        self.register_buffer("initial_centres", poses[:, :3, 3].clone())
        known = torch.full((num_cameras,), 0.5) if confidence is None else confidence.float()
        self.register_buffer("confidence", known)
        distinct, group = calibrations(cameras).float().unique(dim=0, return_inverse=True)
        self.register_buffer("calibrations", distinct)
        self.register_buffer("group", group)
        if config.focal_length:
            self.focal_adjustment = Parameter(torch.zeros(len(distinct)))
            self.register_buffer("focal_unit", 1 / zoom_effect(distinct[:, :2]))
            axes = poses[:, :3, 2].clone()
            self.register_buffer("axes", axes, persistent=False)
            self.register_buffer("dolly", (-reach * axes).float())
        if config.track_weight > 0:
            focal_lengths = intrinsics[:, (0, 1), (0, 1)].float()
            self.register_buffer("rotations", poses[:, :3, :3].clone(), persistent=False)
            self.register_buffer("focal_lengths", focal_lengths, persistent=False)
            self.track_anchors = TrackAnchors(_expected(tracks), focal_lengths)

    @property
    def is_on(self) -> bool:
        """Whether cameras are optimised at all."""
        return self.config.mode not in ("off", None)

    def tangents(self) -> Float[Tensor, "view 6"]:
        """Shift (scene units) and turn (radians) of every training camera."""
        own = self._own_tangents()
        if not self.config.focal_length:
            return own
        logs = (self.focal_unit * self.focal_adjustment)[self.group]
        return own + torch.nn.functional.pad(logs.expm1()[:, None] * self.dolly, (0, 3))

    def _own_tangents(self) -> Float[Tensor, "view 6"]:
        """`tangents` without the shift that goes with a focal factor; zero for the first camera."""
        moved = (self.motions @ self.pose_adjustment[..., None]).squeeze(-1)
        return torch.cat([torch.zeros_like(moved[:1]), moved[1:]])

    def forward(self, indices: Int[Tensor, " camera"]) -> Float[Tensor, "camera 3 4"]:
        """Corrections [R | t] in world axes: rotation' = R rotation, centre' = centre + t."""
        if not self.is_on:
            return torch.eye(4, device=self.device)[:3].expand(len(indices), 3, 4)
        tangents = self.tangents()[indices.to(self.pose_adjustment.device)]
        if self.config.mode == "SE3":
            return se3_exp(tangents)[:, :3]
        return torch.cat([so3_exp(tangents[:, 3:]), tangents[:, :3, None]], dim=-1)

    def apply_to_camera(self, camera: Cameras) -> Float[Tensor, "*batch 3 4"]:
        """Corrected camera_to_world (OpenGL) of the training camera that metadata["cam_idx"] names.

        Cameras without that entry (the viewer's, held-out ones) come back as they are.
        """
        index = (camera.metadata or {}).get("cam_idx")
        given = camera.camera_to_worlds
        if not self.is_on or index is None:
            return given
        indices = torch.tensor([index], device=self.pose_adjustment.device)
        correction = self(indices)
        self._drawn, self._corrections = indices, correction
        correction = correction.to(given)
        rotation = correction[..., :3] @ given[..., :3]
        return torch.cat([rotation, given[..., 3:] + correction[..., 3:]], dim=-1)

    def apply_to_raybundle(self, raybundle: RayBundle) -> None:
        """Move the rays of training photos with their cameras, in place; differentiable."""
        if not self.is_on or raybundle.camera_indices is None:
            return
        indices = raybundle.camera_indices.flatten()
        if self.config.focal_length:
            self._lengthen(raybundle, indices)
        correction = self(indices)
        self._drawn, self._corrections = indices, correction
        correction = correction.to(raybundle.origins)
        rotation = correction[:, :, :3].reshape(*raybundle.shape, 3, 3)
        shift = correction[:, :, 3].reshape(raybundle.origins.shape)
        raybundle.origins = raybundle.origins + shift
        raybundle.directions = (rotation @ raybundle.directions[..., None]).squeeze(-1)

    def uncorrected(
        self, points: Float[Tensor, "row 3"], photo: Int[Tensor, " row"]
    ) -> Float[Tensor, "row 3"]:
        """Points that rays of given cameras must aim at to end, once corrected, at `points`.

        As far from the given centre as `points` from the corrected one. World frame; the inverse
        of `apply_to_raybundle`, not differentiable.

        Args:
            photo: Rows of the training photos, one for each point.
        """
        if not self.is_on:
            return points
        with torch.no_grad():
            corrections = self(photo).to(points)
            centres = self.initial_centres[photo].to(points)
            turned = points - centres - corrections[..., 3]
            offsets = (corrections[..., :3].mT @ turned[..., None]).squeeze(-1)
            if self.config.focal_length:
                axes = self.axes[photo].to(points)
                along = (offsets * axes).sum(-1, keepdim=True) * axes
                aimed = offsets + (1 / self.focal_factors()[photo].to(points)[:, None] - 1) * along
                offsets = torch.nn.functional.normalize(aimed, dim=-1) * offsets.norm(
                    dim=-1, keepdim=True
                )
        return centres + offsets

    def _lengthen(self, raybundle: RayBundle, indices: Int[Tensor, " ray"]) -> None:
        """Turn rays to where the same pixels look with the optimised focal lengths."""
        shape = (*raybundle.shape, -1)
        axes = self.axes[indices].to(raybundle.directions).reshape(shape)
        factors = self.focal_factors()[indices].to(axes).reshape(shape)
        along = (raybundle.directions * axes).sum(-1, keepdim=True) * axes
        # A longer focal length squeezes what is across the axis.
        longer = raybundle.directions + (factors - 1) * along
        raybundle.directions = torch.nn.functional.normalize(longer, dim=-1)

    def focal_factors(self) -> Float[Tensor, " view"]:
        """Factor of the focal lengths of every training camera."""
        if not self.is_on or not self.config.focal_length:
            return torch.ones(self.num_cameras)
        return (self.focal_unit * self.focal_adjustment).exp()[self.group]

    def focal_factor(self, camera: Cameras) -> Float[Tensor, ""] | float:
        """Factor of a training camera's focal lengths; 1 for cameras without `cam_idx`."""
        index = (camera.metadata or {}).get("cam_idx")
        if not self.is_on or not self.config.focal_length or index is None:
            return 1.0
        return self.focal_factors()[index]

    def held_out_focal_factors(self, cameras: Cameras) -> Float[Tensor, " camera"]:
        """Learned factors for cameras outside the training set.

        That of the training cameras with equal intrinsics, or the geometric mean of all.
        """
        if not self.is_on or not self.config.focal_length:
            return torch.ones(len(cameras))
        logs = (self.focal_unit * self.focal_adjustment).detach()
        given = calibrations(cameras)[:, None].to(self.calibrations)
        equal = torch.eq(given, self.calibrations).all(-1)
        mean = logs[self.group].mean()
        found = (equal * logs).sum(-1)
        return torch.where(equal.any(-1), found, mean).exp()

    def get_loss_dict(self, loss_dict: dict) -> None:
        """Add what holds the cameras that were used last: initial poses, and tracks if any."""
        if not self.is_on or self._drawn is None:
            return
        loss_dict["camera_opt_regularizer"] = self.penalty(self._marked(self._drawn))
        if self.track_anchors is not None and self._corrections is not None:
            loss = self._track_loss(self.track_anchors, self._drawn, self._corrections)
            loss_dict["camera_opt_tracks"] = self.config.track_weight * loss

    def _track_loss(
        self,
        anchors: TrackAnchors,
        drawn: Int[Tensor, " drawn"],
        corrections: Float[Tensor, "drawn 3 4"],
    ) -> Float[Tensor, ""]:
        """What `anchors` say of the cameras that were used last."""
        factors = self.focal_factors().to(corrections)
        with torch.no_grad():
            every = torch.arange(self.num_cameras, device=drawn.device)
            cameras = self._from_world(every, self(every), factors)
        return anchors(drawn, self._from_world(drawn, corrections, factors), cameras)

    def _from_world(
        self,
        indices: Int[Tensor, " camera"],
        corrections: Float[Tensor, "camera 3 4"],
        focal_factors: Float[Tensor, " view"],
    ) -> Float[Tensor, "camera 3 4"]:
        """Corrected cameras as `TrackAnchors` takes them."""
        turns = (corrections[..., :3] @ self.rotations[indices]).mT
        centres = self.initial_centres[indices] + corrections[..., 3]
        rows = torch.cat([turns, -turns @ centres[..., None]], dim=-1)
        lengths = self.focal_lengths[indices] * focal_factors[indices, None]
        return rows * torch.nn.functional.pad(lengths, (0, 1), value=1.0)[..., None]

    def penalty(self, drawn: Float[Tensor, " view"]) -> Float[Tensor, ""]:
        """Mean over some cameras of what their corrections cost, over their variances.

        Not over all cameras: `RowAdam` would take those without a photo in this step for drawn.

        Args:
            drawn: 1 for the cameras that count, 0 for the others, whose gradient is 0 too.
        """
        lengths = (self.pose_adjustment.square().sum(-1) + STILL**2).sqrt()
        squares = self._own_tangents().square()
        shift, turn = squares[:, :3].sum(-1), squares[:, 3:].sum(-1)
        cost = self.config.trans_l2_penalty * shift + self.config.rot_l2_penalty * turn
        # 1 / s² of a confidence of 1 / (1 + s²).
        inverse_variance = self.confidence / (1 - self.confidence).clamp_min(1 / (1 + MOST_HELD))
        total = (drawn * inverse_variance * (cost + self.config.pull * lengths)).sum()
        return total / drawn.sum()

    def _marked(self, indices: Int[Tensor, " camera"]) -> Float[Tensor, " view"]:
        """1 for these cameras, 0 for the others. A list of them would have to wait for a GPU."""
        return torch.zeros_like(self.confidence).index_fill(0, indices, 1.0)

    @torch.no_grad()
    def get_metrics_dict(self, metrics_dict: dict) -> None:
        """Mean and largest shift (scene units) and turn (degrees), and the focal factor."""
        if not self.is_on:
            return
        tangents = self.tangents()
        shift, turn = tangents[:, :3].norm(dim=-1), torch.rad2deg(tangents[:, 3:].norm(dim=-1))
        metrics_dict["camera_opt_translation_mean"] = shift.mean()
        metrics_dict["camera_opt_translation_max"] = shift.max()
        metrics_dict["camera_opt_rotation_mean"] = turn.mean()
        metrics_dict["camera_opt_rotation_max"] = turn.max()
        metrics_dict["camera_opt_focal_factor"] = self.focal_factors().mean()

    @torch.no_grad()
    def hold_gauge(self, step: int = 0) -> None:
        """Undo what the last step changed of the scale: call it after every step.

        What the focal length does to the centres is left out of the account.
        """
        if not self.is_on or self.num_cameras < 2:
            return
        tangents = self._own_tangents()
        before = self.initial_centres - self.initial_centres[0]
        after = before + tangents[:, :3]
        ratio = before.norm() / after.norm().clamp_min(1e-12)
        wanted = torch.cat([ratio * after - before, tangents[:, 3:]], dim=-1)
        # Without a check of the motions, which are never singular: a GPU need not be waited for.
        self.pose_adjustment.copy_(torch.linalg.solve_ex(self.motions, wanted).result)
        self.pose_adjustment[0] = 0

    def get_param_groups(self, param_groups: dict) -> None:
        """Add the groups `camera_opt` (poses) and `camera_focal`, which has its own schedule."""
        if self.is_on:
            param_groups["camera_opt"] = [self.pose_adjustment]
        if self.is_on and self.config.focal_length:
            param_groups["camera_focal"] = [self.focal_adjustment]


def _expected(tracks: PhotoTracks | None) -> PhotoTracks:
    if tracks is None:
        raise ValueError(
            "Tracks were asked for (--pipeline.model.camera-optimizer.track-weight), but the "
            f"dataparser brings none. Expected them in its metadata under {TRACKS!r}, of points "
            "that two training photos show. Name an estimator that matches photos (sfm, or one "
            "with --refine), or leave the weight at 0."
        )
    return tracks


def _expect_no_rough_scene(config: CameraOptimizerConfig) -> None:
    if config.rough_scene:
        raise ValueError(
            "A rough scene was asked for (--pipeline.model.camera-optimizer.rough-scene), but the "
            "cameras stay as given. Expected cameras that are optimised. Add "
            "--pipeline.model.camera-optimizer.mode SO3xR3, or leave the rough scene out."
        )
