"""A room whose depth and colours are known in closed form, and a network that is nearly right."""

import math
from types import SimpleNamespace

import pytest
import torch

from fm3d_plugins.estimators.chunks.prediction import ChunkPrediction
from fm3d_plugins.geometry.poses import se3_exp, so3_exp
from fm3d_plugins.geometry.rays import pixel_centers

ROOM = (6.0, 5.0, 2.7)
"""Metres; the floor's middle is the origin, z is up."""
SOLIDS = [((-0.6, -0.5, 0.0), (0.5, 0.4, 0.8)), ((1.9, -2.5, 0.0), (3.0, -1.9, 2.0))]
"""Lower and upper corners of things in the room."""


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def room():
    return SimpleNamespace(
        walk=walk, intrinsics=room_intrinsics, depth=room_depth, colors=room_colors, predict=predict
    )


def walk(num_views):
    """world_from_camera of a closed loop around the room's middle that looks ahead and outwards."""
    phase = 2 * math.pi * torch.arange(num_views, dtype=torch.float64) / num_views
    eye = torch.stack([1.9 * phase.cos(), 1.5 * phase.sin(), 1.4 + 0.2 * (2 * phase).sin()], -1)
    forward = torch.stack([(phase + 0.7).cos(), (phase + 0.7).sin(), 0.15 * phase.cos() - 0.15], -1)
    forward = torch.nn.functional.normalize(forward, dim=-1)
    up = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64).expand_as(forward)
    right = torch.nn.functional.normalize(torch.linalg.cross(forward, up), dim=-1)
    poses = torch.eye(4, dtype=torch.float64).repeat(num_views, 1, 1)
    poses[:, :3] = torch.stack([right, torch.linalg.cross(forward, right), forward, eye], dim=-1)
    return poses


def room_intrinsics(height, width):
    """A pinhole of 70 degrees across."""
    focal = width / 2 / math.tan(math.radians(35))
    return torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]]).double()


def room_depth(world_from_camera, height, width):
    """Exact z-depth: the far side of the room or the near side of a thing (slab method)."""
    intrinsics = room_intrinsics(height, width)
    pixels = torch.nn.functional.pad(pixel_centers(height, width).double(), (0, 1), value=1.0)
    rays = pixels @ torch.linalg.inv(intrinsics).T @ world_from_camera[:3, :3].T
    eye = world_from_camera[:3, 3]
    half = torch.tensor([ROOM[0] / 2, ROOM[1] / 2], dtype=torch.float64)
    low, high = torch.cat([-half, half.new_zeros(1)]), torch.cat([half, half.new_tensor([ROOM[2]])])
    depth = torch.maximum((low - eye) / rays, (high - eye) / rays).amin(-1)
    for corners in SOLIDS:
        low, high = torch.tensor(corners, dtype=torch.float64)
        a, b = (low - eye) / rays, (high - eye) / rays
        enter, leave = torch.minimum(a, b).amax(-1), torch.maximum(a, b).amin(-1)
        depth = torch.where((enter > 0) & (enter < leave), torch.minimum(enter, depth), depth)
    return depth


def room_colors(world_from_camera, height, width):
    """Colours that vary slowly over the surfaces, different everywhere."""
    pixels = torch.nn.functional.pad(pixel_centers(height, width).double(), (0, 1), value=1.0)
    rays = pixels @ torch.linalg.inv(room_intrinsics(height, width)).T
    points = rays * room_depth(world_from_camera, height, width).unsqueeze(-1)
    points = points @ world_from_camera[:3, :3].T + world_from_camera[:3, 3]
    waves = torch.tensor([[1.1, 0.3, 2.0], [-0.4, 1.3, 1.1], [0.7, -0.9, 3.1]]).double()
    return (0.5 + 0.5 * (points @ waves.T + torch.tensor([0.1, 1.0, 2.0]).double()).sin()).float()


def predict(
    photos, poses, depths, seed, *, noise=0.01, outliers=0.05, drift=0.0, tilt=0.0, jitter=0.0
):
    """Truth as a network might give it: in a frame of its own, noisy, some of it wrong.

    Args:
        noise: Standard deviation of the depth of every pixel, as a share of it.
        outliers: Share of the pixels whose depth means nothing.
        drift: Standard deviation of a change of scale from the chunk's first to its last photo.
        tilt: The same of a turn, in radians.
        jitter: Standard deviation of the cameras' places in metres, and of their turns in radians.
    """
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    depth, truth = depths[list(photos)], poses[list(photos)]
    place = torch.linspace(-0.5, 0.5, len(photos), dtype=torch.float64)
    scale = (drift * randn(1) * place).exp()
    turn = so3_exp(tilt * randn(3) * place.unsqueeze(-1))
    bent = truth.clone()
    bent[:, :3, :3] = turn @ truth[:, :3, :3]
    steps = truth[1:, :3, 3] - truth[:-1, :3, 3]
    steps = scale[1:, None] * (turn[1:] @ steps.unsqueeze(-1)).squeeze(-1)
    bent[1:, :3, 3] = truth[0, :3, 3] + steps.cumsum(0)
    bent = bent @ se3_exp(jitter * randn(len(photos), 6))
    depth = depth * scale[:, None, None] * (1 + noise * randn(*depth.shape))
    is_wrong = torch.rand(depth.shape, generator=generator) < outliers
    depth = torch.where(is_wrong, depth * (0.2 + 2.8 * randn(*depth.shape).abs()), depth)
    frame_scale, frame_turn = (0.7 * randn()).exp(), so3_exp(2 * randn(3))
    world = bent.clone()
    world[:, :3, :3] = frame_turn @ bent[:, :3, :3]
    world[:, :3, 3] = frame_scale * bent[:, :3, 3] @ frame_turn.T + 3 * randn(3)
    height, width = depth.shape[-2:]
    return ChunkPrediction(
        tuple(photos),
        world,
        room_intrinsics(height, width).repeat(len(photos), 1, 1),
        (frame_scale * depth).float(),
        1 + 4 * torch.rand(depth.shape, generator=generator),
    )
