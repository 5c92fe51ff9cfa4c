"""From a configuration to schedule, objective and denoiser."""

import pytest
import torch

from ddpm_core.diffusion.denoiser import NetworkDenoiser
from ddpm_core.diffusion.objective import Objective
from ddpm_core.diffusion.paths.betas import make_betas, zero_terminal_snr
from ddpm_core.inference.build import build_denoiser, build_objective, build_schedule, end_warning
from ddpm_core.inference.networks import build_network
from ddpm_core.recipes import RECIPES, recipe
from tests.training.small import small_config


def test_schedule_is_that_of_the_configuration():
    """Catches a schedule of the default T, or unscaled betas."""
    schedule = build_schedule(small_config(diffusion__num_timesteps=100))
    assert schedule.num_timesteps == 100
    assert schedule.betas[0].item() == 1e-3
    assert schedule.betas[-1].item() == 0.2


@pytest.mark.parametrize("rescaled", [False, True])
def test_schedule_has_the_configured_name_and_ends(rescaled):
    """Catches a key of the configuration that nothing reads."""
    config = small_config(
        diffusion__beta_schedule="quad",
        diffusion__num_timesteps=200,
        diffusion__beta_start=2e-4,
        diffusion__beta_end=0.03,
        diffusion__zero_terminal_snr=rescaled,
        diffusion__prediction="v",
    )
    betas = make_betas("quad", 200, 2e-4, 0.03)
    expected = zero_terminal_snr(betas) if rescaled else betas
    torch.testing.assert_close(build_schedule(config).betas, expected, rtol=0, atol=0)


def test_objective_is_that_of_the_configuration():
    """Catches keys that are mixed up or left at their defaults, and another schedule."""
    config = small_config(
        diffusion__prediction="x_0",
        diffusion__variance="learned_range",
        train__loss="hybrid",
        train__weighting="p2",
        train__p2_gamma=0.5,
        train__p2_k=2.0,
    )
    objective = build_objective(config)
    expected = Objective(
        objective.schedule,
        prediction="x_0",
        variance="learned_range",
        loss="hybrid",
        weighting="p2",
        p2_gamma=0.5,
        p2_k=2.0,
    )
    assert objective == expected
    other = small_config(train__weighting="min_snr", train__min_snr_gamma=3.0)
    assert build_objective(other).min_snr_gamma == 3.0
    assert torch.equal(objective.schedule.betas, build_schedule(config).betas)
    plain = build_objective(small_config())
    assert plain == Objective(plain.schedule, variance="fixed_small")


def test_denoiser_is_that_of_the_configuration():
    """Catches a denoiser that reads the output as something that it was not trained to be."""
    config = small_config(
        diffusion__prediction="v",
        diffusion__variance="learned",
        diffusion__beta_schedule="cosine",
        train__loss="vlb",
    )
    network = build_network(config)
    denoiser = build_denoiser(config, network)
    expected = NetworkDenoiser(network, denoiser.schedule, prediction="v", variance="learned")
    assert denoiser == expected
    assert torch.equal(denoiser.schedule.betas, build_schedule(config).betas)


@pytest.mark.parametrize("name", RECIPES)
def test_no_recipe_is_warned_of(name):
    """Catches a threshold that the paper's own chain does not meet."""
    assert end_warning(recipe(name)) is None


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        # The chain of Stable Diffusion, whose end is Lin et al.'s example: sqrt(abar_T) = 0.068.
        (
            {
                "diffusion.beta_schedule": "scaled_linear",
                "diffusion.num_timesteps": 1000,
                "diffusion.beta_start": 0.00085,
                "diffusion.beta_end": 0.012,
            },
            ["abar_T=0.00466", "beta_schedule=scaled_linear", "beta_end=0.012", "6.8 %"],
        ),
        ({"diffusion.beta_end": 0.002}, ["abar_T=0.3", "beta_schedule=linear"]),
    ],
)
def test_a_chain_that_does_not_end_in_noise_is_warned_of(changes, parts):
    """Catches a warning without the number, the schedule or a remedy, and remedies that are none.

    Each of the remedies is followed, and the warning goes.
    """
    config = small_config(**changes)
    warning = end_warning(config)
    for part in [*parts, "Raise diffusion.beta_end", "cosine", "zero_terminal_snr=true"]:
        assert part in warning
    rescaled = {"diffusion.zero_terminal_snr": True, "diffusion.prediction": "v"}
    for remedy in ({"diffusion.beta_end": 0.02}, {"diffusion.beta_schedule": "cosine"}, rescaled):
        assert end_warning(config.replaced(remedy)) is None


@pytest.mark.parametrize(("beta_end", "is_warned"), [(0.0137, False), (0.0135, True)])
def test_the_warning_begins_at_one_thousandth(beta_end, is_warned):
    """Catches another threshold: abar_1000 of linear is 1e-3 at beta_end = 0.0136."""
    config = small_config(diffusion__num_timesteps=1000, diffusion__beta_end=beta_end)
    assert (end_warning(config) is not None) == is_warned
