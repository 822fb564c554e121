"""Parts that begin with other networks' weights: files of the published formats, made here."""

import copy
from argparse import Namespace
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional

from fm3d_plugins.dust3r.configuration import METADATA_KEY, to_text
from fm3d_plugins.dust3r.network import DUSt3R
from fm3d_plugins.nn.dinov2 import VARIANTS, DinoV2, DinoV2Config
from fm3d_plugins.vggt.training import SmallVGGT
from tests.network_training.test_dust3r_training import TINY as TINY_DUST3R
from tests.network_training.tiny_runs import tiny_run

DINO = DinoV2Config(
    width=32, depth=1, num_heads=2, patch_size=8, image_size=32, num_registers=2
)  # fmt: skip
HEADS = ("downstream_head", "matching.")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FM3D_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setitem(VARIANTS, "dinov2_tiny", DINO)


def croco_weights():
    """Names of CroCo version 2: one decoder, a head that restores hidden patches."""
    torch.manual_seed(3)
    names = DUSt3R(**vars(TINY_DUST3R)).state_dict()
    kept = {n: v for n, v in names.items() if not n.startswith(("dec_blocks2.", *HEADS))}
    weights = {name: torch.randn_like(value) for name, value in kept.items()}
    return weights | {
        "prediction_head.weight": torch.randn(3 * 8 * 8, 32),
        "prediction_head.bias": torch.randn(3 * 8 * 8),
    }


def croco_file(folder, weights):
    """As published: a torch file of tensors, and of the options that they were made with."""
    path = folder / "CroCo_V2_Tiny.pth"
    kwargs = {"enc_embed_dim": 32, "pos_embed": "RoPE100", "img_size": 224}
    torch.save({"model": weights, "croco_kwargs": kwargs, "args": Namespace(lr=1e-4)}, path)
    return str(path)


def dinov2_weights(side=4):
    torch.manual_seed(4)
    weights = {n: 0.1 * torch.randn_like(v) for n, v in DinoV2(DINO).state_dict().items()}
    return weights | {"pos_embed": torch.randn(1, 1 + side * side, 32)}


def dinov2_file(folder, weights):
    """As published: a flat torch file."""
    path = folder / "dinov2_tiny_reg_pretrain.pth"
    torch.save(weights, path)
    return str(path)


def vggt_run(folder, *weights):
    config = tiny_run("vggt", folder, 1)
    sizes = {"width": 32, "depth": 2, "head_width": 16, "dense_features": 8, "camera_rounds": 2}
    config.pipeline.model.network = SmallVGGT(patch_embedding="dinov2_tiny", **sizes)
    config.pipeline.model.parts_of = weights
    return config


def dust3r_run(folder, *weights):
    config = tiny_run("dust3r", folder, 1)
    config.pipeline.model.parts_of = weights
    return config


def built(config):
    """The model of a run, as ns-train makes it."""
    torch.manual_seed(0)
    config.set_timestamp()
    return config.pipeline.setup(device="cpu")


def first_loss(pipeline, network):
    model = pipeline.model
    with torch.no_grad():
        return model.loss(network, pipeline.datamanager.batch(0), 0)[0]


@pytest.mark.parametrize("correlation", [False, True])
def test_dust3r_begins_with_croco(correlation, tmp_path, capsys):
    """Truth: each tensor where it belongs, the decoder twice; heads and matching as without."""
    weights = croco_weights()
    runs = [dust3r_run(tmp_path / "plain"), dust3r_run(tmp_path, croco_file(tmp_path, weights))]
    for run in runs:
        run.pipeline.model.network = replace(TINY_DUST3R, correlation=correlation)
    plain, begun = (built(run) for run in runs)
    assert "is CroCo version 2" in capsys.readouterr().out
    expected = copy.deepcopy(plain.model.network)
    state = expected.state_dict()
    taken = 0
    for name in state:
        source = name.replace("dec_blocks2.", "dec_blocks.")
        if not name.startswith(HEADS):
            state[name], taken = weights[source], taken + 1
    # All but the head of pretraining; the decoder's go to two places.
    count = sum(name.startswith("dec_blocks.") for name in weights)
    assert taken == len(weights) - 2 + count
    found = begun.model.network.state_dict()
    assert all(torch.equal(found[name], value) for name, value in state.items())
    expected.load_state_dict(state)
    loss = first_loss(begun, begun.model.network)
    assert torch.equal(loss, first_loss(begun, expected))
    # Heads that begin with zeros, where there are matches, say the same of any tokens.
    assert torch.equal(loss, first_loss(plain, plain.model.network)) == correlation


def test_vggt_begins_with_dinov2(tmp_path):
    """Truth: each tensor in the patch embedding; all else as without."""
    weights = dinov2_weights()
    plain = built(vggt_run(tmp_path / "plain"))
    begun = built(vggt_run(tmp_path, dinov2_file(tmp_path, weights)))
    expected = copy.deepcopy(plain.model.network)
    expected.aggregator.patch_embed.load_state_dict(weights)
    found = begun.model.network.state_dict()
    assert all(torch.equal(found[name], v) for name, v in expected.state_dict().items())
    loss = first_loss(begun, begun.model.network)
    assert torch.equal(loss, first_loss(begun, expected))
    assert not torch.equal(loss, first_loss(plain, plain.model.network))


def test_positions_of_another_image_size_are_interpolated(tmp_path):
    """Truth: as for images of other sizes: bicubic, antialiased; the class token's stay."""
    weights = dinov2_weights(side=6)
    begun = built(vggt_run(tmp_path, dinov2_file(tmp_path, weights)))
    found = begun.model.network.aggregator.patch_embed.pos_embed
    stored = weights["pos_embed"]
    grid = stored[0, 1:].T.reshape(1, 32, 6, 6)
    small = functional.interpolate(grid, (4, 4), mode="bicubic", antialias=True)
    assert torch.equal(found[:, :1], stored[:, :1])
    torch.testing.assert_close(found[0, 1:].T.reshape(1, 32, 4, 4), small)


def without(weights, name):
    return {other: value for other, value in weights.items() if other != name}


def test_files_that_do_not_fit_are_refused_by_name(tmp_path):
    croco, dino = croco_weights(), dinov2_weights()
    odd = dino | {"pos_embed": torch.randn(1, 1 + 15, 32)}
    wide = croco | {"enc_norm.weight": torch.randn(48)}
    whole = croco | {"dec_blocks2.0.norm1.weight": torch.randn(32)}
    for run, write, weights, message in (
        (dust3r_run, croco_file, without(croco, "enc_norm.bias"), "missing: enc_norm.bias"),
        (dust3r_run, croco_file, croco | {"extra": torch.zeros(1)}, "unexpected: extra"),
        (dust3r_run, croco_file, wide, r"shape of enc_norm.weight: found \[48\], expected \[32\]"),
        (dust3r_run, croco_file, whole, "holds no part for this network"),
        (dust3r_run, croco_file, {"other": torch.zeros(1)}, "its weights are other. Expected one"),
        (vggt_run, dinov2_file, without(dino, "register_tokens"), "missing: register_tokens"),
        (vggt_run, dinov2_file, odd, r"`pos_embed` is \[1, 16, 32\]; expected"),
    ):
        with pytest.raises(SystemExit, match=message):
            built(run(tmp_path / "run", write(tmp_path, weights)))


def test_a_part_that_the_network_has_not_is_refused(tmp_path):
    config = vggt_run(tmp_path, dinov2_file(tmp_path, dinov2_weights()))
    config.pipeline.model.network = SmallVGGT(width=32, depth=2, head_width=16)
    with pytest.raises(SystemExit, match="by one convolution; expected a DINOv2"):
        built(config)


def test_objects_in_a_file_are_not_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "evil.pth"
    torch.save({"model": croco_weights(), "extra": Evil()}, path)
    with pytest.raises(SystemExit, match="holds Python objects"):
        built(dust3r_run(tmp_path / "run", str(path)))
    assert not (tmp_path / "made").exists()


class Evil:
    """Would write a file when it is read."""

    def __reduce__(self):
        return (open, ("made", "w"))


def test_small_means_the_weights_of_the_method(tmp_path):
    config = tiny_run("lvsm", tmp_path, 1)
    config.pipeline.model.weights = "small"
    config.set_timestamp()
    assert config.pipeline.model.weights == "lvsm-small"


def test_the_patches_of_weights_decide_over_images(tmp_path):
    """Truth: a network of patches of 8 pixels cannot be trained with images of 12."""
    network = DUSt3R(**vars(TINY_DUST3R))
    path = tmp_path / "own.safetensors"
    save_file(network.state_dict(), path, {METADATA_KEY: to_text(vars(TINY_DUST3R))})
    config = tiny_run("dust3r", tmp_path, 1, image_sizes=(12,))
    config.pipeline.model.weights = str(path)
    with pytest.raises(SystemExit, match=r"network's patches \(8 pixels\)"):
        built(config)
    config = tiny_run("dust3r", tmp_path, 1)
    config.pipeline.model.weights = str(path)
    assert built(config).datamanager.config.patch_size == 8
