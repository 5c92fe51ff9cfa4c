"""Known parts: where they end, and what noise the denoiser sees in them on the way."""

import pytest
import torch

from ddpm_core.conditioning import Known
from ddpm_core.diffusion.denoiser import NetworkDenoiser
from ddpm_core.diffusion.paths.betas import make_betas
from ddpm_core.diffusion.paths.schedule import make_schedule
from ddpm_core.diffusion.samplers.ancestral import ddpm_sample
from ddpm_core.diffusion.wrappers.guidance import Guided
from ddpm_core.diffusion.wrappers.pinning import Pinned
from ddpm_core.diffusion.wrappers.respacing import respaced
from ddpm_core.diffusion.wrappers.thresholding import StaticThreshold
from ddpm_core.errors import ConfigError
from tests.diffusion.analytic import row
from tests.diffusion.chains import PAPER, SHORT, every_t, normal
from tests.diffusion.objectives import saying

CHAIN = make_schedule(make_betas("linear", 30))
MASK = torch.tensor([[True, False]])


@pytest.mark.usefixtures("shapes_unchecked")
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
@pytest.mark.parametrize("steps", [range(30), [0, 3, 11, 20, 29]])
def test_the_known_part_follows_the_forward_process(variance, steps):
    """Catches the model's own variance in the known part, at every step that the network sees.

    Row 0 has no noise, row 1 an x_T of 1, and row 2 + n a noise number n of 1: the state is affine
    in them, so that row 0 is its mean, and the squares of what others add are its variance.
    """
    seen = []

    def network(x_t, t):
        mean, rest = x_t[0, 0], x_t[1:, 0] - x_t[0, 0]
        seen.append((int(t[0]), float(mean), float(rest.square().sum())))
        return torch.zeros_like(x_t)

    few = respaced(NetworkDenoiser(network, CHAIN, "x_0", variance), list(steps))
    rows = len(steps) + 2
    x_T = torch.zeros(rows, 2, dtype=torch.float64)
    x_T[1] = 1

    def noise(number):
        value = torch.zeros_like(x_T)
        value[2 + number] = 1
        return value

    ddpm_sample(Pinned(few, Known(row(0.8, 0.0)[None], MASK)), x_T, noise=noise)
    assert [t for t, _, _ in seen] == list(steps)[::-1]
    for t, mean, spread in seen[1:]:
        abar = float(CHAIN.alphas_cumprod[t])
        # x_T begins at N(0, 1), which differs by the signal that is left there.
        assert mean == pytest.approx(0.8 * abar**0.5, abs=1e-3), t
        assert spread == pytest.approx(1 - abar, abs=1e-4), t


def test_the_variance_elsewhere_stays_that_of_the_denoiser():
    """Catches a variance of all pixels that is that of the known ones."""
    own = saying(normal(50, 1, 2), SHORT, "eps", "fixed_large")
    x_t, t = normal(50, 1, 2, seed=2), every_t(SHORT)
    known = Known(row(0.8, 0.0)[None, None], MASK)
    step, plain = (one.predict(x_t, t).reverse(clip_x_0=True) for one in (Pinned(own, known), own))
    assert torch.equal(step.log_variance[:, 0, 1], plain.log_variance[:, 0, 0])
    small = SHORT.posterior_log_variance_clipped
    assert torch.equal(step.log_variance[:, 0, 0], small)
    assert torch.equal(step.x_0_hat[:, 0, 0], torch.full((50,), 0.8, dtype=torch.float64))


def test_wrappers_leave_alone_what_is_known():
    """Catches known pixels that are guided, and a variance that a wrapper around loses."""
    own, other = (saying(normal(50, 1, 2, seed=seed), SHORT, "v", "fixed_large") for seed in (1, 2))
    known = Known(row(0.8, 0.0)[None, None], MASK)
    x_t, t = normal(50, 1, 2, seed=3), every_t(SHORT)
    for wrapped in (
        Guided(Pinned(own, known), Pinned(other, known), 3.0),
        StaticThreshold(Pinned(own, known)),
    ):
        said = wrapped.predict(x_t, t)
        assert torch.equal(said.x_0[:, 0, 0], torch.full((50,), 0.8, dtype=torch.float64))
        assert torch.equal(said.log_variance[:, 0, 0], SHORT.posterior_log_variance_clipped)


def test_a_mask_may_be_of_one_image_or_one_channel():
    """Catches a mask that must be as large as the batch, and one that is turned round."""
    values, images = normal(4, 3, 2, 2, seed=1), normal(4, 3, 2, 2, seed=2)
    left = torch.tensor([True, False])
    for mask in (left, left.expand(2, 2), left.expand(4, 1, 2, 2), left.expand(4, 3, 2, 2)):
        found = Known(values, mask).into(images)
        assert torch.equal(found[..., 0], values[..., 0])
        assert torch.equal(found[..., 1], images[..., 1])
    assert Known(values, left).into(images.float()).dtype == torch.float32


@pytest.mark.parametrize("shape", [(3,), (2, 3, 2, 2), (4, 3, 2, 2, 1)])
def test_a_mask_of_another_shape_is_refused(shape):
    """Catches a RuntimeError of torch in the middle of sampling."""
    with pytest.raises(ConfigError, match="mask is shaped"):
        Known(normal(4, 3, 2, 2), torch.ones(shape, dtype=torch.bool))


def test_an_image_that_is_known_whole_is_drawn_whole():
    """Catches a last step that is not the known image in float32 either."""
    values = normal(3, 2, 4, seed=1, dtype=torch.float32).clamp(-1, 1)
    known = Known(values, torch.ones(1, dtype=torch.bool))
    denoiser = respaced(Pinned(saying(0 * values), known), [0, 400, 999])
    found = ddpm_sample(denoiser, normal(3, 2, 4, dtype=torch.float32), noise=lambda t: values)
    torch.testing.assert_close(found, values, rtol=0, atol=1e-6)
    assert torch.equal(known.into(found), values)
    assert denoiser.path.num_timesteps < PAPER.num_timesteps
