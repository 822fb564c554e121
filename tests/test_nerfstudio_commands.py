"""What nerfstudio's commands cannot do with a method is said in one line, before the work."""

import re
import sys

import pytest
import torch
from nerfstudio.configs.method_configs import all_methods

from fm3d_plugins.dataparsers.estimated import EstimatedDataParserConfig
from fm3d_plugins.dataparsers.rendered_views import LvsmDataParserConfig
from fm3d_plugins.nerfstudio_commands import (
    require_device_of_method,
    require_log_service,
    require_supported,
)

EXPORTS = {
    entry: f"ns-export {entry}"
    for entry in ("pointcloud", "tsdf", "poisson", "marching-cubes", "gaussian-splat", "cameras")
}
WORK = {
    # By method: exports that were seen to work, by their names in nerfstudio's table.
    "3dgs": {"gaussian-splat", "cameras"},
    "nerf": {"pointcloud", "tsdf", "poisson", "cameras"},
    "nerf-vanilla": {"pointcloud", "tsdf", "poisson", "cameras"},
    "vggt": {"gaussian-splat", "cameras"},
    "dust3r": {"gaussian-splat", "cameras"},
    "lvsm": {"cameras"},
    "rayzer": {"cameras"},
}


@pytest.fixture
def typed(monkeypatch):
    """Puts words where those of a running command are."""
    return lambda line: monkeypatch.setattr(sys, "argv", line.split())


@pytest.fixture
def no_cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.parametrize("method", WORK)
def test_exports_that_a_method_cannot_serve_are_refused_and_others_are_not(method, typed):
    instead = all_methods[method].pipeline.instead
    assert set(instead) <= {*EXPORTS.values(), "ns-render spiral"}
    for name, command in EXPORTS.items():
        typed(f"/usr/bin/{command} --load-config x.yml --output-dir y")
        if name in WORK[method]:
            require_supported(instead)
            continue
        with pytest.raises(ValueError, match=f"`{command}` cannot be used") as caught:
            require_supported(instead)
        # What is recommended is itself not refused.
        assert not any(f"`{other}`" in instead[command] for other in instead)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("program", ["ns-render", "/lib/nerfstudio/scripts/render.py"])
def test_spirals_are_refused_but_for_rays(program, typed):
    typed(f"{program} spiral --load-config x.yml")
    for method in WORK:
        instead = all_methods[method].pipeline.instead
        if method.startswith("nerf"):
            require_supported(instead)
        else:
            with pytest.raises(ValueError, match="fm3d film --path around"):
                require_supported(instead)
    typed(f"{program} dataset --load-config x.yml")
    require_supported(all_methods["3dgs"].pipeline.instead)


@pytest.mark.parametrize(
    ("line", "is_refused"),
    [
        ("ns-train splatfacto --data x sfm", True),
        ("ns-train splatfacto-big --data x sfm", True),
        ("ns-train splatfacto --machine.device-type cpu --data x sfm", True),
        ("ns-train nerfacto --data x sfm", True),
        ("ns-train nerfacto --machine.device_type=cuda sfm", True),
        ("ns-train nerfacto --machine.device-type cpu --data x sfm", False),
        ("ns-train nerfacto --machine.device-type=cpu --data x sfm", False),
        ("ns-train 3dgs --data x sfm", False),
        ("ns-train 3dgs --machine.device-type cuda --data x sfm", True),
        ("ns-eval --load-config x.yml", False),
        ("ns-train", False),
        ("pytest splatfacto", False),
    ],
)
def test_methods_for_cuda_are_refused_before_cameras_are_found(line, is_refused, typed, no_cuda):
    typed(line)
    if not is_refused:
        require_device_of_method()
        return
    with pytest.raises(ValueError, match="trains on CUDA.*On a CPU train 3dgs"):
        require_device_of_method()
    for config in (EstimatedDataParserConfig(), LvsmDataParserConfig()):
        with pytest.raises(SystemExit, match="^Error: .*On a CPU train 3dgs"):
            config.setup()


def test_nothing_is_refused_where_there_is_a_device(typed, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    typed("ns-train splatfacto --data x sfm")
    require_device_of_method()


@pytest.mark.parametrize("vis", ["comet", "viewer+comet", "wandb", "viewer+wandb"])
def test_logs_of_services_without_a_key_or_package_are_refused(vis, monkeypatch, tmp_path):
    for name in ("COMET_API_KEY", "WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))  # No keys of whoever runs the tests.
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setattr(sys, "stdin", open("/dev/null"))
    with pytest.raises(ValueError, match=f"--vis {re.escape(vis)} .*no key.*tensorboard"):
        require_log_service(vis)
    package = "comet_ml" if "comet" in vis else "wandb"
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=f"Install it with: pip install '{package}'"):
        require_log_service(vis)


@pytest.mark.parametrize("vis", ["viewer", "tensorboard", "viewer+tensorboard", "viewer_legacy"])
def test_other_logs_ask_for_nothing(vis, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setitem(sys.modules, "comet_ml", None)
    require_log_service(vis)


def test_a_log_that_stays_here_needs_no_key(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    require_log_service("wandb")
