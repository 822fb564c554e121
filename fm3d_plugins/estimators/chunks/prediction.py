"""What a feed-forward network says about the photos of one chunk."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class ChunkPrediction:
    """Cameras and depth of some photos, in a frame and unit of their own."""

    view_index: tuple[int, ...]
    """Which photo each view is: its row in the whole capture."""
    world_from_camera: Float[Tensor, "view 4 4"]
    """Rigid OpenCV cameras in the chunk's own world."""
    intrinsics: Float[Tensor, "view 3 3"]
    """In pixels of the depth maps; no distortion."""
    depth: Float[Tensor, "view height width"]
    """z-depth in the chunk's unit; 0 or not finite is unknown. A photo has the same size in all its
    chunks."""
    confidence: Float[Tensor, "view height width"]
    """In any unit; 0 is a pixel that must not be used."""

    def __post_init__(self) -> None:
        """Raise ValueError for a photo given twice, cameras that are not finite, or other views."""
        photos = list(self.view_index)
        if len(set(photos)) != len(photos) or len(photos) != len(self.depth):
            raise ValueError(
                f"A chunk's prediction has {len(self.depth)} views of the photos {photos}. "
                "Expected one view of each, and no photo twice. Correct `view_index`."
            )
        finite = torch.isfinite(self.world_from_camera).flatten(1).all(1)
        finite &= torch.isfinite(self.intrinsics).flatten(1).all(1)
        if not bool(finite.all()):
            lost = [photo for photo, fine in zip(photos, finite.tolist(), strict=True) if not fine]
            raise ValueError(
                f"The predicted cameras of the photos {lost} are not finite. Expected numbers. "
                "Check the weights, or run the network in float32."
            )
