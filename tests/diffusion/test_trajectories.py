"""Progressive generation, and images that share a latent."""

import pytest
import torch

from ddpm_core.diffusion.denoiser import NetworkDenoiser
from ddpm_core.diffusion.process import predict_eps, q_sample
from ddpm_core.diffusion.samplers.ancestral import ddpm_sample
from ddpm_core.diffusion.trajectories import (
    evenly_spaced_times,
    progressive_generation,
    quarters,
    shared_latents,
)
from ddpm_core.errors import ConfigError
from tests.diffusion.chains import SHORT, normal

FREE = NetworkDenoiser(lambda x_t, t: x_t.sin() + 0.01 * t[:, None], SHORT)


def chain_noise(t):
    return normal(1, 6, seed=100 + t)


def branch_noise(t):
    """Of three branches, the first with the chain's own noise."""
    return torch.cat([chain_noise(t), normal(2, 6, seed=1000 + t)])


def shared(denoiser=FREE, times=(49, 30, 10, 0), num_images=3, x_T=None, **other):
    return shared_latents(
        denoiser,
        normal(1, 6) if x_T is None else x_T,
        times=times,
        num_images=num_images,
        **{"noise": chain_noise, "branch_noise": branch_noise, **other},
    )


# -- progressive generation ------------------------------------------------------------------------


def test_the_times_are_those_of_the_paper():
    """Catches: slots that end at 49, 99 ..., and quarters counted from the other end."""
    assert evenly_spaced_times(1000) == list(range(0, 1000, 50))
    assert evenly_spaced_times(250, 5) == [0, 50, 100, 150, 200]
    assert quarters(1000) == [999, 749, 499, 249]


def test_slot_i_holds_what_the_chain_heads_for_at_its_time():
    """Catches: x_{t-1} for x_0_hat, slots in the order of the chain, a time off by one."""
    seen = {}

    def on_step(t, _, x_0_hat):
        seen[t] = x_0_hat

    x_T, noise = normal(2, 6), lambda t: normal(2, 6, seed=t + 1)
    x_0 = ddpm_sample(FREE, x_T, noise=noise, on_step=on_step)
    times = [10, 49, 0]
    found = progressive_generation(FREE, x_T, times=times, noise=noise)
    assert torch.equal(found, torch.stack([seen[t] for t in times]))
    torch.testing.assert_close(found[2], x_0)


def test_progressive_generation_clips():
    """Catches: an argument that goes nowhere."""
    options = {"times": [49], "noise": lambda t: normal(2, 6, seed=t)}
    x_T = 3 * normal(2, 6)
    assert float(progressive_generation(FREE, x_T, **options).abs().max()) <= 1
    free = progressive_generation(FREE, x_T, clip_x_0=False, **options)
    torch.testing.assert_close(free[0], FREE.predict(x_T, torch.tensor([49, 49])).x_0)


@pytest.mark.parametrize("times", [[50], [-1, 3], []])
def test_times_that_are_not_on_the_chain_are_refused(times):
    """Catches: a KeyError after a whole chain."""
    with pytest.raises(ConfigError, match=r"must be at least one code index in 0\.\.\.49"):
        progressive_generation(FREE, normal(2, 6), times=times, noise=lambda t: normal(2, 6))
    with pytest.raises(ConfigError, match=r"0\.\.\.49"):
        shared(times=times)


# -- shared latents --------------------------------------------------------------------------------


def test_latents_lie_on_one_chain_and_the_branch_with_its_noise_is_its_end():
    """Catches: a latent one step early or late, a branch that does not start at the latent."""
    chain = {}
    x_0 = ddpm_sample(
        FREE,
        normal(1, 6),
        noise=chain_noise,
        on_step=lambda t, x_prev, _: chain.update({t - 1: x_prev}),
    )
    found = shared()
    assert [part.t for part in found] == [49, 30, 10, 0]
    assert torch.equal(found[0].x_t, normal(1, 6))
    for part in found[1:]:
        assert torch.equal(part.x_t, chain[part.t])
    for part in found:
        assert part.x_0.shape == (3, 6)
        torch.testing.assert_close(part.x_0[:1], x_0)


def test_branches_of_one_latent_differ_and_at_index_0_they_are_one():
    """Catches: the chain's noise given to all branches, noise added in the last step."""
    first, _, _, last = shared()
    assert float((first.x_0[1] - first.x_0[0]).abs().max()) > 0.01
    assert float((first.x_0[1] - first.x_0[2]).abs().max()) > 0.01
    assert torch.equal(last.x_0[1], last.x_0[0])


def test_images_that_share_a_later_latent_are_more_alike():
    """Catches: times that are walked in the wrong direction.

    For standard normal data the denoiser is exact: the variance of x_0 given x_t is 1 - abar_t.
    """

    def exact(x_t, t):
        return (1 - SHORT.alphas_cumprod[t, None]).sqrt() * x_t

    found = shared_latents(
        NetworkDenoiser(exact, SHORT),
        normal(1, 3000),
        times=[49, 25, 10],
        num_images=8,
        noise=lambda t: normal(1, 3000, seed=t),
        branch_noise=lambda t: normal(8, 3000, seed=1000 + t),
        clip_x_0=False,
    )
    for part in found:
        expected = 1 - float(SHORT.alphas_cumprod[part.t])
        # The sampler's own step at t = 0 adds no noise: beta_1 less.
        assert float(part.x_0.var(dim=0).mean()) == pytest.approx(expected, rel=0.03)


def test_the_chain_is_walked_once_and_each_branch_to_its_end():
    """Catches: a walk from x_T for each latent, branches that stop above index 0."""
    calls = []

    def network(x_t, t):
        calls.append((len(x_t), int(t[0])))
        return 0 * x_t

    shared(NetworkDenoiser(network, SHORT), times=(49, 20))
    assert [t for rows, t in calls if rows == 1] == list(range(49, 20, -1))
    assert [t for rows, t in calls if rows == 3] == [*range(49, -1, -1), *range(20, -1, -1)]


def test_all_branches_with_the_exact_denoiser_are_the_image():
    """Catches: clipping that is not handed on to chain and branches."""
    x_0 = 2 * normal(1, 6)

    def network(x_t, t):
        return predict_eps(SHORT, x_t, t, x_0.repeat(len(x_t), 1))

    x_T = q_sample(SHORT, x_0, torch.tensor([49]), normal(1, 6, seed=1))
    for part in shared(NetworkDenoiser(network, SHORT), x_T=x_T, clip_x_0=False):
        torch.testing.assert_close(part.x_0, x_0.repeat(3, 1))
    for part in shared(NetworkDenoiser(network, SHORT), x_T=x_T):
        torch.testing.assert_close(part.x_0, x_0.clamp(-1, 1).repeat(3, 1))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"times": (10, 30)}, r"times \[10, 30\] must fall"),
        ({"times": (10, 10)}, "must fall"),
        ({"num_images": 0}, "num_images=0"),
        ({"x_T": normal(2, 6)}, "2 chains"),
    ],
)
def test_what_cannot_be_walked_is_refused(wrong, message):
    """Catches: latents of a chain that was never walked, and two chains taken for one."""
    with pytest.raises(ConfigError, match=message):
        shared(**wrong)
