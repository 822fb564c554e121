"""Noise of other packages is hidden where this package's commands run, and nowhere else."""

import warnings

import pytest

from fm3d_plugins.running.foreign_warnings import known_warnings_hidden

KNOWN = [
    ("`torch.cuda.amp.GradScaler(args...)` is deprecated. Please use", FutureWarning),
    ("Detected call of `lr_scheduler.step()` before `optimizer.step()`. In", UserWarning),
    ("Converting a tensor with requires_grad=True to a scalar may lead to", UserWarning),
]


@pytest.mark.parametrize(("text", "kind"), KNOWN)
def test_known_warnings_are_hidden_within_and_come_again_after(text, kind):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with known_warnings_hidden():
            warnings.warn(text, kind, stacklevel=1)
        assert not seen
        warnings.warn(text, kind, stacklevel=1)
        assert len(seen) == 1


def test_other_warnings_pass():
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with known_warnings_hidden():
            warnings.warn("something else", UserWarning, stacklevel=1)
        assert len(seen) == 1
