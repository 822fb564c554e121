"""Photos are found, validated and upright."""

import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from fm3d_plugins.photos.photo_set import find_photos
from fm3d_plugins.photos.pixels import counted_pixels

GRADIENT = np.stack(
    np.broadcast_arrays(
        np.linspace(0, 255, 48)[:, None], np.linspace(0, 255, 64)[None, :], np.full((1, 1), 99)
    ),
    axis=-1,
).astype(np.uint8)
"""Red grows downwards, green to the right: every flip and turn changes it."""


def save(folder, name, array=GRADIENT, **options):
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(folder / name, **options)
    return folder / name


def test_photos_come_in_natural_order(tmp_path):
    for name in ("10.png", "9.png", "a2.png", "a10.png", "1.png"):
        save(tmp_path, name)
    assert [photo.name for photo in find_photos(tmp_path)] == [
        "1.png", "9.png", "10.png", "a2.png", "a10.png",
    ]  # fmt: skip


@pytest.mark.parametrize("sub", ["images", "photos"])
def test_photos_in_a_usual_subfolder_are_found(tmp_path, sub):
    save(tmp_path / sub, "a.png")
    assert find_photos(tmp_path).folder == tmp_path / sub


def test_all_eight_orientations_read_as_the_same_upright_photo(tmp_path):
    """Truth: EXIF 2.32, tag 274: how the stored rows and columns map to the upright picture."""
    turns = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }
    for orientation, stored in turns.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        save(tmp_path, f"{orientation}.png", np.ascontiguousarray(stored(GRADIENT)), exif=exif)
    for photo in find_photos(tmp_path):
        assert (photo.width, photo.height) == (64, 48), photo.name
        np.testing.assert_array_equal(photo.read(), GRADIENT, err_msg=photo.name)


def test_converted_copies_equal_what_read_gives(tmp_path):
    save(tmp_path, "plain.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    save(tmp_path, "turned.png", np.ascontiguousarray(np.rot90(GRADIENT)), exif=exif)
    Image.fromarray(GRADIENT).quantize(64).save(tmp_path / "palette.png")
    photos = find_photos(tmp_path)
    files = photos.plain_files(tmp_path / "copies", [photo.name for photo in photos])
    assert files["plain.png"] == tmp_path / "plain.png"
    for photo in photos:
        with Image.open(files[photo.name]) as copy:
            assert copy.mode == "RGB"
            np.testing.assert_array_equal(np.asarray(copy), photo.read())


@pytest.mark.parametrize("content", [b"", b"no picture", "half", "smaller", "grey"])
def test_copies_that_cannot_be_used_are_made_anew(tmp_path, content, capsys):
    Image.fromarray(GRADIENT).quantize(64).save(tmp_path / "palette.png")
    (tmp_path / "masks").mkdir()
    Image.new("L", GRADIENT.shape[1::-1], 255).save(tmp_path / "masks" / "palette.png")
    photos, names = find_photos(tmp_path), ["palette.png"]
    copies = [
        photos.plain_files(tmp_path / "copies", names)["palette.png"],
        photos.mask_files(tmp_path / "copied_masks", names)["palette.png"],
    ]
    for path in copies:
        whole = path.read_bytes()
        if content == "half":
            path.write_bytes(whole[: len(whole) // 2])
        elif content == "smaller":
            Image.new("RGB", (8, 8)).save(path)
        elif content == "grey":
            Image.new("LA", GRADIENT.shape[1::-1]).save(path)
        else:
            path.write_bytes(content)
        photos.plain_files(tmp_path / "copies", names)
        photos.mask_files(tmp_path / "copied_masks", names)
        assert path.read_bytes() == whole
        assert f"{path} is not used and made anew" in capsys.readouterr().out
        before = path.stat().st_mtime_ns
        photos.plain_files(tmp_path / "copies", names)
        assert path.stat().st_mtime_ns == before


def test_sixteen_bit_grey_keeps_its_brightness(tmp_path):
    """Truth: 16-bit value v is v / 257 in eight bits; taking the high byte is off by at most 1."""
    grey16 = (np.arange(64 * 64, dtype=np.uint16) * 16).reshape(64, 64)
    Image.fromarray(grey16).save(tmp_path / "deep.png")
    pixels = next(iter(find_photos(tmp_path))).read()
    assert np.abs(pixels - grey16[..., None] / 257).max() <= 1
    assert (pixels[..., 0] == pixels[..., 2]).all()


def test_transparent_pixels_are_masked(tmp_path):
    rgba = np.dstack([GRADIENT, np.full((48, 64), 255, np.uint8)])
    rgba[:, :16, 3] = 0
    save(tmp_path, "cut.png", rgba)
    photo = next(iter(find_photos(tmp_path)))
    keep = photo.usable_pixels(photo.open())
    assert not keep[:, :16].any()
    assert keep[:, 16:].all()


def test_focal_prior_follows_the_diagonal(tmp_path):
    """Truth: a 43.27 mm equivalent is as long as the 35 mm frame's diagonal, so f = diagonal."""
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA405] = 43
    save(tmp_path, "a.jpg", np.zeros((300, 400, 3), np.uint8), exif=exif)
    photo = next(iter(find_photos(tmp_path)))
    assert photo.focal_prior == pytest.approx(500 * 43 / np.hypot(36, 24))


def test_paths_may_be_texts_and_a_set_is_printed_in_one_line(tmp_path):
    save(tmp_path, "a.png", np.zeros((48, 64), np.uint8))
    save(tmp_path, "b.png", np.zeros((50, 64), np.uint8))
    save(tmp_path / "masks", "b.png", np.zeros((50, 64), np.uint8))
    assert repr(find_photos(str(tmp_path))) == (
        f"PhotoSet(2 photos in {tmp_path}, 64 x 48, 64 x 50 pixels, 1 with a mask)"
    )


COUNTED = np.arange(12).reshape(3, 4) % 3 > 0
"""What the masks below mean."""


@pytest.mark.parametrize(
    ("grey", "alpha"),
    [
        (COUNTED * 255, None),
        (COUNTED * 255, 255),
        (COUNTED * 1, 0),
        (255, COUNTED * 255),
        (0, COUNTED * 128),
        (COUNTED * 255, COUNTED * 255),
    ],
)
@pytest.mark.parametrize("mode", ["RGBA", "LA", "L", "RGB", "P", "1"])
def test_masks_count_by_grey_or_alpha_whichever_says_something(grey, alpha, mode, tmp_path):
    if (alpha is None) == (mode in ("RGBA", "LA")):
        return  # Modes with alpha, and those without, each with their own cases.
    grey = np.broadcast_to(grey, COUNTED.shape).astype(np.uint8)
    bands = [grey] if alpha is None else [grey, np.broadcast_to(alpha, COUNTED.shape)]
    bands = [Image.fromarray(band.astype(np.uint8)) for band in bands]
    image = bands[0] if alpha is None else Image.merge("LA", bands)
    image.convert(mode).save(tmp_path / "mask.png")
    with Image.open(tmp_path / "mask.png") as mask:
        np.testing.assert_array_equal(counted_pixels(mask), COUNTED)


@pytest.mark.parametrize("is_white", [True, False])
def test_masks_of_photos_count_by_alpha(is_white, tmp_path):
    """As editors save them; by estimators and, as files, by methods."""
    keep = np.zeros((48, 64), np.uint8)
    keep[:, 32:] = 255
    save(tmp_path, "a.png", np.full((48, 64, 3), 90, np.uint8))
    grey = np.full_like(keep, 255 if is_white else 0)
    save(tmp_path / "masks", "a.png", np.dstack([grey, grey, grey, keep]))
    photos = find_photos(tmp_path)
    written = photos.mask_files(tmp_path / "out", ["a.png"])["a.png"]
    with Image.open(written) as image:
        np.testing.assert_array_equal(np.asarray(image), keep)
    usable = next(iter(photos)).usable_pixels(next(iter(photos)).open())
    np.testing.assert_array_equal(usable, keep > 0)


def test_masks_are_found_by_name_and_must_have_the_size(tmp_path):
    save(tmp_path / "images", "a.jpg")
    save(tmp_path / "images", "b.jpg")
    save(tmp_path / "masks", "a.png", np.zeros((48, 64), np.uint8))
    photos = find_photos(tmp_path)
    assert [photo.mask_path is not None for photo in photos] == [True, False]
    assert not photos.photos[0].usable_pixels(photos.photos[0].open()).any()
    save(tmp_path / "masks", "b.jpg.png", np.zeros((9, 9), np.uint8))
    with pytest.raises(ValueError, match=r"b\.jpg\.png: the mask is 9 x 9"):
        find_photos(tmp_path)


def test_digest_depends_on_names_and_contents(tmp_path):
    for sub in ("one", "same", "renamed", "changed"):
        save(tmp_path / sub, "b.png" if sub == "renamed" else "a.png")
    save(tmp_path / "changed", "a.png", GRADIENT[::-1])
    digests = {
        sub: find_photos(tmp_path / sub).digest for sub in ("one", "same", "renamed", "changed")
    }
    assert digests["one"] == digests["same"]
    assert len(set(digests.values())) == 3


def test_all_faults_are_named_in_one_message(tmp_path):
    save(tmp_path, "good.png")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("no picture")
    save(tmp_path, "tiny.png", np.zeros((2, 480, 3), np.uint8))
    os.symlink(tmp_path / "nowhere.jpg", tmp_path / "dangling.jpg")
    with pytest.raises(ValueError, match="4 of 5 photos") as error:
        find_photos(tmp_path)
    for name in ("empty.jpg", "text.jpg", "tiny.png", "dangling.jpg", "32 x 32"):
        assert name in str(error.value)
    photos = find_photos(tmp_path, skip_unreadable=True)
    assert [photo.name for photo in photos] == ["good.png"]
    assert len(photos.warnings) == 4


def test_folders_that_hold_no_photos_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no photo"):
        find_photos(tmp_path)
    with pytest.raises(FileNotFoundError, match="no folder"):
        find_photos(tmp_path / "absent")
    with pytest.raises(NotADirectoryError, match="is a file"):
        find_photos(save(tmp_path, "a.png"))
    (tmp_path / "x.jpg").mkdir()
    assert [photo.name for photo in find_photos(tmp_path)] == ["a.png"]


def test_bad_inputs_have_their_expected_outcome(shared, tmp_path):
    """The table beside the files; what estimators make of accepted photos is tested with them."""
    bad = shared / "scenes" / "bad_inputs"
    good = sorted(path.name for path in (bad / "good").iterdir())
    for entry in json.loads((bad / "expected.json").read_text()):
        name, folder = entry["file"], tmp_path / str(len(list(tmp_path.iterdir())))
        shutil.copytree(bad / "good", folder)
        if (bad / name).exists():
            shutil.copy(bad / name, folder / name)
        else:
            (folder / name).write_bytes(b"\x00\x05\x16\x07" + bytes(112))  # AppleDouble
        try:
            found = [photo.name for photo in find_photos(folder)]
        except ValueError as error:
            assert entry["expect"] in ("reject", "either"), name
            assert name in str(error)
        else:
            assert entry["expect"] in ("accept", "either", "ignore"), name
            wanted = good if entry["expect"] == "ignore" else sorted([*good, name])
            assert sorted(found) == wanted


def test_unusual_encodings_are_as_bright_as_the_plain_photo(shared):
    photos = {
        photo.name: photo
        for photo in find_photos(shared / "scenes" / "bad_inputs", skip_unreadable=True)
    }
    probe = photos["probe_reference.jpg"].read().astype(float)
    grey = np.asarray(Image.fromarray(probe.astype(np.uint8)).convert("L"), float)
    for name in ("rgb16.png", "palette.png", "orient6.jpg", "cmyk.jpg"):
        pixels = photos[name].read().astype(float)
        assert pixels.shape == probe.shape, name
        assert np.abs(pixels.mean((0, 1)) / probe.mean((0, 1)) - 1).max() < 0.02, name
    for name in ("grey16.png", "grey.jpg"):
        pixels = photos[name].read().astype(float)
        assert pixels.mean() == pytest.approx(grey.mean(), rel=0.02), name
        assert (pixels[..., 0] == pixels[..., 1]).all()


def test_bomb_is_refused_before_it_is_decoded(shared, tmp_path):
    """Truth: 30000 x 30000 RGB pixels are 2.7 GB; the process must grow by far less."""
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    shutil.copy(shared / "scenes/bad_inputs/bomb_30000x30000.png", tmp_path)
    with pytest.raises(ValueError, match="too large to be decoded"):
        find_photos(tmp_path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 5e5  # KiB
