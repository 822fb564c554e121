"""The catalogue names what was published, and what it permits."""

import pytest

from fm3d_plugins.backends.checkpoints.catalogue import (
    CATALOGUE,
    UNKNOWN_LICENCE,
    require_commercial,
)


def test_addresses_are_those_of_the_hub():
    vggt = CATALOGUE["facebook/VGGT-1B"]
    assert vggt.url(vggt.files[0]) == (
        "https://huggingface.co/facebook/VGGT-1B/resolve/main/model.safetensors"
    )


def test_commercial_use_is_refused_with_the_published_alternative():
    vggt, commercial = CATALOGUE["facebook/VGGT-1B"], CATALOGUE["facebook/VGGT-1B-Commercial"]
    require_commercial(commercial.licence, commercial.name, commercial)
    with pytest.raises(ValueError, match="forbids commercial use.*facebook/VGGT-1B-Commercial"):
        require_commercial(vggt.licence, vggt.name, vggt)
    with pytest.raises(ValueError, match="unknown"):
        require_commercial(UNKNOWN_LICENCE, "mine.pt")


def test_manifest_of_the_published_network_has_the_catalogues_counts(shared):
    import json
    from math import prod

    shapes = json.loads((shared / "golden/vggt_1b_manifest.json").read_text())
    for name in ("facebook/VGGT-1B", "facebook/VGGT-1B-Commercial"):
        row = CATALOGUE[name]
        assert row.num_tensors == len(shapes)
        assert row.num_parameters == sum(prod(shape) for shape in shapes.values())
