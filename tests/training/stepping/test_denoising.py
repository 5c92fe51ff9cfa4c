"""The step against closed forms and against the same step written out plainly."""

import math
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode

from ddpm_core import seeding
from ddpm_core.conditioning import Conditioning
from ddpm_core.diffusion.process import q_sample
from ddpm_core.errors import CheckpointError
from ddpm_core.inference.build import arithmetic_of, build_schedule
from ddpm_core.inference.networks import build_network
from ddpm_core.text.tokens import encode
from tests.gpu import no_waiting, quiet
from tests.models.adm_oracle import TEXT
from tests.training.small import (
    CPU,
    average_of,
    copy_of,
    drawing_as,
    load,
    make_learner,
    parallel_of,
    rank_slice,
    run_group,
    small_config,
    small_images,
    state_of,
)


def weights(learner):
    return copy_of(dict(learner.network.named_parameters()))


def run(learner, config, start, stop, rank=0, world_size=1):
    images = small_images()
    for step in range(start, stop):
        learner.step(step, rank_slice(config, images, step, rank, world_size))


def test_first_step_moves_moments_and_average_but_no_weight():
    """Catches a learning rate that is set after Adam's step, and an EMA that starts by decaying."""
    config = small_config()
    learner = make_learner(config)
    before = weights(learner)
    for average in average_of(learner).values():
        average.fill_(7.0)
    run(learner, config, 0, 1)
    torch.testing.assert_close(weights(learner), before, rtol=0, atol=0)
    torch.testing.assert_close(average_of(learner), before, rtol=0, atol=0)
    state = state_of(learner)
    assert state["adam.step"] == 1
    assert all(state[f"adam.exp_avg.{name}"].abs().sum() > 0 for name in before)


def test_gradient_is_clipped_by_its_global_norm():
    """Catches clipping per tensor, clipping after Adam, and a reported norm that is clipped.

    After one step from zero Adam's first moment is 0.1 times the clipped gradient.
    """
    config = small_config(train__grad_clip=1e-3)
    learner = make_learner(config)
    run(learner, config, 0, 1)
    state = state_of(learner)
    moments = [tensor for name, tensor in state.items() if name.startswith("adam.exp_avg.")]
    norm = math.sqrt(sum(float(moment.double().square().sum()) for moment in moments))
    assert norm == pytest.approx(0.1 * 1e-3, rel=1e-4)
    point = learner.trainee.counts.point()
    assert point["grad_norm"] > 0.1

    loose = make_learner(small_config(train__grad_clip=1e9))
    run(loose, config, 0, 1)
    tight, free = (
        state["adam.exp_avg.conv_in.weight"],
        state_of(loose)["adam.exp_avg.conv_in.weight"],
    )
    torch.testing.assert_close(tight / tight.norm(), free / free.norm(), rtol=1e-4, atol=1e-5)


def test_steps_equal_the_algorithm_written_out_plainly():
    """Catches a wrong scaling of the images, a flip, noise or timestep keyed otherwise, a loss
    that sums, another Adam, moments in another memory order than their weights, an average of the
    weights before the step, a wrong quartile.
    """
    config = small_config(model__dropout=0.0)
    images, learner = small_images(), make_learner(config)
    network, schedule = build_network(config), build_schedule(config)
    params = dict(network.named_parameters())
    adam = torch.optim.Adam(params.values(), betas=(0.9, 0.999), eps=1e-8, fused=False)
    average, positions, records = {}, torch.arange(12), []
    for step in range(6):
        x_0 = rank_slice(config, images, step, 0, 1).double() / 127.5 - 1
        coin = seeding.coin(seeding.key(0, "flip"), step, positions)
        for position in range(12):
            if coin[position]:
                x_0[position] = x_0[position].flip(-1)
        t = seeding.uniform_int(seeding.key(0, "timesteps"), step, positions, 24)
        eps = seeding.normal(seeding.key(0, "noise"), step, positions, (1, 8, 8))
        eps_hat = network(q_sample(schedule, x_0.float(), t, eps), t)
        loss = (eps_hat - eps).square().mean()
        adam.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(params.values(), config.train.grad_clip)
        adam.param_groups[0]["lr"] = config.train.learning_rate * min(step / 4, 1)
        adam.step()
        for name, param in params.items():
            old = average.get(name, param.detach())
            average[name] = 0.9 * old + 0.1 * param.detach()
        errors = (eps_hat - eps).detach().square().mean(dim=(1, 2, 3))
        records += zip(t.tolist(), errors.tolist(), strict=True)

        learner.step(step, rank_slice(config, images, step, 0, 1))

    # Adam divides by the root of the second moment: rounding of tiny gradients is magnified.
    torch.testing.assert_close(weights(learner), dict(params), rtol=1e-3, atol=2e-5)
    torch.testing.assert_close(average_of(learner), average, rtol=1e-3, atol=2e-5)
    state = state_of(learner)
    for moment in ("exp_avg", "exp_avg_sq"):
        theirs = {name: adam.state[param][moment] for name, param in params.items()}
        mine = {name: state[f"adam.{moment}.{name}"] for name in params}
        # The gradient of a bias before a normalisation is rounding alone.
        atol = 1e-4 * max(float(tensor.abs().max()) for tensor in theirs.values())
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=atol)
    point = learner.trainee.counts.point()
    assert point["grad_norm"] == pytest.approx(float(norm), rel=1e-3)
    assert point["loss"] == pytest.approx(sum(value for _, value in records) / 72, rel=1e-4)
    for quartile in range(4):
        mine = [value for t, value in records if 6 * quartile <= t < 6 * (quartile + 1)]
        assert point[f"loss_q{quartile}"] == pytest.approx(sum(mine) / len(mine), rel=1e-4)


LABELLED = {"model__conditioning": "label", "model__dropout": 0.0}


def labels_of(step, count=12):
    return Conditioning(label=(torch.arange(count) * 7 + step) % 10)


def test_labels_are_left_out_by_key_and_the_network_sees_the_null_instead(monkeypatch):
    """Catches a dropout from a generator, one draw for the batch, keep and drop exchanged, a null
    that is a class, and labels that are left out of the rows of another image.
    """
    config = small_config(**LABELLED, train__label_dropout=0.3)
    learner, images, seen = make_learner(config), small_images(), []
    forward = learner.network.forward

    def spied(x_t, t, conditioning):
        seen.append(conditioning.label.clone())
        return forward(x_t, t, conditioning)

    monkeypatch.setattr(learner.network, "forward", spied)
    num_steps = 20
    for step in range(num_steps):
        learner.step(step, rank_slice(config, images, step, 0, 1), labels_of(step))
    positions, key = torch.arange(12), seeding.key(0, "drop.label")
    for step, found in enumerate(seen):
        kept = seeding.uniform(key, step, positions, ()) >= 0.3
        expected = torch.where(kept, labels_of(step).label, torch.tensor(10))
        assert torch.equal(found, expected)
    share = float((torch.stack(seen) == 10).double().mean())
    assert abs(share - 0.3) < 4 * math.sqrt(0.3 * 0.7 / (12 * num_steps))


def test_ranks_leave_out_what_one_would():
    """Catches a dropout keyed by the row in a rank's own slice."""

    def labels(rank, world_size):
        learner = make_learner(small_config(**LABELLED, train__label_dropout=0.5))
        rows = torch.arange(12).chunk(world_size)[rank]
        images = torch.zeros(len(rows), 1, 8, 8, dtype=torch.uint8)
        drawing = drawing_as(learner, rank, world_size)
        return drawing.inputs(3, images, labels_of(3).rows(rows)).conditioning.label

    whole = labels(0, 1)
    assert torch.equal(torch.cat([labels(rank, 2) for rank in (0, 1)]), whole)
    assert 0 < int((whole == 10).sum()) < 12


def test_a_network_of_labels_learns_its_rows_and_that_of_no_label():
    """Catches a table that the optimiser or the average does not know, and a null never trained."""
    config = small_config(**LABELLED, train__label_dropout=0.5)
    learner = make_learner(config)
    before = weights(learner)["class_embed.weight"]
    for step in range(6):
        learner.step(step, rank_slice(config, small_images(), step, 0, 1), labels_of(step))
    changed = (weights(learner)["class_embed.weight"] != before).any(dim=1)
    assert bool(changed.all())
    assert "class_embed.weight" in average_of(learner)
    assert "adam.exp_avg.class_embed.weight" in state_of(learner)


def texts_of(step, rows=range(12)):
    return Conditioning(text=encode([f"a {(row + step) % 9}" for row in rows], 12))


def test_captions_are_left_out_by_key_for_the_empty_one(monkeypatch):
    """Catches: captions that share the draw of labels, a whole batch without, keep and drop
    exchanged; zeros in place of the empty caption's end; what a rank leaves out by its own rows.
    """
    worded = TEXT | {"data.captions": "classes", "train.text_dropout": 0.3}
    config = small_config().replaced(worded)
    learner, images, seen = make_learner(config), small_images(), []
    forward = learner.network.forward

    def spied(x_t, t, conditioning):
        seen.append(conditioning.text.tokens.clone())
        return forward(x_t, t, conditioning)

    monkeypatch.setattr(learner.network, "forward", spied)
    for step in range(4):
        learner.step(step, rank_slice(config, images, step, 0, 1), texts_of(step))
    positions, key, nothing = torch.arange(12), seeding.key(0, "drop.text"), encode([""], 12).tokens
    for step, found in enumerate(seen):
        kept = seeding.uniform(key, step, positions, ()) >= 0.3
        expected = torch.where(kept[:, None], texts_of(step).text.tokens, nothing)
        assert torch.equal(found, expected)
    some = torch.zeros(6, 1, 8, 8, dtype=torch.uint8)
    second = drawing_as(learner, 1, 2).inputs(3, some, texts_of(3, range(6, 12)))
    assert torch.equal(second.conditioning.text.tokens, seen[3][6:])
    assert 0 < sum(int((one == nothing).all(dim=1).sum()) for one in seen) < 48
    assert "adam.exp_avg.text_encoder.padding.weight" in state_of(learner)


def test_a_point_begins_a_new_window():
    """Catches sums that are carried on from one point of the curves to the next."""
    config = small_config()
    learner = make_learner(config)
    run(learner, config, 0, 3)
    learner.trainee.counts.point()
    assert state_of(learner)["window"].abs().sum() == 0
    run(learner, config, 3, 4)
    assert state_of(learner)["window"][1].sum() == 12


def test_dropout_is_a_function_of_seed_and_step():
    """Catches dropout that goes on from wherever torch's generator happens to be."""
    config = small_config()
    one, other = make_learner(config), make_learner(config)
    run(one, config, 0, 3)
    torch.rand(17)
    run(other, config, 0, 3)
    assert one.trainee.counts.point() == other.trainee.counts.point()


def test_step_waits_for_nothing():
    """Catches .item(), .tolist(), bool(tensor) in the step: on a GPU each would stop the queue."""

    class NoSync(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            assert func is not torch.ops.aten._local_scalar_dense.default
            assert func is not torch.ops.aten.nonzero.default
            return func(*args, **(kwargs or {}))

    config = small_config()
    learner, images = make_learner(config), small_images()
    run(learner, config, 0, 1)
    with NoSync():
        learner.step(1, rank_slice(config, images, 1, 0, 1))


def test_state_continues_bit_for_bit():
    """Catches a part of the state that is not saved: moments, their step, the window, the EMA."""
    config = small_config()
    whole, first, second = (make_learner(config) for _ in range(3))
    run(whole, config, 0, 10)
    run(first, config, 0, 6)
    load(second, state=copy_of(state_of(first)), ema=copy_of(average_of(first)))
    run(second, config, 6, 10)
    torch.testing.assert_close(state_of(second), state_of(whole), rtol=0, atol=0)
    torch.testing.assert_close(average_of(second), average_of(whole), rtol=0, atol=0)
    assert second.trainee.counts.point() == whole.trainee.counts.point()


def test_state_of_another_network_is_refused():
    """Catches strict=False, and a shape that broadcasts."""
    learner, other = (
        make_learner(small_config()),
        make_learner(small_config(model__base_channels=12)),
    )
    with pytest.raises(CheckpointError, match=r"(?s)'model\..*this network needs"):
        load(learner, state=state_of(other), ema=average_of(other))
    state = copy_of(state_of(learner))
    del state["adam.exp_avg.conv_in.weight"]
    with pytest.raises(CheckpointError, match=r"1 tensors, e.g. \['adam.exp_avg.conv_in.weight'"):
        load(learner, state=state, ema=average_of(learner))


def test_precision():
    """Catches auto that means bfloat16 on a CPU, where it is slower and rounds for nothing."""
    assert arithmetic_of("auto", CPU) == torch.float32
    assert arithmetic_of("bfloat16", CPU) == torch.bfloat16
    assert arithmetic_of("float16", CPU) == torch.float16
    assert arithmetic_of("float32", torch.device("cuda")) == torch.float32


@pytest.mark.parametrize(("major", "expected"), [(7, torch.float32), (8, torch.bfloat16)])
def test_auto_is_bfloat16_from_ampere_on(major, expected, monkeypatch):
    """Catches a Turing or Volta card on which every product goes through float32 and back: there
    torch calls it supported, since it can be emulated.
    """
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    of_card = SimpleNamespace(major=major)
    for name, value in {
        "is_available": True,
        "current_device": 0,
        "get_device_properties": of_card,
        "_check_bf16_tensor_supported": True,
    }.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    assert torch.cuda.is_bf16_supported()
    assert arithmetic_of("auto", torch.device("cuda")) == expected


def test_bfloat16_trains_weights_that_stay_float32():
    """Catches a network that is cast as a whole: updates below 2**-8 would be lost."""
    config = small_config(train__precision="bfloat16")
    learner, reference = make_learner(config), make_learner(small_config())
    run(learner, config, 0, 5)
    run(reference, config, 0, 5)
    assert {tensor.dtype for tensor in state_of(learner).values()} == {torch.float32, torch.float64}
    point, exact = learner.trainee.counts.point(), reference.trainee.counts.point()
    assert point["loss"] != exact["loss"]
    assert point["loss"] == pytest.approx(exact["loss"], rel=0.02)


def _two_ranks(rank, world_size, folder):
    # In pieces of 4 and 2 images.
    config = small_config(model__dropout=0.0, compute__micro_batch_size=4)
    learner = make_learner(config, rank, world_size)
    run(learner, config, 0, 4, rank, world_size)
    tensors = state_of(learner) | {
        f"ema.{name}": tensor for name, tensor in average_of(learner).items()
    }
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(tensors, folder / f"rank{rank}.safetensors")
    parallel = parallel_of(rank, world_size)
    assert parallel.gather(10 - rank) == [10, 9]
    assert parallel.from_rank_0(rank + 5) == 5
    assert parallel.gather_text("é" * rank) == ["", "é"]
    save_file(_overflow_on_one(rank, world_size), folder / f"half{rank}.safetensors")
    point = learner.trainee.counts.point()
    save_file(
        {key: torch.tensor(value, dtype=torch.float64) for key, value in point.items()},
        folder / f"point{rank}.safetensors",
    )


def _overflow_on_one(rank, world_size):
    """Return the state after a step in float16 whose gradient is infinite on rank 1 alone."""
    config = small_config(model__dropout=0.0, train__precision="float16")
    learner = make_learner(config, rank, world_size)
    run(learner, config, 0, 2, rank, world_size)
    if rank:
        losses = learner._losses
        learner._losses = lambda *given: losses(*given) * math.inf
    run(learner, config, 2, 3, rank, world_size)
    return {name: one.contiguous() for name, one in state_of(learner).items() if name != "window"}


def test_two_ranks_take_the_step_of_one(tmp_path):
    """Catches gradients that are summed or not shared, ranks that draw the same noise, clipping
    before the ranks' gradients are averaged, pieces of a slice that weigh too much, and a step in
    float16 that each rank judges by its own gradient.
    """
    run_group(_two_ranks, 2, tmp_path)
    config = small_config(model__dropout=0.0)
    alone = make_learner(config)
    run(alone, config, 0, 4)
    zero, one = (load_file(tmp_path / f"rank{rank}.safetensors") for rank in range(2))
    window = zero.pop("window") + one.pop("window")
    torch.testing.assert_close(zero, one, rtol=0, atol=0)
    state = copy_of(state_of(alone))
    torch.testing.assert_close(window, state.pop("window"), rtol=1e-5, atol=0)
    for name, tensor in state.items():
        torch.testing.assert_close(zero[name], tensor, rtol=1e-3, atol=2e-5, msg=name)
    points = [load_file(tmp_path / f"point{rank}.safetensors") for rank in range(2)]
    torch.testing.assert_close(points[0], points[1], rtol=0, atol=0)
    for key, value in alone.trainee.counts.point().items():
        assert points[0][key].item() == pytest.approx(value, rel=1e-3)
    halves = [load_file(tmp_path / f"half{rank}.safetensors") for rank in range(2)]
    torch.testing.assert_close(halves[0], halves[1], rtol=0, atol=0)
    assert halves[0]["scaling.skipped"] == 1
    assert halves[0]["adam.step"] == 2


def _three_ranks(rank, world_size, folder):
    config = small_config(model__base_channels=32)
    whole = make_learner(config, rank, world_size)
    run(whole, config, 0, 4, rank, world_size)
    whole.trainee.counts.gather()
    kept, average = copy_of(state_of(whole)), copy_of(average_of(whole))
    run(whole, config, 4, 6, rank, world_size)
    # Every rank loads what rank 0 would have stored.
    resumed = make_learner(config, rank, world_size)
    if rank:
        kept["window"] = torch.full_like(kept["window"], 99.0)
    load(resumed, state=kept, ema=average)
    run(resumed, config, 4, 6, rank, world_size)
    torch.testing.assert_close(state_of(resumed), state_of(whole), rtol=0, atol=0)
    assert resumed.trainee.counts.point() == whole.trainee.counts.point()
    if rank == 0:
        (folder / "equal").touch()


def test_three_ranks_continue_bit_for_bit(tmp_path):
    """Catches gradients that are laid out otherwise in the first step after a resume: three ranks
    then add in another order. Also a window that every rank takes for its own.
    """
    run_group(_three_ranks, 3, tmp_path)
    assert (tmp_path / "equal").exists()


# -- on a GPU --------------------------------------------------------------------------------------


def on_cpu(tensors):
    return {name: tensor.cpu() for name, tensor in tensors.items()}


@pytest.mark.gpu
@pytest.mark.parametrize("grad_clip", [1.0, 1e-3])
def test_steps_on_a_gpu_are_those_of_a_cpu(grad_clip, gpu):
    """Catches numbers drawn otherwise, an Adam, average or clipping that takes weights in another
    memory order, and convolutions in TF32.

    Adam divides by the root of the second moment: rounding of tiny gradients is magnified, but to
    less than a tenth of a step.
    """
    config = small_config(
        model__dropout=0.0, train__grad_clip=grad_clip, train__precision="float32"
    )
    learner, reference = make_learner(config, device=gpu), make_learner(config)
    run(learner, config, 0, 6)
    run(reference, config, 0, 6)
    found, expected = state_of(learner), state_of(reference)
    assert {tensor.device.type for tensor in found.values()} == {gpu.type}
    assert found["adam.step"] == 6
    assert torch.equal(found["window"][1].cpu(), expected["window"][1])
    for name, tensor in expected.items():
        if name.startswith("model."):
            atol = 1e-4
        else:  # the gradient of a bias before a normalisation is rounding alone
            kind = name.rpartition("adam.")[2].partition(".")[0]
            atol = 1e-4 * max(float(t.abs().max()) for n, t in expected.items() if kind in n)
        torch.testing.assert_close(
            found[name].cpu(), tensor, rtol=1e-3, atol=atol, msg=lambda m, n=name: f"{n}: {m}"
        )
    averages = on_cpu(average_of(learner))
    torch.testing.assert_close(averages, average_of(reference), rtol=1e-3, atol=1e-4)
    point, exact = learner.trainee.counts.point(), reference.trainee.counts.point()
    assert point == pytest.approx(exact, rel=1e-3)


@pytest.mark.gpu
def test_state_continues_bit_for_bit_on_a_gpu(gpu, monkeypatch):
    """Catches a part of the state that is not saved, or is loaded into other memory.

    With cuDNN's deterministic algorithms, without which two runs may differ in the last bits: so
    two uninterrupted ones are compared first.
    """
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    config = small_config()
    whole, again, first, second = (make_learner(config, device=gpu) for _ in range(4))
    run(whole, config, 0, 10)
    run(again, config, 0, 10)
    torch.testing.assert_close(state_of(again), state_of(whole), rtol=0, atol=0)
    run(first, config, 0, 6)
    load(second, state=on_cpu(state_of(first)), ema=on_cpu(average_of(first)))
    run(second, config, 6, 10)
    torch.testing.assert_close(state_of(second), state_of(whole), rtol=0, atol=0)
    torch.testing.assert_close(average_of(second), average_of(whole), rtol=0, atol=0)
    assert second.trainee.counts.point() == whole.trainee.counts.point()


@pytest.mark.gpu
def test_state_goes_from_gpu_to_cpu_and_back_bit_for_bit(gpu):
    """Catches state that stays on the device it came from, or loses its memory order there."""
    config = small_config()
    begun, taken, back = (make_learner(config, device=place) for place in (gpu, CPU, gpu))
    run(begun, config, 0, 3)
    load(taken, state=on_cpu(state_of(begun)), ema=on_cpu(average_of(begun)))
    torch.testing.assert_close(state_of(taken), on_cpu(state_of(begun)), rtol=0, atol=0)
    load(back, state=state_of(taken), ema=average_of(taken))
    torch.testing.assert_close(state_of(back), state_of(begun), rtol=0, atol=0)
    torch.testing.assert_close(average_of(back), average_of(begun), rtol=0, atol=0)
    for learner in (taken, back):
        run(learner, config, 3, 5)
        assert all(bool(tensor.isfinite().all()) for tensor in state_of(learner).values())
        assert state_of(learner)["adam.step"] == 5


@pytest.mark.gpu
def test_bfloat16_on_a_gpu_trains_weights_that_stay_float32(gpu):
    """Catches an `auto` that stays float32, a network that is cast as a whole, and NaN."""
    has_it = torch.cuda.is_bf16_supported(including_emulation=False)
    assert arithmetic_of("auto", gpu) == (torch.bfloat16 if has_it else torch.float32)
    config = small_config(train__precision="bfloat16", model__dropout=0.0)
    exactly = small_config(train__precision="float32", model__dropout=0.0)
    learner, reference = make_learner(config, device=gpu), make_learner(exactly, device=gpu)
    run(learner, config, 0, 5)
    run(reference, exactly, 0, 5)
    state = state_of(learner) | {f"ema.{n}": t for n, t in average_of(learner).items()}
    assert {tensor.dtype for tensor in state.values()} == {torch.float32, torch.float64}
    assert all(bool(tensor.isfinite().all()) for tensor in state.values())
    point, exact = learner.trainee.counts.point(), reference.trainee.counts.point()
    assert point["loss"] != exact["loss"]
    assert point["loss"] == pytest.approx(exact["loss"], rel=0.02)


@pytest.mark.gpu
@quiet
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_step_never_waits_for_the_gpu(precision, gpu):
    """Catches what the CPU's test cannot see: copies that block, inside torch's functions too.

    A point of the curves must wait, which shows that waiting would be seen.
    """
    config = small_config(train__precision=precision)
    learner, images = make_learner(config, device=gpu), small_images()
    run(learner, config, 0, 3)
    images_u8 = rank_slice(config, images, 3, 0, 1).pin_memory()
    with no_waiting():
        learner.step(3, images_u8)
        with pytest.raises(RuntimeError, match="synchroniz"):
            learner.trainee.counts.point()
