"""Attention to another sequence, and the block around it."""

import pytest
import torch

from fm3d_plugins.nn.attention import CrossAttention
from fm3d_plugins.nn.crossing import CrossingBlock
from fm3d_plugins.nn.positions import grid_positions, rotary_tables, rotate

CPU = torch.device("cpu")


@pytest.fixture
def positions():
    return rotary_tables(grid_positions(2, 3, CPU), 8, 100.0, torch.float64)


@pytest.fixture
def memory_positions():
    return rotary_tables(grid_positions(5, 1, CPU), 8, 100.0, torch.float64)


@pytest.fixture
def sequences():
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randn(2, length, 16, generator=generator, dtype=torch.float64) for length in (6, 5)
    ]


def naive_attention(attention, tokens, memory, positions, memory_positions):
    """One head and one token at a time."""
    width = tokens.shape[-1] // attention.num_heads
    query, key, value = (
        layer(sequence)
        for layer, sequence in (
            (attention.projq, tokens),
            (attention.projk, memory),
            (attention.projv, memory),
        )
    )
    gathered = torch.zeros_like(tokens)
    for head in range(attention.num_heads):
        channels = slice(head * width, (head + 1) * width)
        q = rotate(query[:, channels][:, None], positions)[:, 0]
        k = rotate(key[:, channels][:, None], memory_positions)[:, 0]
        for i in range(len(tokens)):
            weights = torch.exp(k @ q[i] / width**0.5)
            gathered[i, channels] = weights @ value[:, channels] / weights.sum()
    return attention.proj(gathered)


def test_attention_to_a_memory_equals_a_loop_over_heads_and_tokens(
    sequences, positions, memory_positions
):
    torch.manual_seed(0)
    attention = CrossAttention(16, 2).double()
    tokens, memory = sequences
    ours = attention(tokens, memory, positions, memory_positions)
    for row in range(2):
        expected = naive_attention(attention, tokens[row], memory[row], positions, memory_positions)
        torch.testing.assert_close(ours[row], expected)


def test_without_positions_the_order_of_the_memory_does_not_matter(sequences):
    torch.manual_seed(0)
    attention = CrossAttention(16, 2).double()
    tokens, memory = sequences
    torch.testing.assert_close(attention(tokens, memory), attention(tokens, memory.flip(1)))


def test_block_reads_both_sequences_and_changes_neither(sequences, positions, memory_positions):
    torch.manual_seed(0)
    block = CrossingBlock(16, 2).double()
    tokens, memory = (each.requires_grad_() for each in sequences)
    before = [each.detach().clone() for each in sequences]

    def output(tokens, memory):
        return block(tokens, memory, positions, memory_positions).square().sum()

    assert torch.autograd.gradcheck(output, (tokens[:1, :, :], memory[:1]))
    gradients = torch.autograd.grad(output(tokens, memory), (tokens, memory))
    assert all(gradient.abs().min() > 0 for gradient in gradients)
    for sequence, copy in zip(sequences, before, strict=True):
        assert sequence.equal(copy)


def test_block_without_branches_passes_its_tokens_on(sequences):
    block = CrossingBlock(16, 2).double()
    for layer in (block.attn.proj, block.cross_attn.proj, block.mlp.fc2):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    assert block(*sequences).equal(sequences[0])


def test_block_in_bfloat16_changes_a_float32_stream_by_rounding_alone(sequences):
    torch.manual_seed(0)
    block = CrossingBlock(16, 2)
    tokens, memory = (sequence.float() for sequence in sequences)
    with torch.no_grad():
        exact = block(tokens, memory)
        for part in (block.attn, block.cross_attn, block.mlp):
            part.bfloat16()
        stored = block(tokens, memory)
    assert stored.dtype == torch.float32
    # Branches of order one, a few roundings by 2^-9.
    torch.testing.assert_close(stored, exact, atol=0.02, rtol=0)
    assert not stored.equal(exact)


def test_memory_is_read_through_its_own_norm(sequences):
    """A LayerNorm does not see what all channels of a token have in common."""
    torch.manual_seed(0)
    block = CrossingBlock(16, 2).double()
    tokens, memory = sequences
    before = block(tokens, memory)
    torch.testing.assert_close(block(tokens, memory + 3), before)
    with torch.no_grad():
        block.norm_y.weight.mul_(2)
    assert not torch.allclose(block(tokens, memory), before)


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValueError, match="3 heads cannot share 16 channels"):
        CrossAttention(16, 3)
