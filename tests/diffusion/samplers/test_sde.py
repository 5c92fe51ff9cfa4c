"""The reverse SDE and the predictor-corrector sampler, for data of which everything is known."""

import itertools
import math

import pytest
import torch

from ddpm_core.diffusion.denoiser import NetworkDenoiser
from ddpm_core.diffusion.paths.betas import make_betas, zero_terminal_snr
from ddpm_core.diffusion.paths.schedule import make_schedule
from ddpm_core.diffusion.process import predict_eps, score_from_eps
from ddpm_core.diffusion.samplers.ancestral import ddpm_sample
from ddpm_core.diffusion.samplers.sde import pc_sample, sde_sample
from ddpm_core.diffusion.wrappers.respacing import respaced, subchain
from ddpm_core.errors import ConfigError
from tests.diffusion.analytic import Gaussian, affine_moments, row
from tests.diffusion.chains import PAPER, SHORT, normal
from tests.diffusion.test_analytic import TWO

DATA = Gaussian(row(0.2, -0.5), row(0.3, 0.05), PAPER)


def noise(number):
    return normal(3, 2, seed=number)


def of_sde(data, times):
    """Return the moments of what the reverse SDE returns with these times."""
    num = data.schedule.num_timesteps if times is None else len(times)
    return affine_moments(
        lambda x_T, z: sde_sample(data.denoiser(), x_T, noise=z, times=times, clip_x_0=False),
        num,
        2,
    )


@pytest.mark.parametrize("times", [None, row(49.0, 33.3, 12.0, 0.5)])
def test_the_reverse_sde_is_the_method_of_euler_and_maruyama(times):
    """Catches a drift without its half, a lost score, a wrong clock, and noise at the end."""
    data = Gaussian(DATA.mean, DATA.std, SHORT)
    places = torch.arange(49, -1, -1).double() if times is None else times
    abar = [*SHORT.log_snr_at(places).sigmoid().tolist(), 1.0]
    mean, variance = torch.zeros(2).double(), torch.ones(2).double()
    for now, after in itertools.pairwise(abar):
        span = math.log(after / now)
        precision = 1 / (now * data.std.square() + 1 - now)
        # score = -(x - sqrt(abar) mean) precision
        slope = 1 + span * (0.5 - precision)
        mean = slope * mean + span * precision * math.sqrt(now) * data.mean
        variance = slope.square() * variance + (span if after < 1 else 0)
    torch.testing.assert_close(of_sde(data, times), (mean, variance), rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("shapes_unchecked")
def test_the_reverse_sde_converges_to_the_data_with_order_1():
    """Catches another equation: with steps half as long, half of the error of both moments.

    Of the second number, whose variance is that of the last noise, the mean alone.
    """
    errors = []
    for num in (60, 120, 240):
        mean, variance = of_sde(DATA, torch.linspace(999, 0, num, dtype=torch.float64))
        errors.append((mean - DATA.mean, variance - DATA.std.square()))
    for coarse, fine in itertools.pairwise(errors):
        ratios = torch.cat([coarse[0] / fine[0], coarse[1][:1] / fine[1][:1]])
        torch.testing.assert_close(ratios, torch.full_like(ratios, 2.0), rtol=0, atol=0.25)
    assert float(errors[-1][1][0] / DATA.std[0].square()) < 0.04


@pytest.mark.parametrize("prediction", ["eps", "x_0", "v", "x_prev"])
@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.usefixtures("shapes_unchecked")
def test_all_predictions_give_the_same_images(prediction, clip):
    """Catches a score that is right for networks of eps only."""
    for sample in (sde_sample, pc_sample):
        x_T = normal(3, 2, seed=5000)
        expected = sample(TWO.denoiser(SHORT), x_T, noise=noise, clip_x_0=clip)
        if prediction == "x_prev" and clip and sample is pc_sample:
            continue  # such a network's mean cannot be clipped
        got = sample(TWO.denoiser(SHORT, prediction=prediction), x_T, noise=noise, clip_x_0=clip)
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-9)


def test_clipping_reaches_the_score():
    """Catches a clip of x_0_hat alone, behind which the score still leads out of range."""
    denoiser = NetworkDenoiser(lambda x_t, _: -2 * x_t, SHORT)
    x_T, seen = normal(3, 2, seed=5000), []
    sde_sample(denoiser, x_T, noise=noise, on_step=lambda *told: seen.append(told))
    abar = SHORT.alphas_cumprod
    t = torch.full((3,), 49)
    x_0_hat = ((x_T + 2 * (1 - abar[49]).sqrt() * x_T) / abar[49].sqrt()).clamp(-1, 1)
    score = score_from_eps(SHORT, predict_eps(SHORT, x_T, t, x_0_hat), t)
    span = math.log(abar[48] / abar[49])
    expected = x_T + span * (x_T / 2 + score) + math.sqrt(span) * noise(49)
    torch.testing.assert_close(seen[0], (49, expected, x_0_hat))
    assert [number for number, _, _ in seen] == list(range(49, -1, -1))


@pytest.mark.parametrize("predictor", ["ancestral", "euler_maruyama"])
def test_without_corrections_only_the_predictor_is_left(predictor):
    """Catches a predictor of another kind, and noise drawn for another step."""
    x_T, denoiser = normal(3, 2, seed=5000), TWO.denoiser(SHORT)
    got = pc_sample(denoiser, x_T, noise=noise, predictor=predictor, num_corrections=0)
    sample = ddpm_sample if predictor == "ancestral" else sde_sample
    torch.testing.assert_close(got, sample(denoiser, x_T, noise=noise), rtol=0, atol=1e-12)


def test_a_correction_is_langevin_dynamics_at_the_level_reached():
    """Catches a norm over the batch, a step of another level, and a lost factor of 2."""
    chain = subchain(PAPER, torch.tensor([100, 600]))
    data = Gaussian(row(0.2, -0.5), row(0.3, 0.05), chain)
    x_T, drawn, seen = normal(3, 2, seed=5000), [], []

    def draw(number):
        drawn.append(number)
        return noise(number)

    pc_sample(
        data.denoiser(),
        x_T,
        noise=draw,
        num_corrections=2,
        snr=0.1,
        clip_x_0=False,
        on_step=lambda *told: seen.append(told),
    )
    # Two of the chain: step 1 is the predictor's; levels 0 gets corrections 0 and 1.
    assert drawn == [1, 2, 4]
    step = data.denoiser().predict(x_T, torch.ones(3).long()).reverse(clip_x_0=False)
    x = step.mean + (0.5 * step.log_variance).exp() * noise(1)
    for number in (2, 4):
        abar, z = chain.alphas_cumprod[0], noise(number)
        score = -(x - abar.sqrt() * data.mean) / (abar * data.std.square() + 1 - abar)
        length = 2 * chain.alphas[0] * (0.1 * z.norm(dim=1) / score.norm(dim=1)).square()
        length = length.clamp(max=float(1 - abar))[:, None]
        x = x + length * score + (2 * length).sqrt() * z
    torch.testing.assert_close(seen[0][1], x)


@pytest.mark.parametrize("predictor", ["ancestral", "euler_maruyama"])
def test_corrections_bring_few_steps_closer_to_the_data(predictor):
    """Catches a corrector that moves away, or not at all: 20 steps are too few for either.

    The variances of 16,000 numbers have standard errors of 1.1 %; without corrections they are
    half and one and a half of what they should be.
    """
    steps = torch.linspace(0, 999, 20).round().long()
    data = Gaussian(torch.full((256,), 0.2), torch.full((256,), 0.3), PAPER)
    denoiser, off = respaced(data.denoiser(), steps.tolist()), []
    for num_corrections in (0, 1, 3):
        images = pc_sample(
            denoiser,
            normal(64, 256, seed=5000),
            noise=lambda number: normal(64, 256, seed=number),
            predictor=predictor,
            num_corrections=num_corrections,
            snr=0.3,
            clip_x_0=False,
        )
        assert float(images.mean()) == pytest.approx(0.2, abs=0.01)
        off.append(abs(float(images.var()) / 0.09 - 1))
    assert 0.4 < off[0] < 0.6
    assert off[1] < off[0] - 0.08
    assert off[2] < off[1] - 0.05


@pytest.mark.usefixtures("shapes_unchecked")
def test_an_image_does_not_depend_on_its_batch():
    """Catches the mean over the batch in the corrector's norms, as the original has it."""
    x_T, denoiser = normal(3, 2, seed=5000), TWO.denoiser(SHORT)
    together = pc_sample(denoiser, x_T, noise=noise)
    for index in range(3):
        part = slice(index, index + 1)
        alone = pc_sample(denoiser, x_T[part], noise=lambda n, part=part: noise(n)[part])
        torch.testing.assert_close(alone, together[part], rtol=0, atol=1e-12)


def test_a_network_that_predicts_nothing_is_not_led_to_infinity():
    """Catches a step divided by a score of 0: at most as long as the noise's variance."""
    denoiser = NetworkDenoiser(lambda x_t, _: torch.zeros_like(x_t), SHORT)
    images = pc_sample(denoiser, normal(3, 2), noise=noise, clip_x_0=False)
    assert bool(images.isfinite().all())


@pytest.mark.parametrize("sample", [sde_sample, pc_sample])
def test_it_never_waits_for_its_device_and_keeps_float32(sample):
    """Catches `.item()` in the loop, and promotion by the float64 of the schedule."""
    x_T = torch.empty(3, 2, 2, device="meta")
    denoiser = NetworkDenoiser(lambda x_t, _: torch.zeros_like(x_t), SHORT)
    images = sample(denoiser, x_T, noise=lambda _: x_T)
    assert images.shape == x_T.shape
    assert images.dtype == torch.float32


@pytest.mark.parametrize("times", [[], [5.0, 5.0], [3.0, 7.0], [50.0, 3.0], [3.0, -0.1]])
def test_times_must_fall_within_the_chain(times):
    """Catches steps of negative length, which would take the root of a negative number."""
    with pytest.raises(ConfigError, match="times"):
        sde_sample(TWO.denoiser(SHORT), normal(3, 2), noise=noise, times=row(*times))


def test_impossible_requests_are_refused_with_their_reason():
    """Catches a silent nan at the end of a chain without a largest sigma."""
    chain = make_schedule(zero_terminal_snr(make_betas("linear", 50)))
    for sample in (sde_sample, pc_sample):
        with pytest.raises(ConfigError, match="ends in pure noise"):
            sample(TWO.denoiser(chain, prediction="v"), normal(3, 2), noise=noise)
    for options in ({"snr": 0.0}, {"num_corrections": -1}):
        with pytest.raises(ConfigError, match="must be at least 0"):
            pc_sample(TWO.denoiser(SHORT), normal(3, 2), noise=noise, **options)
