"""What steps of fine-tuning show and ask for."""

import pytest
import torch

from fm3d_plugins.geometry.poses import invert, pose_from_rotation_translation, so3_exp
from fm3d_plugins.lvsm import tuning
from fm3d_plugins.lvsm.inference import PosedPhotos
from fm3d_plugins.lvsm.tuning import Sample, SampleDrawer, mirrored, size_at, varied


def random_sample(count=3, views=2, height=16, width=24):
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(count, views, *shape, generator=generator)  # noqa: E731
    lens = torch.tensor([[20.0, 0, 9], [0, 25, 7], [0, 0, 1]]).expand(count, views, 3, 3)
    poses = pose_from_rotation_translation(so3_exp(0.2 * draw(3)), draw(3))
    return Sample(draw(3, height, width).sigmoid(), lens, poses)


def pixels_of(sample, points):
    inside = invert(sample.world_from_camera)
    seen = torch.einsum("svij,pj->svpi", inside[..., :3, :3], points) + inside[..., None, :3, 3]
    seen = torch.einsum("svij,svpj->svpi", sample.intrinsics, seen)
    return seen[..., :2] / seen[..., 2:]


def test_sizes_double_and_each_lasts_half_as_long_as_the_one_before():
    shares = (0, 3.9 / 7, 4.1 / 7, 5.9 / 7, 6.1 / 7, 1)
    assert [size_at(share, 32, 128) for share in shares] == [32, 32, 64, 64, 128, 128]
    assert size_at(0, 128, 128) == size_at(0, 512, 128) == size_at(0.5, 100, 128) == 128
    assert size_at(0, 30, 250) == 31


def test_a_mirrored_sample_shows_the_mirrored_world():
    sample, points = random_sample(), torch.randn(5, 3) + torch.tensor([0.0, 0, 6])
    which = torch.tensor([True, False, True])
    found = mirrored(sample, which)
    turned = points * torch.tensor([-1.0, 1, 1])
    before, after = pixels_of(sample, points), pixels_of(found, turned)
    width = sample.images.shape[-1]
    torch.testing.assert_close(after[0, :, :, 0], width - before[0, :, :, 0], rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(after[0, :, :, 1], before[0, :, :, 1], rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(pixels_of(found, points)[1], before[1])
    assert torch.equal(found.images[0], sample.images[0].flip(-1))
    assert torch.equal(found.images[1], sample.images[1])
    determinants = torch.linalg.det(found.world_from_camera[..., :3, :3])
    torch.testing.assert_close(determinants, torch.ones(3, 2))


def test_all_views_of_a_varied_sample_change_alike():
    sample = random_sample(count=64)
    gray = Sample(torch.full_like(sample.images, 0.3), sample.intrinsics, sample.world_from_camera)
    torch.manual_seed(0)
    colors = varied(gray).images
    assert torch.equal(colors[:, 0], colors[:, 1])
    assert 0 <= colors.min() and colors.max() <= 1
    changed = (colors[:, 0, :, 0, 0] != 0.3).any(-1).float().mean()
    assert 0.6 < changed < 0.95


@pytest.fixture
def drawer():
    generator = torch.Generator().manual_seed(0)
    shapes = [(32, 48), (32, 48), (48, 32), (32, 48)]
    images = [torch.full((3, *shape), i / 4) for i, shape in enumerate(shapes)]
    lens = torch.tensor([[40.0, 0, 24], [0, 40, 16], [0, 0, 1]]).repeat(4, 1, 1)
    poses = pose_from_rotation_translation(
        torch.eye(3).expand(4, 3, 3), torch.randn(4, 3, generator=generator)
    )
    photos = PosedPhotos(images, lens, poses)
    others = lambda view: [i for i in range(4) if i != view][:2]  # noqa: E731
    return SampleDrawer(photos, others, patch_size=4, is_varied=False)


def test_photos_of_other_proportions_are_squeezed_together_with_their_cameras(drawer):
    torch.manual_seed(0)
    for _ in range(8):
        sample = drawer.draw(3, longest=16)
        rows, columns = sample.images.shape[-2:]
        assert max(rows, columns) == 16 and rows % 4 == columns % 4 == 0
        numbers = (4 * sample.images.mean((2, 3, 4))).round().long()
        for each, lenses in zip(numbers.tolist(), sample.intrinsics, strict=True):
            assert each[:2] == [i for i in range(4) if i != each[2]][:2]
            for number, lens in zip(each, lenses, strict=True):
                width, height = (32, 48) if number == 2 else (48, 32)
                expected = torch.tensor([40 * columns / width, 40 * rows / height])
                torch.testing.assert_close(lens.diagonal()[:2], expected)


def test_photos_are_made_smaller_once_for_each_shape_until_the_size_grows(drawer, monkeypatch):
    sizes = []
    resize = tuning.resized_images
    monkeypatch.setattr(
        tuning, "resized_images", lambda image, *size: sizes.append(size) or resize(image, *size)
    )
    torch.manual_seed(0)
    for _ in range(30):  # Portrait and landscape in turns.
        drawer.draw(1, longest=16)
    assert len(set(sizes)) == 2 and len(sizes) == 2 * len(drawer.photos)
    drawer.draw(1, longest=32)
    assert len(drawer._resized) == 1


def test_rays_are_in_the_frame_of_the_context_alone():
    sample = random_sample()
    moved = sample.world_from_camera.clone()
    moved[:, -1, :3, 3] += 1.0
    other = Sample(sample.images, sample.intrinsics, moved)
    assert torch.equal(sample.rays()[:, :-1], other.rays()[:, :-1])
    assert not torch.allclose(sample.rays()[:, -1], other.rays()[:, -1])
