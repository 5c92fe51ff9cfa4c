"""What every sampler promises, whatever its method."""

from functools import partial

import pytest
import torch

from ddpm_core.diffusion.denoiser import NetworkDenoiser, at_sigma
from ddpm_core.diffusion.paths.betas import make_betas, zero_terminal_snr
from ddpm_core.diffusion.paths.schedule import make_schedule
from ddpm_core.diffusion.paths.spacing import chain_sigmas, choose_timesteps, karras_sigmas
from ddpm_core.diffusion.samplers.ddim import ddim_encode, ddim_sample
from ddpm_core.diffusion.samplers.dpm_solver import dpm_solver_sample
from ddpm_core.diffusion.samplers.heun import Churn, heun_sample
from ddpm_core.diffusion.samplers.unipc import unipc_sample
from ddpm_core.diffusion.wrappers.respacing import respaced
from ddpm_core.errors import ConfigError
from tests.diffusion.chains import PAPER, normal
from tests.diffusion.samplers.toys import Toy, gaussian, toy
from tests.models.nets import perturbed

STEPS = choose_timesteps("trailing", 1000, 8)
SIGMAS = chain_sigmas(PAPER, STEPS)


def draws(step, like):
    if like.device.type == "meta":
        return torch.empty_like(like)
    return normal(4, *like.shape[1:], seed=100 + step)[: len(like)].to(like.dtype)


def run(sampler, denoiser, x_T, **options):
    """Call a sampler of the names below on the eight steps."""
    noise = partial(draws, like=x_T)
    match sampler:
        case "ddim":
            return ddim_sample(respaced(denoiser, STEPS), x_T, **options)
        case "ddim, eta 1":
            return ddim_sample(respaced(denoiser, STEPS), x_T, eta=1.0, noise=noise, **options)
        case "dpm_solver":
            return dpm_solver_sample(denoiser, x_T, sigmas=SIGMAS, **options)
        case "dpm_solver, sde":
            return dpm_solver_sample(denoiser, x_T, sigmas=SIGMAS, noise=noise, **options)
        case "unipc":
            return unipc_sample(denoiser, x_T, sigmas=SIGMAS, **options)
        case "heun":
            return heun_sample(denoiser, x_T, sigmas=SIGMAS, **options)
        case "heun, churn":
            churn = Churn(S_churn=2.0)
            return heun_sample(denoiser, x_T, sigmas=SIGMAS, churn=churn, noise=noise, **options)


SAMPLERS = ("ddim", "ddim, eta 1", "dpm_solver", "dpm_solver, sde", "unipc", "heun", "heun, churn")
IN_SIGMA = tuple(name for name in SAMPLERS if not name.startswith("ddim"))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_images_do_not_depend_on_what_is_beside_them(sampler):
    """Catches anything that is measured over the batch, or over all values of it."""
    together = run(sampler, toy(), normal(4, 5), clip_x_0=False)
    alone = run(sampler, toy(), normal(4, 5)[:1], clip_x_0=False)
    torch.testing.assert_close(together[:1], alone, rtol=1e-12, atol=1e-12)
    beside = run(sampler, toy(), torch.cat([normal(4, 5)[:1], 9 * normal(3, 5)]), clip_x_0=False)
    torch.testing.assert_close(beside[:1], alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_what_the_network_predicts_makes_no_difference(sampler, clip):
    """Catches a sampler that takes the network's output for the noise, or for the image."""
    ours = {
        prediction: run(sampler, gaussian(prediction=prediction), normal(4, 5), clip_x_0=clip)
        for prediction in ("eps", "x_0", "v")
    }
    torch.testing.assert_close(ours["x_0"], ours["eps"], rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(ours["v"], ours["eps"], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_state_has_the_dtype_it_is_given(sampler):
    """Catches float64 that is forgotten on the way (far less exact), and float32 that is lost."""
    exact = run(sampler, gaussian(), normal(4, 5))
    single = run(sampler, gaussian(), normal(4, 5).float())
    assert exact.dtype == torch.float64
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), exact, rtol=1e-4, atol=1e-4)
    assert not torch.equal(single.double(), exact)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_network_of_low_precision_does_not_lower_that_of_the_state(sampler):
    """Catches a state of bfloat16, and a graph over all steps."""
    weight = torch.ones((), requires_grad=True)
    denoiser = NetworkDenoiser(lambda x_t, _: (weight * x_t).bfloat16(), PAPER)
    sample = run(sampler, denoiser, normal(4, 5).float())
    assert sample.dtype == torch.float32
    assert not sample.requires_grad


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_network_is_called_as_often_as_promised_and_when(sampler):
    """Catches a call that is wasted or left out, and times that ascend or lie beside the steps."""
    denoiser = toy()
    run(sampler, denoiser, normal(4, 5))
    called_at = denoiser.network.called_at
    assert len(called_at) == (15 if sampler.startswith("heun") else 8)
    if sampler != "heun, churn":
        assert sorted({round(t, 6) for t in called_at}) == STEPS
        assert called_at == sorted(called_at, reverse=True)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_images_are_clipped_to_their_range_where_configured(sampler):
    """Catches clipping left out: a network that is wrong must not leave [-1, 1]."""
    wrong = NetworkDenoiser(lambda x_t, _: x_t - 3, PAPER)
    assert float(run(sampler, wrong, normal(4, 5)).abs().max()) <= 1
    assert float(run(sampler, wrong, normal(4, 5), clip_x_0=False).abs().max()) > 1


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_on_step_is_called_after_each_step(sampler, clip):
    """Catches a missing call, states in sigma's scale (up to 157), and an x_0 that is not."""
    seen = []
    x_0 = run(
        sampler,
        gaussian(),
        normal(4, 5),
        clip_x_0=clip,
        on_step=lambda step, x_t, x_0_hat: seen.append((step, x_t, x_0_hat)),
    )
    assert [step for step, _, _ in seen] == list(range(7, -1, -1))
    assert max(float(x_t.abs().max()) for _, x_t, _ in seen) < 4
    torch.testing.assert_close(seen[-1][1], x_0)
    torch.testing.assert_close(seen[-1][2], x_0)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_device_is_never_waited_for(sampler):
    """Catches `.item()` in the loop: on the meta device there is no value to wait for."""
    sample = run(sampler, toy(), torch.empty(4, 5, device="meta"))
    assert sample.device.type == "meta"


def test_encoding_never_waits_for_its_device():
    """Catches `.item()` in the loop backwards."""
    x_T = ddim_encode(respaced(toy(), STEPS), torch.empty(4, 5, device="meta"))
    assert x_T.device.type == "meta"


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_our_network_works_with_every_sampler(sampler):
    """Catches a network that takes whole timesteps only."""
    x_T = normal(2, 3, 8, 8, dtype=torch.float32)
    sample = run(sampler, NetworkDenoiser(perturbed(), PAPER), x_T)
    assert sample.shape == x_T.shape
    assert bool(sample.isfinite().all())


@pytest.mark.parametrize("sampler", IN_SIGMA)
@pytest.mark.parametrize(
    "sigmas",
    [[], [1.0, 1.0], [1.0, 2.0], [1.0, 0.0], [2.0, -1.0], [float("inf"), 1.0], [float("nan")]],
)
def test_sigmas_that_do_not_descend_to_0_are_refused(monkeypatch, sampler, sigmas):
    """Catches a division by zero, and nan in every image."""
    monkeypatch.setitem(globals(), "SIGMAS", sigmas)
    with pytest.raises(ConfigError, match="must be finite, above 0 and descend"):
        run(sampler, toy(), normal(4, 5))


@pytest.mark.parametrize("sampler", IN_SIGMA)
def test_chains_that_solvers_cannot_walk_are_refused(sampler):
    """Catches nan from an infinite sigma, and a step of one taken for a long one."""
    ends_in_noise = make_schedule(zero_terminal_snr(make_betas("linear", 1000)))
    with pytest.raises(ConfigError, match="use ancestral or ddim"):
        run(sampler, NetworkDenoiser(Toy(ends_in_noise), ends_in_noise, "v"), normal(4, 5))
    with pytest.raises(ConfigError, match="give solvers the whole chain"):
        run(sampler, respaced(toy(), STEPS), normal(4, 5))
    with pytest.raises(ConfigError, match="prediction=x_prev speaks of whole steps only"):
        run(sampler, toy(prediction="x_prev"), normal(4, 5))


@pytest.mark.parametrize("sampler", IN_SIGMA)
def test_one_sigma_gives_the_prediction_there(monkeypatch, sampler):
    """Catches a first step that needs a past, or a last one that does not end at sigma = 0."""
    monkeypatch.setitem(globals(), "SIGMAS", [2.0])
    levels = torch.full((4,), 2.0, dtype=torch.float64)
    if sampler == "heun, churn":
        levels *= 2**0.5
        x = 2 * normal(4, 5) + 2 * normal(4, 5, seed=100)
    else:
        x = normal(4, 5) * (2 if sampler == "heun" else 5**0.5)
    expected = at_sigma(gaussian(), x, levels)
    torch.testing.assert_close(run(sampler, gaussian(), normal(4, 5), clip_x_0=False), expected)


@pytest.mark.usefixtures("shapes_unchecked")
def test_solvers_agree_in_the_limit():
    """Catches one that solves another equation than the others: all have one flow to follow."""
    sigmas, x_T = karras_sigmas(PAPER, 200), normal(4, 5)
    ours = [
        sampler(gaussian(), x_T, sigmas=sigmas, clip_x_0=False)
        for sampler in (dpm_solver_sample, unipc_sample, heun_sample)
    ]
    for other in ours[1:]:
        torch.testing.assert_close(other, ours[0], rtol=0, atol=2e-3)
    whole = ddim_sample(gaussian(), x_T, clip_x_0=False)
    torch.testing.assert_close(whole, ours[0], rtol=0, atol=2e-2)
