"""Estimated cameras reach nerfstudio in its own conventions, once per set of photos."""

import os
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch
import tyro
from nerfstudio.configs.method_configs import AnnotatedBaseConfigUnion
from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManagerConfig
from nerfstudio.data.datamanagers.full_images_datamanager import FullImageDatamanagerConfig
from nerfstudio.data.datasets.base_dataset import InputDataset
from PIL import Image

from fm3d_plugins.camera_optimization.camera_optimizer import TRACKS
from fm3d_plugins.dataparsers.estimated import EstimatedDataParserConfig
from fm3d_plugins.estimators.base import Estimator
from fm3d_plugins.estimators.cache import cache_key, cameras_cached
from fm3d_plugins.geometry.cameras import denormalize, distort, project
from fm3d_plugins.geometry.poses import invert, se3_exp, transform_points
from fm3d_plugins.nerfstudio_cameras import world_from_cameras
from fm3d_plugins.photos.photo_set import find_photos
from fm3d_plugins.scene import SceneGeometry, Tracks

NUM_PHOTOS, WIDTH, HEIGHT = 10, 64, 48


@dataclass(frozen=True)
class Known(Estimator):
    """Gives made-up cameras and counts how often it is asked."""

    name: ClassVar[str] = "known"
    calls: ClassVar[list] = []
    option: int = 0

    def estimate(self, photos):
        self.calls.append(photos.digest)
        return known_scene(tuple(photo.name for photo in photos)[:-1], (photos.photos[-1].name,))


def known_scene(names, unregistered=()):
    generator = torch.Generator().manual_seed(0)
    count = len(names)
    poses = se3_exp(torch.randn(count, 6, generator=generator, dtype=torch.float64) * 0.3)
    points = torch.randn(200, 3, generator=generator) + torch.tensor([0.0, 0, 5])
    points[100:150] = points[:50]
    intrinsics = torch.tensor([[50.0, 0, 31], [0, 52, 25], [0, 0, 1]]).double().repeat(count, 1, 1)
    return SceneGeometry(
        names=names,
        image_sizes=torch.tensor([[WIDTH, HEIGHT]] * count),
        world_from_camera=poses,
        intrinsics=intrinsics,
        distortion=torch.zeros(count, 6).double(),
        camera_index=torch.zeros(count, dtype=torch.long),
        points=points,
        point_colors=torch.randint(0, 256, (200, 3), generator=generator, dtype=torch.uint8),
        point_confidence=torch.linspace(0, 1, 200),
        unregistered=unregistered,
    )


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    noise = np.random.default_rng(0)
    for i in range(NUM_PHOTOS):
        pixels = noise.integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    Known.calls.clear()
    return folder


def config_for(photos, tmp_path, **changes):
    return EstimatedDataParserConfig(
        data=photos, estimator=Known(), cache_dir=tmp_path / "cache", **changes
    )


def outputs_for(photos, tmp_path, split="train", **changes):
    return config_for(photos, tmp_path, **changes).setup().get_dataparser_outputs(split)


def test_estimator_runs_once_for_all_splits_and_commands(photos, tmp_path):
    parser = config_for(photos, tmp_path).setup()
    for split in ("train", "val", "test"):
        parser.get_dataparser_outputs(split)
    outputs_for(photos, tmp_path)
    assert len(Known.calls) == 1


def test_cache_key_changes_with_photos_and_options(photos):
    before = cache_key(Known(), find_photos(photos))
    assert cache_key(Known(option=1), find_photos(photos)) != before
    (photos / "0.png").rename(photos / "00.png")
    assert cache_key(Known(), find_photos(photos)) != before


def test_damaged_cache_is_made_anew(photos, tmp_path):
    outputs_for(photos, tmp_path)
    (path,) = (tmp_path / "cache" / "scenes").glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:100])
    scene = cameras_cached(Known(), find_photos(photos), tmp_path / "cache")
    assert len(Known.calls) == 2
    torch.testing.assert_close(scene.points, SceneGeometry.load(path).points)


def test_photos_folder_is_not_written_to(photos, tmp_path):
    before = sorted(os.listdir(photos)), photos.stat().st_mtime_ns
    outputs_for(photos, tmp_path)
    assert (sorted(os.listdir(photos)), photos.stat().st_mtime_ns) == before


def test_rays_of_nerfstudio_hit_the_points(photos, tmp_path):
    """Truth: a point projected by the estimator's camera lies on nerfstudio's ray there."""
    outputs = outputs_for(photos, tmp_path, eval_mode="all")
    scene = known_scene(tuple(f"{i}.png" for i in range(NUM_PHOTOS - 1)))
    kept = np.sort(np.unique(scene.points.numpy(), axis=0, return_index=True)[1])
    points = outputs.metadata["points3D_xyz"]
    assert len(points) == len(kept) == 150
    for view in range(len(scene)):
        camera = transform_points(
            invert(scene.world_from_camera[view]), scene.points[kept].double()
        )
        visible = camera[:, 2] > 0.1
        pixels = project(camera[visible], scene.intrinsics[view]).float()
        rays = outputs.cameras.generate_rays(
            torch.full((len(pixels), 1), view), coords=pixels.flip(-1)
        )
        towards = torch.nn.functional.normalize(points[visible] - rays.origins, dim=-1)
        cosine = (towards * rays.directions).sum(-1)
        torch.testing.assert_close(cosine, torch.ones_like(cosine), atol=1e-5, rtol=0)


def test_transform_and_scale_lead_back_to_the_estimators_frame(photos, tmp_path):
    outputs = outputs_for(photos, tmp_path, eval_mode="all")
    back = outputs.transform_poses_to_original_space(
        outputs.cameras.camera_to_worlds, camera_convention="opencv"
    )
    expected = known_scene(tuple("abcdefghi")).world_from_camera[:, :3].float()
    torch.testing.assert_close(back, expected, atol=1e-5, rtol=1e-5)
    assert outputs.cameras.camera_to_worlds[:, :, 3].abs().max() == pytest.approx(1.0)


def test_splits_are_disjoint_and_hold_every_registered_photo(photos, tmp_path):
    train, held_out = (
        {path.name for path in outputs_for(photos, tmp_path, split).image_filenames}
        for split in ("train", "test")
    )
    assert held_out == {"0.png", "8.png"}
    assert train | held_out == {f"{i}.png" for i in range(NUM_PHOTOS - 1)}
    assert not train & held_out


def test_cap_keeps_the_surest_points(photos, tmp_path):
    metadata = outputs_for(photos, tmp_path, max_points=30).metadata
    assert len(metadata["points3D_xyz"]) == len(metadata["points3D_rgb"]) == 30
    assert metadata["points3D_confidence"].min() >= torch.linspace(0, 1, 200)[-30]


def test_turned_and_masked_photos_load_at_the_cameras_size(photos, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(photos / "3.png") as image:
        image.transpose(Image.Transpose.ROTATE_90).save(photos / "3.png", exif=exif)
    (photos / "masks").mkdir()
    Image.new("L", (WIDTH, HEIGHT), 0).save(photos / "masks" / "4.png")
    outputs = outputs_for(photos, tmp_path, eval_mode="all")
    dataset = InputDataset(outputs)
    for i in range(len(dataset)):
        data = dataset.get_data(i)
        assert data["image"].shape == (HEIGHT, WIDTH, 3)
        assert data["mask"].bool().all() == (outputs.image_filenames[i].name != "4.png")


@pytest.mark.parametrize("method", ["3dgs", "splatfacto", "nerfacto"])
def test_every_method_takes_the_dataparser(method, tmp_path):
    config = tyro.cli(
        AnnotatedBaseConfigUnion,
        args=[method, "--data", str(tmp_path), "sfm", "--eval-interval", "5"],
    )
    dataparser = config.pipeline.datamanager.dataparser
    assert isinstance(dataparser, EstimatedDataParserConfig)
    assert dataparser.estimator.name == "sfm"
    assert dataparser.eval_interval == 5


def test_datamanagers_of_nerfstudio_train_on_it(photos, tmp_path):
    """Splatfacto's gives whole photos, nerfacto's rays; both as they are."""
    config = config_for(photos, tmp_path)
    full = FullImageDatamanagerConfig(dataparser=config).setup(device="cpu")
    camera, batch = full.next_train(0)
    assert batch["image"].shape == (int(camera.height), int(camera.width), 3)
    rays = VanillaDataManagerConfig(dataparser=config, train_num_rays_per_batch=64)
    bundle, batch = rays.setup(device="cpu").next_train(0)
    assert len(bundle) == len(batch["image"]) == 64
    assert bundle.directions.isfinite().all()
    assert len(Known.calls) == 1


def test_unusable_photos_end_with_a_message(photos, tmp_path):
    (photos / "5.png").write_bytes(b"not a picture")
    with pytest.raises(SystemExit, match=r"5\.png"):
        outputs_for(photos, tmp_path)
    outputs = outputs_for(photos, tmp_path, "train", skip_unreadable=True, eval_mode="all")
    assert len(outputs.image_filenames) == NUM_PHOTOS - 2


def test_single_camera_has_finite_outputs(tmp_path):
    folder = tmp_path / "two"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", (WIDTH, HEIGHT)).save(folder / name)
    outputs = outputs_for(folder, tmp_path)
    assert outputs.cameras.camera_to_worlds.isfinite().all()
    assert len(outputs.image_filenames) == 1


def test_tracks_of_training_photos_lie_on_the_rays_of_their_cameras(photos, tmp_path, monkeypatch):
    """Points 0 to 29 are seen by views 1, 2 and held-out 0; 30 to 39 by views 1 and 0 alone."""
    lens = torch.tensor([0.1, 0.02, 0, 0, 0.001, -0.002], dtype=torch.float64)

    def estimate(self, photos):
        scene = known_scene(tuple(photo.name for photo in photos))
        scene = replace(scene, distortion=lens.repeat(len(scene), 1))
        views, rows, pixels = [], [], []
        for view, seen in ((0, 40), (1, 40), (2, 30)):
            here = transform_points(
                invert(scene.world_from_camera[view]), scene.points[:seen].double()
            )
            flat = distort(here[:, :2] / here[:, 2:], lens)
            pixels.append(denormalize(flat, scene.intrinsics[view]))
            views += [view] * seen
            rows += range(seen)
        # Far beyond where the polynomial of view 2 rises, no ray leads to a pixel.
        views, rows = [*views, 2], [*rows, 39]
        pixels.append(torch.tensor([[-1e4, 2e4]]).double())
        tracks = Tracks(torch.tensor(rows), torch.tensor(views), torch.cat(pixels))
        return replace(scene, tracks=tracks)

    monkeypatch.setattr(Known, "estimate", estimate)
    outputs = outputs_for(photos, tmp_path)
    tracks = outputs.metadata[TRACKS]
    names = [path.name for path in outputs.image_filenames]
    assert len(tracks.points) == 30 and len(tracks.rays) == 60
    assert {names[row] for row in tracks.photo_index.tolist()} == {"1.png", "2.png"}
    poses = world_from_cameras(outputs.cameras)[tracks.photo_index]
    here = transform_points(invert(poses), tracks.points[tracks.point_index][:, None]).squeeze(1)
    torch.testing.assert_close(here[:, :2] / here[:, 2:], tracks.rays, atol=1e-4, rtol=1e-4)


def test_scene_without_tracks_says_nothing_of_them(photos, tmp_path):
    assert TRACKS not in outputs_for(photos, tmp_path).metadata


def test_points_that_only_held_out_photos_see_start_no_scene(photos, tmp_path, monkeypatch):
    """Point 0 is seen by a training photo, 1 by a held-out one, 2 by both, 3 by none."""

    def estimate(self, photos):
        scene = known_scene(tuple(photo.name for photo in photos))
        held_out = [row for row, name in enumerate(scene.names) if name in ("0.png", "8.png")]
        trained = 3
        assert held_out and trained not in held_out
        tracks = Tracks(
            point_index=torch.tensor([0, 1, 2, 2]),
            view_index=torch.tensor([trained, held_out[0], held_out[1], trained]),
            pixels=torch.rand(4, 2),
        )
        return replace(scene, tracks=tracks)

    monkeypatch.setattr(Known, "estimate", estimate)
    parser = config_for(photos, tmp_path, eval_mode="interval", eval_interval=8).setup()
    for split in ("train", "val"):
        colors = parser.get_dataparser_outputs(split).metadata["points3D_rgb"]
        names = tuple(f"{row}.png" for row in range(NUM_PHOTOS))
        assert torch.equal(colors, known_scene(names).point_colors[[0, 2]])
