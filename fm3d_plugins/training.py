"""What every method here adds to nerfstudio's trainer: device, run length, atomic checkpoints, and
an end that says what came of the run."""

import contextlib
import signal
import time
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
import tyro
from nerfstudio.configs import base_config
from nerfstudio.engine import trainer as nerfstudio_trainer
from nerfstudio.engine.callbacks import TrainingCallbackLocation
from nerfstudio.models.base_model import ModelConfig
from nerfstudio.utils import comms, writer
from nerfstudio.utils.misc import step_check
from nerfstudio.utils.rich_utils import CONSOLE

from fm3d_plugins.atomic import atomic_write
from fm3d_plugins.backends.metrics import without_fetching
from fm3d_plugins.compatibility import read_icons_once
from fm3d_plugins.errors import one_line_errors
from fm3d_plugins.files import require_regular
from fm3d_plugins.input_checks import data_of
from fm3d_plugins.io.transforms import estimator_of
from fm3d_plugins.nerfstudio_commands import require_log_service
from fm3d_plugins.nn.planning import duration
from fm3d_plugins.progress import say, signs_of_life
from fm3d_plugins.running import summary
from fm3d_plugins.running.checkpoint_files import (
    random_state,
    restore_random,
    same_options_expected,
    write_checkpoint,
)
from fm3d_plugins.running.checks import check_run, forget_refused, require_checkpoints
from fm3d_plugins.running.foreign_warnings import known_warnings_hidden
from fm3d_plugins.running.held_out_watch import HeldOutWatch
from fm3d_plugins.running.interruption import Interruption, exit_status
from fm3d_plugins.running.machine import MachineConfig, num_processes
from fm3d_plugins.running.open_viewer import can_be_stopped_by_hand, reach_of_viewer
from fm3d_plugins.running.optimization import (
    FROM_RECIPE,
    WHOLE_RUN,
    DecayConfig,  # noqa: F401  Config files that were saved earlier name them here.
    FusedAdamConfig,  # noqa: F401
)
from fm3d_plugins.running.option_ranges import require_in_range
from fm3d_plugins.running.plan import RunPlan
from fm3d_plugins.running.step_log import end_earlier_logs, step_logging


@dataclass
class BareModelConfig(ModelConfig):
    """nerfstudio's options of a model, without those that have no effect here."""

    enable_collider: tyro.conf.Suppress[bool] = False
    collider_params: tyro.conf.Suppress[dict[str, float] | None] = None
    loss_coefficients: tyro.conf.Suppress[dict[str, float]] = field(default_factory=dict)
    eval_num_rays_per_chunk: tyro.conf.Suppress[int] = 4096
    prompt: tyro.conf.Suppress[str | None] = None


@dataclass
class ViewerConfig(base_config.ViewerConfig):
    """nerfstudio's viewer, open to this computer alone: who reaches it needs no password."""

    websocket_host: str = "127.0.0.1"
    """Address to listen on. 127.0.0.1: this computer only; 0.0.0.0: open to the whole network."""


@dataclass
class TrainerConfig(nerfstudio_trainer.TrainerConfig):
    """nerfstudio's trainer, with what depends on the device decided when the run starts."""

    _target: type = field(default_factory=lambda: Trainer)
    machine: MachineConfig = field(default_factory=MachineConfig)
    viewer: ViewerConfig = field(default_factory=ViewerConfig)
    """Of the viewer: its address, its size, when it ends."""
    max_num_iterations: int | None = None  # type: ignore[assignment]
    """Steps to train. None: the method's own recipe for the device."""
    logging: base_config.LoggingConfig = field(default_factory=step_logging)
    """How the course of training is told."""
    prompt: tyro.conf.Suppress[str | None] = None

    fewest_steps: ClassVar[int] = 0
    """That a run may be asked for."""

    def set_timestamp(self) -> None:
        """Called by ns-train before anything is written: the time to refuse, and to decide."""
        with one_line_errors():
            require_log_service(self.vis)
            require_in_range(self, self.fewest_steps)
        super().set_timestamp()
        with one_line_errors():
            sentences = self.resolve()
            check_run(self)
        for sentence in sentences:
            say(sentence)

    def print_to_terminal(self) -> None:
        """As nerfstudio, but not in a log, where config.yml says the same."""
        if CONSOLE.is_terminal:
            super().print_to_terminal()

    def resolve(self) -> list[str]:
        """Replace every "auto" by a value, so that config.yml records what was really done.

        A model config with a method `resolve(device_type, max_num_iterations) -> RunPlan` decides
        its own fields, and a pipeline config with a method `check_devices(count)` may refuse. A
        second call changes nothing.

        Returns:
            What was chosen, in sentences.
        """
        check_devices = getattr(self.pipeline, "check_devices", None)
        if check_devices is not None:
            check_devices(num_processes(self.machine))
        if self.machine.device_type == "auto":
            self.machine.device_type = "cuda" if torch.cuda.is_available() else "cpu"
        cameras = getattr(self.pipeline.model, "camera_optimizer", None)
        sentences = []
        if cameras is not None and cameras.mode is None:
            sentences.append(cameras.resolve(self._has_estimated_cameras()))
        plan = self._plan()
        if plan is None:
            return sentences
        if self.max_num_iterations is None:
            self.max_num_iterations = plan.steps
        manager: Any = self.pipeline.datamanager
        for name, value in plan.datamanager.items():
            if getattr(manager, name) is None:
                setattr(manager, name, value)
        sentences.append(plan.sentence)
        for name, group in self.optimizers.items():
            optimizer, scheduler = group["optimizer"], group["scheduler"]
            if optimizer.lr == FROM_RECIPE:
                optimizer.lr, last = plan.learning_rates[name]
                if scheduler is not None and scheduler.lr_final is None:
                    scheduler.lr_final = last
            if scheduler is not None and scheduler.max_steps == WHOLE_RUN:
                scheduler.max_steps = plan.steps
        return sentences

    def _plan(self) -> RunPlan | None:
        """What the model decides, where it decides anything."""
        decide = getattr(self.pipeline.model, "resolve", None)
        return decide and decide(self.machine.device_type, self.max_num_iterations)

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


def _give_cores_to_kernels() -> None:
    """Let this package's kernels use the cores that torch would, and torch one.

    After each of its operations torch's threads spin for a while, on cores that the kernels need.
    """
    from fm3d_plugins.kernels.threads import get_num_threads, set_num_threads

    set_num_threads(max(get_num_threads(), torch.get_num_threads()))
    torch.set_num_threads(1)


class Trainer(nerfstudio_trainer.Trainer):
    """nerfstudio's trainer, whose checkpoints are whole or absent, and whose runs end with scores.

    The pipeline scores its held-out photos (`get_average_eval_image_metrics`, with a folder of
    pictures as `panels`), tells its `held_out_psnr()` meanwhile, and says its `result()`, the
    `caveats(metrics)` of scores, and `further_commands(config)`.
    """

    config: TrainerConfig

    def __init__(self, config: TrainerConfig, local_rank: int = 0, world_size: int = 1) -> None:
        self._began = time.monotonic()
        self._interruption = Interruption()
        self._is_told_to_stop = False
        self._done = self._kept = -1
        config.resolve()
        if config.machine.device_type == "cpu":
            _give_cores_to_kernels()
        with known_warnings_hidden():
            super().__init__(config, local_rank, world_size)

    def setup(self, test_mode: Literal["test", "val", "inference"] = "val") -> None:
        """As nerfstudio's, and say who can open the viewer."""
        end_earlier_logs()
        read_icons_once()
        try:
            with known_warnings_hidden():
                super().setup(test_mode)
        except BaseException as error:
            if comms.is_main_process():
                forget_refused(self.base_dir, self.config.output_dir)
            if not isinstance(error, KeyboardInterrupt):
                raise
            say("Stopped before training began; nothing is kept.")
            raise SystemExit(exit_status(signal.SIGINT)) from None
        self._done = self._start_step - 1
        self._watch = HeldOutWatch(self.config.max_num_iterations or 0)
        if self.viewer_state is not None:
            say(reach_of_viewer(self.config.viewer.websocket_host))

    @property
    def stop_training(self) -> bool:
        """Asked by nerfstudio before every step."""
        return self._is_told_to_stop or self._interruption.signal is not None

    @stop_training.setter
    def stop_training(self, value: bool) -> None:
        self._is_told_to_stop = value

    def train(self) -> None:
        """Called by ns-train once everything is set up: all steps, the checkpoint, the scores.

        Ctrl-C (SIGINT) and SIGTERM let the step at hand end, and keep a checkpoint of it. A second
        one stops at once, with the checkpoint that was there.

        Raises:
            SystemExit: Stopped, with 128 and the signal's number as status (130 for Ctrl-C).
        """
        try:
            with known_warnings_hidden():
                with self._interruption as interruption:
                    self._take_steps()
                if interruption.signal is None:
                    self._finish()
        except KeyboardInterrupt:
            self._leave(self._interruption.signal or signal.SIGINT)
        if self._interruption.signal is not None:
            self.save_checkpoint(self._done)
            self._leave(self._interruption.signal)

    def _leave(self, number: int) -> None:
        """One line, and the end of the process."""
        kept = None if self._kept < 0 else self._kept
        say(summary.stop_line(self._done, kept, self.checkpoint_dir))
        raise SystemExit(exit_status(number))

    def _take_steps(self) -> None:
        """Everything up to the last step."""
        super().train()

    def _after_train(self) -> None:
        """nerfstudio's call after the last step; what it does there comes in `_finish`."""

    def train_iteration(self, step: int) -> Any:
        """One step; the first may compile kernels, which takes a while."""
        if self._done >= self._start_step:
            result = super().train_iteration(step)
        else:
            with signs_of_life(lambda t: f"The first step prepares the kernels: {t:.0f} s so far."):
                result = super().train_iteration(step)
        self._done = step
        return result

    def eval_iteration(self, step: int) -> None:
        """As nerfstudio's; and the PSNR of some held-out photos, whatever is logged to."""
        pipeline: Any = self.pipeline
        with without_fetching(pipeline.model):
            super().eval_iteration(step)
        is_logged = step_check(step, self.config.logging.steps_per_log)
        if is_logged and self._watch.is_due(step - self._start_step):
            with self._watch.timed(step - self._start_step):
                psnr = pipeline.held_out_psnr()
            writer.put_scalar(writer.EventName.CURR_TEST_PSNR, psnr, step)

    def _finish(self) -> None:
        """Keep the result, score it, say what came of the run, and leave the viewer open."""
        self.training_state = "completed"
        writer.write_out_storage()
        try:
            with self.train_lock:  # They may change what the viewer renders.
                for callback in self.callbacks:
                    callback.run_callback_at_location(
                        self.step, TrainingCallbackLocation.AFTER_TRAIN
                    )
        finally:
            self.save_checkpoint(self.step)  # What was trained is kept even if they fail.
        for line in self._what_came():
            say(line)
        if not self.config.viewer.quit_on_train_completion:
            self._train_complete_viewer()

    def _what_came(self) -> list[str]:
        """Scores, where they and the pictures lie, and what to type next."""
        pipeline: Any = self.pipeline
        photos, config = pipeline.datamanager.eval_dataset, self.base_dir / "config.yml"
        lines = ["No photo is held out, so nothing was scored."]  # Why, was said at the begin.
        if len(photos):
            metrics = self._score()
            lines = summary.score_lines(metrics, len(photos), self.base_dir)
            lines += pipeline.caveats(metrics)
        first = summary.first_line(
            str(self.config.method_name),
            self._done + 1,
            pipeline.result(),
            duration(time.monotonic() - self._began),
        )
        further = pipeline.further_commands(config)
        return [first, *lines, *summary.command_lines(config, bool(len(photos)), further)]

    def _score(self) -> dict[str, Any]:
        """Score the held-out photos; write eval.json, pictures, and to whatever is logged to."""
        pipeline: Any = self.pipeline
        with self.train_lock:
            metrics = pipeline.get_average_eval_image_metrics(
                panels=self.base_dir / summary.PICTURES
            )
        checkpoint = self.checkpoint_dir / f"step-{self.step:09d}.ckpt"
        summary.write_results(self.base_dir / summary.RESULTS, self.config, checkpoint, metrics)
        numbers = {name: value for name, value in metrics.items() if not isinstance(value, str)}
        writer.put_dict("Eval Images Metrics Dict (all images)", numbers, self.step)
        writer.write_out_storage()
        return metrics

    def _train_complete_viewer(self) -> None:
        """Leave the viewer open until Ctrl-C, where somebody at a terminal can press it."""
        if self.viewer_state is None:
            return
        if not can_be_stopped_by_hand():
            say("The viewer is closed, as there is no terminal to end it from.")
            return
        with contextlib.suppress(KeyboardInterrupt):
            super()._train_complete_viewer()

    def save_checkpoint(self, step: int) -> None:
        """Write a checkpoint atomically, then drop the older ones if so configured.

        A killed process leaves the previous checkpoint. Of several processes the first one writes;
        all are asked, as each may hold a part of the state.
        """
        state = self._state(step)
        if comms.is_main_process():
            path = self.checkpoint_dir / f"step-{step:09d}.ckpt"
            write_checkpoint(path, self.base_dir / "checkpoint.partial", state)
            if self.config.save_only_latest_checkpoint:
                for other in self.checkpoint_dir.glob("step-*.ckpt"):
                    if other != path:
                        other.unlink()
        self._kept = step

    def _state(self, step: int) -> dict[str, Any]:
        pipeline = getattr(self.pipeline, "module", self.pipeline)
        return {
            "step": step,
            "pipeline": pipeline.state_dict(),
            "optimizers": {k: v.state_dict() for k, v in self.optimizers.optimizers.items()},
            "schedulers": {k: v.state_dict() for k, v in self.optimizers.schedulers.items()},
            "scalers": self.grad_scaler.state_dict(),
            "random": random_state(),
        }

    def _load_checkpoint(self) -> None:
        """As nerfstudio's, and go on with the photos and random numbers that were next."""
        path, folder = self.config.load_checkpoint, self.config.load_dir
        if folder is not None:
            with one_line_errors():
                require_checkpoints(folder)
        if path is not None:
            require_regular(path)
        with same_options_expected(folder or path, list(self.optimizers.optimizers)):
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
        restore_random(state.get("random"))
