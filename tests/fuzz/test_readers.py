"""Damaged files are refused by name, or hold what makes sense; `make fuzz` tries many more."""

import json

import pytest
import torch

from fm3d_plugins.checkpoints.loading import load
from fm3d_plugins.checkpoints.records import read_record
from fm3d_plugins.cli.film import read_camera_path
from fm3d_plugins.cli.run_configs import read_run_config
from fm3d_plugins.data.evaluation_index import read_evaluation_index
from fm3d_plugins.data.scenes import read_scene
from fm3d_plugins.dust3r.configuration import from_hub
from fm3d_plugins.estimators.dense.weights_identity import weights_sha256
from fm3d_plugins.io.colmap import check_colmap, read_colmap
from fm3d_plugins.io.colmap_files import num_images, read_points
from fm3d_plugins.io.depth_files import read_map
from fm3d_plugins.io.ply import read_ply
from fm3d_plugins.io.transforms import check_transforms, estimator_of, read_transforms
from fm3d_plugins.lvsm.network import LVSMConfig
from fm3d_plugins.nn.sizes import stored_sizes
from fm3d_plugins.overwriting import MARKER, require_overwritable
from fm3d_plugins.photos.fitting import fitted_photos
from fm3d_plugins.scene import SceneGeometry
from tests.fuzz import readers
from tests.fuzz.mutations import DEPTH, mutated
from tests.fuzz.readers import READERS
from tests.fuzz.running import Reader, fuzz


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_damaged_files_are_refused_by_name_or_make_sense(reader, tmp_path):
    assert fuzz(reader, tmp_path, range(reader.in_suite)).faults == []


@pytest.mark.parametrize(
    "mistake, kind",
    [
        (lambda path: json.loads(path.read_text())["a"][0], "traceback"),
        (lambda path: int(path.read_text()), "unnamed"),
        (lambda path: path.read_bytes() and 1 << 70, "out of range"),
        (lambda path: bytes(1 << 40) if path.read_bytes() else 0, "memory"),
    ],
)
def test_harness_sees_readers_that_make_mistakes(mistake, kind, tmp_path):
    """Truth: each mistake is one of those that the harness exists to find."""
    sound = iter([1])

    def write(folder):
        (folder / "a.json").write_text(json.dumps({"a": [5, 6]}))
        return folder / "a.json"

    def check(value):
        assert value < 1 << 60

    # The undamaged file is read once, and must be taken.
    reader = Reader("test", write, lambda path: next(sound, None) or mistake(path), check)
    assert fuzz(reader, tmp_path, range(10)).counts[kind]


def test_mutations_follow_from_the_seed():
    from random import Random

    content = json.dumps({"a": [1, 2, {"b": 3.5}]}).encode()
    made = [[mutated(Random(seed), "a.json", content) for seed in range(50)] for _ in range(2)]
    assert made[0] == made[1] and len(set(made[0])) > 30


NESTED = "[" * DEPTH + "]" * DEPTH
DEEP = [NESTED, '{"a":' * DEPTH + "1" + "}" * DEPTH, '{"frames": ' + NESTED + "}"]

JSON_READERS = {
    "transforms": ("transforms.json", read_transforms),
    "transforms before training": ("transforms.json", check_transforms),
    "scene of views": ("scene.json", read_scene),
    "evaluation index": ("index.json", read_evaluation_index),
    "camera path": ("path.json", lambda path: read_camera_path(path, 30)),
    "config of a hub": ("config.json", from_hub),
}


@pytest.mark.parametrize("text", DEEP, ids=["lists", "objects", "frames"])
@pytest.mark.parametrize("name, read", JSON_READERS.values(), ids=JSON_READERS)
def test_deeply_nested_json_is_one_line_that_names_the_file(name, read, text, tmp_path):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ValueError, match="nested too deeply") as caught:
        read(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_deeply_nested_json_that_is_only_looked_into_counts_as_damaged(tmp_path, monkeypatch):
    monkeypatch.setenv("FM3D_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "transforms.json").write_text(NESTED)
    assert estimator_of(tmp_path) is None
    (tmp_path / MARKER).write_text(NESTED)
    with pytest.raises(FileExistsError, match="was not written by this package"):
        require_overwritable(tmp_path, [])
    (tmp_path / "cache" / "weights").mkdir(parents=True)
    (tmp_path / "cache" / "weights" / "last_used.json").write_text(NESTED)
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(b"a")
    assert len(weights_sha256(str(weights))) == 64
    (record,) = (tmp_path / "cache" / "weights" / "records").glob("*.json")
    record.write_text(NESTED)
    with pytest.raises(ValueError, match="nested too deeply"):
        read_record(weights)


def test_deeply_nested_metadata_is_named_with_its_file(tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "weights.safetensors"
    save_file({"a": torch.zeros(1)}, path, {"lvsm_config": NESTED})
    with pytest.raises(ValueError, match=r"weights\.safetensors .*nested too deeply"):
        stored_sizes(path, "lvsm_config", LVSMConfig)
    save_file({"a": torch.zeros(1)}, path, {"lvsm_config": '{"decoder_depth": 1000000}'})
    with pytest.raises(ValueError, match=r"weights\.safetensors .*from 0 to 1000"):
        stored_sizes(path, "lvsm_config", LVSMConfig)
    save_file({"a": torch.zeros(1)}, path, {"scene": NESTED})
    with pytest.raises(ValueError, match=r"weights\.safetensors .*nested too deeply"):
        SceneGeometry.load(path)


def edited(tmp_path, write, name, edit):
    """The path of a reader, one of whose files is changed."""
    path = write(tmp_path)
    file = path / name if path.is_dir() else path
    file.write_bytes(edit(file.read_bytes()))
    return path


def with_json(**changes):
    def edit(content):
        tree = json.loads(content)
        for key, value in changes.items():
            (tree if key in tree else tree["frames"][1])[key] = value
        return json.dumps(tree).encode()

    return edit


NOBODYS = {
    "bytes behind cameras": (readers.write_colmap_binary, "cameras.bin", lambda b: b + b"\0"),
    "bytes behind images": (readers.write_colmap_binary, "images.bin", lambda b: b + b"\0"),
    "bytes behind points": (readers.write_colmap_binary, "points3D.bin", lambda b: b + b"\0"),
    "point twice": (
        readers.write_colmap_text, "points3D.txt", lambda b: b + b.splitlines()[1] + b"\n"
    ),
    "camera twice": (
        readers.write_colmap_text, "cameras.txt", lambda b: b + b.splitlines()[1] + b"\n"
    ),
    "image twice": (
        readers.write_colmap_text, "images.txt", lambda b: b + b"\n".join(b.splitlines()[1:3])
    ),
    "no pixels": (readers.write_colmap_text, "cameras.txt", lambda b: b.replace(b" 48 ", b" 0 ")),
    "no point": (
        readers.write_colmap_text, "points3D.txt", lambda b: b.replace(b" 0.", b" nan ", 1)
    ),
    "no rotation": (
        readers.write_colmap_text, "images.txt", lambda b: b.replace(b"1 0.9", b"1 0.1", 1)
    ),
    "no focal length": (
        readers.write_transforms_json, "", with_json(fl_x=1e300)
    ),
    "wide as a wall": (readers.write_transforms_json, "", with_json(fl_x=1e-3)),
    "number that no float holds": (readers.write_transforms_json, "", with_json(fl_x=10**400)),
    "size that is a claim": (readers.write_transforms_json, "", with_json(w=True)),
    "half a pixel": (readers.write_transforms_json, "", with_json(w=47.5)),
    "last row": (
        readers.write_transforms_json, "",
        with_json(transform_matrix=[[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 2]]),
    ),
    "mask that is a number": (readers.write_transforms_json, "", with_json(mask_path=3)),
}  # fmt: skip


@pytest.mark.parametrize("write, name, edit", NOBODYS.values(), ids=NOBODYS)
def test_what_no_camera_or_model_has_is_refused_by_both_doors(write, name, edit, tmp_path):
    """By the one of this package's scenes, and by the one before nerfstudio's parsers."""
    path = edited(tmp_path, write, name, edit)
    doors = (read_transforms, check_transforms) if path.is_file() else (read_colmap, check_colmap)
    for door in doors:
        options = {"require_images": False} if path.is_file() else {}
        with pytest.raises(ValueError) as caught:
            door(path, **options)
        assert str(path) in str(caught.value)


def test_point_ids_beyond_what_floats_hold_stay_apart(tmp_path):
    """Truth: 2^53 and 2^53 + 1 are one number in double precision and two points."""
    path = readers.write_colmap_text(tmp_path)
    ids = (2**53, 2**53 + 1)
    for name in ("images.txt", "points3D.txt"):
        file = path / name
        lines = file.read_text().splitlines()
        if name == "points3D.txt":
            rows = lines[1:3]
            lines = [f"{i} {row.split(maxsplit=1)[1]}" for i, row in zip(ids, rows, strict=True)]
        else:
            lines[2], lines[4] = f"1.5 2.5 {ids[0]} 3.5 4.5 {ids[1]}", ""
        file.write_text("\n".join(lines))
    assert read_colmap(path).tracks.point_index.tolist() == [0, 1]
    assert read_points(path)["id"].tolist() == list(ids)


def test_model_that_counts_more_images_than_its_file_holds_is_not_the_largest(tmp_path):
    path = readers.write_colmap_binary(tmp_path)
    assert num_images(path) == 2
    file = path / "images.bin"
    file.write_bytes((2**63).to_bytes(8, "little") + file.read_bytes()[8:])
    assert num_images(path) == 0


def test_points_of_a_ply_that_are_nowhere_are_left_out(tmp_path, capsys):
    path = readers.write_ascii_ply(tmp_path)
    path.write_text(path.read_text().replace("4.5 5 6", "nan 5 6"))
    assert read_ply(path).points.tolist() == [[1.0, 2.0, 3.0]]
    assert "1 of 2 points" in capsys.readouterr().out
    path.write_text(path.read_text().replace("1 2 3", "inf 2 3"))
    with pytest.raises(ValueError, match="none of which is finite"):
        read_ply(path)


@pytest.mark.parametrize("write", [readers.write_binary_ply, readers.write_ascii_ply])
def test_ply_that_goes_on_behind_its_vertices_is_refused(write, tmp_path):
    path = edited(tmp_path, write, "", lambda content: content + b"1 2 3\n")
    with pytest.raises(ValueError, match="goes on behind"):
        read_ply(path)


def test_depth_map_of_a_damaged_shape_asks_for_no_memory(tmp_path):
    claim = b"(60000000, 80000000), }"

    def edit(content):
        return content.replace(b"(6, 8), }".ljust(len(claim)), claim)

    path = edited(tmp_path, readers.write_depth, "", edit)
    with pytest.raises(ValueError, match=r"depth\.npy"):
        read_map(path)
    path.write_bytes(readers.write_depth(tmp_path).read_bytes() + b"\0")
    with pytest.raises(ValueError, match="goes on behind"):
        read_map(path)


def test_depth_image_of_a_damaged_size_asks_for_no_memory(tmp_path):
    """A header of 12 000 x 12 000 pixels before the data of 6 x 8, its checksum right."""
    import zlib

    def edit(content):
        header = b"IHDR" + (12_000).to_bytes(4, "big") * 2 + content[24:29]
        return content[:12] + header + zlib.crc32(header).to_bytes(4, "big") + content[33:]

    path = edited(tmp_path, readers.write_depth_image, "", edit)
    with pytest.raises(ValueError, match=r"depth\.png has .* bytes for 12000 x 12000 pixels"):
        read_map(path)


def test_photo_or_mask_that_is_cut_off_is_named_where_its_pixels_are_read(tmp_path):
    folder = readers.write_photos(tmp_path)
    fit, faults = fitted_photos([folder / "a.jpg"], [(36, 48)])
    assert not faults
    (photo,) = fit.photos
    for file, read in (
        (folder / "a.jpg", photo.read),
        (folder / "masks" / "a.jpg.png", lambda: photo.read_mask(folder / "masks" / "a.jpg.png")),
    ):
        file.write_bytes(file.read_bytes()[: -file.stat().st_size // 3])
        with pytest.raises(ValueError, match=file.name):
            read()


def test_old_torch_file_with_a_damaged_count_asks_for_no_memory(tmp_path):
    """12 numbers are called 2**62."""
    import pickle

    path = edited(
        tmp_path, readers.write_legacy_weights, "",
        lambda b: b.replace(b"K\x0cN", b"\x8a\x08" + (2**62).to_bytes(8, "little") + b"N"),
    )  # fmt: skip
    assert pickle.dumps(12, 2)[2:4] == b"K\x0c"
    with pytest.raises(ValueError, match=r"legacy\.pth .*4611686018427387904 numbers"):
        load(path)


@pytest.mark.parametrize(
    "old, new, fault",
    [
        (b"output_dir", None, "it lacks method_name"),
        (b"mixed_precision: false", b"mixed_precision: 5", "mixed_precision of"),
        (b"steps_per_save: ", b"steps_per_save: x", "steps_per_save of"),
        (b"vis: viewer", b"vis: nothing", "vis of"),
    ],
)
def test_config_that_is_half_or_of_other_types_is_refused(old, new, fault, tmp_path):
    path = readers.write_config(tmp_path)
    content = path.read_bytes()
    assert old in content
    cut = content[: content.index(b"\nlog_gradients")] if new is None else content.replace(old, new)
    path.write_bytes(cut)
    with pytest.raises(ValueError, match=fault) as caught:
        read_run_config(path)
    assert "config.yml" in str(caught.value)
