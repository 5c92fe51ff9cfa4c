"""Bits/dim through the probability flow: which images, on which path, with which protocol."""

import numpy as np
import pytest
import torch

from ddpm_core import seeding
from ddpm_core.diffusion.denoiser import NetworkDenoiser
from ddpm_core.diffusion.integrate import FixedStep
from ddpm_core.diffusion.measures.ode_likelihood import ode_bits_per_dim
from ddpm_core.diffusion.paths.sde import VariancePreserving
from ddpm_core.diffusion.paths.sigma import sigma_grid
from ddpm_core.errors import DivergenceError
from ddpm_core.evaluation.measuring.worker import flow_part, units_of
from ddpm_core.evaluation.numbers.metrics import flow_metric
from ddpm_core.inference.build import build_denoiser
from ddpm_core.recipes import digits, recipe

CONFIG = recipe("digits-vp")


def network(x_t, clock):
    """Say the noise of N(0, 1) images, nearly: the clock is 999 t."""
    return (0.5 + clock / 2000)[:, None, None, None] * x_t


def test_the_images_of_the_bound_go_through_the_flow_of_continuous_time_alone():
    """Catches: a flow of a chain, which the study measures; other images than the bound's."""
    units = units_of(CONFIG, 1500, 297)
    ranges = {kind: [(one.start, one.stop) for one in units if one.kind == kind] for kind in
              ("bound", "flow")}  # fmt: skip
    assert ranges["flow"] == ranges["bound"]
    assert ranges["flow"][-1][1] == CONFIG.evaluate.num_likelihood_images
    assert not any(unit.kind == "flow" for unit in units_of(digits(), 1500, 297))


def test_the_flow_is_solved_on_the_path_with_each_image_s_own_numbers():
    """Catches: the chain's first step for the path's beginning, noise by the place in the unit, the
    clock of the chain."""
    images_u8 = torch.arange(3 * 16).reshape(3, 1, 4, 4).to(torch.uint8) * 5
    positions = torch.tensor([4, 9, 2])
    found = flow_part(build_denoiser(CONFIG, network), images_u8, positions, num_steps=6, seed=3)[
        "bits"
    ]
    key, path = seeding.key(3, "likelihood", 1), VariancePreserving()
    of_path = NetworkDenoiser(lambda x, t: network(x, 999 * t), path, "eps")
    expected = ode_bits_per_dim(
        of_path,
        images_u8.double() / 127.5 - 1,
        solver=FixedStep(sigma_grid(path, 6), "rk4"),
        uniform=seeding.uniform(key, 0, positions, (1, 4, 4)),
        probe=seeding.signs(key, 1, positions, (1, 4, 4)),
    )
    torch.testing.assert_close(found, expected.bits)


def test_the_number_says_how_it_was_measured():
    """Catches: a protocol with holes; a mean with nan in it."""
    config = CONFIG.replaced({"evaluate.ode_steps": 40})
    metric = flow_metric(np.array([3.0, 5.0]), config, {"step": 7})
    assert (metric["value"], metric["standard_error"]) == (4.0, 1.0)
    protocol = metric["protocol"]
    assert (protocol["steps"], protocol["step"], protocol["num_images"]) == (40, 7, 2)
    assert (protocol["kind"], protocol["beta_max"], protocol["times"]) == ("vp", 20.0, "log_snr")
    with pytest.raises(DivergenceError, match="image 1 through the probability flow are nan"):
        flow_metric(np.array([3.0, np.nan]), config, {})
