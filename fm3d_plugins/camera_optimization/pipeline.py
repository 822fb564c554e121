"""The pipeline of methods that train on one scene and may optimise its cameras."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from shlex import quote
from typing import Any, ClassVar

import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes
from nerfstudio.pipelines.base_pipeline import VanillaPipeline, VanillaPipelineConfig
from nerfstudio.utils.misc import step_check

from fm3d_plugins.backends.metrics import psnr
from fm3d_plugins.camera_optimization.evaluation import (
    camera_frusta,
    placed_views,
    score_held_out,
)
from fm3d_plugins.camera_optimization.held_out_poses import HeldOutView, TestPoseProtocol
from fm3d_plugins.camera_optimization.saved_state import EXPECTED, check_state
from fm3d_plugins.camera_optimization.settling import settled
from fm3d_plugins.errors import one_line_errors
from fm3d_plugins.nerfstudio_cameras import world_from_cameras
from fm3d_plugins.nerfstudio_commands import require_supported
from fm3d_plugins.panels import photo_colors
from fm3d_plugins.viewer import StartAtPhoto

MUCH_BY_COLORS = 3.0
"""Decibels by which fitted colours are better where photos differ in exposure."""

MOST_WATCHED = 4
"""Held-out photos that are looked at during training."""


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
                f"{self.one_device_because}. Use --machine.num-devices 1, and no torchrun."
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
        """Those of the model; the trainer at hand says how often it logs, and where it begins."""
        trainer = training_callback_attributes.trainer
        if trainer is None:
            return super().get_training_callbacks(training_callback_attributes)
        self.steps_per_log = trainer.config.logging.steps_per_log
        with one_line_errors(), settled(self, trainer.config, trainer._start_step > 0):
            return super().get_training_callbacks(training_callback_attributes)

    def get_train_loss_dict(self, step: int) -> tuple[Any, dict[str, Any], dict[str, Any]]:
        """Outputs, loss terms, and metrics: none at steps of which the trainer logs nothing."""
        camera_or_rays, batch = self.datamanager.next_train(step)
        outputs = self._model(camera_or_rays)
        is_logged = step_check(step, self.steps_per_log, run_at_zero=True)
        metrics = self.model.get_metrics_dict(outputs, batch) if is_logged else {}
        return outputs, self.model.get_loss_dict(outputs, batch, metrics), metrics

    def get_average_eval_image_metrics(
        self,
        step: int | None = None,
        output_path: Path | None = None,
        get_std: bool = False,
        panels: Path | None = None,
    ) -> dict[str, Any]:
        """Average metrics of the held-out photos by the protocol `test_poses`, which is named.

        Args:
            panels: Folder for pictures; see `score_held_out`.
        """
        return score_held_out(self, self.test_poses, step, output_path, get_std, panels)

    @torch.no_grad()
    def held_out_psnr(self) -> float:
        """Mean PSNR, dB, of a few held-out photos, the same at every call."""
        rows, given = self._watched
        kind = "none" if self.test_poses.kind == "none" else "sim3"
        views = placed_views(self, TestPoseProtocol(kind), given, rows)
        ratios = [self.view_psnr(camera, batch) for camera, batch in views]
        self.train()
        return sum(ratios) / len(ratios)

    @cached_property
    def _watched(self) -> tuple[list[int], list[HeldOutView]]:
        """Rows of a few held-out photos, spread over all, and their views as given."""
        manager: Any = self.datamanager
        count = len(manager.eval_dataset)
        chosen = min(count, MOST_WATCHED)
        rows = [row * count // chosen for row in range(chosen)]
        views = enumerate(manager.fixed_indices_eval_dataloader)
        return rows, [view for row, view in views if row in rows]

    def view_psnr(self, camera: Cameras, batch: dict[str, Any]) -> float:
        """PSNR, dB, of the render of a photo, or an estimate of it."""
        outputs = self.model.get_outputs_for_camera(camera)
        photo = photo_colors(batch["image"], outputs["rgb"], outputs["background"])
        return float(psnr(outputs["rgb"], photo, batch.get("mask")))

    def result(self) -> str:
        """What was made and how large it is, in a few words."""
        numbers = sum(parameter.numel() for parameter in self.model.parameters())
        return f"{numbers / 1e6:.2f} million parameters"

    def caveats(self, metrics: dict[str, Any]) -> list[str]:
        """How to take the scores, in sentences."""
        gain = metrics.get("cc_psnr", 0.0) - metrics.get("psnr", 0.0)
        if gain < MUCH_BY_COLORS or getattr(self.model, "exposure", True) is not None:
            return []
        return [
            f"With colours fitted they are {gain:.1f} dB better: photos seem to differ in exposure "
            "or white balance. --pipeline.model.exposure affine learns how."
        ]

    def further_commands(self, config: Path) -> dict[str, str]:
        """What may be done with the run besides looking at it and scoring it, and how."""
        return {"Film": f"fm3d film --load-config {quote(str(config))} --output film.mp4"}
