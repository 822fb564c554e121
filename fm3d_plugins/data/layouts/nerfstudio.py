"""Folders of nerfstudio scenes, and those of DL3DV, which are laid out alike.

nerfstudio (docs.nerf.studio, "Data conventions"): `transforms.json` beside `images/`, poses
world_from_camera with OpenGL axes, `depth_file_path` in thousandths of a scene unit (z), photos at
several scales in `images_2`, `images_4`, `images_8`.

DL3DV (github.com/DL3DV-10K/Dataset): for each scene such a file, with lenses of OPENCV, whose
`file_path` and sizes are of photos at full scale in `images/`, while what is given out are
`images_4` or `images_8`; without depth.
"""

from collections.abc import Iterator, Set
from pathlib import Path

from fm3d_plugins.data.layouts.layout import Layout, Where
from fm3d_plugins.data.scenes import CapturedScene, DepthFile
from fm3d_plugins.io.depth_files import NERFSTUDIO_UNIT, read_map
from fm3d_plugins.io.transforms import read_frame_files, read_transforms

_FILE = "transforms.json"


def _find(folder: Path, names: Set[str]) -> list[Path]:
    return [folder / _FILE] * (_FILE in names)


def read_nerfstudio(path: Path, where: Where) -> Iterator[CapturedScene]:
    """The scene of a transforms.json."""
    scene = read_transforms(path, require_images=False, with_points=False)
    files = read_frame_files(path, require_files=False).values()
    photos, depths = [], []
    for file in files:
        photos.append(where.below(Path(), str(file.photo), path))
        depth = file.depth and where.below(Path(), str(file.depth), path)
        depths.append(DepthFile(depth, read_map, NERFSTUDIO_UNIT) if depth else None)
    chosen, downscale = where.scaled(photos, scene.image_sizes.double())
    yield CapturedScene(
        name=where.scene_name(path.parent),
        photos=chosen,
        world_from_camera=scene.world_from_camera,
        intrinsics=scene.intrinsics,
        source=path,
        sizes=scene.image_sizes.double(),
        downscale=downscale,
        distortion=scene.distortion if bool(scene.distortion.any()) else None,
        depths=tuple(depths) if any(depths) else (),
    )


NERFSTUDIO = Layout("nerfstudio or DL3DV", _find, read_nerfstudio)
