"""Units in which moving a camera moves its picture by about one pixel, in every direction."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fm3d_plugins.geometry.alignment import Similarity, align_cameras
from fm3d_plugins.geometry.cameras import unproject
from fm3d_plugins.geometry.poses import skew, so3_exp, so3_log

GRID = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Places of the sampled points across and down the image."""

INVERSE_DEPTHS = (0.4, 0.8, 1.2, 1.6, 2.0)
"""Of the sampled points, times the distance to the point that the cameras look at."""

DAMPING = 0.1
"""Share of each parameter's own effect that is added to it: bounds motions that cancel in the
picture, as a turn and a sideways shift nearly do."""

ALIGNMENT_STEPS = 5
"""Gauss-Newton steps of `align_in_pixels`; errors of a few degrees are gone after three."""


def unit_motions(
    world_from_camera: Float[Tensor, "view 4 4"],
    intrinsics: Float[Tensor, "view 3 3"],
    sizes: Int[Tensor, "view 2"],
    reach: Float[Tensor, ""],
) -> Float[Tensor, "view 6 6"]:
    """Matrices P that turn adjustments in pixels into shift and turn, (t, w) = P adjustment.

    P = (J^T J / n + damping)^(-1/2), with J the motion in pixels of n points spread over the view,
    per shift of the camera and turn about its centre: the preconditioner of CamP (Park et al. 2023,
    equations 5 to 7).

    Args:
        world_from_camera: OpenCV axes.
        intrinsics: In pixels of the photos that are trained on.
        sizes: Width and height, pixels.
        reach: How far away what they look at is, scene units; see `distance_looked_at`.
    """
    poses, intrinsics = world_from_camera.double(), intrinsics.double()
    grid = torch.cartesian_prod(*[torch.tensor(GRID, dtype=torch.float64)] * 2)
    pixels = grid * sizes[:, None].double()
    jacobians = []
    for share in INVERSE_DEPTHS:
        depth = (reach.double() / share).expand(pixels.shape[:2])
        jacobians.append(_pixel_motion(poses, intrinsics, unproject(pixels, depth, intrinsics)))
    jacobian = torch.cat(jacobians, dim=1)
    effect = torch.einsum("vnai,vnaj->vij", jacobian, jacobian) / jacobian.shape[1]
    effect = effect + torch.diag_embed(DAMPING * effect.diagonal(dim1=-2, dim2=-1))
    values, vectors = torch.linalg.eigh(effect)
    return (vectors @ torch.diag_embed(values.rsqrt()) @ vectors.mT).float()


def align_in_pixels(
    source: Float[Tensor, "view 4 4"],
    target: Float[Tensor, "view 4 4"],
    motions: Float[Tensor, "view 6 6"],
) -> Similarity:
    """The similarity after which cameras see the scene most nearly as the target cameras do.

    Least squares of the remaining shifts and turns in units of `unit_motions`, by Gauss-Newton
    from `align_cameras`. A fit of the centres alone, as is usual, takes as true what the picture
    hardly shows: errors in which a turn and a sideways shift cancel.

    Args:
        source: world_from_camera, OpenCV axes, any frame.
        target: The same cameras in another frame.
        motions: Of the target cameras.

    Raises:
        ValueError: No camera is given, or a pose is not finite.
    """
    similarity = align_cameras(source, target)
    inverse = torch.linalg.inv(motions.to(target))
    for _ in range(ALIGNMENT_STEPS):
        placed = similarity.apply_to_pose(source)
        centre = placed[:, :3, 3].mean(0)
        offsets = placed[:, :3, 3] - centre
        shift = target[:, :3, 3] - placed[:, :3, 3]
        turn = so3_log(target[:, :3, :3] @ placed[:, :3, :3].mT)
        residual = inverse @ torch.cat([shift, turn], dim=-1)[..., None]
        step = torch.linalg.lstsq(
            (inverse @ _motion_of_all(offsets)).flatten(0, 1), residual.flatten(0, 1)
        ).solution.squeeze(-1)
        rotation, scale = so3_exp(step[3:6]), step[6].exp()
        moved = centre + step[:3] + scale * (rotation @ (similarity.translation - centre))
        similarity = Similarity(scale * similarity.scale, rotation @ similarity.rotation, moved)
    return similarity


def _motion_of_all(offsets: Float[Tensor, "view 3"]) -> Float[Tensor, "view 6 7"]:
    """Shift and turn of cameras by a small shift, turn and growth of all about one point."""
    identity = torch.eye(3, dtype=offsets.dtype).expand(len(offsets), 3, 3)
    shifts = torch.cat([identity, -skew(offsets), offsets[..., None]], dim=-1)
    turns = torch.zeros_like(shifts)
    turns[:, :, 3:6] = identity
    return torch.cat([shifts, turns], dim=1)


def zoom_effect(sizes: Float[Tensor, "group 2"]) -> Float[Tensor, " group"]:
    """Pixels by which the picture moves per unit of log focal length, root mean square.

    The camera moves back meanwhile, so that what it looks at keeps its size: a point at 1 / s of
    that distance and r pixels from the centre moves by r (1 - s).

    Args:
        sizes: Width and height, pixels.
    """
    radius = (sizes.square().sum(-1) / 12).sqrt()
    inverse_depths = sizes.new_tensor(INVERSE_DEPTHS)
    return radius * (1 - inverse_depths).square().mean().sqrt()


def _pixel_motion(
    world_from_camera: Float[Tensor, "view 4 4"],
    intrinsics: Float[Tensor, "view 3 3"],
    points_camera: Float[Tensor, "view point 3"],
) -> Float[Tensor, "view point 2 6"]:
    """Derivative of the points' pixels by shift and turn of the camera in world axes."""
    rotation = world_from_camera[:, :3, :3]
    offsets = points_camera @ rotation.mT  # From the camera's centre, world axes.
    identity = torch.eye(3, dtype=offsets.dtype).expand(*offsets.shape[:2], 3, 3)
    # A turn w moves a fixed point by -w x offset seen from the camera, which is offset x w.
    in_world = torch.cat([-identity, skew(offsets)], dim=-1)
    in_camera = rotation.mT[:, None] @ in_world
    x, y, z = points_camera.unbind(-1)
    zero, one = torch.zeros_like(z), torch.ones_like(z)
    slopes = torch.stack([one, zero, -x / z, zero, one, -y / z], dim=-1).unflatten(-1, (2, 3))
    focal = torch.stack([intrinsics[:, 0, 0], intrinsics[:, 1, 1]], dim=-1)
    return focal[:, None, :, None] / z[..., None, None] * (slopes @ in_camera)
