"""Sizes of a DUSt3R from what a checkpoint says of itself; its words are read and never run."""

import ast
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fm3d_plugins.dust3r.network import DUSt3RConfig
from fm3d_plugins.files import read_json
from fm3d_plugins.nn.sizes import DEEPEST, LARGEST, checked_fields, sizes_from_text

METADATA_KEY = "dust3r_config"
"""Entry of a safetensors file's metadata, as `to_text` writes it."""
PUBLISHED_CLASS = "AsymmetricCroCo3DStereo"
"""Name of the network in published code."""
INFINITY = float("inf")

SIZES = {
    "enc_embed_dim": "encoder_width",
    "enc_depth": "encoder_depth",
    "enc_num_heads": "encoder_heads",
    "dec_embed_dim": "decoder_width",
    "dec_depth": "decoder_depth",
    "dec_num_heads": "decoder_heads",
}
"""Our names of the published arguments that each checkpoint has to state."""
WITHOUT_INFLUENCE = {"img_size", "landscape_only", "patch_embed_cls", "freeze"}
"""Published arguments that concern training or checks alone."""
ROTARY_PREFIX = "RoPE"


def architecture_of(text: str) -> dict[str, Any]:
    """`DUSt3R`'s arguments from the expression in a .pth checkpoint's options, `args.model`.

    The text is parsed, not evaluated. It may be one call of the network's published name with
    keyword arguments that are constants, tuples of them, negative numbers or `inf`.

    Raises:
        ValueError: It is anything else, or a network that DUSt3R is not.
    """
    try:
        call = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(_unusable(text, "it is no expression")) from error
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
        raise ValueError(_unusable(text, "it is no call"))
    if call.func.id != PUBLISHED_CLASS:
        raise ValueError(_unusable(text, f"it calls {call.func.id}"))
    if call.args or any(keyword.arg is None for keyword in call.keywords):
        raise ValueError(_unusable(text, "not all of its arguments are named"))
    try:
        values = {str(keyword.arg): _value(keyword.value) for keyword in call.keywords}
    except (TypeError, RecursionError) as error:
        raise ValueError(_unusable(text, str(error))) from error
    return sizes_of_arguments(values)


def sizes_of_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """`DUSt3R`'s arguments from those of the published class, such as a hub's config.json holds.

    Raises:
        ValueError: A size is absent or no positive number, or an argument is unknown or has a
            value that this network does not offer.
    """
    known = {*SIZES, *WITHOUT_INFLUENCE, "head_type", "output_mode"}
    known |= {"depth_mode", "conf_mode", "pos_embed", "mlp_ratio"}
    faults = [f"unknown: {name}" for name in arguments if name not in known]
    faults += [f"missing: {name}" for name in (*SIZES, "head_type") if name not in arguments]
    if faults:
        raise ValueError(
            f"The checkpoint's arguments are not those of {PUBLISHED_CLASS}: {', '.join(faults)}. "
            "Expected a checkpoint of DUSt3R."
        )
    sizes = {own: arguments[published] for published, own in SIZES.items()}
    sizes["head"] = arguments["head_type"]
    if "mlp_ratio" in arguments:
        sizes["mlp_ratio"] = arguments["mlp_ratio"]
    if arguments.get("output_mode", "pts3d") != "pts3d":
        raise ValueError(_not_offered("output_mode", arguments["output_mode"], "'pts3d'"))
    if "pos_embed" in arguments:
        sizes["rotary_base"] = _rotary_base(arguments["pos_embed"])
    if "depth_mode" in arguments:
        mode = _mode("depth_mode", arguments["depth_mode"])
        if mode[1:] != (-INFINITY, INFINITY):
            raise ValueError(_not_offered("depth_mode", mode, "bounds of -inf and inf"))
        sizes["depth_mode"] = mode[0]
    if "conf_mode" in arguments:
        sizes["confidence_mode"] = _mode("conf_mode", arguments["conf_mode"])
    return _checked(sizes)


def from_hub(path: Path) -> dict[str, Any]:
    """`DUSt3R`'s arguments from the config.json of a repository of the hub.

    Raises:
        ValueError: The file is no JSON object, or not of a network that DUSt3R is.
    """
    try:
        content = read_json(path)
        if not isinstance(content, dict):
            raise ValueError(f"it holds a {type(content).__name__}")
        return sizes_of_arguments(content)
    except ValueError as error:
        raise ValueError(
            f"{path} cannot be used: {error} Expected the arguments of {PUBLISHED_CLASS}. Fetch "
            "it again from where the weights beside it are from, or take it away."
        ) from error


def to_text(sizes: Mapping[str, Any]) -> str:
    """JSON of `DUSt3R`'s arguments, for the metadata of a safetensors file."""
    return json.dumps(asdict(DUSt3RConfig(**sizes)))


def from_text(text: str) -> dict[str, Any]:
    """`DUSt3R`'s arguments from what `to_text` wrote.

    Raises:
        ValueError: The text is no JSON, or names sizes that there are not.
    """
    return sizes_from_text(
        text, METADATA_KEY, lambda content: _checked(checked_fields(DUSt3RConfig, content))
    )


def _value(node: ast.expr) -> Any:
    """A constant that an expression stands for."""
    if isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float | str):
        return node.value
    if isinstance(node, ast.Name) and node.id == "inf":
        return INFINITY
    if isinstance(node, ast.Tuple):
        return tuple(_value(each) for each in node.elts)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = _value(node.operand)
        if isinstance(value, int | float):
            return -value
    raise TypeError(f"{ast.unparse(node)[:80]!r} is no constant")


def _mode(name: str, value: Any) -> tuple[str, float, float]:
    """Kind and bounds of an output."""
    try:
        kind, low, high = value
        return str(kind), float(low), float(high)
    except (TypeError, ValueError) as error:
        raise ValueError(_not_offered(name, value, "a kind and two bounds")) from error


def _rotary_base(value: Any) -> float:
    """100 of `RoPE100`."""
    if isinstance(value, str) and value.startswith(ROTARY_PREFIX):
        digits = value.removeprefix(ROTARY_PREFIX)
        if digits.isdecimal() and int(digits) > 1:
            return float(digits)
    raise ValueError(_not_offered("pos_embed", value, "rotary positions such as 'RoPE100'"))


def _checked(sizes: dict[str, Any]) -> dict[str, Any]:
    """The same, if the values are possible."""
    for name in (*SIZES.values(), "patch_size"):
        value = sizes.get(name, 1)
        most = DEEPEST if name.endswith("depth") else LARGEST
        if type(value) is not int or not 1 <= value <= most:
            raise ValueError(_not_offered(name, value, f"a whole number from 1 to {most}"))
    for name in ("mlp_ratio", "rotary_base"):
        value = sizes.get(name, 1)
        if type(value) not in (int, float) or not 0 < value < INFINITY:
            raise ValueError(_not_offered(name, value, "a number above 0"))
    kind = sizes.get("confidence_mode", ("exp",))[0]
    for name, value, choices in (
        ("head", sizes.get("head", "dpt"), ("dpt", "linear")),
        ("depth_mode", sizes.get("depth_mode", "exp"), ("exp", "linear", "square")),
        ("confidence_mode", kind, ("exp", "sigmoid")),
    ):
        if value not in choices:
            raise ValueError(_not_offered(name, value, f"one of {', '.join(choices)}"))
    return sizes


def _not_offered(name: str, value: Any, expected: str) -> str:
    return (
        f"The checkpoint's network has {name}={value!r}; expected {expected}. Choose a checkpoint "
        "of DUSt3R; those of its descendants are other networks."
    )


def _unusable(text: str, why: str) -> str:
    return (
        f"The checkpoint says that its network is {text[:120]!r}, which cannot be used: {why}. "
        f"Expected {PUBLISHED_CLASS}(name=constant, ...). It was not run. Get the weights from "
        "their publisher, or as safetensors."
    )
