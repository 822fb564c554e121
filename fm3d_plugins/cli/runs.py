"""Trained runs, as commands load them."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from nerfstudio.engine.trainer import TrainerConfig
from torch import Tensor

from fm3d_plugins.camera_optimization.saved_state import EXPECTED, check_state, finite_tensors
from fm3d_plugins.checkpoints.loading import read_torch
from fm3d_plugins.cli.run_configs import read_run_config
from fm3d_plugins.files import kind_of
from fm3d_plugins.input_checks import data_of
from fm3d_plugins.progress import say

_CHECKPOINT = re.compile(r"step-(\d{1,15})\.ckpt")
_DEEPEST = 4
"""Folders from the given one to that of a run: outputs/experiment/method/time, and one to spare."""


def find_run(path: Path) -> Path:
    """The config.yml that --load-config means: the file, or that of the newest run in a folder.

    Args:
        path: config.yml, the folder of a run, or one above: an experiment's, or `outputs`. Of
            several runs the one counts that was begun last and has a checkpoint; a line says so.

    Raises:
        FileNotFoundError: There is nothing, or no run in the folder.
    """
    path = path.expanduser()
    if kind_of(path) != "a folder":
        return path
    if (path / "config.yml").is_file():
        return path / "config.yml"
    patterns = ["*/" * depth + "config.yml" for depth in range(1, _DEEPEST + 1)]
    found = [run for pattern in patterns for run in path.glob(pattern) if run.is_file()]
    if not found:
        raise FileNotFoundError(
            f"{path} holds no config.yml, nor does a folder in it. Expected the folder of a run, "
            "of an experiment, or all outputs. ns-train names a run's folder when it begins."
        )
    begun = sorted(found, key=lambda run: (run.stat().st_mtime_ns, run))
    trained = [run for run in begun if any(run.parent.glob("*/step-*.ckpt"))]
    newest = (trained or begun)[-1]
    unfinished = len(begun) - 1 - begun.index(newest)
    passed = f" (without {unfinished} newer ones that have no checkpoint)" if unfinished else ""
    say(f"The newest of {len(found)} runs{passed}: {newest}")
    return newest


def load_run(load_config: Path) -> tuple[TrainerConfig, Any]:
    """A finished run and its pipeline, ready to render held-out photos.

    As nerfstudio's `eval_setup`, but nothing that stands in config.yml or in a checkpoint is run.

    Raises:
        FileNotFoundError: There is no such config.yml, or no checkpoint.
        ValueError: A file is not what ns-train wrote, or the method has no cameras that this
            package optimises.
    """
    from nerfstudio.configs.method_configs import all_methods

    from fm3d_plugins.camera_optimization.camera_optimizer import CameraOptimizer

    config = read_run_config(load_config)
    if config.method_name not in all_methods:
        raise ValueError(
            f"{load_config} is a run of the method {config.method_name!r}, which is not installed. "
            "Expected one of this package's methods, such as 3dgs. Install what brings it."
        )
    step, path = last_checkpoint(load_config, config)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        pipeline: Any = config.pipeline.setup(device=device, test_mode="test")
        is_ours = isinstance(getattr(pipeline.model, "camera_optimizer", None), CameraOptimizer)
        if is_ours:
            _load_checkpoint(pipeline, step, path)
    except (AttributeError, TypeError, KeyError, AssertionError, RuntimeError) as error:
        if os.environ.get("FM3D_TRACEBACK"):
            raise
        raise ValueError(
            f"{load_config} describes no run that can be loaded ({type(error).__name__}: "
            f"{str(error).splitlines()[0] if str(error) else 'no more said'}). Expected the config "
            "and the checkpoints of one run, written by this version. FM3D_TRACEBACK=1 shows where "
            "it failed."
        ) from error
    if not is_ours:
        raise ValueError(
            f"{load_config} is a run of {config.method_name}. Expected one of this package's "
            "per-scene methods, such as 3dgs. Score other methods with ns-eval."
        )
    pipeline.eval()
    return config, pipeline


def run_inputs(load_config: Path) -> list[Path]:
    """Folders and files that a run was made of, as its config tells: not to be written over.

    Raises:
        ValueError, OSError: As `read_run_config`.
    """
    config: Any = read_run_config(load_config)
    data = data_of(getattr(config.pipeline, "datamanager", None))
    folders = [_checkpoint_folder(load_config, config), *([] if data is None else [data])]
    run = load_config.parent
    return [load_config, *folders, *([run] if folders[0].parent.resolve() == run.resolve() else [])]


def files_of(pipeline: Any) -> list[Path]:
    """Photos, masks and other files that the cameras of a loaded run belong to."""
    found = []
    for dataset in (pipeline.datamanager.train_dataset, pipeline.datamanager.eval_dataset):
        outputs = getattr(dataset, "_dataparser_outputs", None)
        if outputs is not None:
            lists = [v for v in outputs.metadata.values() if isinstance(v, list | tuple)]
            for files in (outputs.image_filenames, outputs.mask_filenames or (), *lists):
                found += [Path(file) for file in files if isinstance(file, str | Path)]
    return found


def _checkpoint_folder(load_config: Path, config: TrainerConfig) -> Path:
    """Beside the config, also where the run was moved; else where it was written."""
    beside = load_config.parent / str(config.relative_model_dir)
    return beside if beside.is_dir() else config.get_checkpoint_dir()


def last_checkpoint(load_config: Path, config: TrainerConfig) -> tuple[int, Path]:
    """Step and file of the checkpoint that the config names, or of the last one."""
    folder = _checkpoint_folder(load_config, config)
    found = {}
    for path in folder.iterdir() if folder.is_dir() else ():
        name = _CHECKPOINT.fullmatch(path.name)
        if name and kind_of(path) == "a file":
            found[int(name[1])] = path
    if not found:
        raise FileNotFoundError(
            f"{folder} holds no checkpoint of the run {load_config}. Expected files named "
            "step-*.ckpt, as ns-train writes them. Bring the whole folder of the run here."
        )
    asked = config.load_step
    step = asked if asked is not None and asked in found else max(found)
    return step, found[step]


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a run's pipeline by name, of a checkpoint; nothing in it is run.

    Raises:
        ValueError: It is damaged, holds something else, or what is not finite.
    """
    content = read_torch(path, EXPECTED)
    state = content.get("pipeline") if isinstance(content, Mapping) else None
    return finite_tensors(state, str(path))


def _load_checkpoint(pipeline: Any, step: int, path: Path) -> None:
    """Fill a pipeline with exactly what a checkpoint holds.

    Raises:
        ValueError: It is damaged, of another model, or holds what is not finite.
    """
    pipeline.load_pipeline(check_state(pipeline.model, read_state(path), str(path)), step)
