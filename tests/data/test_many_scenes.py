"""Many captured scenes as a source of batches: filters, report, overlap, and that all follows."""

import json
import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from fm3d_plugins.data.filters import SceneFilters
from fm3d_plugins.data.many_scenes import ManyScenes, find_scenes, name_number, parted
from fm3d_plugins.data.overlap import Frusta, draw_overlapping
from fm3d_plugins.data.scenes import CapturedScene, checked_scene
from fm3d_plugins.data.skipped import Skipped
from fm3d_plugins.geometry.poses import invert, so3_exp
from tests.data.written_layouts import NUM_VIEWS, WRITERS, room, write_nerfstudio

FILTERS = SceneFilters()
SHAPES = [(16, 24), (20, 20)]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A scene in each layout, of another room each."""
    folder = tmp_path_factory.mktemp("data")
    for number, (name, write) in enumerate(WRITERS.items()):
        write(folder / name / f"scene{number}", room(number))
    return folder


def source(folder, seed=0, filters=FILTERS, num_views=3):
    skipped = Skipped()
    found = find_scenes([folder], filters, num_views, SHAPES, skipped)
    return ManyScenes(found, filters, skipped, seed)


def equal(a, b):
    return all(
        torch.equal(getattr(a, name), getattr(b, name))
        for name in ("images", "intrinsics", "world_from_camera", "depth", "is_valid")
    )


def test_batches_mix_scenes_and_follow_from_seed_step_and_worker(data):
    first, second = source(data), source(data)
    assert len(first.scenes) == len(WRITERS) and first.skipped.sentence() == ""
    batch = first.batch(5, 6, 3, 16, 24)
    assert batch.images.shape == (6, 3, 3, 16, 24) and batch.depth is not None
    # Another process that begins at this step sees the same.
    assert equal(batch, second.batch(5, 6, 3, 16, 24))
    assert not equal(batch, first.batch(6, 6, 3, 16, 24))
    assert not equal(batch, first.batch(5, 6, 3, 16, 24, worker=1))
    assert not equal(batch, source(data, seed=1).batch(5, 6, 3, 16, 24))
    # No scene is there twice, and views are in the order of the path.
    lenses = {tuple(each.flatten().tolist()) for each in batch.intrinsics[:, 0]}
    assert len(lenses) == 6
    whole = first.batch(0, len(WRITERS) + 2, 2, 16, 24)
    assert len({tuple(each.flatten().tolist()) for each in whole.intrinsics[:, 0]}) == len(WRITERS)


def test_parts_of_a_batch_are_those_of_the_whole_also_where_scenes_are_broken(data, monkeypatch):
    scenes = source(data)
    usual = ManyScenes.views

    def views(self, each, *arguments):
        return None if each.number % 2 == 0 else usual(self, each, *arguments)

    monkeypatch.setattr(ManyScenes, "views", views)
    assert any(each.number % 2 == 0 for each in scenes.scenes)
    whole = scenes.batch(5, 4, 3, 16, 24)
    for part in (slice(0, 1), slice(1, 4)):
        found = scenes.batch(5, 4, 3, 16, 24, part=part)
        assert torch.equal(found.images, whole.images[part]) and found.first == part.start


def test_every_scene_comes_once_before_one_comes_again(data):
    scenes = source(data)
    order = scenes._order(random.Random(3))
    for _ in range(3):
        names = [next(order).scene.name for _ in scenes.scenes]
        assert sorted(names) == sorted(each.scene.name for each in scenes.scenes)


def test_views_overlap_as_their_depth_says(data):
    batch = source(data).batch(1, 8, 3, 20, 20)
    assert batch.is_valid is not None
    for scene in range(8):
        if bool(batch.is_valid[scene].any()):
            one = batch.of_scenes(slice(scene, scene + 1))
            shares = [
                min(float(one.correspondences(a, b)[1].float().mean()) for b in range(3))
                for a in range(3)
            ]
            assert max(shares) >= FILTERS.min_overlap / 2


def broken(folder, change, seed=0):
    """A nerfstudio scene whose file is changed."""
    write_nerfstudio(folder, room(seed))
    path = folder / "transforms.json"
    content = json.loads(path.read_text())
    change(content["frames"])
    path.write_text(json.dumps(content))


def moved(frames, position):
    for frame in frames:
        matrix = np.array(frame["transform_matrix"])
        matrix[:3, 3] = position(matrix[:3, 3])
        frame["transform_matrix"] = matrix.tolist()


def turned_apart(frames):
    """Each camera a sixth of a turn from the last."""
    for row, frame in enumerate(frames):
        turn = so3_exp(torch.tensor([0.0, 1.4 * row, 0]).double()).numpy()
        matrix = np.array(frame["transform_matrix"])
        matrix[:3, :3] = turn
        frame["transform_matrix"] = matrix.tolist()


FAULTS = {
    "too few usable frames": lambda frames: frames.__delitem__(slice(3, None)),
    "all cameras in one place": lambda frames: moved(frames, lambda _: np.zeros(3)),
    "too little overlap": turned_apart,
    "photos too small": None,
    "cannot be read": lambda frames: frames[2].pop("transform_matrix"),
}


def test_what_is_left_out_is_said_with_its_reason(tmp_path):
    write_nerfstudio(tmp_path / "sound", room())
    for number, change in enumerate(FAULTS.values()):
        if change is not None:
            broken(tmp_path / f"scene {number}", change)

    def small(frames):
        for frame in frames:
            frame |= {"w": 15, "h": 15, "cx": 7, "cy": 7}

    broken(tmp_path / "tiny", small)
    scenes = source(tmp_path)
    assert [each.scene.name for each in scenes.scenes] == ["sound"]
    assert scenes.skipped.counts() == dict.fromkeys(FAULTS, 1)
    sentence = scenes.skipped.sentence()
    assert "\n" not in sentence and "1 scene (all cameras in one place: scene 1)" in sentence
    path = tmp_path / "report.txt"
    scenes.skipped.keep_in(path)
    rows = [line.split("\t") for line in path.read_text().splitlines()]
    assert {row[0] for row in rows} == set(FAULTS) and all(len(row) == 3 for row in rows)
    assert any("no matrix" in row[2] for row in rows)
    # What is found later is added.
    scenes.skipped.scene("sound", "cannot be read", "two\nlines\tand tabs")
    assert "cannot be read\tsound\ttwo lines and tabs" in path.read_text().splitlines()


def test_frames_are_left_out_by_themselves(tmp_path):
    def change(frames):
        frames[0]["fl_x"] = frames[0]["fl_y"] = 2.0
        frames[1]["transform_matrix"][0][3] = 1e6
        (tmp_path / "a" / frames[2]["file_path"]).unlink()
        (tmp_path / "a" / frames[3]["depth_file_path"]).unlink()

    broken(tmp_path / "a", change)
    strict = replace(FILTERS, min_frames=2, require_depth=True)
    scenes = source(tmp_path, filters=strict, num_views=2)
    assert len(scenes.scenes[0].scene) == NUM_VIEWS - 4 == len(scenes.scenes[0].frusta.depth)
    assert scenes.skipped.frame_counts() == {
        "focal length or principal point": 1, "photo absent": 1, "no depth": 1,
        "camera far from the others": 1,
    }  # fmt: skip
    with pytest.raises(ValueError, match=r"No scene in .*1 were found.*too few usable frames: a"):
        source(tmp_path, filters=replace(strict, min_frames=3))


def test_damaged_photos_give_their_place_to_other_scenes_and_the_same_ones_always(tmp_path):
    for number in range(4):
        write_nerfstudio(tmp_path / f"s{number}", room(number))
    for path in (tmp_path / "s2" / "images").iterdir():
        path.write_bytes(path.read_bytes()[:200])
    scenes = source(tmp_path)
    batch = scenes.batch(0, 4, 3, 16, 24)
    assert len(batch) == 4 and scenes.skipped.counts() == {"cannot be read": 1}
    assert "s2" in scenes.skipped.sentence()
    # By itself what was found before changes nothing.
    assert equal(scenes.batch(3, 4, 3, 16, 24), source(tmp_path).batch(3, 4, 3, 16, 24))
    for number in (0, 1, 3):
        for path in (tmp_path / f"s{number}" / "images").iterdir():
            path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"scenes that were drawn for step 0, 0 can be used"):
        scenes.batch(0, 2, 3, 16, 24)
    assert list(scenes.each(3, 16, 16)) == []


def test_scenes_are_parted_by_their_names_alone(data, tmp_path):
    scenes = source(data).scenes
    training, held_out = parted(scenes, 0.4)
    names = [each.scene.name for each in held_out]
    assert len(training) + len(held_out) == len(scenes)
    # Without one of the others, and from another folder, a scene stays on its side.
    fewer, still_out = parted(scenes[1:], 0.4)
    assert {e.scene.name for e in still_out} == set(names) - {scenes[0].scene.name}
    assert name_number("a/b/scene") == name_number("scene") != name_number("scene2")
    shares = [name_number(f"scene {n}") / 2**32 for n in range(2000)]
    # Uniform: 100 of 2000 below 0.05 with a standard deviation of 9.7.
    assert abs(sum(share < 0.05 for share in shares) - 100) < 40
    with pytest.raises(ValueError, match=r"0 of 8 scenes are held out .* to from above 0\."):
        parted(scenes, 1e-6)
    with pytest.raises(ValueError, match="is the only scene"):
        parted(scenes[:1], 0.5)


def test_absent_and_empty_folders_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere is absent; expected a folder of scenes"):
        source(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="0 were found"):
        source(tmp_path)
    with pytest.raises(ValueError, match="shares from 0"):
        source(tmp_path, filters=replace(FILTERS, min_overlap=1.0))


def cameras(positions, turns=None) -> CapturedScene:
    """Looking along z, 90 degrees wide, at things 10 units away."""
    count = len(positions)
    pose = torch.eye(4).double().repeat(count, 1, 1)
    pose[:, :3, 3] = torch.tensor(positions).double()
    if turns is not None:
        angles = torch.deg2rad(torch.tensor(turns).double())
        pose[:, :3, :3] = so3_exp(torch.stack([0 * angles, angles, 0 * angles], -1))
    lens = torch.tensor([[0.5, 0.5, 0.5, 0.5]]).double().expand(count, 4)
    scene = checked_scene(
        "a", [b""] * count, lens, invert(pose), None or __import__("pathlib").Path()
    )
    return replace(scene, typical_depth=torch.full((count,), 10.0))


def test_overlap_is_the_share_of_the_image_that_is_seen():
    """At 10 units, 20 units are seen: 5 to the side leave three quarters, 20 nothing."""
    scene = cameras([[0.0, 0, 0], [5, 0, 0], [20.1, 0, 0], [0, -10, 0], [0, 0, 0]])
    shared = Frusta.of(scene, torch.ones(5, 2)).shared(0)
    assert shared.tolist() == [1, 0.75, 0, 0.5, 1]


def test_cameras_that_look_elsewhere_share_nothing():
    scene = cameras([[0.0, 0, 0]] * 4, [0.0, 30.0, 89.0, 180.0])
    shared = Frusta.of(scene, torch.ones(4, 2)).shared(0)
    assert shared[0] == 1 and 0.3 < float(shared[1]) < 1
    assert shared[2:].tolist() == [0, 0]
    # From two sides of a thing 10 units away the same place is seen, but another surface.
    opposite = cameras([[0.0, 0, 0], [0, 0, 20]], [0.0, 180.0])
    assert Frusta.of(opposite, torch.ones(2, 2)).shared(0).tolist() == [1, 0]


def test_drawn_frames_share_enough_with_the_first():
    scene = cameras([[2.0 * x, 0, 0] for x in range(30)])
    frusta = Frusta.of(scene, torch.ones(30, 2))
    for seed in range(20):
        drawn = draw_overlapping(frusta, 4, 0.5, random.Random(seed))
        assert drawn is not None
        numbers, anchor = drawn
        # Half of 20 units: five frames to either side, and a column of the grid.
        assert numbers == sorted(set(numbers)) and len(numbers) == 4
        assert max(abs(number - numbers[anchor]) for number in numbers) <= 5
    assert draw_overlapping(frusta, 30, 0.5, random.Random(0)) is None
