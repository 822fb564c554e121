"""Photos and cameras are scaled together."""

import numpy as np
import pytest
import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from PIL import Image

from fm3d_plugins.nerfstudio_cameras import with_pinholes
from fm3d_plugins.photo_datamanager import RENDERED_VIEWS, ScaledDataset


def outputs(folder, width, height):
    ramp = np.linspace(0, 255, width).astype(np.uint8)
    Image.fromarray(np.repeat(ramp[None], height, 0)).convert("RGB").save(folder / "a.png")
    mask = np.zeros((height, width), np.uint8)
    mask[:, width // 2 :] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    cameras = Cameras(
        camera_to_worlds=torch.eye(4)[None, :3],
        fx=torch.tensor([500.0]),
        fy=torch.tensor([510.0]),
        cx=torch.tensor([width / 2]),
        cy=torch.tensor([height / 2]),
        width=torch.tensor([width], dtype=torch.int32),
        height=torch.tensor([height], dtype=torch.int32),
    )
    return DataparserOutputs(
        image_filenames=[folder / "a.png"], cameras=cameras, mask_filenames=[folder / "mask.png"]
    )


@pytest.mark.parametrize(("width", "height"), [(844, 633), (984, 738), (1131, 848), (700, 100)])
@pytest.mark.parametrize("image_type", ["uint8", "float32"])
def test_photo_mask_and_camera_agree_in_size(tmp_path, width, height, image_type):
    """The sizes are such that nerfstudio's scaling of photo and camera differ by a pixel."""
    original = outputs(tmp_path, width, height)
    dataset = ScaledDataset(original, 640 / width)
    camera, data = dataset.cameras[0], dataset.get_data(0, image_type)
    size = (round(height * 640 / width), 640)
    assert (int(camera.height), int(camera.width)) == size
    assert data["image"].shape == (*size, 3)
    assert data["mask"].shape == (*size, 1)
    # A point's place relative to the picture stays: u / width and v / height.
    assert float(camera.cx) == pytest.approx(320)
    assert float(camera.cy) == pytest.approx(size[0] / 2)
    assert float(camera.fx) / 640 == pytest.approx(500 / width)
    assert float(camera.fy) / size[0] == pytest.approx(510 / height)
    assert int(original.cameras.width) == width
    # The picture's brightness grows evenly to the right, and the mask begins in the middle.
    row = data["image"][size[0] // 2, :, 0].float() / (255 if image_type == "uint8" else 1)
    expected = (torch.arange(640) + 0.5) / 640
    assert (row - expected).abs().max() < 0.01
    assert not data["mask"][:, :318].any()
    assert data["mask"][:, 322:].all()


@pytest.mark.parametrize(
    ("scale", "photo", "rendered"), [(0.5, 600, 256), (0.25, 300, 256), (0.1, 120, 120)]
)
def test_rendered_views_are_scaled_only_where_photos_would_be_smaller(
    tmp_path, scale, photo, rendered
):
    original = outputs(tmp_path, 1200, 900)
    Image.new("RGB", (256, 192)).save(tmp_path / "b.png")
    lens = torch.tensor([[[100.0, 0, 128], [0, 100, 96], [0, 0, 1]]])
    sizes = torch.tensor([[256, 192]])
    original.cameras = with_pinholes(original.cameras, torch.eye(4)[None], lens, sizes)
    original.image_filenames.append(tmp_path / "b.png")
    original.mask_filenames = None
    original.metadata = {RENDERED_VIEWS: torch.tensor([False, True])}
    dataset = ScaledDataset(original, scale)
    assert dataset.cameras.width.flatten().tolist() == [photo, rendered]
    assert dataset.get_data(1)["image"].shape == (rendered * 3 // 4, rendered, 3)
    assert float(dataset.cameras.cx[1]) == pytest.approx(rendered / 2)
