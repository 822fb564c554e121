"""The pipeline of LVSM."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from nerfstudio.utils.rich_utils import CONSOLE

from fm3d_plugins.camera_optimization.pipeline import PerScenePipeline, PerScenePipelineConfig
from fm3d_plugins.lvsm.datamanager import LvsmDataManager, LvsmDataManagerConfig
from fm3d_plugins.lvsm.model import LvsmModel, LvsmModelConfig
from fm3d_plugins.nerfstudio_cameras import fovs_and_aspects
from fm3d_plugins.nerfstudio_commands import WITHOUT_GEOMETRY
from fm3d_plugins.nn.view_planning import Pass
from fm3d_plugins.one_pass.views.sizes import size_within
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
    instead = WITHOUT_GEOMETRY


class LvsmPipeline(PerScenePipeline):
    """nerfstudio's pipeline, whose model sees the training photos."""

    datamanager: LvsmDataManager
    model: LvsmModel

    def __init__(self, config: LvsmPipelineConfig, *args, **kwargs) -> None:
        super().__init__(config, *args, **kwargs)
        model = self.model
        model.hold(self.datamanager.photos(), self.datamanager.names())
        model.say_plan(*self._work())
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

    def _work(self) -> tuple[str, list[Pass], list[Pass]]:
        """What makes one view of the first photo's size, in words and in passes."""
        model, config = self.model, self.model.config
        patch = model.network.config.patch_size
        height, width = model.renderer.photos.images[0].shape[-2:]
        rows, columns = size_within(height, width, config.image_size, patch)
        tokens = rows * columns // patch**2
        contexts = min(config.num_contexts, len(model.names))
        once, each = model.network.passes(contexts * tokens, tokens)
        if config.contexts == "nearest":
            once, each = [], [*once, *each]
        work = f"lvsm, views of {columns} x {rows} pixels from {contexts} photos,"
        return work, once, each

    def get_train_loss_dict(self, step: int) -> tuple[Any, dict[str, Any], dict[str, Any]]:
        """No outputs, the loss and metrics of a step of fine-tuning."""
        return {}, *self.model.tune(step)

    def caveats(self, metrics: dict[str, Any]) -> list[str]:
        """How to take the scores, in sentences."""
        size = self.datamanager.config.max_image_size
        return [f"Scores are those of photos of at most {size} pixels."] if size else []

    def result(self) -> str:
        """What was made and how large it is, in a few words."""
        count = len(self.datamanager.train_dataset)
        return f"a network that makes views from {count} training photos"
