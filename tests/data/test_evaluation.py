"""Scores of a data set: what is compared, which scenes count, and what the means are of."""

import io
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from fm3d_plugins.backends.metrics import Lpips
from fm3d_plugins.data.evaluation import Evaluation, data_files
from fm3d_plugins.data.evaluation_index import EvaluationViews
from fm3d_plugins.data.protocols import PROTOCOLS

SIDE = 16
"""Of photos and views alike, so that nothing is resized."""
VIEWS = EvaluationViews(context=(0, 3), targets=(2, 1, 4))
RULES = replace(PROTOCOLS["re10k-2view"], image_size=SIDE)


class FixedLpips(Lpips):
    """Says the mean difference, or nothing."""

    def __init__(self, is_there=True):
        super().__init__("vgg")
        self.is_there = is_there

    def distance(self, rendered, target):
        return float((rendered - target).mean()) if self.is_there else None


def pixels(scene, frame):
    """Dark and of little contrast, where SSIM's variants differ most."""
    return np.random.default_rng([scene, frame]).integers(0, 30, (SIDE, SIDE, 3), np.uint8)


def entry(scene, num_frames=5):
    photos = []
    for frame in range(num_frames):
        stream = io.BytesIO()
        Image.fromarray(pixels(scene, frame)).save(stream, "PNG")
        photos.append(torch.frombuffer(bytearray(stream.getvalue()), dtype=torch.uint8))
    camera = torch.tensor([1.0, 1, 0.5, 0.5, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0])
    return {"key": f"s{scene}", "images": photos, "cameras": camera.repeat(num_frames, 1)}


@pytest.fixture
def folder(tmp_path):
    """Seven scenes in three chunks, the fourth of them too short."""
    made = tmp_path / "test"
    made.mkdir()
    for number, scenes in enumerate([(0, 1, 2), (3, 4, 5), (6,)]):
        chunk = [entry(scene, num_frames=4 if scene == 3 else 5) for scene in scenes]
        torch.save(chunk, made / f"{number:06d}.torch")
    (made / "index.json").write_text("{}")
    return made


def evaluation(render, index=None, lpips=None):
    index = index or {f"s{scene}": VIEWS for scene in range(7)}
    made = Evaluation(RULES, index, render, 8, torch.device("cpu"))
    made.lpips = lpips or FixedLpips(is_there=False)
    return made


def true_targets(views, context, targets):
    return views.images[list(targets)]


def wrong(views, context, targets):
    """Out of range, and of a known error."""
    return 1.3 * views.images[list(targets)] - 0.02


def test_a_network_that_knows_the_targets_is_perfect(folder):
    scored = evaluation(true_targets)
    scored.run(data_files(folder))
    assert scored.means() == {"psnr": math.inf, "ssim": pytest.approx(1.0, abs=1e-6)}


def test_every_scene_counts_and_those_left_out_are_counted(folder):
    """The chunk of one scene too; a scene without all frames does not, nor one out of the index."""
    index = {f"s{scene}": VIEWS for scene in (0, 2, 3, 4, 6, 99)}
    scored = evaluation(true_targets, index)
    scored.run(data_files(folder))
    assert [score.scene for score in scored.scores] == ["s0", "s2", "s4", "s6"]
    assert scored.skipped == {"not in the index, or null there": 2, "too short": 1}
    assert scored.missing() == ["s99"]
    assert "2 not in the index" in scored.left_out() and "1 too short" in scored.left_out()


def test_a_limit_takes_the_first_scenes_that_can_be_scored(folder):
    scored = evaluation(true_targets)
    scored.run(data_files(folder), limit=4)
    assert [score.scene for score in scored.scores] == ["s0", "s1", "s2", "s4"]


def test_scores_are_those_of_numpy_and_scikit_image(folder):
    """Means over a scene's targets, then over scenes; colours are clamped first."""
    similarity = pytest.importorskip("skimage.metrics").structural_similarity
    scored = evaluation(wrong, lpips=FixedLpips())
    scored.run(data_files(folder))
    expected = []
    for scene in (0, 1, 2, 4, 5, 6):
        rows = []
        for frame in VIEWS.targets:
            photo = pixels(scene, frame) / 255
            render = np.clip(1.3 * photo - 0.02, 0, 1)
            decibels = -10 * np.log10(((render - photo) ** 2).mean())
            ssim = similarity(
                render, photo, win_size=11, gaussian_weights=True, channel_axis=2, data_range=1.0
            )
            rows.append([decibels, ssim, (render - photo).mean()])
        expected.append(np.mean(rows, axis=0))
    ours = [list(score.metrics.values()) for score in scored.scores]
    np.testing.assert_allclose(ours, expected, atol=2e-5)
    means = dict(zip(("psnr", "ssim", "lpips_vgg"), np.mean(expected, axis=0), strict=True))
    assert scored.means() == pytest.approx(means, abs=2e-5)


def test_views_come_in_the_order_of_the_video(folder):
    """Frames 0 to 4: context stands at 0 and 3, targets as the index names them."""
    calls = []

    def record(views, context, targets):
        calls.append((views.images, context, targets))
        return views.images[targets]

    scored = evaluation(record)
    scored.run(data_files(folder / "000002.torch"))
    ((images, context, targets),) = calls
    assert (context, targets) == ([0, 3], [2, 1, 4])
    expected = np.stack([pixels(6, frame) for frame in range(5)]) / 255
    np.testing.assert_allclose(images.movedim(1, -1), expected, atol=1e-6)


def test_lists_and_single_files_are_scored_as_chunks_are(write_scene, tmp_path):
    """Scene files that the index lacks are not even opened."""
    paths = [write_scene("attic", num_frames=5), write_scene("room", num_frames=5)]
    broken = tmp_path / "set" / "metadata" / "broken.json"
    broken.write_text("{")
    listing = tmp_path / "full_list.txt"
    listing.write_text("\n".join(map(str, [paths[0], broken, paths[1]])))
    index = {"attic": VIEWS, "room": VIEWS}
    scored = evaluation(true_targets, index)
    scored.run(data_files(listing))
    assert [score.scene for score in scored.scores] == ["attic", "room"]
    assert scored.skipped == {"not in the index, or null there": 1}
    alone = evaluation(true_targets, index)
    alone.run(data_files(paths[1]))
    assert [score.scene for score in alone.scores] == ["room"] and alone.missing() == ["attic"]


def test_frames_are_chosen_without_an_index_for_long_enough_scenes(tmp_path):
    torch.save([entry(0, 64), entry(1, 65)], tmp_path / "chunk.torch")
    scored = evaluation(true_targets)
    scored.index = None
    scored.run(data_files(tmp_path / "chunk.torch"))
    (score,) = scored.scores
    assert (score.scene, len(score.context), len(score.targets)) == ("s1", 16, 8)
    assert scored.skipped == {"too short": 1} and scored.missing() == []


def test_data_without_scenes_to_score_are_refused(folder, tmp_path):
    with pytest.raises(ValueError, match="left out: 7 not in the index.*evaluation_index_re10k"):
        evaluation(true_targets, {"other": VIEWS}).run(data_files(folder))
    with pytest.raises(FileNotFoundError, match="is absent.*Expected a list of scene files"):
        data_files(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="a folder without chunks"):
        data_files(tmp_path)
