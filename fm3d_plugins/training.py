"""What every method here adds to nerfstudio's trainer: device, run length, atomic checkpoints."""

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import IO, Any, Literal, TypeVar

import torch
from nerfstudio.configs import base_config
from nerfstudio.engine import trainer as nerfstudio_trainer
from nerfstudio.engine.optimizers import AdamOptimizerConfig
from nerfstudio.utils.rich_utils import CONSOLE

from fm3d_plugins.atomic import atomic_write
from fm3d_plugins.disk_space import require_room
from fm3d_plugins.errors import one_line_errors
from fm3d_plugins.files import require_regular, require_replaceable
from fm3d_plugins.input_checks import data_of
from fm3d_plugins.io.transforms import estimator_of
from fm3d_plugins.kernels.adam import KernelAdam
from fm3d_plugins.nerfstudio_commands import require_log_service
from fm3d_plugins.progress import say

WHOLE_RUN = 0
"""As a scheduler's `max_steps`: as many steps as the run has."""

FROM_RECIPE = 0.0
"""As a learning rate: what the method's recipe for the device says."""


@dataclass(frozen=True)
class RunPlan:
    """What a method decides about a run once its device is known."""

    steps: int
    learning_rates: Mapping[str, tuple[float, float]]
    """First and last learning rate of each parameter group."""
    sentence: str
    """Tells the user what was chosen."""


RecipeT = TypeVar("RecipeT")


def with_options(recipe: RecipeT, options: object) -> RecipeT:
    """A recipe (a dataclass) with the fields of the same name that a config sets, if not None."""
    chosen = {name: value for name, value in vars(options).items() if value is not None}
    own = {name: chosen[name] for name in vars(recipe) if name in chosen}
    return replace(recipe, **own)  # type: ignore[type-var]


def fill_in(options: object, recipe: object) -> None:
    """Give a config the values of the recipe's fields of the same name: config.yml shows them."""
    for name in vars(options):
        if hasattr(recipe, name):
            setattr(options, name, getattr(recipe, name))


@dataclass
class MachineConfig(base_config.MachineConfig):
    """Where to train."""

    device_type: Literal["auto", "cpu", "cuda", "mps"] = "auto"  # type: ignore[assignment]
    """auto: CUDA when there is a CUDA device, otherwise the CPU."""


@dataclass
class ViewerConfig(base_config.ViewerConfig):
    """nerfstudio's viewer, open to this computer alone: who reaches it needs no password."""

    websocket_host: str = "127.0.0.1"
    """Address to listen on. 127.0.0.1: this computer only; 0.0.0.0: open to the whole network."""


@dataclass
class FusedAdamConfig(AdamOptimizerConfig):
    """Adam that updates all moments in one pass: by a kernel on a CPU, by torch where it can."""

    weight_decay: float = 0.0
    """The weight decay to use."""

    def setup(self, params) -> torch.optim.Optimizer:
        params = list(params)
        suits = [
            p.device.type == "cpu" and p.dtype == torch.float32 and p.is_contiguous()
            for p in params
        ]
        if self.weight_decay == 0 and all(suits):
            return KernelAdam(params, lr=self.lr, eps=self.eps)
        adam = partial(
            torch.optim.Adam, params, lr=self.lr, eps=self.eps, weight_decay=self.weight_decay
        )
        try:
            return adam(fused=True)
        except (RuntimeError, TypeError):
            return adam()


@dataclass
class TrainerConfig(nerfstudio_trainer.TrainerConfig):
    """nerfstudio's trainer, with what depends on the device decided when the run starts."""

    _target: type = field(default_factory=lambda: Trainer)
    machine: MachineConfig = field(default_factory=MachineConfig)
    viewer: ViewerConfig = field(default_factory=ViewerConfig)
    """Of the viewer: its address, its size, when it ends."""
    max_num_iterations: int | None = None  # type: ignore[assignment]
    """Steps to train. None: the method's own recipe for the device."""

    def set_timestamp(self) -> None:
        """Called by ns-train before anything else: when to decide what depends on the device."""
        with one_line_errors():
            require_log_service(self.vis)
        super().set_timestamp()
        self.resolve()

    def resolve(self) -> None:
        """Replace every "auto" by a value, so that config.yml records what was really done.

        A model config with a method `resolve(device_type, max_num_iterations) -> RunPlan` decides
        its own fields, and a pipeline config with a method `check_devices(count)` may refuse. A
        second call changes nothing.
        """
        check_devices = getattr(self.pipeline, "check_devices", None)
        if check_devices is not None:
            check_devices(self.machine.num_devices * self.machine.num_machines)
        if self.machine.device_type == "auto":
            self.machine.device_type = "cuda" if torch.cuda.is_available() else "cpu"
        cameras = getattr(self.pipeline.model, "camera_optimizer", None)
        if cameras is not None and cameras.mode is None:
            CONSOLE.print(cameras.resolve(self._has_estimated_cameras()))
        decide = getattr(self.pipeline.model, "resolve", None)
        if decide is None:
            return
        plan: RunPlan = decide(self.machine.device_type, self.max_num_iterations)
        if self.max_num_iterations is None:
            self.max_num_iterations = plan.steps
            CONSOLE.print(plan.sentence)
        for name, group in self.optimizers.items():
            optimizer, scheduler = group["optimizer"], group["scheduler"]
            if optimizer.lr == FROM_RECIPE:
                optimizer.lr, last = plan.learning_rates[name]
                if scheduler is not None and scheduler.lr_final is None:
                    scheduler.lr_final = last
            if scheduler is not None and scheduler.max_steps == WHOLE_RUN:
                scheduler.max_steps = plan.steps

    def _has_estimated_cameras(self) -> bool:
        """Whether an estimator finds the cameras now, or found those of the scene's file."""
        manager = self.pipeline.datamanager
        if hasattr(getattr(manager, "dataparser", None), "estimator"):
            return True
        data = data_of(manager)
        return data is not None and estimator_of(data) is not None

    def save_config(self) -> None:
        """Write config.yml atomically."""
        import yaml

        path = self.get_base_dir() / "config.yml"
        with one_line_errors():
            with atomic_write(path) as temporary:
                temporary.write_text(yaml.dump(self), "utf8")
        CONSOLE.log(f"Saving config to: {path}")


class _Patient:
    """A stream that keeps the first error of a write until it is closed.

    torch's writer calls it from C++, where an error that is raised in between ends the process.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self._error = stream, None

    def write(self, content: Any) -> int:
        if self._error is None:
            try:
                return self._stream.write(content)
            except OSError as error:
                self._error = error
        return len(content)

    def flush(self) -> None:
        if self._error is None:
            try:
                self._stream.flush()
            except OSError as error:
                self._error = error

    def __enter__(self) -> Any:
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        self.flush()
        with contextlib.suppress(OSError):
            self._stream.close()
        if self._error is not None and kind is None:
            raise self._error


def _bytes_of(state: object) -> int:
    """Of all tensors in a checkpoint."""
    if isinstance(state, torch.Tensor):
        return state.numel() * state.element_size()
    if isinstance(state, Mapping):
        return sum(_bytes_of(each) for each in state.values())
    if isinstance(state, list | tuple):
        return sum(_bytes_of(each) for each in state)
    return 0


def reach_of_viewer(host: str) -> str:
    """Who can open a viewer that listens on an address, and how to change it."""
    if host in ("127.0.0.1", "localhost", "::1"):
        return (
            "The viewer can be opened on this computer only. From another one: forward its port "
            "(ssh -L 7007:localhost:7007 HOST), or open it to the whole network with "
            "--viewer.websocket-host 0.0.0.0 (there is no password)."
        )
    return f"The viewer listens on {host}: everyone who reaches it can open it, without a password."


def _give_cores_to_kernels() -> None:
    """Let this package's kernels use the cores that torch would, and torch one.

    After each of its operations torch's threads spin for a while, on cores that the kernels need.
    """
    from fm3d_plugins.kernels.threads import get_num_threads, set_num_threads

    set_num_threads(max(get_num_threads(), torch.get_num_threads()))
    torch.set_num_threads(1)


def _random_state() -> dict[str, Any]:
    """Of torch's generators; density control and random backgrounds draw from them."""
    on_gpu = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return {"cpu": torch.get_rng_state(), "cuda": on_gpu}


def _restore_random(state: dict[str, Any] | None) -> None:
    """Nothing happens for a checkpoint that holds no state, such as nerfstudio's own."""
    if state is None:
        return
    torch.set_rng_state(state["cpu"].clone())
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all([values.clone() for values in state["cuda"]])


class Trainer(nerfstudio_trainer.Trainer):
    """nerfstudio's trainer, whose checkpoints are whole or absent."""

    config: TrainerConfig

    def __init__(self, config: TrainerConfig, local_rank: int = 0, world_size: int = 1) -> None:
        config.resolve()
        if config.machine.device_type == "cpu":
            _give_cores_to_kernels()
        super().__init__(config, local_rank, world_size)

    def setup(self, test_mode: Literal["test", "val", "inference"] = "val") -> None:
        """As nerfstudio's, and say who can open the viewer."""
        super().setup(test_mode)
        if self.viewer_state is not None:
            say(reach_of_viewer(self.config.viewer.websocket_host))

    def save_checkpoint(self, step: int) -> None:
        """Write a checkpoint atomically, then drop the older ones if so configured.

        A killed process leaves the previous checkpoint. The file is made outside the checkpoint
        folder, because nerfstudio parses every name in there as a step.
        """
        if self.local_rank != 0:
            return
        path = self.checkpoint_dir / f"step-{step:09d}.ckpt"
        path.parent.mkdir(parents=True, exist_ok=True)
        staged = self.base_dir / "checkpoint.partial"
        with one_line_errors():
            state = self._state(step)
            require_room(path.parent, _bytes_of(state), f"the checkpoint {path.name}")
            # A stream of Python's: torch's own writer ends the process where the disk is full.
            with atomic_write(staged) as temporary, _Patient(temporary.open("wb")) as stream:
                torch.save(state, stream)
            require_replaceable(path)
            os.replace(staged, path)
        if self.config.save_only_latest_checkpoint:
            for other in self.checkpoint_dir.glob("step-*.ckpt"):
                if other != path:
                    other.unlink()

    def _state(self, step: int) -> dict[str, Any]:
        pipeline = getattr(self.pipeline, "module", self.pipeline)
        return {
            "step": step,
            "pipeline": pipeline.state_dict(),
            "optimizers": {k: v.state_dict() for k, v in self.optimizers.optimizers.items()},
            "schedulers": {k: v.state_dict() for k, v in self.optimizers.schedulers.items()},
            "scalers": self.grad_scaler.state_dict(),
            "random": _random_state(),
        }

    def _load_checkpoint(self) -> None:
        """As nerfstudio's, and go on with the photos and random numbers that were next."""
        path, folder = self.config.load_checkpoint, self.config.load_dir
        if folder is not None and not any(folder.glob("step-*.ckpt")):
            raise SystemExit(
                f"{folder} holds no checkpoint. Expected files named step-*.ckpt. Pass the folder "
                "`nerfstudio_models` of an earlier run to --load-dir."
            )
        if path is not None:
            require_regular(path)
        super()._load_checkpoint()
        if folder is not None:
            path = folder / f"step-{self._start_step - 1:09d}.ckpt"
        if path is None:
            return
        skip = getattr(self.pipeline.datamanager, "skip_photos", None)
        if skip is not None:
            skip(self._start_step)
        # Read again, but only this entry: nerfstudio hands nothing else of the file on.
        state = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        _restore_random(state.get("random"))
