"""A network that is trained, as nerfstudio's model; what it learns is each method's own."""

import copy
import math
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
import tyro
from jaxtyping import Float
from nerfstudio.models.base_model import Model
from torch import Tensor, nn
from torch.nn import Parameter

from fm3d_plugins.checkpoints import CATALOGUE, require_obtainable, weights_meant
from fm3d_plugins.data.view_batch import ViewBatch
from fm3d_plugins.errors import one_line_errors
from fm3d_plugins.network_training.parts import Parts, PartSource, begin_with, freeze
from fm3d_plugins.network_training.sharding import reshard
from fm3d_plugins.nn.planning import DTYPES, Precision, choose_precision
from fm3d_plugins.running.plan import RunPlan
from fm3d_plugins.training import BareModelConfig


@dataclass
class NetworkModelConfig(BareModelConfig):
    """How any network is trained."""

    family: ClassVar[str] = ""
    """Of the method that the network is of, which tells what small and official weights are."""

    _target: type = field(default_factory=lambda: NetworkModel)
    network: tyro.conf.Suppress[Any] = None
    weights: str = ""
    """Weights to begin with: small, those that come with this package; official, published ones; or
    by name (`fm3d weights list`) or as a file. Sizes are theirs. Empty: random ones."""
    parts_of: tuple[str, ...] = ()
    """Weights of other networks, by name or as files, that parts begin with (docs/training.md)."""
    freeze: tuple[str, ...] = ()
    """Parts of the network that stay as they begin, such as encoder; another word lists those that
    there are."""
    precision: Precision = "auto"
    """Of matrix products; weights stay float32. auto: bfloat16 where the device multiplies it
    fast, else float32."""
    recompute: bool = False
    """Compute blocks again in the backward pass (gradient checkpointing): less memory, a third
    more time."""
    ema_decay: float = 0.0
    """Keep a moving mean of the weights, of which each step leaves this share; scores and exported
    weights are its. 0: none."""
    default_steps: tyro.conf.Suppress[int] = 10_000

    def check_weights(self) -> None:
        """Refuse weights that cannot be had.

        Raises:
            ValueError, FileNotFoundError: As `require_obtainable`.
        """
        for weights in (self.weights, *self.parts_of):
            if weights:
                require_obtainable(weights)

    @property
    def patch_size(self) -> int:
        """Pixels, of a network trained from nothing; 1 where the weights will tell."""
        return 1 if self.weights or self.network is None else self.network.patch_size

    def resolve(self, device_type: str, max_num_iterations: int | None) -> RunPlan:
        """What the run does, once its device and number of steps are known."""
        steps = self.default_steps if max_num_iterations is None else max_num_iterations
        official = next((n for n, row in CATALOGUE.items() if row.estimator == self.family), "")
        self.weights = weights_meant(self.weights, self.family, official)
        if self.precision == "auto":
            chosen = choose_precision("auto", torch.device(device_type))
            # float16 would need scaled losses.
            self.precision = "float32" if chosen == "float16" else chosen  # type: ignore[assignment]
        return RunPlan(
            steps,
            {},
            f"The network is trained on {device_type} in {self.precision} to step {steps}.",
        )


@dataclass(frozen=True)
class Scores:
    """What a network makes of some held-out scenes."""

    metrics: dict[str, Float[Tensor, " scene"]]
    """By name; those of trivial baselines among them."""
    pictures: Float[Tensor, "scene 3 height width"]
    """Of each scene: what is given, what is true, what is said."""


class NetworkModel(Model):
    """A network, its moving mean, and how much it has seen.

    A method says how it is built (`build`), what a step lowers (`loss`), how good it is (`score`),
    and which parameters are matrices (`matrices`).
    """

    config: NetworkModelConfig
    network: nn.Module
    average: nn.Module | None
    num_images: Tensor
    seconds: Tensor
    """Of all steps so far, wall clock."""

    @abstractmethod
    def build(self) -> nn.Module:
        """The network with the weights that training begins with, on the CPU."""

    @abstractmethod
    def parts(self) -> Parts:
        """The network's parts, whose names all networks share as far as they have them:
        `patch_embedding`, `encoder` (with it), `decoder`, `heads`, `matching`."""

    def part_sources(self) -> Sequence[PartSource[Any]]:
        """What of other networks its parts can begin with."""
        return ()

    @property
    def patch_size(self) -> int:
        """Pixels, of the network."""
        network: Any = self.network
        return network.config.patch_size

    @abstractmethod
    def matrices(self) -> set[str]:
        """Names of the parameters of the network's blocks; of these, matrices go to Muon."""

    @abstractmethod
    def loss(
        self, network: nn.Module, batch: ViewBatch, step: int
    ) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """What a step lowers, and numbers that tell how it goes.

        The loss is a mean over scenes, and what is drawn for one follows from its place in the
        step's batch: so the mean over parts of a batch is the loss of the whole.
        """

    @abstractmethod
    def score(self, network: nn.Module, batch: ViewBatch) -> Scores:
        """How good the network is on held-out scenes, beside trivial baselines."""

    @abstractmethod
    def exported(self, network: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Weights by published names, and what a file of them has to say of their network."""

    def populate_modules(self) -> None:
        """Build the network (called by nerfstudio's constructor)."""
        self.network = self.build()
        begin_with(self.network, self.config.parts_of, self.part_sources())
        freeze(self.network, self.parts(), self.config.freeze)
        self.average = copy.deepcopy(self.network) if self.config.ema_decay else None
        for module in (self.network, self.average):
            if module is not None:
                module.eval()
        if self.average is not None:
            self.average.requires_grad_(False)
        self.register_buffer("num_images", torch.zeros((), dtype=torch.int64))
        self.register_buffer("seconds", torch.zeros((), dtype=torch.float64))

    @property
    def scored(self) -> nn.Module:
        """The network whose weights count: the moving mean, if there is one."""
        return self.network if self.average is None else self.average

    def get_param_groups(self) -> dict[str, list[Parameter]]:
        """Matrices within blocks, and all else, as far as they are trained."""
        names, groups = self.matrices(), {"matrices": [], "others": []}
        for name, parameter in self.network.named_parameters():
            if parameter.requires_grad:
                is_matrix = name in names and parameter.ndim == 2
                groups["matrices" if is_matrix else "others"].append(parameter)
        return {name: parameters for name, parameters in groups.items() if parameters}

    def autocast(self) -> AbstractContextManager[Any]:
        """Matrix products in the chosen type."""
        dtype = DTYPES[self.config.precision]
        is_on = dtype != torch.float32
        return torch.autocast(self.device.type, dtype if is_on else torch.bfloat16, enabled=is_on)

    def forward(  # type: ignore[override]
        self, batch: ViewBatch, step: int
    ) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """The loss of a step and its metrics: all that gradients come from, in one call."""
        # In training mode, blocks are computed again in the backward pass.
        self.network.train(self.config.recompute)
        with self.autocast():
            loss, metrics = self.loss(self.network, batch, step)
        with one_line_errors():
            if not loss.requires_grad:
                raise ValueError(
                    f"Nothing that is trained has an influence on the loss of step {step}; frozen "
                    f"are {', '.join(self.config.freeze)}. Freeze less."
                )
        return loss, metrics

    @torch.no_grad()
    def after_step(self) -> None:
        """Let the moving mean follow."""
        if self.average is not None:
            pairs = zip(self.average.parameters(), self.network.parameters(), strict=True)
            for mean, parameter in pairs:
                mean.lerp_(parameter, 1 - self.config.ema_decay)

    @torch.no_grad()
    def scores(self, batches: Iterable[ViewBatch]) -> Scores:
        """Of all scenes."""
        self.scored.eval()
        with self.autocast():
            parts = [self.score(self.scored, batch) for batch in batches]
        reshard(self.scored)
        names = parts[0].metrics
        metrics = {name: torch.cat([part.metrics[name] for part in parts]) for name in names}
        return Scores(metrics, torch.cat([part.pictures for part in parts]))

    def get_outputs(self, ray_bundle: Any) -> dict[str, Any]:
        """There is no scene to look at."""
        raise NotImplementedError("A network in training has no scene; export its weights.")


def summarized(metrics: dict[str, Float[Tensor, " scene"]]) -> dict[str, float]:
    """Means over scenes, and beside each its standard error as `NAME_error`, which one scene alone
    has not.

    Scenes of which a number is not known (nan) do not count; what is known of none is left out.
    """
    result = {}
    for name, each in metrics.items():
        values = each.double()[~each.isnan()]
        if not len(values):
            continue
        result[name] = float(values.mean())
        if len(values) > 1:
            result[f"{name}_error"] = float(values.std()) / math.sqrt(len(values))
    return result
