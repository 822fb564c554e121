"""Tracks that hold optimised cameras to the pixels in which the photos show the same points."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fm3d_plugins.geometry.robust import huber_cost, huber_weight

BATCH = 128
"""Observations per step."""

LONGEST = 8
"""Views of a point; longer tracks are divided. All then have equal shape, which is fast."""

ENOUGH = 100
"""Observations of a camera from which on its tracks have their whole weight."""

REACH = 1.0
"""Of Huber's loss, pixels."""

ROUNDS = 2
"""Gauss-Newton steps in which points follow the cameras, from where the dataparser put them."""

TINY = 1e-12
"""Added to the information of points that no camera sees any more, so that they stay."""

DAMPING = 1e-5
"""Of these steps, as a share of a point's mean information: rays that are nearly parallel leave
the depth as it is."""


@dataclass(frozen=True)
class PhotoTracks:
    """Where the training photos see the same points, one row per observation."""

    points: Float[Tensor, "point 3"]
    """In the frame of the dataparser's cameras."""
    point_index: Int[Tensor, " observation"]
    """Row of `points`."""
    photo_index: Int[Tensor, " observation"]
    """Row of the training photos."""
    rays: Float[Tensor, "observation 2"]
    """The pixel as (x / z, y / z) in its camera, OpenCV axes, lens distortion undone: the same at
    whatever size the photo is trained on."""


class TrackAnchors(torch.nn.Module):
    """Reprojection errors of tracks, for the cameras that are drawn in a step.

    The points are apart from the scene that is trained, and no parameters either: each time, they
    go to where the cameras, as they stand, see them best, without gradient. There the loss is flat
    in them, so that the cameras' gradient is that of the loss with the points eliminated (Schur's
    complement, as in bundle adjustment); descent on points would lag behind the cameras.

    Only the drawn cameras' own observations count, as `RowAdam` takes every camera with a gradient
    for drawn. All shapes are fixed, so that a GPU is not waited for.

    Cameras are matrices [R | t] from the world to (x f, y f, z), OpenCV axes: divided by z, that is
    pixels from the principal point.
    """

    points: Float[Tensor, "track 3"]
    photos: Int[Tensor, "track slot"]
    pixels: Float[Tensor, "track slot 2"]
    is_seen: Float[Tensor, "track slot"]
    places: Int[Tensor, "observation 2"]
    first: Int[Tensor, " view"]
    counts: Int[Tensor, " view"]

    def __init__(self, tracks: PhotoTracks, focal_lengths: Float[Tensor, "view 2"]) -> None:
        """Args:
        tracks: With at least one observation.
        focal_lengths: Of the training photos, along x and y, in pixels that are trained on.
        """
        super().__init__()
        track, slot, starts = _divided(tracks.point_index)
        count, photo = len(starts), tracks.photo_index.long()
        photos = torch.zeros(count, LONGEST, dtype=torch.long)
        photos[track, slot] = photo
        pixels = torch.zeros(count, LONGEST, 2)
        pixels[track, slot] = tracks.rays.float() * focal_lengths.float()[photo]
        is_seen = torch.zeros(count, LONGEST)
        is_seen[track, slot] = 1
        counts = torch.bincount(photo, minlength=len(focal_lengths))
        by_photo = photo.argsort(stable=True)
        # All follow from the dataparser's tracks, so that checkpoints need not hold them.
        for name, values in (
            ("points", tracks.points.float()[starts]),
            ("photos", photos),
            ("pixels", pixels),
            ("is_seen", is_seen),
            ("places", torch.stack([track, slot], dim=-1)[by_photo]),
            ("first", counts.cumsum(0) - counts),
            ("counts", counts),
        ):
            self.register_buffer(name, values, persistent=False)

    def forward(
        self,
        drawn: Int[Tensor, " drawn"],
        drawn_cameras: Float[Tensor, "drawn 3 4"],
        cameras: Float[Tensor, "view 3 4"],
    ) -> Float[Tensor, ""]:
        """Mean of Huber's loss over random observations of the drawn cameras, pixels squared.

        A camera with fewer than `ENOUGH` observations counts in proportion, one without any not at
        all.

        Args:
            drawn: Rows of cameras, perhaps repeated.
            drawn_cameras: Theirs; the loss is differentiable in these alone.
            cameras: All as they stand.
        """
        pick = torch.randint(len(drawn), (BATCH,), device=drawn.device)
        photo = drawn[pick]
        counts = self.counts[photo]
        nth = (torch.rand(BATCH, device=drawn.device) * counts).long()
        row = self.first[photo] + torch.minimum(nth, counts - 1).clamp_min(0)
        track, slot = self.places[row.clamp_max(len(self.places) - 1)].unbind(-1)
        points = homogeneous(self.points_under(track, cameras))
        here = (drawn_cameras[pick] @ points[..., None]).squeeze(-1)
        is_ahead = here[:, 2] > 0
        depth = torch.where(is_ahead, here[:, 2], 1.0)
        errors = here[:, :2] / depth[:, None] - self.pixels[track, slot]
        costs = huber_cost(errors.square().sum(-1), REACH) / 2
        shares = (counts / ENOUGH).clamp_max(1.0) * is_ahead
        return (shares * costs).mean()

    @torch.no_grad()
    def points_under(
        self, track: Int[Tensor, " some"], cameras: Float[Tensor, "view 3 4"]
    ) -> Float[Tensor, "some 3"]:
        """Where cameras see the points of some tracks best, world frame."""
        by_slot = cameras[self.photos[track]]
        turns, pixels, is_seen = by_slot[..., :3], self.pixels[track], self.is_seen[track]
        points = self.points[track]
        for _ in range(ROUNDS):
            here = (by_slot @ homogeneous(points)[:, None, :, None]).squeeze(-1)
            is_counted = is_seen * (here[..., 2] > 0)
            inverse = is_counted / torch.where(is_counted > 0, here[..., 2], 1.0)
            seen = here[..., :2] * inverse[..., None]
            errors = seen - pixels
            # The gradient of x / z is that of x, less x / z times that of z, over z.
            slopes = turns[..., :2, :] - seen[..., None] * turns[..., 2:, :]
            slopes = (slopes * inverse[..., None, None]).flatten(1, 2)
            weights = huber_weight(errors.square().sum(-1, keepdim=True), REACH)
            weighted = (slopes.unflatten(1, (-1, 2)) * weights[..., None]).flatten(1, 2).mT
            information = weighted @ slopes
            held = DAMPING * information.diagonal(dim1=-2, dim2=-1).mean(-1) + TINY
            information.diagonal(dim1=-2, dim2=-1).add_(held[:, None])
            right = weighted @ errors.flatten(1, 2)[..., None]
            points = points - torch.linalg.solve_ex(information, right).result.squeeze(-1)
        return points


def homogeneous(points: Float[Tensor, "point 3"]) -> Float[Tensor, "point 4"]:
    """(x, y, z) -> (x, y, z, 1)."""
    return torch.nn.functional.pad(points, (0, 1), value=1.0)


def _divided(
    point_index: Int[Tensor, " observation"],
) -> tuple[Int[Tensor, " observation"], Int[Tensor, " observation"], Int[Tensor, " track"]]:
    """Track and slot of each observation, tracks of more than `LONGEST` divided evenly.

    Returns:
        Both, and the point of each track.
    """
    _, point, counts = point_index.unique(return_inverse=True, return_counts=True)
    order = point.argsort(stable=True)
    nth = torch.empty_like(point)
    nth[order] = torch.arange(len(point)) - (counts.cumsum(0) - counts)[point[order]]
    parts = (counts + LONGEST - 1) // LONGEST
    # In turn, so that each part has views of the whole track.
    track = (parts.cumsum(0) - parts)[point] + nth % parts[point]
    starts = torch.empty(int(parts.sum()), dtype=torch.long)
    starts[track] = point_index.long()
    return track, nth // parts[point], starts
