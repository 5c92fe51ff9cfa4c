"""The forward process q and its posterior, and what a network may predict: eps, x_0, v, score.

Every function treats all axes after the first alike. Results have the dtype of the images, but at
least float32: bfloat16 images are noised in float32.

Source: Ho et al. 2020, arXiv:2006.11239, sections 2 and 3.2; v: Salimans and Ho 2022, section 4.
"""

import torch

from ddpm_core.diffusion.continuous import log_snr_at
from ddpm_core.diffusion.schedule import NoiseSchedule, expand
from ddpm_core.diffusion.shapes import Images, PerImageScale, Times, Timesteps


def q_sample(
    schedule: NoiseSchedule,
    x_0: Images,
    t: Timesteps,
    eps: Images,
) -> Images:
    """Draw x_t from q(x_t | x_0).

    x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps

    Args:
        schedule: the chain.
        x_0: images in [-1, 1].
        t: code index of the step, 0..T-1; 0 is one step of noise.
        eps: standard normal, drawn by the caller so that a run can be replayed.

    Returns:
        The noised images; per-pixel variance 1 - abar_t around sqrt(abar_t) x_0.

    Source: Ho et al. 2020, eq. 4.
    """
    signal = schedule.gather("sqrt_alphas_cumprod", t, x_0)
    noise = schedule.gather("sqrt_one_minus_alphas_cumprod", t, x_0)
    return signal * x_0 + noise * eps


def q_posterior(
    schedule: NoiseSchedule,
    x_0: Images,
    x_t: Images,
    t: Timesteps,
) -> tuple[Images, Images]:
    """Return mean and variance of q(x_{t-1} | x_t, x_0).

    At t = 0 it is the point x_0 with variance 0. The variance is a view that repeats one number
    per image.

    Source: Ho et al. 2020, eqs. 6 and 7.
    """
    mean = schedule.gather("coef_x_0", t, x_t) * x_0 + schedule.gather("coef_x_t", t, x_t) * x_t
    return mean, schedule.gather("posterior_variance", t, x_t).expand_as(x_t)


def signal_and_noise(
    schedule: NoiseSchedule, t: Times, like: Images
) -> tuple[PerImageScale, PerImageScale]:
    """Return sqrt(abar_t) and sqrt(1 - abar_t), shaped (b, 1, ..., 1), as `like` is.

    Times between the steps are those of `continuous`.
    """
    if not t.is_floating_point():
        return (
            schedule.gather("sqrt_alphas_cumprod", t, like),
            schedule.gather("sqrt_one_minus_alphas_cumprod", t, like),
        )
    log_snr = log_snr_at(schedule, t)
    dtype = torch.promote_types(like.dtype, torch.float32)
    signal, noise = (half.sigmoid().sqrt().to(dtype) for half in (log_snr, -log_snr))
    return expand(signal, like), expand(noise, like)


# -- what a network may predict, each from each ------------------------------------------------


def predict_x_0(schedule: NoiseSchedule, x_t: Images, t: Times, eps: Images) -> Images:
    """Return the x_0 that gives x_t with this eps: (x_t - sqrt(1 - abar_t) eps) / sqrt(abar_t).

    Errors of eps are multiplied by 157 at the last step of the paper's chain.

    Source: Ho et al. 2020, eq. 15.
    """
    signal, noise = signal_and_noise(schedule, t, x_t)
    return (x_t - noise * eps) / signal


def predict_eps(schedule: NoiseSchedule, x_t: Images, t: Times, x_0: Images) -> Images:
    """Return the eps that gives x_t from this x_0: (x_t - sqrt(abar_t) x_0) / sqrt(1 - abar_t)."""
    signal, noise = signal_and_noise(schedule, t, x_t)
    return (x_t - signal * x_0) / noise


def predict_v(schedule: NoiseSchedule, x_0: Images, t: Times, eps: Images) -> Images:
    """Return v = sqrt(abar_t) eps - sqrt(1 - abar_t) x_0."""
    signal, noise = signal_and_noise(schedule, t, x_0)
    return signal * eps - noise * x_0


def x_0_from_v(schedule: NoiseSchedule, x_t: Images, t: Times, v: Images) -> Images:
    """Return x_0 = sqrt(abar_t) x_t - sqrt(1 - abar_t) v."""
    signal, noise = signal_and_noise(schedule, t, x_t)
    return signal * x_t - noise * v


def eps_from_v(schedule: NoiseSchedule, x_t: Images, t: Times, v: Images) -> Images:
    """Return eps = sqrt(1 - abar_t) x_t + sqrt(abar_t) v."""
    signal, noise = signal_and_noise(schedule, t, x_t)
    return noise * x_t + signal * v


def x_0_from_mean(schedule: NoiseSchedule, x_t: Images, t: Timesteps, mean: Images) -> Images:
    """Return the x_0 for which `mean` is the mean of q(x_{t-1} | x_t, x_0).

    Errors of the mean are multiplied by 7,800 at the last step of the paper's chain.
    """
    rest = mean - schedule.gather("coef_x_t", t, x_t) * x_t
    return rest / schedule.gather("coef_x_0", t, x_t)


def score_from_eps(schedule: NoiseSchedule, eps: Images, t: Times) -> Images:
    """Return the score, the gradient of log q(x_t) at x_t: -eps / sqrt(1 - abar_t)."""
    return -eps / signal_and_noise(schedule, t, eps)[1]


def eps_from_score(schedule: NoiseSchedule, score: Images, t: Times) -> Images:
    """Return eps = -sqrt(1 - abar_t) score."""
    return -score * signal_and_noise(schedule, t, score)[1]
