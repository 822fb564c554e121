"""Scores of held-out photos under a test-pose protocol, for every per-scene method here."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from nerfstudio.pipelines.base_pipeline import VanillaPipeline
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from fm3d_plugins.backends.metrics import without_fetching
from fm3d_plugins.camera_optimization.held_out_poses import (
    HeldOutView,
    TestPoseProtocol,
    place_held_out,
    training_cameras,
)
from fm3d_plugins.camera_photos import GIVEN_CAMERAS
from fm3d_plugins.errors import listed, one_line_errors
from fm3d_plugins.nerfstudio_cameras import fovs_and_aspects, world_from_cameras
from fm3d_plugins.panels import panels as draw_panels
from fm3d_plugins.panels import photo_colors, write_picture
from fm3d_plugins.photo_datamanager import all_masked, shows_anything
from fm3d_plugins.progress import say, track
from fm3d_plugins.viewer import CameraFrusta

PROTOCOL = "test_poses"
"""Key of the protocol's name beside the metrics."""


def score_held_out(
    pipeline: VanillaPipeline,
    protocol: TestPoseProtocol,
    step: int | None = None,
    output_path: Path | None = None,
    get_std: bool = False,
    panels: Path | None = None,
) -> dict[str, Any]:
    """nerfstudio's average metrics of the held-out photos, cameras placed by the protocol.

    Without a step, that is outside training, the protocol's name stands beside the numbers under
    `test_poses` and is printed with the PSNR (the trainer's log takes numbers only). With `panels`
    nothing is printed or fetched: LPIPS is left out where its backbone is not on this computer.

    Args:
        pipeline: Whose model is a `RenderedModel` with a `camera_optimizer`.
        step: Training step, when called by the trainer.
        output_path: Folder for the rendered pictures.
        get_std: Add standard deviations.
        panels: Folder for pictures of photo, render, depth and error, named like the photos.

    Raises:
        SystemExit: No photo is held out.
    """
    with one_line_errors():
        _expect_held_out(pipeline)
    views = held_out_views(pipeline, protocol)
    if panels is not None:
        metrics = _with_panels(pipeline, views, panels)
    else:
        metrics = pipeline.get_average_image_metrics(views, "eval", step, output_path, get_std)
    if step is None:
        metrics[PROTOCOL] = protocol_name(pipeline, protocol)
    if step is None and panels is None:
        CONSOLE.print(
            f"PSNR {metrics['psnr']:.2f} dB over {len(views)} held-out photos, "
            f"test poses: {metrics[PROTOCOL]}",
            highlight=False,
        )
    return metrics


def _with_panels(
    pipeline: VanillaPipeline, views: Sequence[HeldOutView], folder: Path
) -> dict[str, Any]:
    """Average metrics, as nerfstudio's; a picture of every view in the folder."""
    model: Any = pipeline.model
    dataset: Any = pipeline.datamanager.eval_dataset
    pipeline.eval()
    found: list[dict[str, float]] = []
    with without_fetching(model):
        for camera, batch in track(views, "Scoring held-out photos", len(views)):
            start = time.monotonic()
            outputs = model.get_outputs_for_camera(camera)
            metrics, _ = model.get_image_metrics_and_images(outputs, batch)
            fps = 1 / max(time.monotonic() - start, 1e-9)
            rays = fps * int(camera.height) * int(camera.width)
            found.append(metrics | {"num_rays_per_sec": rays, "fps": fps})
            photo = photo_colors(batch["image"], outputs["rgb"], outputs["background"])
            picture = draw_panels(photo, outputs, metrics["psnr"], batch.get("mask"))
            # Photos of different folders may have one name.
            row = int(batch["image_idx"])
            name = f"{row:04d}_{dataset.image_filenames[row].stem}.png"
            write_picture(folder / name, picture)
    pipeline.train()
    return {key: sum(each[key] for each in found) / len(found) for key in found[0]}


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
    """Held-out photos and their cameras where the protocol puts them.

    Those of which masks leave nothing are left out, and named.

    Raises:
        SystemExit: Masks leave nothing of any.
    """
    manager: Any = pipeline.datamanager
    views = list(manager.fixed_indices_eval_dataloader)
    rows = [row for row, (_, batch) in enumerate(views) if shows_anything(batch)]
    with one_line_errors():
        if views and not rows:
            raise ValueError(all_masked(len(views), "held-out"))
    if len(rows) < len(views):
        masked = [
            manager.eval_dataset.image_filenames[row].name
            for row in range(len(views))
            if row not in rows
        ]
        say(
            f"Masks leave nothing of {len(masked)} held-out photos, which have no score: "
            f"{listed(masked)}."
        )
    return placed_views(pipeline, protocol, [views[row] for row in rows], rows)


def placed_views(
    pipeline: VanillaPipeline,
    protocol: TestPoseProtocol,
    views: list[HeldOutView],
    rows: Sequence[int],
) -> list[HeldOutView]:
    """Some held-out views with their cameras where the protocol puts them.

    Args:
        views: As given.
        rows: Their rows of the dataset.
    """
    dataset: Any = pipeline.datamanager.train_dataset
    pipeline.eval()
    model: Any = pipeline.model
    trained = training_cameras(dataset.cameras, model.camera_optimizer)
    factors = held_out_focal_factors(pipeline)[list(rows)]
    return place_held_out(model, views, protocol, trained, factors)


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
