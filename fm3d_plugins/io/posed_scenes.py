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
    if json_path.is_file():
        return read_transforms(json_path, require_images=False)
    model = colmap_model(path)
    if model is not None:
        return read_colmap(model)
    raise ValueError(
        f"{path} holds neither transforms.json nor a COLMAP model (images.bin or images.txt). "
        "Expected a posed scene. Point at the folder that holds one of them."
    )


def colmap_model(path: Path, *, tell: bool = True) -> Path | None:
    """The folder of the COLMAP model at a path or in the places below that COLMAP uses, if any.

    Of several models in one folder `sparse` the largest is taken.

    Args:
        tell: Say it where that is not the first.
    """
    parts = ("sparse/0", "colmap/sparse/0", "0")
    models = [path, *(largest_model(path / part, tell=tell) for part in parts), path / "sparse"]
    return next(
        (m for m in models if (m / "images.bin").is_file() or (m / "images.txt").is_file()), None
    )
