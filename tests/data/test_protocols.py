"""Which frames a protocol takes, and which indices it refuses."""

import json

import pytest

from fm3d_plugins.data.protocols import PROTOCOLS, middle_frames


@pytest.mark.parametrize("num_frames", [65, 80, 97, 98, 300, 1001])
def test_frames_without_an_index_lie_evenly_in_the_middle_of_the_video(num_frames):
    """As far apart as in the published indices (64 to 96 frames), whose targets stand at 2, 5..."""
    views = middle_frames(num_frames)
    frames, context, targets = views.in_order()
    assert len(set(frames)) == 24 and (len(context), len(targets)) == (16, 8)
    assert targets == [2, 5, 8, 11, 14, 17, 20, 22] and context == sorted(context)
    first, last = frames[0], frames[-1]
    assert last - first == min(96, num_frames - 1)
    assert abs(first - (num_frames - 1 - last)) <= 1 and first >= 0
    steps = {after - before for before, after in zip(frames, frames[1:], strict=False)}
    assert max(steps) - min(steps) <= 1


def test_videos_shorter_than_the_published_stretches_have_no_frames():
    assert middle_frames(64) is None
    assert middle_frames(24) is None


@pytest.mark.parametrize(
    ("name", "best"),
    [("re10k-2view", (29.67, 0.906, 0.098)), ("dl3dv-16-8", (25.59, 0.795, 0.183))],
)
def test_released_weights_are_the_best_of_their_tables(name, best):
    """As their READMEs state them; all scores are decibels, a similarity and a distance."""
    rows = PROTOCOLS[name].published
    assert max(rows, key=lambda row: row.psnr)[2:] == best
    assert all(20 < row.psnr < 35 and 0.7 < row.ssim < 1 and 0 < row.lpips < 0.3 for row in rows)


@pytest.mark.parametrize(
    "views",
    [
        {"context": [0, 1], "target": [2, 3]},
        {"context": [0, 1, 5], "target": [2, 3, 4]},
        {"context": [0, 1], "target": [1, 2, 3]},
        {"context": [0, 0], "target": [1, 2, 3]},
    ],
)
def test_an_index_of_other_numbers_of_views_is_refused(views, tmp_path):
    path = tmp_path / "index.json"
    path.write_text(json.dumps({"good": {"context": [0, 9], "target": [3, 1, 2]}}))
    index = PROTOCOLS["re10k-2view"].read_index(path)
    assert index["good"].targets == (3, 1, 2)
    path.write_text(json.dumps({"room": views}))
    with pytest.raises(ValueError, match=r"index\.json: the scene room .*Expected 2 and 3 frames"):
        PROTOCOLS["re10k-2view"].read_index(path)


def test_only_dl3dv_goes_without_an_index():
    assert PROTOCOLS["dl3dv-16-8"].read_index(None) is None
    with pytest.raises(ValueError, match="assets/evaluation_index_re10k.json of pixelSplat"):
        PROTOCOLS["re10k-2view"].read_index(None)
