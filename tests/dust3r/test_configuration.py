"""What checkpoints say of their network is read, and never run."""

import json

import pytest

from fm3d_plugins.dust3r.configuration import (
    architecture_of,
    from_text,
    sizes_of_arguments,
    to_text,
)
from fm3d_plugins.dust3r.network import DUSt3RConfig

PUBLISHED = (
    "AsymmetricCroCo3DStereo(pos_embed='RoPE100', patch_embed_cls='ManyAR_PatchEmbed', "
    "img_size=(512, 512), head_type='dpt', output_mode='pts3d', depth_mode=('exp', -inf, inf), "
    "conf_mode=('exp', 1, inf), enc_embed_dim=1024, enc_depth=24, enc_num_heads=16, "
    "dec_embed_dim=768, dec_depth=12, dec_num_heads=12)"
)
HUB = {
    "enc_embed_dim": 1024,
    "enc_depth": 24,
    "enc_num_heads": 16,
    "dec_embed_dim": 768,
    "dec_depth": 12,
    "dec_num_heads": 12,
    "head_type": "linear",
    "conf_mode": ["exp", 1, float("inf")],
    "depth_mode": ["exp", float("-inf"), float("inf")],
    "landscape_only": False,
}


def test_published_expression_gives_the_default_network():
    assert DUSt3RConfig(**architecture_of(PUBLISHED)) == DUSt3RConfig()
    assert DUSt3RConfig(**architecture_of(f" {PUBLISHED}\n")) == DUSt3RConfig()


def test_arguments_of_the_hub_give_the_network_after_json():
    found = sizes_of_arguments(json.loads(json.dumps(HUB)))
    assert DUSt3RConfig(**found) == DUSt3RConfig(head="linear")


def test_other_modes_and_bases_are_read():
    text = PUBLISHED.replace("RoPE100", "RoPE50").replace("('exp', 1, inf)", "('sigmoid', 0, 1)")
    config = DUSt3RConfig(**architecture_of(text.replace("('exp', -inf", "('square', -inf")))
    assert config.rotary_base == 50
    assert config.confidence_mode == ("sigmoid", 0.0, 1.0)
    assert config.depth_mode == "square"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("__import__('os').system('touch TRACE')", "no call|calls"),
        ("open('TRACE', 'w')", "calls open"),
        ("AsymmetricCroCo3DStereo(open('TRACE', 'w'))", "not all of its arguments are named"),
        ("AsymmetricCroCo3DStereo(**open('TRACE', 'w'))", "not all of its arguments are named"),
        ("AsymmetricCroCo3DStereo(enc_depth=open('TRACE', 'w'))", "no constant"),
        ("AsymmetricCroCo3DStereo(enc_depth=[open('TRACE', 'w')])", "no constant"),
        ("AsymmetricCroCo3DStereo(enc_depth=(1, open('TRACE', 'w')))", "no constant"),
        ("AsymmetricCroCo3DStereo(enc_depth=9**9**9)", "no constant"),
        ("AsymmetricCroCo3DStereo(enc_depth=-'x')", "no constant"),
        ("AsymmetricCroCo3DStereo(enc_depth=nan)", "no constant"),
        ("AsymmetricCroCo3DStereo(enc_depth=f'{open(chr(84))}')", "no constant"),
        ("AsymmetricMASt3R(enc_depth=1)", "calls AsymmetricMASt3R"),
        ("x = 1", "no expression"),
        ("", "no expression"),
        ("(" * 1000 + ")" * 1000, "no expression"),
    ],
)
def test_other_expressions_are_refused_and_not_run(text, fault, tmp_path):
    trace = tmp_path / "trace"
    with pytest.raises(ValueError, match=fault):
        architecture_of(text.replace("TRACE", str(trace)))
    assert not trace.exists()


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("enc_depth=24, ", "", "missing: enc_depth"),
        ("enc_depth=24", "enc_depth=24, colour=1", "unknown: colour"),
        ("enc_depth=24", "enc_depth=-24", "encoder_depth=-24; expected a whole number"),
        ("enc_depth=24", "enc_depth=True", "encoder_depth=True; expected a whole number"),
        ("enc_depth=24", "enc_depth='24'", "expected a whole number"),
        ("'dpt'", "'catmlp+dpt'", "head='catmlp.dpt'; expected one of dpt, linear"),
        ("'pts3d'", "'pts3d+desc24'", "output_mode=.*descendants"),
        ("RoPE100", "cosine", "pos_embed='cosine'; expected rotary"),
        ("'RoPE100'", "100", "pos_embed=100; expected rotary"),
        ("-inf, inf", "0, inf", "bounds of -inf and inf"),
        ("('exp', 1, inf)", "('exp', 1)", "a kind and two bounds"),
        ("('exp', 1, inf)", "('log', 1, inf)", "confidence_mode='log'"),
        ("('exp', -inf, inf)", "('log', -inf, inf)", "depth_mode='log'"),
    ],
)
def test_networks_that_are_not_offered_are_refused(old, new, fault):
    assert PUBLISHED.replace(old, new) != PUBLISHED
    with pytest.raises(ValueError, match=fault):
        architecture_of(PUBLISHED.replace(old, new))


def test_sizes_survive_the_text():
    sizes = {"encoder_width": 32, "decoder_depth": 4, "head": "linear", "mlp_ratio": 2.5}
    assert DUSt3RConfig(**from_text(to_text(sizes))) == DUSt3RConfig(**sizes)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("{", "Expecting"),
        ('{"colour": 3}', "no size 'colour'"),
        ('{"encoder_depth": "many"}', "encoder_depth is 'many', expected int"),
        ('{"patch_size": 0}', "patch_size=0"),
        ('{"mlp_ratio": -1}', "mlp_ratio=-1"),
        ('{"confidence_mode": 3}', "confidence_mode is 3, expected 3 values"),
        ("[1]", "no object"),
        ("3", "metadata"),
    ],
)
def test_text_that_is_no_description_is_refused(text, fault):
    with pytest.raises(ValueError, match=fault):
        from_text(text)
