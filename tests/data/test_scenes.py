"""Scene files: what is read of them, where their photos are found, and what is refused."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from fm3d_plugins.data.evaluation_index import read_evaluation_index
from fm3d_plugins.data.scenes import read_scene, read_scene_list


def test_cameras_and_photos_of_a_scene(write_scene, write_photo, tmp_path):
    """Truth by hand: a turn about x, whose inverse moves (2, 3, 4) to (-2, 4, -3)."""
    scene = read_scene(write_scene("room.v2"))
    assert scene.name == "room"  # up to the first dot, as evaluation indices name scenes
    assert len(scene) == 3
    expected = torch.tensor([[1.0, 0, 0, -2], [0, 0, -1, 4], [0, 1, 0, -3], [0, 0, 0, 1]])
    torch.testing.assert_close(scene.world_from_camera[2], expected.double())
    expected = torch.tensor([[9.0, 0, 6], [0, 8, 4], [0, 0, 1]])
    torch.testing.assert_close(scene.intrinsics[0], expected.double())
    pixels = write_photo(tmp_path / "same.png", seed=1)
    assert np.array_equal(np.asarray(scene.open(1)), pixels)


def test_both_layouts_give_the_same_scene(write_scene, tmp_path):
    path = write_scene()
    frames = json.loads(path.read_text())["frames"]
    other = tmp_path / "set" / "images" / "room" / "opencv_cameras.json"
    keys = ("fx", "fy", "cx", "cy")
    entries = [
        {"file_path": f"{i:05d}.png", "w2c": frame["w2c"]}
        | dict(zip(keys, frame["fxfycxcy"], strict=True))
        for i, frame in enumerate(frames)
    ]
    other.write_text(json.dumps({"scene_name": "another", "frames": entries}))
    first, second = read_scene(path), read_scene(other)
    assert first.name == second.name == "room"
    assert first.photos == second.photos
    assert first.world_from_camera.equal(second.world_from_camera)
    assert first.intrinsics.equal(second.intrinsics)


def test_moved_data_sets_are_found_by_their_folders(write_scene, tmp_path):
    """The list and the scenes hold absolute paths of where they were made."""
    paths = [write_scene("attic"), write_scene("room")]
    listing = tmp_path / "set" / "full_list.txt"
    listing.write_text("".join(f"{path}\n\n" for path in paths))
    assert read_scene_list(listing) == paths
    shutil.move(tmp_path / "set", tmp_path / "elsewhere")
    moved = read_scene_list(tmp_path / "elsewhere" / "full_list.txt")
    assert moved == [tmp_path / "elsewhere" / "metadata" / path.name for path in paths]
    photos = read_scene(moved[1]).photos
    assert photos[0] == tmp_path / "elsewhere" / "images" / "room" / "00000.png"


def test_a_photo_of_another_scene_is_not_taken_for_a_missing_one(write_scene, write_photo):
    path = write_scene()
    (path.parents[1] / "images" / "room" / "00001.png").unlink()
    write_photo(path.parent / "00001.png")
    write_photo(path.parents[1] / "00001.png")
    with pytest.raises(FileNotFoundError, match=r"lists 3 files but 1 are absent: .*00001\.png"):
        read_scene(path)


def test_windows_paths_are_found_too(write_scene):
    path = write_scene(image_path="D:\\made\\set\\images\\room\\00001.png")
    assert read_scene(path).photos[1].name == "00001.png"


def test_lists_without_scenes_are_refused(tmp_path):
    listing = tmp_path / "list.txt"
    listing.write_text("\n \n")
    with pytest.raises(ValueError, match="lists no scene"):
        read_scene_list(listing)
    listing.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="is no text in UTF-8"):
        read_scene_list(listing)
    listing.write_text("there/is/none.json\n/nor/this.json\n")
    with pytest.raises(FileNotFoundError, match=r"2 are absent: there/is/none\.json, /nor"):
        read_scene_list(listing)


SHEARED = [[1.0, 0.3, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
MIRRORED = [[-1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
PROJECTIVE = [[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]]
NAN = [[float("nan")] * 4] * 4


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"image_path": None}, "frame 1 has neither image_path nor file_path"),
        ({"image_path": 7}, "frame 1 has neither image_path nor file_path"),
        ({"fxfycxcy": None}, "frame 1 has .* as fx, fy, cx, cy; expected 4 numbers"),
        ({"fxfycxcy": [1, 2, 3]}, "frame 1 has .* as fx, fy, cx, cy; expected 4 numbers"),
        ({"fxfycxcy": [10**400] * 4}, "frame 1 has .* as fx, fy, cx, cy; expected 4 numbers"),
        ({"fxfycxcy": [0, 2, 3, 4]}, r"1 of 3 frames have intrinsics .* \(frames 1\)"),
        ({"fxfycxcy": [1, float("inf"), 3, 4]}, r"1 of 3 frames have intrinsics"),
        ({"w2c": None}, "frame 1 has None as w2c; expected 4 x 4 numbers"),
        ({"w2c": [[1, 2], [3]]}, "frame 1 has .* as w2c; expected 4 x 4 numbers"),
        ({"w2c": "identity"}, "frame 1 has 'identity' as w2c"),
        ({"w2c": SHEARED}, r"1 of 3 frames have a pose that no camera has \(frames 1\)"),
        ({"w2c": MIRRORED}, "1 of 3 frames have a pose"),
        ({"w2c": PROJECTIVE}, "1 of 3 frames have a pose"),
        ({"w2c": NAN}, "1 of 3 frames have a pose"),
    ],
)
def test_faults_of_a_frame_are_named(changes, said, write_scene):
    with pytest.raises(ValueError, match=said):
        read_scene(write_scene(**changes))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ("[]", "holds a list"),
        ("{}", "no list `frames` of objects"),
        ('{"frames": []}', "no list `frames` of objects"),
        ('{"frames": [1]}', "no list `frames` of objects"),
    ],
)
def test_files_that_are_no_scenes_are_refused(content, said, tmp_path):
    path = tmp_path / "scene.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=said):
        read_scene(path)


def test_damaged_photos_are_named_when_they_are_opened(write_scene):
    scene = read_scene(write_scene())
    scene.photos[1].write_bytes(scene.photos[1].read_bytes()[:60])
    with pytest.raises(ValueError, match=r"Frame 1 of the scene room .*00001\.png"):
        scene.open(1)


def test_transparent_photos_lie_on_white(write_scene):
    scene = read_scene(write_scene())
    Image.new("RGBA", (12, 8), (255, 0, 0, 51)).save(scene.photos[0])
    assert scene.open(0).getpixel((0, 0)) == (255, 204, 204)  # a fifth of red


def test_evaluation_index_leaves_null_out_and_names_faults(tmp_path):
    path = tmp_path / "index.json"
    path.write_text('{"a": {"context": [9, 2], "target": [4]}, "b": null}')
    (views,) = read_evaluation_index(path).values()
    assert views.in_order() == ([2, 4, 9], [2, 0], [1])
    frames = ("[]", "[1.5]", "[-1]", "[true]", '["1"]', "1")
    for entry in ("3", "{}", *(f'{{"context": [1], "target": {each}}}' for each in frames)):
        path.write_text(f'{{"a": {entry}}}')
        with pytest.raises(ValueError, match="the scene a has"):
            read_evaluation_index(path)
    path.write_text('{"a": null}')
    with pytest.raises(ValueError, match="names no scene with frames"):
        read_evaluation_index(path)
