"""Weights of a network that was trained here, as a file that tells how they came to be."""

import json
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import fm3d_plugins
from fm3d_plugins.atomic import atomic_write, require_place
from fm3d_plugins.cli.run_configs import read_run_config
from fm3d_plugins.cli.runs import find_run, last_checkpoint, read_state, run_inputs
from fm3d_plugins.data.synthetic import ROOMS_VERSION
from fm3d_plugins.files import read_json_object
from fm3d_plugins.network_training.pipeline import NetworkPipeline
from fm3d_plugins.network_training.trainer import NetworkTrainerConfig
from fm3d_plugins.nn.sizes import TRAINED_WITH, TrainedWith, to_text
from fm3d_plugins.running.summary import RESULTS

PROVENANCE = "provenance"
"""Entry of a file's metadata: JSON."""


def write_trained_weights(load_config: Path, output: Path) -> int:
    """Write the weights of a run's newest checkpoint, and how they came to be.

    Args:
        load_config: As `find_run` takes it.

    Returns:
        How many numbers the weights are.

    Raises:
        FileNotFoundError: There is no run, or no checkpoint of it.
        ValueError: The run is no training of a network, its checkpoint is damaged, or the file's
            name does not end in .safetensors.
    """
    from safetensors.torch import save_file

    if output.suffix != ".safetensors":
        raise ValueError(
            f"The output is {output}; expected a name that ends in .safetensors, by which the "
            "sizes of the network in it are found. Choose another."
        )
    load_config = find_run(load_config)
    config = read_run_config(load_config)
    if not isinstance(config, NetworkTrainerConfig):
        raise ValueError(
            f"{load_config} is a run of {config.method_name}, which trains no network. Expected "
            "one of a method such as lvsm-train. Choose its run."
        )
    inputs = run_inputs(load_config)
    require_place(output, inputs)
    step, path = last_checkpoint(load_config, config)
    pipeline: NetworkPipeline = config.pipeline.setup(device="cpu", test_mode="inference")
    pipeline.load_pipeline(read_state(path), step)
    weights, sizes = pipeline.model.exported(pipeline.model.scored)
    story = provenance(config, pipeline, step, load_config.parent / RESULTS)
    weights = {name: value.float().contiguous() for name, value in weights.items()}
    seen = config.pipeline.datamanager
    trained = TrainedWith(max(seen.image_sizes), seen.views_per_scene)
    metadata = sizes | {
        "format": "pt",
        TRAINED_WITH: to_text(trained),
        PROVENANCE: json.dumps(story),
    }
    with atomic_write(output, inputs) as temporary:
        save_file(weights, temporary, metadata)
    return sum(value.numel() for value in weights.values())


def provenance(
    config: NetworkTrainerConfig, pipeline: NetworkPipeline, step: int, results: Path
) -> dict[str, Any]:
    """What can be said of trained weights: how, with what, for how long, how good.

    Args:
        results: File of the run's scores; without it, there are none.
    """
    model = pipeline.model
    scores = read_json_object(results, "scores")["results"] if results.is_file() else None
    options = {
        "datamanager": asdict(config.pipeline.datamanager),
        "model": asdict(config.pipeline.model),
        "optimizers": {
            name: {part: asdict(each) for part, each in group.items()}
            for name, group in config.optimizers.items()
        },
        "max_norm": config.max_norm,
        "skip_norm": config.skip_norm,
        "seed": config.machine.seed,
    }
    return {
        "method": config.method_name,
        "licence": "Apache-2.0",
        "data": _data(config),
        "steps": step + 1,
        "steps_of_the_plan": config.max_num_iterations,
        "images": int(model.num_images),
        "seconds": round(float(model.seconds)),
        "hardware": processor(config.machine.device_type),
        "torch": torch.__version__,
        "fm3d_plugins": fm3d_plugins.__version__,
        "scores": scores,
        "options": _plain(options),
    }


def _data(config: NetworkTrainerConfig) -> str:
    """Which scenes were trained with; of folders their names alone."""
    folders = config.pipeline.datamanager.folders()
    if not folders:
        return f"synthetic rooms, version {ROOMS_VERSION}"
    return f"captured scenes: {', '.join(folder.name for folder in folders)}"


def processor(device_type: str) -> str:
    """The processor at hand, which is taken to be the one of the training."""
    if device_type == "cuda" and torch.cuda.is_available():
        return torch.cuda.get_device_name()
    information = Path("/proc/cpuinfo")
    for line in information.read_text().splitlines() if information.is_file() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _plain(value: Any) -> Any:
    """Options as JSON has them; classes are left out."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items() if not isinstance(v, type)}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value if isinstance(value, int | float | str | None) else str(value)
