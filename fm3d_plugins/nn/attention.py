"""Attention within and between sequences, and the transformer block around the former.

Weights may be stored in a smaller type than the stream of tokens (bfloat16 under float32): every
matrix product then runs in the weights' type, while norms, layer scales and the stream keep their
own. That is what autocast does, without its copies.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from fm3d_plugins.nn.linear import Linear, linear
from fm3d_plugins.nn.positions import RotaryTables, rotate


def joined(parts: Sequence[Tensor]) -> Tensor:
    """Tensors one after the other along the first axis; a single one is not copied."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


class Mlp(nn.Module):
    """Two linear layers with the exact GELU between them."""

    def __init__(
        self, width: int, hidden_width: int, output_width: int, *, bias: bool = True
    ) -> None:
        super().__init__()
        self.fc1 = Linear(width, hidden_width, bias=bias)
        self.fc2 = Linear(hidden_width, output_width, bias=bias)

    def forward(
        self, features: Float[Tensor, "*batch channel"]
    ) -> Float[Tensor, "*batch out_channel"]:
        """In the weights' type, whatever the type of the features."""
        hidden = self.fc1(features.to(self.fc1.weight.dtype))
        if hidden.requires_grad:
            return self.fc2(functional.gelu(hidden))
        # The widest tensor of a network: new memory for it costs more than the GELU itself.
        return self.fc2(torch.ops.aten.gelu_(hidden))


@dataclass(frozen=True)
class HeadFeatures:
    """Queries, keys and values of all heads."""

    queries: Float[Tensor, "sequence token head feature"]
    keys: Float[Tensor, "sequence key_token head feature"]
    values: Float[Tensor, "sequence key_token head feature"]

    @staticmethod
    def joined(parts: "Sequence[HeadFeatures]") -> "HeadFeatures":
        """Those of several groups of sequences one after the other."""
        return HeadFeatures(
            joined([part.queries for part in parts]),
            joined([part.keys for part in parts]),
            joined([part.values for part in parts]),
        )


class SelfAttention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017); one linear layer makes q, k and v.

    Args:
        head_norm: Makes the norm over the channels of each head of q and k, before positions.
        bias: Whether the linear layers have biases.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        *,
        head_norm: Callable[[int], nn.Module] = nn.Identity,
        bias: bool = True,
    ) -> None:
        super().__init__()
        _require_even_heads(width, num_heads)
        self.num_heads = num_heads
        self.qkv = Linear(width, 3 * width, bias=bias)
        self.q_norm = head_norm(width // num_heads)
        self.k_norm = head_norm(width // num_heads)
        self.proj = Linear(width, width, bias=bias)

    def project(
        self,
        tokens: Float[Tensor, "sequence token channel"],
        positions: RotaryTables | None = None,
        part: slice | None = None,
    ) -> HeadFeatures:
        """Queries, keys and values, normalised and turned by their positions.

        Args:
            part: Tokens whose queries are wanted, where there are no positions; by default all.
        """
        stream, heads = tokens.to(self.qkv.weight.dtype), (self.num_heads, -1)
        if part is None:
            queries, keys, values = self.qkv(stream).unflatten(-1, (3, *heads)).unbind(-3)
        else:
            width, weight, bias = tokens.shape[-1], self.qkv.weight, self.qkv.bias
            biases = (None, None) if bias is None else (bias[:width], bias[width:])
            queries = linear(stream[:, part], weight[:width], biases[0]).unflatten(-1, heads)
            others = linear(stream, weight[width:], biases[1])
            keys, values = others.unflatten(-1, (2, *heads)).unbind(-3)
        # Norm and rotation in the type of the tokens: bfloat16 holds angles too coarsely.
        queries = self.q_norm(queries.to(tokens.dtype))
        keys = self.k_norm(keys.to(tokens.dtype))
        if positions is not None:
            queries, keys = rotate(queries, positions), rotate(keys, positions)
        return HeadFeatures(queries.to(values.dtype), keys.to(values.dtype), values)

    def forward(
        self,
        tokens: Float[Tensor, "sequence token channel"],
        positions: RotaryTables | None = None,
        group: int = 1,
    ) -> Float[Tensor, "sequence token channel"]:
        """What each token gathers, in the weights' type; `group` as in `attend`."""
        return self.proj(attend(self.project(tokens, positions), group))


class CrossAttention(nn.Module):
    """Multi-head attention of one sequence to another (Vaswani et al. 2017)."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        _require_even_heads(width, num_heads)
        self.num_heads = num_heads
        self.projq = Linear(width, width)
        self.projk = Linear(width, width)
        self.projv = Linear(width, width)
        self.proj = Linear(width, width)

    def forward(
        self,
        tokens: Float[Tensor, "sequence token channel"],
        memory: Float[Tensor, "sequence memory_token channel"],
        positions: RotaryTables | None = None,
        memory_positions: RotaryTables | None = None,
    ) -> Float[Tensor, "sequence token channel"]:
        """What each token gathers from the memory, in the weights' type."""
        memory_in_type = memory.to(self.projk.weight.dtype)
        queries = self._heads(self.projq(tokens.to(self.projq.weight.dtype)), tokens, positions)
        keys = self._heads(self.projk(memory_in_type), memory, memory_positions)
        values = self.projv(memory_in_type).unflatten(-1, (self.num_heads, -1))
        return self.proj(attend(HeadFeatures(queries, keys, values)))

    def _heads(
        self,
        features: Float[Tensor, "sequence token channel"],
        stream: Float[Tensor, "sequence token channel"],
        positions: RotaryTables | None,
    ) -> Float[Tensor, "sequence token head feature"]:
        """Split into heads and turned by their positions, in the stream's type."""
        heads = features.unflatten(-1, (self.num_heads, -1))
        if positions is None:
            return heads
        return rotate(heads.to(stream.dtype), positions).to(features.dtype)


def _require_even_heads(width: int, num_heads: int) -> None:
    if width % num_heads:
        raise ValueError(
            f"{num_heads} heads cannot share {width} channels evenly. Choose a width that is "
            "a multiple of the number of heads."
        )


def attend(features: HeadFeatures, group: int = 1) -> Float[Tensor, "sequence token channel"]:
    """Softmax attention, heads concatenated.

    Args:
        group: This many consecutive sequences attend to each other as if they were one.
    """
    num_sequences, length = features.queries.shape[:2]
    queries, keys, values = (
        each.reshape(num_sequences // group, group * each.shape[1], *each.shape[2:]).transpose(1, 2)
        for each in (features.queries, features.keys, features.values)
    )
    attended = _attend_heads(queries, keys, values)
    return attended.transpose(1, 2).reshape(num_sequences, length, -1)


MOST_WRITTEN_OUT = 1 << 20
"""Pairs of tokens of one head up to which a CPU writes attention weights down to train with."""


def _attend_heads(
    queries: Float[Tensor, "sequence head token feature"],
    keys: Float[Tensor, "sequence head key_token feature"],
    values: Float[Tensor, "sequence head key_token feature"],
) -> Float[Tensor, "sequence head token feature"]:
    """Softmax attention of every head.

    torch's fused attention is 2 to 3 times slower backwards than its parts on a CPU in bfloat16.
    """
    num_pairs = queries.shape[-2] * keys.shape[-2]
    trains = queries.requires_grad and queries.dtype == torch.bfloat16
    if queries.device.type != "cpu" or not trains or num_pairs > MOST_WRITTEN_OUT:
        return functional.scaled_dot_product_attention(queries, keys, values)
    scaled = queries * queries.shape[-1] ** -0.5
    # Autocast would make a softmax of float32, and copies.
    with torch.autocast("cpu", enabled=False):
        weights = (scaled @ keys.transpose(-1, -2)).softmax(dim=-1)
        return weights @ values


class LayerScale(nn.Module):
    """A learned factor per channel on a residual branch (Touvron et al. 2021)."""

    def __init__(self, width: int, initial: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), initial))


class TransformerBlock(nn.Module):
    """Pre-norm block: tokens += scale * attention(norm(tokens)), then the same with an MLP.

    Args:
        eps: Of the two LayerNorms over channels.
        layer_scale: Initial factor of both branches; none: they have no factor.
        head_norm: As of `SelfAttention`.
        bias: Whether linear layers and LayerNorms have biases.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        *,
        mlp_ratio: float | int = 4,
        eps: float = 1e-5,
        layer_scale: float | None = 0.01,
        head_norm: Callable[[int], nn.Module] = nn.Identity,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=eps, bias=bias)
        self.attn = SelfAttention(width, num_heads, head_norm=head_norm, bias=bias)
        self.ls1 = None if layer_scale is None else LayerScale(width, layer_scale)
        self.norm2 = nn.LayerNorm(width, eps=eps, bias=bias)
        self.mlp = Mlp(width, int(width * mlp_ratio), width, bias=bias)
        self.ls2 = None if layer_scale is None else LayerScale(width, layer_scale)

    def forward(
        self,
        tokens: Float[Tensor, "sequence token channel"],
        positions: RotaryTables | None = None,
        group: int = 1,
    ) -> Float[Tensor, "sequence token channel"]:
        """Tokens after the block; `group` as in `attend`. Differentiable."""
        attended = self.attn(self.norm1(tokens), positions, group)
        tokens = _plus(tokens, attended, self.ls1)
        return _plus(tokens, self.mlp(self.norm2(tokens)), self.ls2)

    def of_part(
        self, tokens: Float[Tensor, "sequence token channel"], part: slice
    ) -> Float[Tensor, "sequence some_token channel"]:
        """Some of the tokens after the block, at the cost of those: for a network's last one."""
        attended = self.attn.proj(attend(self.attn.project(self.norm1(tokens), part=part)))
        kept = _plus(tokens[:, part], attended, self.ls1)
        return _plus(kept, self.mlp(self.norm2(kept)), self.ls2)

    def update_(
        self,
        tokens: Float[Tensor, "sequence token channel"],
        positions: RotaryTables | None = None,
        group: int = 1,
        *,
        sequences_per_pass: int,
    ) -> None:
        """The same in place and without gradients, a few sequences at a time.

        Only queries, keys, values and what is attended exist for all sequences of a group at
        once; the wide layers hold `sequences_per_pass` of them.
        """
        if group == 1 and len(tokens) > sequences_per_pass:
            for part in tokens.split(sequences_per_pass):
                self.update_(part, positions, sequences_per_pass=sequences_per_pass)
            return
        parts = tokens.split(sequences_per_pass)
        projected = [self.attn.project(self.norm1(part), positions) for part in parts]
        attended = attend(HeadFeatures.joined(projected), group)
        del projected
        for part, part_attended in zip(parts, attended.split(sequences_per_pass), strict=True):
            _add_(part, self.attn.proj(part_attended), self.ls1)
            _add_(part, self.mlp(self.norm2(part)), self.ls2)


def _plus(
    tokens: Float[Tensor, "sequence token channel"],
    branch: Float[Tensor, "sequence token channel"],
    scale: LayerScale | None,
) -> Float[Tensor, "sequence token channel"]:
    """The stream after a residual branch."""
    return tokens + branch if scale is None else torch.addcmul(tokens, branch, scale.gamma)


def _add_(
    tokens: Float[Tensor, "sequence token channel"],
    branch: Float[Tensor, "sequence token channel"],
    scale: LayerScale | None,
) -> None:
    """The same in place."""
    tokens.add_(branch) if scale is None else tokens.addcmul_(branch, scale.gamma)


def step(
    block: nn.Module,
    tokens: Float[Tensor, "sequence token channel"],
    positions: RotaryTables | None = None,
    group: int = 1,
    sequences_per_pass: int | None = None,
) -> Float[Tensor, "sequence token channel"]:
    """Tokens after a `TransformerBlock`, at the least cost in memory.

    Without gradients the tokens themselves are updated and returned. With gradients and in
    training mode, what is inside of the block is computed again in the backward pass.

    Args:
        sequences_per_pass: As in `update_`; by default all. With gradients it is not used.
    """
    assert isinstance(block, TransformerBlock)
    if not torch.is_grad_enabled():
        per_pass = sequences_per_pass or len(tokens)
        block.update_(tokens, positions, group, sequences_per_pass=per_pass)
        return tokens
    if not block.training:
        return block(tokens, positions, group)
    return recomputed(block, tokens, positions, group)


def recomputed(block: Callable[..., Tensor], *arguments: object) -> Tensor:
    """What a block says of the arguments; its inside is computed again in the backward pass."""
    result = checkpoint(block, *arguments, use_reentrant=False)
    assert isinstance(result, Tensor)
    return result
