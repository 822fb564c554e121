"""The plan of a run: what fits is worked on at once, what does not is said before it starts."""

import pytest
import torch

from fm3d_plugins.nn.planning import Speed
from fm3d_plugins.vggt import planning
from fm3d_plugins.vggt.aggregator import AggregatorConfig
from fm3d_plugins.vggt.network import VGGT
from fm3d_plugins.vggt.planning import REST, Workload, make_plan, workload

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def known_speed(monkeypatch):
    monkeypatch.setattr(planning, "measured_speed", lambda precision, device: Speed(1e12, 1e11))


@pytest.fixture(scope="module")
def published():
    with torch.device("meta"):
        return VGGT()


def plan(work, available, chunk_size=None, precision="bfloat16"):
    return make_plan(
        work,
        precision=precision,
        device=CPU,
        available=available,
        chunk_size=chunk_size,
    )


def test_weights_of_the_published_network_are_counted_in_their_precision(published):
    """909 112 320 numbers of the backbone, 216 174 610 and 32 654 562 of the heads (manifest)."""
    heads = 4 * (216_174_610 + 32_654_562)
    single = workload(published, 1, 392, 518, torch.float32, 1)
    half = workload(published, 1, 392, 518, torch.bfloat16, 1)
    saved = single.fixed_bytes - half.fixed_bytes
    # Norms and layer scales, 0.2 % of the backbone with positions, stay in single precision.
    assert saved == pytest.approx(2 * 909_112_320, rel=3e-3)
    # Without weights the rest, one photo's pass through the depth head, is below a gigabyte.
    assert 0 < half.fixed_bytes - heads - 2 * 909_112_320 < 2**30


def test_operations_are_those_of_the_matrix_products():
    """Conv patches of 2 x 3, width 32, depth 1: 11 tokens, two blocks."""
    small = AggregatorConfig(width=32, depth=1, num_heads=2, patch_embedding="conv")
    with torch.device("meta"):
        network = VGGT(aggregator=small, camera=None, depth=None, points=None, tracks=None)
    work = workload(network, 4, 28, 42, torch.float32, 1)
    tokens = 6 + 1 + 4
    block = 32 * (3 * 32) + 32 * 32 + 2 * 32 * 128
    # Attention: q k and its product with v, each 2 operations per pair of tokens and channel.
    assert work.pair_flops == 2 * 2 * tokens**2 * 32
    of_matrices = 2 * tokens * (2 * block + 3 * 14 * 14 * 32)
    # Special tokens are no patches, and count all the same.
    assert work.product_flops == pytest.approx(of_matrices, rel=0.05)


def test_all_photos_are_seen_at_once_where_they_fit():
    work = Workload(10, 392, 518, 2**30, 2**26, 1e12, 0.0, 1e10)
    found = plan(work, 4 * 2**30)
    assert found.at_once == 10
    assert found.bytes == 2**30 + 10 * 2**26
    # 10 x 1 s of products, 100 pairs x 0.1 s of attention.
    assert found.seconds == pytest.approx(REST * (10 + 10))
    for said in ("all at once", "1.6 GiB", f"{REST * 20:.0f} s"):
        assert said in found.sentence


def test_what_does_not_fit_is_cut_so_that_it_does():
    work = Workload(200, 392, 518, 2**30, 2**26, 1e12, 0.0, 1e10)
    available = 3 * 2**30
    found = plan(work, available)
    # 0.9 of 3 GiB without 1 GiB: 1.7 GiB, 27 photos of 64 MiB.
    assert found.at_once == 27
    assert found.bytes <= 0.9 * available
    assert "at most 27 at once" in found.sentence
    assert plan(work, available, chunk_size=10).at_once == 10


def test_too_little_memory_is_an_error_before_anything_is_loaded():
    work = Workload(200, 392, 518, 2**30, 2**26, 1e12, 0.0, 1e10)
    with pytest.raises(ValueError, match="1.1 GiB for 2 photos .* 0.9 GiB of memory may be used"):
        plan(work, 2**30)
    with pytest.raises(ValueError, match="smaller --chunk-size"):
        plan(work, 2 * 2**30, chunk_size=50)
    with pytest.raises(ValueError, match="--precision bfloat16"):
        plan(work, 2**30, precision="float32")
    # One photo alone needs room for one only.
    assert plan(Workload(1, 392, 518, 2**29, 2**28, 1e12, 0.0, 0.0), 2**30).at_once == 1
