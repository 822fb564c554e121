"""`fm3d evaluate --protocol`: published weights scored as their paper scores them."""

import json
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fm3d_plugins.data.protocols import PROTOCOLS, ProtocolName
from fm3d_plugins.errors import listed
from fm3d_plugins.nn.planning import Precision

if TYPE_CHECKING:
    from rich.table import Table

    from fm3d_plugins.data.evaluation import Evaluation


def command(
    protocol: ProtocolName,
    data: Path,
    index: Path | None = None,
    weights: str | None = None,
    precision: Precision = "auto",
    device: Literal["auto", "cpu", "cuda"] = "auto",
    commercial_only: bool = False,
    limit: int | None = None,
    output_path: Path | None = None,
) -> None:
    """Score weights on every scene of a data set as their paper does, beside the paper's scores.

    Args:
        protocol: re10k-2view: LVSM, 3 views of each scene from 2. dl3dv-16-8: RayZer, 8 views from
            16, each target's camera being predicted from the target itself.
        data: A list of scene files (LVSM's full_list.txt, RayZer's list), one scene's JSON file, a
            chunk of pixelSplat's (.torch), or a folder of chunks.
        index: JSON file of each scene's context and target frames. dl3dv-16-8 without one takes 24
            frames evenly from the middle of each video, which are not the paper's.
        weights: Published weights by name (fm3d weights list), or a file or folder; by default the
            protocol's.
        precision: Of the matrices; auto: bfloat16 where the device is fast at it.
        device: auto: CUDA where there is a device.
        commercial_only: Refuse weights whose licence forbids commercial use.
        limit: Score only this many scenes, the first ones; the paper's protocol is all.
        output_path: Also write means and every scene's scores to this JSON file.

    Raises:
        ValueError: The index, the data or the weights do not suit the protocol, or nothing is left
            to score.
        OSError: Files are absent, or cannot be read or written.
    """
    import torch
    from rich.console import Console

    from fm3d_plugins.atomic import atomic_write, require_place
    from fm3d_plugins.checkpoints import locate
    from fm3d_plugins.data.evaluation import Evaluation, data_files
    from fm3d_plugins.nn.planning import DTYPES, choose_device, choose_precision

    if limit is not None and limit < 1:
        raise ValueError(f"--limit is {limit}; expected at least 1 scene. Leave it out for all.")
    if output_path is not None:
        require_place(output_path)
    rules = PROTOCOLS[protocol]
    frames, files = rules.read_index(index), data_files(data)
    name = weights or rules.weights
    file = locate(name, commercial_only=commercial_only)
    place = choose_device(device)
    chosen = choose_precision(precision, place)
    load, render = _method(rules.method)
    network = load(file, DTYPES[chosen], place)
    patch_size = network.config.patch_size
    evaluation = Evaluation(rules, frames, partial(render, network), patch_size, place)
    evaluation.run(files, limit)
    Console().print(_table(protocol, f"{rules.method}: {name}", evaluation))
    _say_what_counts(evaluation, limit)
    if output_path is not None:
        results = {
            "protocol": protocol,
            "weights": name,
            "weights_sha256": file.sha256,
            "precision": chosen,
            "device": torch.cuda.get_device_name(place) if place.type == "cuda" else "cpu",
            "data": str(data),
            "index": index and str(index),
            "limit": limit,
            "means": evaluation.means(),
            "skipped": evaluation.skipped,
            "missing_from_data": None if limit else evaluation.missing(),
            "published": [row._asdict() for row in rules.published],
            "scenes": [asdict(score) for score in evaluation.scores],
        }
        inputs = [path for path in (data, index, file.path) if path is not None]
        with atomic_write(output_path, inputs) as temporary:
            temporary.write_text(json.dumps(results, indent=1) + "\n")


def _method(name: str) -> tuple[Any, Any]:
    """What loads a method's network, and what renders with it."""
    if name == "lvsm":
        from fm3d_plugins.lvsm import inference
    else:
        from fm3d_plugins.rayzer import inference
    return inference.load_network, inference.render_targets


def _say_what_counts(evaluation: "Evaluation", limit: int | None) -> None:
    """Which scenes were scored, and what makes the scores other than the paper's."""
    from fm3d_plugins.progress import say

    say(f"Scenes scored: {len(evaluation.scores)}; {evaluation.left_out()}.")
    if evaluation.index is None:
        say("Frames were chosen without an index: they are not the paper's.", style="yellow")
    if limit:
        say(f"At most {limit} scenes were asked for: this is not the paper's protocol.", "yellow")
    elif missing := evaluation.missing():
        text = f"The data lack {len(missing)} scenes of the index ({listed(missing)})"
        say(f"{text}: not the whole data set.", style="yellow")


def _table(protocol: str, name: str, evaluation: "Evaluation") -> "Table":
    """The published scores, and below them those that were measured."""
    from rich.table import Table

    table = Table(title=f"{protocol}, means over scenes")
    table.add_column("network", overflow="fold")
    table.add_column("source")
    for title in ("PSNR dB", "SSIM", "LPIPS VGG"):
        table.add_column(title, justify="right")
    for row in evaluation.protocol.published:
        table.add_row(*row[:2], f"{row.psnr:.2f}", f"{row.ssim:.3f}", f"{row.lpips:.3f}")
    table.add_section()
    means = evaluation.means()
    distance = f"{means['lpips_vgg']:.3f}" if "lpips_vgg" in means else "-"
    scores = (f"{means['psnr']:.2f}", f"{means['ssim']:.3f}", distance)
    table.add_row(name, "measured here", *scores)
    return table
