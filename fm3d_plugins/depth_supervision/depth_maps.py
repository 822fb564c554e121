"""Depth and confidence maps of the training photos, looked up at pixels."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from fm3d_plugins.io.depth_files import DepthFiles, read_map
from fm3d_plugins.progress import track

LARGEST_STRETCH = 1.15
"""A map's aspect ratio may differ from its photo's by this factor: networks round sizes to whole
patches, but a map that lies on its side is a mistake."""


class DepthMaps:
    """Depth (scene units) and confidence of all photos, looked up by position in a photo.

    Maps keep their own size, unless they are larger than their photo. Confidences are divided by
    their mean over all photos; where the depth is not finite or not positive they are 0.
    """

    def __init__(
        self,
        files: DepthFiles,
        photo_sizes: Int[Tensor, "photo 2"],
        device: torch.device | str,
        *,
        use_confidence: bool = True,
    ) -> None:
        """Args:
            files: One map per photo.
            photo_sizes: Width and height at which positions are asked for.
            device: Where maps are kept.
            use_confidence: Whether to read confidence maps.

        Raises:
            ValueError: Files that cannot be read, have a wrong shape, or hold no depth at all.
            FileNotFoundError: Files are absent.
        """
        files.check()
        confidences: Sequence[Path | None] = files.confidences if use_confidence else ()
        confidences = confidences or [None] * len(files.depths)
        maps = [
            _photo_maps(depth, confidence, tuple(size))
            for depth, confidence, size in track(
                list(zip(files.depths, confidences, photo_sizes.tolist(), strict=True)),
                "Reading depth maps",
                total=len(files.depths),
            )
        ]
        shapes = torch.tensor([depth.shape for depth, _ in maps])
        ends = shapes.prod(-1).cumsum(0)
        self._shapes: Int[Tensor, "photo 2"] = shapes.to(device)
        self._starts: Int[Tensor, " photo"] = (ends - shapes.prod(-1)).to(device)
        self._sizes: Int[Tensor, "photo 2"] = photo_sizes.to(device)
        depth, confidence = (
            torch.from_numpy(np.concatenate([pair[i].ravel() for pair in maps])) for i in (0, 1)
        )
        valid = confidence > 0
        if not valid.any():
            raise ValueError(
                f"None of the {len(maps)} depth maps holds a depth that is finite, positive and of "
                f"positive confidence (first: {files.depths[0]}). Expected z-depth. Write the maps "
                "anew."
            )
        mean = confidence[valid].double().mean().float()
        self._depth: Float[Tensor, " pixel"] = (depth * files.scale).to(device)
        self._confidence: Float[Tensor, " pixel"] = (confidence / mean).to(device)
        self.share_valid = float(valid.float().mean())

    def at(
        self, photo: Int[Tensor, " point"], positions: Float[Tensor, "point 2"]
    ) -> tuple[Float[Tensor, " point"], Float[Tensor, " point"]]:
        """Depth and confidence of the map's pixel in which each position of a photo lies.

        Args:
            photo: Row of the photo.
            positions: x and y in the photo, pixels with corner (0, 0), lens distortion included.

        Returns:
            Both 0 for positions outside the photo and where there is no depth.
        """
        size, shape = self._sizes[photo], self._shapes[photo]
        inside = ((positions >= 0) & (positions < size)).all(-1)
        height, width = shape.unbind(-1)
        share = positions.nan_to_num(0.0) / size
        column = (share[:, 0] * width).long().clamp(min=0).minimum(width - 1)
        row = (share[:, 1] * height).long().clamp(min=0).minimum(height - 1)
        pixel = self._starts[photo] + row * width + column
        zero = torch.zeros_like(share[:, 0])
        return self._depth[pixel].where(inside, zero), self._confidence[pixel].where(inside, zero)


def _photo_maps(
    depth_file: Path, confidence_file: Path | None, photo_size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Depth and confidence [H, W] float32 of one photo; both 0 where there is no depth."""
    depth = read_map(depth_file)
    width, height = photo_size
    stretch = (depth.shape[1] / depth.shape[0]) / (width / height)
    if not 1 / LARGEST_STRETCH < stretch < LARGEST_STRETCH:
        raise ValueError(
            f"{depth_file} is {depth.shape[1]} x {depth.shape[0]} pixels, its photo {width} x "
            f"{height}. Expected a map of the whole photo, of any size but of its aspect ratio. "
            "Is it turned or cropped? Write it anew."
        )
    shape = (min(depth.shape[0], height), min(depth.shape[1], width))
    depth = _nearest(depth, shape)
    confidence = np.ones_like(depth)
    if confidence_file is not None:
        confidence = _nearest(read_map(confidence_file), shape)
    with np.errstate(invalid="ignore"):
        valid = np.isfinite(depth) & (depth > 0) & np.isfinite(confidence) & (confidence > 0)
    return np.where(valid, depth, 0), np.where(valid, confidence, 0)


def _nearest(values: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The pixel of the old grid in which each new pixel's centre lies."""
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(np.int64)
        for old, new in zip(values.shape, shape, strict=True)
    )
    return values[rows[:, None], columns]
