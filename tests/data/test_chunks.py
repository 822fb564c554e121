"""Chunks of pixelSplat's data sets."""

import io
import pickle

import pytest
import torch
from PIL import Image

from fm3d_plugins.data.chunks import read_chunk
from fm3d_plugins.data.views import ViewSize, load_views


def encoded(width, height):
    stream = io.BytesIO()
    Image.new("RGB", (width, height), (10, 20, 30)).save(stream, "PNG")
    return torch.frombuffer(bytearray(stream.getvalue()), dtype=torch.uint8)


def entry(num_frames=2, **changes):
    camera = torch.tensor(
        [0.5, 0.8, 0.5, 0.25, 0, 0, 1, 0, 0, 2, 0, 0, 1, 3, 0, -1, 0, 4], dtype=torch.float32
    )
    cameras = camera.repeat(num_frames, 1)
    images = [encoded(16, 8) for _ in range(num_frames)]
    return {"key": "a1b2", "url": "", "images": images, "cameras": cameras} | changes


def test_cameras_become_pixels_and_photos_are_decoded(tmp_path):
    """Truth by hand, as of the scene files."""
    torch.save([entry(), entry(1, key="other")], tmp_path / "000000.torch")
    first, second = read_chunk(tmp_path / "000000.torch")
    assert (first.name, len(first), second.name, len(second)) == ("a1b2", 2, "other", 1)
    expected = torch.tensor([[8.0, 0, 8], [0, 6.4, 2], [0, 0, 1]]).double()
    torch.testing.assert_close(first.intrinsics[1], expected, atol=1e-6, rtol=0)
    expected = torch.tensor([[1.0, 0, 0, -2], [0, 0, -1, 4], [0, 1, 0, -3], [0, 0, 0, 1]]).double()
    torch.testing.assert_close(first.world_from_camera[0], expected)
    assert first.open(0).getpixel((3, 3)) == (10, 20, 30)
    assert load_views(first, [0, 1], ViewSize(8, 8)).images.shape == (2, 3, 8, 8)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"a": torch.zeros(1)}, "holds a dict"),
        ([], "holds no scene"),
        ([3], "its scene 0 is 3"),
        ([entry(), {}], "its scene 1 is {}"),
        ([entry(key=None)], "its scene 0 is {'key': None"),
        ([entry(cameras=torch.zeros(2, 12))], "its scene 0 is"),
        ([entry(cameras=torch.zeros(3, 18))], "its scene 0 is"),
        ([entry(images=[torch.zeros(3)] * 2)], "its scene 0 is"),
        ([entry(images=[])], "its scene 0 is"),
        ([entry(images=[torch.zeros(9, dtype=torch.uint8)] * 2)], "photo 0 of the scene a1b2"),
        ([entry(cameras=torch.zeros(2, 18))], "2 of 2 frames have a pose"),
    ],
)
def test_what_is_no_chunk_is_named(content, said, tmp_path):
    torch.save(content, tmp_path / "chunk.torch")
    with pytest.raises(ValueError, match=said):
        read_chunk(tmp_path / "chunk.torch")


class Bomb:
    def __reduce__(self):
        return (exec, ("raise SystemExit('code of the file was run')",))


def test_code_in_a_chunk_is_not_run(tmp_path):
    path = tmp_path / "chunk.torch"
    torch.save([Bomb()], path)
    with pytest.raises(ValueError, match="holds Python objects"):
        read_chunk(path)
    path.write_bytes(pickle.dumps([Bomb()]))
    with pytest.raises(ValueError, match="holds Python objects"):
        read_chunk(path)


def test_damaged_files_are_named(tmp_path):
    path = tmp_path / "chunk.torch"
    torch.save([entry()], path)
    whole = path.read_bytes()
    for content in (b"", b"<html>", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"chunk\.torch .*Expected a chunk"):
            read_chunk(path)
