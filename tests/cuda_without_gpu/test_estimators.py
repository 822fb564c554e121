"""`vggt` and `dust3r` on the pretended device: photos to cameras, and what runs are planned with.

Networks are small and random: what they see means nothing, but must be the same on both devices.
"""

import numpy as np
import pytest
import torch
from PIL import Image

from fm3d_plugins.checkpoints import locate
from fm3d_plugins.dust3r.inference import (
    PAIRS_AT_ONCE_CUDA,
    PhotoEncodings,
    decode_pairs,
    load_network,
    photo_descriptors,
)
from fm3d_plugins.estimators.dense.seen_photos import SeenPhotos
from fm3d_plugins.estimators.dust3r.estimator import Dust3r
from fm3d_plugins.estimators.stages import Stages
from fm3d_plugins.estimators.vggt.estimator import Vggt
from fm3d_plugins.memory import available_memory
from fm3d_plugins.nn.planning import choose_precision, measured_speed
from fm3d_plugins.photos.photo_set import find_photos

COUNT = 4


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FM3D_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def photos(tmp_path):
    """Photos of noise."""
    folder = tmp_path / "photos"
    folder.mkdir()
    noise = np.random.default_rng(0)
    for number in range(COUNT):
        pixels = noise.integers(0, 256, (60, 80, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return find_photos(folder)


def vggt(weights, **options):
    return Vggt(**{"weights": str(weights), "resolution": 56, "drop_sky": False} | options)


def dust3r(weights, **options):
    return Dust3r(**{"weights": str(weights), "resolution": 64, "drop_sky": False} | options)


@pytest.fixture(params=["vggt", "dust3r"])
def estimator(request, vggt_weights, dust3r_weights):
    """Makes one of the two."""
    if request.param == "vggt":
        return lambda **options: vggt(vggt_weights, **options)
    return lambda **options: dust3r(dust3r_weights, **options)


def test_scenes_of_vggt_are_those_of_a_cpu_and_lie_there(cuda, vggt_weights, photos):
    first, second = (
        vggt(vggt_weights, device=device, precision="float32").estimate(photos)
        for device in ("cuda", "cpu")
    )
    for name in ("world_from_camera", "intrinsics", "points", "point_confidence"):
        found, expected = getattr(first, name), getattr(second, name)
        assert not found.is_cuda
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_pairs_of_dust3r_are_those_of_a_cpu(cuda, dust3r_weights, photos, tmp_path):
    """Photos are paired by the likeness of their tokens. What follows reads pairs from files."""
    stores = []
    for device in ("cuda", "cpu"):
        folder = tmp_path / device
        folder.mkdir()
        seeing = dust3r(dust3r_weights, device=device, precision="float32", pairs="retrieval-1")
        canvases = seeing.canvases([(photo.width, photo.height) for photo in photos])
        seen = SeenPhotos(photos, canvases, drop_sky=False)
        stores.append(list(seeing._see(seen, folder, Stages())))
    assert len(stores[0]) == len(stores[1]) >= 6
    for found, expected in zip(*stores, strict=True):
        assert (found.first, found.second) == (expected.first, expected.second)
        torch.testing.assert_close(found.points_first, expected.points_first, atol=5e-3, rtol=5e-3)


def test_bfloat16_is_chosen_by_itself(cuda, vggt_weights, photos, capsys):
    scene = vggt(vggt_weights).estimate(photos)
    assert "on cuda in bfloat16" in capsys.readouterr().out
    assert len(scene) == COUNT


@pytest.mark.parametrize("capability, expected", [((9, 0), "bfloat16"), ((7, 5), "float16")])
def test_precision_follows_the_age_of_the_gpu(cuda, monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert choose_precision("auto", torch.device("cuda")) == expected
    assert choose_precision("float32", torch.device("cuda")) == "float32"


def test_speed_is_measured_after_each_step_has_ended(cuda, monkeypatch):
    """Calls return before the device is done: without waiting the speed is that of launching."""
    ends = []
    monkeypatch.setattr(torch.cuda, "synchronize", ends.append)
    speed = measured_speed.__wrapped__("float32", torch.device("cuda"))
    assert speed.products > 0 and speed.attention > 0
    assert set(ends) == {torch.device("cuda")}


def test_memory_is_what_the_driver_has_left(cuda, estimator, photos, monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (3 << 30, 80 << 30))
    assert available_memory(torch.device("cuda")) == 3 << 30
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (50 << 20, 80 << 30))
    with pytest.raises(ValueError, match=r"at once in \w+, but 0.0 GiB"):
        estimator().estimate(photos)


def test_photos_that_do_not_fit_together_are_seen_in_chunks(cuda, vggt_weights, monkeypatch):
    """Nine tenths of what is free is planned with: here, what two photos take and a little more."""
    sizes = [(80, 60)] * COUNT
    needed = vggt(vggt_weights)._prepare(sizes[:2])[1].bytes
    free = int(needed / 0.9) + 1000
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 80 << 30))
    network, plan, _ = vggt(vggt_weights)._prepare(sizes)
    assert plan.at_once == 2
    assert next(network.parameters()).is_cuda


def test_pairs_are_decoded_on_the_device_and_kept_on_the_cpu(cuda, dust3r_weights):
    network = load_network(locate(str(dust3r_weights)), torch.bfloat16, torch.device("cuda"))
    assert all(parameter.is_cuda for parameter in network.parameters())
    encodings = PhotoEncodings(network, lambda row: torch.rand(3, 32, 48), kept=1)
    assert encodings.photos_at_once == PAIRS_AT_ONCE_CUDA
    assert encodings.of([0, 1]).tokens.is_cuda
    assert not any(tokens.is_cuda for tokens in encodings._tokens.values())
    assert not photo_descriptors(encodings, [0, 1]).is_cuda
    for _, _, pair in decode_pairs(encodings, [(0, 1), (1, 0)]):
        assert not any(values.is_cuda for values in vars(pair).values())
