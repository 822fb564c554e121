"""Where rays are cut, and what the grid remembers."""

import pytest
import torch
from torch.nn.functional import normalize

from fm3d_plugins.kernels.hash_grid import HashGridLayout
from fm3d_plugins.kernels.radiance_field.definitions import (
    INITIAL_DENSITY,
    FieldParameters,
    Intervals,
)
from fm3d_plugins.kernels.radiance_field.importance_reference import (
    MAX_DENSITY,
    RATE,
    draw_intervals_torch,
    move_cells_torch,
)
from fm3d_plugins.kernels.radiance_field.torch_reference import contract_to_cube
from fm3d_plugins.nerf.importance_grid import ImportanceGrid, expand_from_cube


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def make_rays(num_rays=200):
    generator = torch.Generator().manual_seed(0)
    origins = 2 * torch.rand(num_rays, 3, generator=generator) - 1
    directions = normalize(torch.randn(num_rays, 3, generator=generator), dim=-1)
    return origins, directions, torch.rand(num_rays, generator=generator)


def test_intervals_join_from_near_to_far():
    origins, directions, jitter = make_rays()
    grid = ImportanceGrid(32, 64)
    grid.densities.copy_(5 * torch.rand(32, 32, 32))
    cut = grid.intervals(origins, directions, 48, near=0.1, far=50.0, jitter=jitter)
    starts, ends = cut.middles - cut.lengths / 2, cut.middles + cut.lengths / 2
    assert (cut.lengths >= 0).all()
    torch.testing.assert_close(starts[:, 0], torch.full((200,), 0.1))
    torch.testing.assert_close(ends[:, -1], torch.full((200,), 50.0))
    torch.testing.assert_close(ends[:, :-1], starts[:, 1:], rtol=1e-4, atol=1e-5)


def test_in_empty_space_cuts_are_even_then_inverse():
    """Between 0.5 and 2 the map 2t | 1 - 1/(2t) has values 1/4 to 3/4, its middle at 1."""
    grid = ImportanceGrid(8, 32)
    strata = grid.strata(0.5, 2.0)
    torch.testing.assert_close(strata[[0, 16, 32]], torch.tensor([0.5, 1.0, 2.0]))
    torch.testing.assert_close(strata[:17].diff(), torch.full((16,), 1 / 32))
    origins, directions, _ = make_rays(1)
    cut = grid.intervals(origins, directions, 16, near=0.5, far=2.0)
    # 15 inner cuts at (j + 1/2) / 15 of the strata's numbers: the eighth is the middle.
    end = cut.middles + cut.lengths / 2
    torch.testing.assert_close(end[0, 7], torch.tensor(1.0))


def test_samples_gather_at_a_wall():
    """A dense plate at x = 0.5 seen along x from -0.5: most samples lie about distance 1."""
    grid = ImportanceGrid(128, 128)
    # Cell of x = 0.5: (0.5 / 4 + 0.5) 128 = 80.
    grid.densities[80:82] = MAX_DENSITY
    origins = torch.tensor([[-0.5, 0.0, 0.0]])
    directions = torch.tensor([[1.0, 0.0, 0.0]])
    cut = grid.intervals(origins, directions, 64, near=0.05, far=100.0)
    is_near = (cut.middles - 1.0).abs() < 0.06
    # The wall's stratum has weight 1, its two neighbours half; all others share 1/2 together.
    assert int(is_near.sum()) >= 64 * (2 / 2.5) - 3


@pytest.mark.parametrize("num_samples", [1, 16, 33])
def test_the_kernel_is_the_definition(num_samples):
    origins, directions, jitter = make_rays()
    grid = ImportanceGrid(32, 64)
    grid.densities.copy_(20 * (torch.rand(32, 32, 32) > 0.9))
    strata = grid.strata(0.05, 100.0)
    exact = draw_intervals_torch(
        grid.densities.double(), strata.double(), origins.double(), directions.double(),
        num_samples, jitter.double(),
    )  # fmt: skip
    fast = grid.intervals(origins, directions, num_samples, near=0.05, far=100.0, jitter=jitter)
    # Where a position falls on a cell's face, single precision may look into the other cell.
    differs = (fast.middles - exact.middles).abs() > 1e-3 * exact.middles
    assert float(differs.double().mean()) < 0.02


def test_a_cell_moves_to_its_samples_mean():
    """n samples of mean m move an empty cell to m (1 - (1 - RATE)^n); huge ones count as MAX."""
    grid = ImportanceGrid(16, 16)
    origins, directions = torch.zeros(1, 3), torch.tensor([[0.0, 0.0, 1.0]])
    middles = torch.tensor([[0.6] * 3 + [0.9] + [1e6] * 12])
    lengths = torch.zeros_like(middles)
    densities = torch.tensor([[1.0, 2.0, 6.0, 2 * MAX_DENSITY] + [0.0] * 12])
    grid.remember(origins, directions, Intervals(middles, lengths), densities)
    x, z = 8, [int((0.6 / 4 + 0.5) * 16), int((0.9 / 4 + 0.5) * 16)]
    assert float(grid.densities[x, x, z[0]]) == pytest.approx(3 * (1 - (1 - RATE) ** 3), rel=1e-5)
    assert float(grid.densities[x, x, z[1]]) == pytest.approx(MAX_DENSITY * RATE, rel=1e-5)
    assert int((grid.densities > 0).sum()) == 2


def test_remembering_by_kernel_and_by_torch_is_the_same():
    origins, directions, jitter = make_rays()
    by_kernel, by_torch = ImportanceGrid(32, 64), ImportanceGrid(32, 64)
    cut = by_kernel.intervals(origins, directions, 32, near=0.1, far=50.0, jitter=jitter)
    positions = origins[:, None] + cut.middles[..., None] * directions[:, None]
    sums, counts = torch.zeros(2, 32**3)
    for _ in range(2):
        densities = 400 * torch.rand(200, 32)
        by_kernel.remember(origins, directions, cut, densities)
        move_cells_torch(
            by_torch.densities, sums, counts, positions.flatten(0, 1), densities.flatten()
        )
    differs = (by_kernel.densities - by_torch.densities).abs() > 1e-3
    # A position on a cell's face may be rounded into either cell.
    assert int(differs.sum()) <= 4
    assert int((by_torch.densities > 0).sum()) > 1000


def test_refreshing_looks_up_the_field_everywhere():
    """A fresh field has one density in all of space, and the grid comes to know it."""
    layout = HashGridLayout(num_levels=4, base_resolution=4, log2_table_size=8)
    shapes = [(layout.num_entries, 4), (16, 64), (64, 16), (16, 64), (16, 64), (64, 3)]
    parameters = FieldParameters(*[torch.zeros(shape) for shape in shapes])
    grid = ImportanceGrid(8, 16)
    for _ in range(60):
        grid.refresh(parameters, layout, torch.Generator().manual_seed(0), share=20.0)
    torch.testing.assert_close(
        grid.densities, torch.full((8, 8, 8), INITIAL_DENSITY), rtol=0.02, atol=0
    )


def test_expanding_undoes_contracting():
    points = 3 * torch.randn(500, 3, dtype=torch.float64)
    torch.testing.assert_close(expand_from_cube(contract_to_cube(points)), points)


def test_rays_that_end_before_they_begin_are_refused():
    origins, directions, _ = make_rays(2)
    with pytest.raises(ValueError, match="Expected 0 < near < far"):
        ImportanceGrid(8, 16).intervals(origins, directions, 8, near=2.0, far=1.0)


def test_memory_of_a_checkpoint_is_the_densities_alone():
    assert list(ImportanceGrid(8, 16).state_dict()) == ["densities"]
