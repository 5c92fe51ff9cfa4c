"""The memory that is counted without computing, against what lives while a step is computed."""

import pytest

from ddpm_core.conditioning import NOTHING
from ddpm_core.training.footprint import _LiveBytes, footprint
from tests.training.small import (
    CPU,
    make_learner,
    rank_slice,
    small_config,
    small_images,
)


def alive(config):
    """Return the most bytes alive in a true step, beside those of the weights."""
    learner = make_learner(config)
    learner._load(0, rank_slice(config, small_images(), 0, 0, 1), NOTHING)
    with _LiveBytes(list(learner.network.parameters())) as live:
        learner._differentiate()
    return live.most


def test_what_is_counted_is_what_lives():
    """Catches a gradient, a piece or a block that is forgotten or counted twice, and activations
    of another dtype.
    """
    found = []
    for precision, size, twice in (
        ("float32", None, False),
        ("float32", 3, True),
        ("bfloat16", None, True),
    ):
        config = small_config(
            model__base_channels=16,
            train__precision=precision,
            compute__micro_batch_size=size,
            compute__checkpoint_activations=twice,
        )
        found.append(footprint(config, CPU).step)
        assert found[-1] == pytest.approx(alive(config), rel=0.05), (precision, size, twice)
    assert found[0] > 1.5 * max(found[1:])


def test_the_state_is_that_of_a_checkpoint():
    """Catches averages that are not counted, and moments that are counted once."""
    config = small_config(train__ema_decays=[0.99], train__power_averages=[0.1])
    learner = make_learner(config)
    parts = learner.trainee.parts().values()
    held = sum(one.nbytes for part in parts for one in part.values())
    assert footprint(config, CPU).state == pytest.approx(held, rel=1e-2)


def test_workers_share_a_batch():
    """Catches the whole batch on each worker."""
    alone = small_config(train__global_batch_size=64)
    shared = alone.replaced({"compute.num_workers": 4})
    assert footprint(shared, CPU).step < 0.5 * footprint(alone, CPU).step
