"""What a run may cost: photos counted by names, steps by photos, gaussians by memory."""

import copy
import json

import pytest
from PIL import Image

from fm3d_plugins.effort import SHARE_OF_MEMORY, Effort, effort_for, minutes_on_cpu, photos_in
from fm3d_plugins.gaussian_splatting.recipe import BYTES_PER_GAUSSIAN
from fm3d_plugins.gaussian_splatting.recipe import recipe_for as gaussians_for
from fm3d_plugins.nerf.recipe import recipe_for as nerf_for


def folder_of(path, count):
    path.mkdir(parents=True)
    for index in range(count):
        Image.new("RGB", (32, 32)).save(path / f"{index}.png")
    return path


def test_photos_are_counted_in_folders_and_scenes(tmp_path):
    assert photos_in(folder_of(tmp_path / "photos", 3)) == 3
    assert photos_in(folder_of(tmp_path / "scene" / "images", 2).parent) == 2
    scene = tmp_path / "posed"
    folder_of(scene / "images", 4)
    file = scene / "transforms.json"
    file.write_text(json.dumps({"frames": [{"file_path": "images/0.png"}]}))
    assert photos_in(scene) == photos_in(file) == 1


@pytest.mark.parametrize("content", ["[]", "{}", "no JSON", '{"frames": 3}'])
def test_what_cannot_be_counted_is_unknown(tmp_path, content):
    (tmp_path / "transforms.json").write_text(content)
    assert photos_in(tmp_path) == 0
    assert photos_in(tmp_path / "absent") == 0
    assert photos_in(None) == 0


@pytest.mark.parametrize("recipe_for", [gaussians_for, nerf_for])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_better_takes_longer_and_given_steps_stay(recipe_for, device):
    steps = [recipe_for(device, None, Effort(quality)).steps for quality in ("fast", "balanced")]
    steps.append(recipe_for(device, None, Effort("best", photos=5_000)).steps)
    assert steps[0] < steps[1] < steps[2]
    assert recipe_for(device, 321, Effort("best", photos=5_000)).steps == 321


@pytest.mark.parametrize("recipe_for", [gaussians_for, nerf_for])
def test_on_a_cpu_many_photos_are_seen_as_often_as_a_hundred(recipe_for):
    few, some, many = (recipe_for("cpu", None, Effort(photos=n)).steps for n in (100, 300, 600))
    assert few == recipe_for("cpu", None).steps
    assert few < some and many == 2 * some


def test_on_a_cpu_few_photos_make_fewer_steps_of_gaussians_but_not_less_than_some():
    steps = {n: gaussians_for("cpu", None, Effort(photos=n)).steps for n in (0, 2, 8, 24, 34)}
    assert steps[0] == steps[34] == 2_000
    assert steps[2] == steps[8] == 700 < steps[24] == 60 * 24
    assert gaussians_for("cpu", 2_000, Effort(photos=8)).steps == 2_000
    assert gaussians_for("cuda", None, Effort(photos=8)).steps == 30_000
    best = gaussians_for("cpu", None, Effort("best", photos=8)).steps
    assert steps[8] < best < gaussians_for("cpu", None, Effort("best")).steps


def test_gaussians_fit_the_memory():
    memory = 100_000_000
    count = gaussians_for("cuda", None, Effort("best", memory=memory)).max_gaussians
    assert 0.9 * SHARE_OF_MEMORY * memory < count * BYTES_PER_GAUSSIAN <= SHARE_OF_MEMORY * memory
    assert gaussians_for("cpu", None, Effort(memory=10**12)).max_gaussians == 60_000


def test_on_a_cpu_what_few_photos_save_in_steps_they_get_in_gaussians_up_to_twice_as_many():
    usual = gaussians_for("cpu", None)
    for photos in (8, 24, 34, 500):
        recipe = gaussians_for("cpu", None, Effort(photos=photos))
        times = recipe.max_gaussians / usual.max_gaussians
        assert 1 <= times <= 2
        assert recipe.num_points == max(30_000, recipe.max_gaussians / 2)
        if photos < 34:  # Rounded to thousands.
            assert times == pytest.approx(min(2, usual.steps / recipe.steps), rel=0.01)
    fast = gaussians_for("cpu", None, Effort("fast"))
    assert fast.num_points == fast.max_gaussians
    # Who asks for a short run gets no more for it.
    assert gaussians_for("cpu", 100).max_gaussians == usual.max_gaussians
    assert gaussians_for("cuda", None, Effort(photos=8)) == gaussians_for("cuda", None)


def test_minutes_are_of_this_machine(monkeypatch):
    monkeypatch.setattr("fm3d_plugins.effort.cores", lambda: 4)
    assert minutes_on_cpu(960.0) == "about 4 minutes on 4 cores"
    monkeypatch.setattr("fm3d_plugins.effort.cores", lambda: 1)
    assert minutes_on_cpu(5.0) == "about 1 minute on 1 core"


@pytest.mark.parametrize("name", ["3dgs", "nerf"])
def test_quality_reaches_the_config_and_options_go_before_it(name, tmp_path):
    from nerfstudio.configs.method_configs import all_methods

    def resolved(**photos):
        config = copy.deepcopy(all_methods[name])
        config.machine.device_type = "cpu"
        config.pipeline.datamanager.data = folder_of(tmp_path / str(len(photos)), 1)
        config.quality = "fast"
        for key, value in photos.items():
            setattr(config.pipeline.datamanager, key, value)
        (sentence,) = config.resolve()[-1:]
        return config, sentence

    config, sentence = resolved()
    recipe_for = gaussians_for if name == "3dgs" else nerf_for
    recipe = recipe_for("cpu", None, Effort("fast"))
    assert config.max_num_iterations == recipe.steps
    assert config.pipeline.datamanager.max_image_size == recipe.image_size
    if name == "3dgs":
        points = gaussians_for("cpu", None, Effort("fast")).num_points
        assert config.pipeline.datamanager.num_random_points == points
    assert "minute" in sentence
    assert resolved(max_image_size=200)[0].pipeline.datamanager.max_image_size == 200


def test_a_gpu_that_is_absent_has_no_memory(monkeypatch, tmp_path):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert effort_for("best", None, "cuda").memory is None
