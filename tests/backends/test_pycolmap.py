"""The seam to pycolmap: conventions, exactness, determinism, silence."""

import numpy as np
import pytest
import torch

from fm3d_plugins.backends.pycolmap.database import (
    count_inliers,
    write_database,
)
from fm3d_plugins.backends.pycolmap.features import extract_features
from fm3d_plugins.backends.pycolmap.mapping import (
    MapperSettings,
    drop_views,
    map_globally,
    map_incrementally,
    refine_model,
)
from fm3d_plugins.backends.pycolmap.models import change_lens, model_from_reconstruction
from fm3d_plugins.backends.pycolmap.running import run_watched
from fm3d_plugins.backends.pycolmap.verification import CameraGuess, verified_matches
from fm3d_plugins.geometry.cameras import denormalize, distort, normalize
from fm3d_plugins.geometry.pose_metrics import evaluate_poses
from fm3d_plugins.geometry.poses import invert, transform_points
from fm3d_plugins.io.colmap_files import CAMERA_MODELS

pycolmap = pytest.importorskip("pycolmap")

LENSES = {
    "SIMPLE_PINHOLE": [500.0, 310.0, 250.0],
    "PINHOLE": [500.0, 520.0, 310.0, 250.0],
    "SIMPLE_RADIAL": [500.0, 310.0, 250.0, -0.12],
    "RADIAL": [500.0, 310.0, 250.0, -0.12, 0.03],
    "OPENCV": [500.0, 520.0, 310.0, 250.0, -0.12, 0.03, 0.004, -0.006],
}
SCENE_SIZE = (640, 480)


def synthetic(folder, **options):
    """An exact scene of pycolmap's, and a database of its matches."""
    pycolmap.set_random_seed(0)
    chosen = pycolmap.SyntheticDatasetOptions()
    values = {
        "num_rigs": 1, "num_frames_per_rig": 8, "num_points3D": 300,
        "camera_width": SCENE_SIZE[0], "camera_height": SCENE_SIZE[1],
        "camera_params": [600.0, 320.0, 240.0, 0.05], "camera_has_prior_focal_length": True,
    }  # fmt: skip
    for name, value in {**values, **options}.items():
        setattr(chosen, name, value)
    path = folder / "scene.db"
    with pycolmap.Database.open(path) as database:
        return pycolmap.synthesize_dataset(chosen, database), path


def poses(model):
    rows = model.image_index.tolist()
    return {f"{row}": torch.from_numpy(model.world_from_camera[i]) for i, row in enumerate(rows)}


def project_tracks(model):
    """The pixel of every observation, by this package's own camera model, in float64."""
    cameras = torch.from_numpy(model.world_from_camera)[model.track_view]
    points = torch.from_numpy(model.points)[model.track_point]
    in_camera = transform_points(invert(cameras), points[:, None])
    ideal = in_camera[..., :2] / in_camera[..., 2:]
    bent = distort(ideal, torch.from_numpy(model.distortion)[model.track_view])
    return denormalize(bent, torch.from_numpy(model.intrinsics)[model.track_view])[:, 0].numpy()


@pytest.mark.parametrize("lens", LENSES)
def test_converted_cameras_project_as_pycolmap_does(lens):
    """Truth: pycolmap's own projection. 1e-9 px is rounding in float64."""
    generator = np.random.default_rng(1)
    reconstruction = pycolmap.Reconstruction()
    camera = pycolmap.Camera(model=lens, width=640, height=480, params=LENSES[lens], camera_id=1)
    reconstruction.add_camera_with_trivial_rig(camera)
    points = generator.normal(size=(30, 3)) * 0.4 + [0, 0, 4]
    rotation = pycolmap.Rotation3d(
        np.array([0.1, -0.2, 0.05, 0.97]) / np.linalg.norm([0.1, -0.2, 0.05, 0.97])
    )
    image = pycolmap.Image("000000", keypoints=np.zeros((30, 2)), camera_id=1, image_id=1)
    reconstruction.add_image_with_trivial_frame(
        image, pycolmap.Rigid3d(rotation, np.array([0.3, -0.1, 0.2]))
    )
    for row, point in enumerate(points):
        element = pycolmap.TrackElement(1, row)
        reconstruction.add_point3D(point, pycolmap.Track([element]))
    model = model_from_reconstruction(reconstruction)
    expected = [reconstruction.images[1].project_point(point) for point in points]
    np.testing.assert_allclose(project_tracks(model), expected, atol=1e-9)
    np.testing.assert_array_equal(model.track_keypoint, np.arange(30))


@pytest.mark.parametrize("simple", ["SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "PINHOLE"])
def test_a_richer_lens_starts_as_the_simple_one(simple):
    camera = pycolmap.Camera(model=simple, width=640, height=480, params=LENSES[simple])
    rays = np.random.default_rng(0).uniform(-0.5, 0.5, (20, 2))
    rays = np.concatenate([rays, np.ones((20, 1))], axis=1)
    before = camera.img_from_cam(rays)
    change_lens(camera, "OPENCV")
    assert camera.model_name == "OPENCV"
    np.testing.assert_allclose(camera.img_from_cam(rays), before, atol=1e-9)


def test_lens_table_names_every_parameter_of_pycolmaps_models():
    for name, (_, parameters) in CAMERA_MODELS.items():
        camera = pycolmap.Camera.create_from_model_name(1, name, 500.0, 640, 480)
        assert len(camera.params) == len(parameters)


def test_exact_matches_give_back_exact_cameras(tmp_path):
    """Truth: the synthetic scene. Noise-free, so only BA's stopping rule limits the result."""
    truth, database = synthetic(tmp_path)
    models = map_incrementally(database, tmp_path / "out", MapperSettings(), seed=0)
    (model,) = models
    expected = model_from_reconstruction(truth)
    assert len(model) == len(expected) == 8
    metrics = evaluate_poses(poses(model), poses(expected))
    assert float(metrics.rotation_errors.max()) < 0.01
    assert metrics.ate_over_extent < 1e-4
    np.testing.assert_allclose(model.intrinsics, expected.intrinsics, rtol=1e-3)


def test_tracks_name_the_keypoints_in_which_points_are_seen(tmp_path):
    truth, database = synthetic(tmp_path)
    (model,) = map_incrementally(database, tmp_path / "out", MapperSettings(), seed=0)
    with pycolmap.Database.open(database) as file:
        keypoints = [file.read_keypoints(row + 1)[:, :2] for row in model.image_index]
    seen = [
        keypoints[view][keypoint]
        for view, keypoint in zip(model.track_view, model.track_keypoint, strict=True)
    ]
    # 0.05 px: keypoints are stored in float32, and the model fits noise-free ones.
    assert np.abs(project_tracks(model) - seen).max() < 0.05
    errors = np.linalg.norm(project_tracks(model) - seen, axis=1)
    assert model.mean_error == pytest.approx(errors.mean(), abs=1e-3)


def test_same_seed_same_bits(tmp_path):
    _, database = synthetic(tmp_path)
    first, second = (
        map_incrementally(database, tmp_path / name, MapperSettings(), seed=3)[0]
        for name in ("a", "b")
    )
    np.testing.assert_array_equal(first.world_from_camera, second.world_from_camera)
    np.testing.assert_array_equal(first.points, second.points)


def test_a_model_can_be_continued(tmp_path):
    _, database = synthetic(tmp_path)
    (whole,) = map_incrementally(database, tmp_path / "whole", MapperSettings(), seed=0)
    part = drop_views(whole, [1, 4], tmp_path / "part")
    np.testing.assert_array_equal(part.image_index, [0, 2, 3, 5, 6, 7])
    again = map_incrementally(
        database, tmp_path / "again", MapperSettings(), seed=0, start_from=part
    )
    assert max(map(len, again)) == 8


def test_dropping_views_leaves_only_points_that_two_others_see(tmp_path):
    _, database = synthetic(tmp_path)
    (whole,) = map_incrementally(database, tmp_path / "whole", MapperSettings(), seed=0)
    part = drop_views(whole, [0, 1, 2, 3, 4], tmp_path / "part")
    assert len(part) == 3
    assert np.bincount(part.track_point, minlength=len(part.points)).min() >= 2
    assert set(part.track_view) <= {0, 1, 2}


def test_refinement_frees_the_numbers_of_the_lens_that_is_given(tmp_path):
    _, database = synthetic(tmp_path)
    (model,) = map_incrementally(database, tmp_path / "out", MapperSettings(), seed=0)
    few = refine_model(model, tmp_path / "few", {})
    held = refine_model(few, tmp_path / "held", {0: "OPENCV"}, holds_focal=True)
    many = refine_model(model, tmp_path / "many", {0: "OPENCV"})
    for one in (few, held):
        np.testing.assert_array_equal(one.intrinsics[:, 0, 0], one.intrinsics[:, 1, 1])
    np.testing.assert_array_equal(held.intrinsics, few.intrinsics)
    assert (held.distortion[:, 4:] != 0).all() and (few.distortion[:, 1:] == 0).all()
    assert (many.intrinsics[:, 0, 0] != many.intrinsics[:, 1, 1]).any()
    # Truth has square pixels and no tangential distortion; noise-free data show it.
    np.testing.assert_allclose(many.intrinsics[:, 0, 0], many.intrinsics[:, 1, 1], rtol=1e-3)
    assert np.abs(many.distortion[:, 4:]).max() < 1e-3


def test_held_focal_length_stays(tmp_path):
    _, database = synthetic(tmp_path)
    settings = MapperSettings(refines_focal=False)
    (model, *_) = map_incrementally(database, tmp_path / "out", settings, seed=0)
    with pycolmap.Database.open(database) as file:
        told = file.read_camera(1).focal_length
    np.testing.assert_array_equal(model.intrinsics[:, 0, 0], told)


def test_global_mapper_gives_back_exact_cameras_and_leaves_the_database(tmp_path):
    truth, database = synthetic(tmp_path)
    before = count_inliers(database)
    models = map_globally(database, tmp_path / "out", seed=0, calibrates=False)
    model = max(models, key=len)
    metrics = evaluate_poses(poses(model), poses(model_from_reconstruction(truth)))
    assert metrics.auc(5) == 1.0
    assert count_inliers(database) == before


def spot(x, y, sigma=4.0, shape=(120, 160)):
    """A bright Gaussian on grey whose centre is (x, y), pixel corners at whole numbers."""
    rows, columns = np.mgrid[: shape[0], : shape[1]] + 0.5
    bump = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2))
    return np.repeat((60 + 150 * bump + 0.5).astype(np.uint8)[..., None], 3, axis=2)


def test_keypoints_count_pixels_from_the_corner_of_the_first():
    """A spot's keypoint is its centre; another convention would be half a pixel off in the mean."""
    centres = np.random.default_rng(0).uniform([70, 50], [90, 70], (12, 2))
    found = extract_features([spot(*centre) for centre in centres], max_features=50, num_threads=1)
    offsets = []
    for features, centre in zip(found, centres, strict=True):
        offset = features.keypoints[:, :2] - centre
        offsets.append(offset[np.abs(offset).max(axis=1).argmin()])
    assert np.abs(offsets).max() < 0.25
    assert np.abs(np.mean(offsets, axis=0)).max() < 0.05


def texture(seed, shape=(160, 200)):
    """Noise in blocks of four pixels, for features to be found in."""
    noise = np.random.default_rng(seed).integers(0, 255, (shape[0] // 4, shape[1] // 4, 3))
    return np.kron(noise, np.ones((4, 4, 1))).astype(np.uint8)


def test_features_do_not_depend_on_threads_and_flat_images_have_none():
    images = [texture(seed) for seed in range(5)] + [np.full((100, 90, 3), 128, np.uint8)]
    one, two = (extract_features(images, max_features=300, num_threads=n) for n in (1, 2))
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a.keypoints, b.keypoints)
        np.testing.assert_array_equal(a.descriptors, b.descriptors)
    assert [len(features) > 100 for features in one] == [True] * 5 + [False]
    assert len(one[-1]) == 0


def test_faint_features_are_fine_ones():
    """Blocks of noise that differ by up to 7 of 255 grey levels."""
    faint = (124 + texture(3) // 32).astype(np.uint8)
    plain, fine = (
        len(extract_features([faint], max_features=2000, num_threads=1, is_fine=is_fine)[0])
        for is_fine in (False, True)
    )
    assert fine > 300 and plain == 0


def shifted_pixels(seed):
    """Forty pixels that move alike from one image to the next, then twenty that do not."""
    random = np.random.default_rng(seed)
    first = random.uniform([0, 0], [280, 240], (60, 2))
    second = first + [30.0, 5.0]
    second[40:] = random.uniform([0, 0], [280, 240], (20, 2))
    return first, second


GUESS = CameraGuess(280, 240, (140.0, 120.0), 300.0, False, "SIMPLE_PINHOLE")


def test_matches_that_agree_on_a_geometry_are_kept_and_the_others_are_not(tmp_path):
    first, second = shifted_pixels(0)
    rows = np.stack([np.arange(60)] * 2, axis=1)
    found = verified_matches((GUESS, first), (GUESS, second), rows, seed=0)
    # Epipolar lines pass near some of the others by chance.
    assert set(range(40)) <= set(found.rows[:, 0]) and len(found.rows) < 50
    noise = np.random.default_rng(1).permutation(second)
    assert verified_matches((GUESS, first), (GUESS, noise), rows[:20], seed=0) is None
    assert verified_matches((GUESS, first), (GUESS, second), rows[:10], seed=0) is None


def test_a_database_gives_back_the_matches_whichever_image_comes_first(tmp_path):
    first, second = shifted_pixels(0)
    rows = np.stack([np.arange(60), np.arange(60)[::-1]], axis=1)
    found = verified_matches((GUESS, first), (GUESS, second[::-1].copy()), rows, seed=0)
    matrix = found.fundamental if found.fundamental is not None else found.homography
    assert matrix is not None
    shapes = [np.zeros((60, 6), np.float32)] * 2
    geometries = []
    for name, pair, matches in (
        ("a", (0, 1), found),
        ("b", (0, 1), found.turned_round().turned_round()),
        ("c", (1, 0), found.turned_round()),
    ):
        write_database(tmp_path / f"{name}.db", [GUESS], [0, 0], shapes, {pair: matches})
        with pycolmap.Database.open(tmp_path / f"{name}.db") as file:
            geometries.append(file.read_two_view_geometry(1, 2))
    assert count_inliers(tmp_path / "a.db") == {(0, 1): len(found.rows)}
    for geometry in geometries:
        np.testing.assert_array_equal(geometry.inlier_matches, found.rows)
        assert geometry.config == found.configuration
        for told, matrix in (
            (geometry.F, found.fundamental), (geometry.H, found.homography),
        ):  # fmt: skip
            assert (told is None) == (matrix is None)
            if matrix is not None:
                np.testing.assert_allclose(told, matrix, rtol=1e-9, atol=1e-12)


def test_an_interruption_cancels_the_call_and_is_passed_on():
    cancelled = []

    def call(token):
        while not token.is_cancelled:
            pass
        cancelled.append(True)

    def interrupt(_steps):
        raise KeyboardInterrupt

    level = pycolmap.logging.minloglevel
    with pytest.raises(KeyboardInterrupt):
        run_watched(call, steps_done=lambda: 1, report=interrupt)
    assert cancelled
    assert pycolmap.logging.minloglevel == level


def test_errors_of_the_call_are_passed_on():
    def call(_token):
        raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        run_watched(call)


def test_nothing_but_python_writes_to_the_terminal(tmp_path, capfd):
    _, database = synthetic(tmp_path)
    capfd.readouterr()
    (model,) = map_incrementally(database, tmp_path / "out", MapperSettings(), seed=0)
    refine_model(model, tmp_path / "refined", {0: "OPENCV"})
    extract_features([texture(0)], max_features=10, num_threads=1)
    assert capfd.readouterr() == ("", "")


def test_principal_point_is_the_one_that_was_told(tmp_path):
    guess = CameraGuess(279, 240, (139.8, 120.2), 300.0, True, "OPENCV")
    write_database(tmp_path / "a.db", [guess], [], [], {})
    with pycolmap.Database.open(tmp_path / "a.db") as file:
        camera = file.read_camera(1)
    assert (camera.principal_point_x, camera.principal_point_y) == (139.8, 120.2)
    assert (camera.focal_length_x, camera.focal_length_y) == (300.0, 300.0)
    assert camera.has_prior_focal_length
    pixel = torch.tensor([[139.8, 120.2]], dtype=torch.float64)
    matrix = torch.from_numpy(camera.calibration_matrix())
    torch.testing.assert_close(normalize(pixel, matrix), torch.zeros_like(pixel))
