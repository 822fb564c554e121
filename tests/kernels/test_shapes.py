"""No compiled kernel is entered with tensors that do not belong together."""

import jaxtyping
import pytest
import torch

from fm3d_plugins.kernels.adam import KernelAdam
from fm3d_plugins.kernels.hash_grid import HashGridLayout, encode
from fm3d_plugins.kernels.image_loss import l1_ssim_loss
from fm3d_plugins.kernels.position_noise import add_position_noise
from fm3d_plugins.kernels.radiance_field import density, draw_intervals, move_cells, render_rays
from fm3d_plugins.kernels.radiance_field.definitions import FieldParameters, Intervals
from fm3d_plugins.kernels.rasterizer import rasterize

LAYOUT = HashGridLayout(num_levels=4, base_resolution=4, log2_table_size=8)
FIELD = {
    "table": (LAYOUT.num_entries, 4), "density_hidden": (16, 64), "density_out": (64, 16),
    "color_geometry": (16, 64), "color_direction": (16, 64), "color_out": (64, 3),
}  # fmt: skip


def field(tensors):
    return FieldParameters(*(tensors.pop(name) for name in FIELD))


def rendered(t):
    parameters = field(t)
    intervals = Intervals(t["middles"], t["lengths"])
    return render_rays(parameters, LAYOUT, t["origins"], t["directions"], intervals)


def adam_step(t):
    param = torch.nn.Parameter(torch.ones(7, 3))
    optimizer = KernelAdam([param], lr=0.1)
    param.grad = torch.ones(7, 3)
    optimizer.step()
    optimizer.state[param].update(t)
    optimizer.step()


ENTRIES = {
    "rasterize": (
        lambda t: rasterize(**t, width=8, height=8, sh_degree=1),
        {
            "means": (5, 3), "quaternions_wxyz": (5, 4), "scales": (5, 3), "opacities": (5,),
            "sh_coefficients": (5, 1, 3), "sh_rest": (5, 3, 3), "camera_from_world": (4, 4),
            "intrinsics": (3, 3), "background": (3,),
        },
    ),
    "l1_ssim_loss": (lambda t: l1_ssim_loss(**t), {"rendered": (12, 13, 3), "target": (12, 13, 3)}),
    "add_position_noise": (
        lambda t: add_position_noise(**t, smallest_opacity=0.005),
        {
            "means": (5, 3), "quaternions_wxyz": (5, 4), "log_scales": (5, 3),
            "opacity_logits": (5, 1), "noise": (5, 3),
        },
    ),
    "encode": (
        lambda t: encode(**t, layout=LAYOUT), {"positions": (5, 3), "table": FIELD["table"]}
    ),
    "render_rays": (
        rendered,
        {
            **FIELD, "origins": (5, 3), "directions": (5, 3), "middles": (5, 16),
            "lengths": (5, 16),
        },
    ),
    "density": (lambda t: density(field(t), LAYOUT, **t), {**FIELD, "positions": (5, 3)}),
    "draw_intervals": (
        lambda t: draw_intervals(**t, num_samples=16),
        {
            "densities": (4, 4, 4), "strata": (17,), "origins": (5, 3), "directions": (5, 3),
            "jitter": (5,),
        },
    ),
    "move_cells": (
        lambda t: move_cells(**t),
        {
            "grid": (4, 4, 4), "sums": (64,), "counts": (64,), "origins": (5, 3),
            "directions": (5, 3), "middles": (5, 16), "densities": (5, 16),
        },
    ),
    "KernelAdam": (adam_step, {"exp_avg": (7, 3), "exp_avg_sq": (7, 3)}),
}  # fmt: skip

WRONG = {
    "no rows": lambda v: v[:0],
    "a row less": lambda v: v[:-1],
    "a row more": lambda v: torch.cat([v, v[:1]]),
    "a column less": lambda v: v[..., :-1],
    "a column more": lambda v: torch.cat([v, v[..., :1]], dim=-1),
    "an axis more": lambda v: v[None],
    "one number": lambda v: v.flatten()[0],
}
ANY_NUMBER = {("encode", "positions"), ("density", "positions"), ("draw_intervals", "strata")}
"""Any number of points, or of edges, will do."""
CASES = [
    (entry, name, wrong)
    for entry, (_, shapes) in ENTRIES.items()
    for name, shape in shapes.items()
    for wrong in WRONG
    if (entry, name) not in ANY_NUMBER or not ("row" in wrong or len(shape) == 1)
] + [("draw_intervals", "strata", wrong) for wrong in ("no rows", "an axis more", "one number")]


def tensors_of(shapes):
    return {name: torch.rand(shape) for name, shape in shapes.items()}


@pytest.mark.parametrize("entry", ENTRIES)
def test_tensors_that_belong_together_are_taken(entry):
    call, shapes = ENTRIES[entry]
    call(tensors_of(shapes))


@pytest.mark.parametrize(("entry", "name", "wrong"), CASES)
def test_a_tensor_of_another_shape_is_refused(entry, name, wrong, monkeypatch):
    """As in a user's process, where types are not checked."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    call, shapes = ENTRIES[entry]
    tensors = tensors_of(shapes)
    tensors[name] = WRONG[wrong](tensors[name])
    with pytest.raises(ValueError, match=r"Expected"):
        call(tensors)


def test_positions_that_are_no_numbers_touch_nothing_outside_the_table():
    """The result is undefined; the process lives, also where the gradient goes."""
    positions = torch.tensor([torch.nan, torch.inf, -torch.inf, 1e30, -1e30, 5.0])
    positions = torch.cartesian_prod(positions, positions, positions)
    layout = HashGridLayout(num_levels=4, base_resolution=8, log2_table_size=12)
    table = torch.rand(layout.num_entries, 4, requires_grad=True)
    features = encode(positions.requires_grad_(), table, layout)
    features.nan_to_num().sum().backward()
    assert table.grad is not None
