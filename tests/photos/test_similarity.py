"""Photos of the same place are near each other as descriptors."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from fm3d_plugins.photos.similarity import (
    COLOR_LEVELS,
    looks_like_a_sequence,
    photo_descriptor,
    photo_descriptors,
    similarity_matrix,
)


def load(folder):
    for path in sorted((folder / "images").iterdir()):
        yield torch.from_numpy(np.array(Image.open(path).convert("RGB")))


def test_descriptor_is_a_unit_vector_that_brightness_bytes_and_size_hardly_change():
    generator = torch.Generator().manual_seed(0)
    blocks = torch.rand(3, 4, 6, generator=generator)
    photo = blocks.repeat_interleave(32, 1).repeat_interleave(32, 2).permute(1, 2, 0)
    descriptor = photo_descriptor(photo)
    torch.testing.assert_close(descriptor.norm(), torch.tensor(1.0))
    as_bytes = photo_descriptor((photo * 255).round().to(torch.uint8))
    assert float(descriptor @ as_bytes) > 0.999
    # Half the size: the same blocks, so the same cells and the same colours.
    assert float(descriptor @ photo_descriptor(photo[::2, ::2])) > 0.999
    assert float(descriptor @ photo_descriptor(0.9 * photo)) > 0.9


def test_black_and_white_share_no_colour_and_grey_lies_between():
    """Truth: flat photos have no shape; a level between two bins is split between them."""
    black, white = (torch.full((8, 8, 3), value) for value in (0.0, 1.0))
    between = torch.full((8, 8, 3), 0.5 / (COLOR_LEVELS - 1))
    similarity = similarity_matrix(photo_descriptors([black, white, between]))
    assert float(similarity[0, 1]) == 0
    # Each channel is half in the first bin: an eighth of the histogram, of which the root counts.
    assert float(similarity[0, 2]) == pytest.approx(0.125**0.5, abs=1e-5)


def test_similarity_is_symmetric_and_one_with_itself():
    generator = torch.Generator().manual_seed(0)
    similarity = similarity_matrix(torch.randn(7, 5, generator=generator))
    torch.testing.assert_close(similarity, similarity.T)
    torch.testing.assert_close(similarity.diagonal(), torch.ones(7))
    assert float(similarity.abs().max()) <= 1


@pytest.mark.parametrize("scene", ["fox", "sceaux"])
def test_photos_that_look_alike_are_near_in_pose(shared, scene):
    """The photo that looks most alike is nearer in place and direction than nine in ten others."""
    folder = shared / "scenes" / scene
    similarity = similarity_matrix(photo_descriptors(load(folder)))
    frames = json.loads((folder / "transforms.json").read_text())["frames"]
    poses = {frame["file_path"].split("/")[-1]: frame["transform_matrix"] for frame in frames}
    names = [path.name for path in sorted((folder / "images").iterdir())]
    known = [row for row, name in enumerate(names) if name in poses]
    poses = torch.tensor([poses[names[row]] for row in known])
    similarity = similarity[known][:, known].fill_diagonal_(-torch.inf)
    centers, axes = poses[:, :3, 3], poses[:, :3, 2]
    places = torch.cdist(centers, centers)
    apart = places / places.median() + (1 - axes @ axes.T)
    rank = (apart < apart.gather(1, similarity.argmax(1, keepdim=True))).float().mean(1)
    assert float(rank.median()) < 0.1 + 1 / len(known)


@pytest.mark.parametrize("scene", ["fox", "sceaux", "lund"])
def test_photos_of_a_walk_are_told_from_shuffled_ones(shared, scene):
    similarity = similarity_matrix(photo_descriptors(load(shared / "scenes" / scene)))
    assert looks_like_a_sequence(similarity)
    order = torch.randperm(len(similarity), generator=torch.Generator().manual_seed(1))
    assert not looks_like_a_sequence(similarity[order][:, order])
