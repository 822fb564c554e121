"""`fm3d sample`: a synthetic capture to try things on, made on the spot."""

import shlex
from functools import partial
from pathlib import Path


def command(
    output_dir: Path,
    num_photos: int = 24,
    width: int = 480,
    height: int = 360,
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Write photos of a synthetic room, with exact cameras, depth and points beside them.

    Args:
        output_dir: Folder to write; must not exist, or be empty.
        num_photos: Photos along the walk through the room.
        width: Pixels.
        height: Pixels.
        seed: Each number is another room.
        overwrite: Replace the output folder if this command wrote it before.

    Raises:
        FileExistsError: The output folder holds something.
        ValueError: The capture asked for is too small.
    """
    from fm3d_plugins.progress import say, signs_of_life, track
    from fm3d_plugins.synthetic_rooms.capture import write_sample

    beginning = (
        f"Rendering {num_photos} photos of a synthetic room "
        "(the first time, half a minute goes into compiling the renderer)"
    )
    with signs_of_life(lambda seconds: f"At work since {seconds:.0f} s."):
        write_sample(
            output_dir,
            num_photos=num_photos,
            width=width,
            height=height,
            seed=seed,
            overwrite=overwrite,
            track=partial(track, label="Rendering", total=num_photos),
            started=partial(say, beginning),
        )
    say(f"The capture is in {output_dir}")
    say(f"Next: {shlex.join(['ns-train', '3dgs', '--data', str(output_dir), 'sfm'])}")
