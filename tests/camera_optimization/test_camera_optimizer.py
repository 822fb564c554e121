"""Corrections of training cameras: what they mean, what they leave alone, and their gradients."""

import copy

import pytest
import torch
from nerfstudio.cameras import camera_optimizers
from nerfstudio.cameras.cameras import Cameras

from fm3d_plugins.camera_optimization.camera_optimizer import CameraOptimizerConfig
from fm3d_plugins.camera_optimization.pixel_units import INVERSE_DEPTHS
from fm3d_plugins.geometry.poses import rotation_angle_degrees, so3_exp

MODES = ["SO3xR3", "SE3"]


def camera_of(cameras, index):
    camera = cameras[index : index + 1]
    camera.metadata = {"cam_idx": index}
    return camera


def set_tangents(optimizer, tangents):
    with torch.no_grad():
        optimizer.pose_adjustment.copy_(torch.linalg.solve(optimizer.motions, tangents))


def set_focal(optimizer, units):
    with torch.no_grad():
        optimizer.focal_adjustment.copy_(torch.tensor(units))


@pytest.mark.parametrize("mode", MODES)
def test_zero_parameters_give_the_cameras_back(ring, make_optimizer, mode):
    cameras = ring()
    optimizer = make_optimizer(cameras, mode)
    assert optimizer.pose_adjustment.shape == (5, 6)
    assert optimizer.pose_adjustment.dtype == torch.float32
    for i in range(5):
        camera = camera_of(cameras, i)
        assert torch.equal(optimizer.apply_to_camera(camera), camera.camera_to_worlds)
        assert float(optimizer.focal_factor(camera).detach()) == 1.0


def test_nerfstudio_recognises_it_and_corrects_cameras_and_rays_by_it(
    ring, make_optimizer, disturb
):
    """nerfstudio's own code, run with these correction matrices, is the oracle."""
    cameras = ring()
    optimizer = disturb(make_optimizer(cameras, focal_length=False))
    assert isinstance(optimizer, camera_optimizers.CameraOptimizer)
    theirs = camera_optimizers.CameraOptimizer
    camera = camera_of(cameras, 2)
    ours = optimizer.apply_to_camera(camera)
    torch.testing.assert_close(ours, theirs.apply_to_camera(optimizer, camera))
    bundle = cameras.generate_rays(camera_indices=torch.tensor([[0], [3], [4]]), coords=None)
    bundle = bundle.flatten()[:9]
    expected = copy.deepcopy(bundle)
    theirs.apply_to_raybundle(optimizer, expected)
    optimizer.apply_to_raybundle(bundle)
    torch.testing.assert_close(bundle.origins, expected.origins)
    torch.testing.assert_close(bundle.directions, expected.directions)
    assert optimizer.get_correction_matrices().shape == (5, 3, 4)


@pytest.mark.parametrize("mode", MODES)
def test_turn_is_about_the_centre_and_shift_moves_it_in_world_axes(ring, make_optimizer, mode):
    cameras = ring()
    optimizer = make_optimizer(cameras, mode)
    turn = torch.tensor([0.0, 0.0, 0.3])
    tangents = torch.zeros(5, 6)
    tangents[3, 3:] = turn
    set_tangents(optimizer, tangents)
    given = cameras.camera_to_worlds[3]
    turned = optimizer.apply_to_camera(camera_of(cameras, 3))[0]
    torch.testing.assert_close(turned[:, 3], given[:, 3])
    torch.testing.assert_close(turned[:, :3], so3_exp(turn) @ given[:, :3])
    tangents[3] = torch.tensor([0.1, -0.2, 0.3, 0.0, 0.0, 0.0])
    set_tangents(optimizer, tangents)
    shifted = optimizer.apply_to_camera(camera_of(cameras, 3))[0]
    torch.testing.assert_close(shifted[:, 3], given[:, 3] + tangents[3, :3])
    torch.testing.assert_close(shifted[:, :3], given[:, :3])


def test_rays_move_with_their_camera(ring, make_optimizer, disturb):
    """Rays of the corrected camera are the corrected rays of the given camera."""
    cameras = ring()
    optimizer = disturb(make_optimizer(cameras))
    corrected = ring()
    factors = optimizer.focal_factors().detach()[:, None]
    assert (factors - 1).abs().min() > 1e-4
    corrected.fx, corrected.fy = corrected.fx * factors, corrected.fy * factors
    corrected.camera_to_worlds = torch.cat(
        [optimizer.apply_to_camera(camera_of(cameras, i)) for i in range(5)]
    ).detach()
    for shape in ((), (7,), (2, 3)):
        indices = torch.randint(5, (*shape, 1)) if shape else torch.tensor([4])
        coords = 30 * torch.rand(*shape, 2)
        moved = cameras.generate_rays(camera_indices=indices, coords=coords)
        expected = corrected.generate_rays(camera_indices=indices, coords=coords)
        optimizer.apply_to_raybundle(moved)
        torch.testing.assert_close(moved.origins, expected.origins)
        torch.testing.assert_close(moved.directions, expected.directions)


def test_cameras_without_an_index_are_not_touched(ring, make_optimizer, disturb):
    cameras = ring()
    optimizer = disturb(make_optimizer(cameras))
    camera = cameras[1:2]
    camera.metadata = None
    assert torch.equal(optimizer.apply_to_camera(camera), camera.camera_to_worlds)
    assert optimizer.focal_factor(camera) == 1.0


def test_first_camera_never_moves_at_a_fixed_focal_length(ring, make_optimizer, disturb):
    cameras = ring()
    optimizer = disturb(make_optimizer(cameras, focal_length=False))
    camera = camera_of(cameras, 0)
    assert torch.equal(optimizer.apply_to_camera(camera), camera.camera_to_worlds)
    optimizer.tangents().square().sum().backward()
    assert not optimizer.pose_adjustment.grad[0].any()


def test_zoom_moves_cameras_back_and_keeps_the_size_of_what_they_look_at(ring, make_optimizer):
    """The ring looks at the origin from about 2.3: a small ball there is seen as before."""
    cameras = ring()
    cameras.camera_to_worlds[:, :, 3] *= 2.3 / cameras.camera_to_worlds[:, :, 3].norm(
        dim=-1, keepdim=True
    )
    optimizer = make_optimizer(cameras)
    set_focal(optimizer, [0.5])
    for index in (0, 3):
        camera = camera_of(cameras, index)
        given = camera.camera_to_worlds[0].double()
        moved = optimizer.apply_to_camera(camera)[0].detach().double()
        factor = float(optimizer.focal_factor(camera).detach())
        distances = [float(pose[:, 3].norm()) for pose in (given, moved)]
        assert factor > 1.005 and distances[1] > distances[0]
        assert factor / distances[1] == pytest.approx(1 / distances[0], rel=1e-3)
        torch.testing.assert_close(moved[:, :3], given[:, :3])


def test_hold_gauge_leaves_the_moves_of_the_focal_length(ring, make_optimizer, disturb):
    optimizer = disturb(make_optimizer(ring()))
    optimizer.hold_gauge()
    before = optimizer.tangents().detach().clone()
    set_focal(optimizer, [-2.0])
    own = optimizer.pose_adjustment.detach().clone()
    optimizer.hold_gauge()
    torch.testing.assert_close(optimizer.pose_adjustment.detach(), own, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(optimizer.tangents(), before)


@pytest.mark.parametrize("mode", MODES)
def test_scale_cannot_drift(ring, make_optimizer, disturb, mode):
    """After `hold_gauge` the mean square distance from the first camera is the initial one."""
    cameras = ring()
    optimizer = disturb(make_optimizer(cameras, mode, focal_length=False), pixels=5.0)
    turns = optimizer.tangents()[:, 3:].detach().clone()
    optimizer.hold_gauge()
    given = cameras.camera_to_worlds[:, :, 3]
    moved = given + optimizer.tangents()[:, :3].detach()
    spread = [(centres - centres[0]).square().sum() for centres in (given, moved)]
    torch.testing.assert_close(spread[1], spread[0])
    torch.testing.assert_close(optimizer.tangents()[:, 3:].detach(), turns)
    assert (moved - given).norm(dim=-1)[1:].min() > 0.01  # The rest of the motion stays.


def test_penalty_is_the_weighted_mean_of_squares_over_the_cameras_drawn(ring, make_optimizer):
    confidence = torch.tensor([1.0, 1.0, 0.75, 1.0, 0.0])
    cameras = ring()
    optimizer = make_optimizer(
        cameras, confidence=confidence, trans_l2_penalty=0.5, rot_l2_penalty=0.25, pull=0.0
    )
    tangents = torch.zeros(5, 6)
    tangents[2] = torch.tensor([2.0, 0.0, 0.0, 0.0, 0.0, 0.2])
    tangents[4] = 100.0  # Nothing is known of this camera, so nothing holds it.
    set_tangents(optimizer, tangents)
    bundle = cameras.generate_rays(
        camera_indices=torch.tensor([[2], [4], [2], [4]]), coords=5 * torch.ones(4, 2)
    )
    optimizer.apply_to_raybundle(bundle)
    losses = {}
    optimizer.get_loss_dict(losses)
    # Confidence 3/4 = 1 / (1 + 1/3): a variance of 1/3. 3 (0.5 x 2^2 + 0.25 x 0.2^2) / 2
    assert float(losses["camera_opt_regularizer"].detach()) == pytest.approx(3.015, rel=1e-4)


def test_pull_grows_with_the_length_of_the_correction_in_pixels(ring, make_optimizer):
    """Its gradient has the strength `pull`, whatever the length, and fades below 0.1 pixels."""
    optimizer = make_optimizer(ring(), pull=0.25, focal_length=False)
    with torch.no_grad():
        optimizer.pose_adjustment[1] = torch.tensor([3.0, 0.0, 4.0, 0.0, 0.0, 0.0])
    for index, strength in ((1, 0.25), (2, 0.0)):
        losses = {}
        optimizer.apply_to_camera(camera_of(ring(), index))
        optimizer.get_loss_dict(losses)
        (gradient,) = torch.autograd.grad(
            losses["camera_opt_regularizer"], optimizer.pose_adjustment
        )
        assert float(gradient.norm()) == pytest.approx(strength, rel=1e-3, abs=1e-6)


def test_pull_is_over_the_variance_that_confidence_tells(ring, make_optimizer):
    """Deviations of 1/4, 1, 10 and 0 pixels: 16, 1 and 1/100 times the pull, about 100 times at
    most; where nothing is known, once."""
    deviations = torch.tensor([1.0, 0.25, 1.0, 10.0, 0.0])
    for confidence, factors in ((1 / (1 + deviations**2), (16, 1, 0.01, 101)), (None, (1,) * 4)):
        optimizer = make_optimizer(ring(), confidence=confidence, pull=0.5, focal_length=False)
        with torch.no_grad():
            optimizer.pose_adjustment[:, 2] = 5.0
        for view, factor in enumerate(factors, start=1):
            drawn = torch.eye(5)[view]
            (slope,) = torch.autograd.grad(optimizer.penalty(drawn), optimizer.pose_adjustment)
            assert float(slope[view, 2]) == pytest.approx(0.5 * factor, rel=1e-3)


def test_only_the_drawn_camera_has_a_gradient(ring, make_optimizer, disturb):
    """Otherwise `RowAdam` would wear off the moments of the others."""
    optimizer = disturb(make_optimizer(ring(), focal_length=False))
    losses = {}
    moved = optimizer.apply_to_camera(camera_of(ring(), 3))
    optimizer.get_loss_dict(losses)
    (moved.sum() + losses["camera_opt_regularizer"]).backward()
    drawn = optimizer.pose_adjustment.grad.any(dim=-1)
    assert drawn.tolist() == [False, False, False, True, False]


def test_off_has_no_parameters_and_no_terms(ring, make_optimizer):
    cameras = ring()
    optimizer = make_optimizer(cameras, "off")
    groups, losses, metrics = {}, {}, {}
    optimizer.get_param_groups(groups)
    optimizer.get_loss_dict(losses)
    optimizer.get_metrics_dict(metrics)
    optimizer.hold_gauge()
    assert not groups and not losses and not metrics and not optimizer.state_dict()
    camera = camera_of(cameras, 1)
    assert torch.equal(optimizer.apply_to_camera(camera), camera.camera_to_worlds)
    corrections = optimizer(torch.tensor([1, 2]))
    assert torch.equal(corrections, torch.eye(4)[:3].expand(2, 3, 4))


def test_missing_cameras_are_refused():
    with pytest.raises(ValueError, match="0 cameras of 4 training photos.*given_cameras"):
        CameraOptimizerConfig(mode="SE3").setup(num_cameras=4, device="cpu")


def test_state_comes_back_from_a_checkpoint(ring, make_optimizer, disturb):
    optimizer = disturb(make_optimizer(ring()))
    other = make_optimizer(ring())
    other.load_state_dict(optimizer.state_dict())
    assert torch.equal(other.tangents(), optimizer.tangents())
    assert torch.equal(other.focal_factors(), optimizer.focal_factors())


def test_focal_factors_are_shared_by_cameras_with_equal_intrinsics(ring, make_optimizer):
    cameras = ring()
    cameras.fx[3:] *= 1.5
    optimizer = make_optimizer(cameras)
    assert optimizer.focal_adjustment.shape == (2,)
    with torch.no_grad():
        optimizer.focal_adjustment.copy_(torch.tensor([1.0, -2.0]))
    factors = optimizer.focal_factors().detach()
    assert len(set(factors.tolist())) == 2
    assert factors[0] == factors[2] > 1 > factors[3] == factors[4]
    # One unit moves points by one pixel, root mean square over the picture and the depths at
    # which the module samples; a point at 1 / s of the depth looked at moves by 1 - s of it.
    x, y = torch.meshgrid(torch.arange(48.0) - 23.5, torch.arange(36.0) - 17.5, indexing="ij")
    radius = (x.square() + y.square()).mean().sqrt()
    relative = (1 - torch.tensor(INVERSE_DEPTHS)).square().mean().sqrt()
    assert float(factors[0].log() * radius * relative) == pytest.approx(1.0, rel=1e-3)
    held_out = optimizer.held_out_focal_factors(cameras[4:5])
    assert held_out[0] == factors[4]
    stranger = Cameras(cameras.camera_to_worlds[:1], 10.0, 10.0, 5.0, 5.0, 10, 10)
    mean = optimizer.held_out_focal_factors(stranger)[0]
    torch.testing.assert_close(mean, factors.log().mean().exp())


@pytest.mark.parametrize("is_estimated, mode", [(True, "SO3xR3"), (False, "off")])
def test_default_is_on_for_estimated_cameras_only(is_estimated, mode):
    config = CameraOptimizerConfig()
    sentence = config.resolve(is_estimated)
    assert config.mode == mode
    assert "\n" not in sentence and ("is on" in sentence) == is_estimated


def test_asked_for_mode_is_kept():
    config = CameraOptimizerConfig(mode="off")
    assert "is off" in config.resolve(True)
    assert config.mode == "off"


@pytest.mark.parametrize("mode", MODES)
def test_gradients_through_rays_are_difference_quotients(ring, make_optimizer, disturb, mode):
    """Float64: central differences with step 1e-6 err by about 1e-10."""
    cameras = ring(dtype=torch.float64)
    optimizer = disturb(make_optimizer(cameras, mode)).double()
    given = cameras.generate_rays(
        camera_indices=torch.tensor([[1], [4], [4]]),
        coords=torch.tensor([[3.0, 5], [30, 2], [9, 9]]),
    )
    origins, directions = given.origins.double(), given.directions.double()
    weights = torch.linspace(-1, 1, 18, dtype=torch.float64).reshape(2, 3, 3)

    def loss():
        given.origins, given.directions = origins, directions
        optimizer.apply_to_raybundle(given)
        return (weights[0] * given.origins.sin() + weights[1] * given.directions.exp()).sum()

    (gradient,) = torch.autograd.grad(loss(), optimizer.pose_adjustment)
    step = 1e-6
    with torch.no_grad():
        for row, column in ((1, 0), (1, 4), (4, 2), (4, 5), (2, 1)):
            values = []
            for sign in (1, -1):
                optimizer.pose_adjustment[row, column] += sign * step
                values.append(loss().item())
                optimizer.pose_adjustment[row, column] -= sign * step
            quotient = (values[0] - values[1]) / (2 * step)
            assert quotient == pytest.approx(float(gradient[row, column]), abs=1e-8)
    assert not gradient[2].any() and gradient[1].abs().min() > 1e-6


def test_metrics_are_lengths_and_angles_of_the_corrections(ring, make_optimizer, disturb):
    cameras = ring()
    optimizer = disturb(make_optimizer(cameras))
    metrics = {}
    optimizer.get_metrics_dict(metrics)
    moved = torch.cat([optimizer.apply_to_camera(camera_of(cameras, i)) for i in range(5)])
    given = cameras.camera_to_worlds
    angles = rotation_angle_degrees(moved[:, :, :3], given[:, :, :3]).detach()
    shifts = (moved[:, :, 3] - given[:, :, 3]).norm(dim=-1).detach()
    torch.testing.assert_close(metrics["camera_opt_rotation_max"], angles.max())
    torch.testing.assert_close(metrics["camera_opt_translation_mean"], shifts.mean())
