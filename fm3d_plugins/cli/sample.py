"""`fm3d sample`: a synthetic capture to try things on, made on the spot."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import tyro


@dataclass
class Sample:
    """Write photos of a synthetic room, with exact cameras, depth and points beside them."""

    output_dir: Path
    """Folder to write; must not exist, or be empty."""
    num_photos: int = 24
    """Photos along the walk through the room."""
    width: int = 480
    """Pixels."""
    height: int = 360
    """Pixels."""
    seed: int = 0
    """Each number is another room."""
    overwrite: bool = False
    """Replace the output folder if it holds something."""

    def run(self) -> None:
        """Write the capture and say what to do with it.

        Raises:
            FileExistsError: The output folder holds something.
            ValueError: The capture asked for is too small.
        """
        from nerfstudio.utils.rich_utils import CONSOLE

        from fm3d_plugins.progress import track
        from fm3d_plugins.synthetic_rooms.capture import write_sample

        CONSOLE.print(
            f"Rendering {self.num_photos} photos of a synthetic room "
            "(the first time, half a minute goes into compiling the renderer)"
        )
        write_sample(
            self.output_dir,
            num_photos=self.num_photos,
            width=self.width,
            height=self.height,
            seed=self.seed,
            overwrite=self.overwrite,
            track=partial(track, label="Rendering", total=self.num_photos),
        )
        CONSOLE.print(f"The capture is in {self.output_dir}", markup=False, highlight=False)
        command = f"ns-train 3dgs --data {self.output_dir} sfm"
        CONSOLE.print(f"Next: {command}", markup=False, highlight=False)


def run(arguments: Sequence[str]) -> None:
    """Parse the options and write the capture.

    Raises:
        FileExistsError: The output folder holds something.
        ValueError: The capture asked for is too small.
    """
    config = (tyro.conf.FlagConversionOff,)
    tyro.cli(Sample, prog="fm3d sample", args=arguments, config=config).run()
