"""Gaussians in PLY files, as 3DGS writes them and viewers of splats read them."""

from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from fm3d_plugins.atomic import atomic_write
from fm3d_plugins.io.ply import ply_header, vertex_table


@dataclass(frozen=True)
class Splats:
    """Gaussians as 3DGS parametrises them (Kerbl et al. 2023); any frame."""

    means: Float[Tensor, "splat 3"]
    log_scales: Float[Tensor, "splat 3"]
    """Natural logarithm of the standard deviations along the axes."""
    quaternions_wxyz: Float[Tensor, "splat 4"]
    """Turn the axes into the frame; of any length."""
    sh_coefficients: Float[Tensor, "splat coefficient 3"]
    """Whole bands, in the order of 3DGS; red, green and blue."""
    opacity_logits: Float[Tensor, " splat"]

    def __len__(self) -> int:
        return len(self.means)


def write_splats(path: Path, splats: Splats) -> None:
    """Write a binary PLY file of gaussians, atomically, in single precision.

    Properties are those of 3DGS, in its order: x to z, nx to nz (0), f_dc_*, f_rest_* (all of red,
    then green, then blue), opacity, scale_*, rot_*.
    """
    rest = splats.sh_coefficients[:, 1:].mT.flatten(1)  # [splat, 3 * coefficient]
    normals = [(f"n{axis}", "f4", splats.means.new_zeros(len(splats))) for axis in "xyz"]
    columns = [
        *_columns(("x", "y", "z"), splats.means),
        *normals,
        *_columns([f"f_dc_{i}" for i in range(3)], splats.sh_coefficients[:, 0]),
        *_columns([f"f_rest_{i}" for i in range(rest.shape[1])], rest),
        ("opacity", "f4", splats.opacity_logits),
        *_columns([f"scale_{i}" for i in range(3)], splats.log_scales),
        *_columns([f"rot_{i}" for i in range(4)], splats.quaternions_wxyz),
    ]
    table = vertex_table(columns)
    with atomic_write(path) as temporary:
        temporary.write_bytes(ply_header(table) + table.tobytes())


def _columns(names, values: Float[Tensor, "splat column"]) -> list[tuple[str, str, Tensor]]:
    return [(name, "f4", values[:, i]) for i, name in enumerate(names)]
