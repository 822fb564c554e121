"""The sample capture on disk, read back by other code than wrote it."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from fm3d_plugins.geometry.cameras import project
from fm3d_plugins.geometry.poses import invert, transform_points
from fm3d_plugins.io.transforms import read_transforms
from fm3d_plugins.overwriting import MARKER
from fm3d_plugins.photos.photo_set import find_photos
from fm3d_plugins.synthetic_rooms.capture import (
    DRAFT,
    capture_cameras,
    capture_intrinsics,
    light_room,
    render_views,
    write_sample,
)
from fm3d_plugins.synthetic_rooms.rooms import random_room

NUM_PHOTOS, WIDTH, HEIGHT, SEED = 6, 64, 48, 3


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    folder = tmp_path_factory.mktemp("capture") / "sample"
    write_tiny(folder)
    return folder


def write_tiny(folder, **changes):
    options = {"num_photos": NUM_PHOTOS, "width": WIDTH, "height": HEIGHT, "seed": SEED}
    return write_sample(folder, quality=DRAFT, **(options | changes))


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.*")}


def test_folder_holds_photos_depth_points_cameras_and_a_note(sample):
    names = {str(path.relative_to(sample)) for path in sample.rglob("*.*")}
    frames = range(1, NUM_PHOTOS + 1)
    assert names == (
        {"transforms.json", "points.ply", "README.txt", MARKER}
        | {f"images/frame_{frame:04d}.jpg" for frame in frames}
        | {f"depth/frame_{frame:04d}.png" for frame in frames}
    )
    assert len((sample / "README.txt").read_text().splitlines()) == 3


def test_photos_are_found_plain_and_without_exif(sample):
    """The folder as a whole is what the next command gets: depth maps are no photos."""
    photos = find_photos(sample)
    assert [photo.name for photo in photos] == [f"frame_{i + 1:04d}.jpg" for i in range(NUM_PHOTOS)]
    assert all(photo.is_plain and photo.focal_prior is None for photo in photos)
    assert {(photo.width, photo.height) for photo in photos} == {(WIDTH, HEIGHT)}


def test_cameras_survive_the_file(sample):
    scene = read_transforms(sample)
    cameras = capture_cameras(random_room(SEED), NUM_PHOTOS)
    torch.testing.assert_close(scene.world_from_camera, cameras, rtol=0.0, atol=1e-12)
    expected = capture_intrinsics(WIDTH, HEIGHT).expand(NUM_PHOTOS, 3, 3)
    torch.testing.assert_close(scene.intrinsics, expected, rtol=0.0, atol=1e-9)
    assert expected[0, 0, 2] == WIDTH / 2 and expected[0, 1, 2] == HEIGHT / 2


def test_depth_files_hold_millimetres_of_z(sample):
    room = random_room(SEED)
    cameras = capture_cameras(room, NUM_PHOTOS)
    lit = light_room(room, replace(DRAFT, light_spacing=1.0))
    views = render_views(lit, cameras, capture_intrinsics(WIDTH, HEIGHT), WIDTH, HEIGHT)
    for view, path in enumerate(sorted((sample / "depth").iterdir())):
        with Image.open(path) as image:
            stored = torch.from_numpy(np.array(image).astype(np.float64)) / 1000.0
        # Whole millimetres: off by half of one, and by float32's rounding.
        assert (stored - views.depth[view].double()).abs().max() < 0.5001e-3


def test_every_point_is_what_some_photo_shows_at_its_pixel(sample):
    scene = read_transforms(sample)
    assert len(scene.points) == NUM_PHOTOS * WIDTH * HEIGHT  # fewer than the 50,000 wanted
    per_view = WIDTH * HEIGHT
    for view, name in enumerate(scene.names):
        part = slice(view * per_view, (view + 1) * per_view)
        points = transform_points(invert(scene.world_from_camera[view]), scene.points[part])
        pixels = project(points, scene.intrinsics[view])
        offsets = pixels - (pixels.floor() + 0.5)
        assert offsets.abs().max() < 1e-3  # float32 coordinates of pixel centres
        with Image.open(sample / "images" / name) as image:
            photo = torch.from_numpy(np.array(image).astype(np.float64))
        shown = photo[pixels[:, 1].long(), pixels[:, 0].long()]
        # JPEG at quality 95 moves pixels of fine detail by a few levels; neighbours differ by 20.
        assert (shown - scene.point_colors[part]).abs().mean() < 5.0


def test_larger_captures_are_thinned_to_fifty_thousand_points(tmp_path):
    scene = write_tiny(tmp_path / "sample", num_photos=2, width=200, height=150)
    assert len(scene.points) == 50_000


def test_nerfstudio_reads_cameras_points_and_depth(sample):
    dataparsers = pytest.importorskip("nerfstudio.data.dataparsers.nerfstudio_dataparser")
    from nerfstudio.data.utils.data_utils import get_depth_image_from_path

    config = dataparsers.NerfstudioDataParserConfig(
        data=sample,
        orientation_method="none",
        center_method="none",
        auto_scale_poses=False,
        eval_mode="all",
        load_3D_points=True,
    )
    outputs = config.setup().get_dataparser_outputs("train")
    assert len(outputs.image_filenames) == NUM_PHOTOS
    points = outputs.metadata["points3D_xyz"].double()
    assert len(points) == len(outputs.metadata["points3D_rgb"]) == NUM_PHOTOS * WIDTH * HEIGHT

    # Rays of nerfstudio's own cameras times depth end on the points, in some order.
    rays = outputs.cameras.generate_rays(camera_indices=0)
    depth = get_depth_image_from_path(
        outputs.metadata["depth_filenames"][0],
        HEIGHT,
        WIDTH,
        outputs.metadata["depth_unit_scale_factor"],
    )
    forward = -outputs.cameras.camera_to_worlds[0, :3, 2]
    cosine = (rays.directions * forward).sum(-1, keepdim=True)
    ends = (rays.origins + rays.directions * depth / cosine).reshape(-1, 3).double()
    nearest = torch.cdist(ends, points[: WIDTH * HEIGHT]).amin(1)
    # Half a millimetre of depth, at up to 40 degrees off the axis.
    assert nearest.max() < 0.75e-3


def test_the_same_seed_writes_the_same_bytes(sample, tmp_path):
    write_tiny(tmp_path / "again", num_threads=3)
    assert contents(tmp_path / "again") == contents(sample)


def test_a_folder_that_holds_something_is_refused_and_kept(tmp_path):
    (tmp_path / "sample").mkdir()
    (tmp_path / "sample" / "mine.txt").write_text("keep")
    with pytest.raises(FileExistsError, match="already holds 1 entries"):
        write_tiny(tmp_path / "sample")
    assert list(contents(tmp_path)) == [(tmp_path / "sample/mine.txt").relative_to(tmp_path)]


def test_overwriting_leaves_nothing_of_the_old_folder(tmp_path):
    write_tiny(tmp_path / "sample", num_photos=3)
    write_tiny(tmp_path / "sample", num_photos=2, overwrite=True)
    assert len(list((tmp_path / "sample" / "images").iterdir())) == 2
    assert json.loads((tmp_path / "sample" / "transforms.json").read_text())["w"] == WIDTH


def test_nothing_is_left_after_a_failure(tmp_path):
    def stop(tasks):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_tiny(tmp_path / "sample", track=stop)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wrong", [{"num_photos": 1}, {"width": 16}, {"height": 31}])
def test_a_capture_too_small_to_see_anything_is_refused(tmp_path, wrong):
    with pytest.raises(ValueError, match="at least 2 photos of at least 32 x 32"):
        write_tiny(tmp_path / "sample", **wrong)
    assert list(tmp_path.iterdir()) == []
