"""Atomic files and folders: complete or absent, also after exceptions and kills."""

import hashlib
import os
import signal
import socket
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from fm3d_plugins.atomic import atomic_directory, atomic_write


def hidden(folder):
    return [path for path in folder.iterdir() if path.name.startswith(".")]


def visible(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def written(path, *names):
    with atomic_directory(path) as temporary:
        for name in names:
            (temporary / name).touch()
    return path


def kill_while_inside(source):
    """Run code in a process that kills itself as `kill -9` would."""
    code = textwrap.dedent(source).replace(
        "DIE", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[1], check=False
    )
    assert result.returncode == -signal.SIGKILL


def test_file_appears_only_when_complete(tmp_path):
    path = tmp_path / "new" / "photo.png"
    with atomic_write(path) as temporary:
        temporary.write_bytes(b"whole")
        assert temporary.parent == path.parent
        assert temporary.suffix == ".png"
        assert not path.exists()
    assert path.read_bytes() == b"whole"
    assert not hidden(path.parent)


@pytest.mark.parametrize("write", [atomic_write, atomic_directory])
@pytest.mark.parametrize("below", ["file/x", "file/a/b/x", "dangling/x"])
def test_place_below_a_file_is_named_in_one_line(write, below, tmp_path):
    (tmp_path / "file").write_text("keep")
    (tmp_path / "dangling").symlink_to(tmp_path / "file" / "nowhere")
    expected = "Nothing can be written in .*(file is a file|dangling is a link to nothing)"
    with pytest.raises(OSError, match=expected), write(tmp_path / below):
        raise AssertionError("not reached")
    assert (tmp_path / "file").read_text() == "keep"


def test_errors_within_a_write_name_what_was_to_be_written(tmp_path):
    for write in (atomic_write, atomic_directory):
        with pytest.raises(OSError, match="scene.json cannot be written") as caught:
            with write(tmp_path / "scene.json") as temporary:
                open(f"{temporary}{'' if temporary.is_dir() else '/'}/a/b.png", "wb").close()
        assert ".fm3d-" not in str(caught.value)
    for error in (ValueError, OSError):
        with pytest.raises(error, match="scene.json") as caught:
            with atomic_write(tmp_path / "scene.json") as temporary:
                raise error(f"no writer for {temporary}")
        assert ".fm3d-" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_failed_write_keeps_the_old_file_and_leaves_nothing(tmp_path):
    path = tmp_path / "scene.json"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_write(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert not hidden(tmp_path)


def test_longest_file_name_and_unicode_are_written(tmp_path):
    path = tmp_path / ("é" * 125 + ".json")  # 255 bytes, the limit of common file systems
    with atomic_write(path) as temporary:
        temporary.write_text("x")
    assert path.exists()


@pytest.mark.skipif(os.name != "posix", reason="rights are those of POSIX")
@pytest.mark.parametrize(("mask", "expected"), [(0o022, 0o644), (0o077, 0o600)])
def test_whoever_may_read_new_files_may_read_these(mask, expected, tmp_path):
    """Truth: the process's umask, whatever a writer makes of its own files."""
    before = os.umask(mask)
    try:
        with atomic_write(tmp_path / "a") as path:
            path.touch(0o600)
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == expected
    assert [each.name for each in tmp_path.iterdir()] == ["a"]


def test_link_is_written_through(tmp_path):
    real, link = tmp_path / "real.txt", tmp_path / "link.txt"
    real.write_text("old")
    link.symlink_to(real)
    with atomic_write(link) as temporary:
        temporary.write_text("new")
    assert link.is_symlink()
    assert real.read_text() == "new"


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
def test_killed_write_leaves_the_old_file_and_the_next_write_cleans_up(tmp_path):
    path = tmp_path / "scene.json"
    path.write_text("old")
    kill_while_inside(f"""
        from pathlib import Path
        from fm3d_plugins.atomic import atomic_write
        with atomic_write(Path({str(path)!r})) as temporary:
            temporary.write_text("half")
            DIE
    """)
    assert path.read_text() == "old"
    assert len(hidden(tmp_path)) == 1
    with atomic_write(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new"
    assert not hidden(tmp_path)


def test_draft_of_a_running_process_is_left_alone(tmp_path):
    path = tmp_path / "scene.json"
    with atomic_write(path) as first, atomic_write(path) as second:
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"  # the outer block ends last


def test_folder_appears_only_when_complete(tmp_path):
    path = tmp_path / "sparse" / "0"
    with atomic_directory(path) as temporary:
        (temporary / "sub").mkdir()
        (temporary / "sub" / "cameras.bin").write_bytes(b"1")
        assert not path.exists()
    assert (path / "sub" / "cameras.bin").read_bytes() == b"1"
    assert not hidden(path.parent)


def test_filled_folder_is_kept_unless_overwriting_is_allowed(tmp_path):
    path = tmp_path / "model"
    written(path, "old")
    with pytest.raises(FileExistsError, match="already holds"), atomic_directory(path):
        pass
    with atomic_directory(path, overwrite=True) as temporary:
        (temporary / "new").touch()
    assert visible(path) == ["new"]
    assert not hidden(tmp_path)


def test_folder_that_appeared_meanwhile_is_kept(tmp_path):
    path = tmp_path / "model"
    with pytest.raises(FileExistsError), atomic_directory(path) as temporary:
        (temporary / "mine").touch()
        path.mkdir()
        (path / "theirs").touch()
    assert [entry.name for entry in path.iterdir()] == ["theirs"]
    assert not hidden(tmp_path)


def test_empty_folder_may_be_filled_and_a_file_may_not(tmp_path):
    (tmp_path / "empty").mkdir()
    with atomic_directory(tmp_path / "empty") as temporary:
        (temporary / "new").touch()
    assert (tmp_path / "empty" / "new").exists()
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError, match="is a file"), atomic_directory(tmp_path / "file"):
        pass


def test_failed_folder_keeps_the_old_one(tmp_path):
    path = written(tmp_path / "model", "old")
    with pytest.raises(RuntimeError), atomic_directory(path, overwrite=True) as temporary:
        (temporary / "half").touch()
        raise RuntimeError
    assert visible(path) == ["old"]
    assert not hidden(tmp_path)


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
def test_kill_between_the_two_moves_of_an_exchange_is_undone(tmp_path):
    path = written(tmp_path / "model", "old")
    kill_while_inside(f"""
        import os
        from pathlib import Path
        from fm3d_plugins import atomic
        real_rename, calls = os.rename, []
        def rename(a, b):
            calls.append(a)
            if len(calls) == 2:
                DIE
            real_rename(a, b)
        atomic.os.rename = rename
        with atomic.atomic_directory(Path({str(path)!r}), overwrite=True) as temporary:
            (temporary / "new").touch()
    """)
    assert not path.exists()
    with pytest.raises(FileExistsError), atomic_directory(path):
        pass
    assert visible(path) == ["old"]
    assert not hidden(tmp_path)


def fifo(path):
    os.mkfifo(path)
    return path


def linked_fifo(path):
    path.symlink_to(fifo(path.with_name("pipe")))
    return path


def socket_at(path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
    return path


def folder(path):
    path.mkdir()
    return path


def identity(path):
    """Without the time of access: to look where a link leads is one."""
    status = path.lstat()
    return status.st_ino, status.st_mode, status.st_size, status.st_mtime_ns


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX files")
@pytest.mark.parametrize("make", [fifo, linked_fifo, socket_at, folder])
@pytest.mark.parametrize("write", [atomic_write, atomic_directory])
def test_what_is_no_file_is_never_replaced(tmp_path, make, write):
    """Stand-ins for devices, which rename replaces alike when it is run as root."""
    if write is atomic_directory and make is folder:
        pytest.skip("a folder may be filled")
    path = make(tmp_path / "output")
    before = identity(path)
    with pytest.raises(OSError, match="(output|pipe) is a (named pipe|socket|folder)"), write(path):
        pytest.fail("nothing is to be made for it")
    assert identity(path) == before
    assert not hidden(tmp_path)


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX files")
def test_what_took_the_place_meanwhile_is_kept(tmp_path):
    path = tmp_path / "output"
    with pytest.raises(OSError, match="named pipe"), atomic_write(path) as temporary:
        temporary.touch()
        os.mkfifo(path)
    assert path.is_fifo()
    assert not hidden(tmp_path)


def test_device_is_told_without_being_touched(tmp_path, monkeypatch):
    """The mode of a character device, said of a file."""
    path = tmp_path / "null"
    path.write_text("stays")
    status = list(path.stat())
    status[0] = stat.S_IFCHR | 0o666
    monkeypatch.setattr(Path, "stat", lambda self, **_: os.stat_result(status))
    with pytest.raises(OSError, match="null is a device, which is not replaced"):
        with atomic_write(path):
            pytest.fail("nothing is to be made for it")
    monkeypatch.undo()
    assert path.read_text() == "stays"


def test_links_in_a_circle_end_with_an_error_of_files(tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(OSError, match="a"), atomic_write(tmp_path / "a"):
        pass


def test_hidden_names_of_others_stand_in_no_writes_way(tmp_path):
    """Truth: blake2b of the name in 6 bytes begins the names of leftovers."""
    path = tmp_path / "x.json"
    digest = hashlib.blake2b(b"x.json", digest_size=6).hexdigest()
    names = [f".fm3d-{digest}-", f".fm3d-{digest}-old", f".fm3d-{digest}-new-x-y-z"]
    for name in names:
        (tmp_path / name).touch()
    with atomic_write(path) as temporary:
        temporary.write_text("new")
    assert sorted(entry.name for entry in hidden(tmp_path)) == sorted(names)
