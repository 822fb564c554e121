"""Many endless rooms in one picture."""

from typing import TYPE_CHECKING

import torch

from fm3d_plugins.synthetic_rooms.endless.rooms import render_rooms

if TYPE_CHECKING:
    from PIL.Image import Image

ROWS, NUM_VIEWS, SIDE = 12, 8, 96
"""Rooms below each other, views of each side by side, pixels of their sides."""

MOST_ROOMS = 240


def contact_sheet(num_rooms: int, seed: int) -> "Image":
    """Rooms below each other in columns of twelve, each along its path from left to right.

    Raises:
        ValueError: There is no room, or more than a picture should hold.
    """
    from PIL import Image

    if not 1 <= num_rooms <= MOST_ROOMS or not 0 <= seed < 1 << 32:
        raise ValueError(
            f"A contact sheet of {num_rooms} rooms of the seed {seed} was asked for; expected 1 to "
            f"{MOST_ROOMS} rooms, and a seed from 0 to {(1 << 32) - 1}. Change --num-photos or "
            "--seed."
        )
    count = -(-num_rooms // ROWS) * ROWS if num_rooms > ROWS else num_rooms
    seeds = torch.arange(num_rooms) + MOST_ROOMS * seed
    images = render_rooms(seeds, NUM_VIEWS, SIDE, SIDE).images
    white = images.new_ones(count - num_rooms, *images.shape[1:])
    rows = torch.cat([images, white]).permute(0, 3, 1, 4, 2).reshape(count, SIDE, -1, 3)
    columns = [part.flatten(0, 1) for part in rows.split(min(count, ROWS))]
    sheet = torch.cat(columns, dim=1)
    return Image.fromarray((sheet * 255).round().to(torch.uint8).numpy())
