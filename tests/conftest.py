"""Fixtures for all tests."""

import functools
import importlib.util
import json
import os
from collections import Counter
from pathlib import Path

import pytest

# Small tests are fastest with one thread: several pools of spinning threads hold each other up.
os.environ.setdefault("OMP_NUM_THREADS", "1")

SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_terminal_summary(terminalreporter) -> None:
    """Say how many tests were skipped, and why: a run that tests little must not look whole."""
    reasons = Counter(
        report.longrepr[2].removeprefix("Skipped: ")
        if isinstance(report.longrepr, tuple)
        else str(report.longrepr)
        for report in terminalreporter.stats.get("skipped", ())
    )
    if reasons:
        terminalreporter.section(f"{sum(reasons.values())} skipped")
        for reason, count in reasons.most_common():
            terminalreporter.line(f"{count:>5}  {reason}")
    if not SHARED.is_dir():
        terminalreporter.line(
            f"The folder {SHARED} of real photos and golden files is absent: equality with the "
            "published networks and with COLMAP on real photos was not tested."
        )


@pytest.fixture(autouse=True)
def torchs_own_products(monkeypatch):
    """Products are torch's own unless a test forces another way: none depends on a measurement."""
    monkeypatch.setattr("fm3d_plugins.nn.linear.fastest", lambda question, probe: "torch")


@pytest.fixture
def stored_in():
    """Keeps a network's matrices in another type, as loading weights in that type does."""

    def converted(network, dtype):
        for name in network.matrix_names():
            parameter = network.get_parameter(name)
            parameter.data = parameter.data.to(dtype)
        return network

    return converted


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real photos and golden files; absent in a user's checkout."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the test data folder {SHARED}, which is absent")
    return SHARED


@pytest.fixture(scope="session")
def golden_weights(shared):
    """The module with the rule that makes weights from their names."""
    path = shared / "golden" / "golden_weights.py"
    specification = importlib.util.spec_from_file_location("golden_weights", path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def pytest_generate_tests(metafunc):
    """Tests that ask for `golden_path` run once for each file that their GOLDEN_FILES names."""
    if "golden_path" in metafunc.fixturenames:
        paths = sorted((SHARED / "golden").glob(metafunc.module.GOLDEN_FILES))
        metafunc.parametrize("golden_path", paths, ids=[path.stem for path in paths])


@pytest.fixture(scope="session")
def golden_files(shared, golden_weights):
    """A function from a golden file's path to what it says of itself, weights and tensors."""
    import torch
    from safetensors.torch import load_file

    @functools.cache
    def load(path):
        description = json.loads(path.read_text())
        weights = {
            name: torch.from_numpy(golden_weights.golden_array(name, shape))
            for name, shape in description["weights_recipe_keys_shapes"].items()
        }
        return description, weights, load_file(path.with_suffix(".safetensors"))

    return load


@pytest.fixture(scope="session")
def assert_near():
    """Compares with a golden tensor, relative to the latter's largest number."""
    import torch

    def check(ours, expected, share=1e-4):
        atol = share * float(expected.abs().max())
        torch.testing.assert_close(ours.reshape(expected.shape), expected, atol=atol, rtol=0)

    return check


@pytest.fixture(scope="session")
def keep():
    """Makes hooks that keep copies of what enters or leaves a module, by name.

    Copies, because tokens may be updated in place later.
    """

    def made(seen, output_name, input_name=None):
        def hook(module, arguments, output):
            if output_name is not None:
                seen[output_name] = output.clone()
            if input_name is not None:
                seen[input_name] = arguments[0].clone()

        return hook

    return made


@pytest.fixture(scope="session")
def check_gradients():
    """Compares gradients by published names, and all of their norms, with a golden file's.

    Float32 sums in another order (processors, numbers of threads) move the norm of all gradients
    by up to 2e-5 of it, and leave 3e-8 of it in those whose terms nearly cancel.
    """
    import torch

    def check(network, description, tensors):
        gradients = {network.published_name(k): v.grad for k, v in network.named_parameters()}
        norms = description["grad_norms"]
        assert set(gradients) == set(norms)
        whole = description["grad_norm_total"]
        for name, gradient in gradients.items():
            near = pytest.approx(norms[name], rel=1e-4, abs=2e-7 * whole)
            assert float(gradient.norm()) == near, name
            if (published := tensors.get(f"grad.{name}")) is not None:
                near = 1e-4 * float(published.abs().max()) + 5e-8 * whole
                torch.testing.assert_close(
                    gradient.view_as(published), published, rtol=0, atol=near
                )
        total = torch.stack([gradient.norm() for gradient in gradients.values()]).norm()
        assert float(total) == pytest.approx(whole, rel=1e-4)

    return check


@pytest.fixture(scope="session")
def vggt_weights(tmp_path_factory) -> Path:
    """A small VGGT with random weights, whose cameras and depths are at least possible ones.

    For tests of what happens around the network: what it says of photos means nothing.
    """
    import torch
    from safetensors.torch import save_file

    from fm3d_plugins.vggt import configuration
    from fm3d_plugins.vggt.aggregator import AggregatorConfig
    from fm3d_plugins.vggt.camera_head import CameraHeadConfig
    from fm3d_plugins.vggt.dense_head import DenseHeadConfig
    from fm3d_plugins.vggt.network import VGGT

    dense = DenseHeadConfig(features=16, channels=(8, 16, 16, 16), layers=(0, 0, 1, 1))
    parts = {
        "aggregator": AggregatorConfig(width=32, depth=2, num_heads=2, patch_embedding="conv"),
        "camera": CameraHeadConfig(depth=1, num_heads=2, rounds=2),
        "depth": dense,
        "points": None,
        "tracks": None,
    }
    torch.manual_seed(0)
    network = VGGT(**parts)
    with torch.no_grad():
        last = network.camera_head.pose_branch.fc2
        last.weight *= 0.3
        # In each of two rounds half of: no shift, no turn, a field of view of one radian.
        last.bias.copy_(torch.tensor([0.0, 0, 0, 0, 0, 0, 1, 0.85, 1]) / 2)
    path = tmp_path_factory.mktemp("weights") / "small_random_vggt.safetensors"
    metadata = {configuration.METADATA_KEY: configuration.to_text(parts)}
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, path, metadata)
    return path


@pytest.fixture(scope="session")
def dust3r_weights(tmp_path_factory) -> Path:
    """A small DUSt3R with random weights, that sees a bumpy wall through a possible camera.

    For tests of what happens around the network: what it says of photos means nothing. The head's
    bias gives each patch the rays of a focal length of 400 pixels.
    """
    import torch
    from safetensors.torch import save_file

    from fm3d_plugins.dust3r import configuration
    from fm3d_plugins.dust3r.network import DUSt3R

    sizes = {
        "encoder_width": 32,
        "encoder_depth": 2,
        "encoder_heads": 2,
        "decoder_width": 16,
        "decoder_depth": 4,
        "decoder_heads": 2,
        "head": "linear",
    }
    torch.manual_seed(0)
    network = DUSt3R(**sizes)
    offset = (torch.arange(16) - 7.5) / 400
    rays = torch.stack([offset.expand(16, 16), offset[:, None].expand(16, 16), torch.ones(16, 16)])
    with torch.no_grad():
        for head in (network.downstream_head1, network.downstream_head2):
            head.proj.weight *= 0.02
            head.proj.bias.copy_(torch.cat([rays, torch.ones(1, 16, 16)]).flatten())
    path = tmp_path_factory.mktemp("weights") / "small_random_dust3r.safetensors"
    metadata = {configuration.METADATA_KEY: configuration.to_text(sizes)}
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, path, metadata)
    return path


@pytest.fixture(scope="session")
def lvsm_weights(tmp_path_factory) -> Path:
    """A small LVSM with random weights: what it says of photos means nothing."""
    import torch
    from safetensors.torch import save_file

    from fm3d_plugins.lvsm.inference import METADATA_KEY
    from fm3d_plugins.lvsm.network import LVSM, LVSMConfig
    from fm3d_plugins.nn.sizes import to_text

    torch.manual_seed(0)
    network = LVSM(LVSMConfig(width=48, head_width=16, decoder_depth=3))
    path = tmp_path_factory.mktemp("weights") / "small_random_lvsm.safetensors"
    weights = {network.published_name(k): v for k, v in network.state_dict().items()}
    save_file(weights, path, {METADATA_KEY: to_text(network.config)})
    return path


@pytest.fixture(scope="session")
def rayzer_weights(tmp_path_factory) -> Path:
    """A small RayZer for six photos, random but for poses that differ from each other."""
    import torch
    from safetensors.torch import save_file

    from fm3d_plugins.nn.sizes import to_text
    from fm3d_plugins.nn.view_synthesis import published_name
    from fm3d_plugins.rayzer.inference import METADATA_KEY
    from fm3d_plugins.rayzer.network import RayZer, RayZerConfig

    torch.manual_seed(0)
    sizes = {"camera_depth": 2, "scene_depth": 2, "decoder_depth": 2, "num_latents": 16}
    network = RayZer(RayZerConfig(48, 16, num_views=6, num_contexts=4, **sizes))
    with torch.no_grad():
        network.pose_predictor.rel_head[2].weight.mul_(300)
    path = tmp_path_factory.mktemp("weights") / "small_random_rayzer.safetensors"
    weights = {published_name(k): v for k, v in network.state_dict().items()}
    save_file(weights, path, {METADATA_KEY: to_text(network.config)})
    return path


@pytest.fixture(scope="session")
def train_run():
    """Trains what a config describes, through nerfstudio's trainer, and returns the trainer.

    The loss of every step (or one of its terms) is appended to `losses`.
    """
    import torch

    def train(config, losses=None, term=None):
        torch.manual_seed(0)
        trainer = config.setup(local_rank=0, world_size=1)
        trainer.setup()
        step = trainer.train_iteration

        def recorded(number):
            result = step(number)
            if losses is not None:
                losses.append(float(result[1][term] if term else result[0]))
            return result

        trainer.train_iteration = recorded
        trainer.train()
        return trainer

    return train
