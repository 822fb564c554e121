"""Scores that networks of several kinds share."""

import torch
from jaxtyping import Float
from torch import Tensor

from fm3d_plugins.geometry.pose_metrics import evaluate_poses


def pose_scores(
    estimated: Float[Tensor, "view 4 4"], true: Float[Tensor, "view 4 4"]
) -> dict[str, float]:
    """Of one scene's cameras, `world_from_camera`, each set in its own frame and unit.

    `auc30` and `auc15`: percent, over pairs of views; `rotation`: degrees, mean over pairs;
    `auc30_identity` and `rotation_identity`: of cameras that stand still.
    """
    numbers = [str(view) for view in range(len(true))]
    reference = dict(zip(numbers, true, strict=True))
    metrics = evaluate_poses(dict(zip(numbers, estimated, strict=True)), reference)
    still = evaluate_poses(dict.fromkeys(numbers, torch.eye(4)), reference)
    return {
        "auc30": 100 * metrics.auc(30),
        "auc15": 100 * metrics.auc(15),
        "rotation": float(metrics.rotation_errors.mean()),
        "auc30_identity": 100 * still.auc(30),
        "rotation_identity": float(still.rotation_errors.mean()),
    }


def psnr(
    renders: Float[Tensor, "scene target 3 height width"],
    truth: Float[Tensor, "scene target 3 height width"],
) -> Float[Tensor, "scene target"]:
    """Of each view, in decibels; at most 100."""
    return -10 * (renders - truth).square().mean((-3, -2, -1)).clamp_min(1e-10).log10()
