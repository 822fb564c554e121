"""The published sizes, with real tensors."""

import json
from argparse import Namespace

import pytest
import torch

from fm3d_plugins.checkpoints import locate
from fm3d_plugins.dust3r.inference import PhotoEncodings, decode_pairs, load_network

ARGUMENTS = (
    "AsymmetricCroCo3DStereo(pos_embed='RoPE100', patch_embed_cls='ManyAR_PatchEmbed', "
    "img_size=(512, 512), head_type='dpt', output_mode='pts3d', depth_mode=('exp', -inf, inf), "
    "conf_mode=('exp', 1, inf), enc_embed_dim=1024, enc_depth=24, enc_num_heads=16, "
    "dec_embed_dim=768, dec_depth=12, dec_num_heads=12)"
)


@pytest.mark.slow
def test_published_torch_file_loads_strictly_and_runs(shared, tmp_path):
    """1009 names as in the published file; two photos of different sizes, in bfloat16."""
    manifest = json.loads((shared / "golden" / "dust3r_512_dpt_manifest.json").read_text())
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for name, shape in manifest.items():
        if ".layer_rn." in name:
            level = int(name.split(".layer_rn.")[1][0])
            weights[name] = weights[name.replace(f"layer_rn.{level}", f"layer{level + 1}_rn")]
            continue
        value = torch.randn(shape, generator=generator)
        is_scale = len(shape) == 1 and name.endswith("weight")
        weights[name] = (
            torch.ones(shape) if is_scale else value * 0.5 / max(1, value[0].numel()) ** 0.5
        )
    path = tmp_path / "DUSt3R_ViTLarge_BaseDecoder_512_dpt.pth"
    torch.save({"args": Namespace(model=ARGUMENTS), "model": weights, "epoch": 3}, path)
    del weights
    network = load_network(locate(path), torch.bfloat16, torch.device("cpu"))
    photos = [torch.rand(3, 288, 512, generator=generator), torch.rand(3, 512, 384)]
    results = list(decode_pairs(PhotoEncodings(network, photos.__getitem__), [(0, 1), (1, 0)]))
    assert [(first, second) for first, second, _ in results] == [(0, 1), (1, 0)]
    for first, _, prediction in results:
        assert prediction.points_first.shape == (*photos[first].shape[1:], 3)
        assert prediction.points_first.isfinite().all()
        assert (prediction.confidence_second >= 1).all()
