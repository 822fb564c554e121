"""A CUDA device that is only pretended: tensors with values, which lie in the machine's memory.

Inside `cuda` tensors made for or moved to "cuda" say that they are there, and so does all that is
computed from them. What CUDA refuses is refused: tensors of two devices in one operation, numpy
arrays of a tensor on the device, a generator of another device. Values are a CPU's, so branches on
them, sizes that depend on them and gradients are what they would be. What is not seen: kernels that
CUDA lacks for a type of numbers, and anything within gsplat or tiny-cuda-nn, for which the tests
put stand-ins. Operations that wait for the device are listed in `cuda.waits`.

With `cuda_of_shapes` tensors have a device, a type and a shape, and no values: networks of the
published sizes take seconds, and a branch on a value is an error.
"""

import json
import sys
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from nerfstudio.engine.callbacks import TrainingCallbackLocation as Location
from PIL import Image
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only

from fm3d_plugins.io.ply import write_ply
from tests.small_runs import small_run

MEMORY = 80 << 30
NUM_PHOTOS, WIDTH, HEIGHT = 9, 48, 36
CUDA = torch.device("cuda", 0)

MIXING = {"to", "copy_", "__setitem__", "__set__", "type_as", "load_state_dict"}
"""Operations that may take tensors of two devices."""
INDEXING = {"__getitem__", "index_put_", "__setitem__"}
"""Tensors on CUDA may be indexed by tensors on the CPU, not the other way round."""
WAITING = {
    *("item", "tolist", "__bool__", "__int__", "__float__", "__index__", "cpu", "equal"),
    *("nonzero", "unique", "bincount", "masked_select", "allclose"),
    *("linalg_solve", "linalg_inv", "linalg_lstsq", "linalg_cholesky"),  # Told of singular ones.
}
"""Operations after which the CPU knows a value or a size, for which it must wait."""


class OnCuda(torch.Tensor):
    """A tensor in the machine's memory that counts as being on CUDA."""

    __torch_function__ = torch._C._disabled_torch_function_impl


class Generator(torch.Generator):
    """A generator of the CPU that may count as one of CUDA."""

    is_there: bool

    def __new__(cls, device="cpu"):
        """As torch's."""
        made = super().__new__(cls)
        made.is_there = torch.device(device).type == "cuda"
        return made


class PretendedCuda(TorchFunctionMode):
    """Sees every call of torch's Python functions, and keeps account of devices."""

    def __init__(self, memory: str = "cpu") -> None:
        """Args:
        memory: torch's device where all tensors are in truth: "cpu", or "meta" for none.
        """
        super().__init__()
        self.memory = torch.device(memory)
        self.waits: list[str] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        """Run one function on the CPU, and say where its result is."""
        kwargs = dict(kwargs or {})
        name, owner = func.__name__, getattr(func, "__self__", None)
        if name == "__get__" and owner is torch.Tensor.device:
            return CUDA if isinstance(args[0], OnCuda) else torch.device("cpu")
        if name == "__get__" and owner is torch.Tensor.is_cuda:
            return isinstance(args[0], OnCuda)
        if name == "_has_compatible_shallow_copy_type":
            # A module's parameter that moves becomes a new one: in place it would keep its class.
            return isinstance(args[0], OnCuda) == isinstance(args[1], OnCuda)
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        are_there = any(isinstance(tensor, OnCuda) for tensor in tensors)
        if are_there:
            self._refuse(name, args, tensors)
            self._note(name, args)
        if name in ("cpu", "cuda"):
            func, name, args = torch.Tensor.to, "to", (args[0], name)
        args, kwargs, is_wanted = self._asked_for(name, args, kwargs)
        self._check_generator(kwargs, are_there if is_wanted is None else is_wanted)
        needs_gradient = kwargs.pop("requires_grad", False) if name != "requires_grad_" else False
        result = func(*args, **kwargs)
        if isinstance(result, torch.Size):
            return result
        if are_there if is_wanted is None else is_wanted:
            result = tree_map_only(torch.Tensor, _there, result)
        elif is_wanted is False:
            result = tree_map_only(OnCuda, lambda tensor: tensor.as_subclass(torch.Tensor), result)
        return result.requires_grad_() if needs_gradient else result

    def _refuse(self, name, args, tensors) -> None:
        if name in ("numpy", "__array__"):
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        others = [tensor for tensor in tensors if not isinstance(tensor, OnCuda) and tensor.ndim]
        if name in INDEXING and isinstance(args[0], OnCuda):
            others = []
        if others and name not in MIXING:
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but {name} got cuda:0 and cpu."
            )

    def _note(self, name, args) -> None:
        """Remember what waits; a mask as an index has a size that depends on values."""
        if name == "__setitem__" and not isinstance(args[0], OnCuda):
            self.waits.append("a value put into a tensor of the CPU")
        index = tree_leaves(args[1]) if name == "__getitem__" else []
        is_mask = any(isinstance(i, torch.Tensor) and i.dtype == torch.bool for i in index)
        if name in WAITING or is_mask:
            self.waits.append("mask" if is_mask else name)

    def _check_generator(self, kwargs, is_there: bool) -> None:
        generator = kwargs.get("generator")
        if generator is not None and getattr(generator, "is_there", False) != is_there:
            raise RuntimeError("Expected a generator of the tensor's own device.")

    def _asked_for(self, name, args, kwargs):
        """Arguments with devices replaced by the true one, and whether CUDA was asked for."""
        is_wanted = None
        if name == "to":
            args = list(args)
            for place, value in enumerate(args[1:], start=1):
                if isinstance(value, torch.Tensor):
                    is_wanted = isinstance(value, OnCuda)
                elif isinstance(value, str | torch.device):
                    is_wanted, args[place] = torch.device(value).type == "cuda", self.memory
        if kwargs.get("device") is not None:
            is_wanted = torch.device(kwargs["device"]).type == "cuda"
            kwargs["device"] = self.memory
        return tuple(args), kwargs, is_wanted


def _there(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if isinstance(tensor, OnCuda) else tensor.as_subclass(OnCuda)


@pytest.fixture
def cuda_of_shapes() -> Iterator[PretendedCuda]:
    """The pretended device, and a CPU, whose tensors have no values."""
    with torch.device("meta"), PretendedCuda("meta") as mode:
        yield mode


@pytest.fixture
def cuda(monkeypatch) -> Iterator[PretendedCuda]:
    """The pretended device, in use while the test runs."""
    monkeypatch.setattr(torch, "Generator", Generator)
    monkeypatch.setattr("fm3d_plugins.nn.planning.PROBE_TOKENS", 32)  # Speeds mean nothing here.
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device=None: (MEMORY, MEMORY))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device=None: None)
    for name in ("_cuda_graph_capture_health_check", "_accelerator_graph_capture_health_check"):
        monkeypatch.setattr(torch.optim.Optimizer, name, lambda self: None, raising=False)
    with PretendedCuda() as mode:
        yield mode


class GsplatKernels:
    """In the place of gsplat's compiled module: strict about what it gets, plain in what it gives.

    Gaussians are projected by their centres alone and have a radius of 3 pixels; every pixel shows
    their mean colour, half transparent. Gradients are random.
    """

    CameraModelType = PINHOLE = "pinhole"

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.sizes: set[tuple[int, int]] = set()
        """Width and height of the images."""

    def fully_fused_projection_fwd(
        self, means, covars, quats, scales, viewmats, intrinsics, width, height, *options
    ):
        """Radii, projected means, depths, conics, compensations."""
        count = len(means)
        assert covars is None
        _expect(means=(means, count, 3), quats=(quats, count, 4), scales=(scales, count, 3))
        _expect(viewmats=(viewmats, 1, 4, 4), intrinsics=(intrinsics, 1, 3, 3))
        *numbers, with_compensations, _model = options
        assert all(isinstance(number, float) for number in numbers), numbers
        self.calls.append("project")
        self.sizes.add((width, height))
        local = means @ viewmats[0, :3, :3].mT + viewmats[0, :3, 3]
        depth = local[:, 2].clamp_min(0.01)
        pixels = (local / depth[:, None]) @ intrinsics[0].mT
        is_seen = local[:, 2] > 0.01
        compensations = means.new_ones(1, count) if with_compensations else None
        radii = (3 * is_seen).int()[None]
        return radii, pixels[None, :, :2], depth[None], means.new_ones(1, count, 3), compensations

    def fully_fused_projection_bwd(self, means, covars, quats, scales, viewmats, *rest):
        """Gradients of means, covariances, quaternions, scales and view matrices."""
        self.calls.append("project back")
        return (*map(_noise, (means, means, quats, scales)), _noise(viewmats))

    def compute_sh_fwd(self, degree, directions, coefficients, masks):
        """Colours of the lowest band."""
        count = directions.shape[1]
        _expect(directions=(directions, 1, count, 3))
        _expect(coefficients=(coefficients, 1, count, coefficients.shape[2], 3))
        _expect(torch.bool, masks=(masks, 1, count))
        assert coefficients.shape[2] >= (degree + 1) ** 2
        self.calls.append("colour")
        return 0.28 * coefficients[:, :, 0]

    def compute_sh_bwd(self, num_bands, degree, directions, coefficients, *rest):
        """Gradients of coefficients and directions."""
        return _noise(coefficients), _noise(directions)

    def isect_tiles(self, means2d, radii, depths, cameras, gaussians, count, *options):
        """Tiles per gaussian, intersections and their gaussians: each gaussian has one."""
        num = means2d.shape[1]
        _expect(means2d=(means2d, 1, num, 2), depths=(depths, 1, num))
        _expect(torch.int32, radii=(radii, 1, num))
        assert (cameras, gaussians, count) == (None, None, 1)
        self.calls.append("sort")
        return (
            radii,
            torch.arange(num, device=radii.device),
            torch.arange(num, device=radii.device, dtype=torch.int32),
        )

    def isect_offset_encode(self, intersections, count, columns, rows):
        """First intersection of every tile."""
        _expect(torch.int64, intersections=(intersections, len(intersections)))
        return intersections.new_zeros(count, rows, columns, dtype=torch.int32)

    def rasterize_to_pixels_fwd(
        self, means2d, conics, colors, opacities, backgrounds, masks, width, height, *lists
    ):
        """Sums of channels, alpha, and the last gaussian of every pixel."""
        num, channels = means2d.shape[1], colors.shape[2]
        _expect(means2d=(means2d, 1, num, 2), conics=(conics, 1, num, 3))
        _expect(colors=(colors, 1, num, channels), opacities=(opacities, 1, num))
        if backgrounds is None:
            backgrounds = colors.new_zeros(1, channels)
        _expect(backgrounds=(backgrounds, 1, channels))
        tile_size, offsets, gaussians = lists
        rows, columns = (-(-size // tile_size) for size in (height, width))
        _expect(torch.int32, offsets=(offsets, 1, rows, columns), gaussians=(gaussians, num))
        self.calls.append("composite")
        image = (colors.mean(1) / 2 + backgrounds / 2)[:, None, None]
        alpha = image.new_full((1, height, width, 1), 0.5)
        last = torch.zeros(1, height, width, dtype=torch.int32, device=image.device)
        return image.repeat(1, height, width, 1), alpha, last

    def rasterize_to_pixels_bwd(self, means2d, conics, colors, opacities, *rest):
        """Gradients of means (absolute and signed), conics, colours and opacities."""
        self.calls.append("composite back")
        return tuple(map(_noise, (means2d, means2d, conics, colors, opacities)))


def _expect(dtype=torch.float32, **tensors) -> None:
    """What the compiled functions ask of a tensor, or read without asking."""
    for name, (tensor, *shape) in tensors.items():
        found = (tensor.is_cuda, tensor.is_contiguous(), tensor.dtype, list(tensor.shape))
        assert found == (True, True, dtype, shape), (name, *found)


def _noise(like: torch.Tensor) -> torch.Tensor:
    return 1e-3 * torch.randn_like(like)


@pytest.fixture
def gsplat_kernels(cuda, monkeypatch) -> GsplatKernels:
    """gsplat with its own Python code around the kernels above."""
    pytest.importorskip("gsplat", reason="needs gsplat's python files")
    kernels = GsplatKernels()
    monkeypatch.setitem(sys.modules, "gsplat.cuda._backend", SimpleNamespace(_C=kernels))
    return kernels


@pytest.fixture(scope="session")
def scene(tmp_path_factory):
    """Nine photos of noise from a ring of cameras, with points and depth, as nerfstudio's data."""
    folder = tmp_path_factory.mktemp("scene") / "noise"
    (folder / "images").mkdir(parents=True)
    noise = np.random.default_rng(0)
    frames = []
    for number, angle in enumerate(np.linspace(0, 2 * np.pi, NUM_PHOTOS, endpoint=False)):
        name, pose = f"{number:02d}", np.eye(4)
        back = np.array([np.cos(angle), 0.0, np.sin(angle)])
        pose[:3, :3] = np.stack([np.cross([0, 1, 0], back), [0, 1, 0], back], axis=1)
        pose[:3, 3] = 2 * back
        pixels = noise.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{name}.png")
        np.save(folder / f"{name}.npy", (1500 + 500 * noise.random((HEIGHT, WIDTH))))
        frames.append(
            {
                "file_path": f"images/{name}.png",
                "depth_file_path": f"{name}.npy",
                "transform_matrix": pose.tolist(),
            }
        )
    camera = {"w": WIDTH, "h": HEIGHT, "fl_x": 50.0, "fl_y": 52.0, "cx": WIDTH / 2}
    camera |= {"cy": HEIGHT / 2, "k1": 0.01, "k2": 0.0, "p1": 0.0, "p2": 0.0}
    points = torch.from_numpy(noise.uniform(-0.5, 0.5, (200, 3))).float()
    write_ply(folder / "points.ply", points, (255 * (points + 0.5)).byte())
    text = json.dumps({**camera, "ply_file_path": "points.ply", "frames": frames})
    (folder / "transforms.json").write_text(text)
    return folder


@pytest.fixture(scope="session")
def take_step():
    """A whole step of a trainer, with what it calls before and after."""

    def take(trainer, step):
        for callback in trainer.callbacks:
            callback.run_callback_at_location(step, location=Location.BEFORE_TRAIN_ITERATION)
        trainer.train_iteration(step)
        for callback in trainer.callbacks:
            callback.run_callback_at_location(step, location=Location.AFTER_TRAIN_ITERATION)

    return take


@pytest.fixture
def configured(scene, tmp_path):
    """The config of a short run of a method on the scene."""

    def config_of(method, steps=12, model=None, **datamanager):
        model = {"lpips_networks": (), **(model or {})}
        return small_run(method, scene, tmp_path, steps, datamanager, model)

    return config_of
