"""Steps that are recorded and repeated are the steps themselves: here by a double of a graph."""

import threading
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ddpm_core import seeding
from ddpm_core.conditioning import NOTHING, Conditioning
from ddpm_core.config.rates import learning_rate
from ddpm_core.errors import ConfigError
from ddpm_core.inference.replay import NUM_WARM_UP, Replay, off_the_default_stream
from ddpm_core.text.tokens import encode
from tests.gpu import no_waiting, quiet
from tests.graph_double import record_double
from tests.models.adm_oracle import TEXT
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

KINDS = {
    "chain": {"train__loss": "hybrid", "diffusion__variance": "learned_range"},
    "given": {
        "model__known": True,
        "model__conditioning": "label",
        "train__label_dropout": 0.5,
    },
    "rounded": {"train__precision": "bfloat16", "train__grad_clip": 1e-3},
    "pieces": {
        "compute__micro_batch_size": 5,
        "train__precision": "float16",
        "train__augment": 0.5,
    },
    "text": {"train__text_dropout": 0.5, "compute__micro_batch_size": 7},
    "continuous": {"diffusion": {"kind": "edm", "times": "log_normal"}},
}


def config_of(kind="chain"):
    changes = dict(KINDS[kind])
    diffusion = changes.pop("diffusion", None)
    if kind == "text":
        given = {key.replace("__", "."): one for key, one in changes.items()}
        return small_config().replaced(TEXT | {"data.captions": "classes"} | given)
    config = small_config(**changes)
    return config if diffusion is None else config.replaced({"diffusion": diffusion})


def recorded(config):
    """Return a learner whose middle part is repeated from its fourth step on."""
    learner = make_learner(config)
    learner._parallel._is_flat = True  # as on a GPU
    if learner._augment is not None:
        learner._augment._chooses = False
    learner._differentiated = Replay(learner._differentiate, record_double)
    return learner


def run(learner, config, start=0, stop=NUM_WARM_UP + 3):
    images = small_images()
    for step in range(start, stop):
        given = [rank_slice(config, images, step, 0, 1)]
        if "text" in learner.accepts:
            words = [f"a {(row + step) % 7}" for row in range(12)]
            given.append(Conditioning(text=encode(words, 12)))
        elif learner.accepts:
            given.append(Conditioning(label=(torch.arange(12) + step) % 10))
        learner.step(step, *given)


def everything_of(learner):
    point = learner.trainee.counts.point()
    return state_of(learner) | average_of(learner), point


@pytest.fixture(scope="module")
def eager():
    """What six steps of the chain's network end in."""
    config = config_of()
    learner = make_learner(config)
    run(learner, config)
    return everything_of(learner)


@pytest.mark.parametrize("kind", KINDS)
def test_repeated_steps_are_the_steps_themselves_bit_for_bit(kind):
    """Catches whatever of a step is not in a tensor that stays where it is: images, draws, masks of
    dropout, the learning rate, the first step's average, the losses that are counted.
    """
    config = config_of(kind)
    learner, reference = recorded(config), make_learner(config)
    run(learner, config)
    run(reference, config)
    found, expected = everything_of(learner), everything_of(reference)
    torch.testing.assert_close(found[0], expected[0], rtol=0, atol=0)
    assert found[1] == expected[1]


def test_a_resumed_training_records_anew_and_continues_bit_for_bit():
    """Catches a recording of the addresses of another state, and a warm-up that is no steps."""
    config = config_of()
    whole, first, second = (recorded(config) for _ in range(3))
    run(whole, config, stop=8)
    run(first, config, stop=4)
    load(second, state=copy_of(state_of(first)), ema=copy_of(average_of(first)))
    run(second, config, start=4, stop=8)
    torch.testing.assert_close(everything_of(second)[0], everything_of(whole)[0], rtol=0, atol=0)


# -- what a recording would silently do wrong ------------------------------------------------------


def new_images(learner):
    """Images in a new tensor at each step."""
    load_ = learner._load

    def load_elsewhere(step, images_u8, conditioning):
        load_(step, images_u8, conditioning)
        learner._inputs = replace(learner._inputs, images=images_u8.clone())

    learner._load = load_elsewhere


def step_from_python(learner):
    """Noise that is drawn where the step is recorded."""
    differentiate, drawing = learner._differentiate, learner._drawing

    def differentiate_and_draw():
        eps = seeding.normal(drawing._noise_key, now[0], torch.arange(12), (1, 8, 8))
        learner._inputs.eps.copy_(eps)
        differentiate()

    now = noted_steps(learner)
    learner._differentiated = Replay(differentiate_and_draw, record_double)


def rate_from_python(learner):
    """A learning rate that is a number of Python where the update is recorded."""
    differentiate, train, update = learner._differentiate, learner._train, learner._optimiser.update

    def whole():
        differentiate()
        learner._parallel.average(learner._params)
        update(learning_rate(now[0], train), grad_clip=train.grad_clip)

    now = noted_steps(learner)
    learner._update = learner.trainee.average
    learner._differentiated = Replay(whole, record_double)


def branch_on_the_first_step(learner):
    """An average that begins anew where a branch of Python says so, recorded as it was then."""
    differentiate, train, update = learner._differentiate, learner._train, learner._optimiser.update

    def whole():
        differentiate()
        learner.trainee.average(now[0])

    now = noted_steps(learner)
    learner._update = lambda step: update(learning_rate(step, train), grad_clip=train.grad_clip)
    learner._differentiated = Replay(whole, record_double)
    run(learner, config_of(), stop=1)  # fills tables
    learner.trainee.counts.point()
    load(
        learner,
        **{role: copy_of(part) for role, part in make_learner(config_of()).trainee.parts().items()},
    )
    learner._differentiated._num_calls = NUM_WARM_UP  # the very first step is recorded


def noted_steps(learner):
    """Return a list whose only member is the number of the step."""
    load_, now = learner._load, [0]

    def load_and_note(step, images_u8, conditioning):
        now[0] = step
        load_(step, images_u8, conditioning)

    learner._load = load_and_note
    return now


def dropout_seeded_inside(learner):
    """Dropout that Python seeds where the step is recorded."""
    differentiate = learner._differentiate

    def seeded():
        seeding.seed_dropout(0, now[0], 0, learner._device)
        differentiate()

    learner._has_dropout, now = False, noted_steps(learner)
    learner._differentiated = Replay(seeded, record_double)


def gradient_made_anew(learner):
    """A gradient in new tensors, of which only recording tells the optimiser."""
    learner._parallel._is_flat = False


MUTANTS = [
    new_images,
    step_from_python,
    rate_from_python,
    branch_on_the_first_step,
    dropout_seeded_inside,
    gradient_made_anew,
]


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_double_of_a_graph_catches(mutant, eager):
    """Catches a double that would let such a step pass: on a GPU it trains on wrong numbers."""
    config = config_of()
    learner = recorded(config)
    mutant(learner)
    run(learner, config)
    tensors, expected = everything_of(learner)[0], eager[0]
    assert any(not torch.equal(tensors[name], one) for name, one in expected.items())


def test_reading_a_value_cannot_be_recorded():
    """Catches a double in which `.item()` passes, which a GPU refuses while it records."""
    learner = recorded(config_of())
    differentiate = learner._differentiate

    def reading():
        differentiate()
        float(learner._inputs.eps.sum())

    learner._differentiated = Replay(reading, record_double)
    with pytest.raises(RuntimeError, match="capturing"):
        run(learner, config_of())


class Count(TorchDispatchMode):
    """How many operations there are, and which."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.append(func)
        return func(*args, **(kwargs or {}))


def counted(work, *given):
    with Count() as count:
        work(*given)
    return count.seen


def test_what_is_launched_beside_the_recording_is_little():
    """Catches draws that are made for each step alone (521 operations each), and an optimiser or
    an average that goes over the weights one by one.
    """
    config = config_of()
    learner, images = recorded(config), small_images()
    run(learner, config, stop=1)
    learner._drawing._ahead._chunks.clear()
    given = rank_slice(config, images, 1, 0, 1), NOTHING
    loaded = [counted(learner._load, step, *given) for step in range(16)]
    assert sum(map(len, loaded)) / 16 <= 50, sum(map(len, loaded))
    learner._differentiate()
    updated = counted(learner._update, 16)
    assert len(updated) <= 20, len(updated)


# -- on a GPU --------------------------------------------------------------------------------------


def on_gpu(gpu, **compute):
    """Return a learner on a GPU that steps as a rank does, and its configuration."""
    config = config_of().replaced({f"compute.{key}": value for key, value in compute.items()})
    return make_learner(config, device=gpu), config


@pytest.fixture
def own_stream(gpu, monkeypatch):
    """The stream that `train_rank` sets; algorithms of cuDNN that are the same at each call."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    with off_the_default_stream(gpu, wanted=True):
        yield gpu


@pytest.mark.gpu
def test_replayed_steps_are_the_steps_themselves_on_a_gpu(own_stream):
    """Catches what the double cannot know: addresses that move, generators, and other kernels while
    a graph is recorded; and a training that resumes beside it.
    """
    replayed, config = on_gpu(own_stream, cuda_graphs=True)
    eager, _ = on_gpu(own_stream)
    run(replayed, config, stop=4)
    resumed, _ = on_gpu(own_stream, cuda_graphs=True)
    load(resumed, state=copy_of(state_of(replayed)), ema=copy_of(average_of(replayed)))
    run(replayed, config, start=4, stop=9)
    run(resumed, config, start=4, stop=9)
    run(eager, config, stop=9)
    assert replayed._differentiated._recorded is not None
    for one in (replayed, resumed):
        torch.testing.assert_close(state_of(one), state_of(eager), rtol=0, atol=0)
        torch.testing.assert_close(average_of(one), average_of(eager), rtol=0, atol=0)


@pytest.mark.gpu
@quiet
def test_a_replayed_step_never_waits_for_the_gpu(own_stream):
    """Catches a copy into fixed tensors, or a replay, that blocks."""
    learner, config = on_gpu(own_stream, cuda_graphs=True)
    run(learner, config)
    images_u8 = rank_slice(config, small_images(), 6, 0, 1).pin_memory()
    with no_waiting():
        for step in range(6, 9):
            learner.step(step, images_u8)


@pytest.mark.gpu
def test_threads_that_pin_memory_do_not_spoil_a_recording(own_stream):
    """Catches a recording that forbids other threads what the loader does meanwhile."""
    is_done = threading.Event()

    def pin():
        while not is_done.is_set():
            torch.empty(2**20, dtype=torch.uint8).pin_memory()

    thread = threading.Thread(target=pin)
    thread.start()
    try:
        for _ in range(3):
            learner, config = on_gpu(own_stream, cuda_graphs=True)
            run(learner, config)
            assert learner._differentiated._recorded is not None
    finally:
        is_done.set()
        thread.join()


@pytest.mark.gpu
def test_what_cannot_be_recorded_names_the_switch(own_stream):
    """Catches a traceback of the driver's, or a step that silently is not recorded."""
    learner, config = on_gpu(own_stream, cuda_graphs=True)
    differentiate = learner._differentiate

    def reading():
        differentiate()
        float(learner._inputs.eps.sum())

    learner._differentiated = Replay(reading, learner._differentiated._record)
    with pytest.raises(ConfigError, match=r"compute\.cuda_graphs=false"):
        run(learner, config)


@pytest.mark.gpu
def test_compiled_steps_are_near_those_of_float32(own_stream):
    """Catches norms or layouts that the compiler takes otherwise (pytorch#126635)."""
    changes = {"train.precision": "float32", "model.dropout": 0.0}
    config = config_of().replaced(changes)
    plain = make_learner(config, device=own_stream)
    both = {"compute.compile": True, "compute.cuda_graphs": True}
    fast = make_learner(config.replaced(both), device=own_stream)
    for learner in (plain, fast):
        run(learner, config)
    found, expected = fast.trainee.counts.point(), plain.trainee.counts.point()
    assert found["loss"] == pytest.approx(expected["loss"], rel=0.005)
    moments = [
        torch.cat([one.flatten() for name, one in state_of(learner).items() if "exp_avg." in name])
        for learner in (plain, fast)
    ]
    assert torch.cosine_similarity(*moments, dim=0) > 0.999
