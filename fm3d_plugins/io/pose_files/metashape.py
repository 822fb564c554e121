"""Metashape's (PhotoScan's) cameras.xml.

A camera's transform (4 x 4, row by row) leads from OpenCV axes into the frame of its component, or
of the chunk; a component's own transform (rotation, translation, scale) leads on into the world,
and where it has none the chunk's. Cameras without a transform were not aligned.

A pixel is (w / 2 + cx + f x' + b1 x', h / 2 + cy + f y'), the corner of the first at (0, 0), with
x' = x (1 + k1 r² + k2 r⁴ + k3 r⁶ + k4 r⁸) + p1 (r² + 2 x²) + 2 p2 x y, and y' likewise with p1 and
p2 exchanged: p1 here is OpenCV's p2. The skew b2 adds b2 y' to x, which no scene holds.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element

import torch

from fm3d_plugins.errors import listed
from fm3d_plugins.geometry.alignment import Similarity
from fm3d_plugins.io.pose_files.posed_photos import PosedPhotos, posed_photos, without_rounding
from fm3d_plugins.io.pose_files.reading import files_in, head, numbers, read_xml, size
from fm3d_plugins.progress import say

LOOKED_FOR = "Metashape: *.xml with <document> and <chunk> (File > Export > Export Cameras)"

MOST_SKEW = 0.5
"""Pixels by which b2 may move a photo's edge and is passed over."""


@dataclass(frozen=True)
class _Sensor:
    size: tuple[int, int]
    focals: tuple[float, float]
    principal_point: tuple[float, float]
    distortion: tuple[float, ...]


def find(path: Path) -> tuple[Path, ...]:
    """The file; cameras.xml before others."""
    files = files_in(path, (".",), ("*.xml",))
    for file in sorted(files, key=lambda each: each.name != "cameras.xml"):
        beginning = head(file)
        if b"<document" in beginning and b"<chunk" in beginning:
            return (file,)
    return ()


def read(files: tuple[Path, ...]) -> PosedPhotos:
    """Aligned cameras of all chunks; the first with any, if there are several.

    Raises:
        ValueError: The file is damaged; an aligned camera has no calibrated lens, or one that is
            not a perspective one.
    """
    (path,) = files
    chunks = [*read_xml(path).iter("chunk")]
    chosen = next((chunk for chunk in chunks if _aligned(chunk)), None)
    if chosen is None:
        cameras = sum(1 for chunk in chunks for _ in chunk.iter("camera"))
        raise ValueError(
            f"{path} has {cameras} cameras, none of which is aligned (has a transform). Expected "
            "aligned photos. Align them in Metashape, and export the cameras anew."
        )
    if len(chunks) > 1:
        say(f"{path} holds {len(chunks)} chunks; {chosen.get('label')!r} is taken.")
    return _read_chunk(chosen)


def _read_chunk(chunk: Element) -> PosedPhotos:
    aligned = _aligned(chunk)
    elements = {sensor.get("id"): sensor for sensor in chunk.iter("sensor")}
    used = {camera.get("sensor_id") for camera in aligned}
    sensors = {key: _sensor(elements.get(key), key) for key in used}
    whole = _similarity(chunk.find("transform"), "the chunk")
    parts: dict[str | None, Similarity | None] = {
        part.get("id"): _similarity(part.find("transform"), f"component {part.get('id')}")
        for part in chunk.iterfind("components/component")
    }
    names, poses, lenses, is_placed = [], [], [], []
    for camera in aligned:
        name = _name(camera)
        pose = torch.tensor(numbers(camera.findtext("transform"), 16, f"the transform of {name}"))
        moved = parts.get(camera.get("component_id")) or whole
        pose = without_rounding(pose.double().reshape(1, 4, 4))
        poses.append(moved.apply_to_pose(pose) if moved is not None else pose)
        names.append(name)
        lenses.append(sensors[camera.get("sensor_id")])
        is_placed.append(moved is not None)
    order, has_pose = sorted(sensors, key=str), set(aligned)
    return posed_photos(
        names,
        torch.cat(poses),
        torch.tensor([lens.focals for lens in lenses]),
        axes="opencv",
        principal_points=torch.tensor([lens.principal_point for lens in lenses]),
        image_sizes=[lens.size for lens in lenses],
        distortion=torch.tensor([lens.distortion for lens in lenses]),
        camera_index=[order.index(camera.get("sensor_id")) for camera in aligned],
        # A transform into the world is there where markers, scale bars or GPS told it.
        scale="metric" if all(is_placed) else "relative",
        without_pose=[_name(one) for one in chunk.iter("camera") if one not in has_pose],
    )


def _aligned(chunk: Element) -> list[Element]:
    return [camera for camera in chunk.iter("camera") if camera.find("transform") is not None]


def _name(camera: Element) -> str:
    return camera.get("label") or f"camera {camera.get('id')}"


def _similarity(element: Element | None, what: str) -> Similarity | None:
    """x -> s R x + t of a <transform>; None where there is none."""
    if element is None or (element.find("rotation") is None and element.find("scale") is None):
        return None
    turn = element.findtext("rotation") or "1 0 0 0 1 0 0 0 1"
    move = element.findtext("translation") or "0 0 0"
    factor = numbers(element.findtext("scale") or "1", 1, f"the scale of {what}")[0]
    rotation = torch.tensor(numbers(turn, 9, f"the rotation of {what}"), dtype=torch.float64)
    if factor <= 0:
        raise ValueError(f"The scale of {what} is {factor:g}; expected a number above 0.")
    translation = torch.tensor(numbers(move, 3, f"the translation of {what}"), dtype=torch.float64)
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, :3] = rotation.reshape(3, 3)
    return Similarity(
        torch.tensor(factor, dtype=torch.float64), without_rounding(pose)[:3, :3], translation
    )


def _sensor(element: Element | None, key: str | None) -> _Sensor:
    """A lens as it was adjusted, or as it was known before where it was not."""
    what = f"sensor {key}"
    found = [] if element is None else element.findall("calibration")
    adjusted = [one for one in found if one.get("class") == "adjusted"]
    if element is None or not found:
        raise ValueError(
            f"{what} of aligned cameras has no <calibration>. Expected its lens. Optimise the "
            "cameras in Metashape, and export them anew."
        )
    lens = (adjusted or found)[-1]
    for kind in (element.get("type"), lens.get("type")):
        if kind not in (None, "frame"):
            raise ValueError(
                f"{what} ({element.get('label')}) is of the type {kind!r}; expected 'frame', a "
                "perspective lens. Undistort the photos in Metashape, and export them anew."
            )
    picture = lens.find("resolution")
    picture = element.find("resolution") if picture is None else picture
    sides: Mapping[str, str] = {} if picture is None else picture.attrib
    width, height = size([sides.get("width"), sides.get("height")], what)
    values = {
        child.tag: numbers(child.text, 1, f"{child.tag} of {what}")[0]
        for child in lens
        if child.tag in ("f", "fx", "fy", "cx", "cy", "b1", "b2", *(f"k{i}" for i in range(1, 5)),
                         "p1", "p2", "p3", "p4")
    }  # fmt: skip
    return _lens(values, (width, height), what)


def _lens(values: Mapping[str, float], size: tuple[int, int], what: str) -> _Sensor:
    width, height = size
    if "f" in values:
        focals = values["f"] + values.get("b1", 0.0), values["f"]
        middle = width / 2 + values.get("cx", 0.0), height / 2 + values.get("cy", 0.0)
    elif {"fx", "fy"} <= set(values):  # Before version 1.2: pixels from the corner.
        focals = values["fx"], values["fy"]
        middle = values.get("cx", width / 2), values.get("cy", height / 2)
    else:
        raise ValueError(f"{what} has no focal length <f>. Expected one. Export the file anew.")
    unheld = [name for name in ("p3", "p4") if values.get(name)]
    if unheld:
        raise ValueError(
            f"{what} has the distortion {listed(unheld)}, which no scene holds; expected k1 to k4, "
            "p1, p2. Fix these at 0 in Metashape, and optimise the cameras anew."
        )
    moved = abs(values.get("b2", 0.0)) * height / 2 / max(focals[1], 1e-9)
    if moved > MOST_SKEW:
        raise ValueError(
            f"{what} has a skew b2 = {values['b2']:g}, which moves the photo's edge by {moved:.1f} "
            f"pixels; expected at most {MOST_SKEW}, as no scene holds skew. Fix b2 at 0 in "
            "Metashape, and optimise the cameras anew."
        )
    if moved:
        say(f"The skew of {what} is passed over: it moves a photo's edge by {moved:.2f} pixels.")
    k1, k2, k3, k4, p1, p2 = (values.get(k, 0.0) for k in ("k1", "k2", "k3", "k4", "p1", "p2"))
    return _Sensor(size, focals, middle, (k1, k2, k3, k4, p2, p1))
