"""A surface z = f(x, y) seen by cameras with known truth, as pairs' pointmaps with known errors."""

from dataclasses import dataclass

import torch

from fm3d_plugins.dust3r.pair_pointmaps import PairPointmaps
from fm3d_plugins.geometry.cameras import intrinsics_matrix
from fm3d_plugins.geometry.pointmaps import pointmap_from_depth
from fm3d_plugins.geometry.poses import invert, so3_exp, transform_points
from fm3d_plugins.geometry.rays import camera_rays, pixel_centers


def surface_depth(pose, intrinsics, size):
    """z-depth at every pixel's centre, by Newton's method.

    The surface z = 4 + 0.3 sin(1.1 x) + 0.2 cos(1.7 y) is flat enough for one crossing per ray.
    """
    pixels = pixel_centers(*size, dtype=torch.float64).flatten(0, 1)
    origins, directions = camera_rays(pixels, intrinsics, pose)
    length = (4 - origins[:, 2]) / directions[:, 2]
    for _ in range(30):
        point = origins + length[:, None] * directions
        x, y = 1.1 * point[:, 0], 1.7 * point[:, 1]
        value = point[:, 2] - 4 - 0.3 * x.sin() - 0.2 * y.cos()
        slope = (
            directions[:, 2] - 0.33 * x.cos() * directions[:, 0] + 0.34 * y.sin() * directions[:, 1]
        )
        length = length - value / slope
    camera = transform_points(invert(pose), origins + length[:, None] * directions)
    return camera[:, 2].view(size)


@dataclass(frozen=True)
class Scene:
    poses: torch.Tensor
    intrinsics: torch.Tensor
    depth: list
    sizes: list

    @staticmethod
    def make(sizes, focals, seed=0, spread=1.0):
        """Cameras on a line of length 2 x spread that look about at the surface's middle."""
        generator = torch.Generator().manual_seed(seed)
        count = len(sizes)
        along = torch.linspace(-spread, spread, count, dtype=torch.float64)
        jitter = 0.15 * torch.randn(count, 3, generator=generator, dtype=torch.float64)
        poses = torch.eye(4, dtype=torch.float64).repeat(count, 1, 1)
        poses[:, :3, 3] = jitter
        poses[:, 0, 3] += along
        turn = 0.03 * torch.randn(count, 3, generator=generator, dtype=torch.float64)
        if spread <= 1:
            turn[:, 1] -= 0.2 * along
        poses[:, :3, :3] = so3_exp(turn)
        focal = torch.tensor(focals, dtype=torch.float64)
        middle = torch.tensor([(w / 2, h / 2) for h, w in sizes], dtype=torch.float64)
        intrinsics = intrinsics_matrix(focal, focal, middle[:, 0], middle[:, 1])
        depth = [surface_depth(*each) for each in zip(poses, intrinsics, sizes, strict=True)]
        return Scene(poses, intrinsics, depth, list(sizes))

    def pair(self, first, second, noise=0.0, seed=0):
        """One ordered pair in a random unit, every point off by `noise` x its depth."""
        generator = torch.Generator().manual_seed(1000003 * seed + 1009 * first + second)
        scale = float(torch.empty(()).uniform_(0.5, 2.0, generator=generator))
        first_from_world = invert(self.poses[first])
        maps = []
        for photo in (first, second):
            relative = first_from_world @ self.poses[photo]
            points = pointmap_from_depth(self.depth[photo], self.intrinsics[photo], relative)
            off = torch.randn(points.shape, generator=generator) * noise
            points = points.float() + off * self.depth[photo].float().unsqueeze(-1)
            confidence = 1 + 4 * torch.rand(points.shape[:2], generator=generator)
            maps += [scale * points, confidence]
        return PairPointmaps(first, second, *maps)

    def pairs(self, edges=None, noise=0.0, seed=0):
        """All ordered pairs, or those of the edges in both orders."""
        count = len(self.sizes)
        if edges is None:
            edges = [(i, j) for i in range(count) for j in range(i)]
        both = [*edges, *((j, i) for i, j in edges)]
        return [self.pair(i, j, noise, seed) for i, j in both]
