"""Losses of cameras and tracks, the normalisation of ground truth, and their sum."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from fm3d_plugins.data.synthetic import EndlessRooms
from fm3d_plugins.geometry.poses import se3_exp, transform_points
from fm3d_plugins.vggt.losses import (
    GroundTruth,
    LossConfig,
    camera_loss,
    normalize,
    total_loss,
    track_loss,
)
from fm3d_plugins.vggt.network import VGGTOutputs
from fm3d_plugins.vggt.pose_encoding import encode

CLOSE = {"rtol": 1e-5, "atol": 0.0}
"""The golden values are float32 sums over thousands of pixels, with rounding near 1e-6."""


@pytest.fixture(scope="module")
def golden(shared):
    torch.set_num_threads(1)
    folder = shared / "golden"
    values = json.loads((folder / "vggt_fn_losses.json").read_text())
    return load_file(folder / "vggt_fn_losses.safetensors"), values


def square(pose):
    return torch.cat([pose, pose.new_tensor([0.0, 0, 0, 1]).expand(*pose.shape[:-2], 1, 4)], -2)


def truth_of(tensors, prefix):
    return GroundTruth(
        camera_from_world=square(tensors[f"{prefix}_extrinsics"]),
        intrinsics=tensors["gt_intrinsics"],
        depth=tensors[f"{prefix}_depths"],
        points=tensors[f"{prefix}_world_points"],
        is_valid=tensors["point_masks"],
        tracks=tensors["gt_tracks"],
        is_visible=tensors["gt_track_vis"],
    )


def outputs_of(tensors, *, with_points=True):
    return VGGTOutputs(
        pose_encodings=[tensors[f"pred_pose_enc_list.{index}"] for index in range(4)],
        depth=tensors["pred_depth"].squeeze(-1),
        depth_confidence=tensors["pred_depth_conf"],
        points=tensors["pred_world_points"] if with_points else None,
        points_confidence=tensors["pred_world_points_conf"] if with_points else None,
    )


def assert_value(value, expected):
    torch.testing.assert_close(value, torch.tensor(expected), **CLOSE)


def test_normalisation_is_the_published_one(golden):
    tensors, _ = golden
    found, scale = normalize(truth_of(tensors, "gt"))
    expected = truth_of(tensors, "norm")
    for name in ("camera_from_world", "depth", "points"):
        torch.testing.assert_close(
            getattr(found, name), getattr(expected, name), rtol=1e-5, atol=1e-6
        )
    ratio = tensors["gt_cam_points"] / scale[:, None, None, None, None]
    torch.testing.assert_close(ratio, tensors["norm_cam_points"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_camera_loss_is_the_published_one(golden, norm):
    tensors, values = golden
    loss = camera_loss(outputs_of(tensors).pose_encodings, truth_of(tensors, "norm"), norm=norm)
    for name, found in (
        ("camera", loss.total), ("T", loss.translation), ("R", loss.rotation), ("FL", loss.fov),
    ):  # fmt: skip
        assert_value(found, values[f"camera_{norm}.loss_{name}"])


def test_track_loss_is_the_published_one(golden):
    tensors, values = golden
    loss = track_loss(
        [tensors[f"pred_coord.{index}"] for index in range(4)],
        tensors["pred_vis_logits"],
        tensors["pred_conf_logits"],
        tensors["gt_tracks"],
        tensors["gt_track_vis"],
    )
    assert_value(loss.position, values["track.track"])
    assert_value(loss.visibility, values["track.vis"])
    assert_value(loss.confidence, values["track.conf"])


@pytest.mark.parametrize(
    ("with_points", "name"), [(True, "multitask_all"), (False, "multitask_default_yaml")]
)
def test_total_is_the_published_one(golden, with_points, name):
    tensors, values = golden
    losses = total_loss(
        outputs_of(tensors, with_points=with_points), truth_of(tensors, "norm"), LossConfig()
    )
    assert_value(losses.total, values[f"{name}.objective"])
    assert_value(losses.depth.confidence, values[f"{name}.loss_conf_depth"])
    if with_points:
        assert_value(losses.points.gradient, values[f"{name}.loss_grad_point"])


def test_tracks_enter_the_total_with_the_papers_weight(golden):
    tensors, values = golden
    outputs = VGGTOutputs(
        tracks=[tensors[f"pred_coord.{index}"] for index in range(4)],
        visibility=tensors["pred_vis_logits"].sigmoid(),
        track_confidence=tensors["pred_conf_logits"].sigmoid(),
    )
    truth = truth_of(tensors, "norm")
    expected = 0.05 * sum(values[f"track.{name}"] for name in ("track", "vis", "conf"))
    assert_value(total_loss(outputs, truth).total, expected)
    with pytest.raises(ValueError, match="ground truth does not"):
        total_loss(outputs, replace(truth, tracks=None))
    with pytest.raises(ValueError, match="at least one"):
        total_loss(VGGTOutputs(), truth)


@pytest.fixture
def scene():
    """Two scenes of three photos with points anywhere, in float64; a quarter is unknown."""
    torch.manual_seed(0)
    poses = se3_exp(torch.randn(2, 3, 6, dtype=torch.float64))
    intrinsics = torch.tensor([[20.0, 0, 10], [0, 20, 8], [0, 0, 1]], dtype=torch.float64)
    return GroundTruth(
        camera_from_world=poses,
        intrinsics=intrinsics.expand(2, 3, 3, 3),
        depth=torch.rand(2, 3, 16, 20, dtype=torch.float64) + 1,
        points=torch.randn(2, 3, 16, 20, 3, dtype=torch.float64),
        is_valid=torch.rand(2, 3, 16, 20) > 0.25,
    )


def test_normalised_scene_has_mean_distance_one_from_the_first_camera(scene):
    found, _ = normalize(scene)
    distance = found.points.norm(dim=-1)
    for points, is_valid in zip(distance, scene.is_valid, strict=True):
        # The count of about 700 pixels is 0.001 larger in the published scale.
        assert points[is_valid].mean().item() == pytest.approx(1, abs=1e-5)
    identity = torch.eye(4, dtype=torch.float64).expand(2, 4, 4)
    torch.testing.assert_close(found.camera_from_world[:, 0], identity)


def test_normalisation_forgets_scale_and_world_frame(scene):
    """points' = s (R p + t): a camera sees the same, s times as large."""
    size = 3.7
    motion = se3_exp(torch.randn(6, dtype=torch.float64))
    moved = scene.points @ motion[:3, :3].T + motion[:3, 3]
    camera_from_world = scene.camera_from_world @ torch.linalg.inv(motion)
    camera_from_world[..., :3, 3] *= size
    other = replace(
        scene,
        camera_from_world=camera_from_world,
        depth=size * scene.depth,
        points=size * moved,
    )
    (found, scale), (expected, first_scale) = normalize(other), normalize(scene)
    torch.testing.assert_close(scale, size * first_scale)
    for name in ("camera_from_world", "depth", "points"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name))


def test_invalid_pixels_have_no_influence_on_the_normalisation(scene):
    unknown = torch.where(scene.is_valid[..., None], scene.points, torch.nan)
    (found, scale), (expected, first_scale) = (
        normalize(replace(scene, points=unknown)), normalize(scene),
    )  # fmt: skip
    torch.testing.assert_close(scale, first_scale)
    torch.testing.assert_close(found.points[scene.is_valid], expected.points[scene.is_valid])
    assert found.points.isfinite().all()


def exact(scene, rounds=4):
    encoding = encode(scene.camera_from_world, scene.intrinsics, scene.depth.shape[-2:])
    return [encoding.clone() for _ in range(rounds)]


@pytest.mark.parametrize(
    ("norm", "expected"), [("l1", (0.3 / 3, 0.2 / 4, 0.1 / 2)), ("l2", (0.3, 0.2, 0.1))]
)
def test_camera_errors_are_those_put_in_and_rounds_weigh_less_and_less(scene, norm, expected):
    """One number of each part is wrong in all rounds: (1 + 0.6 + 0.36 + 0.216) / 4 of its error."""
    encodings = exact(scene)
    loss = camera_loss(encodings, scene, norm=norm)
    assert loss.total.item() == 0.0
    wrong = torch.tensor([0, 0.3, 0, 0, 0, -0.2, 0, 0.1, 0], dtype=torch.float64)
    loss = camera_loss([encoding + wrong for encoding in encodings], scene, norm=norm)
    weight = (1 + 0.6 + 0.36 + 0.216) / 4
    found = (loss.translation, loss.rotation, loss.fov)
    assert [part.item() for part in found] == pytest.approx([weight * part for part in expected])
    weighted = expected[0] + expected[1] + 0.5 * expected[2]
    assert loss.total.item() == pytest.approx(weight * weighted)


def test_the_last_round_counts_most(scene):
    encodings = exact(scene)
    losses = []
    for index in range(4):
        wrong = list(encodings)
        wrong[index] = encodings[index] + 1
        losses.append(camera_loss(wrong, scene).total.item())
    assert [loss / losses[3] for loss in losses] == pytest.approx([0.216, 0.36, 0.6, 1])


def test_scenes_whose_first_photo_is_hardly_known_do_not_count(scene):
    """At most 100 pixels."""
    is_valid = scene.is_valid.clone()
    is_valid[0, 0] = False
    is_valid[0, 0, :5] = True
    assert is_valid[0, 0].sum() == 100
    hardly = replace(scene, is_valid=is_valid)
    encodings = exact(scene)
    encodings[-1][0] += 5
    assert camera_loss(encodings, hardly).total.item() == 0.0
    is_valid[0, 0, 5, 0] = True
    assert camera_loss(encodings, replace(scene, is_valid=is_valid)).total.item() > 1


def test_nothing_to_compare_is_zero_with_zero_gradients(scene):
    encodings = [encoding.requires_grad_() for encoding in exact(scene)]
    nothing = replace(scene, is_valid=torch.zeros_like(scene.is_valid))
    loss = camera_loss(encodings, nothing).total
    loss.backward()
    assert loss.item() == 0.0
    assert all(torch.equal(encoding.grad, torch.zeros(2, 3, 9)) for encoding in encodings)


def tracks_of(shift, rounds=2, views=3):
    """Two tracks, the second one not seen in the first photo, shifted from the truth."""
    expected = torch.rand(1, views, 2, 2, dtype=torch.float64) * 50
    is_visible = torch.ones(1, views, 2, dtype=torch.bool)
    is_visible[:, 0, 1] = False
    found = expected + torch.tensor(shift, dtype=torch.float64)
    return [found] * rounds, expected, is_visible


@pytest.mark.parametrize(("shift", "is_right"), [((1.0, 2.0), True), ((0.0, 3.5), False)])
def test_track_errors_are_those_put_in(shift, is_right):
    """Mean of both coordinates; (0.8 + 1) / 2 for two rounds; entropy log(1 + e^-x) at logit x."""
    tracks, expected, is_visible = tracks_of(shift)
    logits = torch.full((1, 3, 2), 2.0, dtype=torch.float64)
    loss = track_loss(tracks, logits, logits, expected, is_visible)
    assert loss.position.item() == pytest.approx(0.9 * sum(shift) / 2)
    right, wrong = (torch.nn.functional.softplus(torch.tensor(x)).item() for x in (-2.0, 2.0))
    assert loss.visibility.item() == pytest.approx(right)
    assert loss.confidence.item() == pytest.approx(right if is_right else wrong)


def test_tracks_not_seen_in_the_first_photo_have_no_influence():
    tracks, expected, is_visible = tracks_of((1.0, 1.0))
    logits = torch.zeros(1, 3, 2, dtype=torch.float64)
    before = track_loss(tracks, logits, logits, expected, is_visible)
    expected[:, :, 1] += 100
    logits[:, :, 1] = 7
    after = track_loss(tracks, logits, logits, expected, is_visible)
    assert torch.equal(before.total, after.total)
    nobody = torch.zeros_like(is_visible)
    assert track_loss(tracks, logits, logits, expected, nobody).total.item() == 0.0


def test_truth_of_a_batch_agrees_with_itself():
    """Truth: the points that a camera sees have its depth as their z coordinate there."""
    batch = EndlessRooms(1).batch(0, num_scenes=2, num_views=3, height=12, width=16)
    truth, scale = normalize(GroundTruth.of(batch))
    local = transform_points(
        truth.camera_from_world.flatten(0, 1), truth.points.flatten(0, 1).flatten(1, 2)
    )
    torch.testing.assert_close(local[..., 2].reshape(truth.depth.shape), truth.depth)
    identity = torch.eye(4).expand(2, 4, 4)
    torch.testing.assert_close(truth.camera_from_world[:, 0], identity, atol=1e-5, rtol=0)
    torch.testing.assert_close(truth.depth * scale[:, None, None, None], batch.depth)
    assert truth.points.norm(dim=-1).mean((1, 2, 3)).tolist() == pytest.approx([1, 1], rel=1e-3)


def test_views_without_depth_are_no_truth():
    batch = EndlessRooms(1).batch(0, num_scenes=1, num_views=1, height=8, width=8)
    with pytest.raises(ValueError, match="expected scenes with depth maps"):
        GroundTruth.of(replace(batch, depth=None, is_valid=None))
