"""The table of lenses agrees with its document and with nerfstudio, its formulas with OpenCV."""

from pathlib import Path

import numpy as np
import pytest
import torch
from nerfstudio.cameras.cameras import CAMERA_MODEL_TO_TYPE

from fm3d_plugins.geometry.lenses import (
    LENSES,
    WIDEST_HALF_ANGLE,
    fisheye_angle,
    fisheye_distort,
    fisheye_radius,
)
from fm3d_plugins.io.colmap_files import READ_MODELS

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "lenses.md"


def test_the_document_shows_the_table():
    rows: dict[str, list] = {}
    for lens in LENSES:
        row = rows.setdefault(
            lens.name, [[], [], lens.in_scenes, lens.to_pinhole, lens.has_rays]
        )  # Two eyes of one kind of lens share a row.
        row[0] += lens.transforms_models
        row[1] += lens.colmap_models
    expected = [
        " | ".join(
            [
                f"| {name}",
                ", ".join(f"`{model}`" for model in models),
                ", ".join(f"`{model}`" for model in colmap) or "none",
                "yes" if in_scenes else "refused",
                "undistorted" if to_pinhole else "refused",
                "as it is |" if has_rays else "refused |",
            ]
        )
        for name, (models, colmap, in_scenes, to_pinhole, has_rays) in rows.items()
    ]
    lines = [line for line in DOCUMENT.read_text().splitlines() if line.startswith("|")]
    assert lines[2:] == expected


def test_the_table_knows_all_that_nerfstudio_knows():
    ours = {model: lens.camera_type for lens in LENSES for model in lens.transforms_models}
    assert ours == {model: kind.name for model, kind in CAMERA_MODEL_TO_TYPE.items()}


def test_every_colmap_model_of_the_table_is_read():
    assert {model for lens in LENSES for model in lens.colmap_models} <= set(READ_MODELS)


@pytest.mark.parametrize("coefficients", [(0.0, 0, 0, 0), (0.05, -0.02, 0.004, -0.001)])
def test_fisheye_points_fall_where_opencv_projects_them(coefficients):
    cv2 = pytest.importorskip("cv2")
    points = torch.randn(50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    points[0] = 0.0
    expected = cv2.fisheye.distortPoints(
        points.numpy()[None], np.eye(3), np.array(coefficients, dtype=np.float64)
    )[0]
    found = fisheye_distort(points, torch.tensor(coefficients, dtype=torch.float64))
    np.testing.assert_allclose(found, expected, atol=1e-9)


@pytest.mark.parametrize("coefficients", [(0.0, 0, 0, 0), (0.05, -0.02, 0.004, -0.001)])
def test_angles_are_those_that_give_the_radius(coefficients):
    numbers = torch.tensor(coefficients, dtype=torch.float64)
    angles = torch.tensor([0.0, 0.3, 0.9, 1.15], dtype=torch.float64)
    radii = fisheye_radius(angles[:, None], numbers)[:, 0]
    torch.testing.assert_close(fisheye_angle(radii, numbers), angles, atol=2e-4, rtol=0)
    assert float(fisheye_angle(radii.new_tensor([9.0]), numbers)) == WIDEST_HALF_ANGLE
