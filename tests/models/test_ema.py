"""The moving average against its closed form."""

import pytest
import torch

from ddpm_core.models.ema import EMA
from ddpm_core.models.profiles import Exponential, Power


def weights(seed, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return {
        "a": torch.randn(3, 4, generator=generator).to(dtype),
        "b": torch.randn(5, generator=generator).to(dtype),
    }


def put(params, values):
    """Move the weights as an optimiser does: in place."""
    for name, value in values.items():
        params[name].copy_(value)


def averaged(history, decay):
    params = weights(99, history[0]["a"].dtype)
    ema = EMA(params)
    for step, values in enumerate(history):
        put(params, values)
        ema.update(decay.at(step))
    return ema.state_dict()


def shares_of(decay, num_steps):
    """Return how much of each step's weights is in the average: what is then forgotten of it."""
    shares = []
    for step in range(num_steps):
        kept = decay.at(step)
        shares = [share * kept for share in shares] + [1 - kept]
    return shares


@pytest.mark.parametrize("decay", [0.9, 0.0])
def test_average_is_the_geometric_sum_of_what_it_saw(decay):
    """Catches decay and 1 - decay exchanged, warm-up, and bias correction."""
    history = [weights(seed) for seed in range(8)]
    for name, average in averaged(history, Exponential(decay)).items():
        expected = decay**7 * history[0][name].double()
        for step in range(1, 8):
            expected += (1 - decay) * decay ** (7 - step) * history[step][name].double()
        # Eight roundings of float32.
        torch.testing.assert_close(average.double(), expected, rtol=1e-6, atol=1e-6)


def test_average_of_a_power_function_is_its_integral_over_each_step():
    """Catches t counted from 0, gamma in place of gamma + 1, and a first update that averages.

    Karras et al. 2024, equations 2 and 3: of theta that stands still within a step, the integral
    of (gamma + 1) tau**gamma / t**(gamma + 1) from k - 1 to k is the weight of step k.
    """
    gamma, history = 6.94, [weights(seed) for seed in range(8)]
    shares = [(k ** (gamma + 1) - (k - 1) ** (gamma + 1)) / 8 ** (gamma + 1) for k in range(1, 9)]
    for name, average in averaged(history, Power(gamma)).items():
        expected = sum(s * one[name].double() for s, one in zip(shares, history, strict=True))
        torch.testing.assert_close(average.double(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "decay", [Exponential(0.9999), Exponential(0.9999, warmup=True), Power(7.0)]
)
def test_first_update_copies(decay):
    """Catches an average that drags the initial weights along."""
    for name, average in averaged([weights(1)], decay).items():
        assert torch.equal(average, weights(1)[name])


def test_warmup_is_that_of_tensorflow():
    """Catches the count of updates off by one, and a warm-up that never ends.

    tf.train.ExponentialMovingAverage: min(decay, (1 + num_updates) / (10 + num_updates)).
    """
    decay = Exponential(0.5, warmup=True)
    found = [decay.at(step) for step in range(1, 11)]
    assert found == [2 / 11, 3 / 12, 4 / 13, 5 / 14, 6 / 15, 7 / 16, 8 / 17, 0.5, 0.5, 0.5]


@pytest.mark.parametrize("num_steps", [1, 2, 30, 400])
@pytest.mark.parametrize(
    "decay",
    [
        *(Exponential(decay) for decay in (0.0, 0.9)),
        *(Exponential(decay, warmup=True) for decay in (0.0, 0.05, 0.95, 0.9999)),
        *(Power(gamma) for gamma in (0.0, 6.94)),
    ],
    ids=str,
)
def test_the_share_of_the_first_weights_is_the_product_of_the_decays(decay, num_steps):
    """Catches one step too many, as if the first update did not copy; and where warm-up ends."""
    shares = shares_of(decay, num_steps)
    assert sum(shares) == pytest.approx(1)
    assert decay.first_share(num_steps) == pytest.approx(shares[0], rel=1e-9, abs=1e-300)


def test_a_short_run_forgets_its_first_weights_by_a_warmup_and_by_a_power():
    """Catches a warm-up that is none: after 300 steps 0.9999 alone holds 97 % of them."""
    assert Exponential(0.9999).first_share(300) > 0.97
    assert Exponential(0.9999, warmup=True).first_share(300) < 1e-15
    assert Power(6.94).first_share(300) < 1e-15


def test_average_shares_no_memory_with_the_weights():
    """Catches an average that follows the optimiser: zeroing the weights must not change it."""
    params = weights(0)
    ema = EMA(params)
    ema.update(0.0)
    kept = {name: value.clone() for name, value in ema.state_dict().items()}
    for value in params.values():
        value.zero_()
    for name, average in ema.state_dict().items():
        assert torch.equal(average, kept[name])


def test_average_of_bfloat16_weights_is_float32():
    """Catches an average in bfloat16, where 1 - 0.9999 is lost and nothing ever moves."""
    history = [weights(seed, torch.bfloat16) for seed in (0, 1)]
    for name, average in averaged(history, Exponential(0.9999)).items():
        assert average.dtype == torch.float32
        start, end = (one[name].double() for one in history)
        expected = 0.9999 * start + 0.0001 * end
        torch.testing.assert_close(average.double(), expected, rtol=1e-6, atol=1e-6)


def test_average_needs_no_gradient():
    """Catches a graph that grows with every step."""
    ema = EMA(dict(torch.nn.Linear(3, 2).named_parameters()))
    ema.update(0.0)
    ema.update(0.5)
    assert not any(average.requires_grad for average in ema.state_dict().values())


def test_average_continues_bit_for_bit_from_what_is_written_into_it():
    """Catches state that is kept outside of `state_dict`."""
    params, others = weights(1), weights(50)
    straight, resumed = EMA(params), EMA(others)
    straight.update(0.0)
    for name, average in resumed.state_dict().items():
        average.copy_(straight.state_dict()[name])
    for ema, ours in ((straight, params), (resumed, others)):
        put(ours, weights(2))
        ema.update(0.9)
    for name, average in straight.state_dict().items():
        assert torch.equal(average, resumed.state_dict()[name])


def test_average_is_the_same_to_the_last_bit_as_it_was_before_there_were_several():
    """Catches another order of arithmetic, by which every run that is there would go on otherwise.

    The formula of the first versions: a copy, then lerp with 1 - decay in float32.
    """
    history, decay = [weights(seed) for seed in range(6)], 0.9999
    found = averaged(history, Exponential(decay))
    for name, average in found.items():
        expected = history[0][name].clone()
        for one in history[1:]:
            expected.lerp_(one[name], 1 - decay)
        assert torch.equal(average, expected)
