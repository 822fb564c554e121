"""The loss that LVSM and RayZer are trained with."""

import pytest
import torch
from safetensors.torch import load_file

from fm3d_plugins.nn.perceptual import CHANNELS, Vgg19, Vgg19Distance, rendering_loss


@pytest.fixture(scope="module")
def weights(golden_weights):
    """Made by the rule of the golden files."""
    shapes = {f"vgg.{name}": value.shape for name, value in Vgg19().state_dict().items()}
    return {k: torch.from_numpy(golden_weights.golden_array(k, v)) for k, v in shapes.items()}


@pytest.fixture(scope="module")
def golden(shared):
    return load_file(shared / "golden" / "lvsm_perceptual_recipe.safetensors")


def test_distance_and_its_gradient_are_the_published_ones(weights, golden, assert_near):
    distance = Vgg19Distance(weights)
    renders = golden["pred"].requires_grad_()
    assert_near(distance.errors(renders, golden["target"]), golden["raw_l1_errors_e0_e5"], 1e-6)
    total = distance(renders, golden["target"])
    assert_near(total, golden["loss_total"], share=1e-6)
    total.backward()
    assert_near(renders.grad, golden["grad_pred"])
    assert not any(value.requires_grad for value in distance.network.parameters())


def test_features_are_the_published_ones(weights, golden, assert_near):
    network = Vgg19Distance(weights).network
    mean = torch.tensor([123.68, 116.779, 103.939])[:, None, None]
    with torch.no_grad():
        features = list(network(255 * golden["target"] - mean))
    for tap, ours in enumerate(features):
        assert_near(ours.abs().mean(), golden[f"target_feature{tap}_mean_abs"], share=1e-5)
    assert_near(features[4], golden["target_feature4"])


def test_images_of_any_batch_are_compared_and_equal_ones_have_no_distance(weights):
    distance = Vgg19Distance(weights)
    images, others = torch.rand(2, 2, 3, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    assert float(distance(images, images)) == 0
    torch.testing.assert_close(
        distance(images, others), distance(images.flatten(0, 1), others.flatten(0, 1))
    )


def test_all_weights_that_do_not_fit_are_listed(weights):
    """What else belongs to VGG19 (its classifier, its last convolutions) is passed over."""
    rest = {"vgg.features.34.weight": torch.zeros(1), "vgg.classifier.0.bias": torch.zeros(1)}
    Vgg19Distance(weights | rest)
    wrong = weights | {"vgg.features.5.bias": torch.zeros(3)}
    del wrong["vgg.features.0.bias"]
    with pytest.raises(ValueError) as caught:
        Vgg19Distance(wrong)
    lines = str(caught.value).splitlines()
    for line in (
        "missing: vgg.features.0.bias",
        "shape of vgg.features.5.bias: found [3], expected [128]",
    ):
        assert line in lines


def test_layers_are_those_of_vgg19_up_to_relu5_2():
    """Simonyan and Zisserman 2015, table 1, column E: 2, 2, 4, 4 and here 2 convolutions."""
    assert [list(CHANNELS.values()).count(width) for width in (64, 128, 256, 512)] == [2, 2, 4, 6]


def test_loss_is_the_squared_error_and_the_weighted_distance():
    """Truth: an error of 0.1 everywhere has a square of 0.01, which is 20 dB."""
    targets = torch.full((2, 1, 3, 4, 4), 0.5)
    renders = (targets + 0.1).requires_grad_()
    alone = rendering_loss(renders, targets)
    assert alone.perceptual is None
    assert float(alone.total.detach()) == pytest.approx(0.01)
    assert float(alone.psnr) == pytest.approx(20.0, abs=1e-4)
    both = rendering_loss(renders, targets, lambda a, b: (a - b).sum(), weight=0.2)
    assert float(both.perceptual.detach()) == pytest.approx(9.6, rel=1e-5)
    assert float(both.total.detach()) == pytest.approx(0.01 + 0.2 * 9.6, rel=1e-5)
    both.total.backward()
    torch.testing.assert_close(renders.grad, torch.full_like(targets, 0.2 / 96 + 0.2))
