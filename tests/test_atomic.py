"""Atomic files and folders: complete or absent, also after exceptions and kills."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from fm3d_plugins.atomic import atomic_directory, atomic_write


def hidden(folder):
    return [path for path in folder.iterdir() if path.name.startswith(".")]


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
    with atomic_directory(path) as temporary:
        (temporary / "old").touch()
    with pytest.raises(FileExistsError, match="already holds 1 entries"), atomic_directory(path):
        pass
    with atomic_directory(path, overwrite=True) as temporary:
        (temporary / "new").touch()
    assert [entry.name for entry in path.iterdir()] == ["new"]
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
    path = tmp_path / "model"
    path.mkdir()
    (path / "old").touch()
    with pytest.raises(RuntimeError), atomic_directory(path, overwrite=True) as temporary:
        (temporary / "half").touch()
        raise RuntimeError
    assert [entry.name for entry in path.iterdir()] == ["old"]
    assert not hidden(tmp_path)


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
def test_kill_between_the_two_moves_of_an_exchange_is_undone(tmp_path):
    path = tmp_path / "model"
    path.mkdir()
    (path / "old").touch()
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
    assert [entry.name for entry in path.iterdir()] == ["old"]
    assert not hidden(tmp_path)
