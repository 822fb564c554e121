"""`fm3d show`: one picture of how well a trained scene renders its held-out photos."""

from pathlib import Path


def command(load_config: Path, output: Path = Path("result.png"), views: int = 3) -> None:
    """Write photo, render, depth and error of held-out views as one picture; print their mean PSNR.

    Args:
        load_config: config.yml of a finished run, or a folder: the newest run in it.
        output: The picture to write (PNG).
        views: Number of held-out views in the picture; the PSNR is over all of them.

    Raises:
        FileNotFoundError: There is no such run.
        FileExistsError: The picture would replace a file of the run.
        ValueError: It is a run of a method of another package, or no views are asked for.
    """
    from PIL import Image

    from fm3d_plugins.atomic import atomic_write, require_place
    from fm3d_plugins.backends.metrics import psnr
    from fm3d_plugins.camera_optimization.evaluation import held_out_views, protocol_name
    from fm3d_plugins.cli.runs import files_of, find_run, load_run
    from fm3d_plugins.panels import panels, photo_colors, stacked
    from fm3d_plugins.progress import say

    if views < 1:
        raise ValueError(f"--views is {views}; expected at least 1. Give a larger number.")
    load_config = find_run(load_config)
    _, pipeline = load_run(load_config)
    inputs = [load_config, *files_of(pipeline)]
    require_place(output, inputs)
    rows, ratios = [], []
    held_out = held_out_views(pipeline, pipeline.test_poses)
    shown = {round(i * (len(held_out) - 1) / max(1, views - 1)) for i in range(views)}
    for i, (camera, batch) in enumerate(held_out):
        outputs = pipeline.model.get_outputs_for_camera(camera)
        photo = photo_colors(batch["image"], outputs["rgb"], outputs["background"])
        counts = batch.get("mask")
        ratios.append(float(psnr(outputs["rgb"], photo, counts)))
        if i in shown:
            rows.append(panels(photo, outputs, ratios[-1], counts))
    with atomic_write(output, inputs) as temporary:
        Image.fromarray(stacked(rows).numpy()).save(temporary, format="PNG")
    say(
        f"PSNR of {len(ratios)} held-out photos: {sum(ratios) / len(ratios):.2f} dB, test poses: "
        f"{protocol_name(pipeline, pipeline.test_poses)} (photo | render | depth | error: {output})"
    )
