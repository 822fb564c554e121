"""The help of ns-train shows options that do something, and says who fills those that are unset."""

import copy
import dataclasses

import pytest
import tyro
from nerfstudio.configs.method_configs import all_methods

from fm3d_plugins.gaussian_splatting.recipe import recipe_for as splat_recipe
from fm3d_plugins.nerf.recipe import recipe_for as nerf_recipe

IDLE = (
    "--prompt",
    "enable-collider",
    "collider-params",
    "loss-coefficients",
    "model.prompt",
    "masks-on-gpu",
    "images-on-gpu",
    "eval-num-images-to-sample-from",
    "eval-num-times-to-repeat-images",
    "eval-image-indices",
)
"""Without effect in any method here."""

OF_MACHINES = ("num-machines", "machine-rank", "dist-url")
"""Of effect where many devices train one network."""

MORE = {
    "3dgs": ("eval-num-rays-per-chunk",),
    "nerf": ("patch-size",),
    "vggt": ("max-num-iterations", "optimizers", "train-cameras-sampling"),
    "dust3r": ("max-num-iterations", "optimizers", "train-cameras-sampling"),
    "rayzer": ("max-num-iterations", "optimizers", "train-cameras-sampling"),
    "lvsm-train": (
        "steps-per-eval-batch",
        "steps-per-eval-image ",
        "mixed-precision",
        "start-paused",
    ),
    "lvsm": ("train-cameras-sampling", "eval-num-rays-per-chunk"),
}


@pytest.fixture(scope="module")
def help_of():
    texts = {}

    def told(method):
        if method not in texts:
            config = copy.deepcopy(all_methods[method])
            flags = (tyro.conf.FlagConversionOff, tyro.conf.SuppressFixed)
            parser = tyro.extras.get_parser(type(config), default=config, config=flags)
            texts[method] = parser.format_help()
        return texts[method]

    return told


@pytest.mark.parametrize("method", MORE)
def test_options_without_effect_are_hidden(help_of, method):
    text = help_of(method)
    assert "--data" in text and "--output-dir" in text
    shown = [word for word in (*IDLE, *MORE[method]) if word in text]
    assert not shown
    assert all((word in text) == (method == "lvsm-train") for word in OF_MACHINES)


@pytest.mark.parametrize("method", ["vggt", "dust3r", "rayzer", "lvsm"])
def test_weights_are_among_the_methods_own_options(help_of, method):
    assert "--weights" in help_of(method)


@pytest.mark.parametrize(("method", "recipe"), [("3dgs", splat_recipe), ("nerf", nerf_recipe)])
def test_options_that_a_recipe_fills_say_what_none_means(method, recipe):
    """Every field of the recipe that is an option and unset, by the help that tyro finds."""
    from tyro._docstrings import get_field_docstring

    model = all_methods[method].pipeline.model
    filled = {entry.name for entry in dataclasses.fields(recipe("cpu", 100))}
    unset = [name for name in filled if getattr(model, name, "") is None]
    assert len(unset) >= 4
    for name in unset:
        told = get_field_docstring(type(model), name, ())
        assert "None: " in " ".join((told or "").split()), name
