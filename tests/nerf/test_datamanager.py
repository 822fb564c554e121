"""Which pixels are drawn when, and what is refused."""

import copy

import pytest
import torch
from nerfstudio.configs.method_configs import all_methods

from fm3d_plugins import photo_datamanager


def manager_config(capture, rays=64):
    config = copy.deepcopy(all_methods["nerf"]).pipeline.datamanager
    config.data = capture
    config.train_num_rays_per_batch = rays
    return config


@pytest.fixture(scope="module")
def manager(capture):
    return manager_config(capture).setup(device="cpu", test_mode="val")


def test_same_step_of_another_run_draws_the_same_pixels(manager, capture):
    resumed = manager_config(capture).setup(device="cpu", test_mode="val")
    for step in range(3):
        expected = manager.next_train(step)[1]["indices"]
    assert torch.equal(resumed.next_train(2)[1]["indices"], expected)


def test_other_steps_seeds_and_processes_draw_other_pixels(manager, capture):
    config = manager_config(capture)
    config.pixel_seed = 1
    draws = [
        manager.next_train(10),
        manager.next_train(11),
        config.setup(device="cpu", test_mode="val").next_train(10),
        manager_config(capture)
        .setup(device="cpu", test_mode="val", local_rank=1, world_size=2)
        .next_train(10),
    ]
    assert len({tuple(batch["indices"].flatten().tolist()) for _, batch in draws}) == len(draws)


def test_repeated_calls_with_one_step_draw_other_pixels(manager):
    """ns-export asks for step 0 until it has enough points."""
    first, second = (manager.next_train(0)[1]["indices"] for _ in range(2))
    assert not torch.equal(first, second)


def test_number_of_rays_follows_the_sampler_that_ns_export_sets(manager):
    before = manager.train_pixel_sampler.num_rays_per_batch
    manager.train_pixel_sampler.num_rays_per_batch = 7
    try:
        rays, batch = manager.next_train(0)
    finally:
        manager.train_pixel_sampler.num_rays_per_batch = before
    assert len(rays) == len(batch["image"]) == 7


def test_held_out_pixels_are_of_held_out_photos(manager):
    rays, batch = manager.next_eval(0)
    assert len(rays) == manager.config.eval_num_rays_per_batch
    photo, row, column = batch["indices"][0].tolist()
    expected = manager.eval_dataset[photo]["image"][row, column, :3]
    torch.testing.assert_close(batch["image"][0, :3], expected)


def test_photos_are_not_read_where_nothing_is_trained(capture, monkeypatch):
    config = manager_config(capture)
    manager = config.setup(device="cpu", test_mode="test")
    assert "train_pixels" not in vars(manager)
    manager.next_train(0)
    assert "train_pixels" in vars(manager)


def test_large_photos_are_scaled_down_and_said_so_once(capture, monkeypatch):
    said = []
    monkeypatch.setattr(photo_datamanager.CONSOLE, "print", lambda text, **_: said.append(text))
    config = manager_config(capture)
    config.max_image_size = 48
    manager = config.setup(device="cpu", test_mode="val")
    assert manager.train_pixels.num_pixels == len(manager.train_dataset) * 48 * 36
    assert sum("scaled down from 96 to 48" in text for text in said) == 1


def test_a_folder_that_is_absent_ends_with_one_message(tmp_path):
    config = manager_config(tmp_path / "nowhere")
    with pytest.raises(SystemExit, match="there is no .*nowhere"):
        config.setup(device="cpu", test_mode="val")
