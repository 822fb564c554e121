"""The rasteriser on CUDA: gsplat 1.4 (Apache-2.0) with our names and conventions.

The stages of `gsplat.rasterization` are called one by one because of a single tensor: the projected
means must be ours, of shape [num_gaussians, 2], and lie on the path from the gaussians to the
image, so that `means2d.retain_grad()` gives density control its gradient as with other backends.
"""

import math
from types import ModuleType

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fm3d_plugins.errors import require
from fm3d_plugins.kernels.rasterizer.definitions import (
    LOW_PASS_VARIANCE,
    TILE_SIZE,
    Camera,
    Gaussians,
    RasterizedView,
    camera_center,
    with_intrinsics_gradient,
)


def rasterize_gsplat(
    gaussians: Gaussians, camera: Camera, absolute: Tensor | None = None
) -> RasterizedView:
    """`rasterize` for CUDA tensors; see there.

    gsplat leaves out a gaussian beyond three standard deviations, tile by tile, where the other
    backends follow it down to an alpha of 1/255: images differ by about 1 % of a gaussian's opacity
    at its rim.
    """
    gsplat = require("gsplat", purpose="Rendering gaussians on a GPU", install="nerfstudio>=1.1.5")
    radii, means2d, depths, conics, compensations = gsplat.fully_fused_projection(
        gaussians.means,
        None,
        gaussians.quaternions_wxyz,
        gaussians.scales,
        with_intrinsics_gradient(camera.camera_from_world, camera.intrinsics)[None],
        camera.intrinsics.detach()[None],
        camera.width,
        camera.height,
        eps2d=LOW_PASS_VARIANCE,
        near_plane=camera.near,
        far_plane=camera.far,
        packed=False,
        calc_compensations=camera.antialiased,
    )
    means2d = means2d[0]
    opacities = gaussians.opacities[None]
    directions = gaussians.means - camera_center(camera.camera_from_world)
    colors = gsplat.spherical_harmonics(
        camera.sh_degree, directions[None], gaussians.joined_sh()[None], masks=radii > 0
    )
    colors = torch.clamp_min(colors + 0.5, 0.0)
    batched_means2d = means2d[None]
    if absolute is not None and batched_means2d.requires_grad:

        def take_absolute(_: Tensor) -> None:
            # gsplat leaves them as an attribute of what it got, before the gradient arrives here.
            absolute.copy_(batched_means2d.absgrad[0])  # type: ignore[attr-defined]

        batched_means2d.register_hook(take_absolute)
    sums, alpha = _composite(
        gsplat,
        batched_means2d,
        conics,
        torch.cat([colors, depths[..., None]], dim=-1),
        opacities * compensations if camera.antialiased else opacities,
        torch.cat([camera.background, camera.background.new_zeros(1)])[None],
        radii,
        camera,
        absolute is not None,
    )
    tiny = torch.finfo(alpha.dtype).tiny
    depth = torch.where(alpha > 0, sums[..., 3:] / alpha.clamp_min(tiny), 0.0)
    return RasterizedView(sums[0, ..., :3], alpha[0], depth[0], means2d, radii[0], absolute)


def _composite(
    gsplat: ModuleType,
    means2d: Float[Tensor, "1 num_gaussians 2"],
    conics: Float[Tensor, "1 num_gaussians 3"],
    colors_and_depths: Float[Tensor, "1 num_gaussians 4"],
    opacities: Float[Tensor, "1 num_gaussians"],
    background: Float[Tensor, "1 4"],
    radii: Int[Tensor, "1 num_gaussians"],
    camera: Camera,
    absgrad: bool,
) -> tuple[Float[Tensor, "1 height width 4"], Float[Tensor, "1 height width 1"]]:
    """Sums of colour and depth over the background, and alpha."""
    num_columns, num_rows = (math.ceil(size / TILE_SIZE) for size in (camera.width, camera.height))
    _, intersections, splat_indices = gsplat.isect_tiles(
        means2d,
        radii,
        colors_and_depths[..., 3],
        TILE_SIZE,
        num_columns,
        num_rows,
        packed=False,
        n_cameras=1,
    )
    tile_offsets = gsplat.isect_offset_encode(intersections, 1, num_columns, num_rows)
    return gsplat.rasterize_to_pixels(
        means2d,
        conics,
        colors_and_depths,
        opacities,
        camera.width,
        camera.height,
        TILE_SIZE,
        tile_offsets,
        splat_indices,
        backgrounds=background,
        absgrad=absgrad,
    )
