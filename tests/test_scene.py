"""The hand-over from estimators: saved, loaded, and never unusable; depth finds its photo again."""

import dataclasses
import json

import jaxtyping
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from fm3d_plugins.geometry.pixel_map import PixelMap
from fm3d_plugins.scene import FORMAT, SceneGeometry, Tracks
from fm3d_plugins.view_depth import ViewDepth


def scene(**changes):
    views, points = 3, 5
    intrinsics = torch.eye(3).repeat(views, 1, 1)
    intrinsics[:, 0, 0] = intrinsics[:, 1, 1] = 500.0
    values = dict(
        names=("a.jpg", "ü 照片.jpg", "c.jpg"),
        image_sizes=torch.tensor([[640, 480]] * views),
        world_from_camera=torch.eye(4).repeat(views, 1, 1),
        intrinsics=intrinsics,
        distortion=torch.zeros(views, 6),
        camera_index=torch.arange(views),
        points=torch.rand(points, 3),
        point_colors=torch.zeros(points, 3, dtype=torch.uint8),
        point_confidence=torch.rand(points),
        tracks=Tracks(torch.tensor([0, 4]), torch.tensor([0, 2]), torch.rand(2, 2)),
        scale="metric",
        unregistered=("lost.jpg",),
        provenance={"estimator": "test", "seconds": 1.5},
    )
    return SceneGeometry(**{**values, **changes})


def assert_equal(a, b):
    for entry in dataclasses.fields(a):
        first, second = getattr(a, entry.name), getattr(b, entry.name)
        if isinstance(first, torch.Tensor):
            assert torch.equal(first, second), entry.name
        elif dataclasses.is_dataclass(first):
            assert_equal(first, second)
        else:
            assert first == second, entry.name


def view_depth(views=3, **changes):
    values = dict(
        depth=torch.rand(views, 6, 8).half(),
        confidence=torch.rand(views, 6, 8).half(),
        map_from_photo=PixelMap(torch.full((views, 2), 0.0125), torch.zeros(views, 2)),
    )
    return ViewDepth(**{**values, **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tracks": None},
        {"depth": view_depth()},
        {"depth": view_depth(), "tracks": None},
        {"depth": view_depth(colors=torch.randint(0, 256, (3, 6, 8, 3), dtype=torch.uint8))},
    ],
)
def test_scene_survives_the_disk(tmp_path, changes):
    original = scene(**changes)
    original.save(tmp_path / "scene.safetensors")
    assert_equal(SceneGeometry.load(tmp_path / "scene.safetensors"), original)


def test_what_is_printed_is_a_summary_in_one_line():
    assert repr(scene(camera_index=torch.tensor([0, 0, 1]))) == (
        "SceneGeometry(3 views, 2 cameras, 5 points, scale metric, 2 observations, 1 photos "
        "without a camera, by test)"
    )
    plain = scene(tracks=None, unregistered=(), provenance={})
    assert repr(plain) == "SceneGeometry(3 views, 3 cameras, 5 points, scale metric)"
    assert "depth [3, 6, 8]" in repr(scene(depth=view_depth()))
    assert repr(view_depth()) == "ViewDepth([3, 6, 8] torch.float16)"
    assert repr(scene().tracks) == "Tracks(2 observations)"


def test_points_that_some_views_see_keep_their_tracks():
    """Point 0 is seen by view 0, point 4 by views 2 and 1, the others by none."""
    index, views = torch.tensor([4, 0, 4]), torch.tensor([2, 0, 1])
    original = scene(tracks=Tracks(index, views, torch.arange(6.0).reshape(3, 2)))
    seen = original.seen_from([1, 2])
    assert torch.equal(seen.points, original.points[[4]])
    assert torch.equal(seen.point_confidence, original.point_confidence[[4]])
    assert_equal(
        seen.tracks,
        Tracks(torch.tensor([0, 0]), torch.tensor([2, 1]), torch.tensor([[0.0, 1.0], [4.0, 5.0]])),
    )
    assert len(original.seen_from([]).points) == 0
    untold = scene(tracks=None)
    assert untold.seen_from([0]) is untold


BAD_NAMES = [
    ("../a.jpg", "leads out"),
    ("sub/../../a.jpg", "leads out"),
    ("..", "leads out"),
    ("sub\\..\\..\\a.jpg", "leads out"),
    ("/etc/a.jpg", "absolute"),
    ("//server/a.jpg", "absolute"),
    ("", "empty"),
    (".", "empty"),
    ("./", "empty"),
    ("a\0.jpg", "NUL"),
    ("c.jpg", "is there 2 times"),
    ("./c.jpg", "is there 2 times"),
    ("sub//../c.jpg", "leads out"),
    (".//c.jpg", "is there 2 times"),
    (7, "no text"),
    (None, "no text"),
]


@pytest.mark.parametrize(("name", "message"), BAD_NAMES)
@pytest.mark.parametrize("field", ["names", "unregistered"])
def test_names_that_lead_elsewhere_are_refused(name, message, field, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    values = ("b.jpg", name, "c.jpg") if field == "names" else (name,)
    with pytest.raises(ValueError, match=message):
        scene(**{field: values})


@pytest.mark.parametrize("name", ["..a.jpg", "a..jpg", "sub/..a/b.jpg", "...", "a:b.jpg", "C.jpg"])
def test_names_that_only_look_odd_are_taken(name):
    assert scene(names=("a.jpg", name, "c.jpg")).names[1] == name


@pytest.mark.parametrize(("name", "message"), [row for row in BAD_NAMES if row[0] != "c.jpg"])
def test_names_of_a_file_are_refused_alike(name, message, tmp_path):
    path = tmp_path / "scene.safetensors"
    scene().save(path)
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["scene"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    header["names"][1] = name
    save_file(tensors, path, {"scene": json.dumps(header)})
    with pytest.raises(ValueError, match="scene.safetensors cannot be read as a scene"):
        SceneGeometry.load(path)


def test_foreign_and_damaged_files_are_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="format None"):
        SceneGeometry.load(path)
    path.write_bytes(b"\x00" * 40)
    with pytest.raises(ValueError, match="Delete it"):
        SceneGeometry.load(path)


@pytest.mark.parametrize(
    "header", ["null", "[1]", json.dumps({"format": FORMAT}), "[" * 100_000, '{"format": 3}']
)
def test_headers_of_another_program_are_refused(header, tmp_path):
    path = tmp_path / "scene.safetensors"
    save_file({"points": torch.zeros(1, 3)}, path, {"scene": header})
    with pytest.raises(ValueError, match="Delete it"):
        SceneGeometry.load(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"world_from_camera": torch.full((3, 4, 4), torch.nan)}, "not finite"),
        ({"intrinsics": torch.zeros(3, 3, 3)}, "focal <= 0"),
        ({"camera_index": torch.zeros(2, dtype=torch.long)}, "camera_index has 2 rows"),
        ({"point_confidence": torch.zeros(4)}, "point_confidence has 4 rows"),
        ({"depth": view_depth(2)}, "depth has 2 rows"),
    ],
)
def test_unusable_scenes_are_refused(changes, message, monkeypatch):
    # As at run time: the tests' shape checks would speak first.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match=message):
        scene(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"confidence": torch.rand(3, 6, 7)}, "from the same views"),
        ({"depth": torch.full((3, 6, 8), -1.0)}, "depth has 144 of 144 values"),
        ({"depth": torch.full((3, 6, 8), torch.nan)}, "not finite"),
        ({"confidence": torch.full((3, 6, 8), 1.5)}, "confidence has 144"),
        ({"map_from_photo": PixelMap(torch.zeros(3, 2), torch.zeros(3, 2))}, "scale"),
    ],
)
def test_unusable_depth_is_refused(changes, message, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match=message):
        view_depth(**changes)


def ramp(width, height, scale, offset, map_size):
    """A map whose depth is 10 + x + 100 y with x, y the photo's pixel under each map pixel."""
    columns, rows = map_size
    x = (torch.arange(columns) + 0.5 - offset[0]) / scale[0]
    y = (torch.arange(rows) + 0.5 - offset[1]) / scale[1]
    depth = 10 + x[None] + 100 * y[:, None]
    is_photo = ((x > 0) & (x < width))[None] & ((y > 0) & (y < height))[:, None]
    return ViewDepth(
        depth=torch.where(is_photo, depth, torch.tensor(0.0))[None],
        confidence=is_photo[None].float(),
        map_from_photo=PixelMap(torch.tensor([scale]), torch.tensor([offset])),
    )


@pytest.mark.parametrize(
    ("scale", "offset", "map_size"),
    [
        ((0.5, 0.5), (0.0, 0.0), (20, 15)),  # The whole photo at half its size.
        ((0.5, 0.5), (4.0, 3.0), (28, 21)),  # Padded on all sides.
        ((0.5, 0.4), (-5.0, 0.0), (10, 12)),  # Five map columns cropped left and right.
        ((2.0, 2.0), (0.0, 0.0), (80, 60)),  # Larger than the photo.
    ],
)
@pytest.mark.parametrize("at", ["photo", "map"])
def test_every_pixel_of_the_photo_gets_the_depth_of_what_it_shows(scale, offset, map_size, at):
    """Truth: depth is 10 + x + 100 y, to within the half map pixel that nearest sampling costs."""
    width, height = 40, 30
    maps = ramp(width, height, scale, offset, map_size)
    shape = maps.frame_shape(0, (width, height)) if at == "map" else None
    depth, confidence = maps.in_photo_frame(0, (width, height), shape)
    rows, columns = depth.shape
    if at == "photo":
        assert (rows, columns) == (height, width)
    else:
        assert (rows, columns) == (round(height * scale[1]), round(width * scale[0]))
    x = (torch.arange(columns) + 0.5) * width / columns
    y = (torch.arange(rows) + 0.5) * height / rows
    inside = ((x * scale[0] + offset[0] > 0) & (x * scale[0] + offset[0] < map_size[0]))[None]
    inside = inside.expand(rows, columns)
    assert inside.float().mean() == (0.5 if offset[0] < 0 else 1.0)
    error = (depth - (10 + x[None] + 100 * y[:, None])).abs()
    assert error[inside].max() <= 0.5 / scale[0] + 100 * 0.5 / scale[1] + 1e-3
    if at == "map":  # The same grid: no sampling at all.
        assert error[inside].max() < 1e-3
    assert not depth[~inside].any() and not confidence[~inside].any()
    assert confidence[inside].all()
