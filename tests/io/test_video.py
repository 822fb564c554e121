"""Films are read back as they were written, and none is left behind by a failure."""

import av
import numpy as np
import pytest
import torch

from fm3d_plugins.io.video import write_video


def read(path):
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        return torch.from_numpy(np.stack(frames)).float() / 255, container.streams.video[
            0
        ].average_rate


def test_a_film_shows_its_pictures_in_order(tmp_path):
    levels = torch.linspace(0.1, 0.9, 7)
    colors = torch.stack([levels, 1 - levels, levels.flip(0) * 0 + 0.5], -1)
    write_video((each.expand(32, 48, 3) for each in colors), tmp_path / "a.mp4", 10)
    frames, rate = read(tmp_path / "a.mp4")
    assert frames.shape == (7, 32, 48, 3) and rate == 10
    torch.testing.assert_close(frames.mean((1, 2)), colors, atol=0.03, rtol=0)


def test_left_is_left_and_up_is_up(tmp_path):
    picture = torch.zeros(32, 64, 3)
    picture[:16, :32] = 1.0
    write_video([picture] * 3, tmp_path / "a.mp4", 30)
    frames, _ = read(tmp_path / "a.mp4")
    quarters = frames.mean((0, 3)).unflatten(0, (2, 16)).unflatten(-1, (2, 32)).mean((1, 3))
    torch.testing.assert_close(quarters, torch.tensor([[1.0, 0], [0, 0]]), atol=0.05, rtol=0)


def test_odd_sizes_lose_their_last_row_and_column(tmp_path):
    write_video([torch.rand(33, 49, 3)], tmp_path / "a.mp4", 30)
    assert read(tmp_path / "a.mp4")[0].shape == (1, 32, 48, 3)


def test_a_failure_leaves_the_old_film(tmp_path):
    def pictures():
        yield torch.rand(32, 32, 3)
        raise RuntimeError("no more")

    (tmp_path / "a.mp4").write_bytes(b"old")
    with pytest.raises(RuntimeError, match="no more"):
        write_video(pictures(), tmp_path / "a.mp4", 30)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"old"]
