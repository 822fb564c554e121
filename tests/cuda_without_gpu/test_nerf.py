"""`nerf` and `nerf-vanilla` trained and scored on the pretended device: the field in torch.

tiny-cuda-nn is a stand-in whose encoding is the definition in torch.
"""

import sys
from functools import partial
from types import ModuleType

import pytest
import torch

from fm3d_plugins.camera_optimization.camera_optimizer import CameraOptimizerConfig
from fm3d_plugins.depth_supervision.supervision import DepthSupervisionConfig
from fm3d_plugins.kernels.hash_grid import HashGridLayout, encode, tinycudann_backend
from fm3d_plugins.kernels.hash_grid.torch_reference import encode_torch
from fm3d_plugins.nerf import model, ray_model

LAYOUT = HashGridLayout(num_levels=2, log2_table_size=8)


def options(method):
    cameras = CameraOptimizerConfig(mode="SO3xR3", rot_l2_penalty=0.1)
    if method == "nerf-vanilla":
        samples = {"num_coarse_samples": 8, "num_importance_samples": 8}
        return {"camera_optimizer": cameras, "width": 8, **samples}
    return {
        "camera_optimizer": cameras,
        "depth": DepthSupervisionConfig(weight=0.1),
        "num_samples": 8,
        "num_eval_samples": 8,
        "num_levels": LAYOUT.num_levels,
        "log2_table_size": LAYOUT.log2_table_size,
    }


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Fewer cells and pixels than in use, where options do not say how many."""
    monkeypatch.setattr(model, "ImportanceGrid", partial(model.ImportanceGrid, resolution=16))
    monkeypatch.setattr(ray_model, "POSE_PIXELS", 64)


@pytest.fixture(params=["nerf", "nerf-vanilla"])
def config(request, configured):
    method = request.param
    return configured(method, steps=2, model=options(method), train_num_rays_per_batch=64)


@pytest.fixture
def tinycudann(monkeypatch):
    """A package whose encoding takes float32 positions on CUDA, and counts its calls."""

    class Encoding(torch.nn.Module):
        def __init__(self, n_input_dims, encoding_config, dtype):
            super().__init__()
            assert (n_input_dims, dtype) == (3, torch.float32)
            assert encoding_config["n_levels"] == LAYOUT.num_levels
            self.params = torch.nn.Parameter(torch.zeros(4 * LAYOUT.num_entries, device="cuda"))

        def forward(self, positions):
            module.calls += 1
            assert positions.is_cuda and self.params.is_cuda
            return encode_torch(positions, self.params.reshape(-1, 4), LAYOUT)

    module = ModuleType("tinycudann")
    module.Encoding, module.calls = Encoding, 0
    monkeypatch.setitem(sys.modules, "tinycudann", module)
    monkeypatch.setattr(tinycudann_backend, "is_available", lambda: True)
    tinycudann_backend._native_encoding.cache_clear()
    yield module
    tinycudann_backend._native_encoding.cache_clear()


def test_fields_train_on_the_device_and_are_scored(cuda, config, train_run):
    config.pipeline.test_poses = "photometric:1"
    trainer = train_run(config)
    trained = trainer.pipeline.model
    assert all(values.is_cuda for values in (*trained.parameters(), *trained.buffers()))
    for optimizer in trainer.optimizers.optimizers.values():
        for state in optimizer.state.values():
            assert all(values.is_cuda for name, values in state.items() if name != "step")
    metrics = trainer.pipeline.get_average_eval_image_metrics()
    assert 0 < metrics["psnr"] < 20


def test_a_step_waits_for_nothing(cuda, config, train_run, take_step):
    trainer = train_run(config)
    cuda.waits.clear()
    for step in (1, 2):
        take_step(trainer, step)
    assert cuda.waits == []


def test_the_viewers_crop_box_ends_rays(cuda, config, train_run):
    trained = train_run(config).pipeline.model.eval()
    camera = trained.kwargs["metadata"]["given_cameras"][:1].to("cuda")
    rays = camera.generate_rays(camera_indices=0, keep_shape=True)[:4, :4].flatten()
    rays.nears, rays.fars = (torch.full((16, 1), end, device="cuda") for end in (0.5, 1.5))
    outputs = trained.get_outputs(rays)
    assert all(values.is_cuda for values in outputs.values())


def test_tiny_cuda_nn_encodes_where_it_is_installed(tinycudann, cuda, configured, train_run):
    config = configured("nerf", steps=1, model=options("nerf"), train_num_rays_per_batch=64)
    train_run(config)
    assert tinycudann.calls > 0
    positions = torch.rand(5, 3)
    table = torch.rand(LAYOUT.num_entries, 4)
    found = encode(positions.to("cuda"), table.to("cuda"), LAYOUT)
    torch.testing.assert_close(found.cpu(), encode_torch(positions, table, LAYOUT))


def test_without_tiny_cuda_nn_the_definition_encodes(cuda, monkeypatch):
    monkeypatch.setattr(tinycudann_backend, "is_available", lambda: False)
    positions, table = torch.rand(5, 3), torch.rand(LAYOUT.num_entries, 4)
    found = encode(positions.to("cuda"), table.to("cuda"), LAYOUT)
    assert torch.equal(found.cpu(), encode_torch(positions, table, LAYOUT))
