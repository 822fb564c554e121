"""The pipeline of LVSM."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from nerfstudio.utils.rich_utils import CONSOLE

from fm3d_plugins.camera_optimization.pipeline import PerScenePipeline, PerScenePipelineConfig
from fm3d_plugins.lvsm.datamanager import LvsmDataManager, LvsmDataManagerConfig
from fm3d_plugins.lvsm.model import LvsmModel, LvsmModelConfig
from fm3d_plugins.nerfstudio_cameras import fovs_and_aspects
from fm3d_plugins.viewer import ContextControl


@dataclass
class LvsmPipelineConfig(PerScenePipelineConfig):
    """Posed photos, and the network that makes views of them."""

    _target: type = field(default_factory=lambda: LvsmPipeline)
    datamanager: LvsmDataManagerConfig = field(default_factory=LvsmDataManagerConfig)
    model: LvsmModelConfig = field(default_factory=LvsmModelConfig)
    test_poses: str = "none"
    """Where held-out cameras are put before they are scored. none: as given; photometric:K: K
    optimiser steps on each held-out pose. sim3 is none here, as no training camera moves."""

    one_device_because: ClassVar[str] = "all of its photos are held on one"


class LvsmPipeline(PerScenePipeline):
    """nerfstudio's pipeline, whose model sees the training photos."""

    datamanager: LvsmDataManager
    model: LvsmModel

    def __init__(self, config: LvsmPipelineConfig, *args, **kwargs) -> None:
        super().__init__(config, *args, **kwargs)
        model = self.model
        model.hold(self.datamanager.photos(), self.datamanager.names())
        if config.model.contexts == "nearest":
            CONSOLE.print(f"Each view is made from the {config.model.num_contexts} nearest photos.")
            return
        chosen = ", ".join(model.names[view] for view in model.context)
        CONSOLE.print(f"Views are made from {chosen}.", markup=False, highlight=False)
        self.context_control = ContextControl(
            model.renderer.photos.world_from_camera,
            fovs_and_aspects(self.datamanager.train_dataset.cameras),
            model.names,
            model.context,
            model.choose,
        )
        self.context_photos = self.context_control.text  # Found here by the viewer.

    def get_train_loss_dict(self, step: int) -> tuple[Any, dict[str, Any], dict[str, Any]]:
        """No outputs, the loss and metrics of a step of fine-tuning."""
        return {}, *self.model.tune(step)

    def caveats(self, metrics: dict[str, Any]) -> list[str]:
        """How to take the scores, in sentences."""
        size = self.datamanager.config.max_image_size
        return [f"Scores are those of photos of at most {size} pixels."] if size else []

    def further_commands(self, config: Path) -> list[str]:
        """What may be done with the run besides looking at it."""
        return [f"A film: fm3d film --load-config {config} --output FILM.mp4"]
