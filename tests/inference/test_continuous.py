"""From a section in continuous time to path, network and objective."""

import pytest
import torch

from ddpm_core.diffusion.continuous_objective import ContinuousObjective
from ddpm_core.diffusion.path_network import ChainNetwork, Form
from ddpm_core.diffusion.paths.flow import Straight
from ddpm_core.diffusion.paths.sde import (
    SubVariancePreserving,
    VarianceExploding,
    VariancePreserving,
)
from ddpm_core.diffusion.times import Times
from ddpm_core.errors import ConfigError
from ddpm_core.inference import continuous
from ddpm_core.inference.build import (
    build_denoiser,
    build_objective,
    build_schedule,
    end_warning,
    require_process,
)
from tests.training.small import small_config

EXPECTED = {
    "vp": (VariancePreserving(beta_min=0.2, beta_max=9.0), Form(time_scale=999.0), "eps"),
    "subvp": (SubVariancePreserving(beta_min=0.2, beta_max=9.0), Form(time_scale=999.0), "x_0"),
    "ve": (VarianceExploding(sigma_min=0.03, sigma_max=60.0), Form(), "eps"),
    "flow": (Straight(end=0.999), Form(time_scale=1000.0), "velocity"),
    "edm": (
        VarianceExploding(sigma_min=0.03, sigma_max=60.0),
        Form(log_sigma_scale=0.25, sigma_data=0.7),
        "x_0",
    ),
}
KEYS = {
    "vp": {"beta_min": 0.2, "beta_max": 9.0},
    "subvp": {"beta_min": 0.2, "beta_max": 9.0, "prediction": "x_0"},
    "ve": {"sigma_min": 0.03, "sigma_max": 60.0},
    "flow": {},
    "edm": {"sigma_min": 0.03, "sigma_max": 60.0, "sigma_data": 0.7},
}


@pytest.mark.parametrize("kind", EXPECTED)
def test_every_key_reaches_path_network_and_objective(kind):
    """Catches: a key that is dropped, a path or a form of another kind, times of the default."""
    keys = {"times": "log_normal", "log_sigma_mean": 0.3, "log_sigma_std": 0.6, **KEYS[kind]}
    config = small_config(
        diffusion__kind=kind,
        train__weighting="min_snr",
        train__min_snr_gamma=3.0,
        **{f"diffusion__{key}": value for key, value in keys.items()},
    )
    path, form, prediction = EXPECTED[kind]
    assert build_objective(config) == ContinuousObjective(
        Times(path, "log_normal", 0.3, 0.6),
        prediction,
        weighting="min_snr",
        min_snr_gamma=3.0,
        sigma_data=form.sigma_data,
    )
    denoiser = build_denoiser(config, lambda x, _: x)
    assert isinstance(denoiser.network, ChainNetwork)
    assert (denoiser.network.path, denoiser.network.network.form) == (path, form)
    assert (denoiser.prediction, denoiser.variance) == (prediction, "fixed_small")
    assert torch.equal(denoiser.schedule.betas, build_schedule(config).betas)
    assert denoiser.schedule.num_timesteps == 24
    of_path = continuous.without_steps(denoiser)
    assert (of_path.path, of_path.prediction) == (path, prediction)


def test_a_chain_that_is_made_of_no_path_has_no_path():
    """Catches: an AttributeError."""
    with pytest.raises(ConfigError, match="made of no path"):
        continuous.without_steps(build_denoiser(small_config(), lambda x, _: x))


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"diffusion__kind": "vp", "diffusion__beta_max": 5.0}, "beta_max"),
        ({"diffusion__kind": "ve", "diffusion__sigma_max": 5.0}, "sigma_max"),
    ],
)
def test_a_path_that_does_not_end_in_noise_is_said(changes, key):
    """Catches: silence, and the keys of a chain in the sentence."""
    assert f"raise diffusion.{key}" in end_warning(small_config(**changes))
    assert end_warning(small_config(diffusion__kind=changes["diffusion__kind"])) is None


@pytest.mark.parametrize(
    ("kind", "changes", "said"),
    [
        ("edm", {"sigma_min": 1e-9}, "num_timesteps=.* raise diffusion.sigma_min"),
        ("vp", {"num_timesteps": 300_000}, "num_timesteps=300000"),
        ("edm", {"log_sigma_mean": -7.0}, "log_sigma_mean=-7 .* from -6.21 to 4.38"),
        ("flow", {"log_sigma_mean": 40.0}, "log_sigma_mean=40 .* from -6.91 to 6.91"),
    ],
)
def test_a_path_that_cannot_be_drawn_from_is_refused_before_it_is_trained(kind, changes, said):
    """Catches a chain with steps of variance 0, which samples and bound need after the training,
    and a training at one end of the path alone."""
    keys = {f"diffusion__{key}": value for key, value in changes.items()}
    with pytest.raises(ConfigError, match=said):
        require_process(small_config(diffusion__kind=kind, **keys))
    require_process(small_config(diffusion__kind=kind))
