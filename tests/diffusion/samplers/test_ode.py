"""The probability flow against its exact solution, for data of which everything is known."""

import itertools
import math

import pytest
import torch

from ddpm_core.diffusion.denoiser import NetworkDenoiser
from ddpm_core.diffusion.integrate import Adaptive, FixedStep
from ddpm_core.diffusion.paths.sigma import sigma_at, sigma_grid, sigma_range
from ddpm_core.diffusion.samplers.ode import ode_encode, ode_sample
from ddpm_core.errors import ConfigError
from tests.diffusion.analytic import Gaussian, affine_moments, row
from tests.diffusion.chains import PAPER, SHORT, every_t, normal
from tests.diffusion.test_analytic import TWO

DATA = Gaussian(row(0.2, -0.5, 0.0), row(0.3, 0.05, 1.0), PAPER)
LOW, HIGH = sigma_range(PAPER)


def adaptive(tolerance=1e-5, **options):
    return Adaptive(LOW, HIGH, rtol=tolerance, atol=tolerance, **options)


def error(method, num_steps, *, upward):
    """Return the largest error of the flow of DATA, from one end of the chain to the other."""
    solver = FixedStep(sigma_grid(PAPER, num_steps), method)
    if upward:
        x = DATA.mean + normal(4, 3) * DATA.std
        got = ode_encode(DATA.denoiser(), x, solver=solver)
        exact = DATA.flow(x, LOW, HIGH) / math.sqrt(1 + HIGH**2)
    else:
        x = normal(4, 3)
        got = ode_sample(DATA.denoiser(), x, solver=solver, denoise=False)
        exact = DATA.flow(x * math.sqrt(1 + HIGH**2), HIGH, LOW)
    return float((got - exact).abs().max())


@pytest.mark.parametrize("upward", [True, False])
@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("heun", 2), ("rk4", 4)])
@pytest.mark.usefixtures("shapes_unchecked")
def test_a_method_converges_with_its_order(method, order, upward):
    """Catches a wrong weight, place or sign: half the step must leave 2**-order of the error."""
    errors = [error(method, num_steps, upward=upward) for num_steps in (50, 100, 200)]
    for coarse, fine in itertools.pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(order, abs=0.2)
    assert errors[-1] < 0.1


def test_euler_on_the_steps_of_the_chain_is_ddim():
    """Catches a wrong scale of x_T, and a last step that is none: DDIM's output, exactly."""
    data = Gaussian(row(0.2, -0.5), row(0.3, 0.05), SHORT)
    solver = FixedStep(sigma_at(SHORT, every_t(SHORT)), "euler")
    got = affine_moments(lambda x_T, _: ode_sample(data.denoiser(), x_T, solver=solver), 0, 2)
    torch.testing.assert_close(got, data.ddim(eta=0.0), rtol=1e-9, atol=1e-9)


def test_the_flow_returns_the_data():
    """Catches a flow that converges, but to something else than the data; the prior is off 1e-4.

    Without the last step the data have the noise of the smallest sigma in them; with it, the
    predicted image is the mean of what it may be, which varies less.
    """
    solver = FixedStep(sigma_grid(PAPER, 100), "rk4")
    for denoise, variance in (
        (False, DATA.std.square() + LOW**2),
        (True, DATA.std.pow(4) / (DATA.std.square() + LOW**2)),
    ):
        mean, got = affine_moments(
            lambda x_T, _, denoise=denoise: ode_sample(
                DATA.denoiser(), x_T, solver=solver, denoise=denoise
            ),
            0,
            3,
        )
        torch.testing.assert_close(mean, DATA.mean, rtol=0, atol=2e-3)
        torch.testing.assert_close(got, variance, rtol=1e-3, atol=0)


@pytest.mark.parametrize("prediction", ["eps", "x_0", "v"])
@pytest.mark.parametrize("solver", [adaptive(1e-8), FixedStep(sigma_grid(PAPER, 120), "rk4")])
@pytest.mark.usefixtures("shapes_unchecked")
def test_encoding_and_sampling_lead_back(solver, prediction):
    """Catches two ways that are not each other's inverse, for data that are not one Gaussian."""
    denoiser, x_0 = TWO.denoiser(PAPER, prediction=prediction), TWO.draw(3)
    x_T = ode_encode(denoiser, x_0, solver=solver)
    assert float((x_T - x_0).abs().min()) > 1e-3
    back = ode_sample(denoiser, x_T, solver=solver, denoise=False)
    torch.testing.assert_close(back, x_0, rtol=0, atol=1e-5)


@pytest.mark.usefixtures("shapes_unchecked")
def test_the_adaptive_solver_is_as_exact_as_its_tolerance():
    """Catches an error estimate that is none, for images that need steps of their own."""
    x_T = normal(4, 3)
    exact = DATA.flow(x_T * math.sqrt(1 + HIGH**2), HIGH, LOW)
    for tolerance in (1e-4, 1e-6, 1e-8):
        got = ode_sample(DATA.denoiser(), x_T, solver=adaptive(tolerance), denoise=False)
        # The tolerance is that of one step, and there are some tens.
        torch.testing.assert_close(got, exact, rtol=0, atol=30 * tolerance)


@pytest.mark.parametrize("solver", [adaptive(), FixedStep(sigma_grid(PAPER, 9))])
@pytest.mark.usefixtures("shapes_unchecked")
def test_an_image_does_not_depend_on_its_batch(solver):
    """Catches one step length for the whole batch, and images that go on after they arrived."""
    denoiser, x_T = TWO.denoiser(PAPER), normal(5, 2) * torch.logspace(-2, 1, 5).double()[:, None]
    together = ode_sample(denoiser, x_T, solver=solver)
    for index in range(5):
        alone = ode_sample(denoiser, x_T[index : index + 1], solver=solver)
        # Bit by bit, but for torch's own vectorised exp, which may round rows otherwise.
        torch.testing.assert_close(alone[0], together[index], rtol=0, atol=1e-12)


def test_on_step_is_called_in_order_and_in_the_terms_of_the_chain():
    """Catches x in sigma coordinates, an x_0_hat of another step, and a count that goes up."""
    seen, sigmas = [], sigma_at(SHORT, row(0.0, 10.0, 30.0, 49.0))
    data = Gaussian(row(0.2, -0.5), row(0.3, 0.05), SHORT)
    x_T = normal(3, 2)
    x_0 = ode_sample(
        data.denoiser(),
        x_T,
        solver=FixedStep(sigmas, "euler"),
        on_step=lambda number, x, x_0_hat: seen.append((number, x, x_0_hat)),
    )
    assert [number for number, _, _ in seen] == [3, 2, 1, 0]
    assert torch.equal(seen[-1][1], x_0)
    begin, x_t = row(49.0, 30.0, 10.0, 0.0), x_T
    for index, (_, x, x_0_hat) in enumerate(seen):
        t = begin[index].expand(3)
        torch.testing.assert_close(x_0_hat, data.denoiser().predict(x_t, t).x_0)
        x_t = x


def test_the_flow_of_clipped_predictions_stays_in_range():
    """Catches a clip that does not reach the slope, and one that is always on."""
    denoiser = NetworkDenoiser(lambda x_t, _: -2 * x_t, SHORT)
    solver, x_T = FixedStep(sigma_grid(SHORT, 20)), normal(2, 9)
    assert float(ode_sample(denoiser, x_T, solver=solver, clip_x_0=True).abs().max()) <= 1 + 1e-12
    assert float(ode_sample(denoiser, x_T, solver=solver).abs().max()) > 10


@pytest.mark.parametrize("solver", [adaptive(), FixedStep(sigma_grid(PAPER, 4))])
def test_the_state_keeps_float32_and_builds_no_graph(solver):
    """Catches promotion by the float64 of sigma, and a graph over all steps."""
    weight = torch.ones((), requires_grad=True)
    denoiser = NetworkDenoiser(lambda x_t, _: weight * x_t, PAPER)
    for sample in (
        ode_sample(denoiser, normal(2, 9, dtype=torch.float32), solver=solver),
        ode_encode(denoiser, normal(2, 9, dtype=torch.float32), solver=solver),
    ):
        assert sample.dtype == torch.float32
        assert not sample.requires_grad
        assert bool(sample.isfinite().all())


def test_a_solver_on_a_grid_never_waits_for_its_device():
    """Catches `.item()` in the loop: on the meta device there is no value to wait for."""
    x_T = torch.empty(2, 3, 4, 4, device="meta")
    denoiser = NetworkDenoiser(lambda x_t, _: torch.zeros_like(x_t), SHORT)
    sample = ode_sample(denoiser, x_T, solver=FixedStep(sigma_grid(SHORT, 5)))
    assert sample.shape == x_T.shape


def test_the_network_is_called_as_often_as_it_is_said():
    """Catches evaluations thrown away: they are the price by which samplers are compared."""
    calls = []

    def network(x_t, t):
        calls.append(t)
        return 0 * x_t

    for method, each in (("euler", 1), ("heun", 2), ("rk4", 4)):
        calls.clear()
        solver = FixedStep(sigma_grid(PAPER, 7), method)
        ode_sample(NetworkDenoiser(network, PAPER), normal(2, 3), solver=solver)
        assert len(calls) == 7 * each + 1
        assert float(calls[0][0]) == 999
        assert float(calls[-1][0]) == 0


def test_what_cannot_be_solved_is_refused_with_its_reason():
    """Catches a list of steps that is silently empty, and times that a network does not know."""
    with pytest.raises(ConfigError, match="on_step needs FixedStep"):
        ode_sample(DATA.denoiser(), normal(1, 3), solver=adaptive(), on_step=lambda *_: None)
    denoiser = NetworkDenoiser(lambda x_t, _: x_t, PAPER, "x_prev")
    with pytest.raises(ConfigError, match="whole steps only"):
        ode_sample(denoiser, normal(1, 3), solver=FixedStep(sigma_grid(PAPER, 3)))
