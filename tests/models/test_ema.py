"""The moving average against its closed form."""

import pytest
import torch

from ddpm_core.errors import ConfigError
from ddpm_core.models.ema import EMA


def weights(seed, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return {
        "a": torch.randn(3, 4, generator=generator).to(dtype),
        "b": torch.randn(5, generator=generator).to(dtype),
    }


def test_average_is_the_geometric_sum_of_what_it_saw():
    """Catches decay and 1 - decay exchanged, warm-up, and bias correction."""
    decay, history = 0.9, [weights(seed) for seed in range(8)]
    ema = EMA(weights(99))
    for step, params in enumerate(history):
        ema.update(params, decay, first=step == 0)
    for name, average in ema.state_dict().items():
        expected = decay**7 * history[0][name].double()
        for step in range(1, 8):
            expected += (1 - decay) * decay ** (7 - step) * history[step][name].double()
        # Eight roundings of float32.
        torch.testing.assert_close(average.double(), expected, rtol=1e-6, atol=1e-6)


def test_first_update_copies():
    """Catches an average that drags the initial weights along, as with a warm-up."""
    ema, params = EMA(weights(0)), weights(1)
    ema.update(params, 0.9999, first=True)
    for name, average in ema.state_dict().items():
        assert torch.equal(average, params[name])


def test_average_shares_no_memory_with_the_weights():
    """Catches an average that follows the optimiser: zeroing the weights must not change it."""
    params = weights(0)
    ema = EMA(params)
    ema.update(params, 0.5, first=True)
    kept = {name: value.clone() for name, value in ema.state_dict().items()}
    for value in params.values():
        value.zero_()
    for name, average in ema.state_dict().items():
        assert torch.equal(average, kept[name])


def test_average_of_bfloat16_weights_is_float32():
    """Catches an average in bfloat16, where 1 - 0.9999 is lost and nothing ever moves."""
    ema = EMA(weights(0, torch.bfloat16))
    ema.update(weights(0, torch.bfloat16), 0.9999, first=True)
    ema.update(weights(1, torch.bfloat16), 0.9999, first=False)
    for name, average in ema.state_dict().items():
        assert average.dtype == torch.float32
        start, end = (weights(seed, torch.bfloat16)[name].double() for seed in (0, 1))
        expected = 0.9999 * start + 0.0001 * end
        torch.testing.assert_close(average.double(), expected, rtol=1e-6, atol=1e-6)


def test_average_needs_no_gradient():
    """Catches a graph that grows with every step."""
    module = torch.nn.Linear(3, 2)
    params = dict(module.named_parameters())
    ema = EMA(params)
    ema.update(params, 0.5, first=True)
    ema.update(params, 0.5, first=False)
    assert not any(average.requires_grad for average in ema.state_dict().values())


def test_average_continues_bit_for_bit_from_what_is_written_into_it():
    """Catches state that is kept outside of `state_dict`."""
    straight, resumed = EMA(weights(0)), EMA(weights(50))
    straight.update(weights(1), 0.9, first=True)
    for name, average in resumed.state_dict().items():
        average.copy_(straight.state_dict()[name])
    for ema in (straight, resumed):
        ema.update(weights(2), 0.9, first=False)
    for name, average in straight.state_dict().items():
        assert torch.equal(average, resumed.state_dict()[name])


def test_update_with_other_names_is_refused():
    """Catches an average that silently leaves a weight out."""
    with pytest.raises(ConfigError, match=r"1 missing \['b'\], 1 unknown \['c'\]"):
        EMA(weights(0)).update({"a": torch.zeros(3, 4), "c": torch.zeros(5)}, 0.5, first=False)
