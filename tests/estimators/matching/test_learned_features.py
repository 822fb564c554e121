"""A network's features on their way through matching; the network is an oracle of colours."""

import numpy as np
import pytest
import torch
from PIL import Image

from fm3d_plugins.backends.kornia import WEIGHTS, LearnedFeatures
from fm3d_plugins.checkpoints.catalogue import CATALOGUE
from fm3d_plugins.estimators.base import estimator_class
from fm3d_plugins.estimators.matching import feature_kinds, photo_matches, working_photos
from fm3d_plugins.estimators.matching.found_once import finding_once
from fm3d_plugins.estimators.matching.working_photos import find_features
from fm3d_plugins.photos.photo_set import find_photos

COUNT, SHIFT = 40, (24, 8)


class Oracle:
    """Finds squares of known colours, and matches equal ones."""

    def __init__(self):
        self.asked = []

    def features(self, image, most):
        self.asked.append(("features", image.shape, most))
        pixels, descriptors = [], []
        for number in range(COUNT):
            rows, columns = np.nonzero((np.abs(image.astype(int) - color_of(number)) <= 2).all(-1))
            if len(rows) >= 4:
                pixels.append([columns.mean() + 0.5, rows.mean() + 0.5])
                descriptors.append(np.eye(128)[number])
        return LearnedFeatures(
            np.array(pixels, np.float32).reshape(-1, 2)[::-1].copy(),
            np.array(descriptors, np.float32).reshape(-1, 128)[::-1].copy(),
        )

    def matches(self, first, first_size, second, second_size):
        self.asked.append(("matches", first_size, second_size))
        return np.argwhere(first.descriptors @ second.descriptors.T > 0.5)


def color_of(number):
    return np.array([250 - 5 * number, 40 + 5 * number, 60 * (number % 4) + 20])


@pytest.fixture
def oracle(monkeypatch):
    made = Oracle()
    for module in (working_photos, photo_matches):
        monkeypatch.setattr(module, "learned_matcher", lambda kind: made)
    return made


@pytest.fixture
def squares(tmp_path):
    """Two photos of the same squares, 16 pixels wide, shifted; and their centres in the first."""
    picture = np.zeros((500, 700, 3), np.uint8)
    places = np.random.default_rng(0).permutation(15 * 10)[:COUNT]
    centers = []
    for number, place in enumerate(places):
        row, column = 40 * (place // 15) + 40, 40 * (place % 15) + 40
        picture[row : row + 16, column : column + 16] = color_of(number)
        centers.append((column + 8, row + 8))
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.fromarray(picture[:460, :660]).save(folder / "a.png")
    Image.fromarray(picture[SHIFT[1] : 440, SHIFT[0] : 660]).save(folder / "b.png")
    return find_photos(folder).photos, np.array(centers, float)


def found_in(photos, kind="disk", **options):
    options = {"max_features": 8192, "max_image_size": 1600} | options
    return find_features(photos, num_threads=2, report=lambda _: None, kind=kind, **options)


@pytest.mark.parametrize("size", [1600, 330])
def test_keypoints_come_back_to_the_photos_pixels_exactly(squares, oracle, size):
    """Truth: a square's centre, at full size and at half: 660 pixels become 330."""
    photos, centers = squares
    one, _ = found_in(photos, max_image_size=size)
    pixels = one.features.keypoints[:, :2] / one.scale
    number = one.features.descriptors.argmax(1)
    np.testing.assert_allclose(pixels, centers[number], atol=1e-4)
    assert one.kind == "disk" and one.features.descriptors.dtype == np.float32
    np.testing.assert_array_equal(one.colors, [color_of(each) for each in number])


def test_matches_are_verified_and_turned_round_as_sifts_are(squares, oracle):
    photos, _ = squares
    with finding_once():
        working = found_in(photos)
        there = photo_matches.match_photos(working, [(0, 1)], seed=0, num_threads=4)
        back = photo_matches.match_photos(working[::-1], [(0, 1)], seed=0, num_threads=1)
        assert [each[0] for each in oracle.asked] == ["features", "features", "matches"]
        # SIFT of the same photos is something else.
        assert found_in(photos, "sift")[0].kind == "sift"
    rows = there[0, 1].rows
    assert len(rows) >= 30
    np.testing.assert_array_equal(rows[:, ::-1], back[0, 1].rows)
    ends = [one.features.keypoints[side, :2] for one, side in zip(working, rows.T, strict=True)]
    np.testing.assert_allclose(ends[0] - ends[1], np.tile(SHIFT, (len(rows), 1)), atol=1e-4)
    assert oracle.asked[-1] == ("matches", (660, 460), (636, 432))


def test_masks_leave_features_out(squares, oracle):
    photos, centers = squares
    masks = photos[0].path.parent.parent / "masks"
    masks.mkdir()
    mask = np.zeros((460, 660), np.uint8)
    mask[:, 330:] = 255
    Image.fromarray(mask).save(masks / "a.png")
    one, other = found_in(find_photos(photos[0].path.parent).photos)
    assert len(one.features) == (centers[:, 0] > 330).sum() and len(other.features) > 30


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """Files under the published names, and no network."""
    monkeypatch.setenv("FM3D_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("FM3D_OFFLINE", "1")
    monkeypatch.setattr(feature_kinds, "kornia_version", lambda: "0.9.0")

    def put(kind, value):
        for name in WEIGHTS[kind]:
            row = CATALOGUE[name]
            file = tmp_path / "weights" / name.replace("/", "--") / row.files[0]
            file.parent.mkdir(parents=True, exist_ok=True)
            torch.save({"a": torch.full((2,), float(value))}, file)

    return put


def test_cameras_are_kept_by_kind_and_weights(weights):
    sfm = estimator_class("sfm")
    plain = sfm().identity()
    for kind in ("disk", "aliked"):
        weights(kind, 1)
    made = [plain, sfm(features="disk").identity(), sfm(features="aliked").identity()]
    weights("disk", 2)
    made.append(sfm(features="disk").identity())
    assert len({str(each) for each in made}) == 4
    # What a network says of the photos does not depend on what it is refined by.
    given = estimator_class("vggt")
    assert given(features="disk").identity() == given().identity()


def test_absent_weights_are_refused_with_where_they_belong(weights, monkeypatch):
    monkeypatch.setattr("fm3d_plugins.backends.kornia.find_spec", lambda name: name)
    with pytest.raises(FileNotFoundError, match="kornia--disk/depth-save.pth") as caught:
        estimator_class("sfm")(features="disk").check_weights()
    assert "--features sift" in str(caught.value)


def test_kornia_is_asked_for_by_its_extra(weights, monkeypatch):
    monkeypatch.setattr("fm3d_plugins.backends.kornia.find_spec", lambda name: None)
    monkeypatch.setitem(__import__("sys").modules, "kornia", None)
    with pytest.raises(ImportError, match=r"pip install 'fm3d-plugins\[learned-matches\]'"):
        estimator_class("sfm")(features="aliked").check_weights()


def test_features_that_nothing_looks_at_are_refused():
    with pytest.raises(ValueError, match="--features disk.*--refine is off"):
        estimator_class("vggt")(features="disk", refine="off").check_features()
