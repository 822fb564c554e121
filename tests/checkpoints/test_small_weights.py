"""Weights that come with this package: there, whole, permitted, and better than trivial answers."""

import json

import pytest
import torch
from safetensors import safe_open

from fm3d_plugins.checkpoints import CATALOGUE, find, verify, weights_meant
from fm3d_plugins.checkpoints.downloading import absent
from fm3d_plugins.data.synthetic import EndlessRooms
from fm3d_plugins.dust3r.training import Dust3rTrainingModel, Dust3rTrainingModelConfig
from fm3d_plugins.estimators.dust3r.estimator import Dust3r
from fm3d_plugins.estimators.network_weights import trained_with
from fm3d_plugins.estimators.vggt.estimator import Vggt
from fm3d_plugins.lvsm.model import OFFICIAL_WEIGHTS, LvsmModelConfig
from fm3d_plugins.lvsm.training import LvsmTrainingModel, LvsmTrainingModelConfig
from fm3d_plugins.nn.sizes import TRAINED_WITH, TrainedWith, stored_sizes
from fm3d_plugins.rayzer.training import RayzerTrainingModel, RayzerTrainingModelConfig
from fm3d_plugins.synthetic_rooms.endless.rooms import RoomOptions
from fm3d_plugins.vggt.inference import architecture, usual_size
from fm3d_plugins.vggt.training import VggtTrainingModel, VggtTrainingModelConfig

PACKAGED = sorted(name for name, row in CATALOGUE.items() if row.comes_with_package)
LARGEST = 10_000_000


@pytest.mark.parametrize("name", PACKAGED)
def test_they_are_there_whole_and_free(name, monkeypatch, tmp_path):
    monkeypatch.setenv("FM3D_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("FM3D_OFFLINE", "1")
    found = find(name)
    assert found is not None and found.path.stat().st_size <= LARGEST
    verify(found)
    assert found.licence.commercial and found.licence.name == "Apache-2.0"


@pytest.mark.parametrize("name", PACKAGED)
def test_they_say_how_they_came_to_be(name):
    found = find(name)
    assert found is not None
    with safe_open(found.path, framework="pt") as file:
        story = json.loads(file.metadata()["provenance"])
    assert story["method"] == f"{CATALOGUE[name].estimator}-train"
    assert {"licence", "data", "steps", "images", "seconds", "hardware", "scores"} <= story.keys()


@pytest.mark.parametrize("name", PACKAGED)
def test_the_catalogue_says_of_which_images_they_are(name):
    found = find(name)
    assert found is not None
    trained = stored_sizes(found.path, TRAINED_WITH, TrainedWith)
    assert trained is not None and trained.image_size == CATALOGUE[name].image_size


def test_words_mean_weights_of_the_method():
    assert weights_meant("small", "lvsm", OFFICIAL_WEIGHTS) == "lvsm-small"
    assert weights_meant("official", "lvsm", OFFICIAL_WEIGHTS) == OFFICIAL_WEIGHTS
    assert weights_meant("mine.safetensors", "lvsm", OFFICIAL_WEIGHTS) == "mine.safetensors"
    with pytest.raises(ValueError, match="No small weights of other"):
        weights_meant("small", "other", "some/weights")


def test_the_message_about_absent_weights_names_them():
    assert "--weights small" in absent(CATALOGUE[OFFICIAL_WEIGHTS], "why")
    assert "--weights small" not in absent(CATALOGUE["kornia/disk"], "why")


@pytest.mark.parametrize(
    ("weights", "size"),
    [("small", 64), ("coast01/LVSM/decoder_only_512", 512), (OFFICIAL_WEIGHTS, 256)],
)
def test_lvsm_sees_images_as_its_weights_were_trained(weights, size):
    config = LvsmModelConfig(weights=weights)
    plan = config.resolve("cpu", None)
    assert config.image_size == plan.datamanager["max_image_size"] == size
    asked = LvsmModelConfig(weights=weights, image_size=96).resolve("cpu", None)
    assert asked.datamanager == {"max_image_size": 96}
    assert ("small ones" in plan.sentence) == (weights == "small")
    assert config.weights == ("lvsm-small" if weights == "small" else weights)


def test_lvsm_small_makes_better_views_than_copying_the_nearest():
    """By 2 dB at 32 pixels on rooms of another seed; asked for a wrong pose, by less."""
    config = LvsmTrainingModelConfig(weights="lvsm-small", precision="float32")
    model = LvsmTrainingModel(config, scene_box=None, num_train_data=0)  # type: ignore[arg-type]
    batch = EndlessRooms(seed=77, split="held-out").batch(0, 24, 4, 32, 32)
    with torch.no_grad():
        metrics = model.score(model.network, batch).metrics
    assert metrics["above_copy"].mean() > 2
    assert metrics["above_wrong_pose"].mean() > 1
    assert metrics["wins"].mean() > 0.8


def test_vggt_small_finds_cameras():
    """On rooms of another seed; cameras that stand still have an AUC of 0."""
    config = VggtTrainingModelConfig(weights="vggt-small", precision="float32")
    model = VggtTrainingModel(config, scene_box=None, num_train_data=0)  # type: ignore[arg-type]
    batch = EndlessRooms(seed=77, split="held-out").batch(0, 24, 4, 64, 64)
    with torch.no_grad():
        metrics = model.score(model.network, batch).metrics
    assert metrics["auc30"].mean() > 30
    assert metrics["rotation"].mean() < 0.5 * metrics["rotation_identity"].mean()
    assert metrics["abs_rel"].mean() < 0.8 * metrics["abs_rel_constant"].mean()


def test_estimators_see_what_weights_were_trained_with(tmp_path):
    """Of small weights as many photos at once, and as large as are matched."""
    estimator = Vggt(weights="small")
    estimator.check_weights()
    assert estimator.identity()["options"]["weights"] == "vggt-small"
    file = estimator.located_weights()
    trained = trained_with(file)
    assert trained == TrainedWith(image_size=64, num_views=4)
    assert usual_size(architecture(file.path), trained) == 96
    published = architecture(tmp_path / "model.pt")
    assert usual_size(published, None) == 518


def test_dust3r_small_finds_points_and_cameras():
    """On rooms of another seed, by three standard errors of the differences in pairs."""
    config = Dust3rTrainingModelConfig(weights="dust3r-small", precision="float32")
    model = Dust3rTrainingModel(config, scene_box=None, num_train_data=0)  # type: ignore[arg-type]
    rooms = RoomOptions(arcs=0.4, walks=0.3, pans=0.3)
    batch = EndlessRooms(77, rooms, "held-out").batch(0, 32, 2, 64, 64)
    with torch.no_grad():
        metrics = model.score(model.network, batch).metrics
    for better, worse in (
        ("points", "flat"),
        ("points", "mean"),
        ("rotation", "rotation_identity"),
        ("auc30_identity", "auc30"),
    ):
        gain = metrics[worse] - metrics[better]
        assert gain.mean() > 3 * gain.std() / len(gain) ** 0.5


def test_dust3r_sees_photos_at_the_size_and_in_the_patches_of_its_weights():
    """Published ones need not be there for that."""
    assert Dust3r(weights="small").canvases([(160, 120)]).shapes == ((72, 96),)
    assert Dust3r(weights="small", resolution=64).canvases([(64, 24)]).shapes == ((24, 64),)
    assert Dust3r().canvases([(1024, 768)]).shapes == ((384, 512),)
    squares = Dust3r(weights="naver/DUSt3R_ViTLarge_BaseDecoder_224_linear")
    assert squares.canvases([(1024, 768)]).shapes == ((224, 224),)


def test_rayzer_small_needs_the_cameras_that_it_says():
    """Views lose 0.7 dB with all cameras at one place; rotations are related to the true ones."""
    config = RayzerTrainingModelConfig(weights="rayzer-small", precision="float32")
    model = RayzerTrainingModel(config, scene_box=None, num_train_data=0)  # type: ignore[arg-type]
    batch = EndlessRooms(seed=77, split="held-out").batch(0, 12, 5, 32, 32)
    with torch.no_grad():
        metrics = model.score(model.network, batch).metrics
    assert metrics["above_identity"].mean() > 0.7
    assert metrics["rotation_correlation"].mean() > 0.7
