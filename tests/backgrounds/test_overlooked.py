"""Things that no point to start from lies on get points by their outlines and colours."""

import copy
import json

import torch
from nerfstudio.configs.method_configs import all_methods
from PIL import Image

from fm3d_plugins.backgrounds.overlooked import overlooked_points
from fm3d_plugins.backgrounds.regions import grown, small
from fm3d_plugins.backgrounds.still import StillBackground
from fm3d_plugins.dense_points import PosedPhotos
from fm3d_plugins.gaussian_splatting import datamanager
from fm3d_plugins.geometry.cameras import project
from fm3d_plugins.geometry.poses import invert, transform_points
from fm3d_plugins.scene_points import POINTS
from fm3d_plugins.synthetic_rooms.capture import looking_at

HEIGHT, WIDTH, FOCAL = 48, 64, 80.0
RED, BLUE = torch.tensor([0.8, 0.1, 0.1]), torch.tensor([0.1, 0.2, 0.7])
PLATE = torch.cartesian_prod(torch.linspace(-0.6, 0.6, 40), torch.linspace(-0.6, 0.6, 40))
PLATE = torch.nn.functional.pad(PLATE, (0, 1))
ROD = torch.stack([torch.zeros(60), torch.zeros(60), torch.linspace(0.05, 0.5, 60)], -1)
"""A square at z = 0, and a thin rod that stands on its middle."""


def photos_of(*shown):
    """White photos, from around and above, of the plate, and of the rod where it is to be shown."""
    turns = torch.arange(len(shown)) * 0.6
    eyes = [(2.5 * float(turn.cos()), 2.5 * float(turn.sin()), 1.0) for turn in turns]
    poses = torch.stack([looking_at(eye, (0.0, 0.0, 0.2)) for eye in eyes]).float()
    matrix = torch.tensor([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]])
    images = [torch.ones(HEIGHT, WIDTH, 3) for _ in shown]
    for image, pose, has_rod in zip(images, poses, shown, strict=True):
        for points, color in [(PLATE, BLUE), (ROD, RED)][: 1 + has_rod]:
            column, row = project(transform_points(invert(pose), points), matrix).long().unbind(-1)
            image[row, column] = color
    return PosedPhotos(images, matrix.repeat(len(shown), 1, 1), poses, [None] * len(shown))


def backgrounds(photos):
    return [(small(image) == 1).all(-1) for image in photos.images]


def found_in(photos, regions=None, points=PLATE):
    generator = torch.Generator().manual_seed(0)
    return overlooked_points(photos, regions or backgrounds(photos), points, generator)


def distance_to_rod(points):
    above = (points[:, 2:] - points[:, 2:].clamp(0.05, 0.5)).abs()
    return torch.cat([points[:, :2], above], -1).norm(dim=-1)


def test_a_rod_that_no_point_lies_on_gets_points_where_it_stands():
    """A pixel is 2.7 / 80 = 0.034 wide there; rays of pixels that touch the rod pass it by one half
    of that at most, and a ray 0.6 radians aside meets a pixel's width of another along 0.06."""
    points, colors = found_in(photos_of(*[True] * 5))
    assert len(points) > 20
    assert float(distance_to_rod(points).median()) < 0.034
    assert float(distance_to_rod(points).max()) < 0.15
    torch.testing.assert_close(colors, RED.expand_as(colors))


def test_what_one_photo_alone_shows_gets_none():
    points, _ = found_in(photos_of(True, False, False, False))
    assert not len(points)


def test_none_lies_where_another_photo_shows_its_background():
    """The third photo has no rod: before the plate, or nowhere. A pixel aside is not looked at."""
    photos = photos_of(True, True, False)
    points, _ = found_in(photos)
    local = transform_points(invert(photos.world_from_camera[2]), points)
    column, row = project(local, photos.intrinsics[2]).long().unbind(-1)
    assert grown(~backgrounds(photos)[2])[row, column].all()


def test_what_points_lie_on_gets_none():
    """Rows of the rod lie less than a pixel apart."""
    points, _ = found_in(photos_of(*[True] * 5), points=torch.cat([PLATE, ROD]))
    assert not len(points)


def test_what_masks_leave_out_gets_none():
    photos = photos_of(*[True] * 5)
    masks = [torch.zeros(HEIGHT, WIDTH, 1) for _ in photos.images]
    masked = PosedPhotos(photos.images, photos.intrinsics, photos.world_from_camera, masks)
    assert not len(found_in(masked, backgrounds(photos))[0])


def test_without_points_there_are_no_depths_to_try():
    assert not len(found_in(photos_of(*[True] * 5), points=PLATE[:0])[0])


def test_large_photos_are_looked_at_in_the_copies_in_which_regions_are_told():
    """Ten times as large: copies have half as many pixels a side. The plate's points leave pixels
    bare there, which get points of their own colour."""
    photos = photos_of(*[True] * 5)
    images = [image.repeat_interleave(10, 0).repeat_interleave(10, 1) for image in photos.images]
    scale = torch.tensor([[10.0], [10.0], [1.0]])
    large = PosedPhotos(images, photos.intrinsics * scale, photos.world_from_camera, photos.masks)
    assert backgrounds(large)[0].shape == (240, 320)
    points, colors = found_in(large)
    of_rod = points[(colors == RED).all(-1)]
    assert len(of_rod) > 20
    assert float(distance_to_rod(of_rod).median()) < 0.034


def heights_3dgs_starts_at(photos, folder, monkeypatch):
    """Points to start from that lie above the plate, where comparing photos gives the plate."""
    frames = []
    for row, (image, pose) in enumerate(zip(photos.images, photos.world_from_camera, strict=True)):
        Image.fromarray((image * 255).byte().numpy()).save(folder / f"{row}.png")
        opengl = pose @ torch.diag(torch.tensor([1.0, -1, -1, 1]))
        frames.append({"file_path": f"{row}.png", "transform_matrix": opengl.tolist()})
    lens = {"fl_x": FOCAL, "fl_y": FOCAL, "cx": WIDTH / 2, "cy": HEIGHT / 2}
    size = {"w": WIDTH, "h": HEIGHT}
    (folder / "transforms.json").write_text(json.dumps({**lens, **size, "frames": frames}))
    config = copy.deepcopy(all_methods["3dgs"].pipeline.datamanager)
    config.data, parser = folder, config.dataparser
    parser.orientation_method = parser.center_method = "none"
    parser.auto_scale_poses, parser.eval_mode = False, "all"
    plate = PLATE, BLUE.expand_as(PLATE)
    monkeypatch.setattr(datamanager, "dense_points", lambda *_: plate)
    manager = config.setup(device="cpu", test_mode="val")
    points = manager.train_dataparser_outputs.metadata[POINTS]
    return points[points[:, 2] > 0.05]


def test_3dgs_starts_on_them_too(tmp_path, monkeypatch):
    of_rod = heights_3dgs_starts_at(photos_of(*[True] * 5), tmp_path, monkeypatch)
    assert len(of_rod) > 20
    assert float(distance_to_rod(of_rod).median()) < 0.034


def test_3dgs_does_not_before_a_picture_that_stands_still(tmp_path, monkeypatch):
    """There they bring nothing."""
    photos = photos_of(*[True] * 5)
    regions, picture = backgrounds(photos), torch.full((HEIGHT, WIDTH, 3), 255, dtype=torch.uint8)
    still = StillBackground(regions, regions, picture, torch.ones(len(regions)))
    monkeypatch.setattr(datamanager, "find_background", lambda *_: still)
    assert not len(heights_3dgs_starts_at(photos, tmp_path, monkeypatch))
