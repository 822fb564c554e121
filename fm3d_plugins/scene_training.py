"""What methods that train one scene add to the trainer: one word for what a run may cost."""

from dataclasses import dataclass
from typing import Any, ClassVar

from fm3d_plugins.effort import Quality, effort_for
from fm3d_plugins.input_checks import data_of
from fm3d_plugins.running.plan import RunPlan
from fm3d_plugins.training import TrainerConfig


@dataclass
class SceneTrainerConfig(TrainerConfig):
    """The trainer of a method that makes one scene of its photos."""

    quality: Quality = "balanced"
    """fast: a first look in a third of the time; balanced: what most captures want; best: more
    steps, larger photos and a finer scene, several times as long. Options that are given go before
    it (--max-num-iterations, --pipeline.datamanager.max-image-size and the model's)."""

    fewest_steps: ClassVar[int] = 1

    def _plan(self) -> RunPlan:
        data, device_type = data_of(self.pipeline.datamanager), self.machine.device_type
        model: Any = self.pipeline.model
        effort = effort_for(self.quality, data, device_type)
        return model.resolve(device_type, self.max_num_iterations, effort)
