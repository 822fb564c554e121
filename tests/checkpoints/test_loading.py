"""Tensors come out of weights files, and nothing in a file is run."""

import io
import os
import pickle
import re
import zipfile
from argparse import Namespace
from pathlib import PurePosixPath

import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file

from fm3d_plugins.checkpoints.loading import load, training_arguments, verify
from fm3d_plugins.checkpoints.locating import FoundFile

NUM_MUTATIONS = int(os.environ.get("FM3D_FUZZ", "150"))
"""Of each kind of file."""

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1.5])}


def assert_are_the_tensors(loaded):
    assert list(loaded) == list(TENSORS)
    for name, tensor in TENSORS.items():
        assert torch.equal(loaded[name], tensor)


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pt"])
def test_the_content_tells_the_format_and_not_the_name(tmp_path, name):
    save_file(TENSORS, tmp_path / name)
    assert_are_the_tensors(load(tmp_path / name))


def test_a_header_whose_length_looks_like_a_pickle_is_read(tmp_path):
    """Truth: of the lengths of headers, multiples of 8, one in 32 begins as pickles do."""
    path = tmp_path / "weights.safetensors"
    for filler in range(256):
        save_file(TENSORS, path, {"filler": "x" * filler})
        if path.read_bytes()[:1] == b"\x80":
            break
    assert path.read_bytes()[:1] == b"\x80"
    assert_are_the_tensors(load(path))


@pytest.mark.parametrize("is_archive", [True, False])
def test_torch_files_of_both_formats_load(tmp_path, is_archive):
    path = tmp_path / "weights.pth"
    torch.save(TENSORS, path, _use_new_zipfile_serialization=is_archive)
    assert_are_the_tensors(load(path))


@pytest.mark.parametrize("wrapper", ["model", "state_dict"])
def test_wrapped_tensors_are_taken_out_and_that_is_said(tmp_path, capsys, wrapper):
    path = tmp_path / "weights.pt"
    torch.save({wrapper: TENSORS, "epoch": 3}, path)
    assert_are_the_tensors(load(path))
    said = " ".join(capsys.readouterr().out.split())
    assert f"'{wrapper}'" in said and "left out: epoch" in said


def test_parameters_come_out_as_plain_tensors(tmp_path):
    path = tmp_path / "weights.pt"
    torch.save({name: torch.nn.Parameter(tensor) for name, tensor in TENSORS.items()}, path)
    loaded = load(path)
    assert_are_the_tensors(loaded)
    assert not any(tensor.requires_grad for tensor in loaded.values())


class Payload:
    """What a hostile file holds: a command that unpickling runs."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        import os

        return os.system, (self.command,)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("format_", ["archive", "legacy", 2, 4, 5])
def test_command_in_a_pickle_is_refused_and_not_run(tmp_path, format_):
    path, trace = tmp_path / "weights.pt", tmp_path / "trace"
    content = {"a": Payload(f"touch {trace}")}
    if isinstance(format_, int):
        path.write_bytes(pickle.dumps(content, protocol=format_))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=format_ == "archive")
    with pytest.raises(ValueError, match="Python objects") as caught:
        load(path)
    assert re.search("posix.system|Unsupported operand", str(caught.value))
    assert not trace.exists()
    pickle.loads(pickle.dumps(content))
    assert trace.exists(), "the payload would have left a trace"


def test_objects_that_are_no_tensors_are_refused(tmp_path):
    path = tmp_path / "weights.pt"
    torch.save({"model": TENSORS, "args": Namespace(folder=PurePosixPath("x"))}, path)
    for read in (load, training_arguments):
        with pytest.raises(ValueError, match="PurePosixPath"):
            read(path)


@pytest.mark.parametrize("is_archive", [True, False])
def test_options_of_the_training_stand_beside_the_tensors_as_plain_values(tmp_path, is_archive):
    path = tmp_path / "weights.pth"
    options = {"model": "Net(inf)", "lr": 0.1, "sizes": (1, [2]), "nested": {"a": None}}
    arguments = Namespace(**options, tensor=torch.ones(1), inner=Namespace(a=1))
    torch.save(
        {"model": TENSORS, "args": arguments}, path, _use_new_zipfile_serialization=is_archive
    )
    assert_are_the_tensors(load(path))
    assert training_arguments(path) == options


def test_files_without_options_have_none(tmp_path):
    for content in (TENSORS, {"model": TENSORS, "args": 3}):
        torch.save(content, tmp_path / "weights.pth")
        assert training_arguments(tmp_path / "weights.pth") == {}
    save_file(TENSORS, tmp_path / "weights.safetensors")
    assert training_arguments(tmp_path / "weights.safetensors") == {}


def test_command_hidden_in_the_options_is_refused_and_not_run(tmp_path):
    path, trace = tmp_path / "weights.pth", tmp_path / "trace"
    torch.save({"model": TENSORS, "args": Namespace(model=Payload(f"touch {trace}"))}, path)
    for read in (load, training_arguments):
        with pytest.raises(ValueError, match="Python objects"):
            read(path)
    assert not trace.exists()


def test_entries_that_are_no_tensors_are_listed(tmp_path):
    path = tmp_path / "weights.pt"
    torch.save({**TENSORS, "epoch": 3, "names": ["x"]}, path)
    with pytest.raises(ValueError, match=r"2 entries.*'epoch' \(int\), 'names' \(list\)"):
        load(path)


@pytest.mark.parametrize(
    ("content", "found"), [(torch.ones(2), "Tensor"), ([1, 2], "list"), ({}, "no entries")]
)
def test_other_content_is_named(tmp_path, content, found):
    path = tmp_path / "weights.pt"
    torch.save(content, path)
    with pytest.raises(ValueError, match=f"holds .*{found}"):
        load(path)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_truncated_file_is_called_truncated(tmp_path, share, suffix):
    path = tmp_path / f"weights.{suffix}"
    tensors = {"a": torch.ones(20, 20), "b": torch.ones(3)}
    if suffix == "pt":
        torch.save(tensors, path)
    else:
        save_file(tensors, path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ValueError, match="truncated"):
        load(path)


LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 5026208212\n"


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "is empty"),
        (b"\n<!DOCTYPE html><html>Log in</html>", "web page"),
        (b"<html>Log in</html>", "web page"),
        (LFS_POINTER, "Git LFS pointer"),
        (b"Access to model facebook/VGGT-1B is restricted.", "not a checkpoint"),
        (bytes(np.random.default_rng(0).integers(0, 256, 4000, np.uint8)), "not a checkpoint"),
        ((9).to_bytes(8, "little") + b"{'a': 1 }", "header cannot be read"),
        (b"PK\x05\x06", "not a checkpoint"),
    ],
)
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_what_is_no_checkpoint_is_named_for_what_it_is(tmp_path, content, found, suffix):
    path = tmp_path / f"weights.{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=found) as caught:
        load(path)
    assert str(path) in str(caught.value)


def test_zip_archive_of_something_else_is_refused(tmp_path):
    path = tmp_path / "weights.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "no tensors here")
    with pytest.raises(ValueError, match="cannot be read"):
        load(path)


def test_verify_counts_tensors_and_numbers(tmp_path, tiny):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(save(TENSORS))
    result = verify(FoundFile(path, "file", tiny))
    assert (result.num_tensors, result.num_parameters) == (2, 7)
    assert not result.is_hash_of_hub


def test_verify_refuses_another_network_under_a_published_name(tmp_path, tiny):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(save({"a": torch.ones(3)}))
    with pytest.raises(ValueError, match="1 tensors with 3 numbers; fm3d-test/tiny has 2 with 7"):
        verify(FoundFile(path, "file", tiny))


def test_a_mapped_file_gives_every_tensor_however_often_it_is_mapped_anew(tmp_path, monkeypatch):
    from fm3d_plugins.checkpoints import loading

    tensors = {f"t{i}": torch.full((5, i + 1), float(i)) for i in range(20)}
    save_file(tensors, tmp_path / "weights.safetensors")
    monkeypatch.setattr(loading, "_BYTES_PER_MAP", 100)
    found = load(tmp_path / "weights.safetensors")
    assert len(found) == 20 and set(found) == set(tensors)
    for name in [*tensors, *reversed(tensors)]:
        assert torch.equal(found[name], tensors[name])
    with pytest.raises(KeyError):
        found["t20"]


def archive_with(pickled):
    """A torch file whose pickle is replaced by other bytes."""
    source, target = io.BytesIO(), io.BytesIO()
    torch.save(TENSORS, source)
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            new.writestr(name, pickled if name.endswith("data.pkl") else old.read(name))
    return target.getvalue()


REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"
CRAFTED = {
    "nothing on the stack": b"\x80\x02.",
    "end": b"\x80\x02",
    "absent memory": b"\x80\x02h\x07.",
    "no mark": b"\x80\x02}K\x01K\x02u.",
    "arguments are absent": b"\x80\x02" + REBUILD + b")R.",
    "arguments of other types": b"\x80\x02" + REBUILD + b"(K\x01K\x01K\x01K\x01K\x01K\x01tR.",
    "a number is called": b"\x80\x02K\x01)R.",
    "a list as a key": b"\x80\x02}]K\x01s.",
    "a list in itself": b"\x80\x02]q\x00h\x00a.",
    "options that hold themselves": b"\x80\x02}q\x00X\x04\x00\x00\x00argsh\x00s.",
    "deep": b"\x80\x02" + b"]" * 20_000 + b"a" * 19_999 + b".",
    "a deep name": b"\x80\x02}N" + b"\x85" * 20_000 + b"K\x01s.",
    "storage of nothing": b"\x80\x02X\x01\x00\x00\x00aQ.",
    "storage of an empty tuple": b"\x80\x02)Q.",
    "state of a number": b"\x80\x02K\x01}b.",
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("read", [load, training_arguments])
@pytest.mark.parametrize("in_archive", [True, False])
@pytest.mark.parametrize("crafted", CRAFTED)
def test_a_crafted_pickle_is_refused_by_name(tmp_path, crafted, in_archive, read):
    path = tmp_path / "weights.pt"
    content = CRAFTED[crafted]
    path.write_bytes(archive_with(content) if in_archive else content)
    try:
        assert read(path) == {}  # Without options there is nothing to refuse.
        assert read is training_arguments
    except ValueError as error:
        assert str(path) in str(error) and len(str(error)) < 2000


HEADERS = {
    "deep": b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "offsets are texts": b'{"a":{"dtype":"F32","shape":[1],"data_offsets":["0","4"]}}',
    "offsets of two types": b'{"a":{"data_offsets":[0,"x"]},"b":{"data_offsets":[0,4]}}',
    "offsets are a number": b'{"a":{"dtype":"F32","shape":[1],"data_offsets":4}}',
    "offsets are absent": b'{"a":{"dtype":"F32","shape":[1]}}',
    "offsets are endless": b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,Infinity]}}',
    "offsets below zero": b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[-4,0]}}',
    "offsets backwards": b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}',
    "huge numbers": b'{"a":{"dtype":"F32","shape":[99999999999,99999999999],"data_offsets":[0,4]}}',
    "huge digits": b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,1' + b"0" * 9000 + b"]}}",
    "another type": b'{"a":{"dtype":"Q7","shape":[1],"data_offsets":[0,4]}}',
    "a list": b"[1,2]",
    "an entry is null": b'{"a":null}',
    "bytes of no text": b'{"\xff\xfe":1}',
}


@pytest.mark.parametrize("crafted", HEADERS)
def test_a_crafted_safetensors_header_is_refused_by_name(tmp_path, crafted):
    path = tmp_path / "weights.safetensors"
    header = HEADERS[crafted]
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with pytest.raises(ValueError, match=r"weights\.safetensors"):
        dict(load(path))


@pytest.mark.parametrize(
    "tensor",
    [torch.ones(3, device="meta"), torch.eye(3).to_sparse()],
    ids=["meta", "sparse"],
)
def test_tensors_without_a_number_in_every_place_are_refused(tmp_path, tensor):
    torch.save({"a": tensor}, tmp_path / "weights.pt")
    with pytest.raises(ValueError, match=r"weights\.pt"):
        load(tmp_path / "weights.pt")


def mutated(data, generator):
    """A few bytes changed, left out, doubled or moved."""
    data = bytearray(data)
    for _ in range(generator.integers(1, 6)):
        at = int(generator.integers(len(data)))
        to = at + int(generator.integers(1, 20))
        kind = generator.integers(5)
        if kind == 0:
            data[at] = generator.integers(256)
        elif kind == 1:
            data[at] ^= 1 << int(generator.integers(8))
        elif kind == 2:
            del data[at:to]
        elif kind == 3:
            data[at:at] = data[at:to]
        else:
            data[at:to] = generator.bytes(to - at)
        if not data:
            return b""
    return bytes(data)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["archive", "pickle in an archive", "legacy", "safetensors"])
def test_damage_anywhere_gives_tensors_or_an_error_that_names_the_file(tmp_path, kind):
    generator = np.random.default_rng(0)
    path, stream = tmp_path / "weights.pt", io.BytesIO()
    torch.save(TENSORS, stream, _use_new_zipfile_serialization=kind != "legacy")
    whole = save(TENSORS) if kind == "safetensors" else stream.getvalue()
    if kind == "pickle in an archive":
        with zipfile.ZipFile(io.BytesIO(whole)) as archive:
            whole = archive.read(next(n for n in archive.namelist() if n.endswith("data.pkl")))
    for _ in range(NUM_MUTATIONS):
        content = mutated(whole, generator)
        path.write_bytes(archive_with(content) if kind == "pickle in an archive" else content)
        for read in (load, training_arguments):
            try:
                assert all(isinstance(value, torch.Tensor) for value in load(path).values())
                read(path)
            except (ValueError, OSError) as error:
                assert str(path) in str(error)
