"""One scene of known cameras and depth, written as each data set's documentation says."""

import gzip
import io
import json
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from fm3d_plugins.data.synthetic import EndlessRooms
from fm3d_plugins.data.view_batch import ViewBatch
from fm3d_plugins.geometry.poses import invert, quaternion_wxyz_from_rotation
from fm3d_plugins.synthetic_rooms.endless.rooms import RoomOptions

HEIGHT, WIDTH, NUM_VIEWS = 36, 48, 6


@lru_cache(maxsize=8)
def room(seed: int = 1) -> ViewBatch:
    """Views along an arc around what they look at."""
    source = EndlessRooms(seed, RoomOptions(arcs=1.0, walks=0.0, pans=0.0))
    return source.batch(0, 1, NUM_VIEWS, HEIGHT, WIDTH)


def photo(scene: ViewBatch, view: int) -> Image.Image:
    pixels = (scene.images[0, view].permute(1, 2, 0) * 255).round().to(torch.uint8)
    return Image.fromarray(pixels.numpy())


def _saved(image: Image.Image, path: Path, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def _numbers(scene: ViewBatch, view: int):
    """fx, fy, cx, cy; camera_from_world; depth: in double precision."""
    k = scene.intrinsics[0, view].double().numpy()
    pose = invert(scene.world_from_camera[0, view].double()).numpy()
    return (k[0, 0], k[1, 1], k[0, 2], k[1, 2]), pose, scene.depth[0, view].numpy()


def write_nerfstudio(folder: Path, scene: ViewBatch, with_depth=True) -> Path:
    frames = []
    for view in range(NUM_VIEWS):
        (fx, fy, cx, cy), _, depth = _numbers(scene, view)
        # OpenGL's camera looks along -z, its y points up.
        pose = scene.world_from_camera[0, view].double().numpy() @ np.diag([1, -1, -1, 1])
        name = f"images/frame_{view:05d}.png"
        _saved(photo(scene, view), folder / name)
        frame = {"file_path": name, "transform_matrix": pose.tolist(), "w": WIDTH, "h": HEIGHT}
        frame |= {"fl_x": fx, "fl_y": fy, "cx": cx, "cy": cy}
        if with_depth:
            path = folder / f"depth/{view}.npy"
            path.parent.mkdir(exist_ok=True)
            np.save(path, depth * 1000)
            frame["depth_file_path"] = f"depth/{view}.npy"
        frames.append(frame)
    (folder / "transforms.json").write_text(json.dumps({"frames": frames}, indent=1))
    return folder


def write_dl3dv(folder: Path, scene: ViewBatch) -> Path:
    """Sizes and lenses are of photos four times as large, which are not there."""
    folder.mkdir(parents=True, exist_ok=True)
    (fx, fy, cx, cy), _, _ = _numbers(scene, 0)
    content = {
        "w": 4 * WIDTH, "h": 4 * HEIGHT, "fl_x": 4 * fx, "fl_y": 4 * fy, "cx": 4 * cx,
        "cy": 4 * cy, "k1": 0.0, "k2": 0.0, "p1": 0.0, "p2": 0.0, "camera_model": "OPENCV",
        "frames": [],
    }  # fmt: skip
    for view in range(NUM_VIEWS):
        pose = scene.world_from_camera[0, view].double().numpy() @ np.diag([1, -1, -1, 1])
        _saved(photo(scene, view), folder / f"images_4/frame_{view:05d}.png")
        frame = {"file_path": f"images/frame_{view:05d}.png", "transform_matrix": pose.tolist()}
        content["frames"].append(frame | {"colmap_im_id": view + 1})
    (folder / "transforms.json").write_text(json.dumps(content))
    return folder


def write_colmap(folder: Path, scene: ViewBatch) -> Path:
    """A dense workspace, its model in text."""
    model, maps = folder / "dense/sparse", folder / "dense/stereo/depth_maps"
    model.mkdir(parents=True)
    maps.mkdir(parents=True)
    cameras, images = ["# cameras"], ["# images"]
    for view in range(NUM_VIEWS):
        lens, pose, depth = _numbers(scene, view)
        cameras.append(
            f"{view + 1} PINHOLE {WIDTH} {HEIGHT} {' '.join(map(repr, map(float, lens)))}"
        )
        quaternion = quaternion_wxyz_from_rotation(torch.tensor(pose[:3, :3])).tolist()
        words = map(repr, (*quaternion, *pose[:3, 3].tolist()))
        images += [f"{view + 1} {' '.join(words)} {view + 1} {view:03d}.png", ""]
        _saved(photo(scene, view), folder / f"dense/images/{view:03d}.png")
        head = f"{WIDTH}&{HEIGHT}&1&".encode()
        # Column after column of [x, y] in Fortran's order is row after row.
        body = depth.T.astype("<f4").tobytes(order="F")
        (maps / f"{view:03d}.png.geometric.bin").write_bytes(head + body)
    (model / "cameras.txt").write_text("\n".join(cameras) + "\n")
    (model / "images.txt").write_text("\n".join(images) + "\n")
    (model / "points3D.txt").write_text("# points\n")
    return folder


def write_realestate10k(folder: Path, scene: ViewBatch) -> Path:
    lines = ["https://www.youtube.com/watch?v=abc"]
    for view in range(NUM_VIEWS):
        (fx, fy, cx, cy), pose, _ = _numbers(scene, view)
        time = 52553000 + 33000 * view
        lens = (fx / WIDTH, fy / HEIGHT, cx / WIDTH, cy / HEIGHT, 0, 0)
        lines.append(" ".join(map(str, (time, *map(float, lens), *pose[:3].flatten().tolist()))))
        _saved(photo(scene, view), folder / f"frames/train/{folder.name}/{time}.png")
    (folder / "train").mkdir()
    (folder / f"train/{folder.name}.txt").write_text("\n".join(lines) + "\n")
    return folder


def write_chunk(folder: Path, scene: ViewBatch) -> Path:
    photos, cameras = [], []
    for view in range(NUM_VIEWS):
        (fx, fy, cx, cy), pose, _ = _numbers(scene, view)
        stream = io.BytesIO()
        photo(scene, view).save(stream, "PNG")
        photos.append(torch.frombuffer(bytearray(stream.getvalue()), dtype=torch.uint8))
        lens = (fx / WIDTH, fy / HEIGHT, cx / WIDTH, cy / HEIGHT, 0, 0)
        cameras.append([*map(float, lens), *pose[:3].flatten().tolist()])
    folder.mkdir(parents=True, exist_ok=True)
    content = [{"key": folder.name, "images": photos, "cameras": torch.tensor(cameras)}]
    torch.save(content, folder / "000000.torch")
    return folder


def write_co3d(folder: Path, scene: ViewBatch, intrinsics_format="ndc_isotropic") -> Path:
    annotations, name = [], folder.name
    for view in range(NUM_VIEWS):
        (fx, fy, cx, cy), pose, depth = _numbers(scene, view)
        # From x right, y down to x left, y up.
        turned = np.diag([-1.0, -1.0, 1.0]) @ pose[:3]
        isotropic = np.full(2, min(WIDTH, HEIGHT) / 2)
        per_side = np.array([WIDTH, HEIGHT]) / 2
        unit = isotropic if intrinsics_format == "ndc_isotropic" else per_side
        principal = (per_side - [cx, cy]) / unit
        stem = f"apple/{name}"
        _saved(photo(scene, view), folder / stem / f"images/frame{view:06d}.png")
        bits = (depth / 3).astype(np.float16).view(np.uint16)
        _saved(Image.fromarray(bits), folder / stem / f"depths/frame{view:06d}.png")
        trusted = np.full((HEIGHT, WIDTH), 255, np.uint8)
        trusted[:4] = 0
        _saved(Image.fromarray(trusted), folder / stem / f"depth_masks/frame{view:06d}.png")
        annotations.append({
            "sequence_name": name, "frame_number": view, "frame_timestamp": 0.1 * view,
            "image": {"path": f"{stem}/images/frame{view:06d}.png", "size": [HEIGHT, WIDTH]},
            "depth": {
                "path": f"{stem}/depths/frame{view:06d}.png", "scale_adjustment": 3.0,
                "mask_path": f"{stem}/depth_masks/frame{view:06d}.png",
            },
            "mask": None,
            "viewpoint": {
                "R": turned[:, :3].T.tolist(), "T": turned[:, 3].tolist(),
                "focal_length": ([fx, fy] / unit).tolist(),
                "principal_point": principal.tolist(), "intrinsics_format": intrinsics_format,
            },
        })  # fmt: skip
    with gzip.open(folder / "apple/frame_annotations.jgz", "wt") as stream:
        json.dump(annotations[::-1], stream)
    return folder


def write_co3d_per_side(folder: Path, scene: ViewBatch) -> Path:
    return write_co3d(folder, scene, "ndc_norm_image_bounds")


def write_blended_mvs(folder: Path, scene: ViewBatch) -> Path:
    for part in ("cams", "blended_images", "rendered_depth_maps"):
        (folder / part).mkdir(parents=True)
    for view in range(NUM_VIEWS):
        (fx, fy, cx, cy), pose, depth = _numbers(scene, view)
        rows = [" ".join(map(str, row)) for row in pose.tolist()]
        lens = [f"{fx} 0.0 {cx}", f"0.0 {fy} {cy}", "0.0 0.0 1.0"]
        ends = f"{depth.min()} 0.01 128 {depth.max()}"
        text = "\n".join(["extrinsic", *rows, "", "intrinsic", *lens, "", ends, ""])
        (folder / f"cams/{view:08d}_cam.txt").write_text(text)
        photo(scene, view).save(
            folder / f"blended_images/{view:08d}.jpg", quality=100, subsampling=0
        )
        body = depth[::-1].astype("<f4").tobytes()
        head = f"Pf\n{WIDTH} {HEIGHT}\n-1.000000\n".encode()
        (folder / f"rendered_depth_maps/{view:08d}.pfm").write_bytes(head + body)
    (folder / "cams/pair.txt").write_text("0\n")
    return folder


WRITERS = {
    "nerfstudio": write_nerfstudio,
    "DL3DV": write_dl3dv,
    "COLMAP": write_colmap,
    "RealEstate10K": write_realestate10k,
    "chunks": write_chunk,
    "CO3D": write_co3d,
    "CO3D, per side": write_co3d_per_side,
    "BlendedMVS": write_blended_mvs,
}
WITH_DEPTH = {"nerfstudio", "COLMAP", "CO3D", "CO3D, per side", "BlendedMVS"}
