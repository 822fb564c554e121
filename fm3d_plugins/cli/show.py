"""`fm3d show`: one picture of how well a trained scene renders its held-out photos."""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

GAP = 4
"""Pixels between the panels of the picture."""


def command(load_config: Path, output: Path = Path("result.png"), views: int = 3) -> None:
    """Write photo | render | depth of held-out views as one picture, and print their mean PSNR.

    Args:
        load_config: config.yml of a finished run, or a folder: the newest run in it.
        output: The picture to write (PNG).
        views: Number of held-out views in the picture; the PSNR is over all of them.

    Raises:
        FileNotFoundError: There is no such run.
        FileExistsError: The picture would replace a file of the run.
        ValueError: It is a run of a method of another package, or no views are asked for.
    """
    from fm3d_plugins.atomic import atomic_write, require_place
    from fm3d_plugins.backends.metrics import psnr
    from fm3d_plugins.camera_optimization.evaluation import held_out_views, protocol_name
    from fm3d_plugins.cli.runs import files_of, find_run, load_run

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
        photo = _photo(batch["image"], outputs["rgb"], outputs["background"])
        ratios.append(float(psnr(outputs["rgb"], photo)))
        if i in shown:
            rows.append(_panels(photo, outputs["rgb"], outputs["depth"], outputs["accumulation"]))
    with atomic_write(output, inputs) as temporary:
        _picture(rows).save(temporary, format="PNG")
    print(
        f"PSNR of {len(ratios)} held-out photos: {sum(ratios) / len(ratios):.2f} dB, test poses: "
        f"{protocol_name(pipeline, pipeline.test_poses)} (photo | render | depth: {output})"
    )


def _photo(
    image: Tensor, like: Float[Tensor, "h w 3"], background: Float[Tensor, "*#hw 3"]
) -> Float[Tensor, "h w 3"]:
    """A photo as floats in [0, 1], its transparent pixels over the background."""
    colors = image.to(like) / (255 if image.dtype == torch.uint8 else 1)
    if colors.shape[-1] == 3:
        return colors
    return colors[..., :3] * colors[..., 3:] + background * (1 - colors[..., 3:])


def _panels(
    photo: Float[Tensor, "h w 3"],
    rendered: Float[Tensor, "h w 3"],
    depth: Float[Tensor, "h w 1"],
    alpha: Float[Tensor, "h w 1"],
) -> Float[Tensor, "h width3 3"]:
    from nerfstudio.utils.colormaps import ColormapOptions, apply_colormap

    # Inverse depth spreads the near part of a scene, where the detail is, over most colours.
    near, far = torch.quantile(depth.flatten(), depth.new_tensor([0.02, 0.98]))
    inverse = (1 / depth.clamp_min(1e-6) - 1 / far) / (1 / near - 1 / far).clamp_min(1e-9)
    colored = apply_colormap(inverse.clamp(0, 1), ColormapOptions(colormap="turbo")) * alpha
    gap = photo.new_ones(photo.shape[0], GAP, 3)
    return torch.cat([photo, gap, rendered, gap, colored], dim=1).cpu()


def _picture(rows: list[Float[Tensor, "h w 3"]]):
    from PIL import Image

    width = max(row.shape[1] for row in rows)
    stacked = []
    for row in rows:
        padding = (0, 0, 0, width - row.shape[1], 0, GAP)
        stacked.append(torch.nn.functional.pad(row, padding, value=1.0))
    pixels = torch.cat(stacked)[:-GAP].clamp(0, 1) * 255
    return Image.fromarray(pixels.round().to(torch.uint8).numpy())
