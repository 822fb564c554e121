"""New photos found in a scene that DUSt3R made before (`fm3d process dust3r --localize`)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from fm3d_plugins.dust3r.localisation import localise
from fm3d_plugins.dust3r.pair_pointmaps import PairPointmaps
from fm3d_plugins.geometry.focal import weiszfeld_focal
from fm3d_plugins.geometry.pointmaps import points_at
from fm3d_plugins.geometry.rays import pixel_centers
from fm3d_plugins.io.depth_files import NERFSTUDIO_UNIT, read_map
from fm3d_plugins.io.transforms import read_frame_files, read_transforms
from fm3d_plugins.photos.canvas import Canvases
from fm3d_plugins.photos.photo_set import PhotoSet, find_photos
from fm3d_plugins.scene import SceneGeometry

NEAREST = 6
"""Photos of the scene with which each new photo is paired: those most like it."""


@dataclass(frozen=True)
class KnownScene:
    """A processed scene with its photos and depth maps."""

    geometry: SceneGeometry
    photos: PhotoSet
    """In the order of the scene's views."""
    depth_files: tuple[Path, ...]

    @classmethod
    def read(cls, folder: Path) -> "KnownScene":
        """What `fm3d process dust3r` wrote.

        Raises:
            ValueError: It has no depth maps, or its photos are not there.
            FileNotFoundError: Files that it lists are absent.
        """
        geometry, files = read_transforms(folder / "transforms.json"), read_frame_files(folder)
        depths = [files[name].depth for name in geometry.names]
        if any(file is None for file in depths):
            raise ValueError(
                f"{folder} has depth maps of {sum(file is not None for file in depths)} of its "
                f"{len(depths)} photos. Expected all, as `fm3d process dust3r` writes them. Make "
                "the scene with it."
            )
        found = {photo.name: photo for photo in find_photos(files[geometry.names[0]].photo.parent)}
        chosen = tuple(found[Path(name).name] for name in geometry.names)
        for photo, size in zip(chosen, geometry.image_sizes.tolist(), strict=True):
            if [photo.width, photo.height] != size:
                raise ValueError(
                    f"{photo.path} is {photo.width} x {photo.height} upright but its camera in "
                    f"{folder} {size[0]} x {size[1]}. Expected upright photos, as `fm3d process "
                    "dust3r` writes them. Make the scene with it."
                )
        photos = PhotoSet(folder, chosen)
        return cls(geometry, photos, tuple(file for file in depths if file is not None))

    def world_points(self, view: int, canvases: Canvases) -> Float[Tensor, "rows columns 3"]:
        """What each pixel of a view sees, as the network's grid has it; nan where unknown.

        Args:
            canvases: Whose row `view` is this view's.
        """
        rows, columns = canvases.shapes[view]
        centers = pixel_centers(rows, columns, dtype=torch.float64).flatten(0, 1)
        pixels = canvases.map_from_photo[view].on_photo(centers)
        stored = torch.from_numpy(read_map(self.depth_files[view])).double() * NERFSTUDIO_UNIT
        width, height = self.geometry.image_sizes[view].tolist()
        row = (pixels[..., 1] / height * stored.shape[0]).long().clamp(0, stored.shape[0] - 1)
        column = (pixels[..., 0] / width * stored.shape[1]).long().clamp(0, stored.shape[1] - 1)
        depth, geometry = stored[row, column], self.geometry
        world = points_at(
            pixels,
            depth,
            geometry.intrinsics[view].double(),
            geometry.world_from_camera[view].double(),
            geometry.distortion[view].double(),
        )
        is_known = (depth > 0) & depth.isfinite()
        return torch.where(is_known[:, None], world, torch.nan).unflatten(0, (rows, columns))


def pairs_to_make(
    similarity: Float[Tensor, "photo photo"], num_known: int
) -> list[tuple[int, int]]:
    """Each new photo with the known ones most like it, both ways.

    Args:
        similarity: Of the known photos, which come first, and the new ones.
    """
    pairs = []
    for new in range(num_known, len(similarity)):
        nearest = similarity[new, :num_known].topk(min(NEAREST, num_known)).indices.tolist()
        pairs += [pair for known in nearest for pair in ((new, known), (known, new))]
    return pairs


def found_cameras(
    scene: KnownScene,
    new_photos: PhotoSet,
    canvases: Canvases,
    pairs: Mapping[int, Sequence[PairPointmaps]],
    focals: Mapping[int, float],
) -> tuple[SceneGeometry, dict[str, str]]:
    """Cameras of the new photos in the scene's frame, and why others have none.

    Args:
        canvases: Of the scene's photos, then of the new ones.
        pairs: Of each new photo, by its row in `canvases`.
        focals: Known focal lengths, pixels of the photo, by row; others follow from the pairs.

    Raises:
        ValueError: None of the photos is found.
    """
    count = len(scene.photos)
    found, reasons = [], {}
    for number, photo in enumerate(new_photos):
        row = count + number
        try:
            focal = focals.get(row) or _focal(pairs[row], row, canvases)
            intrinsics = _pinhole(focal, photo.width, photo.height)
            pose = localise(
                pairs[row],
                row,
                intrinsics,
                canvases.map_from_photo[row],
                lambda view: scene.world_points(view, canvases),
            )
        except ValueError as error:
            reasons[photo.name] = str(error)
        else:
            found.append((photo, intrinsics, pose))
    if not found:
        listed = "; ".join(f"{name}: {reason}" for name, reason in list(reasons.items())[:3])
        raise ValueError(
            f"None of {len(reasons)} photos could be found in {scene.photos.folder}. {listed}"
        )
    known = scene.geometry
    geometry = SceneGeometry(
        names=tuple(photo.name for photo, _, _ in found),
        image_sizes=torch.tensor([[photo.width, photo.height] for photo, _, _ in found]),
        world_from_camera=torch.stack([pose for _, _, pose in found]),
        intrinsics=torch.stack([matrix for _, matrix, _ in found]),
        distortion=torch.zeros(len(found), 6, dtype=torch.float64),
        camera_index=torch.arange(len(found)),
        # The scene's own points, for whoever goes on with the new cameras.
        points=known.points,
        point_colors=known.point_colors,
        point_confidence=known.point_confidence,
        scale=known.scale,
        unregistered=tuple(reasons),
    )
    return geometry, reasons


def _focal(pairs: Sequence[PairPointmaps], row: int, canvases: Canvases) -> float:
    """Median over the pairs in whose first camera the photo's points are; pixels of the photo."""
    rows, columns = canvases.shapes[row]
    middle = torch.tensor([columns / 2, rows / 2])
    pixels = (pixel_centers(rows, columns) - middle).flatten(0, 1)
    each = [
        float(weiszfeld_focal(pixels, pair.points_first.flatten(0, 1)))
        for pair in pairs
        if pair.first == row
    ]
    return float(torch.tensor(each).median()) / float(canvases.map_from_photo.scale[row, 0])


def _pinhole(focal: float, width: int, height: int) -> Float[Tensor, "3 3"]:
    rows = [[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]]
    return torch.tensor(rows, dtype=torch.float64)
