"""Scale and shift of depth maps: exact on exact data, and blind to what it shall be blind to."""

import pytest
import torch

from fm3d_plugins.depth_supervision.alignment import (
    Moments,
    fit,
    relative_errors,
    solve,
    weighted_moments,
)

torch.set_num_threads(1)
PHOTOS = 3


def none_before(dtype=torch.float64):
    return Moments.from_table(torch.zeros(PHOTOS, 7, dtype=dtype))


@pytest.fixture
def pixels():
    """Target, rendered, weight and photo of 300 pixels; the depths differ by 5 % noise."""
    generator = torch.Generator().manual_seed(0)

    def rand(*shape):
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    photo = torch.arange(300) % PHOTOS
    target = 1 + 3 * rand(300)
    scale, shift = torch.tensor([0.5, 1.0, 2.0]), torch.tensor([0.3, 0.0, 1.0])
    rendered = (scale[photo] * target + shift[photo]) * (1 + 0.1 * (rand(300) - 0.5))
    return target, rendered, 0.1 + rand(300), photo


def aligned(target, rendered, weight, photo, mode):
    return fit(target, rendered, weight, photo, none_before(target.dtype), mode)[0].apply(
        target, photo
    )


def test_moments_are_those_of_a_loop_over_photos(pixels):
    target, rendered, weight, photo = pixels
    moments = weighted_moments(*pixels, PHOTOS)
    for i in range(PHOTOS):
        x, y, w = (values[photo == i] for values in (target, rendered, weight))
        mx, my = (w * x).sum() / w.sum(), (w * y).sum() / w.sum()
        expected = [len(x), w.sum(), mx, my]
        expected += [(w * (x - mx) ** 2).sum(), (w * (x - mx) * (y - my)).sum()]
        expected += [(w * (y - my) ** 2).sum()]
        torch.testing.assert_close(
            moments.table()[i], torch.tensor([float(e) for e in expected], dtype=torch.float64)
        )


def test_joined_moments_are_those_of_all_pixels(pixels):
    first = weighted_moments(*(values[:100] for values in pixels), PHOTOS)
    rest = weighted_moments(*(values[100:] for values in pixels), PHOTOS)
    whole = weighted_moments(*pixels, PHOTOS)
    torch.testing.assert_close(first.joined(rest).table(), whole.table())
    torch.testing.assert_close(none_before().joined(whole).table(), whole.table())
    torch.testing.assert_close(whole.joined(none_before()).table(), whole.table())


def test_fading_is_a_smaller_weight_of_every_pixel(pixels):
    target, rendered, weight, photo = pixels
    share = torch.tensor([0.5, 1.0, 0.0], dtype=torch.float64)
    faded = weighted_moments(*pixels, PHOTOS).faded(share)
    other = weighted_moments(target, rendered, weight * share[photo], photo, PHOTOS)
    for name in ("weight", "xx", "xy", "yy"):
        torch.testing.assert_close(getattr(faded, name), getattr(other, name))


def test_solution_is_that_of_weighted_least_squares(pixels):
    target, rendered, weight, photo = pixels
    alignment = solve(weighted_moments(*pixels, PHOTOS), "scale-shift")
    for i in range(PHOTOS):
        x, y, w = (values[photo == i] for values in (target, rendered, weight))
        columns = torch.stack([x, torch.ones_like(x)], dim=-1) * w.sqrt()[:, None]
        scale, shift = torch.linalg.lstsq(columns, (y * w.sqrt())[:, None]).solution.flatten()
        torch.testing.assert_close(alignment.scale[i], scale)
        torch.testing.assert_close(alignment.shift[i], shift)


def test_scale_alone_minimises_the_weighted_squares(pixels):
    """sum w x y / sum w x x."""
    target, rendered, weight, photo = pixels
    alignment = solve(weighted_moments(*pixels, PHOTOS), "scale")
    for i in range(PHOTOS):
        x, y, w = (values[photo == i] for values in (target, rendered, weight))
        torch.testing.assert_close(alignment.scale[i], (w * x * y).sum() / (w * x * x).sum())
    assert not alignment.shift.any()


@pytest.mark.parametrize("mode", ["scale-shift", "scale"])
def test_exact_depth_is_found_exactly_and_fully_trusted(pixels, mode):
    target, _, weight, photo = pixels
    scale = torch.tensor([0.5, 1.0, 7.0], dtype=torch.float64)
    shift = torch.tensor([0.3, 0.0, -2.0], dtype=torch.float64) * (mode == "scale-shift")
    rendered = scale[photo] * target + shift[photo]
    alignment, _ = fit(target, rendered, weight, photo, none_before(), mode)
    torch.testing.assert_close(alignment.scale, scale)
    torch.testing.assert_close(alignment.shift, shift)
    torch.testing.assert_close(alignment.trust, torch.ones_like(scale))


def test_affine_changes_of_the_target_change_nothing(pixels):
    target, *others = pixels
    expected = aligned(target, *others, "scale-shift")
    for scale, shift in ((40.0, 0.0), (1.0, 17.0), (0.02, 3.0)):
        found = aligned(scale * target + shift, *others, "scale-shift")
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_a_factor_of_the_target_changes_nothing_of_a_scale(pixels):
    target, *others = pixels
    expected = aligned(target, *others, "scale")
    torch.testing.assert_close(aligned(40 * target, *others, "scale"), expected)
    moved = aligned(target + 2, *others, "scale")
    assert (moved - expected).abs().max() > 0.1


def test_without_alignment_depths_stay(pixels):
    assert torch.equal(aligned(*pixels, "none"), pixels[0])


def test_pixels_without_weight_have_no_influence(pixels):
    target, rendered, weight, photo = pixels
    weight = weight.clone()
    weight[::4] = 0
    target2, rendered2 = target.clone(), rendered.clone()
    target2[::4], rendered2[::4] = 1e4, 1e-3
    for mode in ("scale-shift", "scale"):
        first, _ = fit(target, rendered, weight, photo, none_before(), mode)
        second, _ = fit(target2, rendered2, weight, photo, none_before(), mode)
        assert torch.equal(first.scale, second.scale)
        assert torch.equal(first.shift, second.shift)
        assert torch.equal(first.trust, second.trust)


def test_a_tenth_of_wrong_pixels_moves_a_robust_fit_little(pixels):
    """Plain least squares misses by far more than the robust fit on the same pixels."""
    target, _, weight, photo = pixels
    rendered = 2 * target + 1
    rendered[::10] = 30.0
    weights = torch.ones_like(weight)
    robust, _ = fit(target, rendered, weights, photo, none_before(), "scale-shift")
    plain = solve(weighted_moments(target, rendered, weights, photo, PHOTOS), "scale-shift")
    good = torch.arange(300) % 10 != 0
    truth = (2 * target + 1)[good]
    misses = [
        ((found.apply(target, photo)[good] - truth) / truth).abs().mean()
        for found in (robust, plain)
    ]
    assert misses[0] < 0.03
    assert misses[1] > 0.3


def test_an_infinitely_far_background_does_not_decide_the_fit(pixels):
    target, _, weight, photo = pixels
    rendered = 2 * target + 1
    rendered[::20] = 1e3
    alignment, _ = fit(target, rendered, weight, photo, none_before(), "scale-shift")
    near = torch.arange(300) % 20 != 0
    found, truth = alignment.apply(target, photo)[near], (2 * target + 1)[near]
    assert ((found - truth) / truth).abs().max() < 0.1


@pytest.mark.parametrize("mode", ["scale-shift", "scale"])
@pytest.mark.parametrize("count", [0, 1, 2])
def test_fewer_than_three_pixels_give_no_fit(pixels, mode, count):
    target, rendered, weight, photo = pixels
    weight = weight.where(torch.arange(300) < PHOTOS * count, 0.0)
    alignment, _ = fit(target, rendered, weight, photo, none_before(), mode)
    assert not alignment.trust.any()
    assert torch.stack([alignment.scale, alignment.shift]).isfinite().all()


def test_constant_depth_gives_no_scale_and_shift_but_a_scale(pixels):
    _, rendered, weight, photo = (v.float() if v.is_floating_point() else v for v in pixels)
    target = torch.full_like(rendered, 3.7)
    before = none_before(torch.float32)
    assert not fit(target, rendered, weight, photo, before, "scale-shift")[0].trust.any()
    assert fit(target, rendered, weight, photo, before, "scale")[0].trust.all()


def test_a_map_of_the_opposite_slope_is_not_trusted(pixels):
    target, _, weight, photo = pixels
    alignment, _ = fit(target, 5 - target, weight, photo, none_before(), "scale-shift")
    assert not alignment.trust.any()


def test_trust_is_the_explained_share_of_the_variance(pixels):
    target, rendered, weight, photo = pixels
    alignment = solve(weighted_moments(*pixels, PHOTOS), "scale-shift")
    found = alignment.apply(target, photo)
    for i in range(PHOTOS):
        y, f, w = (values[photo == i] for values in (rendered, found, weight))
        mean = (w * y).sum() / w.sum()
        unexplained = (w * (y - f) ** 2).sum() / (w * (y - mean) ** 2).sum()
        torch.testing.assert_close(alignment.trust[i], 1 - unexplained)


def test_earlier_pixels_count_as_if_they_came_together(pixels):
    """With fully exact data every weighting finds the same fit, from two rays and the past."""
    target, _, weight, photo = pixels
    rendered = 2 * target + 1
    _, before = fit(target, rendered, weight, photo, none_before(), "scale-shift")
    now = slice(0, 2 * PHOTOS)
    alone, _ = fit(target[now], rendered[now], weight[now], photo[now], none_before(), "scale")
    assert not alone.trust.any()
    found, _ = fit(target[now], rendered[now], weight[now], photo[now], before, "scale-shift")
    torch.testing.assert_close(found.scale, torch.full_like(found.scale, 2.0))
    torch.testing.assert_close(found.shift, torch.full_like(found.shift, 1.0))


def test_relative_error_is_bounded_and_symmetric_in_scale():
    """|z - a| / mean(z, a): 2/3 for a factor of 2 either way, below 2 for any."""
    rendered = torch.tensor([2.0, 1.0, 1e6, 1e-6], dtype=torch.float64, requires_grad=True)
    error, usable = relative_errors(rendered, torch.tensor([1.0, 2.0, 1.0, 1.0]).double())
    assert usable.all()
    expected = torch.tensor([2 / 3, 2 / 3, 2.0, 2.0]).double()
    torch.testing.assert_close(error, expected, atol=1e-5, rtol=1e-6)
    error.sum().backward()
    torch.testing.assert_close(
        rendered.grad, torch.tensor([1 / 1.5, -1 / 1.5, 2e-6, -2.0]).double(), rtol=1e-5, atol=0
    )


def test_depths_that_are_not_positive_after_alignment_are_left_out():
    error, usable = relative_errors(torch.tensor([1.0, 1.0]), torch.tensor([-0.5, 0.5]))
    assert usable.tolist() == [False, True]
    assert error[0] == 0
