"""A full disk ends in one line with path, free and needed space; temporary folders do not stay."""

import errno
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from fm3d_plugins import disk_space
from fm3d_plugins.atomic import atomic_directory, atomic_write
from fm3d_plugins.disk_space import FullDiskError, require_room, temporary_folder

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def free(monkeypatch):
    """Sets how many bytes every disk has free."""

    def has(count):
        monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**12, 0, count))

    return has


@pytest.fixture(autouse=True)
def own_temporary(monkeypatch, tmp_path):
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_room_is_asked_for_before_work(free, tmp_path):
    free(3_000_000)
    require_room(tmp_path / "not" / "yet" / "there", 2_000_000, "maps")
    with pytest.raises(FullDiskError, match=f"{tmp_path} has no room: 3.0 MB.*4.0 MB for maps"):
        require_room(tmp_path, 4_000_000, "maps")


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Quota exceeded"),
        OSError(errno.EFBIG, "File too large"),
        RuntimeError("I/O error: No space left on device (os error 28)"),
    ],
)
@pytest.mark.parametrize("write", [atomic_write, atomic_directory])
def test_full_disk_is_named_with_the_path_and_leaves_nothing(tmp_path, write, error, free):
    free(5_000_000)
    with pytest.raises(OSError) as caught, write(tmp_path / "out" / "scene") as temporary:
        file = temporary / "part" if write is atomic_directory else temporary
        file.write_bytes(bytes(2_000_000))
        raise error
    message = str(caught.value)
    assert f"The disk of {tmp_path / 'out'} has no room: 7.0 MB are free" in message
    assert "expected more than 2.0 MB for scene" in message and "\n" not in message
    assert "fm3d-" not in message
    assert list((tmp_path / "out").iterdir()) == []


def test_what_a_library_says_without_a_number_counts_where_the_disk_is_full(tmp_path, free):
    free(0)
    with pytest.raises(FullDiskError), atomic_write(tmp_path / "x"):
        raise RuntimeError("unexpected pos 64 vs 0")
    with pytest.raises(ValueError, match="of its own"), atomic_write(tmp_path / "x"):
        raise ValueError("of its own")
    free(10**9)
    with pytest.raises(RuntimeError, match="unexpected pos"), atomic_write(tmp_path / "x"):
        raise RuntimeError("unexpected pos 64 vs 0")


def test_error_of_a_hidden_file_names_what_was_to_be_written(tmp_path):
    with pytest.raises(OSError, match="scene.json cannot be written .Permission denied"):
        with atomic_write(tmp_path / "scene.json") as temporary:
            raise PermissionError(errno.EACCES, "Permission denied", str(temporary))


def test_temporary_folder_goes_also_after_an_error(own_temporary):
    with temporary_folder("test") as folder:
        (folder / "x").touch()
        assert folder.parent == own_temporary
    with pytest.raises(KeyError), temporary_folder("test"):
        raise KeyError
    assert list(own_temporary.iterdir()) == []


def aged(path):
    then = time.time() - 3600
    os.utime(path, (then, then))


def test_folders_of_killed_processes_are_removed_and_those_in_use_stay(own_temporary, tmp_path):
    killed = own_temporary / f"{disk_space._PREFIX}sfm-abc"
    in_use = own_temporary / f"{disk_space._PREFIX}sfm-def"
    young = own_temporary / f"{disk_space._PREFIX}sfm-ghi"
    foreign = own_temporary / "fm3d-other"
    for folder in (killed, in_use, young, foreign):
        folder.mkdir()
        (folder / "scene.db").touch()
        if folder != young:
            aged(folder)
    (own_temporary / f"{disk_space._PREFIX}link").symlink_to(tmp_path)
    with FileLock(in_use / ".lock"):
        aged(in_use)
        with temporary_folder("sfm"):
            assert not killed.exists()
            assert in_use.exists() and young.exists() and foreign.exists() and tmp_path.exists()


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
def test_killed_process_leaves_a_folder_that_the_next_one_removes(own_temporary):
    code = (
        "import os, signal, tempfile\n"
        f"tempfile.tempdir = {str(own_temporary)!r}\n"
        "from fm3d_plugins.disk_space import temporary_folder\n"
        "with temporary_folder('sfm'):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=False)
    (left,) = own_temporary.iterdir()
    aged(left)
    with temporary_folder("sfm") as folder:
        assert list(own_temporary.iterdir()) == [folder]


def test_temporary_files_that_do_not_fit_are_refused_before(free):
    free(1_000_000)
    with pytest.raises(FullDiskError, match="temporary files of sfm.*TMPDIR"):
        with temporary_folder("sfm", 2_000_000):
            pytest.fail("nothing is to be begun")


ON_A_FULL_DISK = """
import sys, tempfile, traceback
from pathlib import Path
disk = Path(sys.argv[1])
tempfile.tempdir = str(disk)
import numpy as np
import torch
from safetensors.torch import save_file
from fm3d_plugins.atomic import atomic_write
from fm3d_plugins.disk_space import FullDiskError
from fm3d_plugins.running.checkpoint_files import PatientStream
from fm3d_plugins.estimators.dense.depth_store import mapped_zeros
from fm3d_plugins.backends.pycolmap.features import extract_features
big = torch.zeros(2_000_000)
def checkpoint():
    with atomic_write(disk / "a.ckpt") as path, PatientStream(path.open("wb")) as stream:
        torch.save({"pipeline": big}, stream)
def tensors():
    with atomic_write(disk / "a.safetensors") as path:
        save_file({"a": big}, path)
def array():
    with atomic_write(disk / "a.npy") as path, path.open("wb") as stream:
        np.save(stream, big.numpy())
def maps():
    from fm3d_plugins.disk_space import temporary_folder
    with temporary_folder("vggt") as folder:
        mapped_zeros((2_000_000,), torch.float32, folder / "depth")
def features():
    extract_features([np.zeros((64, 64, 3), np.uint8)] * 4, max_features=8192, num_threads=1)
for work in (checkpoint, tensors, array, maps, features):
    try:
        work()
    except FullDiskError as error:
        assert str(disk) in str(error) and "\\n" not in str(error), error
        print("one line", work.__name__)
    left = [path for path in disk.iterdir() if not path.name.startswith("torchinductor")]
    assert left == [], left
"""


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare, to mount a small disk")
def test_disk_that_is_really_full_ends_in_one_line(tmp_path):
    """Of 2 MB, in a mount of its own; four of these ended in aborts or the libraries' own words."""
    disk, script = tmp_path / "disk", tmp_path / "script.py"
    disk.mkdir()
    script.write_text(ON_A_FULL_DISK)
    mount = f"mount -t tmpfs -o size=2m tmpfs {disk} && exec {sys.executable} {script} {disk}"
    result = subprocess.run(
        ["unshare", "-rm", "sh", "-c", mount],
        capture_output=True, text=True, check=False, cwd=Path(__file__).parents[1],
    )  # fmt: skip
    if "mount:" in result.stderr or "unshare:" in result.stderr:
        pytest.skip("a small disk cannot be mounted here")
    lines = [line for line in result.stdout.splitlines() if line.startswith("one line")]
    works = ("checkpoint", "tensors", "array", "maps", "features")
    assert lines == [f"one line {name}" for name in works], result.stderr
    assert result.returncode == 0


def test_checkpoint_stream_hands_on_what_torch_writes(tmp_path):
    from fm3d_plugins.running.checkpoint_files import PatientStream, bytes_of

    state = {"a": torch.arange(5), "b": [{"c": torch.zeros(3, dtype=torch.float16)}, 5]}
    assert bytes_of(state) == 5 * 8 + 3 * 2
    with PatientStream((tmp_path / "x").open("wb")) as stream:
        torch.save(state, stream)
    loaded = torch.load(tmp_path / "x", weights_only=True)
    assert torch.equal(loaded["a"], state["a"])
