"""Splats for files: as 3DGS writes them, and alike in every frame."""

import numpy as np
import pytest
import torch

from fm3d_plugins.gaussian_splatting.splats import moved_splats, splats_of
from fm3d_plugins.geometry.alignment import Similarity
from fm3d_plugins.geometry.cameras import intrinsics_matrix
from fm3d_plugins.geometry.poses import invert, so3_exp
from fm3d_plugins.io.splats import write_splats
from fm3d_plugins.kernels.rasterizer import rasterize

NUM = 40


@pytest.fixture
def gaussians():
    generator = torch.Generator().manual_seed(3)

    def random(*shape):
        return torch.randn(NUM, *shape, generator=generator)

    return {
        "means": random(3) * 0.4,
        "scales": random(3) * 0.5 - 2,
        "quats": random(4),
        "features_dc": random(3),
        "features_rest": random(15, 3) * 0.4,
        "opacities": random(1) + 1,
    }


def rendered(splats, world_from_camera):
    view = rasterize(
        splats.means.float(),
        splats.quaternions_wxyz.float(),
        splats.log_scales.float().exp(),
        splats.opacity_logits.float().sigmoid(),
        splats.sh_coefficients[:, :1].float(),
        invert(world_from_camera).float(),
        intrinsics_matrix(*torch.tensor([50.0, 50.0, 24.0, 20.0])),
        width=48,
        height=40,
        sh_degree=3,
        background=torch.zeros(3),
        sh_rest=splats.sh_coefficients[:, 1:].float(),
        backend="torch",
    )
    return view.rgb, view.alpha


def test_splats_look_the_same_in_another_frame(gaussians):
    """Colours that depend on the direction, too: all bands are turned."""
    pose = torch.eye(4, dtype=torch.float64)
    pose[2, 3] = -3
    turn = so3_exp(torch.tensor([0.9, -1.4, 0.6], dtype=torch.float64))
    shift = torch.tensor([30.0, -20, 5], dtype=torch.float64)
    similarity = Similarity(torch.tensor(2.5).double(), turn, shift)
    splats = splats_of(gaussians)
    before, opacity = rendered(splats, pose)
    after, _ = rendered(moved_splats(splats, similarity), similarity.apply_to_pose(pose[None])[0])
    assert float(opacity.mean()) > 0.1
    torch.testing.assert_close(after, before, atol=2e-4, rtol=0)


def test_unseen_and_broken_gaussians_are_left_out(gaussians):
    gaussians["opacities"][0] = -8.0
    gaussians["scales"][1, 2] = torch.nan
    splats = splats_of(gaussians)
    torch.testing.assert_close(splats.means, gaussians["means"][2:].double())


def test_the_file_has_the_columns_of_3dgs(gaussians, tmp_path):
    """Truth: the properties that the authors' code writes, in their order."""
    splats = splats_of(gaussians)
    write_splats(tmp_path / "splats.ply", splats)
    content = (tmp_path / "splats.ply").read_bytes()
    header, _, data = content.partition(b"end_header\n")
    names = [line.split()[2] for line in header.decode().splitlines() if "property" in line]
    assert names == [
        *("x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2"),
        *(f"f_rest_{i}" for i in range(45)),
        *("opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"),
    ]
    rows = np.frombuffer(data, "<f4").reshape(NUM, 62)
    # Red's 15 coefficients come first.
    rest = gaussians["features_rest"].numpy()
    np.testing.assert_allclose(rows[:, 9:24], rest[:, :, 0])
    np.testing.assert_allclose(rows[:, 39:54], rest[:, :, 2])
    np.testing.assert_allclose(rows[:, 54], gaussians["opacities"][:, 0].numpy())
