"""What ns-render saves of a scene with lens distortion is what was scored."""

import copy
import gzip
import json

import numpy as np
import pytest
import torch
from nerfstudio.configs.method_configs import all_methods
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.scripts.render import DatasetRender
from nerfstudio.utils.eval_utils import eval_setup
from PIL import Image

from fm3d_plugins.synthetic_rooms.capture import DRAFT, write_sample

OUTPUTS = ["gt-rgb", "rgb", "raw-gt-rgb", "raw-rgb", "raw-depth"]


@pytest.fixture(scope="module")
def capture(tmp_path_factory):
    """A sample whose lens is said to have strong distortion, with one photo turned by EXIF."""
    folder = tmp_path_factory.mktemp("capture") / "sample"
    write_sample(folder, num_photos=9, width=96, height=72, quality=DRAFT, num_threads=1)
    path = folder / "transforms.json"
    content = json.loads(path.read_text())
    content |= {"k1": 0.2, "k2": -0.05, "p1": 0.01, "p2": -0.01}
    path.write_text(json.dumps(content))
    photo = folder / content["frames"][0]["file_path"]
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(photo) as image:
        image.transpose(Image.Transpose.ROTATE_90).save(photo, exif=exif, quality=95)
    return folder


@pytest.mark.parametrize("method", ["3dgs", "nerf"])
def test_renders_and_photos_are_those_that_were_scored(capture, tmp_path, method, train_run):
    config = copy.deepcopy(all_methods[method])
    config.pipeline.datamanager.data = capture
    config.pipeline.datamanager.dataparser = NerfstudioDataParserConfig(eval_mode="interval")
    if method == "3dgs":
        config.pipeline.datamanager.random_points = True
        config.pipeline.datamanager.num_random_points = 500
    config.output_dir, config.max_num_iterations = tmp_path / "runs", 3
    config.vis, config.viewer.quit_on_train_completion = "tensorboard", True
    config.logging.local_writer.enable = False
    config.set_timestamp()
    config.save_config()
    trainer = train_run(config)
    run = trainer.config.get_base_dir() / "config.yml"
    _, pipeline, _, _ = eval_setup(run, test_mode="test")
    scored = {}
    for row, (camera, batch) in enumerate(pipeline.datamanager.fixed_indices_eval_dataloader):
        name = pipeline.datamanager.eval_dataset.image_filenames[row].stem
        photo = batch["image"] / 255 if batch["image"].dtype == torch.uint8 else batch["image"]
        scored[name] = pipeline.model.get_outputs_for_camera(camera), photo
    DatasetRender(
        load_config=run, output_path=tmp_path / "renders", rendered_output_names=OUTPUTS
    ).main()
    assert len(scored) == 2
    for name, (outputs, photo) in scored.items():
        folder = tmp_path / "renders" / "test"
        for kind, expected in (("gt-rgb", photo), ("rgb", outputs["rgb"])):
            raw = np.load(gzip.open(folder / f"raw-{kind}" / f"{name}.npy.gz"))
            np.testing.assert_allclose(raw, expected, atol=1e-5)
            saved = np.array(Image.open(next((folder / kind).glob(f"{name}.*")))).astype(float)
            assert saved.shape == tuple(expected.shape)
            if next((folder / kind).glob(f"{name}.*")).suffix == ".png":
                assert np.abs(saved - 255 * expected.numpy()).max() <= 1
        depth = np.load(gzip.open(folder / "raw-depth" / f"{name}.npy.gz"))
        scale = pipeline.datamanager.train_dataparser_outputs.dataparser_scale
        np.testing.assert_allclose(depth * scale, outputs["depth"], rtol=1e-4, atol=1e-5)
