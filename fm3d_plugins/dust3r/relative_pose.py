"""The second camera of a pair, from the points that its pixels see (DUSt3R, section 3.3)."""

import torch
from jaxtyping import Float
from torch import Tensor

from fm3d_plugins.backends.opencv import absolute_pose
from fm3d_plugins.dust3r.network import PairPrediction
from fm3d_plugins.geometry.focal import weiszfeld_focal
from fm3d_plugins.geometry.poses import invert
from fm3d_plugins.geometry.rays import pixel_centers

THRESHOLD = 0.02
"""Of the longer side, by which a right point may miss its pixel."""


def first_from_second(prediction: PairPrediction) -> Float[Tensor, "4 4"]:
    """Pose of the second camera in the first one's frame, in the pair's unit; OpenCV axes.

    The focal length is what the first photo's points imply, the principal point the middle of the
    photo. Of the second photo's points the more confident half is used.

    Args:
        prediction: Of one pair; both photos are of one lens and size.

    Raises:
        ValueError: No focal length or no pose fits the points.
    """
    height, width = prediction.confidence_first.shape
    middle = prediction.points_first.new_tensor([width / 2, height / 2])
    pixels = pixel_centers(height, width, device=middle.device).flatten(0, 1)
    focal = weiszfeld_focal(pixels - middle, prediction.points_first.flatten(0, 1))
    intrinsics = torch.eye(3).to(middle)
    intrinsics[0, 0] = intrinsics[1, 1] = focal
    intrinsics[:2, 2] = middle
    sure = prediction.confidence_second.flatten()
    chosen = sure.topk((len(sure) + 1) // 2).indices
    second_from_first, _ = absolute_pose(
        prediction.points_second_in_first.flatten(0, 1)[chosen],
        pixels[chosen],
        intrinsics,
        threshold=THRESHOLD * max(height, width),
        seed=0,
    )
    return invert(second_from_first)
