"""The picture of losses."""

import numpy as np
from PIL import Image

from fm3d_plugins.network_training.loss_curve import WINDOWS, draw_losses, medians
from fm3d_plugins.network_training.loss_log import StepTable


def test_medians_follow_a_line_and_pass_over_what_is_not_finite():
    steps = np.arange(1000.0)
    values = 3 * steps
    values[::7] = np.nan
    at, found = medians(steps, values)
    assert len(at) == WINDOWS
    np.testing.assert_allclose(found, 3 * at, atol=10)
    assert [len(each) for each in medians(steps[:2], values[1:3])] == [2, 2]


def test_a_table_of_any_length_is_drawn(tmp_path):
    table, pictures = StepTable(tmp_path / "steps.csv", 0), []
    for step, loss in enumerate([4.0, 9.0, 1.0, float("inf")]):
        table.add(step, {"loss": loss, "gradient_norm": 2 * loss, "is_taken": int(step != 1)})
        draw_losses(table.path, tmp_path / "losses.png")
        pictures.append(np.asarray(Image.open(tmp_path / "losses.png").convert("RGB")))
    assert pictures[0].shape == (600, 800, 3)
    # Red: the cross of the step that was skipped.
    red = [((p[..., 0] > 180) & (p[..., 1] < 80)).any() for p in pictures]
    assert red == [False, True, True, True]
