"""How scores are to be taken."""

from types import SimpleNamespace
from typing import Any

import pytest

from fm3d_plugins.camera_optimization.pipeline import PerScenePipeline


@pytest.mark.parametrize(
    ("model", "cc_psnr", "is_told"),
    [
        (SimpleNamespace(exposure=None), 30.2, True),
        (SimpleNamespace(exposure=None), 20.3, False),
        (SimpleNamespace(exposure="fitted"), 30.2, False),
        (SimpleNamespace(), 30.2, False),  # It has no such option.
    ],
)
def test_photos_of_other_exposure_are_told_where_a_run_can_learn_it(model, cc_psnr, is_told):
    pipeline: Any = SimpleNamespace(model=model)
    lines = PerScenePipeline.caveats(pipeline, {"psnr": 19.6, "cc_psnr": cc_psnr})
    assert any("--pipeline.model.exposure affine" in line for line in lines) is is_told
