"""Perturbed cameras as an estimator brings them, with points of matches triangulated under them."""

from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from fm3d_plugins.backends.pycolmap.triangulation import TriangulationSettings, triangulate
from fm3d_plugins.estimators.base import Estimator
from fm3d_plugins.estimators.matching.photo_matches import match_photos, rows_of
from fm3d_plugins.estimators.matching.sparse_points import sparse_points
from fm3d_plugins.estimators.matching.working_photos import find_features
from fm3d_plugins.geometry.cameras import denormalize, straight
from fm3d_plugins.io.transforms import read_transforms
from fm3d_plugins.photos.photo_set import PhotoSet, find_photos

DEGREES_PER_LEVEL = 8 * 0.53
"""By which rays may miss the point that they make, as in refinement's first round."""


@dataclass(frozen=True)
class NoisyTracks(Estimator):
    """The cameras of a transforms.json, and tracks of its photos."""

    name: ClassVar[str] = "noisy-tracks"
    scene: Path = Path()
    """Folder of transforms.json."""
    photos: Path = Path()
    level: float = 0.0
    """Of the cameras' noise."""

    def estimate(self, photos: PhotoSet):
        """Cameras as they are, points by COLMAP's triangulator."""
        by_stem = {Path(photo.name).name: photo.name for photo in photos}
        scene = read_transforms(self.scene)
        names = tuple(by_stem[Path(name).name] for name in scene.names)
        working, matches = matched(self.photos, names)
        intrinsics = scene.intrinsics.double()
        keypoints = []
        for view, one in enumerate(working):
            assert one.scale == 1.0, "the benchmark's photos are small"
            pixels = torch.from_numpy(one.features.keypoints[:, :2].astype(np.float64))
            lens = scene.distortion[view].double()
            keypoints.append(
                denormalize(straight(pixels, intrinsics[view], lens), intrinsics[view])
            )
        model = triangulate(
            scene.world_from_camera.double().numpy(),
            intrinsics.numpy(),
            [(one.width, one.height) for one in working],
            [pixels.numpy() for pixels in keypoints],
            matches,
            TriangulationSettings(
                float(np.clip(DEGREES_PER_LEVEL * self.level, 3, 20)), completes=False
            ),
        )
        sparse = sparse_points(model, working)
        return replace(
            scene,
            names=names,
            points=torch.from_numpy(model.points),
            point_colors=sparse.colors,
            point_confidence=sparse.confidence,
            tracks=sparse.tracks,
        )


@cache
def matched(photos: Path, names: tuple[str, ...]):
    """Features of photos, and verified matches between all pairs."""
    of_name = {photo.name: photo for photo in find_photos(photos)}
    working = find_features(
        [of_name[name] for name in names],
        max_features=8192, max_image_size=1600, num_threads=1, report=lambda _: None,
    )  # fmt: skip
    pairs = list(combinations(range(len(names)), 2))
    return working, rows_of(match_photos(working, pairs, seed=0, num_threads=1))
