"""The hand-over from estimators: saved, loaded, and never unusable."""

import dataclasses

import jaxtyping
import pytest
import torch
from safetensors.torch import save_file

from fm3d_plugins.scene import SceneGeometry, Tracks


def scene(**changes):
    views, points = 3, 5
    intrinsics = torch.eye(3).repeat(views, 1, 1)
    intrinsics[:, 0, 0] = intrinsics[:, 1, 1] = 500.0
    values = dict(
        names=("a.jpg", "ü 照片.jpg", "c.jpg"),
        image_sizes=torch.tensor([[640, 480]] * views),
        world_from_camera=torch.eye(4).repeat(views, 1, 1),
        intrinsics=intrinsics,
        distortion=torch.zeros(views, 6),
        camera_index=torch.arange(views),
        points=torch.rand(points, 3),
        point_colors=torch.zeros(points, 3, dtype=torch.uint8),
        point_confidence=torch.rand(points),
        tracks=Tracks(torch.tensor([0, 4]), torch.tensor([0, 2]), torch.rand(2, 2)),
        scale="metric",
        unregistered=("lost.jpg",),
        provenance={"estimator": "test", "seconds": 1.5},
    )
    return SceneGeometry(**{**values, **changes})


def assert_equal(a, b):
    for entry in dataclasses.fields(a):
        first, second = getattr(a, entry.name), getattr(b, entry.name)
        if isinstance(first, torch.Tensor):
            assert torch.equal(first, second), entry.name
        elif dataclasses.is_dataclass(first):
            assert_equal(first, second)
        else:
            assert first == second, entry.name


@pytest.mark.parametrize("changes", [{}, {"tracks": None}])
def test_scene_survives_the_disk(tmp_path, changes):
    original = scene(**changes)
    original.save(tmp_path / "scene.safetensors")
    assert_equal(SceneGeometry.load(tmp_path / "scene.safetensors"), original)


def test_foreign_and_damaged_files_are_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="format None"):
        SceneGeometry.load(path)
    path.write_bytes(b"\x00" * 40)
    with pytest.raises(ValueError, match="Delete it"):
        SceneGeometry.load(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"world_from_camera": torch.full((3, 4, 4), torch.nan)}, "not finite"),
        ({"intrinsics": torch.zeros(3, 3, 3)}, "focal <= 0"),
        ({"camera_index": torch.zeros(2, dtype=torch.long)}, "camera_index has 2 rows"),
        ({"point_confidence": torch.zeros(4)}, "point_confidence has 4 rows"),
    ],
)
def test_unusable_scenes_are_refused(changes, message, monkeypatch):
    # As at run time: the tests' shape checks would speak first.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match=message):
        scene(**changes)
