"""The pipeline of networks in training."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from nerfstudio.configs.base_config import InstantiateConfig
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes
from nerfstudio.pipelines.base_pipeline import Pipeline
from torch import Tensor
from torch.nn import Parameter

from fm3d_plugins.camera_optimization.saved_state import EXPECTED, check_state
from fm3d_plugins.errors import one_line_errors
from fm3d_plugins.network_training.datamanager import (
    ManySceneDataManager,
    ManySceneDataManagerConfig,
)
from fm3d_plugins.network_training.model import NetworkModel, NetworkModelConfig, summarized
from fm3d_plugins.network_training.sharding import check_sharding, copied, shard
from fm3d_plugins.nn.shards import divided_as

SHOWN = 6
"""Held-out scenes that pictures are made of."""


@dataclass
class NetworkPipelineConfig(InstantiateConfig):
    """Scenes, and the network that is trained on them."""

    _target: type = field(default_factory=lambda: NetworkPipeline)
    datamanager: ManySceneDataManagerConfig = field(default_factory=ManySceneDataManagerConfig)
    model: NetworkModelConfig = field(default_factory=NetworkModelConfig)
    shard: bool = False
    """Divide weights, gradients and the optimisers' state among the processes (FSDP2), for
    networks that do not fit otherwise. Else each process has all of them."""

    def check_processes(self, count: int) -> None:
        """Refuse what so many processes cannot do, before anything long begins.

        Raises:
            ValueError: A step has too few scenes, or the network cannot be divided.
        """
        fewest = self.datamanager.fewest_scenes()
        if fewest < count:
            raise ValueError(
                f"Steps with images of {max(self.datamanager.image_sizes)} pixels have {fewest} "
                f"scenes, and {count} processes were asked for. Expected a scene for each. Raise "
                "--pipeline.datamanager.scenes-per-step."
            )
        if self.shard:
            check_sharding(count)


@dataclass(frozen=True)
class Result:
    """Scores of one size of images."""

    metrics: dict[str, float]
    """Means over the held-out scenes and their standard errors."""
    picture: Tensor
    """[height, width, 3], some scenes below each other."""


class NetworkPipeline(Pipeline):
    """nerfstudio's pipeline, whose batches are views of many scenes."""

    datamanager: ManySceneDataManager
    _model: NetworkModel

    def __init__(
        self,
        config: NetworkPipelineConfig,
        device: str | torch.device,
        test_mode: str = "val",
        world_size: int = 1,
        local_rank: int = 0,
        grad_scaler: Any = None,
    ) -> None:
        super().__init__()
        self.config, self.world_size, self.test_mode = config, world_size, test_mode
        with one_line_errors():
            box = SceneBox(torch.tensor([[-1.0] * 3, [1.0] * 3]))
            self._model = config.model.setup(scene_box=box, num_train_data=0, device=device)
            config.datamanager.patch_size = self._model.patch_size
            self.datamanager = config.datamanager.setup(device=device)
        self._model.to(device)
        self._loss = self._model.__call__
        if world_size > 1 and config.shard:
            for network in (self._model.network, self._model.average):
                if network is not None:
                    shard(network)
        elif world_size > 1:
            self._loss = copied(self._model)

    @property
    def model(self) -> NetworkModel:
        """The network in training."""
        return self._model

    def get_train_loss_dict(self, step: int) -> tuple[None, dict[str, Tensor], dict[str, Tensor]]:
        """No outputs; the loss and metrics of a step.

        The mean over the processes is that of all scenes, though some have one more: a process's
        numbers are multiplied by its share of the scenes and the number of processes.
        """
        batch = self.datamanager.next_batch(step)
        loss, metrics = self._loss(batch, step)
        num_scenes = self.datamanager.shape_at(step).num_scenes
        self.model.num_images += num_scenes * batch.num_views
        weight = len(batch) * self.world_size / num_scenes
        return None, {"main_loss": weight * loss}, {k: weight * v for k, v in metrics.items()}

    def result(self, size: int) -> Result:
        """Scores at a size of images, square."""
        scores = self.model.scores(self.datamanager.held_out(size))
        picture = scores.pictures[:SHOWN].permute(0, 2, 3, 1).flatten(0, 1)
        return Result(summarized(scores.metrics), picture)

    def results(self) -> dict[str, float]:
        """Scores at all sizes that are trained on; those but the first have the size in front."""
        found: dict[str, float] = {}
        for size in self.datamanager.config.image_sizes:
            metrics = self.result(size).metrics
            found |= {f"{size}px_{name}": value for name, value in metrics.items()}
        return found

    def get_average_eval_image_metrics(
        self,
        step: int | None = None,
        output_path: Path | None = None,
        get_std: bool = False,
        **_: Any,
    ) -> dict[str, Any]:
        """As `results`; called by ns-eval."""
        return self.results()

    def get_eval_image_metrics_and_images(self, step: int) -> Any:
        """Scores come from `result`."""
        raise NotImplementedError

    def load_pipeline(self, loaded_state: dict[str, Any], step: int) -> None:
        """Take a checkpoint's `pipeline`, whole and finite; anything else ends the program."""
        with one_line_errors():
            state = check_state(self.model, loaded_state)
            parameters = self.model.state_dict()
            own = {name.removeprefix("_model."): value for name, value in state.items()}
            own = {n: divided_as(v.to(self.model.device), parameters[n]) for n, v in own.items()}
            try:
                self.model.load_state_dict(own, strict=True)
            except RuntimeError as error:
                reason = " ".join(str(error).split())
                raise ValueError(f"The checkpoint does not fit: {reason}. {EXPECTED}") from error

    def get_training_callbacks(
        self, training_callback_attributes: TrainingCallbackAttributes
    ) -> list[TrainingCallback]:
        """None."""
        return []

    def get_param_groups(self) -> dict[str, list[Parameter]]:
        """Those of the network."""
        return self.model.get_param_groups()
