"""The trainer of networks: steps to a total, clipped and skipped as published, resumed exactly."""

import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import Any, Literal

import torch
import tyro
from nerfstudio.engine.optimizers import Optimizers
from nerfstudio.utils import comms, writer
from nerfstudio.utils.misc import step_check

from fm3d_plugins.errors import one_line_errors
from fm3d_plugins.network_training.loss_curve import PICTURE, draw_losses
from fm3d_plugins.network_training.loss_log import FILE, StepTable
from fm3d_plugins.network_training.parts import trained_share
from fm3d_plugins.network_training.pipeline import NetworkPipeline, NetworkPipelineConfig
from fm3d_plugins.network_training.processes import (
    MachinesConfig,
    largest,
    mean,
    meet,
    one_voice,
    settle,
    together,
)
from fm3d_plugins.network_training.sharding import (
    average_whole,
    divide_when_read,
    gathered,
    gradient_norm,
)
from fm3d_plugins.nn.planning import duration
from fm3d_plugins.progress import say, signs_of_life
from fm3d_plugins.running import summary
from fm3d_plugins.running.machine import is_torchrun
from fm3d_plugins.training import Trainer, TrainerConfig, ViewerConfig

DRAWN_ROOMS = "synthetic-rooms"
"""Name of the experiment, unless scenes are those of a folder."""

TINY = 1e-6
"""Added to norms that are divided by, as torch does when it clips gradients."""


@dataclass
class NetworkTrainerConfig(TrainerConfig):
    """nerfstudio's trainer for networks."""

    _target: type = field(default_factory=lambda: NetworkTrainer)
    pipeline: NetworkPipelineConfig = field(default_factory=NetworkPipelineConfig)  # type: ignore[assignment]
    vis: Literal["tensorboard", "wandb", "comet"] = "tensorboard"  # type: ignore[assignment]
    """Where the course of training is written; there is no scene that a viewer could show."""
    machine: MachinesConfig = field(default_factory=MachinesConfig)
    max_num_iterations: int | None = None  # type: ignore[assignment]
    """Step at which training ends, that of earlier runs which are gone on from included. None: as
    the method says."""
    max_minutes: float = 0.0
    """Ends a piece of the run after so many minutes, with a checkpoint; the same command, which
    needs a --timestamp, goes on from there. The step at hand and its scores are done first. 0: no
    limit."""
    steps_per_save: int = 200
    """Steps from one checkpoint to the next."""
    steps_per_eval_all_images: int = 200
    """Steps from one scoring of the held-out scenes to the next."""
    max_norm: float = 1.0
    """Gradients of all parameters together are scaled down to this norm."""
    skip_norm: float = 5.0
    """A step with a gradient of a larger norm, or one that is not finite, changes nothing."""

    # nerfstudio's, without effect here.
    viewer: tyro.conf.Suppress[ViewerConfig] = field(default_factory=ViewerConfig)
    steps_per_eval_batch: tyro.conf.Suppress[int] = 0
    steps_per_eval_image: tyro.conf.Suppress[int] = 0
    mixed_precision: tyro.conf.Suppress[bool] = False
    use_grad_scaler: tyro.conf.Suppress[bool] = False
    log_gradients: tyro.conf.Suppress[bool] = False
    gradient_accumulation_steps: tyro.conf.Suppress[dict[str, int]] = field(default_factory=dict)
    start_paused: tyro.conf.Suppress[bool] = False

    def set_timestamp(self) -> None:
        """As for every method; then torchrun's processes meet, in one folder.

        If a checkpoint lies there they go on from it: the job is started again. A run in pieces has
        to be found again, too.
        """
        with one_voice(), one_line_errors():
            if self.max_minutes and self.timestamp == "{timestamp}":
                raise ValueError(
                    f"Found --max-minutes {self.max_minutes:g} and no --timestamp. Expected a name "
                    "of the run, by which the same command goes on with it. Add --timestamp NAME."
                )
            super().set_timestamp()
            if is_torchrun():
                self.timestamp = meet(self.machine.device_type, self.timestamp)
                self._go_on()

    def _go_on(self) -> bool:
        """From what earlier processes of the same run left; whether there is something."""
        folder = self.get_checkpoint_dir()
        is_begun = any(folder.glob("step-*.ckpt"))
        if is_begun:
            self.load_dir, self.load_step = folder, None
        return is_begun

    def save_config(self) -> None:
        """As for every method, by the first of several processes."""
        if comms.is_main_process():
            super().save_config()

    def resolve(self) -> list[str]:
        """As for every method; the data know the whole run's steps.

        Raises:
            ValueError: An option of the data makes no batch, or so many processes cannot train.
        """
        sentences = super().resolve()
        folders = self.pipeline.datamanager.folders()
        if folders and self.experiment_name == DRAWN_ROOMS:
            self.experiment_name = folders[0].resolve().name or "scenes"
        is_told = self.load_dir is not None or self.load_checkpoint is not None
        if self.max_minutes and not is_told and self._go_on():
            sentences.append(f"The run goes on: {self.load_dir} holds what came of earlier pieces.")
        self.machine.resolve()
        self.pipeline.datamanager.num_steps = self.max_num_iterations or 0
        self.pipeline.datamanager.patch_size = self.pipeline.model.patch_size
        self.pipeline.datamanager.check()
        self.pipeline.check_processes(self.machine.count())
        return sentences


class NetworkTrainer(Trainer):
    """Trains to the last step, and says how good the network is beside trivial baselines."""

    config: NetworkTrainerConfig
    pipeline: NetworkPipeline  # type: ignore[assignment]

    def __init__(self, config: NetworkTrainerConfig, local_rank: int = 0, world_size: int = 1):
        local_rank = settle(config.machine.device_type, local_rank, config.machine.num_devices)
        num_threads = torch.get_num_threads()
        super().__init__(config, local_rank, config.machine.count())
        # Here torch does the work; scenes are made meanwhile, by fewer operations.
        torch.set_num_threads(num_threads)

    def _check_viewer_warnings(self) -> None:
        """There is no viewer."""

    def train(self) -> None:
        """As for every method, by all processes together."""
        with together():
            super().train()

    def _is_told_to_end(self) -> bool:
        """Whether any of the processes is; all must ask."""
        self._interruption.signal = largest(self._interruption.signal or 0) or None
        return self.stop_training

    def _take_steps(self) -> None:
        """All that are left."""
        total = self.config.max_num_iterations or 0
        self.step = max(0, self._start_step - 1)
        writer.GLOBAL_BUFFER["max_iter"] = max(1, total - self._start_step)
        if comms.is_main_process():
            self.table = StepTable(self.base_dir / FILE, self._start_step)
            self.pipeline.datamanager.keep_report(self.base_dir)
        say(trained_share(self.pipeline.model.network))
        for step in range(self._start_step, total):
            if self._is_told_to_end():
                return
            self.step = step
            begin = time.monotonic()
            self.train_iteration(step)
            seconds = time.monotonic() - begin
            writer.put_time(writer.EventName.ITER_TRAIN_TIME, seconds, step)
            if step_check(step, self.config.steps_per_eval_all_images):
                self._look(step)
            if step_check(step, self.config.steps_per_save):
                self.save_checkpoint(step)
            writer.write_out_storage()
            if self._is_out_of_time(time.monotonic() - begin):
                return
        self._is_told_to_end()

    def _is_out_of_time(self, seconds: float) -> bool:
        """Whether another step, as long as the last one, would be too late for some process."""
        limit = 60 * self.config.max_minutes
        is_late = time.monotonic() - self._began + seconds > limit
        return bool(limit) and bool(largest(int(is_late)))

    def _finish(self) -> None:
        """As of every method; a piece of a run ends with its checkpoint."""
        total = self.config.max_num_iterations or 0
        if self.step + 1 >= total:
            super()._finish()
            return
        self.save_checkpoint(self.step)
        say(
            f"This piece of the run ends at step {self.step + 1} of {total}, after "
            f"{duration(time.monotonic() - self._began)}. The same command goes on from there."
        )

    def train_iteration(self, step: int) -> Any:
        """One step of all optimisers, unless its gradient is to be skipped.

        What is decided and written are means over the processes, equal on all of them.
        """
        begin = time.monotonic()
        self.optimizers.zero_grad_all()
        _, losses, metrics = self._losses(step)
        loss = losses["main_loss"]
        loss.backward()
        gradients = self._gradients()
        numbers = [loss.detach(), gradient_norm(gradients), *metrics.values()]
        mean_loss, norm, *others = mean(numbers).tolist()
        is_taken = math.isfinite(norm) and norm <= self.config.skip_norm
        rates = {k: s.get_last_lr()[0] for k, s in self.optimizers.schedulers.items()}
        if is_taken:
            for gradient in gradients:
                gradient.mul_(min(1.0, self.config.max_norm / (norm + TINY)))
            for optimizer in self.optimizers.optimizers.values():
                optimizer.step()
            self.pipeline.model.after_step()
        for scheduler in self.optimizers.schedulers.values():
            scheduler.step()
        seconds = time.monotonic() - begin
        self.pipeline.model.seconds += seconds
        named = dict(zip(metrics, others, strict=True))
        self._write(step, mean_loss, named, norm, is_taken, rates, seconds)
        self._done = step
        return loss, losses, metrics

    def _gradients(self) -> list[torch.Tensor]:
        """Of all parameters that the step used: means over the processes, or parts of them."""
        parameters = [p for group in self.optimizers.parameters.values() for p in group]
        if self.config.pipeline.shard:
            average_whole(parameters)
        return [p.grad for p in parameters if p.grad is not None]

    def _losses(self, step: int) -> Any:
        """What the pipeline says; before the first step kernels may have to be compiled."""
        if self._done >= self._start_step:
            return self.pipeline.get_train_loss_dict(step)
        with signs_of_life(lambda t: f"The first step prepares the kernels: {t:.0f} s so far."):
            return self.pipeline.get_train_loss_dict(step)

    def setup_optimizers(self) -> Optimizers:
        """As nerfstudio's; of what is divided, each process reads its part from checkpoints."""
        optimizers = super().setup_optimizers()
        if self.config.pipeline.shard:
            for optimizer in optimizers.optimizers.values():
                divide_when_read(optimizer)
        return optimizers

    def _state(self, step: int) -> dict[str, Any]:
        """Whole tensors, so any number of processes can go on."""
        state = super()._state(step)
        return gathered(state) if self.config.pipeline.shard else state

    def _write(
        self,
        step: int,
        loss: float,
        metrics: dict[str, float],
        norm: float,
        is_taken: bool,
        rates: dict[str, float],
        seconds: float,
    ) -> None:
        """The step's row, and scalars for the logs."""
        if not comms.is_main_process():
            return
        shape = self.pipeline.datamanager.shape_at(step)
        row = {
            "loss": loss,
            **metrics,
            "gradient_norm": norm,
            "is_taken": int(is_taken),
            **{f"rate_{name}": rate for name, rate in rates.items()},
            "num_scenes": shape.num_scenes,
            "height": shape.height,
            "width": shape.width,
            "seconds": seconds,
        }
        self.table.add(step, row)
        if step_check(step, self.config.logging.steps_per_log, run_at_zero=True):
            writer.put_dict("Train", row, step)

    def _look(self, step: int) -> None:
        """Scores of the size that is trained now, and a picture, to the logs."""
        manager = self.pipeline.datamanager
        size = manager.size_at(step)
        result = self.pipeline.result(size)
        writer.put_dict(f"Held-out, {size} px", result.metrics, step)
        writer.put_image("Held-out", result.picture, step)
        say(f"Step {step + 1}, held out at {size} px: {score_sentence(result.metrics)}.")

    def _what_came(self) -> list[str]:
        """Scores at all sizes, where they and the pictures lie, and what to type next.

        All processes score, as each may hold a part of the network; the first one writes.
        """
        model, sizes = self.pipeline.model, self.pipeline.datamanager.config.image_sizes
        lines, metrics = [], {}
        folder = self.base_dir / summary.PICTURES
        results = {size: self.pipeline.result(size) for size in sizes}
        if not comms.is_main_process():
            return []
        for size, result in results.items():
            metrics |= {f"{size}px_{name}": value for name, value in result.metrics.items()}
            lines.append(f"Held out at {size} px: {score_sentence(result.metrics)}.")
            save_picture(folder / f"{size}px.png", result.picture)
        checkpoint = self.checkpoint_dir / f"step-{self.step:09d}.ckpt"
        summary.write_results(self.base_dir / summary.RESULTS, self.config, checkpoint, metrics)
        writer.write_out_storage()
        draw_losses(self.base_dir / FILE, self.base_dir / PICTURE)
        config = quote(str(self.base_dir / "config.yml"))
        count = sum(p.numel() for p in model.network.parameters())
        first = (
            f"{self.config.method_name} is done: step {self.step + 1}, {count / 1e6:.2f} million "
            f"parameters, {int(model.num_images)} images, {duration(float(model.seconds))}."
        )
        commands = {"Export": f"fm3d weights export --load-config {config} --output FILE"}
        pictures = f"Pictures: {folder}; losses: {self.base_dir / PICTURE}"
        return [first, *lines, pictures, *summary.aligned(commands)]


def score_sentence(metrics: dict[str, float]) -> str:
    """Means with their standard errors, as far as there are any."""
    said = []
    for name, value in metrics.items():
        # `match_error` is a mean, and `match_error_error` its error.
        if name.endswith("_error") and name.removesuffix("_error") in metrics:
            continue
        error = metrics.get(f"{name}_error")
        said.append(f"{name} {value:.3f}" + ("" if error is None else f" +- {error:.3f}"))
    return ", ".join(said)


def save_picture(path: Path, picture: torch.Tensor) -> None:
    """Write [height, width, 3] in [0, 1] as a file, four times as large."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = (picture.clamp(0, 1) * 255).round().to(torch.uint8).cpu()
    pixels = pixels.repeat_interleave(4, 0).repeat_interleave(4, 1)
    Image.fromarray(pixels.numpy()).save(path)
