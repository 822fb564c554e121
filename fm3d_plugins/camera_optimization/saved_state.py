"""What a checkpoint must be before a model takes it."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from fm3d_plugins.errors import listed

EXPECTED = (
    "Expected a checkpoint that ns-train wrote for this config. Train again, or delete it to take "
    "an earlier one."
)

PER_PHOTO = ("_model.camera_optimizer.pose_adjustment", "_model.exposure.corrections")
"""What has a row for each training photo, where a model has it."""


def finite_tensors(state: object, name: str = "The checkpoint") -> dict[str, Tensor]:
    """What lies under `pipeline` in a checkpoint, if it is tensors of finite numbers.

    Args:
        name: Of the checkpoint, for messages.

    Raises:
        ValueError: It is not.
    """
    if not isinstance(state, Mapping) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()
    ):
        raise ValueError(f"{name} holds no tensors of a pipeline. {EXPECTED}")
    faults = [
        f"{key} ({int((~value.isfinite()).sum())} of {value.numel()})"
        for key, value in state.items()
        if value.is_floating_point() and not bool(value.isfinite().all())
    ]
    if faults:
        raise ValueError(f"{name} holds numbers that are not finite: {listed(faults)}. {EXPECTED}")
    return dict(state)


def check_state(model: Any, state: object, name: str = "The checkpoint") -> dict[str, Tensor]:
    """A pipeline's state as one process writes it, if a model can be filled with it.

    Args:
        model: To be filled. It may name in `optional_state` what only one of both has.
        state: What lies under `pipeline` in a checkpoint.
        name: Of the checkpoint, for messages.

    Raises:
        ValueError: It holds no tensors, numbers that are not finite, or lacks parts of the model or
            has others.
    """
    state = finite_tensors(state, name)
    in_parallel = all(key.startswith("_model.module.") for key in state if key[:7] == "_model.")
    if in_parallel:  # As torch's data parallel names them.
        state = {key.replace("_model.module.", "_model.", 1): each for key, each in state.items()}
    own = {f"_model.{key}": value for key, value in model.state_dict().items()}
    optional = {f"_model.{key}" for key in getattr(model, "optional_state", ())}
    state = {key: own[key] for key in optional & set(own)} | state
    lacking = sorted(set(own) - set(state))
    allowed = set(own) | optional
    foreign = sorted(key for key in state if key[:7] == "_model." and key not in allowed)
    if lacking or foreign:
        faults = [f"lacks {listed(lacking)}"] if lacking else []
        faults += [f"holds {listed(foreign)} that the model has not"] if foreign else []
        raise ValueError(f"{name} {' and '.join(faults)}. {EXPECTED}")
    _require_same_photos(own, state, name)
    return state


def _require_same_photos(own: Mapping[str, Tensor], saved: Mapping[str, Tensor], name: str) -> None:
    """Raise ValueError where a checkpoint is of another number of training photos."""
    for key in PER_PHOTO:
        before, now = saved.get(key), own.get(key)
        if before is not None and now is not None and len(before) != len(now):
            raise ValueError(
                f"{name} is of {len(before)} training photos, and there are {len(now)} now. "
                "Expected those that it was trained on. Restore them, or train anew, without "
                "--load-dir."
            )


def require_one_row_each(
    own: Mapping[str, Tensor], saved: Mapping[str, Tensor], prefix: str
) -> None:
    """Refuse a checkpoint whose gaussians lack some of their numbers.

    Args:
        own: The model's tensors with one row for each gaussian.
        saved: A model's state, of any number of gaussians.
        prefix: Of the names of `own` in it.

    Raises:
        ValueError: They have not the same number of rows, or rows of another shape.
    """
    shapes = {name: tuple(saved[f"{prefix}{name}"].shape) for name in own}
    rows = {name: shape[0] if shape else 0 for name, shape in shapes.items()}
    if len(set(rows.values())) > 1:
        raise ValueError(
            f"The checkpoint holds {rows} rows. Expected as many of each: one per gaussian. "
            "It is damaged: take an earlier one, or train again."
        )
    for name, values in own.items():
        if shapes[name][1:] != tuple(values.shape[1:]):
            raise ValueError(
                f"The checkpoint holds {name} of the shape {list(shapes[name])}. Expected "
                f"{['rows', *values.shape[1:]]}. {EXPECTED}"
            )
