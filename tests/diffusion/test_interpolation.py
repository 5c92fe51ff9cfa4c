"""Interpolation against closed forms, and with the denoiser that knows the answer."""

import math

import pytest
import torch

from ddpm_core.diffusion.denoiser import NetworkDenoiser
from ddpm_core.diffusion.interpolation import interpolate, slerp
from ddpm_core.diffusion.process import q_sample
from ddpm_core.diffusion.samplers.ancestral import descend
from ddpm_core.errors import ConfigError
from tests.diffusion.chains import SHORT, normal, oracle

A, B = normal(2, 3, 4, 4, seed=1).clamp(-1, 1), normal(2, 3, 4, 4, seed=2).clamp(-1, 1)
EPS, EPS_OTHER = normal(2, 3, 4, 4, seed=3), normal(2, 3, 4, 4, seed=4)
WEIGHTS = [0.0, 0.3, 1.0]


def noise(t):
    return normal(2, 3, 4, 4, seed=100 + t)


def recorder(seen, eps_hat=lambda x_t: 0 * x_t):
    """Return a denoiser that records its inputs."""

    def network(x_t, t):
        seen.append((x_t, int(t[0])))
        return eps_hat(x_t)

    return NetworkDenoiser(network, SHORT, variance="fixed_small")


def run(denoiser, depth, **other):
    options = {"weights": WEIGHTS, "eps": EPS, "noise": noise, **other}
    return interpolate(denoiser, A, B, depth=depth, **options)


@pytest.mark.parametrize("depth", [1, 2, 30, 50])
def test_a_depth_of_so_many_steps_takes_as_many_calls_down_to_index_0(depth):
    """Catches: a loop that begins one step late or leaves out t = 0, one call for each lambda."""
    seen = []
    found = run(recorder(seen), depth)
    assert [t for _, t in seen] == list(range(depth - 1, -1, -1))
    assert {len(x_t) for x_t, _ in seen} == {6}
    assert found.shape == (3, 2, 3, 4, 4)


def test_without_steps_the_images_themselves_are_mixed():
    """Catches: one step of noise at depth 0, a call of the network, noise drawn for nothing."""
    seen, drawn = [], []
    found = run(recorder(seen), 0, noise=drawn.append)
    assert seen == drawn == []
    torch.testing.assert_close(found, torch.stack([A, 0.7 * A + 0.3 * B, B]))
    assert torch.equal(found[0], A)
    assert torch.equal(found[2], B)


def test_what_the_network_sees_first_is_the_mix_of_the_noised_ends():
    """Catches: lambda and 1 - lambda exchanged, another depth, a mix that is not linear."""
    seen = []
    run(recorder(seen), 30, eps_other=EPS_OTHER)
    t = torch.tensor([29, 29])
    a, b = q_sample(SHORT, A, t, EPS), q_sample(SHORT, B, t, EPS_OTHER)
    expected = torch.cat([a, 0.7 * a + 0.3 * b, b])
    torch.testing.assert_close(seen[0][0], expected)


@pytest.mark.parametrize(("coupled", "share"), [(True, 1.0), (False, 0.3**2 + 0.7**2)])
def test_noise_of_a_mix_is_whole_with_coupled_ends_and_less_with_independent_ones(coupled, share):
    """Catches: coupling that is none, independent noise in place of coupled.

    With a unit vector for each draw, the squared length is the variance.
    """
    one, other = torch.eye(2, dtype=torch.float64)[:, None]
    seen = []
    interpolate(
        recorder(seen), 0 * one, 0 * one, depth=40, weights=[0.3], eps=one,
        eps_other=None if coupled else other, noise=lambda t: one,
    )  # fmt: skip
    expected = share * (1 - float(SHORT.alphas_cumprod[39]))
    assert float(seen[0][0].square().sum()) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("depth", [1, 30, 50])
def test_the_ends_with_the_exact_denoiser_are_the_images(depth):
    """Catches: ends exchanged, a decoding that stops above t = 0."""
    torch.testing.assert_close(run(oracle(SHORT, A), depth, weights=[0.0])[0], A)
    torch.testing.assert_close(run(oracle(SHORT, B), depth, weights=[1.0])[0], B)


def test_between_two_gaussian_ends_the_decoding_is_linear_in_lambda():
    """Catches: noise that is drawn anew for each lambda, or a batch that mixes its rows up.

    For a denoiser linear in x_t, everything is linear in lambda once the noise is fixed.
    """
    linear = NetworkDenoiser(lambda x_t, t: 0.4 * x_t, SHORT)
    first, middle, last = run(linear, 45, clip_x_0=False, eps_other=EPS_OTHER)
    torch.testing.assert_close(middle, 0.7 * first + 0.3 * last)
    assert float((first - last).abs().mean()) > 0.01


def test_each_image_is_that_of_its_mix_alone():
    """Catches: noise by place in the batch of all lambdas instead of by pair."""
    free = NetworkDenoiser(lambda x_t, t: x_t.sin(), SHORT)
    found = run(free, 20)
    t = torch.tensor([19, 19])
    mix = 0.7 * q_sample(SHORT, A, t, EPS) + 0.3 * q_sample(SHORT, B, t, EPS)
    torch.testing.assert_close(found[1], descend(free, mix, first=19, noise=noise))


def test_clipping_is_passed_to_the_reverse_steps():
    """Catches: an argument that goes nowhere."""
    wild = NetworkDenoiser(lambda x_t, t: -3 * x_t, SHORT)
    assert float(run(wild, 50).abs().max()) <= 1
    assert float(run(wild, 50, clip_x_0=False).abs().max()) > 1


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"depth": 51}, "depth=51 must be a number of steps of the chain, 0...50"),
        ({"depth": -1}, "depth=-1"),
        ({"weights": [0.5, 1.1]}, r"weights=\[0.5, 1.1\]"),
        ({"weights": []}, r"weights=\[\]"),
        ({"weights": [math.nan]}, "nan"),
    ],
)
def test_invalid_arguments_are_refused(other, message):
    """Catches: extrapolation without a word, and a depth past the chain's end."""
    with pytest.raises(ConfigError, match=message):
        run(oracle(SHORT, A), **{"depth": 3, **other})


def test_it_never_waits_for_its_device_and_builds_no_graph():
    """Catches: `.item()` in the loop, and a graph over all steps."""
    x_0 = torch.empty(2, 3, device="meta")
    weight = torch.ones((), requires_grad=True, device="meta")
    found = interpolate(
        NetworkDenoiser(lambda x_t, t: weight * x_t, SHORT),
        x_0, x_0, depth=50, weights=[0.0, 1.0], eps=x_0, noise=lambda _: x_0,
    )  # fmt: skip
    assert found.device.type == "meta"
    assert not found.requires_grad


# -- arcs between latents --------------------------------------------------------------------------


def test_an_arc_turns_by_the_same_angle_for_the_same_weight():
    """Catches: a linear mix, the angle of the whole batch for each pair, ends exchanged.

    Two latents of unit length at 60 degrees, and two of unequal length at a right angle.
    """
    x_T = torch.tensor([[1.0, 0.0], [3.0, 0.0]], dtype=torch.float64)
    other = torch.tensor([[0.5, 0.75**0.5], [0.0, 1.0]], dtype=torch.float64)
    found = slerp(x_T, other, [0.0, 1 / 3, 0.5, 1.0])
    for row, degrees in zip(found[:, 0], (0, 20, 30, 60), strict=True):
        turned = [math.cos(math.radians(degrees)), math.sin(math.radians(degrees))]
        assert row.tolist() == pytest.approx(turned, abs=1e-12)
    # The paper's formula as it stands.
    assert found[1, 1].tolist() == pytest.approx([3 * math.sin(math.pi / 3), math.sin(math.pi / 6)])
    assert torch.equal(found[0], x_T)
    torch.testing.assert_close(found[-1], other)


def test_what_lies_between_two_latents_is_as_long_as_they_are():
    """Catches: the linear mix, whose variance is a half in the middle, which no noise has."""
    x_T, other = (normal(2, 3, 16, 16, seed=seed, dtype=torch.float32) for seed in (1, 2))
    found = slerp(x_T, other, [0.25, 0.5])
    assert found.shape == (2, 2, 3, 16, 16)
    assert found.dtype == torch.float32
    lengths = found.flatten(2).square().mean(2).sqrt()
    assert bool(((lengths - 1).abs() < 0.06).all())


def test_latents_of_one_direction_are_mixed_as_numbers_and_opposite_ones_not_at_all():
    """Catches: 0 / 0 of an image with itself, and a division by 0 that makes noise of rounding."""
    x_T = normal(2, 5)
    torch.testing.assert_close(slerp(x_T, 3 * x_T, [0.5])[0], 2 * x_T)
    with pytest.raises(ConfigError, match="no shortest arc"):
        slerp(x_T, -x_T, [0.5])
    with pytest.raises(ConfigError, match="at least one"):
        slerp(x_T, x_T, [])
