"""Pictures as a film in a file."""

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from fm3d_plugins.atomic import atomic_write

CODECS = ("libx264", "mpeg4")
"""Encoders of what mp4 players know, the better first."""

QUALITY = {"crf": "18"}
"""Of libx264: no loss that is seen."""


def write_video(
    pictures: Iterable[Float[Tensor, "h w 3"]], path: Path, fps: int, inputs: Sequence[Path] = ()
) -> None:
    """Encode pictures as they come, as H.264 where PyAV brings it; the last odd row or column goes.

    Args:
        pictures: RGB in [0, 1], all of one size.
        fps: Frames per second.
        inputs: Files that are never written to.

    Raises:
        ValueError: No encoder is there.
    """
    import av

    codec = next((name for name in CODECS if name in av.codecs_available), None)
    if codec is None:
        raise ValueError(
            f"PyAV {av.__version__} brings none of {', '.join(CODECS)}. Install its wheel from "
            "PyPI (pip install --force-reinstall av)."
        )
    with (
        atomic_write(path, inputs) as temporary,
        av.open(str(temporary), "w", format="mp4", options={"movflags": "faststart"}) as container,
    ):
        stream: Any = container.add_stream(codec, rate=Fraction(fps))
        stream.pix_fmt = "yuv420p"
        stream.options = QUALITY if codec == "libx264" else {}
        is_first = True
        for picture in pictures:
            frame = av.VideoFrame.from_ndarray(_bytes(picture), format="rgb24")
            if is_first:
                stream.width, stream.height = frame.width, frame.height
                is_first = False
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _bytes(picture: Float[Tensor, "h w 3"]):
    height, width = (size - size % 2 for size in picture.shape[:2])
    values = (picture[:height, :width].detach().clamp(0, 1) * 255).round()
    return values.to(torch.uint8).cpu().contiguous().numpy()
