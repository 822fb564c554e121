"""The pipeline of RayZer."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from fm3d_plugins.camera_optimization.pipeline import PerScenePipeline, PerScenePipelineConfig
from fm3d_plugins.checkpoints import about_small
from fm3d_plugins.errors import one_line_errors
from fm3d_plugins.nerfstudio_cameras import dataparser_frame
from fm3d_plugins.nerfstudio_commands import WITHOUT_GEOMETRY
from fm3d_plugins.rayzer.datamanager import RayzerDataManager, RayzerDataManagerConfig
from fm3d_plugins.rayzer.model import RayzerModel, RayzerModelConfig


@dataclass
class RayzerPipelineConfig(PerScenePipelineConfig):
    """Photos in order, and the network that sees them."""

    _target: type = field(default_factory=lambda: RayzerPipeline)
    datamanager: RayzerDataManagerConfig = field(default_factory=RayzerDataManagerConfig)
    model: RayzerModelConfig = field(default_factory=RayzerModelConfig)

    one_device_because: ClassVar[str] = "there is one forward pass, and nothing to train"
    instead = WITHOUT_GEOMETRY


class RayzerPipeline(PerScenePipeline):
    """nerfstudio's pipeline, whose model sees all photos."""

    datamanager: RayzerDataManager
    model: RayzerModel
    given_poses = "own image"

    def __init__(self, config: RayzerPipelineConfig, *args, **kwargs) -> None:
        estimator = getattr(config.datamanager.dataparser, "estimator", None)
        with one_line_errors():
            if estimator is None or estimator.name != "rayzer":
                raise ValueError(
                    "The method rayzer renders cameras of its own space, and this dataparser "
                    "brings others. Expected the dataparser rayzer, which is the default: name "
                    "none, or rayzer with its options."
                )
            config.model.weights = estimator.named_weights
            config.model.image_size = estimator.size()
        config.model.commercial_only = estimator.commercial_only
        super().__init__(config, *args, **kwargs)
        network = self.model.network
        outputs = self.datamanager.train_dataparser_outputs
        with one_line_errors():
            sequence = self.datamanager.sequence(config.model.image_size, network.config.patch_size)
            frame = dataparser_frame(outputs.dataparser_transform, outputs.dataparser_scale)
            size, num_contexts = config.model.image_size, len(sequence.context)
            work = f"rayzer, views of {size} x {size} pixels from {num_contexts} photos,"
            tokens = (size // network.config.patch_size) ** 2
            self.model.say_plan(work, *network.passes(tokens))
            self.model.hold(sequence, frame)

    def caveats(self, metrics: dict[str, Any]) -> list[str]:
        """How to take the scores, in sentences."""
        small = about_small(self.model.config.weights)
        return [
            *([small] if small else []),
            "By the paper's protocol a held-out photo's camera is predicted from that photo itself "
            "(test poses: own image): the network has seen where it was taken from.",
        ]

    def result(self) -> str:
        """What was made and how large it is, in a few words."""
        count = len(self.datamanager.train_dataset)
        return f"a network that makes views from {count} training photos"
