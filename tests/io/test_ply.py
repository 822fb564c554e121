"""PLY point clouds: round trip, foreign layouts, damaged files, other readers."""

import numpy as np
import pytest
import torch

from fm3d_plugins.io.ply import PointCloud, read_ply, write_ply


@pytest.fixture
def cloud():
    generator = torch.Generator().manual_seed(0)
    return PointCloud(
        points=torch.randn(50, 3, generator=generator),
        colors=torch.randint(0, 256, (50, 3), generator=generator, dtype=torch.uint8),
        confidence=torch.rand(50, generator=generator),
    )


def assert_equal(found, expected):
    for name in ("points", "colors", "confidence"):
        ours, theirs = getattr(found, name), getattr(expected, name)
        assert (ours is None) == (theirs is None), name
        assert ours is None or torch.equal(ours, theirs), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_written_cloud_is_read_back_exactly(tmp_path, cloud, dtype):
    path = tmp_path / "größe 点.ply"
    points = cloud.points.to(dtype)
    for written in (
        PointCloud(points, cloud.colors, cloud.confidence),
        PointCloud(points),
        PointCloud(points[:0], cloud.colors[:0]),
    ):
        write_ply(path, written.points, written.colors, written.confidence)
        assert_equal(read_ply(path), written)


def test_open3d_reads_what_we_write(tmp_path, cloud):
    """Oracle: the reader that nerfstudio uses."""
    open3d = pytest.importorskip("open3d")
    write_ply(tmp_path / "cloud.ply", cloud.points, cloud.colors, cloud.confidence)
    found = open3d.io.read_point_cloud(str(tmp_path / "cloud.ply"))
    torch.testing.assert_close(torch.from_numpy(np.asarray(found.points)), cloud.points.double())
    assert torch.equal(
        torch.round(torch.from_numpy(np.asarray(found.colors)) * 255).byte(), cloud.colors
    )


@pytest.mark.parametrize("ascii_text", [True, False])
def test_what_open3d_writes_is_read(tmp_path, cloud, ascii_text):
    open3d = pytest.importorskip("open3d")
    foreign = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(cloud.points.numpy()))
    foreign.colors = open3d.utility.Vector3dVector(cloud.colors.double().numpy() / 255)
    open3d.io.write_point_cloud(str(tmp_path / "cloud.ply"), foreign, write_ascii=ascii_text)
    found = read_ply(tmp_path / "cloud.ply")
    # Open3D writes six significant digits as text.
    torch.testing.assert_close(found.points, cloud.points.double(), atol=1e-6, rtol=1e-5)
    assert torch.equal(found.colors, cloud.colors)


def test_ascii_file_with_comments_faces_and_windows_line_ends(tmp_path):
    lines = (
        "ply\nformat ascii 1.0\ncomment made by hand\nelement vertex 2\nproperty float x\n"
        "property float y\nproperty float z\nproperty float quality\nproperty uchar red\n"
        "property uchar green\nproperty uchar blue\nelement face 1\n"
        "property list uchar int vertex_indices\nend_header\n"
        "1 2 3 0.5 255 0 7\n4 5 6e-1 0.5 1 2 3\n2 0 1\n"
    )
    path = tmp_path / "hand.ply"
    path.write_bytes(lines.replace("\n", "\r\n").encode())
    expected = PointCloud(
        torch.tensor([[1.0, 2, 3], [4, 5, 0.6]]),
        torch.tensor([[255, 0, 7], [1, 2, 3]], dtype=torch.uint8),
    )
    assert_equal(read_ply(path), expected)


@pytest.mark.parametrize(
    ("kind", "values"), [("float", "0 0.5 1"), ("ushort", "0 32896 65535"), ("uchar", "0 128 255")]
)
def test_colors_of_any_number_type_become_bytes(tmp_path, kind, values):
    """Truth: half of the range is 128 of 255 in each of the three types."""
    path = tmp_path / "colors.ply"
    properties = "".join(f"property {kind} {name}\n" for name in ("red", "green", "blue"))
    positions = "property double x\nproperty double y\nproperty double z\n"
    path.write_text(
        f"ply\nformat ascii 1.0\nelement vertex 1\n{positions}{properties}end_header\n"
        f"0 0 0 {values}\n"
    )
    assert read_ply(path).colors.tolist() == [[0, 128, 255]]


def test_big_endian_file_is_read(tmp_path):
    path = tmp_path / "big.ply"
    header = "ply\nformat binary_big_endian 1.0\nelement vertex 1\n"
    header += "property float x\nproperty float y\nproperty float z\nend_header\n"
    # 1.0, 2.0 and -2.0 as IEEE 754 single precision, most significant byte first.
    path.write_bytes(header.encode() + bytes.fromhex("3f800000 40000000 c0000000"))
    assert read_ply(path).points.tolist() == [[1.0, 2.0, -2.0]]


TEXT = "ply\nformat ascii 1.0\n"
BINARY = "ply\nformat binary_little_endian 1.0\n"
POSITIONS = "property float x\nproperty float y\nproperty float z\nend_header\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("solid stl", "does not begin"),
        (f"{TEXT}element vertex 2\n", "end_header"),
        (f"{TEXT}element vertex 2\n{POSITIONS}1 2 3\n", "promises 2 vertices but holds 1"),
        (f"{BINARY}element vertex 2\n{POSITIONS}12345678901234567", "2 vertices but holds 1"),
        (f"{BINARY}element vertex 99999999999999\n{POSITIONS}", "holds 0"),
        (f"{TEXT}element vertex 1\nproperty float x\nend_header\n1\n", "x, y and z"),
        (f"{TEXT}element vertex 1\n{POSITIONS}1 2 three\n", "numbers"),
        (f"{TEXT}element face 3\nproperty list uchar int i\n", "first element"),
        (f"{TEXT}element vertex 1\nproperty list uchar int i\n", "one number"),
    ],
)
def test_damaged_file_is_refused_by_name(tmp_path, content, message):
    path = tmp_path / "damaged.ply"
    path.write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_ply(path)
    assert "damaged.ply" in str(caught.value)


def test_absent_file_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.ply"):
        read_ply(tmp_path / "absent.ply")
