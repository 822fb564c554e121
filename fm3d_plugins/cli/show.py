"""`fm3d show`: one picture of how well a trained scene renders its held-out photos."""

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
import tyro
from jaxtyping import Float
from torch import Tensor

GAP = 4
"""Pixels between the panels of the picture."""


def run(arguments: Sequence[str]) -> None:
    """Parse the options and write the picture.

    Raises:
        FileNotFoundError: There is no such config.yml.
    """
    tyro.cli(command, prog="fm3d show", args=arguments)


def command(load_config: Path, output: Path = Path("result.png"), views: int = 3) -> None:
    """Write photo | render | depth of held-out views as one picture, and print their mean PSNR.

    Args:
        load_config: config.yml of a finished run.
        output: The picture to write (PNG).
        views: Number of held-out views in the picture; the PSNR is over all of them.
    """
    from nerfstudio.data.datamanagers.full_images_datamanager import FullImageDatamanager
    from nerfstudio.models.splatfacto import SplatfactoModel
    from nerfstudio.utils.eval_utils import eval_setup

    from fm3d_plugins.backends.metrics import psnr
    from fm3d_plugins.io.atomic import atomic_write

    if not load_config.is_file():
        raise FileNotFoundError(
            f"There is no {load_config}. Expected the config.yml that ns-train wrote. "
            "ns-train names its place at the end of a run."
        )
    _, pipeline, _, _ = eval_setup(load_config, test_mode="test")
    pipeline.eval()
    model, manager = pipeline.model, pipeline.datamanager
    if not isinstance(model, SplatfactoModel):
        raise ValueError(
            f"{load_config} is a run of {type(model).__name__}. Expected one of 3dgs. "
            "Look at it with ns-viewer, or score it with ns-eval."
        )
    rows, ratios = [], []
    held_out = cast(FullImageDatamanager, manager).fixed_indices_eval_dataloader
    shown = {round(i * (len(held_out) - 1) / max(1, views - 1)) for i in range(views)}
    for i, (camera, batch) in enumerate(held_out):
        outputs = model.get_outputs_for_camera(camera)
        photo = model.composite_with_background(
            model.get_gt_img(batch["image"]), outputs["background"]
        )
        ratios.append(float(psnr(outputs["rgb"], photo)))
        if i in shown:
            rows.append(_panels(photo, outputs["rgb"], outputs["depth"], outputs["accumulation"]))
    with atomic_write(output) as temporary:
        _picture(rows).save(temporary, format="PNG")
    mean = sum(ratios) / len(ratios)
    print(
        f"PSNR of {len(ratios)} held-out photos: {mean:.2f} dB (photo | render | depth: {output})"
    )


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
