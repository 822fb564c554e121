"""The parts of `gpu_check.py`: each measures in this process and returns rows of a table.

A row is a dictionary with `what` and figures by their names. A part takes whether to be small, for
a CPU, and the scene's folder or none; it raises `Skip` where something that it needs is absent.
"""

import copy
import importlib.util
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from machine import draw_weights
from torch import Tensor

from fm3d_plugins.nn.planning import DTYPES, Plan

GIB = 2**30
STEPS = {"3dgs": 1500, "splatfacto": 1500, "nerf": 300}
SMALL_STEPS = 10
SCALE = {"num_downscales": 0}
"""Full resolution from the first step, for both methods that are compared."""


class Skip(Exception):
    """A part cannot be measured here; the message says why."""


def outcome_here(name: str, is_small: bool, scene: Path | None) -> dict:
    """Measure one part in this process."""
    try:
        return {"state": "done", "rows": PARTS[name](is_small, scene)}
    except Skip as reason:
        return {"state": "skipped", "reason": str(reason)}


def device_of(is_small: bool) -> torch.device:
    return torch.device("cpu" if is_small else "cuda", None if is_small else 0)


def timed(step: Callable[[], object], device: torch.device, repeats: int = 1) -> float:
    """Seconds of a call, the first of which is not counted; the least of several."""
    found = []
    for _ in range(repeats + 1):
        _wait(device)
        start = time.perf_counter()
        step()
        _wait(device)
        found.append(time.perf_counter() - start)
    return min(found[1:])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_gib(device: torch.device) -> float:
    """Most memory that tensors took on a GPU, weights included; the process's on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / GIB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB


def gaussians(count: int, width: int, height: int, device: torch.device) -> dict[str, Tensor]:
    """Arguments of `rasterize`: gaussians of about four pixels before a camera at the origin."""
    draw = torch.Generator().manual_seed(0)
    depth = 1.5 + 3 * torch.rand(count, generator=draw)
    across = (torch.rand(count, 2, generator=draw) - 0.5) * 1.2
    focal = 0.9 * width
    x, y = (across * torch.tensor([width, height]) / focal * depth[:, None]).unbind(-1)
    spread = torch.exp(0.5 * torch.randn(count, 3, generator=draw))
    arguments = {
        "means": torch.stack([x, y, depth], dim=-1),
        "quaternions_wxyz": torch.randn(count, 4, generator=draw),
        "scales": spread * 4 / focal * depth[:, None],
        "opacities": torch.sigmoid(3 * torch.randn(count, generator=draw)),
        "sh_coefficients": 0.3 * torch.randn(count, 16, 3, generator=draw),
        "camera_from_world": torch.eye(4),
        "intrinsics": torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1.0]]),
        "background": torch.rand(3, generator=draw),
    }
    return {name: values.to(device) for name, values in arguments.items()}


def rendered(scene: dict[str, Tensor], backend: str, **options) -> dict[str, Tensor]:
    """The pictures of a view, and the gradients of what they add up to."""
    from fm3d_plugins.kernels.rasterizer import rasterize

    leaves = {name: values.clone().requires_grad_() for name, values in scene.items()}
    view = rasterize(**leaves, backend=backend, **options)
    view.means2d.retain_grad()
    (view.rgb.square().sum() + view.alpha.sum() + view.depth.sum()).backward()
    pictures = {name: getattr(view, name).detach() for name in ("rgb", "alpha", "depth")}
    gradients = {f"d/d {name}": leaf.grad for name, leaf in leaves.items()}
    return pictures | gradients | {"d/d means2d": view.means2d.grad}


def parity(is_small: bool, scene: Path | None) -> list[dict]:
    """The rasteriser in use against the definition: relative L2 differences, and times."""
    del scene
    device, fast = device_of(is_small), "numba" if is_small else "gsplat"
    count, width, height = (200, 64, 48) if is_small else (5000, 480, 270)
    given = gaussians(count, width, height, device)
    rows = []
    for antialiased in (False, True):
        options = {"width": width, "height": height, "sh_degree": 3, "antialiased": antialiased}
        found, expected = (rendered(given, backend, **options) for backend in (fast, "torch"))
        differences = {
            name: float((found[name] - expected[name]).norm() / expected[name].norm())
            for name in expected
        }
        name = "antialiased" if antialiased else "classic"
        rows.append({"what": f"{fast} against torch, {name}", **differences})
    times = {
        f"{backend} ms": 1000 * timed(partial(rendered, given, backend, **options), device, 3)
        for backend in (fast, "torch")
    }
    # Forward and backward, of the antialiased view.
    return [*rows, {"what": f"{count} gaussians, {width} x {height}", **times}]


def trained(method: str, is_small: bool, scene: Path | None, model: dict) -> list[dict]:
    """Train a method through nerfstudio's own objects, and score the held-out photos."""
    from nerfstudio.configs.method_configs import all_methods
    from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

    _leave_lpips_out()
    steps = SMALL_STEPS if is_small else STEPS[method]
    with tempfile.TemporaryDirectory() as folder:
        config = copy.deepcopy(all_methods[method])
        # The same photos are held out whatever the method: their own choices differ.
        config.pipeline.datamanager.dataparser = NerfstudioDataParserConfig(
            eval_mode="interval", load_3D_points=True
        )
        config.pipeline.datamanager.data = scene or _sample(Path(folder), is_small)
        config.output_dir = Path(folder)
        config.max_num_iterations = steps
        config.vis = "tensorboard"
        config.viewer.quit_on_train_completion = True
        config.logging.local_writer.enable = False
        config.steps_per_eval_image = config.steps_per_eval_batch = 0
        config.steps_per_eval_all_images = 0
        if method == "3dgs":
            # Both methods of gaussians start from the scene's own points.
            config.pipeline.datamanager.dense_points = False
        for name, value in model.items():
            setattr(config.pipeline.model, name, value)
        config.set_timestamp()
        trainer = config.setup(local_rank=0, world_size=1)
        trainer.setup()
        return [_run(method, trainer, steps)]


def _run(method: str, trainer, steps: int) -> dict:
    """Time per step without the first fifth, and PSNR."""
    step, starts = trainer.train_iteration, []

    def recorded(number):
        starts.append(time.perf_counter())
        return step(number)

    trainer.train_iteration = recorded
    trainer.train()
    _wait(torch.device(trainer.device))
    starts.append(time.perf_counter())
    first = steps // 5
    pipeline = trainer.pipeline
    pipeline.eval()
    metrics = pipeline.get_average_eval_image_metrics()
    row = {
        "what": f"{method}, {steps} steps",
        "ms a step": 1000 * (starts[-1] - starts[first]) / (steps - first),
        "PSNR": metrics["psnr"],
        "SSIM": metrics["ssim"],
    }
    count = getattr(pipeline.model, "num_points", None)
    return row | ({} if count is None else {"gaussians": count})


def _sample(folder: Path, is_small: bool) -> Path:
    """A synthetic capture, where no scene is named."""
    from fm3d_plugins.synthetic_rooms.capture import DRAFT, write_sample

    size = {"num_photos": 9, "width": 96, "height": 72} if is_small else {"num_photos": 48}
    write_sample(folder / "sample", quality=DRAFT, **size)
    return folder / "sample"


def _leave_lpips_out() -> None:
    """nerfstudio's own methods fetch its weights when they are made."""
    from torchmetrics.image import lpip

    class Nothing(torch.nn.Module):
        def __init__(self, **_):
            super().__init__()

        def forward(self, first, second):
            return (first - second).new_zeros(())

    lpip.LearnedPerceptualImagePatchSimilarity = Nothing


def splats(is_small: bool, scene: Path | None) -> list[dict]:
    """`3dgs`, without moving cameras."""
    from fm3d_plugins.camera_optimization.camera_optimizer import CameraOptimizerConfig

    still = CameraOptimizerConfig(mode="off")
    model = {"camera_optimizer": still, "lpips_networks": (), **SCALE}
    return trained("3dgs", is_small, scene, model)


def splatfacto(is_small: bool, scene: Path | None) -> list[dict]:
    """nerfstudio's own method of the same scene."""
    if is_small:
        raise Skip("gsplat needs a CUDA device")
    import torch._dynamo

    # It has one function compiled, which works without, too, where there is no C compiler.
    torch._dynamo.config.suppress_errors = True
    return trained("splatfacto", is_small, scene, dict(SCALE))


def nerf(is_small: bool, scene: Path | None) -> list[dict]:
    """`nerf` with the definition's hash grid."""
    from fm3d_plugins.kernels.hash_grid import tinycudann_backend

    tinycudann_backend.is_available = lambda: False
    return _nerf(is_small, scene)


def nerf_tinycudann(is_small: bool, scene: Path | None) -> list[dict]:
    """`nerf` with tiny-cuda-nn's hash grid."""
    if importlib.util.find_spec("tinycudann") is None:
        raise Skip("tinycudann is not installed")
    if is_small:
        raise Skip("tinycudann needs a CUDA device")
    return _nerf(is_small, scene)


def _nerf(is_small: bool, scene: Path | None) -> list[dict]:
    small = {"num_samples": 16, "num_eval_samples": 16, "log2_table_size": 10}
    model = {"lpips_networks": (), **(small if is_small else {})}
    return trained("nerf", is_small, scene, model)


def vggt(is_small: bool, scene: Path | None) -> list[dict]:
    """One pass of VGGT for several numbers of photos, and what the plan said of it."""
    del scene
    from fm3d_plugins.nn.planning import choose_precision
    from fm3d_plugins.vggt.aggregator import AggregatorConfig
    from fm3d_plugins.vggt.dense_head import DenseHeadConfig
    from fm3d_plugins.vggt.inference import predict, prepared
    from fm3d_plugins.vggt.network import VGGT
    from fm3d_plugins.vggt.planning import frames_per_pass, make_plan, workload

    device = device_of(is_small)
    parts = {"points": None, "tracks": None}
    if is_small:
        parts["aggregator"] = AggregatorConfig(
            width=32, depth=2, num_heads=2, patch_embedding="conv"
        )
        parts["depth"] = DenseHeadConfig(features=16, channels=(8,) * 4, layers=(0, 0, 1, 1))
    precision = choose_precision("auto", device)
    with torch.device("meta"):
        network = VGGT(**parts)
    draw_weights(network, DTYPES[precision])
    network = prepared(network, device)
    height, width = (28, 42) if is_small else (392, 518)
    predict(network, torch.rand(2, 3, 28, 28))
    rows = []
    for count in (2, 4) if is_small else (2, 8, 32, 100):
        work = workload(network, count, height, width, DTYPES[precision], frames_per_pass(device))
        plan = make_plan(
            work, precision=precision, device=device, available=80 * GIB, chunk_size=count
        )
        images = torch.rand(count, 3, height, width)
        rows.append(
            _against_plan(f"{count} photos", partial(predict, network, images), plan, device)
        )
    return rows


def dust3r(is_small: bool, scene: Path | None) -> list[dict]:
    """All pairs of some photos, and what the plan said of them."""
    del scene
    from fm3d_plugins.dust3r.inference import PhotoEncodings, decode_pairs, prepared
    from fm3d_plugins.dust3r.network import DUSt3R
    from fm3d_plugins.dust3r.planning import make_plan, workload

    device = device_of(is_small)
    sizes = dict.fromkeys(("encoder_width", "decoder_width"), 32)
    sizes |= {"encoder_depth": 2, "decoder_depth": 4, "encoder_heads": 2, "decoder_heads": 2}
    count, shape = (3, (32, 48)) if is_small else (8, (384, 512))
    pairs = [(i, j) for i in range(count) for j in range(count) if i != j]
    rows = []
    for precision in ("float32", "bfloat16"):
        with torch.device("meta"):
            network = DUSt3R(**({**sizes, "head": "linear"} if is_small else {}))
        draw_weights(network, DTYPES[precision])
        network = prepared(network, device)
        images = torch.rand(count, 3, *shape) * 2 - 1
        work = workload(network, [shape] * count, pairs, DTYPES[precision], device)
        plan = make_plan(work, precision=precision, device=device, available=80 * GIB)

        def see(network=network, images=images):
            for _ in decode_pairs(PhotoEncodings(network, images.__getitem__), pairs):
                pass

        rows.append(_against_plan(f"{len(pairs)} pairs, {precision}", see, plan, device))
        del network, see
    return rows


def lvsm(is_small: bool, scene: Path | None) -> list[dict]:
    """A view of both published networks from two photos, and what the plan said of it."""
    del scene
    from fm3d_plugins.lvsm.network import DECODER_ONLY, ENCODER_DECODER, LVSM
    from fm3d_plugins.nn.planning import choose_precision

    device, size = device_of(is_small), 32 if is_small else 256
    configs = {"decoder-only": DECODER_ONLY, "encoder-decoder": ENCODER_DECODER}
    if is_small:
        sizes = {"width": 32, "head_width": 16, "decoder_depth": 2}
        encoder = {"encoder_depth": 2, "num_latents": 8}
        configs = {
            name: replace(config, **sizes, **(encoder if config.num_latents else {}))
            for name, config in configs.items()
        }
    rows = []
    for name, config in configs.items():
        for precision in dict.fromkeys(("float32", choose_precision("auto", device))):
            network = _drawn(LVSM, config, precision, device)
            images = torch.rand(1, 2, 3, size, size, device=device)
            rays = torch.rand(1, 3, 6, size, size, device=device)
            tokens = (size // config.patch_size) ** 2
            once, each = network.passes(2 * tokens, tokens)
            rows += _views(
                f"{name}, {precision}",
                network,
                partial(network.encode, images, rays[:, :2]),
                rays[:, 2:],
                ((once, each), precision, device),
            )
    return rows


def rayzer(is_small: bool, scene: Path | None) -> list[dict]:
    """Cameras and scene of 24 photos, then a view, at the published size."""
    del scene
    from fm3d_plugins.nn.planning import choose_precision
    from fm3d_plugins.rayzer.network import RayZer, RayZerConfig

    device, size = device_of(is_small), 32 if is_small else 256
    config, precision = RayZerConfig(), choose_precision("auto", device)
    if is_small:
        depths = {"camera_depth": 2, "scene_depth": 2, "decoder_depth": 2}
        config = replace(config, width=32, head_width=16, num_latents=8, **depths)
    network = _drawn(RayZer, config, precision, device)
    images = torch.rand(1, config.num_views, 3, size, size, device=device)
    rays = torch.rand(1, config.num_contexts, 6, size, size, device=device)
    tokens = (size // config.patch_size) ** 2
    once, each = network.passes(tokens)

    def see():
        seen = network.tokens(images)
        network.estimate_cameras(seen)
        return network.encode(seen[:, : config.num_contexts], rays)

    passes = [network.camera_pass(tokens), *once], each
    return _views(precision, network, see, rays[:, :1], (passes, precision, device))


def _drawn(kind, config, precision: str, device: torch.device):
    """A network of random weights, for inference."""
    with torch.device("meta"):
        network = kind(config)
    draw_weights(network, DTYPES[precision])
    return network.to(device).eval().requires_grad_(False)


def _views(what: str, network, encode: Callable, rays: Tensor, planned: tuple) -> list[dict]:
    """What a scene costs once, and a view, beside the plan."""
    from fm3d_plugins.nn.view_planning import plan_views

    (once, each), precision, device = planned
    plan = plan_views(network, once, each, work=what, precision=precision, device=device)
    expected = partial(Plan, precision, 1, plan.bytes, sentence="")
    with torch.inference_mode():
        held = encode()
        return [
            _against_plan(f"scene, {what}", encode, expected(seconds=plan.once), device),
            _against_plan(
                f"view, {what}",
                lambda: network.render(held, rays),
                expected(seconds=plan.view),
                device,
            ),
        ]


def _against_plan(what: str, step: Callable[[], object], plan: Plan, device: torch.device) -> dict:
    """Time and memory of a call, and what was expected."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    seconds = timed(step, device)
    return {
        "what": f"{what} ({plan.precision})" if plan.precision not in what else what,
        "s": seconds,
        "planned s": plan.seconds,
        "GiB": peak_gib(device),
        "planned GiB": plan.bytes / GIB,
    }


PARTS = {
    "parity": parity,
    "3dgs": splats,
    "splatfacto": splatfacto,
    "nerf": nerf,
    "nerf-tinycudann": nerf_tinycudann,
    "vggt": vggt,
    "dust3r": dust3r,
    "lvsm": lvsm,
    "rayzer": rayzer,
}
