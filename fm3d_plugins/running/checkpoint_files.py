"""A run's checkpoints: written whole or not at all, and read by a run with the same options."""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import torch

from fm3d_plugins.atomic import atomic_write
from fm3d_plugins.disk_space import require_room
from fm3d_plugins.errors import listed, one_line_errors
from fm3d_plugins.files import require_replaceable


class PatientStream:
    """A stream that keeps the first error of a write until it is closed.

    torch's writer calls it from C++, where an error that is raised in between ends the process.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self._error = stream, None

    def write(self, content: Any) -> int:
        if self._error is None:
            try:
                return self._stream.write(content)
            except OSError as error:
                self._error = error
        return len(content)

    def flush(self) -> None:
        if self._error is None:
            try:
                self._stream.flush()
            except OSError as error:
                self._error = error

    def __enter__(self) -> Any:
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        self.flush()
        with contextlib.suppress(OSError):
            self._stream.close()
        if self._error is not None and kind is None:
            raise self._error


def bytes_of(state: object) -> int:
    """Of all tensors in a checkpoint."""
    if isinstance(state, torch.Tensor):
        return state.numel() * state.element_size()
    if isinstance(state, Mapping):
        return sum(bytes_of(each) for each in state.values())
    if isinstance(state, list | tuple):
        return sum(bytes_of(each) for each in state)
    return 0


def write_checkpoint(path: Path, staged: Path, state: Mapping[str, Any]) -> None:
    """Write a state to a file, which is whole or as it was.

    Args:
        staged: Where the file is made, on the same disk: nerfstudio parses every name in the
            folder of checkpoints as a step.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with one_line_errors():
        require_room(path.parent, bytes_of(state), f"the checkpoint {path.name}")
        # A stream of Python's: torch's own writer ends the process where the disk is full.
        with atomic_write(staged) as temporary, PatientStream(temporary.open("wb")) as stream:
            torch.save(state, stream)
        require_replaceable(path)
        os.replace(staged, path)


@contextlib.contextmanager
def same_options_expected(source: Path | None, trained: Sequence[str]) -> Iterator[None]:
    """Say in one line where a checkpoint's optimisers are not those of this run.

    Args:
        source: The checkpoint, or its folder.
        trained: Names of this run's parameter groups.
    """
    try:
        yield
    except KeyError as error:
        if error.args[0] in trained:
            raise
        with one_line_errors():
            raise ValueError(
                f"The checkpoint of {source} trains {error.args[0]!r} too, and this "
                f"run only {listed(trained, 10)}. Expected the same options, of which --exposure "
                "and the like decide what is trained. Give those of the checkpoint's "
                "config.yml."
            ) from error
    except ValueError as error:
        if "parameter group" not in str(error):  # As torch says it, of more or fewer than these.
            raise
        with one_line_errors():
            raise ValueError(
                f"The optimisers of the checkpoint of {source} do not fit this run's: "
                f"{error}. Expected the same options, of which --pipeline.model.freeze and the "
                "like decide what is trained. Give those of the checkpoint's config.yml."
            ) from error


def random_state() -> dict[str, Any]:
    """Of torch's generators; density control and random backgrounds draw from them."""
    on_gpu = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return {"cpu": torch.get_rng_state(), "cuda": on_gpu}


def restore_random(state: dict[str, Any] | None) -> None:
    """Nothing happens for a checkpoint that holds no state, such as nerfstudio's own."""
    if state is None:
        return
    torch.set_rng_state(state["cpu"].clone())
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all([values.clone() for values in state["cuda"]])
