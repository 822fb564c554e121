"""Scores of held-out photos under a test-pose protocol, for every per-scene method here."""

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from nerfstudio.pipelines.base_pipeline import VanillaPipeline
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from fm3d_plugins.camera_optimization.held_out_poses import (
    HeldOutView,
    TestPoseProtocol,
    place_held_out,
    training_cameras,
)
from fm3d_plugins.camera_photos import GIVEN_CAMERAS
from fm3d_plugins.errors import one_line_errors
from fm3d_plugins.nerfstudio_cameras import fovs_and_aspects, world_from_cameras
from fm3d_plugins.viewer import CameraFrusta

PROTOCOL = "test_poses"
"""Key of the protocol's name beside the metrics."""


def score_held_out(
    pipeline: VanillaPipeline,
    protocol: TestPoseProtocol,
    step: int | None = None,
    output_path: Path | None = None,
    get_std: bool = False,
) -> dict[str, Any]:
    """nerfstudio's average metrics of the held-out photos, cameras placed by the protocol.

    Without a step, that is outside training, the protocol's name stands beside the numbers under
    `test_poses` and is printed with the PSNR (the trainer's log takes numbers only).

    Args:
        pipeline: Whose model is a `RenderedModel` with a `camera_optimizer`.
        step: Training step, when called by the trainer.
        output_path: Folder for the rendered pictures.
        get_std: Add standard deviations.

    Raises:
        SystemExit: No photo is held out.
    """
    with one_line_errors():
        _expect_held_out(pipeline)
    views = held_out_views(pipeline, protocol)
    metrics = pipeline.get_average_image_metrics(views, "eval", step, output_path, get_std)
    if step is None:
        metrics[PROTOCOL] = protocol_name(pipeline, protocol)
        CONSOLE.print(
            f"PSNR {metrics['psnr']:.2f} dB over {len(views)} held-out photos, "
            f"test poses: {metrics[PROTOCOL]}",
            highlight=False,
        )
    return metrics


def _expect_held_out(pipeline: VanillaPipeline) -> None:
    if not len(pipeline.datamanager.eval_dataset or ()):
        raise ValueError(
            "None of the run's photos is held out, so there is nothing to score. Expected at "
            "least one. Train with the dataparser's --eval-mode interval, which holds out every "
            "8th."
        )


def protocol_name(pipeline: Any, protocol: TestPoseProtocol) -> str:
    """What stands beside scores: the protocol, or where poses come from that stay as given."""
    return pipeline.given_poses if protocol.kind == "none" else protocol.name


def held_out_views(pipeline: VanillaPipeline, protocol: TestPoseProtocol) -> list[HeldOutView]:
    """Held-out photos and their cameras where the protocol puts them."""
    manager: Any = pipeline.datamanager
    pipeline.eval()
    model: Any = pipeline.model
    trained = training_cameras(manager.train_dataset.cameras, model.camera_optimizer)
    views = list(manager.fixed_indices_eval_dataloader)
    return place_held_out(model, views, protocol, trained, held_out_focal_factors(pipeline))


def camera_frusta(pipeline: VanillaPipeline) -> CameraFrusta | None:
    """What shows the moving cameras in the viewer; none where they stay as given."""
    dataset: Any = pipeline.datamanager.train_dataset
    optimizer: Any = pipeline.model.camera_optimizer
    if not optimizer.is_on:
        return None
    cameras = dataset.cameras
    return CameraFrusta(
        initial=world_from_cameras(cameras),
        current=lambda: training_cameras(cameras, optimizer).optimised,
        fovs_and_aspects=fovs_and_aspects(cameras),
    )


@torch.no_grad()
def held_out_focal_factors(pipeline: VanillaPipeline) -> Float[Tensor, " held_out"]:
    """Learned focal factors of the held-out cameras; 1 where none were learned."""
    dataset: Any = pipeline.datamanager.eval_dataset
    model: Any = pipeline.model
    given = dataset.metadata.get(GIVEN_CAMERAS, dataset.cameras)
    return model.camera_optimizer.held_out_focal_factors(given).cpu()
