"""Learned features and their matches: DISK or ALIKED, and LightGlue, as kornia has them.

kornia fetches weights where its networks are made by name. Here they are made without, and get the
published files, which are found, fetched and shown like those of all networks of this package.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from typing import Literal, cast

import numpy as np
import torch
from jaxtyping import Float32, Int64, UInt8
from torch import Tensor, nn

from fm3d_plugins.checkpoints import load, locate, require_obtainable
from fm3d_plugins.errors import listed, require
from fm3d_plugins.nn.planning import choose_device

LearnedKind = Literal["disk", "aliked"]

WEIGHTS: Mapping[LearnedKind, tuple[str, str]] = {
    "disk": ("kornia/disk", "kornia/lightglue/disk"),
    "aliked": ("kornia/aliked", "kornia/lightglue/aliked"),
}
"""Names of the published weights of the features and of their LightGlue."""

MOST_FEATURES = 2048
"""Of a photo: so many LightGlue was published with, and its time grows with their square."""

FIRST_CENTER = 0.5
"""Where the centre of the first pixel lies; for kornia's networks it is 0."""

_INSTALL = "fm3d-plugins[learned-matches]"

_PURPOSE = "Learned features (--features disk, aliked)"


@dataclass(frozen=True)
class LearnedFeatures:
    """What a network sees in an image."""

    pixels: Float32[np.ndarray, "feature 2"]
    """The centre of the first pixel is (0.5, 0.5)."""
    descriptors: Float32[np.ndarray, "feature 128"]
    """Of length 1."""


def require_learned(kind: LearnedKind) -> None:
    """Refuse learned features that cannot be had, before anything is read.

    Raises:
        ImportError: kornia is not installed.
        FileNotFoundError: Weights are absent, and the network is switched off.
        ValueError: Weights are not what the hub handed out.
    """
    if find_spec("kornia") is None:
        require("kornia", purpose=_PURPOSE, install=_INSTALL)
    for name in WEIGHTS[kind]:
        require_obtainable(name)


def kornia_version() -> str:
    """Of the installed kornia.

    Raises:
        ImportError: There is none.
    """
    if find_spec("kornia") is None:
        require("kornia", purpose=_PURPOSE, install=_INSTALL)
    return version("kornia")


class LearnedMatcher:
    """The networks of one kind of features, ready for use.

    The same images give the same features and matches, alone or among others: each is seen alone.

    Args:
        kind: disk (Tyszkiewicz et al. 2020) or aliked (Zhao et al. 2023), matched by LightGlue
            (Lindenberger et al. 2023).
        device: auto (CUDA where there is a device), cpu or cuda.

    Raises:
        ImportError: kornia is not installed, or too old.
        FileNotFoundError: Weights are not here and cannot be fetched.
        ValueError: They are damaged, or of another network.
    """

    def __init__(self, kind: LearnedKind, device: str = "auto") -> None:
        feature = require("kornia.feature", purpose=_PURPOSE, install=_INSTALL)
        if not hasattr(feature, kind.upper()):
            raise ImportError(
                f"kornia {version('kornia')} has no {kind.upper()}. Expected 0.9 or later. Install "
                f"it with: pip install '{_INSTALL}'."
            )
        self._device, self._kind = choose_device(device), kind
        flash = torch.backends.cuda.flash_sdp_enabled()
        network = feature.DISK() if kind == "disk" else feature.ALIKED("aliked-n16", MOST_FEATURES)
        matcher = feature.LightGlue(features=None, input_dim=128)
        # LightGlue's constructor says for all of torch whether there is fast attention.
        torch.backends.cuda.enable_flash_sdp(flash)
        own, glue = (_tensors(name) for name in WEIGHTS[kind])
        self._network = _loaded(network, own, WEIGHTS[kind][0]).to(self._device)
        self._matcher = _loaded(matcher, _renamed(glue), WEIGHTS[kind][1]).to(self._device)

    @torch.inference_mode()
    def features(
        self, image: UInt8[np.ndarray, "height width 3"], most: int = MOST_FEATURES
    ) -> LearnedFeatures:
        """The surest features of an RGB image, at most `MOST_FEATURES`."""
        pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].to(self._device)
        values = pixels.float() / 255
        most = min(most, MOST_FEATURES)
        if self._kind == "disk":
            (found,) = self._network(values, n=most, pad_if_not_divisible=True)
            scores = found.detection_scores
        else:
            (found,) = self._network(values)
            scores = found.keypoint_scores
        order = torch.argsort(scores, descending=True, stable=True)[:most]
        return LearnedFeatures(
            (found.keypoints[order].float() + FIRST_CENTER).cpu().numpy(),
            found.descriptors[order].float().cpu().numpy(),
        )

    @torch.inference_mode()
    def matches(
        self,
        first: LearnedFeatures,
        first_size: tuple[int, int],
        second: LearnedFeatures,
        second_size: tuple[int, int],
    ) -> Int64[np.ndarray, "match 2"]:
        """Rows of features that are each other's, in order of the first.

        Args:
            first_size: Width and height of the first image, pixels.
        """
        if not len(first.pixels) or not len(second.pixels):
            return np.zeros((0, 2), np.int64)
        told = self._matcher(
            {
                "image0": self._as_seen(first, first_size),
                "image1": self._as_seen(second, second_size),
            }
        )
        return told["matches"][0].cpu().numpy().astype(np.int64)

    def _as_seen(self, one: LearnedFeatures, size: tuple[int, int]) -> dict[str, Tensor]:
        return {
            "keypoints": torch.from_numpy(one.pixels - FIRST_CENTER)[None].to(self._device),
            "descriptors": torch.from_numpy(one.descriptors)[None].to(self._device),
            "image_size": torch.tensor([size], device=self._device),
        }


_ready: dict[LearnedKind, LearnedMatcher] = {}


def learned_matcher(kind: LearnedKind) -> LearnedMatcher:
    """The networks of one kind, made once in a process.

    Raises:
        ImportError, FileNotFoundError, ValueError: As `LearnedMatcher`.
    """
    if kind not in _ready:
        _ready.clear()
        _ready[kind] = LearnedMatcher(kind)
    return _ready[kind]


def _tensors(name: str) -> Mapping[str, Tensor]:
    return load(locate(name))


def _renamed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """LightGlue's published names as kornia has them: layer by layer."""
    layer = re.compile(r"^(self_attn|cross_attn)\.(\d+)\.")
    return {layer.sub(r"transformers.\2.\1.", name): tensors[name] for name in tensors}


def _loaded(network: nn.Module, tensors: Mapping[str, Tensor], name: str) -> nn.Module:
    """The network with all its weights, for use; what files hold besides counts for nothing.

    Raises:
        ValueError: Weights are missing, or of other shapes.
    """
    derived = {"confidence_thresholds"}
    own = {key: value for key, value in network.state_dict().items() if key not in derived}
    # Counters of batches, which nothing reads.
    needed = [key for key in own if not key.endswith("num_batches_tracked")]
    missing = [key for key in needed if key not in tensors]
    wrong = [key for key in needed if key in tensors and tensors[key].shape != own[key].shape]
    if missing or wrong:
        raise ValueError(
            f"The weights {name} do not belong to kornia's network of {len(needed)} tensors: "
            f"missing: {listed(missing) or 'none'}; of another shape: {listed(wrong) or 'none'}. "
            f"Fetch them again (`fm3d weights fetch {name}`)."
        )
    network.load_state_dict({key: tensors[key] for key in own if key in tensors}, strict=False)
    return cast(nn.Module, network.eval().requires_grad_(False))
