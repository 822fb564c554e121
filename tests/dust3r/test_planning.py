"""The plan of a run over pairs: what fits is kept, what does not is said before it starts."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from fm3d_plugins.dust3r import planning
from fm3d_plugins.dust3r.network import DUSt3R
from fm3d_plugins.dust3r.planning import REST, Workload, make_plan, workload
from fm3d_plugins.nn.planning import Speed

CPU = torch.device("cpu")
GIB = 2**30
SIZE = (384, 512)


@pytest.fixture(autouse=True)
def known_speed(monkeypatch):
    speeds = {"bfloat16": Speed(4e12, 1e11), "float32": Speed(1e12, 1e11)}
    monkeypatch.setattr(planning, "measured_speed", lambda precision, device: speeds[precision])


@pytest.fixture(scope="module", params=["dpt", "linear"])
def published(request):
    with torch.device("meta"):
        return DUSt3R(head=request.param).eval()


def work_of(network, sizes=(SIZE, SIZE), pairs=((0, 1),), dtype=torch.float32):
    return workload(network, sizes, pairs, dtype, CPU)


def plan(work, available, precision="bfloat16"):
    return make_plan(work, precision=precision, device=CPU, available=available)


@pytest.mark.parametrize("second", [SIZE, (512, 384), (512, 288)])
def test_operations_are_those_that_a_counter_sees(published, second):
    """Nothing but products, convolutions and attention is counted on both sides."""
    work = work_of(published, [SIZE, second])
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        photos = [published.encode(torch.empty(1, 3, *s, device="meta")) for s in (SIZE, second)]
    assert sum(work.encoding) == pytest.approx(counter.get_total_flops(), rel=0.01)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        published.decode(*photos)
    expected = sum(work.decoding) + work.head_flops
    assert expected == pytest.approx(counter.get_total_flops(), rel=0.01)


def test_weights_of_the_published_network_are_counted_in_their_precision(published):
    """302.3 M numbers of the encoder and 113.4 M of each decoder (manifest), 0.1 % in norms."""
    saved = work_of(published).fixed_bytes - work_of(published, dtype=torch.bfloat16).fixed_bytes
    matrices = 302_309_376 + 2 * 113_439_744 + 787_456 + 787_200
    assert saved == pytest.approx(2 * matrices, rel=2e-3)


SMALL = Workload(
    num_photos=10,
    num_pairs=90,
    fixed_bytes=GIB,
    bytes_per_pair=GIB // 16,
    bytes_per_photo=GIB // 32,
    encoding=(10e12, 1e11),
    decoding=(40e12, 2e11),
    head_flops=20e12,
)


def test_everything_is_kept_where_it_fits():
    found = plan(SMALL, 4 * GIB)
    assert (found.at_once, found.kept) == (4, 10)
    assert found.bytes == GIB + GIB // 4 + 10 * GIB // 32
    # 50e12 at 4e12, 3e11 of attention at 1e11, heads at the float32 speed of 1e12.
    assert found.seconds == pytest.approx(REST * (12.5 + 3 + 20))
    assert "10 photos in 90 pairs; about 1.6 GiB of memory and 37 s" in found.sentence


def test_photos_are_encoded_again_where_their_tokens_do_not_fit():
    # 0.9 of 1.5 GiB: beside the weights 0.35 GiB, of which 4 pairs take 0.25: 3 photos.
    found = plan(SMALL, 3 * GIB // 2)
    assert (found.at_once, found.kept) == (4, 3)
    assert found.bytes <= 0.9 * 1.5 * GIB
    assert "each photo encoded 10 times" in found.sentence
    assert found.seconds == pytest.approx(REST * (140 / 4 + 12 + 20))


def test_fewer_pairs_at_once_come_before_giving_up():
    # 0.9 of 1.32 GiB: 0.188 beside the weights, of which two photos take 0.0625: two pairs.
    found = plan(SMALL, int(1.32 * GIB))
    assert (found.at_once, found.kept) == (2, 2)
    with pytest.raises(ValueError, match=r"1\.1 GiB for one pair .* 0\.9 GiB of memory may be"):
        plan(SMALL, GIB)
    with pytest.raises(ValueError, match="--precision bfloat16"):
        plan(SMALL, GIB, precision="float32")


def test_no_more_pairs_are_taken_at_once_than_there_are(published):
    assert plan(work_of(published), 64 * GIB).at_once == 1
