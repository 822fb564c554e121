"""Depth of the surface that gaussians show: where a good part of a pixel's light is absorbed.

The expected depth that comes with a render is no surface's: a little light that passes reaches
what lies far behind, and the centres of slanted gaussians lie beside the pixel's ray.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from fm3d_plugins.geometry.poses import rotation_from_quaternion_wxyz
from fm3d_plugins.kernels.rasterizer.definitions import (
    Camera,
    Gaussians,
)


@torch.no_grad()
def surface_depth(
    means: Float[Tensor, "num_gaussians 3"],
    quaternions_wxyz: Float[Tensor, "num_gaussians 4"],
    scales: Float[Tensor, "num_gaussians 3"],
    opacities: Float[Tensor, " num_gaussians"],
    camera_from_world: Float[Tensor, "4 4"],
    intrinsics: Float[Tensor, "3 3"],
    *,
    width: int,
    height: int,
    near: float = 0.01,
    far: float = 1e10,
    antialiased: bool = False,
) -> Float[Tensor, "height width"]:
    """z-depth of the gaussian behind which 0.7 of a pixel's light or less is left.

    Gaussians count in the order and with the opacities of `rasterize`, each at the depth at which
    the pixel's ray passes it closest, in its own measure (Yu et al. 2024, Gaussian Opacity Fields).
    Computed by a Numba kernel on the CPU, wherever the tensors are. Not differentiable.

    Args:
        means: Centres. World frame, scene units; the others as of `rasterize`.

    Returns:
        Float32, on the CPU; 0 where more of the light passes everything.
    """
    from fm3d_plugins.kernels.rasterizer.numba_backend import surface_depth_numba

    none = torch.zeros(len(means), 1, 3)
    values = (means, quaternions_wxyz, scales, opacities, none, none[:, :0])
    gaussians = Gaussians(*(value.detach().float().cpu() for value in values))
    pose, lens = camera_from_world.float().cpu(), intrinsics.float().cpu()
    camera = Camera(pose, lens, torch.zeros(3), width, height, near, far, 0, antialiased)
    return surface_depth_numba(gaussians, camera, ray_measures(gaussians, pose))


def ray_measures(
    gaussians: Gaussians, camera_from_world: Float[Tensor, "4 4"]
) -> Float[Tensor, "num_gaussians 9"]:
    """By which z a ray d = (x, y, 1) passes each gaussian closest is told: (d b) / (d A d).

    A is the inverse covariance (xx, xy, xz, yy, yz, zz) and b is A times the centre, both in the
    camera's axes; float64.
    """
    pose = camera_from_world.double()
    rotations = pose[:3, :3] @ rotation_from_quaternion_wxyz(gaussians.quaternions_wxyz.double())
    whitening = rotations.mT / gaussians.scales.double()[..., None]
    inverse = whitening.mT @ whitening
    centers = gaussians.means.double() @ pose[:3, :3].T + pose[:3, 3]
    row, column = torch.triu_indices(3, 3)
    return torch.cat([inverse[:, row, column], (inverse @ centers[..., None])[..., 0]], dim=-1)
