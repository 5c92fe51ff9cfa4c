"""The kinds in continuous time: what is refused, in which words, and before anything starts."""

import pytest

from ddpm_core.errors import ConfigError
from ddpm_core.recipes import digits


@pytest.mark.parametrize(
    ("kind", "changes", "parts"),
    [
        ("vp", {"diffusion.beta_min": 30.0}, ["beta_min=30.0 is above beta_max=20.0"]),
        ("ve", {"diffusion.sigma_min": 200.0}, ["sigma_min=200.0 must be below sigma_max=100.0"]),
        ("vp", {"diffusion.log_sigma_mean": 1.0}, ["log_sigma_mean=1.0", "times=log_normal"]),
        ("vp", {"diffusion.chain_times": "training"}, ["chain_times=training", "times=uniform"]),
        ("subvp", {"diffusion.prediction": "v"}, ["diffusion.prediction", "'eps' or 'x_0'"]),
        ("flow", {"diffusion.beta_max": 1.0}, ["is a key of diffusion.kind=vp", "kind=flow"]),
        ("edm", {"diffusion.prediction": "eps"}, ["diffusion.prediction is a key of"]),
        ("vp", {"model.time_embedding": "fourier"}, ["given log sigma", "diffusion.kind=vp"]),
        ("vp", {"train.loss": "hybrid"}, ["loss=hybrid", "fixed"]),
        ("vp", {"sample.num_steps": 1001}, ["num_steps=1001", "1000 steps of the chain"]),
        ("chain", {"evaluate.ode_steps": 5}, ["evaluate.ode_steps=5", "study.ode_steps"]),
        ("edm", {"sample.spacing": "karras"}, ["spacing=karras", "sampler=ancestral", "heun"]),
        ("vp", {"sample.ode_method": "adaptive"}, ["ode_method=adaptive", "sampler=ode"]),
        (
            "vp",
            {"sample.sampler": "ode", "sample.ode_method": "adaptive", "sample.num_steps": 9},
            ["num_steps=9", "leave num_steps out"],
        ),
        ("vp", {"sample.ode_tolerance": 1e-3}, ["ode_tolerance", "ode_method=adaptive"]),
    ],
)
def test_what_cannot_be_is_refused_with_the_key(kind, changes, parts):
    """Catches: a traceback in a worker, and a knob that does nothing."""
    with pytest.raises(ConfigError) as caught:
        digits().replaced({"diffusion.kind": kind, **changes})
    for part in parts:
        assert part in str(caught.value), caught.value


@pytest.mark.parametrize("kind", ["vp", "flow", "edm"])
def test_dense_layers_are_of_the_steps_of_a_chain(kind):
    """Catches a network that is given log sigma, or times of up to 1000, where it has bumps over
    T steps: it would read out one of them for all times, and train to the end."""
    with pytest.raises(ConfigError, match=f"model.kind=mlp .* diffusion.kind={kind}"):
        digits().replaced({"model.kind": "mlp", "diffusion.kind": kind})


def test_images_without_any_deviation_are_refused():
    """Catches a traceback of the weight 1 / sigma_data**2, which overflows."""
    with pytest.raises(ConfigError, match=r"diffusion\.sigma_data"):
        digits().replaced({"diffusion.kind": "edm", "diffusion.sigma_data": 1e-300})
