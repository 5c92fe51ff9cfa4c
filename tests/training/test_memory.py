"""What a step takes, counted on tensors without values, against tensors that are there."""

import pytest
import torch

from ddpm_core.conditioning import NOTHING
from ddpm_core.inference.networks import build_network
from ddpm_core.recipes import recipe
from ddpm_core.recipes.small import digits_dit
from ddpm_core.training.memory import _Alive, available, count, lack, needs
from ddpm_core.training.storing.host_copy import HostCopy
from tests.training.small import CPU, make_learner, rank_slice, small_config, small_images

IMAGES = 5


def tiny(**changes):
    """Return a run whose network has one size of image: counting takes a time for each layer."""
    return small_config(model__channel_mults=[1], **changes)


def passed(config, saved):
    """Call the real network as `count` does; return what is kept and the peak, in bytes."""
    network = build_network(config).train()
    weights = {param.untyped_storage()._cdata for param in network.parameters()}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            saved[storage._cdata] = storage
        return tensor

    with _Alive(network.parameters()) as alive:
        x_t = torch.zeros(IMAGES, *config.data.shape).contiguous(memory_format=torch.channels_last)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            times = torch.zeros(IMAGES, dtype=torch.int64)
            output = network(x_t, times, network.null.repeated(IMAGES))
        loss = output.square().mean()
        kept = sum(storage.nbytes() for storage in saved.values())
        # What is there beside it, and is not saved: the times, the output, the loss.
        rest = alive.now - kept
        saved.clear()
        loss.backward()
    return kept, rest, alive.peak


@pytest.mark.parametrize(
    "config",
    [
        small_config(model__attention_resolutions=[4], model__conditioning="label"),
        digits_dit().replaced({"model.num_layers": 1, "model.known": True}),
    ],
    ids=["unet", "dit"],
)
def test_what_is_counted_is_what_autograd_saves(config):
    """Catches: a tensor that is saved and not counted, one that is counted twice, and one whose
    end is missed: truth is each storage that autograd's own hooks are given, and the same peak of
    tensors that are there.
    """
    counted = count(config, CPU, images=IMAGES)
    kept, rest, peak = passed(config, {})
    assert counted.kept == kept + rest
    assert 0 <= rest < 0.25 * kept
    assert counted.peak == peak
    assert counted.flops > 0


def test_a_worker_holds_weights_moments_averages_and_a_step():
    """Catches: an average or the copy that is stored meanwhile not counted, the batch of all
    workers in each of them, and a gradient left out where the ranks add it up in a vector.
    """
    config = tiny(train__ema_decays=[0.5, 0.8])
    one, two = needs(config, CPU, world_size=1), needs(config, CPU, world_size=2)
    weights = 4 * config.num_parameters
    assert one.state == two.state == weights * (1 + 2 + 3)
    assert (one.images, two.images) == (12, 6)
    half = count(config, CPU, images=6)
    assert two.step == half.peak + round(0.3 * half.peak) + weights
    assert one.flops == two.flops
    assert one.total == one.state + one.copies + one.step + one.process


def test_what_is_held_and_copied_is_what_a_worker_has():
    """Catches: the copy that a checkpoint is stored from, or the weights of a preview, left out of
    what a CPU needs, or counted on a card; a state that is divided and counted as a whole.
    """
    config = small_config(compute__num_workers=3, train__ema_decays=[0.5])
    shown = config.replaced({"train.preview_every": 5})
    copied = HostCopy(make_learner(config).trainee.parts()).parts.values()
    held = sum({id(one): one.nbytes for part in copied for one in part.values()}.values())
    exact = pytest.approx(held, rel=0.01)  # scalars of Adam and of the curves are not counted
    on_cpu, on_card = (needs(shown, torch.device(one), world_size=3) for one in ("cpu", "cuda"))
    weights = 4 * config.num_parameters
    assert needs(config, CPU, world_size=3).copies == on_cpu.state == exact
    assert (on_cpu.copies - on_cpu.state, on_card.copies) == (weights, weights)


def test_micro_batches_and_recomputed_activations_are_counted():
    """Catches: keys that save memory and change no estimate, and the gradient forgotten that the
    second piece adds to.
    """
    config = tiny(train__global_batch_size=24)
    pieces = config.replaced({"compute.micro_batch_size": 6})
    frugal = config.replaced({"compute.checkpoint_activations": True})
    whole, six, again = (needs(one, CPU, world_size=1) for one in (config, pieces, frugal))
    added = count(pieces, CPU, images=6, adds_up=True)
    assert six.step == added.peak + round(0.3 * added.peak) + six.gradient
    assert (six.images, six.at_once, whole.at_once) == (24, 6, 24)
    guessed = whole.with_images(6)
    assert guessed - whole.process == pytest.approx(six.total - six.process, rel=0.05)
    assert guessed < whole.total
    assert count(frugal, CPU, images=24).kept < 0.7 * count(config, CPU, images=24).kept
    # Both: a counter that keeps what is computed again shows more here than without.
    assert again.step < 0.7 * whole.step
    said = lack(config, CPU, whole, world_size=1, room=whole.total - 1)
    assert "with --set compute.micro_batch_size=12 it needs about" in said


def test_a_network_without_blocks_is_not_told_to_compute_them_twice():
    """Catches: a remedy that saves nothing, or that the configuration refuses."""
    config = recipe("digits-2015")
    found = needs(config, CPU, world_size=1)
    said = lack(config, CPU, found, world_size=1, room=found.state)
    assert said is not None
    assert "checkpoint_activations" not in said


def test_norms_are_of_the_types_that_they_have_on_a_gpu():
    """Catches: norms in float32, as autocast has them on a GPU and our own have not, also of few
    channels, as a CPU has them; and another type of them in a pass that is computed again.
    """
    gpu = torch.device("cuda")
    short = tiny(model__base_channels=32, train__precision="bfloat16")
    few, many = short.replaced({"model.num_groups": 4}), short.replaced({"model.num_groups": 1})
    expected = count(many, CPU, images=8).kept
    assert count(many, gpu, images=8).kept == pytest.approx(expected, rel=0.01)
    assert count(few, gpu, images=8).kept == pytest.approx(expected, rel=0.01)
    assert count(few, CPU, images=8).kept > 1.1 * expected
    again = few.replaced({"compute.checkpoint_activations": True})
    assert count(again, gpu, images=8).kept < 0.7 * expected


def test_what_is_counted_is_what_lives_in_a_step():
    """Catches: a step of a training that makes more than forward and backward do, and a piece
    whose gradient is forgotten or counted twice.
    """
    config = tiny(model__base_channels=16, compute__micro_batch_size=3)
    learner = make_learner(config)
    learner._load(0, rank_slice(config, small_images(), 0, 0, 1), NOTHING)
    with _Alive(learner.network.parameters()) as alive:
        learner._differentiate()
    found = needs(config, CPU, world_size=1)
    assert found.step - found.scratch == pytest.approx(alive.peak, rel=0.05)


def test_the_state_is_that_of_a_checkpoint_and_of_several_workers_a_part():
    """Catches: averages or moments that are forgotten, and a state that is divided and counted as
    if each worker had all.
    """
    config = tiny(train__ema_decays=[0.99], train__power_averages=[0.1])
    parts = make_learner(config).trainee.parts().values()
    held = sum(one.nbytes for part in parts for one in part.values())
    whole = needs(config, CPU, world_size=1)
    assert whole.state == pytest.approx(held, rel=0.01)
    both = config.replaced({"compute.num_workers": 2, "compute.divide_state": True})
    weights = 4 * config.num_parameters
    assert needs(both, CPU, world_size=2).state == weights + (whole.state - weights) // 2


def test_in_bfloat16_a_step_takes_less():
    """Catches: activations counted in float32 whatever the arithmetic."""
    config = tiny(model__base_channels=32)
    half = config.replaced({"train.precision": "bfloat16"})
    assert count(half, CPU, images=8).peak < 0.85 * count(config, CPU, images=8).peak


def test_the_memory_of_a_machine_is_that_of_its_container(monkeypatch):
    """Catches: the memory of the host, of which a container may use a part."""
    monkeypatch.setattr("ddpm_core.machine.memory_bytes", lambda: 123)
    assert available(CPU) == 123
