"""What a training needs of a machine, memory and time, and what of it fits: numbers, and in words.

The numbers come from `training.memory`, which counts, and from steps that were timed.
"""

from collections.abc import Callable
from dataclasses import dataclass

from ddpm_core.config.run import RunConfig

_GIB = 2**30
_SMALL_STEP, _SMALL_TRAINING = 2e10, 2e13
"""operations"""


@dataclass(frozen=True)
class Needs:
    """Bytes that one worker of a training takes at once, about, and what it computes."""

    state: int
    """weights, Adam's moments and averages: there all the time"""
    copies: int
    """of these, which worker 0 has for the checkpoint that is stored and for previews"""
    gradient: int
    """of which a step of whole batches never holds all and its activations at once"""
    step: int
    """activations, what comes and goes with them, and the gradient as far as it is there by then"""
    process: int
    """the program and its libraries"""
    images: int
    """of its batch"""
    at_once: int
    """images that the network is shown at once"""
    flops: int
    """of forward and backward of one image"""
    scratch: int = 0
    """of `step`, what is no tensor: an allowance"""

    @property
    def total(self) -> int:
        return self.state + self.copies + self.step + self.process

    def with_images(self, images: int) -> int:
        """Return the total, about, where as many or fewer are shown at once."""
        rest = self.state + self.copies + self.gradient + self.process
        return min(self.total, rest + self.step * images // self.at_once)


def is_small(config: RunConfig) -> bool:
    """Say whether a training takes minutes, and less than 1 GiB, on any machine: each weight is
    multiplied once for each pixel at most, and backward takes twice as much as forward.
    """
    image = 3 * 2 * config.num_parameters * config.data.height * config.data.width
    step = image * config.train.global_batch_size
    return step <= _SMALL_STEP and step * config.train.num_steps <= _SMALL_TRAINING


def memory_text(needs: Needs, *, world_size: int) -> str:
    """Return what is needed, for people."""
    each = f"each of {world_size} workers needs" if world_size > 1 else "needed are"
    copies = f"copies of them {gib(needs.copies)}, " if needs.copies else ""
    return (
        f"{each} about {gib(needs.total)}: weights, Adam and averages {gib(needs.state)}, {copies}"
        f"a step of {needs.at_once} images at once {gib(needs.step)}, the program "
        f"{gib(needs.process)}"
    )


def lack_text(
    needs: Needs,
    room: int | None,
    *,
    recomputed: Callable[[], Needs],
    is_card: bool,
    in_pieces: bool = True,
) -> str | None:
    """Return what to do where the memory will not do; None: it will, or is not known.

    Args:
        needs: of one worker.
        room: bytes that there are for one worker.
        recomputed: returns the needs with compute.checkpoint_activations=true; called where more
            images than one at a time do not fit without.
        is_card: whether the room is a card's.
        in_pieces: whether the batch may be shown to the network in pieces.
    """
    if room is None or needs.total <= room:
        return None
    where = "the card has" if is_card else "the machine has, for each worker,"
    said = f"a training needs about {gib(needs.total)} and {where} {gib(room)}"
    if in_pieces and (size := _fitting(needs, room, least=2)) is not None:
        return f"{said}; {_pieces(needs, size)}"
    needs, key = recomputed(), "--set compute.checkpoint_activations=true"
    if needs.total <= room:
        return f"{said}; with {key} it needs {gib(needs.total)}"
    if not in_pieces:
        return (
            f"{said}; even with {key} it needs {gib(needs.total)}: give more workers "
            "(compute.num_workers), or a smaller train.global_batch_size, the images and captions "
            "that are told apart"
        )
    if (size := _fitting(needs, room, least=1)) is not None:
        return f"{said}; with {key} {_pieces(needs, size).removeprefix('with ')}"
    return (
        f"{said}; even with one image at a time it needs {gib(needs.with_images(1))}: take a "
        "smaller --scale or --size (of another recipe: smaller keys of model)"
    )


def _fitting(needs: Needs, room: int, *, least: int) -> int | None:
    """Return the largest number of images at once, of equal pieces of the batch, that fits."""
    sizes = (n for n in range(needs.at_once - 1, least - 1, -1) if needs.images % n == 0)
    return next((n for n in sizes if needs.with_images(n) <= room), None)


def _pieces(needs: Needs, size: int) -> str:
    return (
        f"with --set compute.micro_batch_size={size} it needs about {gib(needs.with_images(size))}"
    )


def time_text(seconds: float) -> str:
    """Return a length of time for people: 40 s, 12 min, 3.4 hours, 12 days."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    hours = seconds / 3600
    if hours < 48:
        return f"{hours:.1f} hours" if hours < 10 else f"{hours:.0f} hours"
    return f"{hours / 24:,.0f} days"


def speed_text(config: RunConfig, step_s: float, *, begun: int = 0) -> str:
    """Return images per second, and how long the rest of the training takes.

    Args:
        config: of the run.
        step_s: seconds of a step.
        begun: steps that are done.
    """
    train = config.train
    left = train.num_steps - begun
    return (
        f"{rate_text(train.global_batch_size / step_s)}, about {time_text(left * step_s)} for "
        f"{'the other ' if begun else ''}{left} steps of {train.global_batch_size}"
    )


def rate_text(images_per_s: float) -> str:
    """Return a speed for people: 1520 images/s, 0.43 images/s."""
    digits = f"{images_per_s:.0f}" if images_per_s >= 10 else f"{images_per_s:.2g}"
    return f"{digits} images/s"


def gib(num_bytes: int) -> str:
    """Return a size of memory for people."""
    value = num_bytes / _GIB
    return f"{value:.0f} GiB" if value >= 9.95 else f"{value:.2g} GiB"
