"""What is remembered about a file stays true while the file does."""

import hashlib
import os

import pytest

from fm3d_plugins.checkpoints import FoundFile, records, verify
from fm3d_plugins.checkpoints.records import (
    FileRecord,
    known_sha256,
    read_record,
    sha256_of_hub,
    write_record,
)


@pytest.fixture
def file(tmp_path, cache):
    path = tmp_path / "weights.pt"
    path.write_bytes(b"first")
    return path


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def test_unchanged_file_is_read_once(file, monkeypatch):
    assert known_sha256(file) == sha256(b"first")
    monkeypatch.setattr(records, "file_sha256", lambda _: pytest.fail("read again"))
    assert known_sha256(file) == sha256(b"first")


def test_own_file_may_change(file):
    known_sha256(file)
    file.write_bytes(b"second, longer")
    assert known_sha256(file) == sha256(b"second, longer")
    assert read_record(file).sha256_from == "computed"


@pytest.mark.parametrize("content", [b"other", b"firs", b"longer than before"])
def test_fetched_file_may_not_change(file, content):
    status = file.stat()
    write_record(file, FileRecord(sha256(b"first"), "hub", status.st_size, status.st_mtime_ns))
    assert known_sha256(file) == sha256(b"first")
    file.write_bytes(content)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    with pytest.raises(ValueError, match=f"{sha256(content)}.*expected {sha256(b'first')}"):
        known_sha256(file)


def test_touched_file_of_the_hub_is_read_again_and_stays_the_hubs(file):
    write_record(file, FileRecord(sha256(b"first"), "hub", 5, 0, "abc"))
    assert known_sha256(file) == sha256(b"first")
    record = read_record(file)
    assert (record.sha256_from, record.revision) == ("hub", "abc")
    assert record.is_current(file)


def test_unreadable_record_is_an_error_that_names_it(file, cache):
    known_sha256(file)
    (record,) = (cache / "weights/records").glob("*.json")
    record.write_text("{")
    with pytest.raises(ValueError, match=record.name):
        known_sha256(file)


def test_file_of_the_hubs_cache_has_the_hash_in_its_name(tmp_path, cache):
    path = tmp_path / "models--org--name/blobs" / sha256(b"first")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"first")
    assert sha256_of_hub(path) == sha256(b"first")
    path.write_bytes(b"damaged")
    with pytest.raises(ValueError, match="changed or is damaged"):
        verify(FoundFile(path, "hub cache", None))


def test_folder_that_cannot_be_written_is_named_with_the_way_out(file, cache):
    cache.write_text("a file in the folder's place")
    with pytest.raises(OSError, match="FM3D_CACHE_DIR"):
        known_sha256(file)


def test_records_of_our_folder_lie_beside_the_weights(cache):
    path = cache / "weights/org--name/model.pt"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x")
    known_sha256(path)
    assert (path.parent / "model.pt.json").is_file()
