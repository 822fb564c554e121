"""Depth files: what is read from them, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.datasets.depth_dataset import DepthDataset
from PIL import Image

from fm3d_plugins.depth_supervision.depth_maps import DepthMaps
from fm3d_plugins.io.depth_files import DepthFiles
from fm3d_plugins.photo_datamanager import depth_files_of

WIDTH, HEIGHT = 6, 4
SIZES = torch.tensor([[WIDTH, HEIGHT]])


def files_of(folder, *maps, confidences=(), scale=1.0):
    """One .npy per map."""
    paths = {"depth": [], "confidence": []}
    for what, arrays in (("depth", maps), ("confidence", confidences)):
        for i, values in enumerate(arrays):
            paths[what].append(folder / f"{what}_{i}.npy")
            np.save(paths[what][-1], np.asarray(values))
    photos = [folder / f"{i}.jpg" for i in range(len(maps))]
    return DepthFiles(photos, paths["depth"], paths["confidence"], scale)


def centers(width=WIDTH, height=HEIGHT):
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([x, y], dim=-1).reshape(-1, 2) + 0.5


def read(files, photo=0, sizes=None, positions=None, **options):
    sizes = SIZES.expand(len(files.depths), 2) if sizes is None else sizes
    positions = centers() if positions is None else positions
    rows = torch.full((len(positions),), photo)
    return DepthMaps(files, sizes, "cpu", **options).at(rows, positions)


def ramp(height=HEIGHT, width=WIDTH):
    return 1 + np.arange(height * width, dtype=np.float32).reshape(height, width)


def test_depth_at_pixel_centres_is_the_file_times_the_scale(tmp_path):
    depth, confidence = read(files_of(tmp_path, ramp(), scale=0.5))
    torch.testing.assert_close(depth, 0.5 * torch.from_numpy(ramp()).flatten())
    assert torch.equal(confidence, torch.ones(24))


def test_scale_is_that_of_the_unit_and_of_the_dataparser():
    outputs = DataparserOutputs(
        image_filenames=[Path("a.jpg")],
        cameras=None,
        dataparser_scale=0.25,
        metadata={"depth_filenames": [Path("a.png")], "depth_unit_scale_factor": 0.001},
    )
    assert depth_files_of(outputs) == DepthFiles([Path("a.jpg")], [Path("a.png")], (), 0.00025)


@pytest.mark.parametrize("suffix", [".png", ".npy"])
@pytest.mark.parametrize("size", [(4, 6), (2, 3)])
def test_maps_are_read_as_nerfstudio_reads_them(tmp_path, suffix, size):
    """Against its DepthDataset, at sizes where corners and centres of pixels agree on what is
    nearest."""
    height, width = size
    values = 1000 * ramp(height, width)
    file, photo = tmp_path / f"depth{suffix}", tmp_path / "photo.png"
    if suffix == ".npy":
        np.save(file, values)
    else:
        Image.fromarray(values.astype(np.uint16)).save(file)
    Image.new("RGB", (WIDTH, HEIGHT)).save(photo)
    outputs = DataparserOutputs(
        image_filenames=[photo],
        cameras=Cameras(torch.eye(4)[None, :3], 5.0, 5.0, 3.0, 2.0, WIDTH, HEIGHT),
        dataparser_scale=0.5,
        metadata={"depth_filenames": [file], "depth_unit_scale_factor": 0.001},
    )
    expected = DepthDataset(outputs).get_data(0)["depth_image"].squeeze(-1)
    found = read(depth_files_of(outputs))[0].reshape(HEIGHT, WIDTH)
    torch.testing.assert_close(found, expected)


def test_larger_maps_give_the_pixel_in_which_a_pixels_centre_lies(tmp_path):
    """Rows 0.5, 1.5, 2.5, 3.5 of 4 lie at 0.875, 2.625, 4.375 and 6.125 of 7; columns 0.5 to 5.5
    of 6 at 0.83, 2.5, 4.17, 5.83, 7.5 and 9.17 of 10."""
    values = 10 * np.arange(7)[:, None] + np.arange(10)[None] + 100
    depth, _ = read(files_of(tmp_path, values))
    rows, columns = torch.tensor([0, 2, 4, 6]), torch.tensor([0, 2, 4, 5, 7, 9])
    expected = 100 + 10 * rows[:, None] + columns[None]
    assert torch.equal(depth.reshape(HEIGHT, WIDTH), expected.float())


def test_maps_keep_their_photos(tmp_path):
    files = files_of(tmp_path, ramp(), 100 + ramp(8, 12), 200 + ramp(2, 3))
    positions = torch.tensor([[5.5, 3.5]])
    # The last pixel of each; the second map is thinned to its photo's size, at pixel centres.
    for photo, expected in ((0, 24.0), (1, 100.0 + 8 * 12), (2, 206.0)):
        assert float(read(files, photo, positions=positions)[0]) == expected


def test_positions_outside_the_photo_have_no_depth(tmp_path):
    outside = torch.tensor([[-0.1, 1.0], [1.0, -0.1], [6.0, 1.0], [1.0, 4.0], [float("nan"), 1.0]])
    depth, confidence = read(files_of(tmp_path, ramp()), positions=outside)
    assert not depth.any() and not confidence.any()


def test_depth_that_is_not_finite_or_not_positive_has_no_confidence(tmp_path):
    values = ramp()
    values[0, :4] = np.nan, np.inf, 0.0, -1.0
    depth, confidence = read(files_of(tmp_path, values))
    assert not depth[:4].any() and not confidence[:4].any()
    assert confidence[4:].all() and depth.isfinite().all()


def test_confidence_of_any_scale_has_mean_one_over_all_photos(tmp_path):
    """1 and 3 become 0.5 and 1.5: an unsure photo counts less than a sure one."""
    confidences = [np.full((HEIGHT, WIDTH), c) for c in (1.0, 3.0)]
    for scale in (1.0, 1e-3, 500.0):
        files = files_of(tmp_path, ramp(), ramp(), confidences=[scale * c for c in confidences])
        for photo, expected in ((0, 0.5), (1, 1.5)):
            torch.testing.assert_close(read(files, photo)[1], torch.full((24,), expected))


def test_pixels_without_confidence_do_not_count(tmp_path):
    confidence = np.ones((HEIGHT, WIDTH))
    confidence[0, :3] = 0.0, -2.0, np.nan
    depth, found = read(files_of(tmp_path, ramp(), confidences=[confidence]))
    assert not found[:3].any() and not depth[:3].any()
    assert torch.equal(found[3:], torch.ones(21))


def test_confidence_can_be_left_aside(tmp_path):
    files = files_of(tmp_path, ramp(), confidences=[ramp()])
    assert torch.equal(read(files, use_confidence=False)[1], torch.ones(24))


def test_confidence_of_another_size_follows_the_depth(tmp_path):
    files = files_of(tmp_path, ramp(), confidences=[np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])])
    found = read(files)[1].reshape(HEIGHT, WIDTH)
    torch.testing.assert_close(found[0] * 3.5, torch.tensor([1.0, 1, 2, 2, 3, 3]))
    torch.testing.assert_close(found[3] * 3.5, torch.tensor([4.0, 4, 5, 5, 6, 6]))


def test_no_maps_at_all_say_what_to_do():
    with pytest.raises(ValueError, match="brings no depth maps for its 1 training photos.*weight"):
        DepthFiles([Path("a.jpg")], (), (), 1.0).check()


def test_wrong_counts_are_refused(tmp_path):
    files = files_of(tmp_path, ramp(), ramp())
    with pytest.raises(ValueError, match="2 depth maps for 1 training photos"):
        DepthFiles(files.photos[:1], files.depths, (), 1.0).check()
    with pytest.raises(ValueError, match="1 confidence maps for 2 training photos"):
        DepthFiles(files.photos, files.depths, files.depths[:1], 1.0).check()


def test_absent_files_are_named(tmp_path):
    files = files_of(tmp_path, ramp(), ramp())
    files.depths[1].unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 2 depth maps are absent .*depth_1\.npy"):
        read(files)


@pytest.mark.parametrize("size", [(WIDTH, HEIGHT), (5, 6)])
def test_a_map_on_its_side_is_refused(tmp_path, size):
    with pytest.raises(ValueError, match="turned or cropped"):
        read(files_of(tmp_path, ramp(*size)))


def test_maps_without_any_depth_are_refused(tmp_path):
    with pytest.raises(ValueError, match="None of the 1 depth maps holds a depth"):
        read(files_of(tmp_path, 0 * ramp()))


def test_files_that_are_no_maps_are_refused(tmp_path):
    colour, broken = tmp_path / "colour.png", tmp_path / "broken.npy"
    Image.new("RGB", (WIDTH, HEIGHT)).save(colour)
    broken.write_bytes(b"nothing")
    for file, message in ((colour, "one number per pixel"), (broken, "cannot be read")):
        with pytest.raises(ValueError, match=message):
            read(DepthFiles([Path("a.jpg")], [file], (), 1.0))
