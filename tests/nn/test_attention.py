"""Self-attention and the transformer block."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from fm3d_plugins.nn.attention import (
    HeadFeatures,
    Mlp,
    SelfAttention,
    TransformerBlock,
    attend,
)
from fm3d_plugins.nn.positions import grid_positions, rotary_tables, rotate


@pytest.fixture
def positions():
    return rotary_tables(grid_positions(2, 3, torch.device("cpu")), 8, 100.0, torch.float64)


@pytest.fixture
def block():
    torch.manual_seed(0)
    made = TransformerBlock(16, 2, layer_scale=0.5, head_norm=nn.LayerNorm).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return made


def naive_attention(attention, tokens, positions):
    """One head and one token at a time."""
    width = tokens.shape[-1] // attention.num_heads
    query, key, value = functional.linear(tokens, attention.qkv.weight, attention.qkv.bias).split(
        tokens.shape[-1], dim=-1
    )
    gathered = torch.zeros_like(tokens)
    for head in range(attention.num_heads):
        channels = slice(head * width, (head + 1) * width)
        q = rotate(attention.q_norm(query[:, channels])[:, None], positions)[:, 0]
        k = rotate(attention.k_norm(key[:, channels])[:, None], positions)[:, 0]
        for i in range(len(tokens)):
            weights = torch.exp(k @ q[i] / width**0.5)
            gathered[i, channels] = weights @ value[:, channels] / weights.sum()
    return attention.proj(gathered)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("head_norm", [nn.Identity, nn.LayerNorm, nn.RMSNorm])
def test_attention_equals_a_loop_over_heads_and_tokens(head_norm, bias, positions):
    torch.manual_seed(0)
    attention = SelfAttention(16, 2, head_norm=head_norm, bias=bias).double()
    tokens = torch.randn(1, 6, 16, dtype=torch.float64)
    expected = naive_attention(attention, tokens[0], positions)
    torch.testing.assert_close(attention(tokens, positions)[0], expected)


@pytest.mark.parametrize("bias", [False, True])
def test_part_of_a_block_is_that_part_of_the_whole(bias):
    torch.manual_seed(0)
    block = TransformerBlock(16, 2, head_norm=nn.RMSNorm, bias=bias).double()
    tokens, part = torch.randn(3, 6, 16, dtype=torch.float64), slice(2, 5)
    torch.testing.assert_close(block.of_part(tokens, part), block(tokens)[:, part])


def test_grouped_sequences_attend_as_one_sequence(positions):
    torch.manual_seed(0)
    attention = SelfAttention(16, 2).double()
    tokens = torch.randn(4, 6, 16, dtype=torch.float64)
    grouped = attention(tokens, group=2)
    joined = attention(tokens.reshape(2, 12, 16)).reshape(4, 6, 16)
    torch.testing.assert_close(grouped, joined)


@pytest.mark.parametrize("group", [1, 2, 4])
@pytest.mark.parametrize("sequences_per_pass", [1, 3, 4, 9])
def test_update_in_place_equals_forward(group, sequences_per_pass, block, positions):
    tokens = torch.randn(4, 6, 16, dtype=torch.float64)
    with torch.no_grad():
        expected = block(tokens, positions, group)
        block.update_(tokens, positions, group, sequences_per_pass=sequences_per_pass)
    torch.testing.assert_close(tokens, expected)


@pytest.mark.parametrize("in_place", [False, True])
def test_block_without_layer_scale_is_one_whose_scale_is_one(in_place, positions):
    torch.manual_seed(0)
    scaled = TransformerBlock(16, 2, layer_scale=1.0).double()
    plain = TransformerBlock(16, 2, layer_scale=None).double()
    names = [name for name in scaled.state_dict() if not name.endswith("gamma")]
    assert list(plain.state_dict()) == names
    plain.load_state_dict({name: scaled.state_dict()[name] for name in names})
    tokens = torch.randn(4, 6, 16, dtype=torch.float64)
    with torch.no_grad():
        expected = scaled(tokens, positions)
        if in_place:
            plain.update_(tokens, positions, sequences_per_pass=3)
        else:
            tokens = plain(tokens, positions)
    torch.testing.assert_close(tokens, expected)


def test_forward_leaves_its_tokens_alone_and_has_right_gradients(block, positions):
    tokens = torch.randn(2, 6, 16, dtype=torch.float64, requires_grad=True)
    before = tokens.detach().clone()
    assert torch.autograd.gradcheck(lambda t: block(t, positions, 2).square().sum(), (tokens,))
    assert tokens.equal(before)


def test_bfloat16_matrices_change_a_float32_stream_by_rounding_alone(block):
    """A branch has a few hundred roundings of 2^-9 that average out; a wrong cast gives 1."""
    block = block.float()
    tokens = torch.randn(2, 6, 16)
    with torch.no_grad():
        exact = block(tokens)
        for module in (block.attn.qkv, block.attn.proj, block.mlp.fc1, block.mlp.fc2):
            module.to(torch.bfloat16)
        rounded = block(tokens)
    assert rounded.dtype == torch.float32
    assert not rounded.equal(exact)
    torch.testing.assert_close(rounded, exact, atol=0.03, rtol=0)


def test_mlp_uses_the_exact_gelu():
    """Truth: x Phi(x) at 1 is 0.841345, of which the tanh form gives 0.841192."""
    mlp = Mlp(1, 1, 1)
    with torch.no_grad():
        for layer in (mlp.fc1, mlp.fc2):
            layer.weight.fill_(1.0)
            layer.bias.zero_()
        assert mlp(torch.ones(1)).item() == pytest.approx(0.8413447, abs=1e-6)


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValueError, match="3 heads cannot share 16 channels"):
        SelfAttention(16, 3)


def test_attention_that_is_trained_in_bfloat16_is_the_fused_one_in_parts():
    """Truth: values and gradients of float64, to the 8 bits of bfloat16."""
    torch.manual_seed(4)
    exact = [torch.randn(3, 10, 2, 16, dtype=torch.float64) for _ in range(3)]
    wanted, results = torch.randn(3, 10, 32, dtype=torch.float64), []
    for dtype in (torch.float64, torch.bfloat16):
        parts = [each.detach().to(dtype).requires_grad_(True) for each in exact]
        attended = attend(HeadFeatures(*parts))
        assert attended.dtype == dtype
        (attended.double() * wanted).sum().backward()
        results.append([attended.detach(), *(part.grad for part in parts)])
    for found, expected in zip(results[1], results[0], strict=True):
        assert (found.double() - expected).norm() < 0.02 * expected.norm()
