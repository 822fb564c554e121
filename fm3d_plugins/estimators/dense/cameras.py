"""Cameras of photos from what a feed-forward network says of them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fm3d_plugins.geometry.alignment import align_cameras
from fm3d_plugins.geometry.cameras import resize_intrinsics
from fm3d_plugins.geometry.known_cameras import KnownCameras
from fm3d_plugins.geometry.pixel_map import PixelMap
from fm3d_plugins.geometry.poses import rotation_angle_degrees
from fm3d_plugins.scene import SceneGeometry

NARROWEST_FOV, WIDEST_FOV = 2.0, 170.0
"""Degrees over the longer side; a focal length outside is no measurement."""


@dataclass(frozen=True)
class DenseCameras:
    """Cameras of all photos, in pixels of the upright photos."""

    world_from_camera: Float[Tensor, "view 4 4"]
    intrinsics: Float[Tensor, "view 3 3"]
    distortion: Float[Tensor, "view 6"]
    depth_scale: Float[Tensor, " view"]
    """By what each view's depth is to be multiplied to agree with these cameras."""
    notes: tuple[str, ...] = ()
    """What was done, a sentence each, for the user."""


def known_cameras(
    scene: SceneGeometry, names: Sequence[str], sizes: Sequence[tuple[int, int]], source: str
) -> KnownCameras:
    """The cameras of a posed scene for the photos of the same file names.

    Args:
        scene: Of any frame and scale.
        names: Of the photos.
        sizes: Width and height of the upright photos; intrinsics follow a photo that is a scaled
            copy of the one they were made for.
        source: Where the scene came from, for messages.

    Raises:
        ValueError: No photo of these names is in it, or a photo has another format.
    """
    row_of = {name.split("/")[-1]: row for row, name in enumerate(scene.names)}
    shared = [(row, row_of[name]) for row, name in enumerate(names) if name in row_of]
    if not shared:
        raise ValueError(
            f"{source} has cameras for {len(scene)} photos (first: {scene.names[0]}), none of "
            f"which is among the {len(names)} photos given (first: {names[0]}). Expected equal "
            "file names. Rename the photos or correct the file."
        )
    intrinsics = {}
    for row, other in shared:
        given, own = scene.image_sizes[other].double(), torch.tensor(sizes[row]).double()
        scale = own / given
        if abs(float(scale[0] / scale[1]) - 1) > 0.01:
            raise ValueError(
                f"{source} has a camera of {given.int().tolist()} pixels for {names[row]}, which "
                f"is {own.int().tolist()}. Expected the same photo or a scaled copy. Correct "
                "the file, or leave out the known cameras."
            )
        intrinsics[row] = resize_intrinsics(scene.intrinsics[other].double(), scale)
    return KnownCameras(
        {row: scene.world_from_camera[other].double() for row, other in shared},
        intrinsics,
        {row: scene.distortion[other].double() for row, other in shared},
    )


def mended_focals(
    intrinsics: Float[Tensor, "view 3 3"], longest: int
) -> tuple[Float[Tensor, "view 3 3"], Bool[Tensor, " view"]]:
    """Cameras with absurd focal lengths replaced by the median of the others, and which are not.

    Args:
        intrinsics: Pixels of a network's canvas.
        longest: Longer side of the canvas, pixels.

    Raises:
        ValueError: All are absurd.
    """
    both = intrinsics[:, (0, 1), (0, 1)]
    fov = torch.rad2deg(2 * torch.atan(longest / 2 / both))
    usable = both.isfinite() & (both > 0) & (fov > NARROWEST_FOV) & (fov < WIDEST_FOV)
    fine = usable.all(-1)
    if not bool(fine.any()):
        raise ValueError(
            f"The network sees none of {len(both)} photos with a field of view between "
            f"{NARROWEST_FOV:g} and {WIDEST_FOV:g} degrees. Expected that of a camera. Check that "
            "the weights are trained ones and that the photos are no panoramas."
        )
    mended = intrinsics.clone()
    middle = both[fine].median(0).values
    mended[:, (0, 1), (0, 1)] = torch.where(fine[:, None], both, middle)
    return mended, fine


def photo_focals(
    intrinsics: Float[Tensor, "view 3 3"], map_from_photo: PixelMap
) -> Float[Tensor, " view"]:
    """Focal length in photo pixels of cameras on a canvas, the mean (geometric) of both axes.

    Cameras of today have square pixels; a network measures the two axes one by one.
    """
    both = map_from_photo.intrinsics_on_photo(intrinsics.double())[:, (0, 1), (0, 1)]
    return both.log().mean(-1).exp()


def scaled_focals(focal_length: float, sizes: Sequence[tuple[int, int]]) -> Float[Tensor, " view"]:
    """A focal length in pixels of the largest photo, in pixels of each, by their longer sides.

    Args:
        sizes: Width and height of the photos that it is said of.
    """
    longest = torch.tensor([max(size) for size in sizes], dtype=torch.float64)
    return focal_length * longest / longest.max()


def settle_cameras(
    world_from_camera: Float[Tensor, "view 4 4"],
    focals: Float[Tensor, " view"],
    sizes: Sequence[tuple[int, int]],
    groups: Sequence[int],
    focal_length: float | None = None,
) -> DenseCameras:
    """One pinhole camera per group of photos: the median focal length, and the photo's centre.

    Depth follows the focal length. In a small patch of two photos what the network has measured
    is parallax, focal * baseline / depth; with another focal length the same parallax means a
    depth that is longer by the same factor.

    Args:
        world_from_camera: OpenCV.
        focals: As the network says, photo pixels.
        sizes: Width and height of the upright photos.
        groups: Photos with an equal number share a camera.
        focal_length: Of all photos, in pixels of one whose longer side is that of the largest;
            what the user knows. None: the network's.
    """
    longest = torch.tensor([max(size) for size in sizes], dtype=torch.float64)
    notes = ()
    if focal_length is not None:
        settled = scaled_focals(focal_length, sizes)
        notes = (f"The given focal length of {focal_length:g} pixels is used.",)
    else:
        members = torch.tensor(groups)
        relative = (focals / longest).log()
        middles = [relative[members == group].median() for group in range(int(members.max()) + 1)]
        settled = torch.stack(middles)[members].exp() * longest
    intrinsics = torch.eye(3, dtype=torch.float64).repeat(len(focals), 1, 1)
    intrinsics[:, 0, 0] = intrinsics[:, 1, 1] = settled
    intrinsics[:, :2, 2] = torch.tensor(sizes, dtype=torch.float64) / 2
    return DenseCameras(
        world_from_camera=world_from_camera.double(),
        intrinsics=intrinsics,
        distortion=torch.zeros(len(focals), 6, dtype=torch.float64),
        depth_scale=settled / focals,
        notes=notes,
    )


def respect_known(
    cameras: DenseCameras, known: KnownCameras, *, use_poses: bool = True
) -> DenseCameras:
    """Move the scene onto the given cameras, and take those exactly where they are given.

    The similarity that fits the network's cameras to the given ones best brings all others into
    the frame and scale of the given ones.

    Args:
        use_poses: Otherwise only the given intrinsics count.

    Raises:
        ValueError: A given pose is not finite.
    """
    intrinsics, distortion = cameras.intrinsics.clone(), cameras.distortion.clone()
    depth_scale, notes = cameras.depth_scale.clone(), list(cameras.notes)
    for row, matrix in known.intrinsics.items():
        focal = (matrix[0, 0] * matrix[1, 1]).sqrt()
        depth_scale[row] *= focal / intrinsics[row, 0, 0]
        intrinsics[row], distortion[row] = matrix, known.distortion[row]
    notes.append(f"Intrinsics of {len(known.intrinsics)} photos are the given ones.")
    changed = replace(
        cameras,
        intrinsics=intrinsics,
        distortion=distortion,
        depth_scale=depth_scale,
        notes=tuple(notes),
    )
    if not use_poses:
        return changed
    rows = sorted(known.world_from_camera)
    given = torch.stack([known.world_from_camera[row] for row in rows])
    similarity = align_cameras(cameras.world_from_camera[rows], given)
    moved = similarity.apply_to_pose(cameras.world_from_camera)
    shift = (moved[rows, :3, 3] - given[:, :3, 3]).norm(dim=-1).median()
    turn = rotation_angle_degrees(moved[rows, :3, :3], given[:, :3, :3]).median()
    moved[rows] = given
    extent = (given[:, :3, 3] - given[:, :3, 3].mean(0)).norm(dim=-1).max()
    share = f" ({float(shift / extent):.1%} of their extent)" if extent > 0 else ""
    notes.append(
        f"Aligned to {len(rows)} given poses: the network's were off by {float(shift):.3g} units"
        f"{share} and {float(turn):.2f} degrees (medians); the given ones are kept."
    )
    return replace(
        changed,
        world_from_camera=moved,
        depth_scale=depth_scale * similarity.scale,
        notes=tuple(notes),
    )
