"""The pipeline of methods that train on one scene and may optimise its cameras."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes
from nerfstudio.pipelines.base_pipeline import VanillaPipeline, VanillaPipelineConfig
from nerfstudio.utils.misc import step_check

from fm3d_plugins.camera_optimization.evaluation import camera_frusta, score_held_out
from fm3d_plugins.camera_optimization.held_out_poses import TestPoseProtocol
from fm3d_plugins.camera_optimization.saved_state import EXPECTED, check_state
from fm3d_plugins.errors import one_line_errors
from fm3d_plugins.nerfstudio_cameras import world_from_cameras
from fm3d_plugins.nerfstudio_commands import require_supported
from fm3d_plugins.viewer import StartAtPhoto


@dataclass
class PerScenePipelineConfig(VanillaPipelineConfig):
    """Photos and the scene that is trained on them."""

    _target: type = field(default_factory=lambda: PerScenePipeline)
    test_poses: str = "none"
    """Where held-out cameras are put before they are scored. none: as given; sim3: moved as the
    training cameras were; photometric:K: sim3, then K optimiser steps on each held-out pose."""

    one_device_because: ClassVar[str] = "its state is kept per process"
    """Why the method trains on one device; ends the sentence of an error."""

    instead: ClassVar[Mapping[str, str]] = {}
    """Commands of nerfstudio that the method cannot serve: why, and what does it instead."""

    def check_devices(self, count: int) -> None:
        """Refuse more than one device, before any process is started.

        Raises:
            SystemExit: More than one.
        """
        if count > 1:
            raise SystemExit(
                f"Error: training on {count} devices was asked for, but this method trains on one: "
                f"{self.one_device_because}. Use --machine.num-devices 1."
            )


class PerScenePipeline(VanillaPipeline):
    """nerfstudio's pipeline on one device."""

    given_poses: ClassVar[str] = "none"
    """What stands beside scores of held-out cameras that are left as they are given."""

    def __init__(self, config: PerScenePipelineConfig, *args, **kwargs) -> None:
        config.check_devices(kwargs.get("world_size", 1))
        with one_line_errors():
            test_poses = TestPoseProtocol.parse(config.test_poses)
            require_supported(config.instead)
        super().__init__(config, *args, **kwargs)
        self.test_poses = test_poses
        self.steps_per_log = 1
        assert self.datamanager.train_dataset is not None
        first = self.datamanager.train_dataset.cameras[0].to("cpu")
        self.viewer_start = StartAtPhoto(world_from_cameras(first))
        self.camera_frusta = camera_frusta(self)
        if self.camera_frusta is not None:
            self.initial_cameras = self.camera_frusta.checkbox  # Found here by the viewer.

    def load_pipeline(self, loaded_state: dict[str, Any], step: int) -> None:
        """Take a checkpoint's `pipeline`, whole and finite; anything else ends the program."""
        with one_line_errors():
            state = check_state(self.model, loaded_state)
            try:
                super().load_pipeline(state, step)
            except RuntimeError as error:
                reason = " ".join(str(error).split())
                raise ValueError(f"The checkpoint does not fit: {reason}. {EXPECTED}") from error

    def get_training_callbacks(
        self, training_callback_attributes: TrainingCallbackAttributes
    ) -> list[TrainingCallback]:
        """Those of the model; the trainer at hand says how often it logs."""
        trainer = training_callback_attributes.trainer
        if trainer is not None:
            self.steps_per_log = trainer.config.logging.steps_per_log
        return super().get_training_callbacks(training_callback_attributes)

    def get_train_loss_dict(self, step: int) -> tuple[Any, dict[str, Any], dict[str, Any]]:
        """Outputs, loss terms, and metrics: none at steps of which the trainer logs nothing."""
        camera_or_rays, batch = self.datamanager.next_train(step)
        outputs = self._model(camera_or_rays)
        is_logged = step_check(step, self.steps_per_log, run_at_zero=True)
        metrics = self.model.get_metrics_dict(outputs, batch) if is_logged else {}
        return outputs, self.model.get_loss_dict(outputs, batch, metrics), metrics

    def get_average_eval_image_metrics(
        self, step: int | None = None, output_path: Path | None = None, get_std: bool = False
    ) -> dict[str, Any]:
        """Average metrics of the held-out photos by the protocol `test_poses`, which is named."""
        return score_held_out(self, self.test_poses, step, output_path, get_std)
