"""A run of a method whose result is there at once: saved, scored, and shown."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tyro
from nerfstudio.configs.base_config import LocalWriterConfig, LoggingConfig
from nerfstudio.utils import writer

from fm3d_plugins.atomic import atomic_write
from fm3d_plugins.progress import say
from fm3d_plugins.training import Trainer, TrainerConfig

RENDERS = "held_out"
"""Folder of a run with its held-out photos beside their renders."""

RESULTS = "eval.json"
"""File of a run with the scores of its held-out photos, as ns-eval writes them."""


def _without_step_log() -> LoggingConfig:
    """There are no steps; nerfstudio's log of them fails without any."""
    return LoggingConfig(local_writer=LocalWriterConfig(enable=False))


@dataclass
class OnePassTrainerConfig(TrainerConfig):
    """nerfstudio's trainer without steps."""

    _target: type = field(default_factory=lambda: OnePassTrainer)
    logging: tyro.conf.Suppress[LoggingConfig] = field(default_factory=_without_step_log)

    # nerfstudio's, without effect here: nothing is optimised, nothing can be resumed.
    max_num_iterations: tyro.conf.Suppress[int | None] = 0
    steps_per_save: tyro.conf.Suppress[int] = 0
    steps_per_eval_batch: tyro.conf.Suppress[int] = 0
    steps_per_eval_image: tyro.conf.Suppress[int] = 0
    steps_per_eval_all_images: tyro.conf.Suppress[int] = 0
    mixed_precision: tyro.conf.Suppress[bool] = False
    use_grad_scaler: tyro.conf.Suppress[bool] = False
    save_only_latest_checkpoint: tyro.conf.Suppress[bool] = True
    load_dir: tyro.conf.Suppress[Path | None] = None
    load_step: tyro.conf.Suppress[int | None] = None
    load_checkpoint: tyro.conf.Suppress[Path | None] = None
    load_scheduler: tyro.conf.Suppress[bool] = True
    log_gradients: tyro.conf.Suppress[bool] = False
    gradient_accumulation_steps: tyro.conf.Suppress[dict[str, int]] = field(default_factory=dict)
    start_paused: tyro.conf.Suppress[bool] = False
    optimizers: tyro.conf.Suppress[dict[str, Any]] = field(default_factory=dict)


class OnePassTrainer(Trainer):
    """Saves what the pipeline brings, scores the held-out photos, and ends (or shows) the run.

    The pipeline has a method `caveats(metrics)` that says in sentences how to take the scores, and
    `further_commands(config)` with lines about what may be done with the run.
    """

    config: OnePassTrainerConfig

    def train(self) -> None:
        """Called by ns-train once everything is set up; the result is already in the model."""
        manager: Any = self.pipeline.datamanager
        manager.train_dataparser_outputs.save_dataparser_transform(
            self.base_dir / "dataparser_transforms.json"
        )
        self._init_viewer_state()
        self.save_checkpoint(self.step)
        if len(manager.eval_dataset):  # Else that was said when the photos were read.
            self._score()
        self._after_train()

    def _score(self) -> None:
        """Render the held-out photos, write their scores, and say how to take them."""
        with self.train_lock:
            metrics = self.pipeline.get_average_eval_image_metrics(
                output_path=self.base_dir / RENDERS
            )
        self._write(metrics)
        self._say(metrics)

    def _write(self, metrics: dict[str, Any]) -> None:
        """To eval.json, and to whatever log was asked for."""
        results = {
            "experiment_name": self.config.experiment_name,
            "method_name": self.config.method_name,
            "checkpoint": str(self.checkpoint_dir / f"step-{self.step:09d}.ckpt"),
            "results": metrics,
        }
        with atomic_write(self.base_dir / RESULTS) as temporary:
            temporary.write_text(json.dumps(results, indent=2) + "\n", encoding="utf8")
        numbers = {name: value for name, value in metrics.items() if not isinstance(value, str)}
        writer.put_dict("Eval Images Metrics Dict (all images)", numbers, self.step)

    def _say(self, metrics: dict[str, Any]) -> None:
        """What came out, and where to look."""
        pipeline: Any = self.pipeline
        config = self.base_dir / "config.yml"
        lines = [
            *pipeline.caveats(metrics),
            f"Photos beside renders: {self.base_dir / RENDERS}",
            f"Look around: ns-viewer --load-config {config} --viewer.websocket-host 127.0.0.1",
            *pipeline.further_commands(config),
        ]
        for line in lines:
            say(line)

    def _check_viewer_warnings(self) -> None:
        """nerfstudio's says that nothing is evaluated with the viewer alone; here all is."""


@dataclass
class TuningTrainerConfig(OnePassTrainerConfig):
    """nerfstudio's trainer, with as many steps as are asked for: none by default."""

    _target: type = field(default_factory=lambda: TuningTrainer)
    max_num_iterations: int = 0  # type: ignore[assignment]
    """Steps of fine-tuning on the scene's own photos. 0: the weights stay as published."""
    steps_per_save: int = 500
    """Steps from one checkpoint to the next."""
    steps_per_eval_image: int = 250
    """Steps from one look at a held-out photo to the next."""
    steps_per_eval_all_images: int = 0  # type: ignore[assignment]
    """Steps from one scoring of all held-out photos to the next. 0: only at the end."""
    load_dir: Path | None = None
    """Folder `nerfstudio_models` of an earlier run, to go on from its latest checkpoint."""
    optimizers: dict[str, Any] = field(default_factory=dict)
    """How the network's weights are fine-tuned."""
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    """Where the course of a run is written."""

    def resolve(self) -> None:
        """As for every method; what cannot be without steps is left out."""
        super().resolve()
        if not self.max_num_iterations:
            self.logging, self.optimizers = _without_step_log(), {}


class TuningTrainer(OnePassTrainer):
    """Trains if there are steps to train, and is a run without steps otherwise."""

    config: TuningTrainerConfig

    def train(self) -> None:
        """Called by ns-train once everything is set up."""
        if self.config.max_num_iterations:
            Trainer.train(self)
        else:
            super().train()

    def _after_train(self) -> None:
        """Scores come before the viewer is left open."""
        if self.config.max_num_iterations:
            self._score()
        super()._after_train()
