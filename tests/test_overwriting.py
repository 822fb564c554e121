"""What a user did not give up is never deleted; what this package wrote before is replaced."""

import json
import os
import shutil

import pytest

from fm3d_plugins.atomic import atomic_directory, atomic_write
from fm3d_plugins.overwriting import MARKER


def write(path, inputs=(), text="new"):
    with atomic_directory(path, overwrite=True, inputs=inputs) as folder:
        (folder / "images").mkdir()
        (folder / "images" / "a.jpg").write_text(text)
        (folder / "transforms.json").write_text(text)
    return path


def contents(folder):
    return {
        path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def refused(path, message, inputs=()):
    before = contents(path)
    with pytest.raises(FileExistsError, match=message):
        write(path, inputs)
    assert contents(path) == before
    assert not [name for name in os.listdir(path.parent) if name.startswith(".fm3d")]


def test_folder_of_somebody_elses_is_kept_and_what_it_holds_is_named(tmp_path):
    holiday = tmp_path / "holiday"
    (holiday / "sub").mkdir(parents=True)
    (holiday / "IMG_1.jpg").write_text("original")
    refused(holiday, "was not written by this package.*lost would be: IMG_1.jpg, sub")


def test_folder_that_was_written_before_is_replaced(tmp_path):
    path = write(tmp_path / "scene", text="old")
    write(path)
    assert (path / "transforms.json").read_text() == "new"
    (path / ".DS_Store").touch()  # What a look at the folder leaves.
    moved = path.rename(tmp_path / "moved")
    write(moved, text="newest")
    assert (moved / "transforms.json").read_text() == "newest"
    copied = shutil.copytree(moved, tmp_path / "copied")
    write(copied, text="copy")
    assert (copied / "transforms.json").read_text() == "copy"


@pytest.mark.parametrize("name", ["mine.txt", "images/mine.jpg", "images/new/mine.jpg", ".mine"])
def test_file_that_was_added_since_is_kept(tmp_path, name):
    path = write(tmp_path / "scene")
    (path / name).parent.mkdir(exist_ok=True)
    (path / name).write_text("mine")
    refused(path, f"1 files in it were added or changed since and would be lost: {name}")


def test_file_that_was_changed_since_is_kept(tmp_path):
    path = write(tmp_path / "scene")
    (path / "transforms.json").write_text("corrected by hand")
    refused(path, "added or changed since and would be lost: transforms.json")


def test_link_that_was_added_since_is_kept(tmp_path):
    path, photos = write(tmp_path / "scene"), tmp_path / "photos"
    photos.mkdir()
    (path / "links").symlink_to(photos)
    refused(path, "added or changed since and would be lost: links")


@pytest.mark.parametrize("marker", ["", "[]", "{}", '{"files": 3}', "[" * 100_000, b"\xff\xfe"])
def test_marker_that_is_none_allows_nothing(tmp_path, marker):
    path = write(tmp_path / "scene")
    (path / MARKER).write_bytes(marker if isinstance(marker, bytes) else marker.encode())
    refused(path, "was not written by this package")


def test_marker_of_another_folder_allows_nothing(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "IMG_1.jpg").write_text("original")
    shutil.copy(write(tmp_path / "scene") / MARKER, photos)
    refused(photos, "would be lost: IMG_1.jpg")


@pytest.mark.parametrize("way", ["plain", "link", "dots", "relative"])
def test_output_that_is_holds_or_lies_in_an_input_is_kept(tmp_path, way, monkeypatch):
    """Although this package wrote it: an output of one command is the input of the next."""
    outer = tmp_path / "outer"
    with atomic_directory(outer) as folder:
        write(folder / "scene")
    scene = outer / "scene"
    inner = write(scene / "inner")
    (outer / MARKER).unlink()
    (tmp_path / "link").symlink_to(outer)
    named = {
        "plain": outer,
        "link": tmp_path / "link",
        "dots": outer / ".." / "outer",
        "relative": (monkeypatch.chdir(tmp_path), type(outer)("outer"))[1],
    }[way] / "scene"
    refused(scene, "scene is an input, .* Expected a folder apart", [named])
    refused(outer, "outer holds an input", [named])
    refused(inner, "inner lies in an input", [named])
    refused(scene, "scene holds an input, .*a.jpg", [named / "images" / "a.jpg"])
    write(tmp_path / "elsewhere", [named])
    write(tmp_path / "elsewhere", [named])


def test_input_that_is_found_meanwhile_is_kept(tmp_path):
    scene, inputs = write(tmp_path / "scene", text="old"), []
    with pytest.raises(FileExistsError, match="holds an input"):
        with atomic_directory(scene, overwrite=True, inputs=inputs):
            inputs.append(scene / "images" / "a.jpg")
    assert (scene / "images" / "a.jpg").read_text() == "old"


def test_file_that_is_read_is_not_written_to(tmp_path):
    scene = write(tmp_path / "scene", text="old")
    (tmp_path / "link.json").symlink_to(scene / "transforms.json")
    for path in (scene / "transforms.json", tmp_path / "link.json"):
        for inputs in ([scene], [scene / "transforms.json"]):
            with pytest.raises(FileExistsError, match="would be replaced"):
                with atomic_write(path, inputs):
                    pytest.fail("nothing is to be made for it")
    assert (scene / "transforms.json").read_text() == "old"
    with atomic_write(scene / "figures.json", [scene]) as temporary:
        temporary.write_text("{}")


def test_marker_lists_what_was_written(tmp_path):
    path = write(tmp_path / "scene", text="four")
    files = json.loads((path / MARKER).read_text())["files"]
    assert files == {"images/a.jpg": 4, "transforms.json": 4}
