"""Activations of the dense heads."""

import torch

from fm3d_plugins.vggt.dense_head import (
    depth_and_confidence,
    inverse_log,
    points_and_confidence,
)


def test_activations_match_golden_values(shared):
    from safetensors.torch import load_file

    golden = load_file(shared / "golden" / "vggt_fn_geometry.safetensors")
    raw = golden["act_raw"]
    points, confidence = points_and_confidence(raw)
    torch.testing.assert_close(points, golden["act_inv_log"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(confidence, golden["conf_expp1"], atol=1e-5, rtol=1e-5)
    depth, confidence = depth_and_confidence(raw[:, 2:])
    torch.testing.assert_close(depth, golden["act_exp"][..., 2], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(confidence, golden["conf_expp1"], atol=1e-5, rtol=1e-5)


def test_inverse_log_undoes_the_signed_logarithm():
    values = torch.tensor([-7.0, -1e-3, 0.0, 1e-6, 20.0], dtype=torch.float64)
    logarithm = values.sign() * torch.log1p(values.abs())
    torch.testing.assert_close(inverse_log(logarithm), values)
