"""Every layout gives back the cameras, photos and depth of the scene that was written in it."""

import gzip
import json

import pytest
import torch

from fm3d_plugins.data.frames import load_frames
from fm3d_plugins.data.layouts.blended_mvs import read_camera
from fm3d_plugins.data.layouts.co3d import read_annotations
from fm3d_plugins.data.layouts.layout import Where
from fm3d_plugins.data.layouts.table import found_below
from fm3d_plugins.data.scenes import CapturedScene
from fm3d_plugins.data.view_batch import ViewBatch
from fm3d_plugins.files import read_gzip
from fm3d_plugins.io.raw_depth import read_colmap_depth, read_pfm
from tests.data.written_layouts import (
    HEIGHT,
    NUM_VIEWS,
    WIDTH,
    WITH_DEPTH,
    WRITERS,
    room,
    write_blended_mvs,
    write_co3d,
    write_dl3dv,
    write_nerfstudio,
    write_realestate10k,
)


def only_scene(root) -> CapturedScene:
    ((layout, path),) = found_below(root)
    (scene,) = layout.read(path, Where(root))
    return scene


def agreement(batch: ViewBatch) -> float:
    """Of pixels that lie within the next view, the share whose points both views place alike."""
    shares = []
    for view in range(batch.num_views - 1):
        places, is_seen = batch.correspondences(view, view + 1)
        is_inside = ((places >= 0) & (places < torch.tensor(batch.size[::-1]))).all(-1)
        shares.append(float((is_seen & is_inside).sum() / is_inside.sum()))
    return min(shares)


@pytest.mark.parametrize("name", WRITERS)
def test_layout_gives_back_cameras_photos_and_depth(name, tmp_path):
    truth = room()
    scene = only_scene(WRITERS[name](tmp_path / "first", truth))
    assert scene.name.rsplit("/", 1)[-1] == "first" and len(scene) == NUM_VIEWS
    batch = load_frames(scene, range(NUM_VIEWS), HEIGHT, WIDTH)
    torch.testing.assert_close(batch.world_from_camera, truth.world_from_camera, atol=1e-5, rtol=0)
    torch.testing.assert_close(batch.intrinsics, truth.intrinsics, atol=1e-3, rtol=0)
    # PNG rounds to 1 / 255; JPEG at its best moves some pixels by a few of these.
    tolerance = 16 / 255 if name == "BlendedMVS" else 0.51 / 255
    assert float((batch.images - truth.images).abs().max()) <= tolerance
    assert (batch.depth is not None) == (name in WITH_DEPTH)
    if batch.depth is None or batch.is_valid is None:
        return
    assert bool(batch.is_valid[..., 4:, :].all())
    assert bool(batch.is_valid[..., :4, :].any()) == (not name.startswith("CO3D"))
    # Half precision has 11 bits.
    error = ((batch.depth - truth.depth).abs() / truth.depth)[batch.is_valid]
    assert float(error.max()) < (2**-11 if name.startswith("CO3D") else 1e-6)
    # Rows without depth, and what one view hides from the other.
    assert agreement(batch) > 0.9 * agreement(truth) * (0.85 if name.startswith("CO3D") else 1)


def test_wrong_axes_would_be_seen(tmp_path):
    """Truth: with a camera's y and z turned round, points of one view lie elsewhere in the next."""
    truth = room()
    turned = truth.world_from_camera * torch.tensor([1.0, -1, -1, 1])
    wrong = ViewBatch(truth.images, truth.intrinsics, turned, truth.depth, truth.is_valid)
    assert agreement(truth) > 0.7 and agreement(wrong) < 0.3  # noqa: PLR2004


def test_co3d_camera_worked_out_by_hand(tmp_path):
    """A point one unit to the right, two down and four before a camera at rest at (0, 0, 0).

    In PyTorch3D's camera it is (-1, -2, 4): with the focal length 2 and the principal point
    (0.1, 0.2), it is seen at 2 (-1 / 4, -2 / 4) + (0.1, 0.2) = (-0.4, -0.8). Half the shorter side
    of 80 x 60 pixels is 30: x = 40 + 0.4 * 30 = 52, y = 30 + 0.8 * 30 = 54.
    """
    folder = tmp_path / "apple"
    folder.mkdir()
    frame = {
        "sequence_name": "s", "frame_number": 0,
        "image": {"path": "apple/s/a.jpg", "size": [60, 80]},
        "viewpoint": {
            # World axes are those of the camera in OpenCV's convention: x and y are turned round.
            "R": [[-1, 0, 0], [0, -1, 0], [0, 0, 1]], "T": [0, 0, 0], "focal_length": [2, 2],
            "principal_point": [0.1, 0.2], "intrinsics_format": "ndc_isotropic",
        },
    }  # fmt: skip
    with gzip.open(folder / "frame_annotations.jgz", "wt") as stream:
        json.dump([frame], stream)
    scene = only_scene(tmp_path)
    torch.testing.assert_close(scene.world_from_camera[0], torch.eye(4).double())
    pixel = scene.intrinsics[0] @ torch.tensor([1.0, 2, 4]).double()
    torch.testing.assert_close(pixel[:2] / pixel[2], torch.tensor([52.0, 54.0]).double())


def test_all_scenes_below_a_folder_are_found_in_order(tmp_path):
    for name in ("nerfstudio", "COLMAP", "BlendedMVS", "chunks"):
        WRITERS[name](tmp_path / "many" / name, room())
    (tmp_path / "many" / "round").symlink_to(tmp_path)
    layouts = [layout.name for layout, _ in found_below(tmp_path)]
    assert layouts == ["BlendedMVS", "COLMAP", "pixelSplat's chunks", "nerfstudio or DL3DV"]


def test_photos_of_the_scale_that_is_wanted_are_taken(tmp_path):
    root = write_dl3dv(tmp_path / "scene", room())
    for scale in (1, 2, 8):
        folder = root / ("images" if scale == 1 else f"images_{scale}")
        folder.mkdir()
        (folder / "frame_00000.png").touch()
    ((layout, path),) = found_below(root)
    # At full scale photos have 4 * 36 = 144 rows.
    for side, scale in ((1, 8), (18, 8), (19, 4), (36, 4), (37, 2), (73, 1), (1000, 1)):
        (scene,) = layout.read(path, Where(root, side))
        assert scene.downscale == scale
        assert scene.photos[0].parent.name == ("images" if scale == 1 else f"images_{scale}")


@pytest.mark.parametrize("path", ["../../outside", "/etc", "images/../../../x"])
def test_files_outside_of_the_folder_are_refused(path, tmp_path):
    root = write_nerfstudio(tmp_path / "a" / "scene", room())
    file = root / "transforms.json"
    for key in ("file_path", "depth_file_path"):
        content = json.loads(file.read_text())
        for row, frame in enumerate(content["frames"]):
            frame[key] = f"{path}/{row}.png"
        (root / "b").mkdir(exist_ok=True)
        (root / "b" / "transforms.json").write_text(json.dumps(content))
        ((layout, _),) = found_below(root)
        with pytest.raises(ValueError, match=r"transforms\.json( names the file |: .* leads out)"):
            list(layout.read(root / "b" / "transforms.json", Where(root / "b")))
    co3d = write_co3d(tmp_path / "c", room())
    annotations = co3d / "apple" / "frame_annotations.jgz"
    frames = json.loads(gzip.decompress(annotations.read_bytes()))
    for part, key in (("image", "path"), ("depth", "path"), ("depth", "mask_path")):
        changed = json.loads(json.dumps(frames))
        changed[2][part][key] = path
        annotations.write_bytes(gzip.compress(json.dumps(changed).encode()))
        with pytest.raises(ValueError, match=r"frame_annotations\.jgz names the file"):
            list(read_annotations(annotations, Where(co3d)))


def test_gzip_that_grows_without_bounds_is_refused(tmp_path):
    path = tmp_path / "apple" / "frame_annotations.jgz"
    path.parent.mkdir()
    path.write_bytes(gzip.compress(b"[" + b" " * 50_000_000 + b"]"))
    with pytest.raises(ValueError, match="more than 50 times its own bytes"):
        list(read_annotations(path, Where(tmp_path)))
    path.write_bytes(gzip.compress(b"[1, 2]")[:-6])
    with pytest.raises(ValueError, match=r"frame_annotations\.jgz cannot be decompressed"):
        read_gzip(path)
    path.write_bytes(b"[1, 2]")
    with pytest.raises(ValueError, match="cannot be decompressed"):
        read_gzip(path)


def test_cameras_of_blended_mvs_are_checked(tmp_path):
    write_blended_mvs(tmp_path, room())
    path = tmp_path / "cams" / "00000000_cam.txt"
    text = path.read_text()
    for old, new, message in (
        ("extrinsic", "extrinsics", "are not where they belong"),
        ("0.0 0.0 1.0\n\n", "0.0 0.0 2.0\n\n", "none of a pinhole"),
        ("0.01 128", "0.01", "3 numbers follow"),
        ("0.01 128", "nan 128", "4 finite numbers"),
    ):
        path.write_text(text.replace(old, new))
        with pytest.raises(ValueError, match=rf"00000000_cam\.txt .*{message}"):
            read_camera(path)
    # Of older files the range is a nearest depth and a step.
    path.write_text(text.rsplit("\n", 2)[0] + "\n0.5 0.01\n")
    assert read_camera(path)[2] is None


def test_raw_maps_are_exactly_as_long_as_they_say(tmp_path):
    path = tmp_path / "a.pfm"
    body = torch.arange(6.0).numpy()
    for order, sign in (("<f4", "-1.0"), (">f4", "1.0")):
        path.write_bytes(f"Pf\n3 2\n{sign}\n".encode() + body.astype(order).tobytes())
        assert read_pfm(path).tolist() == [[3, 4, 5], [0, 1, 2]]
    content = path.read_bytes()
    for wrong in (content[:-1], content + b"0", content.replace(b"3 2", b"0 2"), b"PF" + content):
        path.write_bytes(wrong)
        with pytest.raises(ValueError, match=r"a\.pfm"):
            read_pfm(path)
    path.write_bytes(b"3&2&1&" + body.astype("<f4").tobytes())
    assert read_colmap_depth(path).tolist() == [[0, 1, 2], [3, 4, 5]]
    path.write_bytes(b"3&2&3&" + body.astype("<f4").tobytes())
    with pytest.raises(ValueError, match="one channel"):
        read_colmap_depth(path)


def test_clips_without_frames_are_refused(tmp_path):
    root = write_realestate10k(tmp_path / "clip", room())
    text = root / "train" / "clip.txt"
    (root / "frames" / "train" / "clip").rename(root / "elsewhere")
    ((layout, path),) = found_below(root)
    assert path == text
    with pytest.raises(FileNotFoundError, match=r"clip\.txt has no frames"):
        list(layout.read(path, Where(root)))
