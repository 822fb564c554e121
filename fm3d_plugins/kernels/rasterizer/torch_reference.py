"""The definition of the rasteriser, in differentiable torch: any device, any float dtype.

Projection follows EWA splatting (Zwicker et al. 2001) as used by 3DGS (Kerbl et al. 2023, sections
4 and 6, appendix A); constants and conventions are those of gsplat 1.4.
"""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fm3d_plugins.kernels.rasterizer.definitions import (
    FRUSTUM_MARGIN,
    LOW_PASS_VARIANCE,
    MAX_ALPHA,
    MIN_ALPHA,
    MIN_TRANSMITTANCE,
    RADIUS_SIGMAS,
    TILE_SIZE,
    Camera,
    Gaussians,
    RasterizedView,
    camera_center,
)
from fm3d_plugins.kernels.rasterizer.spherical_harmonics import sh_colors

# gaussians composited at once per tile: bounds the memory and lets a finished tile stop
CHUNK = 512
SMALLEST_DETERMINANT_RATIO = 1e-12
SMALLEST_QUATERNION = 1e-12


@dataclass(frozen=True)
class Splats:
    """Gaussians in the image plane."""

    means2d: Float[Tensor, "num_gaussians 2"]
    conics: Float[Tensor, "num_gaussians 3"]
    """Inverse covariance (xx, xy, yy), 1 / square pixels."""

    opacities: Float[Tensor, " num_gaussians"]
    colors: Float[Tensor, "num_gaussians 3"]
    depths: Float[Tensor, " num_gaussians"]
    rows: Int[Tensor, " num_gaussians"]
    """Of the gaussians, for sums that the backward pass leaves."""

    def chosen(
        self, index: Int[Tensor, " num_chosen"] | Bool[Tensor, " num_gaussians"]
    ) -> "Splats":
        """Some of them, by index or by mask."""
        return Splats(
            self.means2d[index],
            self.conics[index],
            self.opacities[index],
            self.colors[index],
            self.depths[index],
            self.rows[index],
        )


def rotation_from_quaternion_wxyz(
    quaternions_wxyz: Float[Tensor, "*batch 4"],
) -> Float[Tensor, "*batch 3 3"]:
    """Rotation matrices of quaternions, which are normalised first."""
    w, x, y, z = torch.nn.functional.normalize(quaternions_wxyz, dim=-1).unbind(-1)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def _jacobian(
    means_camera: Float[Tensor, "num_gaussians 3"], camera: Camera
) -> Float[Tensor, "num_gaussians 2 3"]:
    """d(pixel) / d(camera point), taken at a point clamped to slightly outside the image.

    Far outside, the linearisation grows without bound and smears gaussians over the image. The
    limits of the clamp are constants: no gradient flows through them to the intrinsics.
    """
    x, y, z = means_camera.unbind(-1)
    focal_x, focal_y = camera.intrinsics[0, 0], camera.intrinsics[1, 1]
    limits = camera.intrinsics.detach()
    clamped = []
    for offset, axis, size in ((x, 0, camera.width), (y, 1, camera.height)):
        focal, center = limits[axis, axis], limits[axis, 2]
        margin = FRUSTUM_MARGIN * 0.5 * size / focal
        lower, upper = -center / focal - margin, (size - center) / focal + margin
        clamped.append(torch.clamp(offset / z, lower, upper))
    zero = torch.zeros_like(z)
    row_x = torch.stack([focal_x / z, zero, -focal_x * clamped[0] / z], dim=-1)
    row_y = torch.stack([zero, focal_y / z, -focal_y * clamped[1] / z], dim=-1)
    return torch.stack([row_x, row_y], dim=-2)


def _project(
    gaussians: Gaussians, camera: Camera, rows: Int[Tensor, " num_gaussians"]
) -> tuple[Splats, Int[Tensor, " num_gaussians"]]:
    """Splats and radii of gaussians that lie between the near and the far plane."""
    # 1. Means: world -> camera -> pixels.
    intrinsics, pose = camera.intrinsics, camera.camera_from_world
    means_camera = gaussians.means @ pose[:3, :3].T + pose[:3, 3]
    depths = means_camera[:, 2]
    focal = torch.stack([intrinsics[0, 0], intrinsics[1, 1]])
    means2d = focal * means_camera[:, :2] / depths[:, None] + intrinsics[:2, 2]

    # 2. Covariances: J W R S S^T R^T W^T J^T plus the low-pass filter.
    rotations = rotation_from_quaternion_wxyz(gaussians.quaternions_wxyz)
    axes = rotations * gaussians.scales[:, None, :]
    root = _jacobian(means_camera, camera) @ pose[:3, :3] @ axes
    xx = (root[:, 0] * root[:, 0]).sum(-1)
    xy = (root[:, 0] * root[:, 1]).sum(-1)
    yy = (root[:, 1] * root[:, 1]).sum(-1)
    sharp_determinant = xx * yy - xy * xy
    xx, yy = xx + LOW_PASS_VARIANCE, yy + LOW_PASS_VARIANCE
    determinant = xx * yy - xy * xy
    conics = torch.stack([yy, -xy, xx], dim=-1) / determinant[:, None]

    # 3. Opacity: a blurred gaussian keeps its integral (Mip-Splatting, Yu et al. 2024, eq. 9).
    opacities = gaussians.opacities
    if camera.antialiased:
        ratio = sharp_determinant / determinant
        opacities = opacities * torch.sqrt(ratio.clamp_min(SMALLEST_DETERMINANT_RATIO))

    # 4. Colour along the ray from the camera's centre.
    directions = torch.nn.functional.normalize(gaussians.means - camera_center(pose), dim=-1)
    colors = sh_colors(gaussians.joined_sh(), directions, camera.sh_degree)

    splats = Splats(means2d, conics, opacities, colors, depths, rows)
    with torch.no_grad():
        half_trace = 0.5 * (xx + yy)
        longer = half_trace + (half_trace**2 - determinant).clamp_min(0.01).sqrt()
        radii = torch.ceil(RADIUS_SIGMAS * longer.sqrt())
        radii = torch.where(_touches_image(splats, camera), radii, 0.0).nan_to_num(0.0)
    return splats, radii.clamp_max(2**30).int()


def _half_extents(splats: Splats) -> Float[Tensor, "num_gaussians 2"]:
    """Half width and height of the ellipse where alpha reaches MIN_ALPHA; NaN if nowhere."""
    a, b, c = splats.conics.unbind(-1)
    level = 2.0 * torch.log(splats.opacities / MIN_ALPHA) / (a * c - b * b)
    return torch.sqrt(level[:, None] * torch.stack([c, a], dim=-1))


def _touches_image(splats: Splats, camera: Camera) -> Bool[Tensor, " num_gaussians"]:
    """Whether the box around the visible ellipse holds a pixel centre; False for non-finite."""
    size = splats.means2d.new_tensor([camera.width, camera.height])
    half = _half_extents(splats)
    inside = (splats.means2d + half >= 0.5) & (splats.means2d - half <= size - 0.5)
    return inside.all(-1) & torch.isfinite(splats.colors).all(-1)


class _PerPixel(torch.autograd.Function):
    """Means for every pixel; absolute values of their gradients are added to `absolute`."""

    @staticmethod
    def forward(ctx, means2d, rows, absolute, num_pixels):
        ctx.rows, ctx.absolute = rows, absolute
        return means2d.expand(num_pixels, -1, -1)

    @staticmethod
    def backward(ctx, gradient):
        if ctx.absolute is not None:
            ctx.absolute.index_add_(0, ctx.rows, gradient.abs().sum(0))
        return gradient.sum(0), None, None, None


def _composite_tile(
    pixels: Float[Tensor, "num_pixels 2"],
    splats: Splats,
    absolute: Float[Tensor, "num_all 2"] | None,
) -> Float[Tensor, "num_pixels 5"]:
    """Front-to-back sums over depth-sorted splats: colour, depth and weight of each pixel."""
    sums = pixels.new_zeros(len(pixels), 5)
    transmittance = pixels.new_ones(len(pixels), 1)
    # At least once: an empty tile's zeros belong to the graph, too.
    for start in range(0, max(len(splats.depths), 1), CHUNK):
        part = slice(start, start + CHUNK)
        means2d = _PerPixel.apply(splats.means2d[part], splats.rows[part], absolute, len(pixels))
        dx, dy = (pixels[:, None] - means2d).unbind(-1)
        a, b, c = splats.conics[part].unbind(-1)
        peak = splats.opacities[part] * torch.exp(-0.5 * (a * dx * dx + c * dy * dy) - b * dx * dy)
        alpha = torch.where(peak >= MIN_ALPHA, peak.clamp_max(MAX_ALPHA), 0.0)
        after = transmittance * torch.cumprod(1.0 - alpha, dim=-1)
        before = torch.cat([transmittance, after[:, :-1]], dim=-1)
        weights = torch.where(after > MIN_TRANSMITTANCE, alpha * before, 0.0)
        colors = splats.colors[part]
        values = torch.cat(
            [colors, splats.depths[part, None], torch.ones_like(colors[:, :1])], dim=-1
        )
        sums = sums + weights @ values
        transmittance = after[:, -1:]
        if not (transmittance > MIN_TRANSMITTANCE).any():
            break
    return sums


def _composite(
    splats: Splats, camera: Camera, absolute: Float[Tensor, "num_all 2"] | None
) -> Float[Tensor, "height width 5"]:
    """Sums of `_composite_tile` for the whole image. Splats may come in any order."""
    order = torch.argsort(splats.depths.detach(), stable=True)
    with torch.no_grad():
        half = _half_extents(splats)[order]
        lower, upper = splats.means2d[order] - half - 0.01, splats.means2d[order] + half + 0.01
    offsets = torch.arange(TILE_SIZE, device=order.device) + 0.5
    offset_y, offset_x = torch.meshgrid(offsets, offsets, indexing="ij")
    local = torch.stack([offset_x, offset_y], dim=-1).reshape(-1, 2).to(splats.means2d)
    num_rows, num_columns = (math.ceil(n / TILE_SIZE) for n in (camera.height, camera.width))
    tiles = []
    for top in range(0, num_rows * TILE_SIZE, TILE_SIZE):
        in_row = torch.nonzero((upper[:, 1] >= top) & (lower[:, 1] <= top + TILE_SIZE))[:, 0]
        low, high = lower[in_row, 0], upper[in_row, 0]
        for left in range(0, num_columns * TILE_SIZE, TILE_SIZE):
            chosen = order[in_row[(high >= left) & (low <= left + TILE_SIZE)]]
            pixels = local + local.new_tensor([left, top])
            tiles.append(_composite_tile(pixels, splats.chosen(chosen), absolute))
    grid = torch.stack(tiles).reshape(num_rows, num_columns, TILE_SIZE, TILE_SIZE, 5)
    image = grid.transpose(1, 2).reshape(num_rows * TILE_SIZE, num_columns * TILE_SIZE, 5)
    return image[: camera.height, : camera.width]


def _may_be_visible(gaussians: Gaussians, camera: Camera) -> Bool[Tensor, " num_gaussians"]:
    """Whether all that counts is finite, the rotation is one, and the depth is in range."""
    axis = camera.camera_from_world[2]
    depths = gaussians.means @ axis[:3] + axis[3]
    allowed = (depths >= camera.near) & (depths <= camera.far)
    allowed &= gaussians.quaternions_wxyz.norm(dim=-1) > SMALLEST_QUATERNION
    num_active = (camera.sh_degree + 1) ** 2
    for values in (*gaussians.values()[:4], gaussians.joined_sh()[:, :num_active]):
        allowed &= values.isfinite().unsqueeze(-1).flatten(1).all(-1)
    return allowed


def rasterize_torch(
    gaussians: Gaussians, camera: Camera, absolute: Tensor | None = None
) -> RasterizedView:
    """`rasterize` for any device and float dtype; see there."""
    means = gaussians.means
    with torch.no_grad():
        candidates = torch.nonzero(_may_be_visible(gaussians, camera))[:, 0]
    found, found_radii = _project(gaussians.chosen(candidates), camera, candidates)
    radii = found_radii.new_zeros(len(means)).index_copy(0, candidates, found_radii)
    means2d = means.new_zeros(len(means), 2).index_copy(0, candidates, found.means2d)
    # The splats' means are read from the returned tensor, which puts it on the gradient's path.
    splats = replace(found, means2d=means2d[candidates]).chosen(found_radii > 0)

    sums = _composite(splats, camera, absolute)
    alpha = sums[..., 4:]
    rgb = sums[..., :3] + (1.0 - alpha) * camera.background
    tiny = torch.finfo(alpha.dtype).tiny
    depth = torch.where(alpha > 0, sums[..., 3:4] / alpha.clamp_min(tiny), 0.0)
    return RasterizedView(rgb, alpha, depth, means2d, radii, absolute)
