"""Equality with what the published data sets and samplers return."""

import json
import random

import pytest
import torch
from safetensors.torch import load_file

from fm3d_plugins.data.evaluation_index import read_evaluation_index
from fm3d_plugins.data.sampling import EndsFirst, InOrder, draw_targets, even_split, random_split
from fm3d_plugins.data.scenes import read_scene, read_scene_list
from fm3d_plugins.data.views import ViewSize, load_views
from fm3d_plugins.lvsm.cameras import normalization

SIZE = 32


@pytest.fixture(scope="module")
def tensors(shared):
    return load_file(shared / "golden" / "lvsm_rayzer_dataset.safetensors")


def read_only_scene(shared, layout, list_name):
    """The paths in these files are relative to a folder above them."""
    folder = shared / "golden" / "lvsm_rayzer_dataset" / layout
    (path,) = read_scene_list(folder / list_name)
    scene = read_scene(path)
    return scene, read_evaluation_index(folder / "evaluation_index.json")[scene.name]


def assert_golden(views, tensors, prefix):
    """Cameras as the published loader normalises them: by all views of the sample."""
    torch.testing.assert_close(views.images, tensors[f"{prefix}.image"], atol=1e-7, rtol=0)
    lenses = views.intrinsics[:, [0, 1, 0, 1], [0, 1, 2, 2]]
    torch.testing.assert_close(lenses, tensors[f"{prefix}.fxfycxcy"], atol=1e-5, rtol=0)
    poses = normalization(views.world_from_camera).apply_to_pose(views.world_from_camera)
    torch.testing.assert_close(poses, tensors[f"{prefix}.c2w"], atol=1e-6, rtol=0)


@pytest.mark.parametrize("is_square", [True, False])
def test_views_of_lvsm_are_the_published_ones(is_square, shared, tensors):
    scene, chosen = read_only_scene(shared, "lvsm", "full_list.txt")
    numbers = [*chosen.context, *chosen.targets]
    prefix = f"lvsm.square_crop_{is_square}"
    assert numbers == tensors[f"{prefix}.index"][:, 0].long().tolist()
    assert_golden(load_views(scene, numbers, ViewSize(SIZE, 8, is_square)), tensors, prefix)


def test_views_of_rayzer_are_the_published_ones(shared, tensors):
    scene, chosen = read_only_scene(shared, "rayzer", "list.txt")
    numbers, context, targets = chosen.in_order()
    assert numbers == tensors["rayzer.index"][:, 0].long().tolist()
    assert context == tensors["rayzer.context_indices"].long().tolist()
    assert targets == tensors["rayzer.target_indices"].long().tolist()
    is_square = tensors["rayzer.image"].shape[-1] == SIZE
    assert_golden(load_views(scene, numbers, ViewSize(SIZE, 8, is_square)), tensors, "rayzer")


def test_views_that_lvsm_draws_are_the_published_ones(shared):
    golden = json.loads((shared / "golden" / "lvsm_sampling_and_lr.json").read_text())
    drawn = dict(golden["view_selector_150_frames_min25_max192_8views_by_random_seed"])
    targets = drawn.pop("target_has_input_sample_seed0 (random.sample(range(8),6) twice)")
    for seed, expected in drawn.items():
        assert EndsFirst().draw(150, random.Random(int(seed))) == expected
    rng = random.Random(0)
    assert [draw_targets(8, 6, rng) for _ in targets] == targets


def test_views_that_rayzer_draws_are_the_published_ones(shared):
    golden = json.loads((shared / "golden" / "rayzer_sampling.json").read_text())
    for step, expected in golden["curriculum_min_max_frame_dist"].items():
        assert list(InOrder().distances(int(step))) == expected
    drawn = next(golden[key] for key in golden if key.startswith("train_view_selector_300_frames"))
    for step, expected in drawn.items():
        published = InOrder(is_sorted=False).draw(300, int(step), random.Random(0))
        assert published == expected
        assert InOrder().draw(300, int(step), random.Random(0)) == sorted(expected)


def test_splits_are_the_published_ones(shared):
    golden = json.loads((shared / "golden" / "rayzer_sampling.json").read_text())
    for counts, expected in golden["even_split_patterns"].items():
        context, targets = even_split(*map(int, counts.partition("=")[2].split("+")))
        assert [context.tolist(), targets.tolist()] == [expected["input"], expected["target"]]
    key = next(key for key in golden if key.startswith("random_split_torch_manual_seed0_b2_v24"))
    generator = torch.Generator().manual_seed(0)
    torch.rand(2, 24, generator=generator)  # drawn there and not used
    for expected in zip(golden[key]["input"], golden[key]["target"], strict=True):
        context, targets = random_split(16, 8, generator)
        assert (context.tolist(), targets.tolist()) == expected
