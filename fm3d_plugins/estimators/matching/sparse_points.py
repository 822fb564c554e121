"""Points of a sparse model as a scene has them: coloured, weighed, in pixels of the photos."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64, UInt8
from torch import Tensor

from fm3d_plugins.backends.pycolmap.models import SparseModel
from fm3d_plugins.estimators.matching.working_photos import WorkingPhoto
from fm3d_plugins.scene import Tracks


@dataclass(frozen=True)
class SparsePoints:
    """What a scene says of a model's points besides where they are."""

    colors: UInt8[Tensor, "point 3"]
    """Mean of the observations."""
    confidence: Float[Tensor, " point"]
    tracks: Tracks


def sparse_points(model: SparseModel, views: Sequence[WorkingPhoto]) -> SparsePoints:
    """Of the photos of a model's views."""
    keypoints = [view.features.keypoints[:, :2] / view.scale for view in views]
    offsets = np.cumsum([0, *(len(view.features) for view in views)])
    observed = offsets[model.track_view] + model.track_keypoint
    colors = np.concatenate([view.colors for view in views])[observed]
    return SparsePoints(
        torch.from_numpy(_mean_colors(colors, model)),
        torch.from_numpy(point_confidence(model)),
        Tracks(
            point_index=torch.from_numpy(model.track_point),
            view_index=torch.from_numpy(model.track_view),
            pixels=torch.from_numpy(np.concatenate(keypoints)[observed].astype(np.float64)),
        ),
    )


def point_confidence(model: SparseModel) -> Float64[np.ndarray, " point"]:
    """(1 - 2^(1 - n)) / (1 + e²) for n observations with a mean error of e pixels."""
    views = np.bincount(model.track_point, minlength=len(model.points))
    return (1 - 2.0 ** (1 - np.maximum(views, 1))) / (1 + model.point_errors**2)


def _mean_colors(
    colors: UInt8[np.ndarray, "observation 3"], model: SparseModel
) -> UInt8[np.ndarray, "point 3"]:
    """Mean colour of each point's observations."""
    count = len(model.points)
    views = np.maximum(np.bincount(model.track_point, minlength=count), 1)
    sums = [np.bincount(model.track_point, channel, minlength=count) for channel in colors.T]
    return np.stack([np.rint(total / views) for total in sums], axis=-1).astype(np.uint8)
