"""Scenes without photos: cameras that are known exactly, points, and the matches between them."""

from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fm3d_plugins.estimators.refinement.rounds import Evidence
from fm3d_plugins.geometry.poses import so3_exp
from fm3d_plugins.kernels.bundle_adjustment import Cameras, Observations, reprojection_errors

SIZE = (640, 480)


@dataclass(frozen=True)
class Rig:
    """What is true, and what the photos say."""

    cameras: Cameras
    points: np.ndarray
    evidence: Evidence

    @property
    def names(self):
        return tuple(f"{row:03d}.jpg" for row in range(len(self.cameras.group)))


def looking_at(centers, target=(0.0, 0.0, 0.0), up=(0.0, -1.0, 0.0)):
    """Rotations camera_from_world (OpenCV axes) of cameras that look at a point."""
    ahead = np.asarray(target) - centers
    ahead = ahead / np.linalg.norm(ahead, axis=1, keepdims=True)
    right = np.cross(ahead, np.broadcast_to(up, ahead.shape))
    right /= np.linalg.norm(right, axis=1, keepdims=True)
    return np.stack([right, np.cross(ahead, right), ahead], axis=1)


def rig_of(centers, turns, points, *, focal=600.0, k1=0.0, noise=0.5, outliers=0.05, seed=0):
    """A rig of one camera; every pair of views is matched by all points that both see."""
    random = np.random.default_rng(seed)
    views = len(centers)
    cameras = Cameras(
        camera_from_world=turns,
        centers=centers,
        group=np.zeros(views, np.int64),
        focal=np.full((1, 2), focal),
        principal_point=np.array([[SIZE[0] / 2, SIZE[1] / 2]]),
        distortion=np.array([[k1, 0, 0, 0, 0, 0.0]]),
    )
    keypoints, rows = [], []
    for view in range(views):
        every = np.arange(len(points))
        seen = Observations(np.full(len(points), view), every, np.zeros((len(points), 2)))
        pixels = reprojection_errors(cameras, points, seen)
        inside = np.flatnonzero(((pixels >= 0) & (pixels < SIZE)).all(1))
        row = np.full(len(points), -1)
        row[inside] = random.permutation(len(inside))
        found = np.empty((len(inside), 2))
        found[row[inside]] = pixels[inside] + noise * random.normal(size=(len(inside), 2))
        keypoints.append(found)
        rows.append(row)
    matches = {}
    for a in range(views):
        for b in range(a + 1, views):
            both = np.flatnonzero((rows[a] >= 0) & (rows[b] >= 0))
            pair = np.stack([rows[a][both], rows[b][both]], axis=1)
            wrong = random.random(len(pair)) < outliers
            pair[wrong, 1] = random.permutation(pair[wrong, 1])
            if len(pair) >= 15:
                matches[a, b] = pair
    return Rig(cameras, points, Evidence([SIZE] * views, keypoints, matches))


def orbit(views=8, *, seed=0, span=120.0, half_side=1.2, **options):
    """Cameras on an arc around a box of points."""
    random = np.random.default_rng(seed)
    angle = np.radians(np.linspace(0, span, views))
    height = 0.5 * np.sin(3 * angle)
    centers = np.stack([5 * np.sin(angle), height, -5 * np.cos(angle)], axis=1)
    points = random.uniform(-half_side, half_side, (150, 3))
    return rig_of(centers, looking_at(centers), points, seed=seed, **options)


def disturbed(cameras, level, seed=0, focal_share=None):
    """Cameras as far off as `level` times those of a feed-forward network: 1.09 degrees mean, 1.8 %
    of the extent root mean square, and the focal length by 2, 5 or 10 %."""
    random = np.random.default_rng(seed)
    views = len(cameras.centers)
    turns, shifts = random.normal(size=(2, views, 3))
    turns *= np.radians(1.09) * level / np.linalg.norm(turns, axis=1).mean()
    away = cameras.centers - cameras.centers.mean(0)
    extent = np.sqrt((away**2).sum(1).mean())
    shifts *= 0.018 * level * extent / np.sqrt((shifts**2).sum(1).mean())
    if focal_share is None:
        focal_share = {0: 0.0, 1: 0.02, 2: 0.05, 4: 0.1}[level] * random.choice([-1, 1])
    return replace(
        cameras,
        camera_from_world=so3_exp(torch.from_numpy(turns)).numpy() @ cameras.camera_from_world,
        centers=cameras.centers + shifts,
        focal=cameras.focal * (1 + focal_share),
        distortion=np.zeros_like(cameras.distortion),
    )


@pytest.fixture(scope="session")
def rigs():
    """The functions of this file, for tests that need their own rig."""
    return SimpleNamespace(rig_of=rig_of, orbit=orbit, disturbed=disturbed, looking_at=looking_at)


@pytest.fixture(scope="session")
def ring():
    """Eight views around a thing, half a pixel of noise, every twentieth match wrong."""
    return orbit()
