"""Triangles: their normals, their parts, and their move into another frame."""

import torch

from fm3d_plugins.geometry.alignment import Similarity
from fm3d_plugins.geometry.mesh import Mesh
from fm3d_plugins.geometry.poses import so3_exp

SQUARE = torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
TWO_TRIANGLES = torch.tensor([[0, 1, 2], [0, 2, 3]])


def mesh_of(vertices, faces):
    return Mesh(vertices, torch.zeros(len(vertices), 3, dtype=torch.uint8), faces)


def test_normals_point_where_triangles_run_counter_clockwise():
    up = torch.tensor([[0.0, 0, 1]]).expand(4, 3)
    torch.testing.assert_close(mesh_of(SQUARE, TWO_TRIANGLES).normals(), up)
    torch.testing.assert_close(mesh_of(SQUARE, TWO_TRIANGLES.flip(1)).normals(), -up)


def test_normals_turn_with_the_mesh_and_do_not_grow():
    turn = so3_exp(torch.tensor([0.3, -1.0, 0.7], dtype=torch.float64))
    similarity = Similarity(torch.tensor(7.0).double(), turn, torch.ones(3).double())
    mesh = mesh_of(SQUARE, TWO_TRIANGLES)
    expected = mesh.normals().double() @ turn.T
    torch.testing.assert_close(mesh.moved(similarity).normals(), expected)


def test_small_parts_go_and_the_rest_is_numbered_anew():
    crumb = SQUARE[:3] + 5
    vertices = torch.cat([crumb, SQUARE])
    faces = torch.cat([torch.tensor([[0, 1, 2]]), TWO_TRIANGLES + 3])
    mesh = mesh_of(vertices, faces).without_crumbs(0.6)
    torch.testing.assert_close(mesh.vertices, SQUARE)
    torch.testing.assert_close(mesh.faces, TWO_TRIANGLES)
    assert len(mesh_of(vertices, faces).without_crumbs(0.5).faces) == 3
