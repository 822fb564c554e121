"""The pipeline of methods that find geometry in one forward pass."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import Any, ClassVar

from nerfstudio.utils.rich_utils import CONSOLE

from fm3d_plugins.camera_optimization.pipeline import PerScenePipeline, PerScenePipelineConfig
from fm3d_plugins.errors import one_line_errors
from fm3d_plugins.nerfstudio_commands import OF_RAYS, SPIRAL
from fm3d_plugins.one_pass.geometry.datamanager import (
    GeometryDataManager,
    GeometryDataManagerConfig,
)
from fm3d_plugins.one_pass.geometry.model import GeometryModel, GeometryModelConfig
from fm3d_plugins.viewer import PointCloudControl


@dataclass
class GeometryPipelineConfig(PerScenePipelineConfig):
    """Photos with depth, and points."""

    _target: type = field(default_factory=lambda: GeometryPipeline)
    datamanager: GeometryDataManagerConfig = field(default_factory=GeometryDataManagerConfig)
    model: GeometryModelConfig = field(default_factory=GeometryModelConfig)
    test_poses: str = "none"
    """Where held-out cameras are put before they are scored. none: as given; photometric:K: K
    optimiser steps on each held-out pose. sim3 is none here, as no training camera moves."""

    one_device_because: ClassVar[str] = "there is one forward pass, and nothing to train"
    instead = {
        SPIRAL: "`fm3d film --path around` makes a film of circles around cameras.",
        **dict.fromkeys(
            OF_RAYS,
            "it asks for single rays, and this method draws whole pictures. `fm3d export` writes "
            "its points, cameras and depth.",
        ),
    }


class GeometryPipeline(PerScenePipeline):
    """nerfstudio's pipeline, whose model is complete as soon as it is made for training."""

    datamanager: GeometryDataManager
    model: GeometryModel

    def __init__(self, config: GeometryPipelineConfig, *args, **kwargs) -> None:
        super().__init__(config, *args, **kwargs)
        if self.test_mode == "val":  # Otherwise a checkpoint brings the points.
            with one_line_errors():
                self.model.hold(self.datamanager.seen_points())
            least = float(self.model.splat_confidence.min())
            CONSOLE.print(
                f"{len(self.model.splat_means)} points of {len(self.datamanager.train_dataset)} "
                f"training photos; the lowest confidence among them is {least:.2f}"
            )
        self.point_cloud = PointCloudControl(self.model.cloud, self.model.show_from)
        # Found here by the viewer.
        self.shown_points = self.point_cloud.dropdown
        self.least_confidence = self.point_cloud.slider

    def get_average_eval_image_metrics(
        self,
        step: int | None = None,
        output_path: Path | None = None,
        get_std: bool = False,
        panels: Path | None = None,
    ) -> dict[str, Any]:
        """Average metrics of the held-out photos, of all points whatever the viewer shows."""
        shown = self.model.shown_confidence
        self.model.shown_confidence = 0.0
        try:
            metrics = super().get_average_eval_image_metrics(step, output_path, get_std, panels)
        finally:
            self.model.shown_confidence = shown
        undefined = [
            name
            for name, value in metrics.items()
            if isinstance(value, float) and math.isnan(value)
        ]
        for name in undefined:  # JSON has no number for them.
            del metrics[name]
        if undefined:
            CONSOLE.print(f"Left out, as no point is seen in some photo: {', '.join(undefined)}")
        return metrics

    def result(self) -> str:
        """What was made and how large it is, in a few words."""
        count = len(self.datamanager.train_dataset)
        return f"{len(self.model.splat_means):,} points of {count} training photos"

    def further_commands(self, config: Path) -> dict[str, str]:
        """What may be done with the run besides looking at it and scoring it, and how."""
        command = f"fm3d export --load-config {quote(str(config))} --output-dir exported"
        return {**super().further_commands(config), "Points, cameras, depth": command}

    def caveats(self, metrics: dict[str, Any]) -> list[str]:
        """How to take the scores, in sentences.

        Args:
            metrics: Of `get_average_eval_image_metrics`.
        """
        covered = metrics.get("psnr_covered")
        others = "" if covered is None else f"; over the others the PSNR is {covered:.2f} dB"
        lines = [f"{1 - metrics['coverage']:.1%} of their pixels show no point{others}."]
        manager = self.datamanager
        used = {str(file) for file in manager.train_dataset.image_filenames}
        shared = sum(str(file) in used for file in manager.eval_dataset.image_filenames)
        if shared:
            lines.append(
                f"{shared} of these {len(manager.eval_dataset)} photos are not held out: points "
                "are made from them too, and the scores flatter."
            )
        return lines
