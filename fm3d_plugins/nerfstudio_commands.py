"""What nerfstudio's commands cannot do here, said in one line before anything long begins.

They tell a method nothing of what they will ask of it, so the words that were typed are looked at.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from fm3d_plugins.errors import require

SPIRAL = "ns-render spiral"
GAUSSIANS = "ns-export gaussian-splat"
OF_DISTANCES = "ns-export marching-cubes"
OF_RAYS = ("ns-export pointcloud", "ns-export tsdf", "ns-export poisson", OF_DISTANCES)
"""Exports that ask a model for the colour and depth of single rays, or for a signed distance."""

WITHOUT_GEOMETRY = {
    SPIRAL: "`fm3d film --path around` makes a film of circles around cameras.",
    **dict.fromkeys(
        (GAUSSIANS, *OF_RAYS),
        "a network says its views, and there is no geometry to export. `fm3d film` and `ns-render "
        "dataset` write views; for points or splats train 3dgs, nerf or vggt.",
    ),
}
"""For methods whose views are said by a network."""

_SCRIPTS = {"render": "ns-render", "exporter": "ns-export", "train": "ns-train"}
"""Modules of nerfstudio that run as programs, and their commands."""

_DEVICE = "--machine.device-type"


def require_supported(instead: Mapping[str, str]) -> None:
    """Refuse the command that runs, if a method cannot do what it will ask for.

    Args:
        instead: By command, such as "ns-render spiral": why not, and what does it in its place.

    Raises:
        ValueError: It is one of these.
    """
    program, words = _typed()
    command = f"{program} {words[0]}" if words else program
    if command in instead:
        raise ValueError(f"`{command}` cannot be used with this method: {instead[command]}")


def require_device_of_method() -> None:
    """Refuse a method that ns-train would begin on a CUDA device which is not there.

    nerfstudio's own methods ask for it only once their data is read, and cameras were found.

    Raises:
        ValueError: It is such a method.
    """
    from nerfstudio.configs.method_configs import all_methods
    from nerfstudio.models.splatfacto import SplatfactoModelConfig

    program, words = _typed()
    config: Any = all_methods.get(words[0]) if words else None
    if program != "ns-train" or config is None or torch.cuda.is_available():
        return
    device = _value(words, _DEVICE) or config.machine.device_type
    is_splatfacto = isinstance(config.pipeline.model, SplatfactoModelConfig)
    if not is_splatfacto and device != "cuda":
        return
    otherwise = "" if is_splatfacto else f", or try {_DEVICE} cpu"
    raise ValueError(
        f"{words[0]} trains on CUDA, and no CUDA device is here. Expected one. On a CPU train 3dgs "
        f"(splats) or nerf in its place{otherwise}."
    )


def require_log_service(vis: str) -> None:
    """Refuse a log that cannot be written, where a program or a key for its service is absent.

    Args:
        vis: nerfstudio's option, such as "viewer+wandb".

    Raises:
        ImportError: The package of the service is not installed.
        ValueError: No key for it is found, and nobody can be asked.
    """
    service = vis.rsplit("+", maxsplit=1)[-1]
    if service == "comet":
        comet = require("comet_ml", purpose="--vis comet", install="comet_ml")
        has_key = bool(comet.config.get_config("comet.api_key"))
        how = "Set COMET_API_KEY"
    elif service == "wandb":
        wandb = require("wandb", purpose="--vis wandb", install="wandb")
        is_offline = os.environ.get("WANDB_MODE", "") in ("offline", "disabled", "dryrun")
        has_key = is_offline or sys.stdin.isatty() or bool(wandb.api.api_key)
        how = "Run `wandb login`, set WANDB_API_KEY, or set WANDB_MODE=offline"
    else:
        return
    if not has_key:
        raise ValueError(
            f"--vis {vis} writes to a service, and no key of yours for it is found. {how}; or "
            "choose --vis tensorboard, which stays on this computer."
        )


def _typed() -> tuple[str, list[str]]:
    """The program that runs, and the words behind it."""
    name = Path(sys.argv[0]).stem if sys.argv else ""
    return _SCRIPTS.get(name, name), sys.argv[1:]


def _value(words: list[str], option: str) -> str | None:
    """What stands behind an option, the last time that it is given."""
    found = None
    for word, after in zip(words, [*words[1:], ""], strict=True):
        name, equals, value = word.partition("=")
        if name.replace("_", "-") == option:
            found = value if equals else after
    return found
