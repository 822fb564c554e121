"""Views that a network renders between photos, as more to train on."""

import copy
import json
import shutil

import numpy as np
import pytest
import torch
from nerfstudio.cameras.cameras import CameraType
from nerfstudio.configs.dataparser_configs import all_dataparsers
from nerfstudio.configs.method_configs import all_methods
from nerfstudio.data.datasets.depth_dataset import DepthDataset
from nerfstudio.utils.eval_utils import eval_setup
from PIL import Image

from fm3d_plugins.camera_optimization.export import run_cameras
from fm3d_plugins.camera_photos import CAMERA_CONFIDENCE, RENDERED_VIEWS
from fm3d_plugins.dataparsers.rendered_views import CAMERAS, LvsmDataParserConfig, undistorted
from fm3d_plugins.lvsm import inference
from fm3d_plugins.lvsm.contexts import nearest
from fm3d_plugins.nerfstudio_cameras import image_sizes, intrinsics_matrices, world_from_cameras
from fm3d_plugins.photo_datamanager import LATENT_CAMERAS, VIEW_WEIGHTS
from fm3d_plugins.synthetic_rooms.capture import DRAFT, write_sample

NUM_PHOTOS, WIDTH, HEIGHT = 9, 64, 48
NUM_TRAIN, NUM_VIEWS, WEIGHT = 7, 10, 0.25
RENDERED = (48, 32)
"""Width and height in whole patches of at most IMAGE_SIZE."""
IMAGE_SIZE = 48


@pytest.fixture(scope="module")
def capture(tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("capture") / "sample"
    write_sample(
        folder, num_photos=NUM_PHOTOS, width=WIDTH, height=HEIGHT, quality=DRAFT, num_threads=1
    )
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def own_cache(cache, monkeypatch):
    monkeypatch.setenv("FM3D_CACHE_DIR", str(cache))


@pytest.fixture
def config(capture, lvsm_weights):
    def made(data=capture, **options):
        given = {
            "weights": str(lvsm_weights),
            "num_views": NUM_VIEWS,
            "weight": WEIGHT,
            "image_size": IMAGE_SIZE,
            "inner_options": ("eval-mode=interval",),
        }
        return LvsmDataParserConfig(data=data, **(given | options))

    return made


@pytest.fixture
def inner(capture):
    made = copy.deepcopy(all_dataparsers["nerfstudio-data"])
    made.data, made.eval_mode = capture, "interval"
    return made.setup()


def changed_scene(capture, folder, change):
    """A scene with the capture's photos, whose transforms.json `change` has edited."""
    folder.mkdir()
    content = json.loads((capture / "transforms.json").read_text())
    for frame in content["frames"]:
        for name in ("file_path", "depth_file_path", "mask_path"):
            if name in frame:
                frame[name] = str(capture / frame[name])
    content.pop("ply_file_path", None)
    change(content)
    (folder / "transforms.json").write_text(json.dumps(content))
    return folder


def no_rendering(*_, **__):
    raise AssertionError("a view was rendered")


def test_training_has_rendered_views_behind_the_photos(config, inner):
    found, given = config().setup().get_dataparser_outputs("train"), inner.get_dataparser_outputs()
    assert found.image_filenames[:NUM_TRAIN] == given.image_filenames
    assert len(found.image_filenames) == len(found.cameras) == NUM_TRAIN + NUM_VIEWS
    is_rendered = found.metadata[RENDERED_VIEWS]
    assert is_rendered.tolist() == [False] * NUM_TRAIN + [True] * NUM_VIEWS
    assert found.metadata[VIEW_WEIGHTS].tolist() == [1.0] * NUM_TRAIN + [WEIGHT] * NUM_VIEWS
    for name in ("camera_to_worlds", "fx", "fy", "cx", "cy", "width", "height"):
        photos = getattr(found.cameras, name)[:NUM_TRAIN]
        assert torch.equal(photos, getattr(given.cameras, name)), name
    assert image_sizes(found.cameras[is_rendered]).tolist() == [list(RENDERED)] * NUM_VIEWS
    for file in found.image_filenames[NUM_TRAIN:]:
        with Image.open(file) as image:
            assert (image.size, image.mode) == (RENDERED, "RGB")


@pytest.mark.parametrize("split", ["val", "test"])
def test_other_splits_are_the_inner_ones(config, inner, split, monkeypatch):
    monkeypatch.setattr(inference.ViewRenderer, "render", no_rendering)
    found = config(num_views=3).setup().get_dataparser_outputs(split)
    given = inner.get_dataparser_outputs(split)
    assert found.image_filenames == given.image_filenames
    assert torch.equal(found.cameras.camera_to_worlds, given.cameras.camera_to_worlds)
    assert set(found.metadata) == set(given.metadata)


def test_intrinsics_are_the_photos_at_the_views_size(config):
    cameras = config().setup().get_dataparser_outputs("train").cameras
    photo, view = intrinsics_matrices(cameras)[[0, -1]]
    scale = torch.tensor([RENDERED[0] / WIDTH, RENDERED[1] / HEIGHT, 1.0])
    torch.testing.assert_close(view, scale[:, None] * photo)


def test_a_view_is_what_the_network_makes_of_the_nearest_training_photos(
    config, inner, lvsm_weights
):
    """Nothing of held-out photos: these are not even handed to what is compared with."""
    given = inner.get_dataparser_outputs("train")
    photos = undistorted(given, IMAGE_SIZE, torch.device("cpu"))
    assert len(photos) == NUM_TRAIN
    network = inference.load_network(
        inference.CheckpointFile(lvsm_weights, "file", None, ""),
        torch.float32,
        torch.device("cpu"),
    )
    renderer = inference.ViewRenderer(network, photos, IMAGE_SIZE)
    parsed = config(precision="float32", num_contexts=3).setup()
    found = parsed.get_dataparser_outputs("train")
    for row in (NUM_TRAIN, NUM_TRAIN + NUM_VIEWS - 1):
        pose = world_from_cameras(found.cameras[row])
        context = sorted(nearest(pose, photos.world_from_camera, 3))
        lens = intrinsics_matrices(found.cameras[row : row + 1])
        expected = renderer.render(context, pose[None], lens, *RENDERED[::-1])[0]
        picture = np.asarray(Image.open(found.image_filenames[row])).transpose(2, 0, 1) / 255
        # Rounded to 8 bits, and poses to float32 in another frame.
        assert np.abs(picture - expected.numpy()).max() < 0.51 / 255 + 1e-4


def test_held_out_photos_have_no_part_in_the_views(config, inner, capture, tmp_path):
    """Other pictures in their place change nothing."""
    scene = shutil.copytree(capture, tmp_path / "scene")
    for file in inner.get_dataparser_outputs("val").image_filenames:
        Image.new("RGB", (WIDTH, HEIGHT), "red").save(scene / file.relative_to(capture))
    views = [
        config(data, cache_dir=tmp_path / data.name).setup().get_dataparser_outputs("train")
        for data in (capture, scene)
    ]
    first, second = (found.image_filenames[NUM_TRAIN:] for found in views)
    assert [file.read_bytes() for file in first] == [file.read_bytes() for file in second]
    assert not set(first) & set(second)


def test_a_second_run_renders_nothing(config, monkeypatch):
    first = config().setup().get_dataparser_outputs("train")
    monkeypatch.setattr(inference.ViewRenderer, "render", no_rendering)
    again = config(weight=1.0).setup().get_dataparser_outputs("train")
    assert again.image_filenames == first.image_filenames
    assert torch.equal(again.cameras.camera_to_worlds, first.cameras.camera_to_worlds)


def damaged_views(folder):
    """What becomes of kept views, one after the other."""

    def cameras(edit):
        content = torch.load(folder / CAMERAS, weights_only=True)
        edit(content)
        torch.save(content, folder / CAMERAS)

    yield lambda: (folder / CAMERAS).write_bytes(b"")
    yield (folder / CAMERAS).unlink
    yield lambda: torch.save([1], folder / CAMERAS)
    yield lambda: torch.save({"x": torch.zeros(1)}, folder / CAMERAS)
    yield lambda: torch.save(no_rendering, folder / CAMERAS)
    yield lambda: cameras(lambda c: c["world_from_camera"].fill_(torch.nan))
    yield lambda: cameras(lambda c: c.update(sizes=c["sizes"][1:]))
    yield lambda: cameras(lambda c: c.update({k: v[1:] for k, v in c.items()}))
    yield lambda: cameras(lambda c: c["sizes"].neg_())
    yield (folder / "view_0000.png").unlink
    yield lambda: (folder / "view_0001.png").write_bytes(b"no picture")
    yield lambda: (folder / "mask_0001.png").write_bytes(b"")
    yield lambda: Image.new("RGB", (3, 3)).save(folder / "view_0000.png")
    yield lambda: np.save(folder / "depth_0000.npy", np.full((2, 2), np.nan))
    yield (folder / "depth_0001.npy").unlink


def test_views_that_cannot_be_used_are_rendered_anew(config, capsys):
    first = config(num_views=2).setup().get_dataparser_outputs("train")
    folder = first.image_filenames[-1].parent
    whole = {path.name: path.read_bytes() for path in folder.glob("*.png")}
    for damage in damaged_views(folder):
        damage()
        capsys.readouterr()
        again = config(num_views=2).setup().get_dataparser_outputs("train")
        said = capsys.readouterr().out
        assert f"{folder} is not used and made anew" in said
        assert {path.name: path.read_bytes() for path in folder.glob("*.png")} == whole
        assert torch.equal(again.cameras.camera_to_worlds, first.cameras.camera_to_worlds)


@pytest.mark.parametrize(
    "options",
    [
        {"num_views": 4},
        {"num_contexts": 1},
        {"image_size": 32},
        {"inner_options": ("eval-mode=all",)},
        {"inner_options": ("eval-mode=interval", "scale-factor=2.0")},
    ],
)
def test_other_options_make_other_views(config, options):
    first = config().setup().get_dataparser_outputs("train")
    other = config(**options).setup().get_dataparser_outputs("train")
    assert other.image_filenames[-1].parent != first.image_filenames[-1].parent


def test_another_photo_makes_other_views(config, capture, tmp_path):
    def other_photo(content):
        file = tmp_path / "other.png"
        Image.new("RGB", (WIDTH, HEIGHT), "red").save(file)
        content["frames"][1]["file_path"] = str(file)

    scenes = [
        changed_scene(capture, tmp_path / name, change)
        for name, change in (("a", lambda content: None), ("b", other_photo))
    ]
    folders = [
        config(data).setup().get_dataparser_outputs("train").image_filenames[-1].parent
        for data in scenes
    ]
    assert folders[0] != folders[1]


def test_rendering_that_fails_leaves_nothing(config, cache, monkeypatch):
    before = sorted((cache / "views").glob("*/*")) if (cache / "views").exists() else []
    monkeypatch.setattr(inference.ViewRenderer, "render", no_rendering)
    with pytest.raises(AssertionError, match="a view was rendered"):
        config(num_views=6).setup().get_dataparser_outputs("train")
    assert sorted((cache / "views").glob("*/*")) == before


def test_masks_are_full_and_depth_is_unknown_in_rendered_views(config, capture, tmp_path):
    def masked(content):
        file = tmp_path / "mask.png"
        Image.new("L", (WIDTH, HEIGHT), 0).save(file)
        for frame in content["frames"]:
            frame["mask_path"] = str(file)

    outputs = (
        config(changed_scene(capture, tmp_path / "scene", masked))
        .setup()
        .get_dataparser_outputs("train")
    )
    dataset = DepthDataset(outputs)
    for row in range(len(dataset)):
        data = dataset.get_data(row)
        assert data["mask"].all() == (row >= NUM_TRAIN)
        assert (data["depth_image"] > 0).any() == (row < NUM_TRAIN)


def test_distorted_photos_give_views_without_distortion(config, capture, tmp_path):
    scene = changed_scene(capture, tmp_path / "scene", lambda content: content.update(k1=0.1))
    cameras = config(scene).setup().get_dataparser_outputs("train").cameras
    assert (cameras.distortion_params[:NUM_TRAIN, 0] == 0.1).all()
    assert (cameras.distortion_params[NUM_TRAIN:] == 0).all()
    # What undistorting leaves of a photo is a narrower or wider view, of another focal length.
    assert cameras.fx[-1] != pytest.approx(float(cameras.fx[0]) * RENDERED[0] / WIDTH, rel=1e-3)


def test_one_training_photo_has_nothing_beside_it(config, capture, tmp_path):
    scene = changed_scene(
        capture, tmp_path / "scene", lambda content: content.update(frames=content["frames"][:2])
    )
    with pytest.raises(SystemExit, match=r"training photos \(1\) were not taken from two places"):
        config(scene).setup().get_dataparser_outputs("train")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inner": "no-such"}, r"'no-such'\. Expected one of: .*nerfstudio-data.*vggt"),
        ({"inner": "lvsm"}, r"'lvsm'\. Expected one of"),
        ({"weight": 0.0}, "weight is 0"),
        ({"weight": float("nan")}, "weight is nan"),
        ({"num_views": 0}, "num_views is 0"),
        ({"weights": "no/such"}, "no/such is neither a file nor a folder"),
    ],
)
def test_wrong_options_are_named(config, options, message):
    with pytest.raises(SystemExit, match=message):
        config(**options).setup().get_dataparser_outputs("train")


def test_an_unknown_option_of_the_inner_dataparser_is_named(config, capsys):
    with pytest.raises(SystemExit):
        config(inner_options=("no-such-option=1",)).setup()
    shown = "".join(capsys.readouterr())
    assert "no-such-option" in shown and "nerfstudio-data --help" in shown


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda o: o.cameras.camera_type.fill_(CameraType.FISHEYE.value), "with fisheye lenses"),
        (lambda o: setattr(o.cameras, "times", torch.zeros(NUM_TRAIN, 1)), "with times"),
        (lambda o: o.metadata.update({LATENT_CAMERAS: True}), "with latent cameras"),
        (lambda o: o.metadata.update(normals=list(o.image_filenames)), "as 'normals'"),
    ],
)
def test_scenes_of_which_no_view_can_be_made_are_refused(config, inner, change, message):
    outputs = inner.get_dataparser_outputs("train")
    change(outputs)
    parser = config().setup()
    parser.inner.get_dataparser_outputs = lambda split: outputs
    with pytest.raises(SystemExit, match=message):
        parser.get_dataparser_outputs("train")


def test_a_confidence_of_each_camera_goes_on_with_ones(config, inner):
    outputs = inner.get_dataparser_outputs("train")
    outputs.metadata[CAMERA_CONFIDENCE] = torch.full((NUM_TRAIN,), 0.5)
    parser = config().setup()
    parser.inner.get_dataparser_outputs = lambda split: outputs
    found = parser.get_dataparser_outputs("train").metadata[CAMERA_CONFIDENCE]
    assert found.tolist() == [0.5] * NUM_TRAIN + [1.0] * NUM_VIEWS


def test_the_inner_dataparser_says_whether_cameras_are_estimated(config):
    assert hasattr(config(inner="sfm", inner_options=()), "estimator")
    assert not hasattr(config(), "estimator")


def run_config(method, dataparser, output, **model):
    made = copy.deepcopy(all_methods[method])
    manager = made.pipeline.datamanager
    manager.data, manager.dataparser = dataparser.data, dataparser
    if method.startswith("nerf"):
        manager.train_num_rays_per_batch = 256
        small = {"log2_table_size": 12, "num_levels": 4}
        model |= small if method == "nerf" else {"width": 16, "num_layers": 2}
    for name, value in ({"lpips_networks": ()} | model).items():
        setattr(made.pipeline.model, name, value)
    made.output_dir, made.max_num_iterations = output, 12
    made.vis, made.logging.local_writer.enable = "tensorboard", False
    made.steps_per_eval_image = 1000
    made.set_timestamp()
    return made


@pytest.mark.parametrize("method", ["3dgs", "nerf"])
def test_scenes_are_trained_on_them(config, tmp_path, method, train_run, monkeypatch):
    """With everything that is kept per training view: poses, depth, exposure."""
    made = run_config(method, config(), tmp_path)
    made.pipeline.model.camera_optimizer.mode = "SO3xR3"
    made.pipeline.model.depth.weight = 0.1
    made.resolve()
    losses = []
    pipeline = train_run(made, losses).pipeline
    assert torch.tensor(losses).isfinite().all()
    assert pipeline.model.num_train_data == NUM_TRAIN + NUM_VIEWS
    assert len(run_cameras(pipeline).scene) == NUM_PHOTOS
    scores = pipeline.get_average_eval_image_metrics()
    assert scores["psnr"] > 0
    made.save_config()
    monkeypatch.setattr(inference.ViewRenderer, "render", no_rendering)
    _, again, _, _ = eval_setup(made.get_base_dir() / "config.yml", test_mode="test")
    assert again.get_average_eval_image_metrics()["psnr"] == pytest.approx(scores["psnr"])


@pytest.mark.parametrize("method", ["3dgs", "nerf", "nerf-vanilla"])
def test_colours_count_by_the_views_weight(config, tmp_path, method):
    """In training; weights of 1, and evaluation, are the same as none."""
    # One resolution for training and evaluation.
    options = {"num_downscales": 0} if method == "3dgs" else {}
    made = run_config(method, config(), tmp_path, **options)
    pipeline = made.pipeline.setup(device="cpu", test_mode="val")
    model = pipeline.model.train()
    weights, term = model.view_weights, "main_loss" if method == "3dgs" else "rgb_loss"

    def loss(weights, training=True):
        model.train(training).view_weights = weights
        return model.get_loss_dict(outputs, batch)[term]

    seen = set()
    for step in range(NUM_TRAIN + NUM_VIEWS):
        camera_or_rays, batch = pipeline.datamanager.next_train(step)
        outputs = model.train()(camera_or_rays)
        assert torch.equal(loss(torch.ones_like(weights)), loss(None))
        assert torch.equal(loss(weights, training=False), loss(None, training=False))
        if method == "3dgs":
            seen.add(batch["image_idx"])
            expected = loss(None) * weights[batch["image_idx"]]
        else:
            seen |= set(batch["indices"][:, 0].tolist())
            errors = (outputs["rgb"] - batch["image"]).square().mean(-1)
            expected = (weights[batch["indices"][:, 0]] * errors).mean()
        torch.testing.assert_close(loss(weights), expected)
    assert seen == set(range(NUM_TRAIN + NUM_VIEWS))


@pytest.mark.parametrize("method", ["lvsm", "vggt"])
def test_methods_that_train_no_scene_refuse_them(config, tmp_path, method, monkeypatch):
    monkeypatch.setattr(inference.ViewRenderer, "render", no_rendering)
    made = run_config(method, config(num_views=7), tmp_path)
    with pytest.raises(SystemExit, match="adds rendered views to the photos"):
        made.setup(local_rank=0, world_size=1).setup()
