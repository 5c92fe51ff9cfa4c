"""The section `diffusion` of processes in continuous time: a kind for each system of the papers.

A kind is a path from image to noise, what the network says of x_t on it, and the times at which it
is trained. Bound and samplers use a chain of `num_timesteps` steps that is made of the path.
"""

from typing import Literal, Self

from pydantic import Field, model_validator

from ddpm_core.config.diffusion.process import ProcessConfig
from ddpm_core.diffusion.choices import OutputKind, TrainingTimes, Variance


class ContinuousConfig(ProcessConfig):
    """The keys that all kinds in continuous time have. Abstract: `kind` has no default here."""

    num_timesteps: int = Field(1000, ge=2, le=10**6)
    """T, steps of the chain that is made of the path: of the bound, and of samplers where
    sample.num_steps is left out; the training knows no steps"""
    times: TrainingTimes = "uniform"
    """at which times the network is trained: uniform in the path's time (uniform) or in the log
    signal-to-noise ratio (log_snr), for which train.loss=vlb weighs all alike; or normal in log
    sigma (log_normal), sigma = noise / signal"""
    log_sigma_mean: float = 0.0
    """of times=log_normal: mean of log sigma"""
    log_sigma_std: float = Field(1.0, gt=0)
    """of times=log_normal: standard deviation of log sigma"""
    chain_times: Literal["equal", "training"] = "equal"
    """where the steps of the chain lie that is made of the path: at equal distances of its time
    (equal); or as densely as the times of the training (training), so that the bound measures
    noise levels that the network has seen"""

    @property
    def variance(self) -> Variance:
        """Of the steps of the chain: that of the posterior, the limit of many steps."""
        return "fixed_small"

    @property
    def ends_in_pure_noise(self) -> bool:
        """Whether nothing is left of the image at the end: of no path, though little is."""
        return False

    @model_validator(mode="after")
    def _normal_times_have_their_knobs(self) -> Self:
        knobs = ("log_sigma_mean", "log_sigma_std")
        self.refuse_unused("times", dict.fromkeys(knobs, "log_normal"))
        return self

    @model_validator(mode="after")
    def _chain_follows_times_that_are_not_uniform(self) -> Self:
        if self.chain_times == "training" and self.times == "uniform":
            raise ValueError(
                "chain_times=training is the same as equal with times=uniform; leave it out, or "
                "set times=log_snr or log_normal"
            )
        return self


class _LinearBetaConfig(ContinuousConfig):
    """The keys of vp and subvp. Abstract: `kind` has no default here."""

    beta_min: float = Field(0.1, gt=0, le=1000)
    """beta(0) of the drift -beta(t) x / 2, with t from 0 to 1"""
    beta_max: float = Field(20.0, gt=0, le=1000)
    """beta(1); between the two beta is linear"""

    @model_validator(mode="after")
    def _betas_rise(self) -> Self:
        if self.beta_min > self.beta_max:
            raise ValueError(
                f"beta_min={self.beta_min} is above beta_max={self.beta_max}; swap them"
            )
        return self


class VpConfig(_LinearBetaConfig):
    """The variance preserving equation (Song et al. 2021, arXiv:2011.13456, eq. 11)."""

    kind: Literal["vp"] = "vp"
    """which forward process: in continuous time, variance preserving (vp)"""
    prediction: Literal["eps", "x_0", "v"] = "eps"
    """what the network predicts: the noise, the image, or v"""


class SubVpConfig(_LinearBetaConfig):
    """The sub-variance preserving equation (Song et al. 2021, eq. 12)."""

    kind: Literal["subvp"] = "subvp"
    """which forward process: in continuous time, sub-variance preserving (subvp)"""
    prediction: Literal["eps", "x_0"] = "eps"
    """what the network predicts: the noise, or the image"""


class _SigmasConfig(ContinuousConfig):
    """The keys of ve and edm. Abstract: `kind` has no default here."""

    sigma_min: float = Field(0.02, gt=0, le=1e6)
    """noise at the beginning, where images span [-1, 1]"""
    sigma_max: float = Field(100.0, gt=0, le=1e6)
    """noise at the end"""

    @model_validator(mode="after")
    def _sigmas_rise(self) -> Self:
        if self.sigma_min >= self.sigma_max:
            raise ValueError(f"sigma_min={self.sigma_min} must be below sigma_max={self.sigma_max}")
        return self


class VeConfig(_SigmasConfig):
    """The variance exploding equation (Song et al. 2021, eq. 9).

    The source's sigmas, 0.01 to 50, are of images in [0, 1]: here they are twice that.
    """

    kind: Literal["ve"] = "ve"
    """which forward process: in continuous time, variance exploding (ve)"""
    prediction: Literal["eps", "x_0"] = "eps"
    """what the network predicts: the noise, or the image"""


class FlowConfig(ContinuousConfig):
    """The straight line of flow matching, times logit-normal (Esser et al. 2024, arXiv:2403.03206).

    On the line sigma is t / (1 - t): normal log sigma are the source's logit-normal times.
    """

    kind: Literal["flow"] = "flow"
    """which forward process: in continuous time, the straight line (flow)"""
    times: TrainingTimes = "log_normal"
    """as of the other kinds; normal in log sigma are logit-normal times"""

    @property
    def prediction(self) -> OutputKind:
        """The velocity."""
        return "velocity"


class EdmConfig(_SigmasConfig):
    """Noise added to the image, with the preconditioned network of Karras et al. 2022.

    Its constants are those of arXiv:2206.00364, table 1. Where train.weighting is none, L_simple is
    that of the network inside, whose target has variance 1: the source's weight.
    """

    kind: Literal["edm"] = "edm"
    """which forward process: in continuous time, with a preconditioned network (edm)"""
    sigma_min: float = Field(0.002, gt=0, le=1e6)
    """least noise, where images span [-1, 1]"""
    sigma_max: float = Field(80.0, gt=0, le=1e6)
    """most noise"""
    sigma_data: float = Field(0.5, ge=1e-3, le=100)
    """standard deviation of the images' values, by which input and output are scaled"""
    times: TrainingTimes = "log_normal"
    """as of the other kinds"""
    log_sigma_mean: float = -1.2
    """of times=log_normal: mean of log sigma"""
    log_sigma_std: float = Field(1.2, gt=0)
    """of times=log_normal: standard deviation of log sigma"""

    @property
    def prediction(self) -> OutputKind:
        """The image: the output of the network inside is scaled and x_t added to it."""
        return "x_0"
