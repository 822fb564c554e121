"""Equality with the published alignment, on its outputs for a small scene.

What is chaotic is not compared digit by digit: the published code with two threads differs from
itself with one by 1.5e-3 in poses after 300 steps. Losses, gradients, starts and first steps are.
"""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from fm3d_plugins.dust3r.pair_pointmaps import PairPointmaps
from fm3d_plugins.geometry.poses import (
    invert,
    nearest_rotation,
    rotation_angle_degrees,
    transform_points,
)
from tests.dust3r.published.alignment import (
    OfficialOptions,
    align_officially,
    learning_rate,
    optimize,
)
from tests.dust3r.published.parameters import Objective, OfficialParameters, batch_pairs
from tests.dust3r.published.start import start_from_known_poses, start_from_tree

SIZES = [(48, 64)] * 5


@pytest.fixture(scope="module")
def scene(shared):
    return load_file(shared / "golden/dust3r_ga.safetensors")


@pytest.fixture(scope="module")
def noisy_pairs(scene):
    names = ("pred1_pts3d", "pred1_conf", "pred2_pts3d_in_other_view", "pred2_conf")
    columns = [scene[f"noisy.{name}"] for name in names]
    return [
        PairPointmaps(first, second, *(column[row] for column in columns))
        for row, (first, second) in enumerate(scene["edges"].tolist())
    ]


@pytest.fixture(scope="module")
def exact_pairs(scene, noisy_pairs):
    """pred1 = s X_i and pred2 = s (T_i⁻¹ X_j), as the golden files' description has it."""
    poses, focals, depth = scene["gt_poses"], scene["gt_focals"], scene["gt_depth"]
    y, x = torch.meshgrid(torch.arange(48.0), torch.arange(64.0), indexing="ij")
    plane = torch.stack([x - 32, y - 24], dim=-1) / focals[:, None, None, None]
    points = torch.nn.functional.pad(plane, (0, 1), value=1.0) * depth.unsqueeze(-1)
    pairs = []
    for row, pair in enumerate(noisy_pairs):
        first_from_second = invert(poses[pair.first]) @ poses[pair.second]
        second = transform_points(first_from_second, points[pair.second].flatten(0, 1))
        maps = [
            (scene["pair_scale"][row] * each).float().view(48, 64, 3)
            for each in (points[pair.first], second)
        ]
        pairs.append(
            PairPointmaps(
                pair.first, pair.second, maps[0], pair.confidence_first, maps[1],
                pair.confidence_second,
            )
        )  # fmt: skip
    return pairs


def started(pairs, **options):
    parameters = OfficialParameters(batch_pairs(pairs, SIZES))
    start_from_tree(parameters, **options)
    return parameters


def check_state(parameters, scene, name, pose_tolerance=1e-4, focal_tolerance=1e-4):
    def close(found, key, tolerance):
        wanted = scene[f"{name}.{key}"]
        wanted = canonical(wanted) if key == "pw_poses_param" else wanted
        scale = float(wanted.abs().max())
        torch.testing.assert_close(found, wanted, rtol=0, atol=tolerance * scale)

    with torch.no_grad():
        close(parameters.world_from_camera(), "im_poses", pose_tolerance)
        close(parameters.focal_lengths(), "focals", focal_tolerance)
        if f"{name}.depth" in scene:
            close(torch.stack(parameters.depth_maps()), "depth", pose_tolerance)
            close(parameters.pair_scales(), "pw_scale", pose_tolerance)
            close(canonical(parameters.pairs), "pw_poses_param", pose_tolerance)


def canonical(pairs):
    """A quaternion's sign and length have no meaning."""
    quaternion = torch.nn.functional.normalize(pairs[:, :4], dim=-1)
    return torch.cat([quaternion * quaternion[:, 3:].sign(), pairs[:, 4:]], dim=-1)


# --- Loss and gradients at fixed parameters, three photos of three sizes ---


@pytest.fixture(scope="module")
def unit(shared):
    return load_file(shared / "golden/dust3r_ga_unit.safetensors")


def unit_parameters(unit, is_scale_normalized):
    sizes = [(6, 8), (8, 6), (4, 8)]
    pairs = [
        PairPointmaps(
            first, second, unit[f"pred1_pts3d.{row}"], unit[f"conf1.{row}"],
            unit[f"pred2_pts3d.{row}"], unit[f"conf2.{row}"],
        )
        for row, (first, second) in enumerate(unit["edges"].tolist())
    ]  # fmt: skip
    parameters = OfficialParameters(batch_pairs(pairs, sizes), is_scale_normalized)
    with torch.no_grad():
        for photo in range(3):
            row = unit[f"params.log_depth.{photo}"].flatten()
            parameters.log_depth[photo, : len(row)] = row
        for ours, theirs in NAMES.items():
            if ours != "log_depth":
                getattr(parameters, ours).copy_(unit[f"params.{theirs}"])
    for each in parameters.parameters():
        each.requires_grad_(True)
    return parameters


NAMES = {
    "log_depth": "im_depthmaps",
    "cameras": "im_poses",
    "focals": "im_focals",
    "principal_shifts": "im_pp",
    "pairs": "pw_poses",
    "adaptors": "pw_adaptors",
}
"""Our parameters' names, and the published ones."""


@pytest.mark.parametrize("is_normalized", [True, False])
@pytest.mark.parametrize("confidence", ["log", "sqrt", "m1", "id"])
@pytest.mark.parametrize("distance", ["l1", "l2"])
def test_loss_is_the_published_one(unit, distance, confidence, is_normalized):
    parameters = unit_parameters(unit, is_normalized)
    key = f"{distance}.{confidence}.norm_pw_scale={is_normalized}"
    for average, name in (("pixels", "loss"), ("pairs", "loss_modular")):
        found = parameters.loss(Objective(distance, confidence, average))
        torch.testing.assert_close(found.reshape(1), unit[f"{name}.{key}"], rtol=1e-5, atol=0)


@pytest.mark.parametrize("is_normalized", [True, False])
@pytest.mark.parametrize("distance", ["l1", "l2"])
def test_gradients_are_the_published_ones(unit, distance, is_normalized):
    parameters = unit_parameters(unit, is_normalized)
    parameters.loss(Objective(distance)).backward()
    for ours, theirs in NAMES.items():
        wanted = unit[f"grad.{distance}.log.norm_pw_scale={is_normalized}.{theirs}"]
        scale = float(wanted.abs().max())
        # An adaptor's gradient is a difference of two large sums.
        torch.testing.assert_close(
            getattr(parameters, ours).grad, wanted, rtol=0, atol=1e-4 * scale, msg=ours
        )


# --- Starts ---


@pytest.mark.parametrize("kind", ["noisy", "exact"])
def test_start_from_the_tree_is_the_published_one(kind, request, scene):
    parameters = started(request.getfixturevalue(f"{kind}_pairs"))
    check_state(parameters, scene, f"{kind}.cosine.init", pose_tolerance=1e-3)


@pytest.mark.parametrize("kind", ["noisy", "exact"])
def test_without_stale_focals_every_photo_starts_with_its_own(kind, request, scene):
    parameters = started(request.getfixturevalue(f"{kind}_pairs"), has_stale_focals=False)
    check_state(parameters, scene, f"{kind}.fixed_mst.init", pose_tolerance=1e-3)
    truth = scene["gt_focals"].float()
    torch.testing.assert_close(parameters.focal_lengths(), truth, rtol=1e-3, atol=0)


def test_start_from_known_poses_is_the_published_one(scene, noisy_pairs):
    parameters = OfficialParameters(batch_pairs(noisy_pairs, SIZES))
    poses, focals = scene["gt_poses"].float(), scene["gt_focals"].float()
    start_from_known_poses(parameters, poses, focals)
    check_state(parameters, scene, "noisy.known.init", pose_tolerance=1e-3)
    loss = parameters.loss(Objective())
    torch.testing.assert_close(loss.reshape(1), scene["noisy.known.init.loss"], rtol=1e-3, atol=0)


# --- Optimisation ---


def published_start(pairs, scene, name="noisy.cosine.init"):
    """The published starting values, digit for digit.

    Adam's first steps go by the sign of a gradient alone, so a parameter that is 0 in one
    start and 1e-8 in the other moves the whole curve by a percent.
    """
    parameters = OfficialParameters(batch_pairs(pairs, SIZES))
    with torch.no_grad():
        parameters.cameras.copy_(scene[f"{name}.im_poses_param"])
        parameters.pairs.copy_(scene[f"{name}.pw_poses_param"])
        parameters.focals[:, 0] = 20 * scene[f"{name}.focals"].log()
        parameters.log_depth.copy_(scene[f"{name}.depth"].log().flatten(1))
    return parameters


def curve_of(parameters, steps, **options):
    """Losses of the first steps of a run of 300, whose learning rate falls as in the whole one."""
    curve = []
    options = OfficialOptions(**options)

    class EnoughSeen(Exception):
        pass

    def see(step, loss):
        curve.append(loss)
        if step + 1 == steps:
            raise EnoughSeen

    with pytest.raises(EnoughSeen):
        optimize(parameters, options, see)
    return torch.tensor(curve)


@pytest.mark.parametrize("average", ["pixels", "pairs"])
def test_both_averages_follow_the_published_curve(scene, noisy_pairs, average):
    """With equal sizes both averages are the same, as published. A run of 50 steps in all."""
    name = {"pixels": "pco50", "pairs": "modular50"}[average]
    parameters = published_start(noisy_pairs, scene)
    curve = []
    options = OfficialOptions(steps=50, objective=Objective(average=average))
    optimize(parameters, options, lambda _, loss: curve.append(loss))
    wanted = scene[f"noisy.{name}.loss_curve"]
    torch.testing.assert_close(torch.tensor(curve[:20]), wanted[:20], rtol=1e-3, atol=0)
    assert curve[-1] <= 1.02 * float(wanted[-1])


@pytest.mark.parametrize("kind", ["cosine", "linear", "optpp", "known"])
def test_all_settings_follow_the_published_curves(kind, scene, noisy_pairs):
    """Twenty steps: two machines' rounding differs by 1e-5 then, and by a percent in the end."""
    name = "noisy.known.init" if kind == "known" else "noisy.cosine.init"
    parameters = published_start(noisy_pairs, scene, name)
    parameters.principal_shifts.requires_grad_(kind == "optpp")
    if kind == "known":
        parameters.is_scale_normalized = False
        parameters.cameras.requires_grad_(False)
        parameters.focals.requires_grad_(False)
    curve = curve_of(parameters, 20, schedule="linear" if kind == "linear" else "cosine")
    wanted = scene[f"noisy.{kind}.loss_curve"][:20]
    torch.testing.assert_close(curve, wanted, rtol=1e-3, atol=0)


@pytest.mark.parametrize(("kind", "start"), [("noisy", "cosine"), ("exact", "fixed_mst")])
def test_the_whole_alignment_ends_no_worse_than_the_published_one(
    kind, start, request, scene, shared
):
    """From our own start. On exact data the published steps lead away from the truth.

    300 steps of Adam amplify rounding: states of two versions of torch differ by 0.5 %. So what
    is asked for is the quality: the loss, and errors against the truth with a
    tenth's allowance.
    """
    pairs = request.getfixturevalue(f"{kind}_pairs")
    parameters = started(pairs, has_stale_focals=start == "cosine")
    loss = optimize(parameters, OfficialOptions())
    assert loss <= 1.02 * float(scene[f"{kind}.{start}.loss"])
    file = shared / "golden/dust3r_ga_errors.json"
    published = json.loads(file.read_text())["errors_vs_gt"][f"{kind}.{start}"]
    with torch.no_grad():
        found = errors(parameters.world_from_camera(), parameters.focal_lengths(), scene)
    for name, error in found.items():
        assert error <= 1.1 * published[name], name


def errors(world_from_camera, focals, scene):
    """Largest errors against the truth, where the cameras' axes agree best."""
    poses, truth = world_from_camera.double(), scene["gt_poses"].double()
    turn = nearest_rotation((truth[:, :3, :3] @ poses[:, :3, :3].mT).mean(0))
    degrees = rotation_angle_degrees(turn @ poses[:, :3, :3], truth[:, :3, :3])
    centers, wanted = (each - each.mean(0) for each in (poses[:, :3, 3] @ turn.T, truth[:, :3, 3]))
    scale = (centers * wanted).sum() / centers.square().sum()
    return {
        "rot_deg_max": float(degrees.max()),
        "center_max": float((scale * centers - wanted).norm(dim=-1).max()),
        "focal_rel_max": float((focals.flatten().double() / scene["gt_focals"] - 1).abs().max()),
    }


def test_learning_rates_run_from_the_first_to_the_least():
    for schedule in ("cosine", "linear"):
        options = OfficialOptions(schedule=schedule)
        assert learning_rate(0, options) == pytest.approx(1e-2)
        assert learning_rate(150, options) == pytest.approx((1e-2 + 1e-6) / 2)
        assert learning_rate(300, options) == pytest.approx(1e-6)


def test_result_has_this_packages_pixels(noisy_pairs):
    views = align_officially(noisy_pairs, SIZES, options=OfficialOptions(steps=1))
    torch.testing.assert_close(views.intrinsics[:, :2, 2], torch.tensor([[32.5, 24.5]] * 5))


def test_photos_that_no_pair_joins_are_an_error(noisy_pairs):
    apart = [pair for pair in noisy_pairs if (pair.first < 3) == (pair.second < 3)]
    with pytest.raises(ValueError, match="2 separate groups"):
        align_officially(apart, SIZES)


def test_known_poses_without_focal_lengths_are_an_error(noisy_pairs, scene):
    with pytest.raises(ValueError, match="takes both of all photos"):
        align_officially(noisy_pairs, SIZES, scene["gt_poses"].float())


def test_known_poses_need_equal_sizes(unit):
    sizes = [(6, 8), (8, 6), (4, 8)]
    batch = unit_parameters(unit, is_scale_normalized=False).batch
    with pytest.raises(ValueError, match=r"photos 1 and 0 have the sizes \(8, 6\) and \(6, 8\)"):
        start_from_known_poses(
            OfficialParameters(batch), torch.eye(4).expand(3, 4, 4), torch.ones(3)
        )
    assert batch.sizes == sizes


def test_a_photo_without_confident_pixels_is_an_error_not_the_identity(noisy_pairs):
    """Photo 1 is first in no edge of the tree, so its pose comes from its pixels."""
    unsure = [
        replace(
            pair,
            confidence_first=pair.confidence_first.clamp(max=2.0 if pair.first == 1 else 1e6),
            confidence_second=pair.confidence_second.clamp(max=2.0 if pair.second == 1 else 1e6),
        )
        for pair in noisy_pairs
    ]
    with pytest.raises(ValueError, match="Photo 1 has no pose.*found 0"):
        started(unsure)
