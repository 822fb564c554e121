"""Every reader returns the cameras of one rig, written as the format's documentation says.

The writers here know nothing of the readers: poses, axes and lenses follow each format's own text.
"""

import json
import math

import numpy as np
import pytest
import torch

from fm3d_plugins.geometry.cameras import intrinsics_matrix
from fm3d_plugins.geometry.poses import (
    quaternion_wxyz_from_rotation,
    se3_exp,
    so3_log,
)
from fm3d_plugins.io.colmap import write_colmap
from fm3d_plugins.io.ply import write_ply
from fm3d_plugins.io.pose_files.formats import find_pose_files
from fm3d_plugins.io.pose_files.nvm import radial_distortion
from fm3d_plugins.io.transforms import write_transforms
from fm3d_plugins.scene import SceneGeometry, Tracks

LENS = (-0.21, 0.06, 0.013, 0.0, 0.0021, -0.0034)
"""k1, k2, k3, k4, p1, p2 as OpenCV has them."""


def row_of(values):
    return " ".join(repr(float(value)) for value in values)


def opencv_formula(rig, fx, fy, cx, cy, lens=(0.0,) * 6):
    """OpenCV's documented model."""
    k1, k2, k3, k4, p1, p2 = lens

    def pixels(row, x, y):
        r2 = x * x + y * y
        radial = 1 + k1 * r2 + k2 * r2**2 + k3 * r2**3 + k4 * r2**4
        u = x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x)
        v = y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y
        return float(fx[row]) * u + cx, float(fy[row]) * v + cy

    return pixels


def scene_of(rig, lens):
    count = len(rig.names)
    return SceneGeometry(
        names=rig.names,
        image_sizes=torch.tensor([rig.size] * count),
        world_from_camera=rig.poses,
        intrinsics=intrinsics_matrix(rig.focals, rig.focals + 3, *(
            torch.full((count,), value, dtype=torch.float64) for value in rig.middle
        )),
        distortion=torch.tensor([lens] * count, dtype=torch.float64),
        camera_index=torch.arange(count),
        points=rig.points,
        point_colors=rig.colors,
        point_confidence=torch.ones(len(rig.points)),
        tracks=Tracks(
            torch.tensor([2, 3]), torch.tensor([0, 1]), torch.tensor([[5.0, 6], [7, 8]]).double()
        ),
        scale="metric",
    )  # fmt: skip


@pytest.mark.parametrize("lens", [LENS, (0.0,) * 6])
@pytest.mark.parametrize("form", ["transforms", "binary", "text"])
def test_scenes_come_back(rig, expect, form, lens, tmp_path):
    scene = scene_of(rig, lens)
    if form == "transforms":
        write_ply(tmp_path / "points.ply", scene.points, scene.point_colors)
        write_transforms(scene, tmp_path / "transforms.json", ply_file_path="points.ply")
    else:
        write_colmap(scene, tmp_path / "sparse" / "0")
    if form == "text":
        pycolmap = pytest.importorskip("pycolmap")
        model = pycolmap.Reconstruction(tmp_path / "sparse" / "0")
        (tmp_path / "text").mkdir()
        model.write_text(tmp_path / "text")
    found = find_pose_files(tmp_path / "text" if form == "text" else tmp_path).read()
    expect.poses(found, rig)
    expect.pixels(found, rig, opencv_formula(rig, rig.focals, rig.focals + 3, *rig.middle, lens))
    assert len(found.points) >= 2
    if form == "binary":
        assert found.tracks.pixels.tolist() == [[5.0, 6], [7, 8]]
        torch.testing.assert_close(found.points, rig.points)
    assert found.scale == ("metric" if form == "transforms" else "relative")


def bundle_text(rig, opengl, lens):
    """R and t of the camera that looks along -z; the view list of each point is of one view."""
    lines = ["# Bundle file v0.3", f"{len(rig.names) + 1} {len(rig.points)}"]
    for row in range(len(rig.names)):
        camera_from_world = torch.linalg.inv(opengl[row])
        lines.append(row_of([rig.focals[row], *lens]))
        lines += [row_of(camera_from_world[axis, :3]) for axis in range(3)]
        lines.append(row_of(camera_from_world[:3, 3]))
        if row == 0:  # The second photo was not registered.
            lines += ["0 0 0"] * 5
    for point, color in zip(rig.points, rig.colors, strict=True):
        lines += [row_of(point), " ".join(map(str, color.tolist())), "1 0 17 -3.5 2.25"]
    return "\n".join(lines) + "\n"


def test_bundler(rig, opengl, expect, tmp_path):
    k1, k2 = -0.11, 0.03
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "bundle.out").write_text(bundle_text(rig, opengl, (k1, k2)))
    lines = [f"./photos/{name}" for name in rig.names]
    lines[0] += " 0 512.37"
    lines.insert(1, "./photos/lost.jpg")
    (tmp_path / "list.txt").write_text("\n".join(lines), encoding="utf-8")
    found = find_pose_files(tmp_path).read()
    expect.poses(found, rig, [f"./photos/{name}" for name in rig.names])
    assert found.without_pose == ("./photos/lost.jpg",)

    def formula(row, x, y):
        # P = R X + t has y up and z backward: P = (x, -y, -1) of a point at depth 1.
        P = np.stack([x, -y, -np.ones_like(x)])
        p = -P[:2] / P[2]
        r2 = (p**2).sum(0)
        right, up = float(rig.focals[row]) * (1 + k1 * r2 + k2 * r2**2) * p
        return rig.size[0] / 2 + right, rig.size[1] / 2 - up

    expect.pixels(found, rig, formula, rig.size)
    torch.testing.assert_close(found.points, rig.points)
    assert torch.equal(found.point_colors, rig.colors)
    assert bool((found.image_sizes == 0).all())


def nvm_text(rig, inverse, first="NVM_V3"):
    quaternions = quaternion_wxyz_from_rotation(rig.camera_from_world[:, :3, :3])
    lines = [first, "", str(len(rig.names))]
    for row, name in enumerate(rig.names):
        centre = rig.poses[row, :3, 3]
        numbers = row_of([rig.focals[row], *quaternions[row], *centre, inverse])
        lines.append(f"D:\\photos\\{name}\t{numbers} 0")
    lines += ["", str(len(rig.points))]
    for point, color in zip(rig.points, rig.colors, strict=True):
        words = [row_of(point), *map(str, color.tolist()), "1 0 3 1.5 2.5"]
        lines.append(" ".join(words))
    # A smaller model follows, and the end.
    return "\n".join([*lines, "", "1", "x.jpg 9 1 0 0 0 0 0 0 0 0", "0", "", "0", "", "0"]) + "\n"


def test_nvm(rig, expect, tmp_path):
    (tmp_path / "scene.nvm").write_text(nvm_text(rig, 0.0), encoding="utf-8")
    found = find_pose_files(tmp_path).read()
    expect.poses(found, rig, [f"D:\\photos\\{name}" for name in rig.names])
    width, height = rig.size
    expect.pixels(
        found, rig, opencv_formula(rig, rig.focals, rig.focals, width / 2, height / 2), rig.size
    )
    torch.testing.assert_close(found.points, rig.points)
    assert torch.equal(found.point_colors, rig.colors)


def test_nvm_with_a_fixed_calibration(rig, tmp_path):
    text = nvm_text(rig, 0.0, "NVM_V3 FixedK 510.5 331 509.5 236")
    (tmp_path / "scene.nvm").write_text(text, encoding="utf-8")
    found = find_pose_files(tmp_path).read()
    assert found.focals.tolist() == [[510.5, 509.5]] * len(rig.names)
    assert found.principal_points.tolist() == [[331.0, 236.0]] * len(rig.names)


@pytest.mark.parametrize("inverse", [-0.15, -0.05, 0.05, 0.15])
def test_lens_of_nvm_is_undone_by_its_own_formula(inverse):
    """(1 + r1 d²) times what is seen gives back the point; 0.7 focal lengths is a phone's corner.

    0.05 px at a focal length of 1000: what the least squares leave of an inverse that is no
    polynomial, a tenth of the noise of matches.
    """
    k1, k2, k3 = radial_distortion(inverse, 0.7)
    seen = np.linspace(0, 0.7, 1000)
    straight = seen * (1 + inverse * seen**2)
    distorted = straight * (1 + k1 * straight**2 + k2 * straight**4 + k3 * straight**6)
    assert 1000 * np.abs(distorted - seen).max() < 0.05
    # To first order the two directions differ in sign.
    assert k1 == pytest.approx(-inverse, rel=0.1)


def test_lens_of_nvm_that_folds_the_photo_is_refused():
    with pytest.raises(ValueError, match="folds"):
        radial_distortion(-0.8, 0.7)


def test_polycam(rig, opengl, expect, tmp_path):
    for folder, wrong in (("cameras", 1.0), ("corrected_cameras", 0.0)):
        (tmp_path / "keyframes" / folder).mkdir(parents=True)
        for row, name in enumerate(rig.names):
            camera = {f"t_{i}{j}": float(opengl[row, i, j]) for i in range(3) for j in range(4)}
            camera["t_03"] += wrong
            camera |= {
                "fx": float(rig.focals[row]), "fy": float(rig.focals[row]) + 3,
                "cx": rig.middle[0], "cy": rig.middle[1], "width": rig.size[0],
                "height": rig.size[1], "blur_score": 2.5, "timestamp": 12345,
            }  # fmt: skip
            stem = name.removesuffix(".jpg")
            (tmp_path / "keyframes" / folder / f"{stem}.json").write_text(json.dumps(camera))
    (tmp_path / "mesh_info.json").write_text("{}")
    found = find_pose_files(tmp_path).read()
    expect.poses(found, rig, [name.removesuffix(".jpg") for name in rig.names])
    expect.pixels(found, rig, opencv_formula(rig, rig.focals, rig.focals + 3, *rig.middle))
    assert found.scale == "metric"
    assert find_pose_files(tmp_path / "keyframes" / "cameras").read().names == found.names


@pytest.mark.parametrize("per_frame", [False, True])
def test_record3d(rig, opengl, expect, per_frame, tmp_path):
    wxyz = quaternion_wxyz_from_rotation(opengl[:, :3, :3])
    poses = torch.cat([wxyz[:, 1:], wxyz[:, :1], opengl[:, :3, 3]], dim=1)
    cx, cy = rig.middle
    metadata = {
        "poses": poses.tolist(), "K": [700.0, 0, 0, 0, 703.0, 0, cx, cy, 1.0],
        "w": rig.size[0], "h": rig.size[1], "fps": 60, "dw": 192, "dh": 256,
    }  # fmt: skip
    focals = torch.full_like(rig.focals, 700.0)
    if per_frame:
        focals = rig.focals
        metadata["perFrameIntrinsicCoeffs"] = [[float(f), float(f) + 3, cx, cy] for f in focals]
    (tmp_path / "metadata").write_text(json.dumps(metadata))
    found = find_pose_files(tmp_path).read()
    expect.poses(found, rig, ["0.jpg", "1.jpg", "2.jpg", "3.jpg"])
    expect.pixels(found, rig, opencv_formula(rig, focals, focals + 3, cx, cy))


def arkit_frame(rig, opengl, row, layout):
    pose = opengl[row]
    matrix = intrinsics_matrix(
        rig.focals[row], rig.focals[row] + 3, *torch.tensor(rig.middle, dtype=torch.float64)
    )
    if layout == "columns":  # As simd_float4x4 and simd_float3x3 lie in memory.
        pose, matrix = pose.T, matrix.T
    if layout == "rows":
        pose, matrix = pose.flatten(), matrix.flatten()
    return pose.tolist(), matrix.tolist()


@pytest.mark.parametrize("layout", ["rows", "columns", "nested"])
def test_arkit_one_file_per_frame(rig, opengl, expect, layout, tmp_path):
    for row in range(len(rig.names)):
        pose, matrix = arkit_frame(rig, opengl, row, layout)
        frame = {"cameraPoseARFrame": pose, "intrinsics": matrix, "exposureDuration": 0.01}
        (tmp_path / f"frame_{row:05}.json").write_text(json.dumps(frame))
    (tmp_path / "info.json").write_text('{"device": "iPhone"}')
    found = find_pose_files(tmp_path).read()
    expect.poses(found, rig, [f"frame_{row:05}" for row in range(len(rig.names))])
    assert bool((found.image_sizes == 0).all())
    expect.pixels(found, rig, opencv_formula(rig, rig.focals, rig.focals + 3, *rig.middle))


@pytest.mark.parametrize("lens", ["list", "object", "keys"])
def test_arkit_in_plain_words(rig, opengl, expect, lens, tmp_path):
    """A matrix named as a plain transform, and four numbers in the place of a matrix."""
    (tmp_path / "cameras").mkdir()
    for row, name in enumerate(rig.names):
        numbers = [float(rig.focals[row]), float(rig.focals[row]) + 3, *rig.middle]
        named = dict(zip(("fx", "fy", "cx", "cy"), numbers, strict=True))
        told = {"list": {"intrinsics": numbers}, "object": {"intrinsics": named}}.get(lens, named)
        frame = {"transform_matrix": opengl[row].tolist(), "w": 640, "h": 480, **told}
        path = tmp_path / "cameras" / name
        path.with_suffix(".json").write_text(json.dumps(frame))
    found = find_pose_files(tmp_path).read()
    expect.poses(found, rig, [name.removesuffix(".jpg") for name in rig.names])
    expect.pixels(found, rig, opencv_formula(rig, rig.focals, rig.focals + 3, *rig.middle))


@pytest.mark.parametrize("is_object", [False, True])
def test_arkit_all_frames_in_a_list(rig, opengl, expect, is_object, tmp_path):
    frames = []
    for row, name in enumerate(rig.names):
        pose, matrix = arkit_frame(rig, opengl, row, "nested")
        frames.append({"transform": pose, "intrinsics": matrix, "imageName": name,
                       "imageResolution": list(rig.size)})  # fmt: skip
    document = {"frames": frames} if is_object else frames
    (tmp_path / "arkit.json").write_text(json.dumps(document))
    found = find_pose_files(tmp_path).read()
    expect.poses(found, rig)
    assert found.image_sizes.tolist() == [list(rig.size)] * len(rig.names)
    assert found.scale == "metric"


def test_arkitscenes(rig, expect, tmp_path):
    folder = tmp_path / "lowres_wide_intrinsics"
    folder.mkdir()
    turns = so3_log(rig.camera_from_world[:, :3, :3])
    rows, names = [], []
    for row in range(len(rig.names)):
        time = 305.3 + row / 10
        rows.append(row_of([time, *turns[row], *rig.camera_from_world[row, :3, 3]]))
        names.append(f"41069021_{time + 0.0004:.3f}")
        lens = row_of([*rig.size, rig.focals[row], rig.focals[row] + 3, *rig.middle])
        (folder / f"{names[-1]}.pincam").write_text(lens)
    (folder / "41069021_999.000.pincam").write_text(lens)
    (tmp_path / "lowres_wide.traj").write_text("\n".join(rows) + "\n")
    found = find_pose_files(tmp_path).read()
    expect.poses(found, rig, names)
    expect.pixels(found, rig, opencv_formula(rig, rig.focals, rig.focals + 3, *rig.middle))
    assert found.without_pose == ("41069021_999.000",)


def transform_xml(similarity):
    scale, rotation, translation = similarity
    return (
        f'<transform><rotation locked="false">{row_of(rotation.flatten())}</rotation>'
        f'<translation locked="false">{row_of(translation)}</translation>'
        f'<scale locked="false">{scale!r}</scale></transform>'
    )


def metashape_xml(rig, local, chunk="", component="", lens="", suffix=""):
    width, height = rig.size
    cameras = "".join(
        f'<camera id="{row}" sensor_id="0" component_id="0" label="{name.removesuffix(".jpg")}">'
        f"<transform>{row_of(local[row].flatten())}</transform></camera>"
        for row, name in enumerate(rig.names)
    )
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<document version="1.5.0"><chunk label="Chunk 1" enabled="true">
<sensors next_id="2"><sensor id="0" label="cam" type="frame">
<resolution width="{width}" height="{height}"/><property name="fixed" value="0"/>
<calibration type="frame" class="initial">
<resolution width="{width}" height="{height}"/><f>1</f></calibration>
<calibration type="frame" class="adjusted">
<resolution width="{width}" height="{height}"/>{lens}</calibration></sensor>
<sensor id="1" label="unused" type="spherical"/></sensors>
<components next_id="1" active_id="0"><component id="0" label="Component 1">{component}
<partition><camera_ids>0 1 2 3</camera_ids></partition></component></components>
<cameras next_id="5" next_group_id="1"><group id="0" label="g" type="folder">{cameras}</group>
<camera id="4" sensor_id="1" label="lost"><orientation>1</orientation></camera></cameras>
{chunk}</chunk></document>"""


METASHAPE_LENS = {
    "f": 510.0, "cx": 11.5, "cy": -3.75, "b1": 2.5, "k1": -0.21, "k2": 0.06, "k3": 0.013,
    "k4": -0.002, "p1": -0.0034, "p2": 0.0021,
}  # fmt: skip


@pytest.mark.parametrize("place", ["none", "chunk", "component", "both"])
def test_metashape(rig, expect, place, tmp_path):
    """world = s R (camera in the component) + t."""
    scale, move = 3.7, torch.tensor([10.0, -20.0, 5.0], dtype=torch.float64)
    turn = se3_exp(torch.tensor([0, 0, 0, 0.3, -1.1, 0.6], dtype=torch.float64))[:3, :3]
    local = rig.poses.clone()
    if place != "none":
        local[:, :3, :3] = turn.T @ rig.poses[:, :3, :3]
        local[:, :3, 3] = (rig.poses[:, :3, 3] - move) @ turn / scale
    right, wrong = transform_xml((scale, turn, move)), transform_xml((9.0, turn.T, -move))
    values = METASHAPE_LENS
    (tmp_path / "cameras.xml").write_text(
        metashape_xml(
            rig,
            local,
            # Both lead into the world; the component's own is the one of its cameras.
            chunk={"chunk": right, "both": wrong}.get(place, ""),
            component=right if place in ("component", "both") else "",
            lens="".join(f"<{key}>{value!r}</{key}>" for key, value in values.items()),
        ),
        encoding="utf-8",
    )
    found = find_pose_files(tmp_path).read()
    expect.poses(found, rig, [name.removesuffix(".jpg") for name in rig.names])
    assert found.without_pose == ("lost",)
    assert found.scale == ("relative" if place == "none" else "metric")

    def formula(row, x, y):
        v = values
        r2 = x * x + y * y
        radial = 1 + v["k1"] * r2 + v["k2"] * r2**2 + v["k3"] * r2**3 + v["k4"] * r2**4
        x_seen = x * radial + v["p1"] * (r2 + 2 * x * x) + 2 * v["p2"] * x * y
        y_seen = y * radial + v["p2"] * (r2 + 2 * y * y) + 2 * v["p1"] * x * y
        width, height = rig.size
        return (
            width * 0.5 + v["cx"] + x_seen * v["f"] + x_seen * v["b1"],
            height * 0.5 + v["cy"] + y_seen * v["f"],
        )

    expect.pixels(found, rig, formula)


def test_metashape_before_version_1_2_counts_from_the_corner(rig, expect, tmp_path):
    lens = "<fx>510</fx><fy>512</fy><cx>331.5</cx><cy>236.25</cy><k1>-0.1</k1>"
    (tmp_path / "old.xml").write_text(metashape_xml(rig, rig.poses, lens=lens), encoding="utf-8")
    found = find_pose_files(tmp_path).read()
    ones = torch.ones(len(rig.names))
    formula = opencv_formula(rig, 510 * ones, 512 * ones, 331.5, 236.25, (-0.1, 0, 0, 0, 0, 0))
    expect.pixels(found, rig, formula)


def test_a_trace_of_skew_is_passed_over_and_said(rig, tmp_path, capsys):
    """b2 = -0.4 moves the edge of 480 rows by 0.4 * 240 / 500 = 0.19 pixels."""
    lens = "<f>500</f><b2>-0.4</b2>"
    (tmp_path / "a.xml").write_text(metashape_xml(rig, rig.poses, lens=lens), encoding="utf-8")
    find_pose_files(tmp_path).read()
    assert "0.19" in capsys.readouterr().out


def test_gps_positions_are_metres_east_north_up(tmp_path):
    """One minute of latitude is a nautical mile of about 1852 m; of longitude, cos(60°) of that."""
    from fm3d_plugins.io.pose_files.gps import east_north_up

    minute = 1 / 60
    places = torch.tensor(
        [[60, 10, 100], [60 + minute, 10, 100], [60, 10 + minute, 100], [60, 10, 150]],
        dtype=torch.float64,
    )
    first, *others = east_north_up(places)
    north, east, up = (each - first for each in others)
    # On WGS84 at 60 degrees: 1857.0 m along the meridian, 930.3 m along the parallel (radii of
    # curvature 6 384 018 and 6 394 209 m, times 2.9089e-4, with cos 60° for the second).
    assert float(north[1]) == pytest.approx(1857.0, abs=0.5)
    assert float(east[0]) == pytest.approx(930.0, abs=0.5)
    assert float(up[2]) == pytest.approx(50.0, abs=0.01)
    assert float(up[:2].norm()) < 0.02
    assert math.hypot(float(north[0]), float(east[1])) < 0.5


def test_gps_is_read_from_exif(tmp_path):
    from PIL import Image

    folder = tmp_path / "photos"
    folder.mkdir()
    places = {"a.jpg": ("N", "E", 0), "b.jpg": ("S", "W", 1), "c.jpg": None, "d.jpg": "none"}
    for name, place in places.items():
        exif = Image.Exif()
        if place == "none":
            exif[0x8825] = {2: (0.0, 0.0, 0.0), 4: (0.0, 0.0, 0.0)}
        elif place is not None:
            exif[0x8825] = {
                1: place[0], 2: (10.0, 30.0, 36.0), 3: place[1], 4: (20.0, 15.0, 0.0),
                5: bytes([place[2]]), 6: 12.5,
            }  # fmt: skip
        Image.new("RGB", (64, 48)).save(folder / name, exif=exif)
    (folder / "e.jpg").write_bytes(b"no picture")
    from fm3d_plugins.io.pose_files import gps

    assert gps._place(folder / "a.jpg") == pytest.approx((10.51, 20.25, 12.5))
    assert gps._place(folder / "b.jpg") == pytest.approx((-10.51, -20.25, -12.5))
    found = find_pose_files(tmp_path)
    assert found.format.name == "EXIF GPS"
    assert found.read().names == ("a.jpg", "b.jpg")
