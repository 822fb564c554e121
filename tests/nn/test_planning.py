"""What plans have in common."""

import pytest
import torch

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
def test_the_measured_speed_is_a_possible_one(precision):
    speed = measured_speed(precision, CPU)
    assert 1e8 < speed.products < 1e15
    assert 1e8 < speed.attention < 1e15


def test_words_are_short():
    assert gib(3 * 2**29) == "1.5 GiB"
    assert duration(0.4) == "less than a second"
    assert duration(99.0) == "99 s"
    assert duration(600.0) == "10 min"
