"""Which gaussians masks leave nothing of."""

import numpy as np
import torch
from nerfstudio.cameras.cameras import Cameras
from PIL import Image

from fm3d_plugins.gaussian_splatting.unlearnt import drop_unlearnt, is_learnt
from fm3d_plugins.synthetic_rooms.capture import DRAFT, write_sample
from tests.small_runs import small_run

IN_COUNTED, IN_MASKED, HIDDEN, OUT_OF_VIEW = range(4)


def gaussians():
    """Before cameras at the origin that look along -z, with the left half counted."""
    means = torch.tensor([[-1.0, 0, -4], [1.0, 0, -4], [-2.0, 0, -8], [0.0, 0, 4]])
    return {
        "means": means,
        "quats": torch.tensor([[1.0, 0, 0, 0]]).repeat(4, 1),
        # The first one is larger than the one behind it, which is as large in the picture.
        "scales": torch.tensor([[0.4], [0.2], [0.1], [0.2]]).log().repeat(1, 3),
        "opacities": torch.full((4, 1), 20.0),
    }


def camera(x=0.0):
    pose = torch.eye(4)[None, :3].clone()
    pose[0, 0, 3] = x
    return Cameras(pose, 40.0, 40.0, 32.0, 24.0, 64, 48)


def left_half():
    mask = torch.zeros(48, 64, 1, dtype=torch.bool)
    mask[:, :32] = True
    return mask


def test_gaussians_are_learnt_that_pixels_show_which_count():
    found = is_learnt(gaussians(), [(camera(), left_half())])
    # What no camera sees stays as it is.
    assert found.tolist() == [True, False, True, True]


def test_gaussians_that_are_hidden_where_pixels_count_are_not_learnt():
    """The second camera sees the hidden one, 40 / 8 * 6 = 30 pixels right of its middle."""
    views = [(camera(), left_half()), (camera(-8.0), left_half())]
    assert is_learnt(gaussians(), views)[HIDDEN].item() is False
    whole = [(camera(), None), (camera(-8.0), None)]
    assert bool(is_learnt(gaussians(), whole).all())


def test_a_run_with_masks_keeps_no_gaussian_that_they_hide(tmp_path, train_run, capsys):
    """Its random points lie everywhere in view, and masks leave the left half of the photos."""
    capture = tmp_path / "sample"
    write_sample(capture, num_photos=5, width=96, height=72, quality=DRAFT, num_threads=1)
    (capture / "masks").mkdir()
    half = np.zeros((72, 96), np.uint8)
    half[:, :48] = 255
    for photo in (capture / "images").iterdir():
        Image.fromarray(half).save(capture / "masks" / f"{photo.stem}.png")
    start = {"num_random_points": 500, "random_points": True}
    options = {"density_control": "off"}
    trainer = train_run(small_run("3dgs", capture, tmp_path / "runs", 10, start, options))
    assert trainer.pipeline.model.num_points < 500
    assert "Splats that were left out" in capsys.readouterr().out
    assert drop_unlearnt(trainer.pipeline, most=5) == 0
    kept = torch.load(next((tmp_path / "runs").rglob("*.ckpt")), weights_only=True)
    means = kept["pipeline"]["_model.gauss_params.means"]
    assert len(means) == trainer.pipeline.model.num_points
