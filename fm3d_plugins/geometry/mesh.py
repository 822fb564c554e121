"""Triangles of a surface; on the CPU."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from fm3d_plugins.geometry.alignment import Similarity
from fm3d_plugins.geometry.neighbours import connected_parts


@dataclass(frozen=True)
class Mesh:
    """Vertices in any frame; a triangle's vertices run counter-clockwise seen from outside."""

    vertices: Float[Tensor, "vertex 3"]
    colors: UInt8[Tensor, "vertex 3"]
    faces: Int[Tensor, "face 3"]

    def moved(self, similarity: Similarity) -> "Mesh":
        """The mesh in another frame, its vertices in float64."""
        return Mesh(similarity.apply(self.vertices.double()), self.colors, self.faces)

    def normals(self) -> Float[Tensor, "vertex 3"]:
        """Unit vectors outwards: those of the triangles at a vertex, weighted by their area."""
        corners = self.vertices[self.faces]
        across = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        sums = torch.zeros_like(self.vertices)
        sums.index_add_(0, self.faces.flatten(), across.repeat_interleave(3, 0))
        return torch.nn.functional.normalize(sums, dim=-1)

    def without_crumbs(self, least_share: float) -> "Mesh":
        """Without connected parts that have less than a share of the largest one's triangles."""
        if not len(self.faces):
            return self
        edges = self.faces[:, [0, 1, 1, 2]].reshape(-1, 2)
        parts = torch.from_numpy(connected_parts(edges.numpy(), len(self.vertices)))
        part = parts[self.faces[:, 0]]
        sizes = part.bincount()
        kept = self.faces[(sizes >= least_share * sizes.max())[part]]
        used, numbered = kept.unique(return_inverse=True)
        return Mesh(self.vertices[used], self.colors[used], numbered.reshape(-1, 3))
