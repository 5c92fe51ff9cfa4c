"""That the shapes in the signatures are checked while these tests run."""

import jaxtyping
import pytest
import torch

from ddpm_core.diffusion.objective import loss_simple
from ddpm_core.diffusion.process import q_posterior
from tests.diffusion.chains import PAPER


def test_images_of_two_shapes_are_refused():
    """Catches a suite that runs without the checks: broadcasting would hide an axis lost."""
    with pytest.raises(jaxtyping.TypeCheckError):
        loss_simple(torch.zeros(2, 1, 4, 4), torch.zeros(2, 3, 4, 4))


def test_a_timestep_that_is_no_integer_is_refused():
    """Catches t in [0, 1], as other formulations of diffusion have it."""
    x_0 = torch.zeros(2, 3)
    with pytest.raises(jaxtyping.TypeCheckError):
        q_posterior(PAPER, x_0, x_0, torch.tensor([0.0, 0.5]))
