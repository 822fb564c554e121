"""Every reader of files that somebody else may have written, with small sound files for it."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

from fm3d_plugins.checkpoints import loading
from fm3d_plugins.cli.film import read_camera_path
from fm3d_plugins.cli.run_configs import read_run_config
from fm3d_plugins.cli.runs import read_state
from fm3d_plugins.data.chunks import read_chunk
from fm3d_plugins.data.evaluation_index import read_evaluation_index
from fm3d_plugins.data.filters import SceneFilters
from fm3d_plugins.data.layouts.blended_mvs import read_blended_scene
from fm3d_plugins.data.layouts.co3d import read_annotations
from fm3d_plugins.data.layouts.layout import Where
from fm3d_plugins.data.layouts.realestate10k import read_clip
from fm3d_plugins.data.many_scenes import ManyScenes, find_scenes
from fm3d_plugins.data.scenes import read_scene, read_scene_list
from fm3d_plugins.data.skipped import Skipped
from fm3d_plugins.geometry.pixel_map import PixelMap
from fm3d_plugins.geometry.poses import se3_exp
from fm3d_plugins.io.colmap import check_colmap, read_colmap, write_colmap
from fm3d_plugins.io.colmap_files import read_model, read_points
from fm3d_plugins.io.depth_files import read_map, write_map
from fm3d_plugins.io.ply import read_ply, write_ply
from fm3d_plugins.io.raw_depth import read_colmap_depth, read_pfm
from fm3d_plugins.io.transforms import (
    check_transforms,
    read_frame_files,
    read_transforms,
    write_transforms,
)
from fm3d_plugins.lvsm.network import LVSMConfig
from fm3d_plugins.nn.sizes import stored_sizes, to_text
from fm3d_plugins.photos.fitting import fitted_photos
from fm3d_plugins.photos.photo_set import find_photos
from fm3d_plugins.scene import SceneGeometry, Tracks
from fm3d_plugins.view_depth import ViewDepth
from tests.data import written_layouts as layouts
from tests.fuzz.running import Reader

NAMES = ("a.jpg", "b.jpg")
WIDTH, HEIGHT = 48, 36


def sound_scene() -> SceneGeometry:
    """Two views of four points, with all that a scene may hold."""
    generator = torch.Generator().manual_seed(0)
    lens = [[50.0, 0, 24], [0, 51, 18], [0, 0, 1]]
    return SceneGeometry(
        names=NAMES,
        image_sizes=torch.tensor([[WIDTH, HEIGHT]] * 2),
        world_from_camera=se3_exp(0.2 * torch.randn(2, 6, generator=generator).double()),
        intrinsics=torch.tensor([lens, lens]).double(),
        distortion=torch.tensor([[0.01, 0.02, 0, 0, 0.003, 0]] * 2).double(),
        camera_index=torch.zeros(2, dtype=torch.long),
        points=torch.rand(4, 3, generator=generator).double(),
        point_colors=torch.randint(0, 256, (4, 3), generator=generator, dtype=torch.uint8),
        point_confidence=torch.rand(4, generator=generator),
        tracks=Tracks(
            torch.tensor([0, 1, 2]), torch.tensor([0, 1, 1]),
            20 * torch.rand(3, 2, generator=generator).double(),
        ),
        depth=ViewDepth(
            torch.ones(2, 3, 4), torch.ones(2, 3, 4),
            PixelMap(torch.full((2, 2), 0.125), torch.zeros(2, 2)),
        ),
        unregistered=("lost.jpg",),
        provenance={"estimator": "test"},
    )  # fmt: skip


def check_scene(scene: SceneGeometry) -> None:
    """Cameras that there can be, and points that single precision holds."""
    sizes, names = scene.image_sizes.double(), (*scene.names, *scene.unregistered)
    assert len(scene) > 0 and len(set(names)) == len(names) and all(names)
    for name in names:
        name.encode("utf-8", "surrogateescape")
    assert bool(((sizes >= 1) & (sizes <= 1e6)).all())
    check_poses(scene.world_from_camera)
    focal = scene.intrinsics[:, (0, 1), (0, 1)].double()
    longest = sizes.amax(1, keepdim=True)
    assert bool((focal >= longest / 1000).all() & (focal <= 1e9).all())
    assert bool((scene.intrinsics.abs() <= 1e9).all() & (scene.distortion.abs() <= 1e9).all())
    assert bool(scene.points.float().isfinite().all())
    assert bool(((scene.point_confidence >= 0) & (scene.point_confidence <= 1)).all())
    assert scene.tracks is None or bool(scene.tracks.pixels.float().isfinite().all())


def check_poses(poses: torch.Tensor) -> None:
    """Rotations and translations that single precision holds."""
    rotations = poses[:, :3, :3].double()
    assert bool(poses.float().square().isfinite().all())
    eye = torch.eye(3, dtype=torch.float64)
    assert float((rotations @ rotations.mT - eye).abs().max()) < 0.05
    assert bool((rotations.det() > 0).all())
    bottom = poses[:, 3:].double() - eye.new_tensor([0, 0, 0, 1])
    assert float(bottom.abs().max()) < 1e-5 if poses.shape[1] == 4 else True


def write_colmap_binary(folder: Path) -> Path:
    write_colmap(sound_scene(), folder / "sparse")
    (folder / "sparse" / ".written_by_fm3d_plugins.json").unlink()
    return folder / "sparse"


def write_colmap_text(folder: Path) -> Path:
    """The same model as COLMAP writes it in text."""
    model = read_model(write_colmap_binary(folder))
    out = folder / "text"
    out.mkdir()
    cameras = [
        " ".join(map(str, (key, c.model, c.width, c.height, *c.parameters)))
        for key, c in model.cameras.items()
    ]
    (out / "cameras.txt").write_text("\n".join(["# Camera list", *cameras, ""]))
    images = []
    for key, image in model.images.items():
        words = (key, *image.quaternion_wxyz, *image.translation, image.camera_id, image.name)
        seen = zip(image.pixels, image.point_ids, strict=True)
        images += [" ".join(map(str, words)), " ".join(f"{x} {y} {i}" for (x, y), i in seen)]
    (out / "images.txt").write_text("\n".join(["# Image list", *images, ""]))
    rows = zip(model.point_ids, model.xyz, model.rgb, model.errors, strict=True)
    points = [f"{i} {' '.join(map(str, (*p, *c)))} {e} 1 0 2 1" for i, p, c, e in rows]
    (out / "points3D.txt").write_text("\n".join(["# Point list", *points, ""]))
    for file in (folder / "sparse").iterdir():
        file.unlink()
    return out


def read_colmap_all(path: Path) -> SceneGeometry:
    """By both doors, of which the second takes nothing that the first does not."""
    try:
        check_colmap(path)
    except ValueError as error:
        try:
            read_colmap(path)
        except ValueError:
            raise error from None
        raise AssertionError(f"one door is closed and the other open: {error}") from None
    read_points(path)
    return read_colmap(path)


def write_transforms_json(folder: Path) -> Path:
    for name in NAMES:
        Image.new("RGB", (WIDTH, HEIGHT)).save(folder / name)
    Image.new("L", (WIDTH, HEIGHT)).save(folder / "mask.png")
    scene = sound_scene()
    write_ply(folder / "points.ply", scene.points, scene.point_colors)
    path = folder / "transforms.json"
    write_transforms(
        scene, path, file_paths={name: name for name in NAMES}, ply_file_path="points.ply",
        mask_paths={name: "mask.png" for name in NAMES},
    )  # fmt: skip
    content = json.loads(path.read_text())
    content |= {"train_filenames": ["a.jpg"], "test_filenames": ["b.jpg"], "applied_scale": 1.0}
    content["frames"][0] |= {"fl_x": 50.0, "w": WIDTH}
    path.write_text(json.dumps(content, indent=1))
    return path


def read_transforms_all(path: Path) -> SceneGeometry:
    check_transforms(path, require_images=False)
    read_frame_files(path)
    return read_transforms(path)


def write_binary_ply(folder: Path) -> Path:
    scene = sound_scene()
    path = folder / "cloud.ply"
    write_ply(path, scene.points, scene.point_colors, scene.point_confidence)
    return path


def write_ascii_ply(folder: Path) -> Path:
    path = folder / "ascii.ply"
    path.write_text(
        "ply\nformat ascii 1.0\nelement vertex 2\nproperty float x\nproperty float y\n"
        "property double z\nproperty uchar red\nproperty uchar green\nproperty uchar blue\n"
        "property float confidence\nend_header\n1 2 3 10 20 30 0.5\n4.5 5 6 255 0 1 1\n"
    )
    return path


def check_cloud(cloud: Any) -> None:
    assert bool(cloud.points.float().isfinite().all())
    assert cloud.confidence is None or bool(cloud.confidence.isfinite().all())


def write_depth(folder: Path) -> Path:
    path = folder / "depth.npy"
    write_map(path, torch.rand(6, 8))
    return path


def write_depth_image(folder: Path) -> Path:
    path = folder / "depth.png"
    Image.fromarray(np.arange(48, dtype=np.uint16).reshape(6, 8)).save(path)
    return path


def check_map(values: np.ndarray) -> None:
    """Of any numbers: those that are not finite or below 0 count as unknown where maps are used."""
    assert values.ndim == 2 and values.size > 0 and values.dtype == np.float32


def write_cache(folder: Path) -> Path:
    path = folder / "scene.safetensors"
    sound_scene().save(path)
    return path


def write_weights(folder: Path) -> Path:
    path = folder / "weights.safetensors"
    tensors = {"a.weight": torch.rand(3, 4), "b": torch.arange(5)}
    save_file(tensors, path, {"lvsm_config": to_text(LVSMConfig())})
    return path


def read_weights(path: Path) -> dict:
    loading.training_arguments(path)
    stored_sizes(path, "lvsm_config", LVSMConfig)
    return {name: tensor.clone() for name, tensor in loading.load(path).items()}


def write_torch_weights(folder: Path) -> Path:
    path = folder / "weights.pt"
    torch.save({"model": {"a": torch.rand(3, 4), "b": torch.arange(5)}, "args": {"x": 1}}, path)
    return path


def write_legacy_weights(folder: Path) -> Path:
    path = folder / "legacy.pth"
    torch.save({"a": torch.rand(3, 4)}, path, _use_new_zipfile_serialization=False)
    return path


def check_tensors(tensors: Any) -> None:
    assert tensors and all(isinstance(name, str) for name in tensors)
    assert sum(tensor.numel() for tensor in tensors.values()) < 10_000


def write_checkpoint(folder: Path) -> Path:
    path = folder / "step-000000001.ckpt"
    state = {"_model.means": torch.rand(3, 4), "_model.count": torch.tensor(3)}
    torch.save({"step": 1, "pipeline": state, "optimizers": {"means": {"lr": 1e-3}}}, path)
    return path


def check_state(tensors: Any) -> None:
    check_tensors(tensors)
    assert all(bool(t.isfinite().all()) for t in tensors.values() if t.is_floating_point())


def write_chunk(folder: Path) -> Path:
    from io import BytesIO

    photo = BytesIO()
    Image.new("RGB", (12, 8)).save(photo, "PNG")
    content = torch.frombuffer(bytearray(photo.getvalue()), dtype=torch.uint8)
    camera = torch.tensor([0.8, 1.1, 0.5, 0.5, 0, 0, 1, 0, 0, 2, 0, 1, 0, 3, 0, 0, 1, 4.0])
    path = folder / "chunk.pt"
    torch.save([{"key": "room", "images": [content], "cameras": camera[None]}], path)
    return path


def check_captured(scene: Any) -> None:
    assert scene.name and len(scene) > 0
    check_poses(scene.world_from_camera)
    focal = scene.intrinsics[:, (0, 1), (0, 1)]
    assert bool((focal > 1e-3).all() & (scene.intrinsics.abs() <= 1e9).all())


def check_chunk(scenes: Any) -> None:
    for scene in scenes:
        check_captured(scene)


def write_lvsm_scene(folder: Path) -> Path:
    pose = [[1.0, 0, 0, 2], [0, 0, 1, 3], [0, -1, 0, 4], [0, 0, 0, 1]]
    frames = [
        {"image_path": "a.png", "fxfycxcy": [9.0, 8.0, 6.0, 4.0], "w2c": pose},
        {"file_path": "b.png", "fx": 9.0, "fy": 8.0, "cx": 6.0, "cy": 4.0, "w2c": pose},
    ]
    for name in ("a.png", "b.png"):
        Image.new("RGB", (12, 8)).save(folder / name)
    path = folder / "room.json"
    path.write_text(json.dumps({"scene_name": "room", "frames": frames}))
    return path


def write_list(folder: Path) -> Path:
    for name in ("one.json", "two.json"):
        (folder / name).write_text("{}")
    path = folder / "list.txt"
    path.write_text("one.json\ntwo.json\n")
    return path


def write_index(folder: Path) -> Path:
    path = folder / "index.json"
    path.write_text(json.dumps({"room": {"context": [0, 9], "target": [3, 5]}, "hall": None}))
    return path


def check_index(index: Any) -> None:
    for views in index.values():
        for frames in (views.context, views.targets):
            assert frames and all(0 <= frame < 10**9 for frame in frames)


def write_camera_path(folder: Path) -> Path:
    matrix = [1.0, 0, 0, 2, 0, 1, 0, 3, 0, 0, 1, 4, 0, 0, 0, 1]
    camera = {"camera_to_world": matrix, "fov": 60.0, "aspect": 1.5, "render_time": 0.0}
    content = {
        "camera_type": "perspective", "render_height": 60, "render_width": 90, "fps": 24,
        "seconds": 2.0, "camera_path": [camera, copy.deepcopy(camera)],
    }  # fmt: skip
    path = folder / "path.json"
    path.write_text(json.dumps(content))
    return path


def check_camera_path(found: Any) -> None:
    cameras, fps = found
    assert len(cameras) > 0 and 1 <= fps <= 1000
    check_poses(cameras.camera_to_worlds)
    sides = torch.cat([cameras.width, cameras.height]).double()
    assert bool(((sides >= 1) & (sides <= 20_000)).all())
    for values in (cameras.fx, cameras.fy):
        assert bool(((values > 1e-3 * sides.max()) & (values <= 1e9)).all())


def write_config(folder: Path) -> Path:
    from nerfstudio.configs.method_configs import all_methods

    path = folder / "config.yml"
    path.write_text(yaml.dump(all_methods["3dgs"]))
    return path


def check_config(config: Any) -> None:
    assert isinstance(config.method_name, str) and isinstance(config.vis, str)
    assert isinstance(config.output_dir, Path) and isinstance(config.mixed_precision, bool)


def write_photos(folder: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (36, 48, 3), dtype=np.uint8)
    photo, exif = Image.fromarray(pixels), Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    exif.get_ifd(0x8769)[0xA405] = 28
    (folder / "masks").mkdir()
    photo.save(folder / "a.jpg", exif=exif)
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 256).save(folder / "b.png")
    photo.convert("RGBA").save(folder / "c.webp")
    Image.new("L", (36, 48), 255).save(folder / "masks" / "a.jpg.png")
    return folder


def read_photos(folder: Path) -> Any:
    photos = find_photos(folder)
    fit, faults = fitted_photos([p.path for p in photos], [(p.width, p.height) for p in photos])
    if faults:
        raise ValueError(f"{folder}: {faults}")
    masks = [
        f.read_mask(p.mask_path) for f, p in zip(fit.photos, photos, strict=True) if p.mask_path
    ]
    return [
        (p, p.read(), f.read(), p.usable_pixels(p.open()))
        for p, f in zip(photos, fit.photos, strict=True)
    ], masks


def check_photos(found: Any) -> None:
    photos, masks = found
    for photo, pixels, fitted, keep in photos:
        assert pixels.shape == (photo.height, photo.width, 3) and pixels.dtype == np.uint8
        assert fitted.shape[:2] == pixels.shape[:2] and photo.width > 0
        assert photo.focal_prior is None or 1e-3 * photo.width < photo.focal_prior < 1e9
        assert keep is None or keep.shape == pixels.shape[:2]
    assert all(mask.size for mask in masks)


def write_pfm(folder: Path) -> Path:
    path = folder / "depth.pfm"
    path.write_bytes(b"Pf\n8 6\n-1.0\n" + np.arange(48, dtype="<f4").tobytes())
    return path


def write_colmap_depth(folder: Path) -> Path:
    path = folder / "a.png.geometric.bin"
    path.write_bytes(b"8&6&1&" + np.arange(48, dtype="<f4").tobytes())
    return path


def write_clip(folder: Path) -> Path:
    root = layouts.write_realestate10k(folder / "clip", layouts.room())
    return root / "train" / "clip.txt"


def write_annotations(folder: Path) -> Path:
    root = layouts.write_co3d(folder / "sequence", layouts.room())
    return root / "apple" / "frame_annotations.jgz"


def write_many(folder: Path) -> Path:
    """One scene of photos and depth maps, and one that stays sound."""
    layouts.write_nerfstudio(folder / "many" / "a", layouts.room())
    layouts.write_blended_mvs(folder / "many" / "b", layouts.room(2))
    return folder / "many"


def read_many(folder: Path) -> Any:
    filters, skipped = SceneFilters(), Skipped()
    found = find_scenes([folder], filters, 3, [(16, 16)], skipped)
    return ManyScenes(found, filters, skipped).batch(0, len(found), 3, 16, 16)


def check_batch(batch: Any) -> None:
    check_poses(batch.world_from_camera.flatten(0, 1))
    assert bool(batch.images.isfinite().all()) and bool(batch.intrinsics.isfinite().all())
    assert batch.depth is None or bool((batch.depth[batch.is_valid] > 0).all())
    assert batch.depth is None or bool(batch.depth.isfinite().all())


READERS = (
    Reader("COLMAP model, binary", write_colmap_binary, read_colmap_all, check_scene),
    Reader("COLMAP model, text", write_colmap_text, read_colmap_all, check_scene),
    Reader(
        "transforms.json", write_transforms_json, read_transforms_all, check_scene,
        damaged="transforms.json",
    ),
    Reader("PLY, binary", write_binary_ply, read_ply, check_cloud),
    Reader("PLY, text", write_ascii_ply, read_ply, check_cloud),
    Reader("depth map, .npy", write_depth, read_map, check_map),
    Reader("depth map, image", write_depth_image, read_map, check_map),
    Reader("cached scene", write_cache, SceneGeometry.load, check_scene),
    Reader("weights, .safetensors", write_weights, read_weights, check_tensors),
    Reader("weights, .pt", write_torch_weights, read_weights, check_tensors),
    Reader("weights, old .pth", write_legacy_weights, read_weights, check_tensors),
    Reader("checkpoint of a run", write_checkpoint, read_state, check_state),
    Reader("chunk of scenes", write_chunk, read_chunk, check_chunk),
    Reader("scene of views", write_lvsm_scene, read_scene, check_captured, damaged="*.json"),
    Reader("list of scenes", write_list, read_scene_list, len, damaged="*.txt"),
    Reader("evaluation index", write_index, read_evaluation_index, check_index),
    Reader(
        "camera path", write_camera_path, lambda path: read_camera_path(path, 30),
        check_camera_path,
    ),
    Reader("config.yml", write_config, read_run_config, check_config, in_suite=12),
    Reader("depth map, PFM", write_pfm, read_pfm, check_map),
    Reader("depth map, COLMAP", write_colmap_depth, read_colmap_depth, check_map),
    Reader(
        "RealEstate10K clip", write_clip, lambda p: list(read_clip(p, Where(p.parents[1]))),
        check_chunk, damaged="*.txt",
    ),
    Reader(
        "CO3D annotations", write_annotations,
        lambda p: list(read_annotations(p, Where(p.parents[1]))), check_chunk, damaged="*.jgz",
    ),
    Reader(
        "BlendedMVS cameras",
        lambda folder: layouts.write_blended_mvs(folder / "a", layouts.room()),
        lambda folder: list(read_blended_scene(folder, Where(folder))), check_chunk,
        damaged="*_cam.txt",
    ),
    Reader("folder of scenes", write_many, read_many, check_batch, in_suite=12),
    Reader("photos and masks", write_photos, read_photos, check_photos, in_suite=30),
)  # fmt: skip
