"""A run of a method whose result is there at once: saved, scored, and shown."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import tyro
from nerfstudio.configs.base_config import LocalWriterConfig, LoggingConfig

from fm3d_plugins.running.step_log import step_logging
from fm3d_plugins.training import Trainer, TrainerConfig


def _without_step_log() -> LoggingConfig:
    """There are no steps; nerfstudio's log of them fails without any."""
    return LoggingConfig(local_writer=LocalWriterConfig(enable=False), profiler="none")


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

    weights: str | None = None
    """Published weights by name (`fm3d weights list`), or a file or folder. None: those that the
    dataparser's --weights, or the model, names."""

    def resolve(self) -> list[str]:
        """As for every method; the weights go where they are used.

        Raises:
            ValueError: The dataparser has other weights, or there is no use for any.
        """
        if self.weights is not None:
            self._hand_on_weights(self.weights)
        return super().resolve()

    def _hand_on_weights(self, weights: str) -> None:
        parser: Any = getattr(self.pipeline.datamanager, "dataparser", None)
        model: Any = self.pipeline.model
        if getattr(model, "weights", ""):
            model.weights = weights
            return
        estimator: Any = getattr(parser, "estimator", None)
        if not hasattr(estimator, "weights"):
            raise ValueError(
                f"--weights {weights} was given, but the dataparser {type(parser).__name__} has no "
                "network. Expected an estimator by a network. Leave --weights out, or the "
                "dataparser's word."
            )
        default = type(estimator)().weights
        if estimator.weights not in (default, weights):
            raise ValueError(
                f"--weights {weights} stands before the dataparser's word, and --weights "
                f"{estimator.weights} after it. Expected one of them. Leave the other out."
            )
        parser.estimator = replace(estimator, weights=weights)


class OnePassTrainer(Trainer):
    """Takes no steps: the result is in the model when the pipeline is there."""

    config: OnePassTrainerConfig

    def _take_steps(self) -> None:
        """What nerfstudio's trainer does before the first step."""
        manager: Any = self.pipeline.datamanager
        manager.train_dataparser_outputs.save_dataparser_transform(
            self.base_dir / "dataparser_transforms.json"
        )
        self._init_viewer_state()

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
    logging: LoggingConfig = field(default_factory=step_logging)
    """Where the course of a run is written."""

    def resolve(self) -> list[str]:
        """As for every method; what cannot be without steps is left out."""
        sentences = super().resolve()
        if not self.max_num_iterations:
            self.logging, self.optimizers = _without_step_log(), {}
        return sentences


class TuningTrainer(OnePassTrainer):
    """Trains if there are steps to train, and is a run without steps otherwise."""

    config: TuningTrainerConfig

    def _take_steps(self) -> None:
        """Those of fine-tuning, if there are any."""
        if self.config.max_num_iterations:
            Trainer._take_steps(self)
        else:
            super()._take_steps()
