"""The parts of `make gpu-check` that train, as on a GPU: the script's own branches for CUDA."""

import importlib
from pathlib import Path

import pytest
from nerfstudio.configs.method_configs import all_methods
from nerfstudio.models import splatfacto
from nerfstudio.utils import writer

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def parts(monkeypatch, scene):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    module = importlib.import_module("gpu_parts")
    # The logs lie in folders that are deleted after a part.
    monkeypatch.setattr(writer, "EVENT_WRITERS", [])
    monkeypatch.setattr(module, "STEPS", dict.fromkeys(module.STEPS, 5))
    # nerfstudio has it compiled, but torch's compiler does not know the pretended device.
    plain = getattr(splatfacto.get_viewmat, "_torchdynamo_orig_callable", splatfacto.get_viewmat)
    monkeypatch.setattr(splatfacto, "get_viewmat", plain)
    # gsplat hands this gradient on as an attribute, which stays behind on the way.
    monkeypatch.setattr(all_methods["splatfacto"].pipeline.model, "use_absgrad", False)
    return module


@pytest.mark.parametrize("part", ["3dgs", "splatfacto"])
def test_methods_of_gaussians_train_from_the_same_scene(gsplat_kernels, parts, scene, part):
    (row,) = parts.PARTS[part](False, scene)
    assert row["what"] == f"{part}, 5 steps"
    assert row["gaussians"] == 200
    assert gsplat_kernels.sizes == {(47, 35)}
    assert 0 < row["PSNR"] < 20
