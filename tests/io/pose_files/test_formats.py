"""The format of a file or folder is told by its content, and hostile content ends in a message."""

import json
import os

import pytest
import torch

from fm3d_plugins.io.pose_files.formats import FORMATS, find_pose_files

POLYCAM = {f"t_{i}{j}": float(i == j) for i in range(3) for j in range(4)} | {
    "fx": 500.0, "fy": 500.0, "cx": 320.0, "cy": 240.0, "width": 640, "height": 480,
}  # fmt: skip
RECORD3D = {"poses": [[0, 0, 0, 1, 1, 2, 3]], "K": [500, 0, 0, 0, 500, 0, 320, 240, 1],
            "w": 640, "h": 480}  # fmt: skip
ARKIT = {"cameraPoseARFrame": [1, 0, 0, 1, 0, 1, 0, 2, 0, 0, 1, 3, 0, 0, 0, 1],
         "intrinsics": [500, 0, 320, 0, 500, 240, 0, 0, 1]}  # fmt: skip
TRANSFORMS = {
    "w": 640, "h": 480, "fl_x": 500, "fl_y": 500, "cx": 320, "cy": 240,
    "frames": [{"file_path": "a.jpg", "transform_matrix": torch.eye(4).tolist()}],
}  # fmt: skip
METASHAPE = """<?xml version="1.0" encoding="UTF-8"?>
<document version="1.5.0"><chunk label="c"><sensors><sensor id="0" type="frame">
<resolution width="640" height="480"/><calibration type="frame" class="adjusted">
<resolution width="640" height="480"/><f>500</f></calibration></sensor></sensors>
<cameras><camera id="0" sensor_id="0" label="a">
<transform>1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1</transform></camera></cameras></chunk></document>"""
BUNDLE = "# Bundle file v0.3\n1 0\n500 0 0\n1 0 0\n0 1 0\n0 0 1\n0 0 0\n"
NVM = "NVM_V3\n\n1\na.jpg 500 1 0 0 0 0 0 0 0 0\n\n0\n"

SAMPLES = {
    "nerfstudio": {"transforms.json": json.dumps(TRANSFORMS)},
    "COLMAP": {
        "sparse/0/cameras.txt": "1 PINHOLE 640 480 500 500 320 240\n",
        "sparse/0/images.txt": "1 1 0 0 0 0 0 0 1 a.jpg\n\n",
        "sparse/0/points3D.txt": "",
    },
    "Metashape": {"cameras.xml": METASHAPE},
    "Bundler": {"bundle.out": BUNDLE, "list.txt": "a.jpg 0 480.5\n"},
    "NVM": {"scene.nvm": NVM},
    "Polycam": {"keyframes/cameras/1.json": json.dumps(POLYCAM)},
    "Record3D": {"metadata": json.dumps(RECORD3D)},
    "ARKit": {"frame_00000.json": json.dumps(ARKIT)},
    "ARKitScenes": {
        "lowres_wide.traj": "1.500 0 0 0 0 0 0\n",
        "lowres_wide_intrinsics/1_1.500.pincam": "640 480 500 500 320 240",
    },
}


def write(folder, files):
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


def read(path):
    return find_pose_files(path).read()


@pytest.mark.parametrize("name", SAMPLES)
def test_folder_is_known_by_what_it_holds(name, tmp_path):
    found = find_pose_files(write(tmp_path, SAMPLES[name]))
    assert found.format.name == name
    assert len(found.read().names) == 1


@pytest.mark.parametrize("name", SAMPLES)
def test_file_is_known_whatever_its_own_name(name, tmp_path):
    files = SAMPLES[name]
    write(tmp_path, files)
    path = tmp_path / next(iter(files))
    if name not in ("COLMAP", "ARKitScenes"):  # These go by the names of several files.
        path = path.rename(path.with_name("other" + path.suffix))
    assert find_pose_files(path).format.name == name
    assert len(read(path).names) == 1


def test_largest_of_several_models_is_taken(tmp_path):
    write(tmp_path, SAMPLES["COLMAP"])
    more = {key.replace("/0/", "/1/"): text for key, text in SAMPLES["COLMAP"].items()}
    more["sparse/1/images.txt"] += "2 1 0 0 0 0 0 1 1 b.jpg\n\n"
    write(tmp_path, more)
    assert read(tmp_path).names == ("a.jpg", "b.jpg")


def test_all_that_was_looked_for_is_listed(tmp_path):
    (tmp_path / "notes.md").write_text("nothing")
    with pytest.raises(ValueError, match="notes.md") as raised:
        find_pose_files(tmp_path)
    for one in FORMATS:
        assert one.looked_for in str(raised.value)
    with pytest.raises(ValueError, match="Looked for"):
        find_pose_files(tmp_path / "notes.md")
    with pytest.raises(OSError, match="nothing at"):
        find_pose_files(tmp_path / "absent")


def test_other_formats_in_the_folder_are_named(tmp_path):
    write(tmp_path, SAMPLES["nerfstudio"] | SAMPLES["NVM"])
    found = find_pose_files(tmp_path)
    assert found.format.name == "nerfstudio"
    assert "scene.nvm" in found.others[0]


@pytest.mark.parametrize("name", SAMPLES)
def test_nothing_is_taken_for_two_formats(name, tmp_path):
    assert find_pose_files(write(tmp_path, SAMPLES[name])).others == ()


def test_digest_is_of_the_content_and_not_of_the_place(tmp_path):
    first, second = (write(tmp_path / name, SAMPLES["Polycam"]) for name in ("a", "b"))
    digests = [find_pose_files(folder).digest() for folder in (first, second)]
    assert digests[0] == digests[1]
    write(second, {"keyframes/cameras/1.json": json.dumps(POLYCAM | {"fx": 501.0})})
    assert find_pose_files(second).digest() != digests[0]


def test_pipes_are_not_waited_for(tmp_path):
    for name in ("transforms.json", "cameras.xml", "bundle.out", "a.nvm", "metadata", "a.json"):
        os.mkfifo(tmp_path / name)
    with pytest.raises(ValueError, match="no poses"):
        find_pose_files(tmp_path)
    with pytest.raises(OSError, match="named pipe"):
        find_pose_files(tmp_path / "metadata")
    (tmp_path / "transforms.json").unlink()
    write(tmp_path, {"transforms.json": json.dumps(TRANSFORMS | {"ply_file_path": "metadata"})})
    with pytest.raises(OSError, match="metadata"):
        read(tmp_path)


def damaged(name, key, text):
    return pytest.param(SAMPLES[name] | {key: text}, id=f"{name}-{text[:24]!r}")


def changed(name, key, values, **changes):
    kept = {k: v for k, v in (values | changes).items() if v is not ...}
    return pytest.param(SAMPLES[name] | {key: json.dumps(kept)}, id=f"{name}-{changes}")


FRAME = TRANSFORMS["frames"][0]


@pytest.mark.parametrize(
    "files",
    [
        damaged("nerfstudio", "transforms.json", "{"),
        damaged("nerfstudio", "transforms.json", '{"frames": [' * 30000),
        changed("nerfstudio", "transforms.json", TRANSFORMS, camera_model="OPENCV_FISHEYE"),
        changed("nerfstudio", "transforms.json", TRANSFORMS, fl_x="nan"),
        changed("nerfstudio", "transforms.json", TRANSFORMS, fm3d=[]),
        changed("nerfstudio", "transforms.json", TRANSFORMS, fm3d={"scale": "latent"}),
        changed("nerfstudio", "transforms.json", TRANSFORMS, fm3d={"unregistered": 3}),
        changed("nerfstudio", "transforms.json", TRANSFORMS, w=10**400),
        changed("nerfstudio", "transforms.json", TRANSFORMS, ply_file_path="\0"),
        changed("nerfstudio", "transforms.json", TRANSFORMS, ply_file_path="\ud800"),
        changed("nerfstudio", "transforms.json", TRANSFORMS,
                frames=[FRAME | {"file_path": "../../etc/a.jpg"}, FRAME]),
        damaged("COLMAP", "sparse/0/cameras.txt", "1 THIN_PRISM_FISHEYE 640 480 1 2 3 4"),
        damaged("COLMAP", "sparse/0/cameras.txt", "1 OPENCV_FISHEYE 640 480 9 9 3 4 0 0 0 0"),
        damaged("COLMAP", "sparse/0/images.txt", "1 0 0 0 0 0 0 0 1 a.jpg\n\n"),
        damaged("Metashape", "cameras.xml", METASHAPE.replace("frame", "fisheye")),
        damaged("Metashape", "cameras.xml", METASHAPE.replace("<f>500</f>", "")),
        damaged("Metashape", "cameras.xml", METASHAPE.replace("<f>500</f>", "<f>0</f>")),
        damaged("Metashape", "cameras.xml", METASHAPE.replace("<f>500", "<b2>30</b2><f>500")),
        damaged("Metashape", "cameras.xml", METASHAPE.replace("<f>500", "<p3>1</p3><f>500")),
        damaged("Metashape", "cameras.xml", METASHAPE.replace("1 0 0 0 0 1", "2 0 0 0 0 1")),
        damaged("Metashape", "cameras.xml", METASHAPE.replace("1 0 0 0 0 1", "nan 0 0 0 0 1")),
        damaged("Metashape", "cameras.xml", METASHAPE.replace("transform>", "moved>")),
        damaged("Metashape", "cameras.xml", METASHAPE.replace('sensor_id="0"', 'sensor_id="7"')),
        damaged("Metashape", "cameras.xml", METASHAPE.replace('width="640"', 'width="6.5"')),
        damaged("Metashape", "cameras.xml", METASHAPE[:300]),
        damaged("Metashape", "cameras.xml", METASHAPE.replace("UTF-8", "no-such-encoding")),
        damaged("Metashape", "cameras.xml", METASHAPE.replace(
            "<document", '<!DOCTYPE d [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><document', 1)),
        damaged("Bundler", "bundle.out", BUNDLE[:50]),
        damaged("Bundler", "bundle.out", BUNDLE.replace("1 0\n500", "1e9 0\n500")),
        damaged("Bundler", "bundle.out", BUNDLE.replace("1 0\n500", "x 0\n500")),
        damaged("Bundler", "bundle.out", BUNDLE.replace("1 0\n500", "1 5\n500")),
        damaged("Bundler", "bundle.out", BUNDLE.replace("500 0 0", "0 0 0")),
        damaged("Bundler", "bundle.out", BUNDLE.replace("1 0\n", "1 1\n") + "1 2 3 4 5 6 9999 1"),
        damaged("Bundler", "bundle.out", BUNDLE.replace("1 0\n", "1 1\n") + "1 2 3 4 5 6 -1"),
        damaged("Bundler", "bundle.out", BUNDLE.replace("500 0 0", "-500 0 0")),
        damaged("Bundler", "bundle.out", BUNDLE.replace("500 0 0", "inf 0 0")),
        damaged("Bundler", "list.txt", "a.jpg\nb.jpg\n"),
        damaged("NVM", "scene.nvm", "NVM_V3\n"),
        damaged("NVM", "scene.nvm", "NVM_V3\n\n3\na.jpg 500 1 0 0 0 0 0 0 0 0\n"),
        damaged("NVM", "scene.nvm", NVM.replace("500 1 0 0 0", "500 0 0 0 0")),
        damaged("NVM", "scene.nvm", NVM.replace("\n1\n", "\n-1\n")),
        damaged("NVM", "scene.nvm", NVM.replace("\n1\n", "\n1e400\n")),
        damaged("NVM", "scene.nvm", NVM.replace("NVM_V3", "NVM_V3 FixedK 1 2")),
        changed("Polycam", "keyframes/cameras/1.json", POLYCAM, fx=...),
        changed("Polycam", "keyframes/cameras/1.json", POLYCAM, fx=0),
        changed("Polycam", "keyframes/cameras/1.json", POLYCAM, t_11=[1]),
        changed("Polycam", "keyframes/cameras/1.json", POLYCAM, t_11=2.0),
        changed("Polycam", "keyframes/cameras/1.json", POLYCAM, t_11=True),
        changed("Polycam", "keyframes/cameras/1.json", POLYCAM, width=0),
        changed("Polycam", "keyframes/cameras/1.json", POLYCAM, width=10**8),
        changed("Polycam", "keyframes/cameras/1.json", POLYCAM, cy=1e999),
        changed("Record3D", "metadata", RECORD3D, poses=5),
        changed("Record3D", "metadata", RECORD3D, poses=[]),
        changed("Record3D", "metadata", RECORD3D, poses=[[0, 0, 0, 0, 1, 2, 3]]),
        changed("Record3D", "metadata", RECORD3D, poses=[[0, 0, 0, 1, 1, 2]]),
        changed("Record3D", "metadata", RECORD3D, K=[500, 0, 320, 0, 500, 240, 0, 0, 1]),
        changed("Record3D", "metadata", RECORD3D, w=None),
        changed("ARKit", "frame_00000.json", ARKIT, intrinsics=None),
        changed("ARKit", "frame_00000.json", ARKIT, intrinsics=[0] * 9),
        changed("ARKit", "frame_00000.json", ARKIT, cameraPoseARFrame=[1] * 16),
        changed("ARKit", "frame_00000.json", ARKIT, cameraPoseARFrame=[[1, 0], [0, 1]]),
        changed("ARKit", "frame_00000.json", ARKIT, width="x", height=3),
        damaged("ARKitScenes", "lowres_wide.traj", "1.500 0 0 0 0 0\n"),
        damaged("ARKitScenes", "lowres_wide.traj", "7.500 0 0 0 0 0 0\n"),
        damaged("ARKitScenes", "lowres_wide.traj", ""),
        damaged("ARKitScenes", "lowres_wide_intrinsics/1_1.500.pincam", "640 480 0 500 320 240"),
        damaged("ARKitScenes", "lowres_wide_intrinsics/1_x.pincam", "640 480 500 500 320 240"),
    ],
)  # fmt: skip
def test_damaged_files_end_in_a_message_that_names_them(files, tmp_path):
    write(tmp_path, files)
    with pytest.raises((ValueError, OSError)) as raised:
        find_pose_files(tmp_path).digest()
        read(tmp_path)
    assert str(tmp_path) in str(raised.value)
    assert type(raised.value) is not UnicodeEncodeError


def test_entities_are_not_expanded(tmp_path):
    """A billion laughs would fill the memory."""
    bomb = "".join(f'<!ENTITY e{i} "{f"&e{i - 1};" * 10 if i else "ha"}">' for i in range(12))
    text = METASHAPE.replace("<document", f"<!DOCTYPE d [{bomb}]><document", 1)
    write(tmp_path, {"cameras.xml": text.replace('label="a"', 'label="&e11;"')})
    with pytest.raises(ValueError, match="DOCTYPE"):
        read(tmp_path)


def test_names_that_a_terminal_would_obey_are_made_visible(tmp_path):
    camera = NVM.replace("a.jpg 500", "\x1b[2Ja.jpg -500")
    write(tmp_path, {"scene.nvm": camera})
    with pytest.raises(ValueError, match="focal length") as raised:
        read(tmp_path)
    assert "\x1b" not in str(raised.value)
