"""Which photos were taken by one physical camera."""

from collections.abc import Sequence

from fm3d_plugins.photos.photo import Photo


def camera_groups(photos: Sequence[Photo], sharing: str) -> list[int]:
    """For each photo the number of its physical camera, from 0 in order of first use.

    Photos whose EXIF tells a focal length share a camera if they agree in size, camera and zoom.
    The others do if at least half of the set has their format, upright or lying: so do frames of
    a video, but not photos by several people.

    Raises:
        ValueError: All photos are to share a camera, but differ in size.
    """
    sizes = sorted({(photo.width, photo.height) for photo in photos})
    if sharing == "shared" and len(sizes) > 1:
        raise ValueError(
            f"The photos have {len(sizes)} sizes (first: {sizes[0]}, {sizes[1]}), but camera is "
            "'shared'. Expected one size for all. Use camera 'auto', which shares a camera among "
            "photos that agree."
        )
    formats = [tuple(sorted((photo.width, photo.height))) for photo in photos]
    keys = []
    for row, photo in enumerate(photos):
        is_common = 2 * formats.count(formats[row]) >= len(photos)
        agrees = photo.focal_prior is not None or is_common
        own = sharing == "per-photo" or (sharing == "auto" and not agrees)
        keys.append(row if own else "shared" if sharing == "shared" else photo.camera_key)
    number_of = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    return [number_of[key] for key in keys]
