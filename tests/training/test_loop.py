"""The loop: which events when, the same numbers however often it is interrupted, and no NaN."""

import math
import threading

import pytest
import torch

from ddpm_core.errors import DivergenceError
from ddpm_core.loading.batches import Batches
from ddpm_core.training.loop import Commit, Point, run_steps
from tests.training.small import (
    average_of,
    copy_of,
    load,
    make_learner,
    rank_slice,
    small_config,
    small_images,
    state_of,
)


def batches_of(config, start=0, rank=0, world_size=1, images=None):
    return Batches(
        images or small_images(),
        config.train,
        start=start,
        rank=rank,
        world_size=world_size,
        pinned=False,
    )


def test_points_and_checkpoints_come_when_they_are_due():
    """Catches off-by-one steps, a last step without a checkpoint, a checkpoint before its point."""
    config = small_config(train__num_steps=11, train__log_every=4, train__checkpoint_every=4)
    with batches_of(config) as batches:
        events = list(run_steps(make_learner(config), batches, config.train, start=0))
    seen = [(type(event).__name__, event.step) for event in events]
    assert seen == [
        ("Point", 4), ("Commit", 4), ("Point", 8), ("Commit", 8), ("Point", 11), ("Commit", 11),
    ]  # fmt: skip


def test_a_point_tells_the_curves_and_the_speed():
    """Catches a rate of the next step, images of one rank, a speed that counts one step."""
    config = small_config(train__num_steps=4, train__warmup_steps=8)
    with batches_of(config) as batches:
        point = next(run_steps(make_learner(config), batches, config.train, start=0))
    assert isinstance(point, Point)
    assert set(point.values) == {
        "loss", "loss_q0", "loss_q1", "loss_q2", "loss_q3", "grad_norm", "learning_rate",
        "images_seen",
    }  # fmt: skip
    assert point.values["learning_rate"] == config.train.learning_rate * 3 / 8
    assert point.values["images_seen"] == 48
    assert all(math.isfinite(value) for value in point.values.values())
    timing = point.timing
    assert timing["images_per_s"] == pytest.approx(12 / timing["step_s"])
    assert 0 <= timing["data_wait_s"] <= 4 * timing["step_s"]


def run(config, learner, start, stop):
    """Return the values of the points, and the state kept at the last checkpoint before `stop`."""
    points, kept = [], None
    with batches_of(config, start) as batches:
        for event in run_steps(learner, batches, config.train, start=start):
            match event:
                case Point():
                    points.append((event.step, event.values))
                case Commit(step):
                    kept = step, copy_of(state_of(learner)), copy_of(average_of(learner))
                    if step == stop:
                        break
    return points, kept


@pytest.mark.parametrize("changes", [{}, {"model__low_size": [4, 4]}])
def test_interrupted_training_is_the_uninterrupted_one(changes):
    """Catches anything that is not carried over: order of the data, noise, dropout, moments,
    average, levels and noise of low resolutions, running sums of a point whose window holds the
    checkpoint.
    """
    config = small_config(**changes)  # points every 4, checkpoints every 5 steps
    points, (_, state, ema) = run(config, make_learner(config), 0, 20)
    begun, (step, kept, average) = run(config, make_learner(config), 0, 10)
    assert step == 10
    learner = make_learner(config)
    load(learner, state=kept, ema=average)
    rest, (_, end_state, end_ema) = run(config, learner, 10, 20)
    torch.testing.assert_close(end_state, state, rtol=0, atol=0)
    torch.testing.assert_close(end_ema, ema, rtol=0, atol=0)
    assert begun + rest == points
    assert [step for step, _ in points] == [4, 8, 12, 16, 20]


def test_ranks_add_up_their_sums_at_every_checkpoint(monkeypatch):
    """Catches a checkpoint with the running sums of one rank alone."""
    config, learner, gathered = small_config(), make_learner(small_config()), []
    monkeypatch.setattr(learner.trainee.counts, "gather", lambda: gathered.append(True))
    with batches_of(config) as batches:
        events = run_steps(learner, batches, config.train, start=0)
        counts = [len(gathered) for event in events if isinstance(event, Commit)]
    assert counts == [1, 2, 3, 4]


def test_divergence_is_reported_with_its_evidence():
    """Catches a NaN that trains on: the loss is looked at, and so is the last good checkpoint."""
    config = small_config(train__num_steps=20)
    learner = make_learner(config)
    with batches_of(config) as batches:
        events = run_steps(learner, batches, config.train, start=0)
        assert [next(events).step for _ in range(2)] == [4, 5]
        learner.network.conv_in.weight.data[0, 0, 0, 0] = math.nan
        told = r"by step 8: grad_norm nan, loss nan, .*learning rate 0\.001; .*of step 5\."
        with pytest.raises(DivergenceError, match=told):
            next(events)


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        (
            math.inf,
            r"by step 31: its gradients overflow float16 .* 6\.1e-05, and 31 steps were .*0\.",
        ),
        (math.nan, r"by step 31: .*loss nan"),
    ],
)
def test_float16_that_overflows_at_any_scale_has_diverged(broken, told):
    """Catches a training that leaves out every step to its end, or divides by no losses at all."""
    config = small_config(train__num_steps=40, train__log_every=31, train__precision="float16")
    config = config.replaced({"train.checkpoint_every": 40})
    learner = make_learner(config)
    weight = learner.network.conv_in.weight
    if math.isnan(broken):
        weight.data[0, 0, 0, 0] = broken
    else:
        weight.register_hook(lambda gradient: gradient * broken)
    with batches_of(config) as batches, pytest.raises(DivergenceError, match=told):
        next(run_steps(learner, batches, config.train, start=0))


def test_batches_are_the_slices_of_this_rank_from_any_step():
    """Catches a slice of another rank, and a resume that begins with batch 0."""
    config, images = small_config(train__num_steps=6), small_images()
    with batches_of(config, start=3, rank=1, world_size=3) as batches:
        for step in (3, 4, 5):
            assert torch.equal(batches.take().images, rank_slice(config, images, step, 1, 3))


def test_batches_are_made_ahead_and_not_beyond_the_last():
    """Catches a loader that does not prefetch, or prefetches steps that do not exist."""
    config = small_config(train__num_steps=3)
    with batches_of(config) as batches:
        assert len(batches._ready) == 2
        for _ in range(3):
            batches.take()
        assert not batches._ready


def test_an_error_while_a_batch_is_made_comes_out():
    """Catches a thread that dies silently, and a step that then waits for ever."""
    config = small_config()
    broken = small_images()
    object.__setattr__(broken, "pixels", broken.pixels[:1])
    with batches_of(config, images=broken) as batches, pytest.raises(IndexError):
        batches.take()


def test_closing_ends_the_thread():
    """Catches a thread that is left behind by a generator that is not run to its end."""
    before = threading.active_count()
    config = small_config()
    with batches_of(config) as batches:
        batches.take()
    assert threading.active_count() == before
