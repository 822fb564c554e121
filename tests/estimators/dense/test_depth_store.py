import pytest
import torch

from fm3d_plugins.estimators.dense.depth_store import DepthStore
from fm3d_plugins.geometry.pixel_map import PixelMap

MAP = PixelMap(torch.ones(1, 2), torch.zeros(1, 2))


@pytest.mark.parametrize("unit", [1e-6, 1.0, 3e7])
@pytest.mark.parametrize("on_disk", [False, True])
def test_depth_of_any_unit_survives_to_half_precision(tmp_path, unit, on_disk):
    """Truth: what went in, times the scale; a half has 11 bits, so 2^-11 and a second rounding."""
    depth = unit * (0.5 + torch.rand(2, 6, 8))
    confidence = torch.rand(2, 6, 8).clamp_min(0.01)
    store = DepthStore((2, 6, 8), PixelMap.stack([MAP[0]] * 2), tmp_path if on_disk else None)
    for view in (1, 0):
        store.put(view, depth[view], confidence[view])
    scale = torch.tensor([2.0, 0.5], dtype=torch.float64)
    result = store.finished(scale)
    expected = depth * scale.float()[:, None, None]
    torch.testing.assert_close(result.depth.float(), expected, rtol=1e-3, atol=0)
    torch.testing.assert_close(result.confidence.float(), confidence, rtol=1e-3, atol=1e-4)
    assert len(list(tmp_path.iterdir())) == 2 * on_disk


def test_files_may_be_deleted_while_the_maps_are_in_use(tmp_path):
    store = DepthStore((1, 2, 2), MAP, tmp_path)
    store.put(0, torch.full((2, 2), 3.0), torch.full((2, 2), 0.5))
    for file in tmp_path.iterdir():
        file.unlink()
    result = store.finished(torch.ones(1, dtype=torch.float64))
    assert (result.depth == 3).all() and (result.confidence == 0.5).all()


def test_pixels_without_confidence_or_sense_are_unknown():
    depth = torch.tensor([[1.0, 2.0, -1.0], [float("nan"), float("inf"), 4.0]])
    confidence = torch.tensor([[0.9, 0.0, 0.9], [0.9, 0.9, 0.9]])
    store = DepthStore((1, 2, 3), MAP)
    store.put(0, depth, confidence)
    result = store.finished(torch.ones(1, dtype=torch.float64))
    known = torch.tensor([[True, False, False], [False, False, True]])
    assert torch.equal(result.depth[0] > 0, known)
    assert torch.equal(result.confidence[0] > 0, known)
    torch.testing.assert_close(result.depth[0][known].float(), torch.tensor([1.0, 4.0]), rtol=1e-3,
                               atol=0)  # fmt: skip


def test_a_view_without_any_known_pixel_is_empty():
    store = DepthStore((1, 2, 2), MAP)
    store.put(0, torch.ones(2, 2), torch.zeros(2, 2))
    assert not store.finished(torch.ones(1, dtype=torch.float64)).depth.any()
