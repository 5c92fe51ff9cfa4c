"""Diffusion as a progressive lossy code: what each step of the chain costs, and what is seen then.

The sender draws x_T, then x_{T-1} from q(x_{T-1} | x_T, x_0), and so on; the receiver, who knows
p(x_{t-1} | x_t), gets each for as many bits as q diverges from p, and after each can show x_0_hat.
The bits so far are the rate, the error of x_0_hat is the distortion; what is left at the end to
know x_0 exactly is the decoder's term L_0.

There is no bitstream here. It would take the place of the draws in `progressive_decoding`: for
each t both sides compute p(x_{t-1} | x_t) (`Prediction.reverse`), the sender alone computes
q(x_{t-1} | x_t, x_0) (`q_posterior`), and a coder that simulates the channel turns q, p and random
bits known to both into a message and the draw with which both go on. It needs the two means and
variances and nothing else of the network.

Source: Ho et al. 2020, arXiv:2006.11239, section 4.3, algorithms 3 and 4, fig. 5, table 4.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from ddpm_core.diffusion.denoiser import Denoiser
from ddpm_core.diffusion.measures.likelihood import LikelihoodTerms
from ddpm_core.diffusion.paths.path import chain_of
from ddpm_core.diffusion.process import q_posterior, q_sample
from ddpm_core.diffusion.shapes import Images, PerImage
from ddpm_core.diffusion.wrappers.respacing import subchain
from ddpm_core.errors import ConfigError

RMSE_LEVELS = 127.5
"""levels of 0 ... 255 per unit of [-1, 1]"""


class RateDistortion(NamedTuple):
    """The code after each step; entry t belongs to a receiver who holds x_t, code index t."""

    reverse_step: Int64[Tensor, " T"]
    """the paper's T - t + 1: 1 where only x_T is known, T before the decoder's step"""
    rate: Float64[Tensor, " T"]
    """mean bits/dim received"""
    rmse: Float64[Tensor, " T"]
    """mean over the images of the root mean squared error of x_0_hat, in levels of 0 ... 255"""
    rmse_of_mean: Float64[Tensor, " T"]
    """root of the mean over the images of that mean squared error; never below `rmse`"""


class Codelength(NamedTuple):
    """The lossless code of an image, on average, and its two parts, in bits/dim."""

    rate: float
    """L_T + ... + L_1: what the receiver holds when x_0_hat is shown for the last time"""
    distortion: float
    """L_0: what is then left to tell; it can hardly be seen where the last RMSE is about a level"""

    @property
    def total(self) -> float:
        """The bound."""
        return self.rate + self.distortion

    @property
    def distortion_share(self) -> float:
        """Part of the lossless code that describes what x_0_hat leaves open, 0 ... 1."""
        return self.distortion / self.total


def rate(prior: PerImage, terms: Float[Tensor, "b T"]) -> Float64[Tensor, " T"]:
    """Return mean bits/dim that a receiver has got once it holds x_t, for each code index t.

    The prior and the terms of all later indices; the term of t itself pays for x_{t-1}, and the
    decoder's, the distortion, is in none.

    Args:
        prior: L_T of each image.
        terms: of the bound, column t at code index t, as in `LikelihoodTerms`.
    """
    mean = terms.double().mean(dim=0)
    later = torch.cat([mean[1:], torch.zeros_like(mean[:1])])
    # Summed from the chain's end, where the terms are smallest.
    return prior.double().mean() + later.flip(0).cumsum(0).flip(0)


def mean_rmse(mse: Float[Tensor, "b T"]) -> Float64[Tensor, " T"]:
    """Return the mean over images of the root of each image's error, in levels of 0 ... 255.

    Args:
        mse: where images span [-1, 1], as in `LikelihoodTerms`.
    """
    return RMSE_LEVELS * mse.double().sqrt().mean(dim=0)


def rmse_of_mean(mse: Float[Tensor, "b T"]) -> Float64[Tensor, " T"]:
    """Return the root of the mean error over images, in levels; the paper does not say which."""
    return RMSE_LEVELS * mse.double().mean(dim=0).sqrt()


def rate_distortion(bound: LikelihoodTerms) -> RateDistortion:
    """Return rate and distortion at every reverse step, from the terms of the bound."""
    num_timesteps = bound.terms.shape[1]
    return RateDistortion(
        reverse_step=num_timesteps - torch.arange(num_timesteps, device=bound.terms.device),
        rate=rate(bound.prior, bound.terms),
        rmse=mean_rmse(bound.mse),
        rmse_of_mean=rmse_of_mean(bound.mse),
    )


def codelength(bound: LikelihoodTerms) -> Codelength:
    """Return the two parts of the lossless code, the mean over images."""
    return Codelength(
        rate=float(rate(bound.prior, bound.terms)[0]),
        distortion=float(bound.terms[:, 0].double().mean()),
    )


class Received(NamedTuple):
    """What a receiver holds and shows at chosen times; row i belongs to times[i]."""

    x_t: Float[Tensor, "k b *d"]
    x_0_hat: Float[Tensor, "k b *d"]


@torch.no_grad()
def progressive_decoding(
    denoiser: Denoiser,
    x_0: Images,
    *,
    times: Sequence[int],
    noise: Callable[[int], Tensor],
    clip_x_0: bool = True,
) -> Received:
    """Send images step by step, without a coder, and decode them at chosen times.

    All x_t lie on one trajectory, as they do when each is sent given the one before: the latest is
    drawn from q(x_t | x_0), the next from q(x_s | x_t, x_0) with s the next time. That is the
    distribution of the steps in between left out, so that one call of the network for each time
    does.

    Args:
        denoiser: of a network, the averaged weights in evaluation mode.
        x_0: the images to send, in [-1, 1].
        times: code indices, falling, at least two.
        noise: gives the standard normal of time t, shaped like `x_0`; called once for each time,
            in their order.
        clip_x_0: whether the predicted x_0 is clipped to [-1, 1].

    Raises:
        ConfigError: if the times do not fall or are not on the chain.

    Source: Ho et al. 2020, algorithms 3 and 4, with the minimal random coder left out.
    """
    schedule = chain_of(denoiser.path)
    steps = torch.tensor(list(times[::-1]), dtype=torch.int64)
    if len(steps) < 2 or bool((steps.diff() <= 0).any()):
        raise ConfigError(f"times {list(times)} must fall and be at least two")
    if int(steps[0]) < 0 or int(steps[-1]) >= schedule.num_timesteps:
        raise ConfigError(f"times {list(times)} must lie in 0...{schedule.num_timesteps - 1}")
    chosen = subchain(schedule, steps)

    def filled(value: int) -> Tensor:
        return torch.full((len(x_0),), value, dtype=torch.int64, device=x_0.device)

    latents: list[Tensor] = []
    decoded: list[Tensor] = []
    for place, t in zip(range(len(steps) - 1, -1, -1), times, strict=True):
        if not latents:
            x_t = q_sample(schedule, x_0, filled(t), noise(t))
        else:
            mean, variance = q_posterior(chosen, x_0, latents[-1], filled(place + 1))
            x_t = mean + variance.sqrt() * noise(t)
        latents.append(x_t)
        decoded.append(denoiser.predict(x_t, filled(t)).reverse(clip_x_0=clip_x_0).x_0_hat)
    return Received(torch.stack(latents), torch.stack(decoded))
