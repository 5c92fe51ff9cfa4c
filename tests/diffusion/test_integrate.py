"""The solvers by themselves: equations whose solutions are known, and equations without any."""

import math

import pytest
import torch

from ddpm_core.diffusion.integrate import Adaptive, FixedStep
from ddpm_core.diffusion.paths.betas import make_betas, zero_terminal_snr
from ddpm_core.diffusion.paths.schedule import make_schedule
from ddpm_core.diffusion.paths.sigma import sigma_at, sigma_grid, sigma_range, time_of_sigma
from ddpm_core.errors import ConfigError, DivergenceError
from tests.diffusion.analytic import row
from tests.diffusion.chains import PAPER, every_t, normal


def ones(*shape):
    return torch.ones(*shape, dtype=torch.float64)


def polynomial(degree):
    """Return dx/ds = d/ds s**degree, the same for every number."""
    return lambda x, s: (degree * s.pow(degree - 1))[:, None].expand_as(x)


def test_the_adaptive_solver_follows_every_row_to_its_own_end():
    """Catches a wrong tableau: with less than order 5 it would need thousands of calls.

    dx/ds = -c x with c from 0.1 to 30: the rows need different steps.
    """
    rates = row(0.1, 1.0, 5.0, 30.0)
    for upward, way in ((True, 2.0), (False, -2.0)):
        sign = 1 if upward else -1
        solution = Adaptive(1.0, 3.0, rtol=1e-9, atol=1e-9).solve(
            lambda x, _, sign=sign: -sign * rates[:, None] * x, ones(4, 3), upward=upward
        )
        exact = (-sign * rates * way).exp()[:, None].expand(4, 3)
        torch.testing.assert_close(solution.state, exact, rtol=0, atol=1e-8)
        calls = solution.num_evaluations.tolist()
        assert calls == sorted(calls)
        assert calls[0] < 70 < calls[-1] < 1000


@pytest.mark.parametrize(("degree", "is_exact"), [(5, True), (6, False)])
def test_the_adaptive_solver_is_exact_for_polynomials_up_to_its_order(degree, is_exact):
    """Catches wrong places in the step, which an equation without time cannot see."""
    solver = Adaptive(0.5, 1.5, rtol=1e-3, atol=1e-3)
    state = solver.solve(polynomial(degree), 0.5**degree * ones(2, 1), upward=True).state
    error = float((state - 1.5**degree).abs().max())
    assert (error < 1e-13) == is_exact


@pytest.mark.usefixtures("shapes_unchecked")
def test_the_error_is_estimated_with_order_4():
    """Catches a wrong estimate: a hundredth of the tolerance must cost 100**(1/5) of the steps."""
    calls = []
    for tolerance in (1e-10, 1e-12):
        solver = Adaptive(1.0, 20.0, rtol=0.0, atol=tolerance, max_steps=2000)
        solution = solver.solve(lambda x, s: s[:, None].cos() * x, ones(1, 1), upward=True)
        exact = math.exp(math.sin(20) - math.sin(1))
        assert float(solution.state) == pytest.approx(exact, abs=20 * tolerance)
        calls.append(int(solution.num_evaluations))
    assert calls[1] / calls[0] == pytest.approx(100**0.2, rel=0.12)


def test_the_adaptive_solver_takes_its_golden_numbers_of_calls():
    """Catches another safety factor, limit of growth, or first step: they change what the study
    publishes as the cost of the exact code, and its last digits. In float64, where a step that is
    taken on one processor and refused on another has an error within 1e-12 of what is allowed."""
    state = torch.tensor([[1.0, 2.0], [3.0, -1.0], [0.01, 0.0]], dtype=torch.float64)

    def calls(tolerance, field, *, upward):
        solver = Adaptive(0.05, 5.0, rtol=tolerance, atol=tolerance)
        return solver.solve(field, state, upward=upward).num_evaluations.tolist()

    def steep(x, s):
        return -x / s[:, None].square()

    def smooth(x, s):
        return x.cos() * s[:, None].sin()

    assert calls(1e-3, steep, upward=False) == [247, 247, 271]
    assert calls(1e-5, steep, upward=False) == [463, 457, 433]
    assert calls(1e-5, smooth, upward=True) == [67, 73, 97]


def test_a_row_that_arrived_is_held():
    """Catches rows that are moved, or charged, after their end; the batch keeps its size."""
    sizes, rates = [], row(0.0, 50.0)

    def field(x, s):
        sizes.append(len(x))
        assert float(s.max()) <= 2.0
        return -rates[: len(x), None] * (x - 1)

    solver = Adaptive(1.0, 2.0)
    both = solver.solve(field, 3 * ones(2, 1), upward=True)
    assert set(sizes) == {2}
    assert both.num_evaluations.max() == len(sizes)
    alone = solver.solve(field, 3 * ones(1, 1), upward=True)
    assert torch.equal(alone.state[0], both.state[0])
    assert alone.num_evaluations[0] == both.num_evaluations[0] < both.num_evaluations[1]


def test_every_number_of_an_image_counts():
    """Catches a mean over the image: one bad pixel among 10,000 would pass under it."""
    state = ones(1, 10_001)

    def field(x, s):
        change = torch.zeros_like(x)
        change[:, -1] = -20 * (20 * s).sin()
        return change

    solution = Adaptive(0.1, 6.0, rtol=0.0, atol=1e-6).solve(field, state, upward=True)
    exact = 1 + math.cos(20 * 6.0) - math.cos(2.0)
    assert float(solution.state[0, -1]) == pytest.approx(exact, abs=1e-4)
    assert float((solution.state[:, :-1] - 1).abs().max()) == 0


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_that_are_none_end_it_soon(value):
    """Catches a solver that goes on for ever, or returns what it has."""
    calls = []

    def field(x, s):
        calls.append(s)
        return torch.where(s[:, None] > 2, value, x)

    with pytest.raises(DivergenceError, match=r"finish 2 of 2 images: steps too short.*sigma 2"):
        Adaptive(1.0, 3.0).solve(field, ones(2, 1), upward=True)
    assert len(calls) < 1000


def test_too_many_steps_end_it_with_what_to_do():
    """Catches an unbounded loop: the message says how far it came and what may help."""
    with pytest.raises(DivergenceError, match=r"1 of 2 images: not arrived after max_steps=20"):
        Adaptive(1.0, 2.0, max_steps=20).solve(
            lambda x, _: -row(1.0, 1e5)[:, None] * x, ones(2, 1), upward=True
        )


def test_a_state_of_zeros_gets_under_way():
    """Catches a first step of length 0, and a division by it."""
    solution = Adaptive(1.0, 2.0).solve(polynomial(3), 0 * ones(2, 1), upward=True)
    torch.testing.assert_close(solution.state, 7 * ones(2, 1), rtol=1e-4, atol=0)


@pytest.mark.parametrize("sigmas", [[1.0], [2.0, 1.0], [1.0, 1.0], [0.0, 1.0], [1.0, math.nan]])
def test_a_grid_must_ascend_from_above_0(sigmas):
    """Catches a division by a sigma of 0 far inside."""
    with pytest.raises(ConfigError, match="must ascend"):
        FixedStep(row(*sigmas))


@pytest.mark.parametrize(
    "options", [{"low": 3.0}, {"low": 0.0}, {"atol": 0.0}, {"rtol": -1.0}, {"max_steps": 0}]
)
def test_an_adaptive_solver_needs_sensible_numbers(options):
    """Catches tolerances that no step can meet."""
    with pytest.raises(ConfigError, match="must be"):
        Adaptive(**{"low": 1.0, "high": 2.0, **options})


def test_the_grid_is_that_of_edm_between_the_ends_of_the_chain():
    """Catches a grid of another exponent, or one that rounding leads out of the chain."""
    low, high = sigma_range(PAPER)
    assert (low, high) == pytest.approx((0.01, 157.407281), rel=1e-4)
    grid = sigma_grid(PAPER, 10)
    assert (float(grid[0]), float(grid[-1])) == (low, high)
    torch.testing.assert_close(grid.pow(1 / 7).diff(2), torch.zeros(9).double())
    torch.testing.assert_close(sigma_grid(PAPER, 10, rho=1.0).diff(2), torch.zeros(9).double())
    for num_steps, rho in ((0, 7.0), (5, 0.5)):
        with pytest.raises(ConfigError, match="at least 1"):
            sigma_grid(PAPER, num_steps, rho=rho)


def test_time_and_sigma_are_each_others_inverse():
    """Catches an interpolation that is off between the steps, or by one."""
    t = torch.cat([every_t(PAPER).double(), normal(100).sigmoid() * 999])
    torch.testing.assert_close(time_of_sigma(PAPER, sigma_at(PAPER, t)), t, rtol=0, atol=1e-8)
    abar = PAPER.alphas_cumprod
    torch.testing.assert_close(sigma_at(PAPER, every_t(PAPER)), ((1 - abar) / abar).sqrt())


def test_a_chain_that_ends_in_pure_noise_has_no_largest_sigma():
    """Catches an infinite sigma: the message says which samplers can begin there."""
    chain = make_schedule(zero_terminal_snr(make_betas("linear", 50)))
    with pytest.raises(ConfigError, match="use ancestral or ddim"):
        sigma_range(chain)
