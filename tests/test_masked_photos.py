"""What masks leave out makes no difference to a trained scene, whatever it shows."""

import copy
import json

import numpy as np
import pytest
import torch
from nerfstudio.configs.method_configs import all_methods
from PIL import Image

from fm3d_plugins.synthetic_rooms.capture import DRAFT, write_sample

OPTIONS = {
    "3dgs": {},
    "nerf": {"log2_table_size": 12, "num_levels": 4},
}
STEPS = 12


@pytest.fixture(scope="module")
def captures(tmp_path_factory):
    """The same capture twice, with masks; where these are black, one of them shows noise."""
    plain = tmp_path_factory.mktemp("masked") / "plain"
    write_sample(plain, num_photos=9, width=96, height=72, quality=DRAFT, num_threads=1)
    noise = np.random.default_rng(0)
    folders = []
    for name in ("clean", "spoilt"):
        folder = plain.parent / name
        transforms = json.loads((plain / "transforms.json").read_text())
        (folder / "images").mkdir(parents=True)
        for number, frame in enumerate(transforms["frames"]):
            pixels = np.array(Image.open(plain / frame["file_path"]))
            part = slice(10, 40), slice(20 + 3 * number, 60)
            if name == "spoilt":
                pixels[part] = noise.integers(0, 256, pixels[part].shape)
            mask = np.full(pixels.shape[:2], 255, np.uint8)
            mask[part] = 0
            frame["file_path"], frame["mask_path"] = f"images/{number}.png", f"images/m{number}.png"
            frame.pop("depth_file_path", None)
            Image.fromarray(pixels).save(folder / frame["file_path"])
            Image.fromarray(mask).save(folder / frame["mask_path"])
        transforms["ply_file_path"] = str(plain / transforms["ply_file_path"])
        (folder / "transforms.json").write_text(json.dumps(transforms))
        folders.append(folder)
    return folders


@pytest.mark.parametrize("method", OPTIONS)
def test_masked_pixels_do_not_show_in_the_scene_nor_in_scores(
    method, captures, tmp_path, train_run
):
    states, scores = [], []
    for folder in captures:
        config = copy.deepcopy(all_methods[method])
        config.pipeline.datamanager.data = folder
        for name, value in OPTIONS[method].items():
            setattr(config.pipeline.model, name, value)
        config.output_dir, config.vis = tmp_path / folder.name, "tensorboard"
        config.max_num_iterations = STEPS
        config.logging.local_writer.enable = False
        config.set_timestamp()
        config.save_config()
        pipeline = train_run(config).pipeline
        states.append(pipeline.model.state_dict())
        found = pipeline.get_average_eval_image_metrics()
        names = ("psnr", "ssim", "cc_psnr", "cc_ssim")
        scores.append([found[name] for name in names] + [pipeline.held_out_psnr()])
    assert states[0].keys() == states[1].keys()
    for name, values in states[0].items():
        torch.testing.assert_close(values, states[1][name], msg=lambda why, n=name: f"{n}: {why}")
    # Both held-out photos are mostly noise where they are masked.
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)
