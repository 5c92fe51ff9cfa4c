"""The forward process q, its posterior, and what a network may predict, each from each.

Every function treats all axes after the first alike. Results have the dtype of the images, but at
least float32: bfloat16 images are noised in float32.

Source: Ho et al. 2020, arXiv:2006.11239, sections 2 and 3.2; v: Salimans and Ho 2022, section 4;
velocity: Liu et al. 2022, arXiv:2209.03003, eq. 1, with time from the image to the noise; drift:
Sohl-Dickstein et al. 2015, arXiv:1503.03585, its code `model.py`, get_mu_sigma.
"""

from ddpm_core.diffusion.paths.path import Path
from ddpm_core.diffusion.paths.schedule import NoiseSchedule
from ddpm_core.diffusion.shapes import Images, Times, Timesteps


def q_sample(path: Path, x_0: Images, t: Times, eps: Images) -> Images:
    """Draw x_t from q(x_t | x_0).

    x_t = signal x_0 + noise eps; on a chain sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps

    Args:
        path: a chain or any other.
        x_0: images in [-1, 1].
        t: time; of a chain the code index of the step, 0..T-1, where 0 is one step of noise.
        eps: standard normal, drawn by the caller so that a run can be replayed.

    Returns:
        The noised images; per-pixel variance noise**2 around signal x_0.

    Source: Ho et al. 2020, eq. 4.
    """
    signal, noise = path.signal_and_noise(t, x_0)
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


# -- what a network may predict, each from each ------------------------------------------------


def predict_x_0(path: Path, x_t: Images, t: Times, eps: Images) -> Images:
    """Return the x_0 that gives x_t with this eps: (x_t - noise eps) / signal.

    Errors of eps are multiplied by 157 at the last step of the paper's chain.

    Source: Ho et al. 2020, eq. 15.
    """
    signal, noise = path.signal_and_noise(t, x_t)
    return (x_t - noise * eps) / signal


def predict_eps(path: Path, x_t: Images, t: Times, x_0: Images) -> Images:
    """Return the eps that gives x_t from this x_0: (x_t - signal x_0) / noise."""
    signal, noise = path.signal_and_noise(t, x_t)
    return (x_t - signal * x_0) / noise


def predict_v(path: Path, x_0: Images, t: Times, eps: Images) -> Images:
    """Return v = signal eps - noise x_0, of a path that preserves variance."""
    signal, noise = path.signal_and_noise(t, x_0)
    return signal * eps - noise * x_0


def x_0_from_v(path: Path, x_t: Images, t: Times, v: Images) -> Images:
    """Return x_0 = signal x_t - noise v, of a path that preserves variance."""
    signal, noise = path.signal_and_noise(t, x_t)
    return signal * x_t - noise * v


def eps_from_v(path: Path, x_t: Images, t: Times, v: Images) -> Images:
    """Return eps = noise x_t + signal v, of a path that preserves variance."""
    signal, noise = path.signal_and_noise(t, x_t)
    return noise * x_t + signal * v


def x_0_from_velocity(path: Path, x_t: Images, t: Times, velocity: Images) -> Images:
    """Return the x_0 that gives x_t with this eps - x_0: (x_t - noise velocity) / (signal + noise).

    On the straight line, where signal + noise is 1, it is x_t - t velocity. Unlike v, the velocity
    is one of x_0 and eps alone: it means the same on every path.
    """
    signal, noise = path.signal_and_noise(t, x_t)
    return (x_t - noise * velocity) / (signal + noise)


def eps_from_velocity(path: Path, x_t: Images, t: Times, velocity: Images) -> Images:
    """Return eps = (x_t + signal velocity) / (signal + noise)."""
    signal, noise = path.signal_and_noise(t, x_t)
    return (x_t + signal * velocity) / (signal + noise)


def x_0_from_mean(schedule: NoiseSchedule, x_t: Images, t: Timesteps, mean: Images) -> Images:
    """Return the x_0 for which `mean` is the mean of q(x_{t-1} | x_t, x_0).

    Errors of the mean are multiplied by 7,800 at the last step of the paper's chain.
    """
    rest = mean - schedule.gather("coef_x_t", t, x_t) * x_t
    return rest / schedule.gather("coef_x_0", t, x_t)


def mean_from_drift(schedule: NoiseSchedule, x_t: Images, t: Timesteps, drift: Images) -> Images:
    """Return the mean of x_{t-1}: sqrt(1 - beta) x_t + sqrt(beta) drift.

    Without drift it is that of a step of the forward process, which is exact for standard normal
    images.
    """
    kept, moved = schedule.gather("sqrt_alphas", t, x_t), schedule.gather("sqrt_betas", t, x_t)
    return kept * x_t + moved * drift


def drift_from_mean(schedule: NoiseSchedule, x_t: Images, t: Timesteps, mean: Images) -> Images:
    """Return the drift that gives this mean of x_{t-1}."""
    kept, moved = schedule.gather("sqrt_alphas", t, x_t), schedule.gather("sqrt_betas", t, x_t)
    return (mean - kept * x_t) / moved


def score_from_eps(path: Path, eps: Images, t: Times) -> Images:
    """Return the score, the gradient of log q(x_t) at x_t: -eps / noise."""
    return -eps / path.signal_and_noise(t, eps)[1]


def eps_from_score(path: Path, score: Images, t: Times) -> Images:
    """Return eps = -noise score."""
    return -score * path.signal_and_noise(t, score)[1]
