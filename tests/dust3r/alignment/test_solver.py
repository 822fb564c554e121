"""The solver's derivatives, by how fast it converges, and what it leaves alone."""

from dataclasses import replace

import pytest
import torch

from fm3d_plugins.dust3r.alignment.samples import take_samples
from fm3d_plugins.dust3r.alignment.solver import Unknowns, median_residual, pair_influence, solve
from fm3d_plugins.dust3r.alignment.start import start_state
from fm3d_plugins.dust3r.alignment.views import AlignmentPriors

SIZES = [(24, 32), (32, 24), (20, 28)]


@pytest.fixture(scope="module")
def problem(alignment_scene):
    """Exact pairs in double precision, their samples, and the state that fits them exactly."""
    scene = alignment_scene.Scene.make(SIZES, [30.0, 36.0, 33.0])
    samples = take_samples(scene.pairs(), SIZES, 200)
    return samples, start_state(samples, SIZES, AlignmentPriors())


def unknowns(num_photos=3, num_groups=3, fixed_cameras=(0,), fixed_groups=(), is_scale_free=True):
    cameras = torch.ones(num_photos, dtype=torch.bool)
    cameras[list(fixed_cameras)] = False
    groups = torch.ones(num_groups, dtype=torch.bool)
    groups[list(fixed_groups)] = False
    return Unknowns(cameras, groups, is_scale_free)


def perturbed(state, size, cameras=(1, 2), groups=(0, 1, 2)):
    generator = torch.Generator().manual_seed(4)

    def draw(*shape):
        return size * torch.randn(*shape, generator=generator, dtype=torch.float64)

    camera_steps, focal_steps = torch.zeros(3, 6).double(), torch.zeros(3).double()
    camera_steps[list(cameras)] = draw(len(cameras), 6)
    focal_steps[list(groups)] = draw(len(groups))
    scale_steps = draw(len(state.log_scales))
    # The world's unit is not determined: it stays.
    scale_steps = scale_steps - scale_steps.mean()
    depth = [each * (1 + draw(len(each))) for each in state.depth]
    return state.moved(scale_steps, camera_steps, focal_steps, depth)


def error(state, truth):
    """Largest difference of cameras, focal lengths and scales; depths follow from them."""
    return max(
        float((state.world_from_camera - truth.world_from_camera).abs().max()),
        float((state.log_focals - truth.log_focals).abs().max()),
        float((state.log_scales - truth.log_scales).abs().max()),
    )


def test_start_on_exact_pairs_fits_to_rounding(problem):
    samples, state = problem
    assert median_residual(state, samples) < 1e-6


@pytest.mark.parametrize("size", [1e-2, 1e-3])
def test_one_step_leaves_the_square_of_the_error(problem, size):
    """Only exact derivatives by all unknowns at once do; a wrong sign would leave the error."""
    samples, truth = problem
    start = perturbed(truth, size)
    moved = solve(start, samples, unknowns(), max_steps=1).state
    assert error(start, truth) > size
    # 1e-6: damping of the first step, and single precision of the pairs.
    assert error(moved, truth) < 30 * size**2 + 1e-5 * size + 1e-6


def test_solver_returns_to_the_truth_from_afar(problem):
    samples, truth = problem
    solution = solve(perturbed(truth, 0.1), samples, unknowns(), max_steps=50)
    assert solution.is_converged
    assert error(solution.state, truth) < 1e-5


def test_fixed_cameras_and_focals_stay_bit_for_bit(problem):
    samples, truth = problem
    start = perturbed(truth, 1e-2, cameras=(2,), groups=(0,))
    fixed = unknowns(fixed_cameras=(0, 1), fixed_groups=(1, 2), is_scale_free=False)
    state = solve(start, samples, fixed, max_steps=20).state
    assert torch.equal(state.world_from_camera[:2], start.world_from_camera[:2])
    assert torch.equal(state.log_focals[1:], start.log_focals[1:])
    assert error(state, truth) < 1e-5


def test_product_of_scales_stays_where_the_unit_is_free(problem):
    samples, truth = problem
    start = perturbed(truth, 1e-2)
    state = solve(start, samples, unknowns(), max_steps=20).state
    assert float(state.log_scales.sum()) == pytest.approx(float(start.log_scales.sum()), abs=1e-6)


def test_no_step_is_taken_that_does_not_lower_the_cost(problem):
    """More steps never fit worse, on points with noise."""
    samples, truth = problem
    generator = torch.Generator().manual_seed(0)
    photos = []
    for each in samples.photos:
        noise = 0.01 * torch.randn(each.points.shape, generator=generator).double()
        photos.append(replace(each, points=each.points + noise))
    samples = replace(samples, photos=photos)
    start = perturbed(truth, 0.05)
    fits = [
        median_residual(solve(start, samples, unknowns(), steps).state, samples)
        for steps in (0, 1, 3, 30)
    ]
    assert fits[0] > fits[1] > fits[3] and fits[2] <= fits[1]
    influence = pair_influence(solve(start, samples, unknowns(), 30), samples)
    assert bool(((influence > 0.5) & (influence <= 1)).all())


def test_wrong_points_do_not_pull_the_solution(problem):
    """A fifth of all points at 1.3 times their distance. Plain least squares ends 0.06 off."""
    samples, truth = problem
    photos = []
    for each in samples.photos:
        points = each.points.clone()
        points[:, ::5] *= 1.3
        photos.append(replace(each, points=points))
    spoiled = replace(samples, photos=photos)
    solution = solve(perturbed(truth, 1e-2), spoiled, unknowns(), max_steps=60)
    assert error(solution.state, truth) < 1e-5
