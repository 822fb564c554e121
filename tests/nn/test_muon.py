"""Muon: steps are orthogonal, of the length that was asked for."""

import pytest
import torch

from fm3d_plugins.nn.muon import Muon, orthogonalized


@pytest.mark.parametrize("shape", [(8, 8), (4, 16), (16, 4), (3, 6, 12)])
def test_singular_values_become_about_one_and_vectors_stay(shape):
    """Truth: U S V becomes about U V; the quintic leaves singular values within [0.6, 1.3]."""
    torch.manual_seed(1)
    matrices = torch.randn(shape, dtype=torch.float64)
    u, _, v = torch.linalg.svd(matrices, full_matrices=False)
    found = u.mT @ orthogonalized(matrices) @ v.mT
    values = found.diagonal(dim1=-2, dim2=-1)
    assert 0.5 < values.min() and values.max() < 1.4
    # bfloat16 keeps 8 bits, of numbers about 1.
    torch.testing.assert_close(found, torch.diag_embed(values), atol=0.06, rtol=0)


def test_equal_shapes_are_stepped_as_if_alone():
    torch.manual_seed(2)
    starts, slopes = torch.randn(3, 6, 4), torch.randn(3, 6, 4)

    def stepped(which):
        parameters = [torch.nn.Parameter(starts[i].clone()) for i in which]
        optimizer = Muon(parameters, lr=0.1, weight_decay=0.5)
        for _ in range(2):
            for i, parameter in zip(which, parameters, strict=True):
                parameter.grad = slopes[i].clone()
            optimizer.step()
        return parameters

    together = stepped([0, 1, 2])
    for i in range(3):
        torch.testing.assert_close(together[i], stepped([i])[0], atol=1e-3, rtol=0)


def test_a_step_has_the_spectral_norm_of_the_learning_rate():
    torch.manual_seed(3)
    parameter = torch.nn.Parameter(torch.zeros(6, 12))
    parameter.grad = torch.randn(6, 12)
    Muon([parameter], lr=0.1).step()
    assert 0.05 < torch.linalg.matrix_norm(parameter.detach(), 2) < 0.14


def test_vectors_are_refused():
    with pytest.raises(ValueError, match="expected matrices"):
        Muon([torch.nn.Parameter(torch.zeros(3))], lr=0.1)
