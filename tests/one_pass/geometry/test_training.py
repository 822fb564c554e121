"""A feed-forward method through nerfstudio's own objects, on an estimator that knows the truth."""

import copy
import json
import shutil
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint, EntryPoints
from typing import ClassVar

import numpy as np
import pytest
import torch
from nerfstudio.configs.method_configs import all_methods
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.models.splatfacto import SplatfactoModel
from nerfstudio.scripts.exporter import ExportGaussianSplat
from nerfstudio.utils.eval_utils import eval_setup
from PIL import Image

from fm3d_plugins.cli import main as cli
from fm3d_plugins.cli import run_configs
from fm3d_plugins.dataparsers.estimated import EstimatedDataParserConfig
from fm3d_plugins.estimators.base import ENTRY_POINT_GROUP, RefinementOption
from fm3d_plugins.estimators.dense.estimator import DenseEstimator
from fm3d_plugins.geometry.pixel_map import PixelMap
from fm3d_plugins.io.ply import read_ply
from fm3d_plugins.io.transforms import read_frame_files, read_transforms
from fm3d_plugins.scene import Tracks
from fm3d_plugins.synthetic_rooms.capture import DRAFT, write_sample
from fm3d_plugins.view_depth import ViewDepth

NUM_PHOTOS, WIDTH, HEIGHT = 17, 96, 72
HELD_OUT = ("frame_0001.jpg", "frame_0009.jpg", "frame_0017.jpg")


@dataclass(frozen=True)
class Truth(DenseEstimator):
    """Exact cameras and depth of a synthetic capture; the right half of each photo is surer."""

    name: ClassVar[str] = "truth"
    with_depth: bool = True
    confidence_percentile: float = 0.0
    consistent_views: int = 0
    refine: RefinementOption = "off"

    def identity(self):
        return {"estimator": "truth"}

    def find_cameras(self, photos):
        root = photos.folder.parent
        scene = read_transforms(root)
        if not self.with_depth:
            return scene
        depth = torch.stack([true_depth(root, name) for name in scene.names])
        confidence = torch.full_like(depth, 0.4)
        confidence[..., WIDTH // 2 :] = 0.8
        as_they_are = PixelMap(torch.ones(len(scene), 2), torch.zeros(len(scene), 2))
        colors = torch.stack([torch.from_numpy(photo.read()) for photo in photos])
        none = torch.zeros(0, dtype=torch.long)
        return replace(
            scene,
            points=torch.zeros(0, 3),
            point_colors=torch.zeros(0, 3, dtype=torch.uint8),
            point_confidence=torch.zeros(0),
            tracks=Tracks(none, none, torch.zeros(0, 2)),
            depth=ViewDepth(depth, confidence, as_they_are, colors),
        )


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    """The estimator as of an installed package: commands read configs of no others."""
    point = EntryPoint("truth", f"{Truth.__module__}:Truth", ENTRY_POINT_GROUP)
    monkeypatch.setattr(run_configs, "entry_points", EntryPoints([point]).select)


def true_depth(root, name):
    with Image.open(root / "depth" / f"{name.removesuffix('.jpg')}.png") as image:
        return torch.from_numpy(np.array(image).astype(np.float32)) / 1000


@pytest.fixture(scope="module")
def capture(tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("capture") / "sample"
    write_sample(
        folder, num_photos=NUM_PHOTOS, width=WIDTH, height=HEIGHT, quality=DRAFT, num_threads=1
    )
    return folder


def run_config(capture, output, estimator=None, **model):
    config = copy.deepcopy(all_methods["vggt"])
    config.pipeline.datamanager.data = capture
    config.pipeline.datamanager.dataparser = EstimatedDataParserConfig(
        estimator=estimator or Truth(), cache_dir=output / "cache"
    )
    config.output_dir = output
    config.vis = "tensorboard"
    for name, value in {"lpips_networks": (), **model}.items():
        setattr(config.pipeline.model, name, value)
    config.set_timestamp()
    config.save_config()
    return config


def train(config):
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    trainer.train()
    return trainer


@pytest.fixture(scope="module")
def trained(capture, tmp_path_factory):
    return train(run_config(capture, tmp_path_factory.mktemp("runs")))


def reloaded(trainer):
    _, pipeline, _, _ = eval_setup(trainer.base_dir / "config.yml", test_mode="test")
    return pipeline


def held_out_views(pipeline):
    pipeline.eval()
    return list(pipeline.datamanager.fixed_indices_eval_dataloader)


def test_renders_of_held_out_photos_are_near_them(trained):
    """At 72 rows a pixel is as large as the textures: points of other photos average them
    elsewhere. Still the renders halve the error of each photo's own mean colour."""
    results = json.loads((trained.base_dir / "eval.json").read_text())["results"]
    flat = []
    for _, batch in held_out_views(trained.pipeline):
        image = batch["image"].float() / 255
        flat.append(float(-10 * image.var(dim=(0, 1), correction=0).mean().log10()))
    assert results["psnr"] > 18.0
    assert results["psnr"] > sum(flat) / len(flat) + 3.0
    assert results["coverage"] > 0.95
    assert results["psnr_covered"] >= results["psnr"]


def test_checkpoint_holds_points_alone_and_is_small(trained):
    path = trained.checkpoint_dir / "step-000000000.ckpt"
    state = torch.load(path, weights_only=True)["pipeline"]
    held = {key for key in state if state[key].numel()}
    assert held == {f"_model.splat_{name}" for name in ("means", "colors", "confidence", "scales")}
    count = len(state["_model.splat_means"])
    assert count > 50_000
    assert path.stat().st_size < 21 * count + 50_000


def test_run_leaves_scores_and_pictures_and_no_half_written_file(trained):
    names = {path.name for path in trained.base_dir.iterdir()}
    assert {"config.yml", "dataparser_transforms.json", "eval.json", "held_out"} <= names
    assert len(list((trained.base_dir / "held_out").glob("*.png"))) == len(HELD_OUT)
    assert not any(name.startswith(".fm3d-") or "partial" in name for name in names)


def test_loaded_checkpoint_renders_the_same_pictures(trained):
    pipeline = reloaded(trained)
    for camera, batch in held_out_views(pipeline):
        loaded = pipeline.model.get_outputs_for_camera(camera)
        kept = trained.pipeline.model.get_outputs_for_camera(camera)
        for name in ("rgb", "depth", "accumulation", "confidence"):
            torch.testing.assert_close(loaded[name], kept[name], atol=0, rtol=0)
            assert loaded[name].isfinite().all()
        assert loaded["rgb"].shape == batch["image"].shape
        assert loaded["confidence"].shape == (HEIGHT, WIDTH, 1)
    assert isinstance(pipeline.model, SplatfactoModel)  # ns-export and the viewer ask.


def test_rendered_depth_is_that_of_the_scene(trained, capture):
    """Truth: z-depth of the capture in metres, to two pixels: one is 1/75 of the depth wide, and
    balls in front count more."""
    outputs = trained.pipeline.datamanager.train_dataparser_outputs
    for (camera, _), name in zip(held_out_views(trained.pipeline), HELD_OUT, strict=True):
        rendered = trained.pipeline.model.get_outputs_for_camera(camera)
        depth = rendered["depth"].squeeze(-1) / outputs.dataparser_scale
        error = ((depth - true_depth(capture, name)).abs() / true_depth(capture, name)).flatten()
        assert error.median() < 2 / 75
        assert (error > 0.1).float().mean() < 0.15


def test_nothing_of_a_held_out_photo_reaches_the_points(trained, capture, tmp_path):
    other = tmp_path / "capture"
    shutil.copytree(capture, other)
    for name in HELD_OUT:
        Image.new("RGB", (WIDTH, HEIGHT), "red").save(other / "images" / name)
        depth = np.full((HEIGHT, WIDTH), 500, np.uint16)
        Image.fromarray(depth).save(other / "depth" / f"{name.removesuffix('.jpg')}.png")
    model = train(run_config(other, tmp_path / "runs")).pipeline.model
    for name, values in trained.pipeline.model.named_buffers():
        assert torch.equal(values, model.get_buffer(name)), name


def test_options_of_the_estimator_choose_points_by_confidence_and_number(capture, tmp_path):
    def model(folder, **options):
        return train(run_config(capture, tmp_path / folder, Truth(**options))).pipeline.model

    whole, best = model("a", min_confidence=0.5), model("b", confidence_percentile=50.0)
    few = model("c", max_points=1000)
    # Half of each of the 14 training photos has confidence 0.8.
    assert len(whole.splat_means) == len(best.splat_means) == 14 * WIDTH * HEIGHT // 2
    assert whole.splat_confidence.min() == best.splat_confidence.min() > 0.79
    assert 900 <= len(few.splat_means) <= 1000


def test_slider_filters_the_render_but_not_the_scores(trained):
    pipeline = reloaded(trained)
    camera, _ = held_out_views(pipeline)[0]
    before = pipeline.get_average_eval_image_metrics()
    pipeline.model.show_from(0.5)
    assert pipeline.model.get_outputs_for_camera(camera)["confidence"].max() > 0.7
    covered = pipeline.model.get_outputs_for_camera(camera)["accumulation"].mean()
    pipeline.model.show_from(0.9)
    outputs = pipeline.model.get_outputs_for_camera(camera)
    assert not outputs["accumulation"].any() and not outputs["rgb"].any()
    assert covered > 0.3
    after = pipeline.get_average_eval_image_metrics()
    assert after["psnr"] == before["psnr"]
    assert pipeline.model.shown_confidence == 0.9


def test_holes_are_scored_and_told_apart(capture, tmp_path, monkeypatch):
    """300 points cannot close the surfaces."""
    said = []
    monkeypatch.setattr(
        "nerfstudio.utils.rich_utils.CONSOLE.print", lambda *text, **_: said.append(text[0])
    )
    trainer = train(run_config(capture, tmp_path, Truth(min_confidence=0.5, max_points=300)))
    results = json.loads((trainer.base_dir / "eval.json").read_text())["results"]
    assert results["coverage"] < 0.95
    assert results["psnr_covered"] > results["psnr"]
    assert any(f"{1 - results['coverage']:.1%} of their pixels" in str(text) for text in said)


def test_a_metric_without_a_covered_pixel_is_left_out(trained):
    pipeline = reloaded(trained)
    pipeline.model.load_state_dict(
        {
            key: value[:0] if key.startswith("splat_") else value
            for key, value in pipeline.model.state_dict().items()
        }
    )
    metrics = pipeline.get_average_eval_image_metrics()
    assert metrics["coverage"] == 0.0
    assert "psnr_covered" not in metrics
    json.dumps(metrics, allow_nan=False)


def test_scores_on_training_photos_are_not_called_held_out(capture, tmp_path):
    config = run_config(capture, tmp_path)
    config.pipeline.datamanager.dataparser.eval_mode = "all"
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    lines = trainer.pipeline.caveats({"coverage": 1.0})
    assert any(f"{NUM_PHOTOS} of these {NUM_PHOTOS} photos are not held out" in s for s in lines)


def test_a_dataparser_without_depth_is_refused(capture, tmp_path):
    trainer = run_config(capture, tmp_path, Truth(with_depth=False)).setup(
        local_rank=0, world_size=1
    )
    with pytest.raises(SystemExit, match="no depth maps for its 14 training photos"):
        trainer.setup()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_confidence": 0.9}, "unsure .confidence below 0.9"),
        ({"max_points": 1}, "have 1 points"),
    ],
)
def test_options_that_keep_nothing_are_refused(capture, tmp_path, options, message):
    trainer = run_config(capture, tmp_path, Truth(**options)).setup(local_rank=0, world_size=1)
    with pytest.raises(SystemExit, match=message):
        trainer.setup()


def test_more_than_one_device_is_refused(capture, tmp_path):
    config = run_config(capture, tmp_path)
    config.machine.num_devices = 2
    with pytest.raises(SystemExit, match="2 devices.*num-devices 1"):
        config.set_timestamp()


def test_exported_scene_is_the_one_that_was_photographed(trained, capture, tmp_path):
    config = str(trained.base_dir / "config.yml")
    cli.main(["export", "--load-config", config, "--output-dir", str(tmp_path / "out")])
    found, expected = read_transforms(tmp_path / "out"), read_transforms(capture)
    torch.testing.assert_close(
        found.world_from_camera, expected.world_from_camera, atol=1e-5, rtol=0
    )
    files = read_frame_files(tmp_path / "out")
    for name, frame in files.items():
        millimetres = torch.from_numpy(np.load(frame.depth))
        torch.testing.assert_close(millimetres / 1000, true_depth(capture, name))
        assert (tmp_path / "out" / "depth_confidence" / f"{name}.npy").is_file()
    cloud = read_ply(tmp_path / "out" / "points.ply")
    assert len(cloud.points) == len(trained.pipeline.model.splat_means)
    # The points lie on the surfaces of the capture, of which the file has one every 2 cm.
    surfaces = expected.points.float()
    distance = torch.cdist(cloud.points[::500], surfaces).min(dim=1).values
    assert distance.median() < 0.03
    outputs = NerfstudioDataParserConfig(data=tmp_path / "out", load_3D_points=True).setup()
    assert len(outputs.get_dataparser_outputs("train").metadata["depth_filenames"]) > 0


def test_export_can_leave_out_doubtful_points_but_not_all(trained, tmp_path):
    words = ["export", "--load-config", str(trained.base_dir / "config.yml"), "--output-dir"]
    cli.main([*words, str(tmp_path / "sure"), "--min-confidence", "0.5"])
    confidence = read_ply(tmp_path / "sure" / "points.ply").confidence
    assert confidence.min() > 0.79
    with pytest.raises(SystemExit, match="the surest has 0.8"):
        cli.main([*words, str(tmp_path / "none"), "--min-confidence", "0.95"])
    assert not (tmp_path / "none").exists()


def test_other_commands_take_the_run(trained, tmp_path, capsys):
    config = str(trained.base_dir / "config.yml")
    cli.main(["show", "--load-config", config, "--output", str(tmp_path / "a.png"), "--views", "1"])
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.width > 3 * WIDTH
    cli.main(
        ["evaluate", "--load-config", config, "--test-poses", "none", "photometric:2",
         "--output-path", str(tmp_path / "scores.json")]
    )  # fmt: skip
    rows = json.loads((tmp_path / "scores.json").read_text())["results"]
    assert [row["test_poses"] for row in rows] == ["none", "photometric:2"]
    cli.main(["export-cameras", "--load-config", config, "--output-dir", str(tmp_path / "cameras")])
    assert len(read_transforms(tmp_path / "cameras")) == NUM_PHOTOS
    assert "PSNR" in capsys.readouterr().out


def test_nerfstudio_exports_the_points_as_gaussians(trained, tmp_path):
    """Truth: opacity is stored as a logit, colour as f_dc with colour = 0.282 f_dc + 0.5."""
    ExportGaussianSplat(load_config=trained.base_dir / "config.yml", output_dir=tmp_path).main()
    content = (tmp_path / "splat.ply").read_bytes()
    header, _, body = content.partition(b"end_header\n")
    names = [line.split()[-1] for line in header.decode().splitlines() if "property" in line]
    table = np.frombuffer(body, "<f4").reshape(-1, len(names))
    column = {name: table[:, i] for i, name in enumerate(names)}
    model = trained.pipeline.model
    assert len(table) == len(model.splat_means)
    np.testing.assert_allclose(1 / (1 + np.exp(-column["opacity"])), 0.9, atol=1e-5)
    np.testing.assert_allclose(np.exp(column["scale_1"]), model.splat_scales.numpy(), rtol=1e-5)
    red = 0.28209479 * column["f_dc_0"] + 0.5
    np.testing.assert_allclose(red, model.splat_colors[:, 0].numpy() / 255, atol=1e-5)


def test_photos_are_read_one_by_one(capture, tmp_path, monkeypatch):
    """The datamanager's cache of training photos, which holds them all, is never filled."""
    trainer = train(run_config(capture, tmp_path))
    assert "cached_train" not in vars(trainer.pipeline.datamanager)
