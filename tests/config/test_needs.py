"""What a training needs, in words: numbers, and what to do where a machine has less."""

from dataclasses import replace

import pytest

from ddpm_core.config.needs import Needs, gib, lack_text, memory_text, speed_text, time_text
from ddpm_core.recipes import recipe
from ddpm_core.recipes.sizes import sized

GIB = 2**30
# Half a GiB for each image of a batch of 64.
NEEDS = Needs(
    state=2 * GIB,
    copies=0,
    gradient=GIB,
    step=32 * GIB,
    process=GIB // 2,
    images=64,
    at_once=64,
    flops=10**12,
)
FRUGAL = replace(NEEDS, step=8 * GIB)


def config_of(**changes):
    given = {key.replace("__", "."): value for key, value in changes.items()}
    return recipe("images").replaced({**sized(256, "S"), "data.source": "/photos", **given})


def test_the_parts_add_up_and_fewer_images_take_less():
    """Catches: weights that shrink with the batch, and a gradient that pieces add to left out."""
    assert NEEDS.total == 34.5 * GIB
    assert NEEDS.with_images(16) == 11.5 * GIB
    on_cpu = replace(NEEDS, copies=2 * GIB)
    assert (on_cpu.total, on_cpu.with_images(16)) == (36.5 * GIB, 13.5 * GIB)
    text = memory_text(NEEDS, world_size=2)
    assert text.startswith("each of 2 workers needs about 34 GiB: ")
    assert "a step of 64 images at once 32 GiB" in text


@pytest.mark.parametrize(
    ("room", "part"),
    [
        (24 * GIB, "24 GiB; with --set compute.checkpoint_activations=true it needs 10 GiB"),
        (4 * GIB, "=true it needs 10 GiB: give more workers (compute.num_workers), or"),
    ],
)
def test_a_batch_that_is_needed_at_once_is_not_shown_in_pieces(room, part):
    """Catches advice that the configuration refuses, as of model.kind=clip."""
    said = lack_text(NEEDS, room, recomputed=lambda: FRUGAL, is_card=True, in_pieces=False)
    assert part in said
    assert "micro_batch" not in said


@pytest.mark.parametrize(
    ("room", "part"),
    [
        (None, None),
        (35 * GIB, None),
        (
            24 * GIB,
            "34 GiB and the card has 24 GiB; with --set compute.micro_batch_size=32 it",
        ),
        (12 * GIB, "; with --set compute.micro_batch_size=16 it needs about 12 GiB"),
        (
            4.4 * GIB,
            "activations=true --set compute.micro_batch_size=4 it needs about 4",
        ),
        (3.9 * GIB, "=true --set compute.micro_batch_size=2 it needs about 3.8 GiB"),
        (GIB, "even with one image at a time it needs 3.6 GiB: take a smaller --scale or --size"),
    ],
)
def test_a_card_that_is_too_small_is_told_what_fits(room, part):
    """Catches: an end after minutes, "out of memory", and a remedy that does not fit either."""
    said = lack_text(NEEDS, room, recomputed=lambda: FRUGAL, is_card=True)
    assert (said is None) == (part is None)
    assert part is None or part in said


def test_activations_are_recomputed_where_pieces_do_not_do():
    """Catches: two keys where one is enough, and pieces of one image where blocks would do."""
    large = replace(NEEDS, images=2, at_once=2)
    said = lack_text(large, 20 * GIB, recomputed=lambda: FRUGAL, is_card=False)
    assert said.endswith("with --set compute.checkpoint_activations=true it needs 10 GiB")
    assert "the machine has, for each worker, 20 GiB" in said


def test_speed_is_in_images_and_the_time_is_that_of_the_steps_that_are_left():
    """Catches: steps taken for images, and the time of all steps said of a run that goes on."""
    config = config_of(train__num_steps=1000)
    assert speed_text(config, 0.5) == "128 images/s, about 8 min for 1000 steps of 64"
    rest = speed_text(config, 0.5, begun=900)
    assert speed_text(config, 100.0).startswith("0.64 images/s, about 28 hours")
    assert speed_text(config, 0.05).startswith("1280 images/s")
    assert rest == "128 images/s, about 50 s for the other 100 steps of 64"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(5.4, "5 s"), (120, "2 min"), (9000, "2.5 hours"), (9e4, "25 hours"), (1e9, "11,574 days")],
)
def test_times_are_for_people(seconds, text):
    """Catches: 277777.8 hours."""
    assert time_text(seconds) == text


def test_memory_is_for_people():
    """Catches: 9.96 GiB as 1e+01."""
    assert [gib(n) for n in (GIB // 2, int(9.96 * GIB), 80 * GIB)] == [
        "0.5 GiB",
        "10 GiB",
        "80 GiB",
    ]
