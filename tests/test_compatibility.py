"""nerfstudio's checkpoints load on today's torch, and only they; its methods are listed at once."""

import inspect
import pickle
import subprocess
import sys
import tarfile

import numpy as np
import pytest
import torch

import fm3d_plugins  # noqa: F401  (its import is what is tested)
from fm3d_plugins.compatibility import _functions_on_stack, read_icons_once


def test_learning_rates_as_numpy_scalars_load_safely(tmp_path):
    state = {"lr": np.float64(0.5), "schedulers": {"_last_lr": [np.float64(1e-3)]}}
    torch.save(state, tmp_path / "step.ckpt")
    assert torch.load(tmp_path / "step.ckpt", weights_only=True) == state


def test_code_in_a_checkpoint_is_still_refused(tmp_path):
    class Hostile:
        def __reduce__(self):
            return (print, ("ran",))

    torch.save({"lr": Hostile()}, tmp_path / "step.ckpt")
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "step.ckpt", weights_only=True)


LISTING = """
import inspect, sys
def stack(*_):
    sys.exit("the sources of all frames are read")
inspect.stack = stack
from nerfstudio.configs.external_methods import external_methods
from nerfstudio.configs.method_configs import all_methods
slugs = [slug for method in external_methods for slug, _ in method.configurations]
assert slugs and {*slugs, "3dgs"} <= set(all_methods), "a method is absent"
try:
    type(all_methods[slugs[0]])(slugs[0], external_methods[0])
except SystemExit:
    print("told how to install it")
"""


def test_methods_are_listed_without_reading_the_sources_of_all_frames():
    """And somebody who asks for one that is not installed is still told how to install it."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LISTING],
        capture_output=True,
        text=True,
        check=False,
        input="n\n",  # It offers to install it.
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "told how to install it" in done.stdout


def test_functions_on_the_stack_are_those_of_the_standard_library():
    expected = [frame.function for frame in inspect.stack()]
    assert [frame.function for frame in _functions_on_stack(__name__)] == expected


def test_icons_of_the_viewer_are_listed_once_and_the_same(monkeypatch):
    icons = pytest.importorskip("viser._icons")
    names = ("home", "camera", "trash")
    expected = [icons.svg_from_icon(name) for name in names]
    read_icons_once()
    try:
        assert icons.svg_from_icon(names[0]) == expected[0]

        def read_again(*_):
            raise AssertionError("The list is read again.")

        monkeypatch.setattr(tarfile.TarFile, "_load", read_again)
        assert [icons.svg_from_icon(name) for name in names] == expected
    finally:
        monkeypatch.undo()
        icons.tarfile = tarfile
