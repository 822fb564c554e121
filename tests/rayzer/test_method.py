"""RayZer as estimator, dataparser and method, with small random weights."""

import copy
import json
import shutil

import av
import pytest
import torch
from nerfstudio.utils.eval_utils import eval_setup

from fm3d_plugins.cli import main as cli
from fm3d_plugins.dataparsers.estimated import EstimatedDataParserConfig
from fm3d_plugins.estimators.rayzer.estimator import Rayzer
from fm3d_plugins.method_configs.gaussian_splatting import method as splatting
from fm3d_plugins.method_configs.rayzer import method
from fm3d_plugins.nerfstudio_cameras import world_from_cameras
from fm3d_plugins.photos.photo_set import find_photos
from fm3d_plugins.synthetic_rooms.capture import DRAFT, write_sample

NUM_VIEWS, WIDTH, HEIGHT = 6, 64, 48


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("capture") / "sample"
    write_sample(
        folder, num_photos=2 * NUM_VIEWS, width=WIDTH, height=HEIGHT, quality=DRAFT, num_threads=1
    )
    return folder / "images"


@pytest.fixture
def estimator(rayzer_weights):
    return Rayzer(weights=str(rayzer_weights), resolution=48)


def configured(method, photos, output, estimator):
    config = copy.deepcopy(method.config)
    config.pipeline.datamanager.data = photos
    config.pipeline.datamanager.dataparser = EstimatedDataParserConfig(
        estimator=estimator, eval_interval=3, cache_dir=output / "cache"
    )
    config.output_dir, config.vis = output, "tensorboard"
    config.pipeline.model.lpips_networks = ()
    config.set_timestamp()
    config.save_config()
    return config


def train(config):
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    trainer.train()
    return trainer


def test_cameras_are_latent_and_of_as_many_photos_as_it_was_trained_with(photos, estimator):
    found = find_photos(photos)
    scene = estimator.estimate(found)
    assert scene.scale == "latent" and len(scene.points) == 0
    names = [photo.name for photo in found]
    assert scene.names == tuple(names[i] for i in (0, 2, 4, 7, 9, 11))
    assert set(scene.names) | set(scene.unregistered) == set(names)
    middle = scene.world_from_camera[NUM_VIEWS // 2]
    torch.testing.assert_close(middle, torch.eye(4, dtype=torch.float64))
    # The square middle of 48 pixels is 48 pixels of the photo: 8 are cut off on both sides.
    torch.testing.assert_close(scene.intrinsics[0, :2, 2], torch.tensor([32.0, 24.0]).double())


def test_too_few_photos_are_refused(photos, estimator, tmp_path):
    for file in sorted(photos.iterdir())[: NUM_VIEWS - 1]:
        shutil.copy(file, tmp_path)
    with pytest.raises(ValueError, match=r"5 photos, and this RayZer was trained with 6"):
        estimator.estimate(find_photos(tmp_path))


def test_methods_refuse_latent_cameras_unless_told(photos, estimator, tmp_path):
    config = configured(splatting, photos, tmp_path, estimator)
    with pytest.raises(SystemExit, match="latent"):
        config.pipeline.setup(device="cpu")
    config.pipeline.datamanager.accept_latent_cameras = True
    assert config.pipeline.setup(device="cpu").datamanager.train_dataset is not None


@pytest.fixture(scope="module")
def run(photos, rayzer_weights, tmp_path_factory):
    output = tmp_path_factory.mktemp("runs")
    estimator = Rayzer(weights=str(rayzer_weights), resolution=48)
    return train(configured(method, photos, output, estimator))


def test_a_run_names_where_held_out_cameras_come_from(run):
    results = json.loads((run.base_dir / "eval.json").read_text())["results"]
    assert results["test_poses"] == "own image"
    assert 5 < results["psnr"] < 30
    state = torch.load(run.checkpoint_dir / "step-000000000.ckpt", weights_only=True)
    assert not [name for name in state["pipeline"] if "transformer" in name]


def test_nerfstudios_cameras_come_back_into_the_networks_space(run):
    """The dataparser turns and scales the predicted cameras; a held-out one is found again."""
    pipeline = run.pipeline
    model, manager = pipeline.model, pipeline.datamanager
    poses = model.frame.apply_to_pose(world_from_cameras(manager.eval_dataset.cameras))
    scene = manager.dataparser.scene()
    numbers = [scene.names.index(file.name) for file in manager.eval_dataset.image_filenames]
    expected = scene.world_from_camera[numbers].float()
    torch.testing.assert_close(poses, expected, atol=1e-4, rtol=0)


def test_the_view_of_a_held_out_camera_is_what_the_network_itself_says(run):
    """Of the square middle of a held-out photo, through canvas, dataparser and viewer cameras."""
    pipeline = run.pipeline
    model, manager = pipeline.model, pipeline.datamanager
    sequence = manager.sequence(48, model.network.config.patch_size)
    name = manager.eval_dataset.image_filenames[0].name
    target = manager.dataparser.scene().names.index(name)
    assert target not in sequence.context
    with torch.no_grad():
        said = model.network(
            sequence.photos[None], torch.tensor(sequence.context), torch.tensor([target])
        )
    camera = copy.deepcopy(manager.eval_dataset.cameras[0:1])
    # The middle 48 of 64 columns: the canvas.
    camera.cx, camera.width = camera.cx - 8, camera.width - 16
    pipeline.eval()
    shown = model.get_outputs_for_camera(camera)["rgb"].movedim(-1, 0)
    torch.testing.assert_close(shown, said.renders[0, 0], atol=1e-3, rtol=0)


def test_held_out_photos_do_not_become_part_of_the_scene(run, photos):
    """Changing the colours of held-out photos moves cameras, but a given camera's view stays."""
    pipeline = run.pipeline
    model = pipeline.model
    seen = pipeline.datamanager.sequence(48, model.network.config.patch_size)
    sequence, context = seen.photos, seen.context
    others = [i for i in range(NUM_VIEWS) if i not in context]
    assert len(context) == 4 and len(others) == 2
    rays = torch.rand(1, NUM_VIEWS, 6, 48, 48)
    tokens = model.network.tokens(sequence[None])
    changed = sequence.clone()
    changed[others] = 1 - changed[others]
    other_tokens = model.network.tokens(changed[None])
    scenes = [
        model.network.encode(each[:, context], rays[:, context]) for each in (tokens, other_tokens)
    ]
    assert torch.equal(*scenes)


def test_a_run_is_loaded_again_and_shown(run, tmp_path):
    config = run.base_dir / "config.yml"
    _, pipeline, _, _ = eval_setup(config, test_mode="test")
    camera, _ = pipeline.datamanager.fixed_indices_eval_dataloader[1]
    again = pipeline.model.get_outputs_for_camera(camera)["rgb"]
    run.pipeline.eval()
    torch.testing.assert_close(again, run.pipeline.model.get_outputs_for_camera(camera)["rgb"])
    picture = tmp_path / "result.png"
    cli.main(["show", "--load-config", str(config), "--output", str(picture)])
    assert picture.stat().st_size > 1000
    film = tmp_path / "film.mp4"
    arguments = ["--load-config", str(config), "--output", str(film), "--path", "around"]
    cli.main(["film", *arguments, "--num-keys", "1", "--frames", "2"])
    with av.open(str(film)) as container:
        assert len(list(container.decode(video=0))) == 2


def test_another_dataparsers_cameras_are_refused(photos, run):
    config = copy.deepcopy(method.config)
    config.pipeline.datamanager.data = photos.parent
    from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

    config.pipeline.datamanager.dataparser = NerfstudioDataParserConfig()
    with pytest.raises(SystemExit, match="cameras of its own space"):
        config.pipeline.setup(device="cpu")
