"""Depth maps fused to a mesh, by Open3D."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fm3d_plugins.errors import require
from fm3d_plugins.geometry.mesh import Mesh
from fm3d_plugins.geometry.poses import invert

BLOCK = 16
"""Voxels along the side of a block, which is kept where a surface passes."""

BYTES_PER_BLOCK = BLOCK**3 * 4 * (1 + 1 + 3)
"""Distance, weight and colour of each voxel, float32."""

TRUNCATION = 4.0
"""Voxels on both sides of a surface in which its distance is kept."""


class DepthFusion:
    """A truncated signed distance field of views with depth (Curless and Levoy 1996).

    It lies on the CPU and holds blocks of voxels near surfaces only. Views count alike; more of
    them make it neither larger nor slower to take out of.
    """

    def __init__(self, voxel: float, num_blocks: int) -> None:
        """Args:
        voxel: Side of a voxel, scene units.
        num_blocks: About how many there will be; it grows where there are more.
        """
        self._open3d = require("open3d", purpose="A mesh of depth maps", install="open3d")
        kind = self._open3d.core.float32
        self._grid = self._open3d.t.geometry.VoxelBlockGrid(
            ("tsdf", "weight", "color"),
            (kind, kind, kind),
            ((1,), (1,), (3,)),
            voxel,
            BLOCK,
            num_blocks,
            self._open3d.core.Device("CPU:0"),
        )

    def add(
        self,
        rgb: Float[Tensor, "height width 3"],
        depth: Float[Tensor, "height width"],
        intrinsics: Float[Tensor, "3 3"],
        world_from_camera: Float[Tensor, "4 4"],
    ) -> None:
        """Take one view in.

        Args:
            rgb: In [0, 1].
            depth: z in the OpenCV camera, scene units; 0 where it is not known.
            intrinsics: A pinhole's, in pixels.
        """
        if not bool((depth > 0).any()):
            return
        # Open3D takes whole numbers for the middles of pixels.
        shifted = intrinsics.detach().cpu().double().clone()
        shifted[:2, 2] -= 0.5
        core, image = self._open3d.core, self._open3d.t.geometry.Image
        camera = core.Tensor(shifted.numpy())
        pose = core.Tensor(invert(world_from_camera.detach().cpu().double()).numpy())
        depths, colors = (
            image(core.Tensor(np.ascontiguousarray(each.detach().cpu().float().numpy())))
            for each in (depth[..., None], rgb)
        )
        farthest = float(depth.max()) * 1.001
        reach = (1.0, farthest, TRUNCATION)
        blocks = self._grid.compute_unique_block_coordinates(depths, camera, pose, *reach)
        self._grid.integrate(blocks, depths, colors, camera, pose, *reach)

    def mesh(self, least_views: int) -> Mesh:
        """The surface, where so many views have seen what lies around it; maybe without any face.

        Args:
            least_views: How many views.
        """
        found = self._grid.extract_triangle_mesh(least_views - 0.5)
        if "indices" not in found.triangle or not len(found.vertex.positions):
            none = torch.zeros(0, 3)
            return Mesh(none, none.to(torch.uint8), none.long())
        colors = torch.from_numpy(found.vertex.colors.numpy().copy())
        return Mesh(
            torch.from_numpy(found.vertex.positions.numpy().copy()),
            (colors.clamp(0, 1) * 255).round().to(torch.uint8),
            torch.from_numpy(found.triangle.indices.numpy().copy()).long(),
        )
