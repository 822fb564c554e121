"""The catalogue names what was published, and what it permits."""

import pytest

from fm3d_plugins.checkpoints.catalogue import (
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


@pytest.mark.parametrize("variant", ["512_dpt", "512_linear", "224_linear"])
def test_counts_of_dust3r_are_those_of_tensors_with_one_name(variant, shared):
    """The manifest is of .pth files; safetensors files hold each tensor once."""
    import json
    from math import prod

    shapes = json.loads((shared / f"golden/dust3r_{variant}_manifest.json").read_text())
    once = {name: shape for name, shape in shapes.items() if ".layer_rn." not in name}
    row = CATALOGUE[f"naver/DUSt3R_ViTLarge_BaseDecoder_{variant}"]
    assert row.num_tensors == len(once)
    assert row.num_parameters == sum(prod(shape) for shape in once.values())
    with pytest.raises(ValueError, match="forbids commercial use"):
        require_commercial(row.licence, row.name, row)
