"""A training before it begins: what a worker of a dry run answers, and what is made of it."""

import io

import pytest
import torch

from ddpm_core import rehearse
from ddpm_core.cluster import Place
from ddpm_core.config.needs import Needs
from ddpm_core.recipes import digits, recipe
from ddpm_core.recipes.classifier import digits_classifier
from ddpm_core.recipes.clip import digits_clip
from ddpm_core.recipes.sizes import sized
from ddpm_core.training import rehearsal
from ddpm_core.training.first_steps import FirstSteps
from ddpm_core.training.memory import needs
from ddpm_core.training.rehearsal import _Prepared
from ddpm_core.training.stepping.classifying import Classifying
from ddpm_core.training.stepping.kinds import training_of
from ddpm_core.training.stepping.parallel import Parallel
from tests.training.small import CPU, small_config

ALONE = Place(rank=0, world_size=1, device=CPU)


def prepared(config, *, room=None):
    return _Prepared(config, CPU, needs(config, CPU, world_size=1), room)


def test_a_dry_run_counts_and_measures_with_processes_of_its_own():
    """Catches: a rehearsal that ends with a traceback, or of which nothing is said, also where the
    workers divide what one of them rehearses alone.
    """
    config = small_config(compute__num_workers=2, compute__divide_state=True)
    memory, time = rehearse.rehearsed(config)
    assert memory.startswith("memory: each of 2 workers needs about 0.63 GiB: ")
    assert time.startswith("time: ")
    assert "steps of 12, measured on this machine" in time


def test_true_steps_are_timed_and_nothing_is_left_of_them():
    """Catches: one image timed as a batch, and a time without optimiser and averages."""
    one = prepared(small_config(model__conditioning="label"))
    weights = [param.detach().clone() for param in one._training.network.parameters()]
    one._seconds = lambda work, *given: (work(*given), 12.0)[1]
    speed = one.timed()
    assert speed.images == 12
    assert speed.update_s == 12
    assert speed.image_s == 0
    moved = zip(weights, one._training.network.parameters(), strict=True)
    assert any(not torch.equal(a, b) for a, b in moved)


def test_a_classifier_clip_and_a_divided_state_are_rehearsed():
    """Catches: a denoiser's loss of logits, a classifier without labels, CLIP that is refused for
    being shown its batch in pieces, and a single worker that is refused since it has none to
    divide its state with.
    """
    classifier = digits_classifier().replaced({"train.global_batch_size": 4})
    assert type(prepared(classifier)._training) is Classifying
    assert prepared(digits_clip().replaced({"train.global_batch_size": 4})).timed().images == 4
    divided = small_config(compute__num_workers=2, compute__divide_state=True)
    assert prepared(divided)._images == 12


def test_what_a_pass_costs_once_is_told_from_what_each_image_costs(monkeypatch):
    """Catches: few images measured, and their share of a pass taken for that of a batch: 40 %."""
    monkeypatch.setattr(_Prepared, "_update_s", lambda self: 1.0)
    monkeypatch.setattr(
        _Prepared,
        "_step_s",
        lambda self: (
            1.0
            + 0.5 * self._images
            + 3.0 * -(-self._images // (self._training._micro_batch_size or self._images))
        ),
    )
    config = small_config()
    few = prepared(config, room=needs(config, CPU, world_size=1).with_images(5)).timed()
    assert (few.images, few.update_s) == (5, 1.0)
    assert (few.pass_s, few.image_s) == (pytest.approx(3.0), pytest.approx(0.5))
    whole = prepared(config).timed()
    assert whole.update_s + whole.pass_s + 12 * whole.image_s == pytest.approx(1.0 + 3.0 + 6.0)


def test_a_batch_that_would_take_too_long_or_too_much_is_made_smaller(monkeypatch):
    """Catches: a dry run of a minute, and one that uses up the memory."""
    config = small_config()
    found = needs(config, CPU, world_size=1)
    assert prepared(config, room=found.with_images(5))._images == 5
    monkeypatch.setattr(_Prepared, "_rate", lambda self: found.flops / 1.0)
    assert prepared(config)._images == rehearsal._LONGEST_STEP_S / 2


def test_a_large_network_is_judged_by_a_smaller_image(monkeypatch):
    """Catches: a forward pass of minutes in a dry run, and a quarter of the operations taken for
    a quarter of the time of something else.
    """
    changes = {**sized(32, "S"), "model.base_channels": 32, "data.source": "/photos"}
    config = recipe("images").replaced({**changes, "model.channel_mults": [1, 2]})
    config = config.replaced({"compute.num_workers": 1, "train.global_batch_size": 1})
    found = needs(config, CPU, world_size=1)
    monkeypatch.setattr(_Prepared, "_rate", lambda self: found.flops / 10.0)
    monkeypatch.setattr(_Prepared, "_seconds", lambda self, work: (work(), 0.5)[1])
    speed = prepared(config).timed()
    assert (speed.images, speed.update_s) == (0, 0)
    assert speed.image_s == pytest.approx(2.0, rel=0.05)  # four times as many pixels
    no_room = prepared(config, room=found.state)
    assert no_room.timed().image_s == 10.0


ANSWER = {
    "needs": {
        "state": 2**30,
        "copies": 0,
        "gradient": 0,
        "step": 2**30,
        "process": 0,
        "images": 6,
        "at_once": 6,
        "flops": 10**9,
    },
    "lack": None,
    "world_size": 2,
    "room": 2**30,
    "device": "cpu",
}


def test_the_slowest_worker_and_the_least_memory_are_said():
    """Catches: the mean of the workers, for the last of which each step waits; a lack of memory
    that is not passed on; the update counted once for each image.
    """
    speeds = [{"update_s": 1.0, "pass_s": 0.0, "image_s": one, "images": 6} for one in (0.5, 2.0)]
    config = small_config(compute__num_workers=2, train__num_steps=100)
    memory, lack, time = rehearse._lines(config, ANSWER | {"lack": "too little"}, speeds)
    assert memory.endswith("; this machine has 2 GiB")
    assert lack == "warning: too little"
    assert time.startswith("time: 0.92 images/s, about 22 min for 100 steps of 12, measured")
    pieces = ANSWER | {"needs": ANSWER["needs"] | {"at_once": 4}}
    costly = rehearse._lines(config, pieces, [speeds[0] | {"pass_s": 4.0}])
    assert "about 20 min for 100 steps" in costly[-1]  # 1 + 2 passes of 4 + 6 images of 0.5
    speeds[0]["images"] = 0
    assert "estimated by a smaller image" in rehearse._lines(config, ANSWER, speeds)[-1]


def test_a_worker_that_ended_is_no_error():
    """Catches: a dry run that ends with a traceback on a machine that is too small."""
    assert rehearse._lines(small_config(), ANSWER, [None])[-1].startswith("time: not known")


def test_a_process_that_ends_answers_nothing(monkeypatch):
    """Catches: a dry run that waits for ever, or a BrokenPipeError, where the system ended it."""
    monkeypatch.setattr(rehearse.sys, "executable", "/bin/false")
    (line,) = rehearse.rehearsed(digits().replaced({"compute.num_workers": 1}))
    assert line.startswith("memory and time: not known")
    assert "exit code 1; python -m ddpm_core doctor" in line


def test_why_a_process_ended_is_said_as_it_is():
    """Catches: a lack of memory blamed for a mistake of ours, whose words are thrown away."""
    said = io.StringIO("Traceback\n  ...\nConfigError: no such thing\n")
    assert "ended: ConfigError: no such thing; " in rehearse._ended(1, said)
    assert "ended: it found no memory, or took longer than 180 s; " in rehearse._ended(-9, said)


def test_the_first_steps_are_timed_once_and_change_nothing():
    """Catches: a time with that of the first step, one that is said again and again, weights that
    differ from those of a training that nobody times.
    """
    config, said, clock = small_config(), [], iter(range(1000))
    now = {"s": 0.0}

    def tick():
        now["s"] += next(clock)
        return now["s"]

    plain, timed = (training_of(config, Parallel(ALONE)) for _ in range(2))
    wrapped = FirstSteps(timed, CPU, lambda *given: said.append(given), now=tick)
    images = torch.zeros(12, *config.data.shape, dtype=torch.uint8)
    for step in range(6):
        for one in (plain, wrapped):
            one.step(step, images, rehearsal.Conditioning())
    assert len(said) == 1
    (step, step_s), *_ = said
    assert step == 4
    assert step_s == 4  # of 2, 4 and 6
    pairs = zip(plain.network.parameters(), timed.network.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert wrapped.trainee is timed.trainee
    assert wrapped.accepts == timed.accepts


def test_needs_travel_as_json():
    """Catches: a part that the worker counts and the dry run does not read."""
    assert Needs(**ANSWER["needs"]).total == 2**31
