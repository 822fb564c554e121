"""Cameras of a posed scene, whatever form it has."""

from pathlib import Path

from fm3d_plugins.io.colmap import read_colmap
from fm3d_plugins.io.colmap_files import largest_model
from fm3d_plugins.io.transforms import read_transforms
from fm3d_plugins.scene import SceneGeometry


def read_posed_scene(path: str | Path) -> SceneGeometry:
    """A transforms.json, a folder that holds one, or a folder with a COLMAP model.

    Of several models in one folder `sparse` the largest is taken. Photos need not be there.

    Raises:
        ValueError: None of these is there, or it cannot be read.
    """
    path = Path(path)
    json_path = path if path.suffix == ".json" else path / "transforms.json"
    models = [path, *(largest_model(path / part) for part in ("sparse/0", "colmap/sparse/0"))]
    model = next(
        (m for m in models if (m / "images.bin").exists() or (m / "images.txt").exists()), None
    )
    if json_path.is_file():
        return read_transforms(json_path, require_images=False)
    if model is not None:
        return read_colmap(model)
    raise ValueError(
        f"{path} holds neither transforms.json nor a COLMAP model (images.bin or images.txt). "
        "Expected a posed scene. Point at the folder that holds one of them."
    )
