"""The reverse of the forward process in continuous time, and its correction by Langevin dynamics.

With tau = -ln abar for a clock, the forward process is dx = -x/2 dtau + dw, and its reverse is
dx = -(x/2 + score) dtau + dw, tau falling: beta(t) dt of the source is dtau.

Source: Song et al. 2021, arXiv:2011.13456, eqs. 6, 11 and 25; algorithms 1, 3 and 5.
"""

import math
from collections.abc import Callable
from typing import Literal, assert_never

import torch
from jaxtyping import Float64
from torch import Tensor
from torch.nn.functional import logsigmoid

from ddpm_core.diffusion.denoiser import Denoiser
from ddpm_core.diffusion.paths.path import chain_of
from ddpm_core.diffusion.paths.schedule import expand
from ddpm_core.diffusion.process import predict_eps, predict_x_0, score_from_eps
from ddpm_core.diffusion.samplers.ancestral import OnStep, draw_previous
from ddpm_core.diffusion.shapes import Images, Times, Timesteps
from ddpm_core.errors import ConfigError

Predictor = Literal["ancestral", "euler_maruyama"]
"""What leads from one level of noise to the next: the chain's reverse step, or the SDE's."""


@torch.no_grad()
def sde_sample(
    denoiser: Denoiser,
    x_T: Images,
    *,
    noise: Callable[[int], Tensor],
    times: Float64[Tensor, " n"] | None = None,
    clip_x_0: bool = True,
    on_step: OnStep | None = None,
) -> Images:
    """Draw x_0 by the reverse SDE, solved by the method of Euler and Maruyama.

    x_s = x_t + dtau (x_t/2 + score) + sqrt(dtau) z, dtau = ln(abar_s / abar_t)

    Args:
        denoiser: as of `ddpm_sample`.
        x_T: standard normal; shape, device and dtype of the result.
        noise: gives the standard normal of a step; called with n-1 down to 1. The last step, to
            the image itself, adds none.
        times: where the steps begin, falling, in [0, T-1], whole or in between; all steps of the
            chain if not given.
        clip_x_0: whether the predicted x_0 is clipped to [-1, 1] before the score is taken.
        on_step: called after each step with its number, counted down to 0; see `OnStep`.

    Raises:
        ConfigError: if the times do not fall or leave the chain, or the chain ends in pure noise.

    Source: Song et al. 2021, eqs. 6 and 25.
    """
    spans, x_t = _spans(denoiser, times), x_T
    chosen = None if times is None else times.tolist()
    for index, span in enumerate(spans):
        number = len(spans) - 1 - index
        t = _filled(x_T, number if chosen is None else chosen[index])
        x_t, x_0_hat = _euler_maruyama(denoiser, x_t, t, span, clip_x_0=clip_x_0)
        if number > 0:
            x_t = x_t + math.sqrt(span) * noise(number)
        if on_step is not None:
            on_step(number, x_t, x_0_hat)
    return x_t


@torch.no_grad()
def pc_sample(
    denoiser: Denoiser,
    x_T: Images,
    *,
    noise: Callable[[int], Tensor],
    predictor: Predictor = "ancestral",
    num_corrections: int = 1,
    snr: float = 0.16,
    clip_x_0: bool = True,
    on_step: OnStep | None = None,
) -> Images:
    """Draw x_0 by predictor and corrector: at each level of noise, steps of Langevin dynamics.

    A correction is x + step score + sqrt(2 step) z, step = 2 alpha_t (snr |z| / |score|)**2, with
    the norms of each image alone, where the source takes the mean over the batch. No step is
    longer than the variance 1 - abar_t of the noise: a network that predicts none would
    otherwise be led to infinity.

    Args:
        denoiser: as of `ddpm_sample`; for fewer steps, `respaced`.
        x_T: standard normal; shape, device and dtype of the result.
        noise: gives standard normals by number: that of the predictor's step t is t, from T-1
            down to 1; that of correction j = 0, 1, ... at level t is t + (j + 1) T.
        predictor: what leads from level to level.
        num_corrections: at each level but the image itself.
        snr: how far a correction moves, as a share of the noise that it adds.
        clip_x_0: whether the predicted x_0 is clipped to [-1, 1] before it is used.
        on_step: called after the corrections of each level.

    Raises:
        ConfigError: if a number makes no sense, or the chain ends in pure noise.

    Source: Song et al. 2021, algorithms 1, 3 and 5.
    """
    if num_corrections < 0 or snr <= 0:
        raise ConfigError(
            f"num_corrections={num_corrections} must be at least 0 and snr={snr} greater than 0"
        )
    spans, x_t = _spans(denoiser, None), x_T
    num_timesteps = len(spans)
    for index, span in enumerate(spans):
        number = num_timesteps - 1 - index
        z = noise(number) if number > 0 else None
        x_t, x_0_hat = _predicted(denoiser, predictor, x_t, number, span, z, clip_x_0=clip_x_0)
        for j in range(num_corrections if number > 0 else 0):
            z = noise(number - 1 + (j + 1) * num_timesteps)
            x_t = _corrected(denoiser, x_t, number - 1, z, snr, clip_x_0=clip_x_0)
        if on_step is not None:
            on_step(number, x_t, x_0_hat)
    return x_t


def _predicted(
    denoiser: Denoiser,
    predictor: Predictor,
    x_t: Images,
    number: int,
    span: float,
    z: Images | None,
    *,
    clip_x_0: bool,
) -> tuple[Images, Images]:
    """Return x_{t-1}, without noise where there is no z, and the predicted x_0."""
    t = _filled(x_t, number)
    match predictor:
        case "ancestral":
            step = denoiser.predict(x_t, t).reverse(clip_x_0=clip_x_0)
            x_prev = step.mean if z is None else draw_previous(step, t, z)
            return x_prev, step.x_0_hat
        case "euler_maruyama":
            mean, x_0_hat = _euler_maruyama(denoiser, x_t, t, span, clip_x_0=clip_x_0)
            return (mean if z is None else mean + math.sqrt(span) * z), x_0_hat
        case _:
            assert_never(predictor)


def _euler_maruyama(
    denoiser: Denoiser, x_t: Images, t: Times, span: float, *, clip_x_0: bool
) -> tuple[Images, Images]:
    """Return the mean of the step over `span` of tau, and the predicted x_0."""
    score, x_0_hat = _score(denoiser, x_t, t, clip_x_0=clip_x_0)
    return x_t + span * (0.5 * x_t + score), x_0_hat


def _corrected(
    denoiser: Denoiser, x_t: Images, number: int, z: Images, snr: float, *, clip_x_0: bool
) -> Images:
    score, _ = _score(denoiser, x_t, _filled(x_t, number), clip_x_0=clip_x_0)
    schedule = chain_of(denoiser.path)
    alpha = float(schedule.alphas[number])
    longest = 1 - float(schedule.alphas_cumprod[number])
    share = z.flatten(1).norm(dim=1) / score.flatten(1).norm(dim=1)
    step = expand((2 * alpha * (snr * share).square()).clamp(max=longest), x_t)
    return x_t + step * score + (2 * step).sqrt() * z


def _score(denoiser: Denoiser, x_t: Images, t: Times, *, clip_x_0: bool) -> tuple[Images, Images]:
    eps, schedule = denoiser.predict(x_t, t).eps, denoiser.path
    x_0_hat = predict_x_0(schedule, x_t, t, eps)
    if clip_x_0:
        x_0_hat = x_0_hat.clamp(-1, 1)
        eps = predict_eps(schedule, x_t, t, x_0_hat)
    return score_from_eps(schedule, eps, t), x_0_hat


def _spans(denoiser: Denoiser, times: Float64[Tensor, " n"] | None) -> list[float]:
    """Return by how much tau falls in each step, the last to 0; without times, of the chain."""
    schedule = chain_of(denoiser.path)
    last = schedule.num_timesteps - 1
    if times is None:
        times = torch.arange(last, -1, -1, dtype=torch.float64)
    if len(times) < 1 or not bool((times.diff() < 0).all()):
        raise ConfigError(f"times {times[:4].tolist()}... must fall, and be at least one")
    if float(times[0]) > last or float(times[-1]) < 0:
        raise ConfigError(
            f"times {float(times[0])}...{float(times[-1])} must lie in [0, {last}], the chain"
        )
    tau = -logsigmoid(schedule.log_snr_at(times))
    spans: list[float] = (tau - torch.cat([tau[1:], tau.new_zeros(1)])).tolist()
    return spans


def _filled(like: Images, number: int | float) -> Timesteps | Times:
    """Return one time for each image: integers for whole steps, which respaced chains require."""
    dtype = torch.int64 if isinstance(number, int) else torch.float64
    return torch.full((len(like),), number, dtype=dtype, device=like.device)
