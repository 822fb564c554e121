"""`fm3d sample`: a synthetic capture to try things on, made on the spot."""

import shlex
from functools import partial
from pathlib import Path


def command(
    output_dir: Path | None = None,
    num_photos: int = 24,
    width: int = 480,
    height: int = 360,
    seed: int = 0,
    overwrite: bool = False,
    contact_sheet: Path | None = None,
) -> None:
    """Write photos of a synthetic room, with exact cameras, depth and points beside them.

    Args:
        output_dir: Folder to write; must not exist, or be empty.
        num_photos: Photos along the walk through the room.
        width: Pixels.
        height: Pixels.
        seed: Each number is another room.
        overwrite: Replace the output folder if this command wrote it before.
        contact_sheet: PNG file to write in place of a capture: views of rooms that networks are
            trained with, a room in each row, `num_photos` of them; each number is another sheet.

    Raises:
        FileExistsError: The output folder holds something.
        ValueError: The capture asked for is too small, or neither or both are asked for.
    """
    if (output_dir is None) == (contact_sheet is None):
        raise ValueError(
            f"fm3d sample was given {'neither' if output_dir is None else 'both'} of --output-dir "
            "and --contact-sheet. Expected one: a folder for a capture, or a PNG file for views of "
            "the rooms that networks are trained with."
        )
    if contact_sheet is not None:
        _write_sheet(contact_sheet, num_photos, seed)
        return
    assert output_dir is not None
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


def _write_sheet(path: Path, num_rooms: int, seed: int) -> None:
    """Rooms side by side in columns of twelve, eight views each."""
    from fm3d_plugins.atomic import atomic_write, require_place
    from fm3d_plugins.progress import say, signs_of_life
    from fm3d_plugins.synthetic_rooms.endless.sheet import contact_sheet

    require_place(path, [])
    with signs_of_life(lambda seconds: f"At work since {seconds:.0f} s."):
        picture = contact_sheet(num_rooms, seed)
    with atomic_write(path) as temporary:
        picture.save(temporary, format="PNG")
    say(f"The contact sheet is {path}")
