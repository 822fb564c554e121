"""What plans have in common."""

import itertools

import pytest
import torch

from fm3d_plugins.nn import planning
from fm3d_plugins.nn.planning import choose_precision, duration, gib, measured_speed

CPU = torch.device("cpu")


def test_a_chosen_precision_is_kept_and_auto_follows_the_device(monkeypatch):
    for precision in ("float32", "bfloat16", "float16"):
        assert choose_precision(precision, CPU) == precision
    for supported, expected in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(
            torch.cpu, "_is_avx512_bf16_supported", lambda found=supported: found, raising=False
        )
        assert choose_precision("auto", CPU) == expected


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_speed_is_the_operations_by_the_clock(precision, monkeypatch):
    """Truth: a clock that goes on by 0.04 s at every look allows 4 steps of 0.15 s, and shows 0.2 s
    after them. A product of m x k and k x n takes 2 m k n operations, attention twice 2 n^2 k."""
    looks = itertools.count()
    monkeypatch.setattr(planning.time, "perf_counter", lambda: 0.04 * next(looks))
    speed = measured_speed(precision, CPU)
    assert speed.products == pytest.approx(2 * 1024 * 1024 * 4096 * 4 / 0.2)
    assert speed.attention == pytest.approx(2 * 2 * 1024**2 * 1024 * 4 / 0.2)


def test_words_are_short():
    assert gib(3 * 2**29) == "1.5 GiB"
    assert duration(0.4) == "less than a second"
    assert duration(99.0) == "99 s"
    assert duration(600.0) == "10 min"
