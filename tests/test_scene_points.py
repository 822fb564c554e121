"""Points of posed scenes: from our own readers, in one form, whatever the file holds."""

import copy
import json
import shutil
from dataclasses import replace

import jaxtyping
import pytest
import torch
from nerfstudio.configs.method_configs import all_methods
from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

from fm3d_plugins.gaussian_splatting.seeding import gaussians_at
from fm3d_plugins.geometry.alignment import Similarity
from fm3d_plugins.geometry.poses import so3_exp
from fm3d_plugins.io.colmap import write_colmap
from fm3d_plugins.io.ply import read_ply, write_ply
from fm3d_plugins.io.transforms import read_transforms
from fm3d_plugins.scene_points import byte_colors, settle_points
from fm3d_plugins.synthetic_rooms.capture import DRAFT, write_sample

RANDOM_POINTS = 300


@pytest.fixture(scope="module")
def capture(tmp_path_factory):
    folder = tmp_path_factory.mktemp("capture") / "sample"
    write_sample(folder, num_photos=9, width=64, height=48, quality=DRAFT, num_threads=1)
    write_colmap(read_transforms(folder), folder / "colmap/sparse/0")
    return folder


@pytest.fixture
def scene(capture, tmp_path):
    shutil.copytree(capture, tmp_path / "scene")
    return tmp_path / "scene"


def ply_of(scene):
    return next(scene.glob("*.ply"))


def opened(folder, dataparser=None, method="3dgs", dense_points=False):
    config = copy.deepcopy(all_methods[method].pipeline.datamanager)
    config.data = folder
    if method == "3dgs":
        config.num_random_points, config.dense_points = RANDOM_POINTS, dense_points
    if dataparser is not None:
        config.dataparser = dataparser
    manager = config.setup(device="cpu", test_mode="val")
    metadata = manager.train_dataparser_outputs.metadata
    return metadata.get("points3D_xyz"), metadata.get("points3D_rgb")


def write_text_ply(path, kind, colors):
    """As tools write them by hand: text, colours of some type or none."""
    points = read_ply(path).points[: len(colors)].tolist()
    header = "ply\nformat ascii 1.0\n" + f"element vertex {len(points)}\n"
    header += "".join(f"property float {axis}\n" for axis in "xyz")
    if kind is not None:
        header += "".join(f"property {kind} {name}\n" for name in ("red", "green", "blue"))
    rows = (
        " ".join(map(str, (*point, *(color if kind else ()))))
        for point, color in zip(points, colors, strict=True)
    )
    path.write_text(header + "end_header\n" + "\n".join(rows) + "\n")


HALF_RED = [(0.5, 0.0, 1.0)] * 40


@pytest.mark.parametrize(
    ("kind", "colors", "expected"),
    [
        (None, HALF_RED, (128, 128, 128)),
        ("float", HALF_RED, (128, 0, 255)),
        ("double", HALF_RED, (128, 0, 255)),
        ("float", [(128.0, 0.0, 255.0)] * 40, (128, 0, 255)),
        ("uchar", [(128, 0, 255)] * 40, (128, 0, 255)),
        ("ushort", [(32896, 0, 65535)] * 40, (128, 0, 255)),
        ("int", [(128, 0, 255)] * 40, (128, 0, 255)),
    ],
)
def test_colours_of_a_ply_start_the_gaussians_whatever_their_type(scene, kind, colors, expected):
    """Truth: half of the range is 128 of 255; what has no colour is grey."""
    write_text_ply(ply_of(scene), kind, colors)
    points, rgb = opened(scene)
    assert len(points) == len(rgb) == 40
    assert rgb.dtype == torch.uint8
    assert rgb.unique(dim=0).tolist() == [list(expected)]


def test_a_scene_without_colours_is_trained(scene, tmp_path, train_run):
    """The tensors of a scene without colours were read past their end."""
    write_text_ply(ply_of(scene), None, HALF_RED)
    config = copy.deepcopy(all_methods["3dgs"])
    config.pipeline.datamanager.data = scene
    config.pipeline.datamanager.dense_points = False
    config.output_dir, config.max_num_iterations, config.vis = tmp_path / "runs", 2, "tensorboard"
    config.viewer.quit_on_train_completion = True
    config.logging.local_writer.enable = False
    config.set_timestamp()
    losses = []
    model = train_run(config, losses).pipeline.model
    assert len(model.features_dc) == len(model.means) >= 40
    assert torch.tensor(losses).isfinite().all()


def test_no_points_mean_a_random_start(scene):
    folder = scene / "colmap/sparse/0"
    write_colmap(_without_points(read_transforms(scene)), folder, overwrite=True)
    assert len(opened(scene, ColmapDataParserConfig())[0]) == RANDOM_POINTS
    write_ply(ply_of(scene), torch.empty(0, 3), torch.empty(0, 3, dtype=torch.uint8))
    assert len(opened(scene)[0]) == RANDOM_POINTS
    assert opened(scene, method="nerf")[0] is None


def _without_points(geometry):
    return replace(
        geometry,
        points=geometry.points[:0],
        point_colors=geometry.point_colors[:0],
        point_confidence=geometry.point_confidence[:0],
        tracks=None,
    )


def test_an_empty_text_model_means_a_random_start(scene):
    folder = scene / "colmap/sparse/0"
    geometry = read_transforms(scene)
    for path in folder.glob("*.bin"):
        path.unlink()
    (folder / "cameras.txt").write_text("1 PINHOLE 64 48 60 60 32 24\n")
    names = (f"{i + 1} 1 0 0 0 {i} 0 0 1 {name}\n\n" for i, name in enumerate(geometry.names))
    (folder / "images.txt").write_text("".join(names))
    (folder / "points3D.txt").write_text("# 3D point list\n")
    parser = ColmapDataParserConfig(images_path=_photos_folder(scene, geometry))
    assert len(opened(scene, parser)[0]) == RANDOM_POINTS


def _photos_folder(scene, geometry):
    return next(p for p in (scene / "images", scene) if (p / geometry.names[0]).is_file())


@pytest.mark.parametrize("kind", [NerfstudioDataParserConfig, ColmapDataParserConfig])
def test_points_lie_where_nerfstudios_own_reader_puts_them(capture, kind):
    """Oracle: nerfstudio's dataparser as it is, for bytes, which it reads rightly."""
    options = {} if kind is ColmapDataParserConfig else {"load_3D_points": True}
    found = opened(capture, kind(**options))
    parser = kind(**options, data=capture).setup()
    metadata = parser.get_dataparser_outputs("train").metadata
    torch.testing.assert_close(found[0], metadata["points3D_xyz"], atol=1e-5, rtol=1e-5)
    # Open3D's bytes are cut off, not rounded.
    difference = found[1].int() - metadata["points3D_rgb"].int()
    assert difference.abs().max() <= 1


def test_few_points_are_filled_up_with_those_that_photos_agree_on(scene):
    """The scene's own come first; the rest of `num_random_points` is shared by all photos."""
    write_text_ply(ply_of(scene), "uchar", [(128, 0, 255)] * 40)
    own, _ = opened(scene)
    points, rgb = opened(scene, dense_points=True)
    assert torch.equal(points[:40], own)
    assert 40 < len(points) == len(rgb) <= RANDOM_POINTS
    assert rgb[40:].unique(dim=0).shape[0] > 1


def without_ply(scene):
    path = scene / "transforms.json"
    content = json.loads(path.read_text())
    del content["ply_file_path"]
    path.write_text(json.dumps(content))


def test_points_of_a_colmap_model_beside_are_those_of_the_ply(scene, capsys):
    """Both hold the same points in the same world, so the same frame must come of them."""
    expected = opened(scene)
    without_ply(scene)
    found = opened(scene)
    torch.testing.assert_close(found[0], expected[0], atol=1e-5, rtol=1e-5)
    assert torch.equal(found[1], expected[1])
    assert "left out" not in capsys.readouterr().out


def test_nothing_is_said_of_points_for_a_photo_that_is_held_out(scene, capsys):
    """Its one camera tells no frame; points are of training cameras, and told of once."""
    without_ply(scene)
    parser = NerfstudioDataParserConfig(eval_mode="interval", eval_interval=9, load_3D_points=True)
    assert len(opened(scene, parser)[0]) > RANDOM_POINTS
    assert "left out" not in capsys.readouterr().out
    shutil.rmtree(scene / "colmap")
    opened(scene, parser)
    assert capsys.readouterr().out.count("has no points") == 1


def test_a_model_in_another_world_is_brought_into_that_of_the_scene(scene, capsys):
    """Turned by 90 degrees about x, three times as large and elsewhere, and nothing says so.

    For such scenes nothing is read from `applied_transform`, which nerfstudio guesses where it is
    absent.
    """
    expected, known = opened(scene), read_transforms(scene)
    without_ply(scene)
    turn = torch.tensor([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]], dtype=torch.float64)
    world = Similarity(torch.tensor(3.0).double(), turn, torch.tensor([5.0, -2.0, 1.0]).double())
    moved = replace(
        known,
        world_from_camera=world.apply_to_pose(known.world_from_camera),
        points=world.apply(known.points.double()),
    )
    write_colmap(moved, scene / "colmap/sparse/0", overwrite=True)
    content = json.loads((scene / "transforms.json").read_text())
    del content["applied_transform"]
    (scene / "transforms.json").write_text(json.dumps(content))
    found = opened(scene)
    torch.testing.assert_close(found[0], expected[0], atol=1e-4, rtol=1e-4)
    assert "left out" not in capsys.readouterr().out


@pytest.mark.parametrize("fault", ["shifted", "turned"])
def test_points_of_other_cameras_are_left_out(scene, capsys, fault):
    """Every other camera stands elsewhere, or every camera looks elsewhere."""
    without_ply(scene)
    known = read_transforms(scene)
    moved = known.world_from_camera.clone()
    if fault == "shifted":
        moved[::2, 0, 3] += 0.3
    else:
        axes = torch.eye(3, dtype=moved.dtype)
        turns = so3_exp(0.1 * axes[torch.arange(len(moved)) % 3])
        moved[:, :3, :3] = moved[:, :3, :3] @ turns
    write_colmap(replace(known, world_from_camera=moved), scene / "colmap/sparse/0", overwrite=True)
    assert len(opened(scene)[0]) == RANDOM_POINTS
    assert "are not those of the scene" in " ".join(capsys.readouterr().out.split())


def test_points_that_are_not_finite_are_left_out():
    points = torch.arange(12.0).reshape(4, 3)
    points[1, 2], points[3, 0] = torch.nan, torch.inf
    metadata = {"points3D_xyz": points, "points3D_confidence": torch.arange(4.0)}
    settle_points(metadata)
    assert metadata["points3D_xyz"].tolist() == [[0, 1, 2], [6, 7, 8]]
    assert metadata["points3D_confidence"].tolist() == [0, 2]
    assert metadata["points3D_rgb"].shape == (2, 3)


@pytest.mark.parametrize(
    ("points", "colors"),
    [
        (torch.zeros(4, 2), None),
        (torch.zeros(12), None),
        (torch.zeros(4, 3), torch.zeros(3, 3, dtype=torch.uint8)),
        (torch.zeros(4, 3), torch.zeros(4, 4, dtype=torch.uint8)),
        (torch.zeros(4, 3), torch.full((4, 3), 256)),
        (torch.zeros(4, 3), torch.full((4, 3), -0.1)),
        (torch.zeros(4, 3), torch.full((4, 3), torch.nan)),
    ],
)
def test_points_and_colours_that_do_not_agree_are_refused(points, colors):
    with pytest.raises(ValueError, match="Expected"):
        settle_points({"points3D_xyz": points, "points3D_rgb": colors})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64, torch.uint8])
def test_colours_of_any_number_type_become_bytes(dtype):
    top = 1.0 if dtype.is_floating_point else 255
    colors = torch.tensor([[0, top, 0], [top, 0, top]], dtype=dtype)
    assert byte_colors(colors, 2).tolist() == [[0, 255, 0], [255, 0, 255]]


def test_colours_of_other_points_start_no_gaussians(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match=r"colours \[0, 3\]"):
        gaussians_at(torch.rand(5, 3), torch.zeros(0, 3, dtype=torch.uint8), 0)
