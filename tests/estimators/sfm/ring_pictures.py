"""What one camera sees that goes around a small thing, for tests of rings."""

import numpy as np
import torch

from fm3d_plugins.backends.pycolmap.verification import CameraGuess
from fm3d_plugins.estimators.refinement.rounds import Evidence
from fm3d_plugins.estimators.sfm.rings import Ring, _first_rotation
from fm3d_plugins.geometry.poses import rotation_angle_degrees, so3_exp
from fm3d_plugins.kernels.bundle_adjustment import Observations, reprojection_errors

COUNT, SIZE, FOCAL = 12, (640, 480), 800.0
CENTER = (320.0, 240.0)
GUESS = CameraGuess(*SIZE, CENTER, 768.0, False, "SIMPLE_PINHOLE")


def ring(elevation=20.0, roll=0.0):
    """Slightly past the axis, as no camera is aimed exactly."""
    rotation = _first_rotation(np.radians(elevation), np.radians(roll))
    past = so3_exp(torch.tensor([0.02, -0.03, 0.05], dtype=torch.float64)).numpy()
    return Ring(past @ rotation, FOCAL)


def pictures(cameras, noise=0.3, per_pair=60, wrong=0):
    """Keypoints and matches of neighbours alone: no point is seen by three photos."""
    generator = np.random.default_rng(0)
    count = len(cameras.centers)
    keypoints, matches = [[] for _ in range(count)], {}
    for first in range(count):
        second = (first + 1) % count
        points = generator.normal(size=(per_pair, 3))
        points *= 0.18 / np.linalg.norm(points, axis=1, keepdims=True)
        rows = []
        for view in (first, second):
            seen = Observations(
                np.full(per_pair, view), np.arange(per_pair), np.zeros((per_pair, 2))
            )
            pixels = reprojection_errors(cameras, points, seen)
            pixels = pixels + generator.normal(scale=noise, size=pixels.shape)
            pixels[:wrong] = generator.uniform(0, 480, size=(wrong, 2))
            start = len(keypoints[view])
            keypoints[view].extend(pixels)
            rows.append(np.arange(start, start + per_pair))
        pair = np.stack(rows, axis=1)
        matches[min(first, second), max(first, second)] = pair if first < second else pair[:, ::-1]
    return Evidence([SIZE] * count, [np.array(each) for each in keypoints], matches)


def turned_away(cameras, other):
    """Degrees between relative rotations of neighbours, the largest."""
    relative = [
        torch.from_numpy(one.camera_from_world[1:] @ one.camera_from_world[:-1].transpose(0, 2, 1))
        for one in (cameras, other)
    ]
    return float(rotation_angle_degrees(*relative).max())
