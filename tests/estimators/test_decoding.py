"""After validation, an estimate decodes each photo once: decoding is what large photos cost."""

from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from fm3d_plugins.estimators.dust3r.estimator import Dust3r
from fm3d_plugins.estimators.matching.working_photos import find_features
from fm3d_plugins.estimators.vggt.estimator import Vggt
from fm3d_plugins.photos import photo as one_photo
from fm3d_plugins.photos.photo_set import find_photos


@pytest.fixture
def photos(tmp_path):
    """Six of one place, one with a mask and one with an alpha channel."""
    torch.set_num_threads(1)
    folder = tmp_path / "photos"
    (folder / "masks").mkdir(parents=True)
    place = np.random.default_rng(0).integers(0, 255, (30, 50, 3)).repeat(8, 0).repeat(8, 1)
    for row in range(6):
        picture = Image.fromarray(place[:, 20 * row : 20 * row + 240].astype(np.uint8))
        if row == 5:
            picture.putalpha(200)
        picture.save(folder / f"{row}.png")
    Image.new("L", (240, 240), 255).save(folder / "masks" / "0.png")
    return find_photos(folder)


@pytest.fixture
def decoded(monkeypatch):
    """How often each file's bytes are decoded."""
    counts = Counter()
    right = one_photo.open_upright

    def counting(content):
        counts[hash(content)] += 1
        return right(content)

    monkeypatch.setattr(one_photo, "open_upright", counting)
    return counts


def test_vggt_in_chunks(photos, decoded, vggt_weights):
    options = {"min_confidence": 0.0, "consistent_views": 0, "confidence_percentile": 0.0}
    estimator = Vggt(weights=str(vggt_weights), resolution=112, chunk_size=3, **options)
    assert len(estimator.estimate(photos)) == 6
    assert sorted(decoded.values()) == [1] * 6


def test_dust3r_with_pairs_by_likeness(photos, decoded, dust3r_weights):
    options = {"min_confidence": 0.0, "consistent_views": 0, "confidence_percentile": 0.0}
    estimator = Dust3r(weights=str(dust3r_weights), resolution=64, pairs="retrieval-3", **options)
    assert len(estimator.estimate(photos)) == 6
    assert sorted(decoded.values()) == [1] * 6


def test_sfm(photos, decoded):
    find_features(
        photos.photos, max_features=100, max_image_size=120, num_threads=1, report=lambda _: None
    )
    assert sorted(decoded.values()) == [1] * 6
