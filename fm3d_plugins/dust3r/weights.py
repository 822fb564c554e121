"""Published weights into the network, strictly, whichever form they were published in."""

import re
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from fm3d_plugins.dust3r.network import DUSt3R
from fm3d_plugins.nn.weights import load_strictly

SECOND_DECODER, DECODER = "dec_blocks2.", "dec_blocks."
PRETRAINING_HEAD = "prediction_head."
"""Prefix of the tensors of the head that CroCo's pretraining used to restore hidden patches."""
HEADS = ("downstream_head1.", "downstream_head2.")
MATCHING = "matching."
ALIAS = re.compile(r"(downstream_head[12]\.dpt\.scratch\.)layer_rn\.(\d)\.weight")
ADVICE = (
    "Choose the checkpoint of this architecture, or build the network with the sizes and the kind "
    "of head that the checkpoint has."
)


def load_official(
    network: DUSt3R,
    state_dict: Mapping[str, Tensor],
    *,
    dtype: torch.dtype | None = None,
    pretraining: bool = False,
) -> None:
    """Give the network the weights of a published checkpoint, as `nn.weights.load_strictly` does.

    Args:
        state_dict: Flat. The 512 pixel network with dense heads has 1001 names in safetensors
            files, and 1009 in .pth files, where eight tensors have a second name. If those
            differ, that of `layer_rn` counts, as in the published code.
        dtype: Type of the matrices of the encoder and the decoders, by default float32. All other
            weights are float32.
        pretraining: The weights are CroCo's (version 2), to train from: its one decoder becomes
            both, its own head is left out, and the network's heads and matching keep their values.

    Raises:
        ValueError: If names are missing or unexpected, or shapes are wrong; all are listed.
    """
    if pretraining and not is_pretraining(state_dict):
        raise ValueError(
            "The weights are of a DUSt3R: they have a second decoder or heads of their own. "
            "Expected those of CroCo's pretraining. Load them without `pretraining`."
        )
    own = (*HEADS, MATCHING)
    keep = [name for name in network.state_dict() if name.startswith(own)] if pretraining else []
    load_strictly(
        network,
        _OwnNames(state_dict, pretraining),
        advice=_advice(state_dict, pretraining),
        converted=network.matrix_names(),
        dtype=dtype,
        may_lack=keep,
    )


def is_pretraining(state_dict: Mapping[str, Tensor]) -> bool:
    """Whether weights have the names of CroCo's second version: one decoder, no points' heads."""
    has_one = any(name.startswith(DECODER) for name in state_dict)
    return has_one and not any(name.startswith((SECOND_DECODER, *HEADS)) for name in state_dict)


def _advice(state_dict: Mapping[str, Tensor], pretraining: bool) -> str:
    is_single = not any(name.startswith(SECOND_DECODER) for name in state_dict)
    if is_single and not pretraining and any(name.startswith(DECODER) for name in state_dict):
        return (
            "There is one decoder only, as in CroCo's pretraining, which cannot see in 3D: train "
            "from it (--pipeline.model.parts-of), or choose a checkpoint of DUSt3R."
        )
    if pretraining:
        return (
            "CroCo's weights need a network that is not on the meta device, because its heads "
            f"keep their values. {ADVICE}"
        )
    return ADVICE


class _OwnNames(Mapping[str, Tensor]):
    """The same tensors by the network's names; each is read when it is asked for."""

    def __init__(self, state_dict: Mapping[str, Tensor], pretraining: bool) -> None:
        self._state_dict = state_dict
        self._source = {}
        for name in state_dict:
            if pretraining and name.startswith(PRETRAINING_HEAD):
                continue
            # Whichever of two names comes first: that of `layer_rn` is to be in effect.
            own = ALIAS.sub(_main_name, name)
            if own != name or own not in self._source:
                self._source[own] = name
            if pretraining and name.startswith(DECODER):
                self._source[SECOND_DECODER + name.removeprefix(DECODER)] = name

    def __getitem__(self, name: str) -> Tensor:
        return self._state_dict[self._source[name]]

    def __contains__(self, name: object) -> bool:
        return name in self._source

    def __iter__(self) -> Iterator[str]:
        return iter(self._source)

    def __len__(self) -> int:
        return len(self._source)


def _main_name(alias: re.Match[str]) -> str:
    return f"{alias[1]}layer{int(alias[2]) + 1}_rn.weight"
