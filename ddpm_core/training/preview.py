"""What a preview draws and measures: the same few images and noises of whatever weights it has.

Images begin from the noise of the run's own first samples, and take few calls of the network. The
figure is the training's own loss, on held-out images at fixed timesteps and noises: from step to
step the weights alone differ, so it is smooth where `train/loss` is not. If it rises while that
falls, the network learns its images by heart.

All is done in pieces of one call of the network, between which a training can go on.
"""

import itertools
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddpm_core import seeding
from ddpm_core.cluster import Place
from ddpm_core.conditioning import NOTHING, Conditioning, Text
from ddpm_core.config import RunConfig
from ddpm_core.diffusion.binomial.denoiser import BitDenoiser
from ddpm_core.diffusion.continuous_objective import ContinuousObjective
from ddpm_core.diffusion.paths.spacing import choose_timesteps
from ddpm_core.diffusion.samplers.ddim import ddim_steps
from ddpm_core.diffusion.wrappers.respacing import respaced
from ddpm_core.drawing import pictures
from ddpm_core.errors import ConfigError, DataError
from ddpm_core.inference.build import arithmetic_of, build_denoiser, build_objective, in_training
from ddpm_core.inference.denoiser import AveragedNetwork
from ddpm_core.inference.levels import to_u8
from ddpm_core.inference.low_resolution import LowResolutions
from ddpm_core.inference.networks import build_network
from ddpm_core.loading.loader import load_split, to_unit_range
from ddpm_core.loading.texts import texts_of
from ddpm_core.permutation import keyed_permutation
from ddpm_core.runs import layout, previews, results
from ddpm_core.shards.index import Index, load_index
from ddpm_core.store.commit import commit_first, write_file
from ddpm_core.store.manifest import Manifest
from ddpm_core.store.storage import Store
from ddpm_core.training.storing.checkpoint import Origin

SAMPLER, NUM_CALLS = "ddim", 10
"""how images are drawn: without noise, and of every chain and network but those of x_prev"""
_NUM_IMAGES = 36
_MAX_ROWS, _ROW_IMAGES = 10, 4
"""classes that are shown, and images of each at least"""
_NUM_PAIRS = 128
"""of a held-out image and a timestep, in the loss"""
_MOST_AT_ONCE = 20
"""images in one call; not more than a rank trains on, whose memory is known to suffice"""


@dataclass(frozen=True)
class HeldOut:
    """The held-out images that the loss is measured on, and what they are of."""

    images: Tensor
    """(n, c, h, w), uint8 or uint16"""
    labels: Tensor | None
    """(n,) int64; None: the network takes none"""
    text: Text | None = None
    """the first caption of each; None: the network takes none"""

    def given(self, which: Tensor) -> Conditioning:
        """Return what the network is given of some of them."""
        return Conditioning(label=self.labels, text=self.text).rows(which)


@dataclass(frozen=True)
class Seen:
    """What was seen of some weights."""

    images_u8: NDArray[np.uint8]
    """(n, h, w, c), those of one class after those of another"""
    loss: float | None
    """None: there are no held-out images"""


def load_held_out(store: Store, config: RunConfig, index: Index) -> HeldOut | None:
    """Return some held-out images, the same whenever it is called; None if there are none.

    Raises:
        DataError, ConfigError: as `load_split`.
    """
    count = index.num_images["test"]
    if not count:
        return None
    split = load_split(store, index, "test", stage="train")
    try:
        places = np.arange(min(count, _NUM_PAIRS))
        numbers = keyed_permutation(f"preview:{config.train.seed}".encode(), count, places)
        labels = None if config.num_classes is None else split.member("label", numbers)
        texts = texts_of(config, index)
        text = None if texts is None else texts.of(split, numbers, None)
        return HeldOut(split.take(numbers), labels, text)
    finally:
        split.close()


def load_preview(store: Store, config: RunConfig, place: Place) -> "Preview":
    """Return what makes the previews of a run that has its data set, with its held-out images.

    Raises:
        DataError: the data set cannot be used.
    """
    pointer = results.dataset_pointer(store, config.name)
    if pointer is None:
        raise DataError(f"run {config.name!r} has no data set yet; run the shard stage first")
    index = load_index(store, pointer.folder, pointer.fingerprint)
    return Preview(config, load_held_out(store, config, index), index.label.names, place)


class Preview:
    """Draws and measures; holds a copy of the weights, since those of the training go on.

    Args:
        config: the run.
        held_out: what to measure on, if anything.
        names: of the classes, by label.
        place: of the rank that makes the previews, and of how many.
    """

    def __init__(
        self,
        config: RunConfig,
        held_out: HeldOut | None,
        names: tuple[str, ...],
        place: Place,
    ) -> None:
        device, world_size = place.device, place.world_size
        self._config, self._held_out, self._device = config, held_out, device
        network = build_network(config)
        dtype = arithmetic_of(config.train.precision, device)
        self._network = AveragedNetwork(network, device, dtype=dtype)
        self._params = dict(network.named_parameters())  # as they are where it computes
        self._objective = build_objective(config)
        self._called = in_training(config, self._network)
        self._denoiser = build_denoiser(config, self._network, self._network.null)
        enlarges = config.model.low_size is not None
        if enlarges and held_out is None:
            raise DataError(
                f"train.preview_every={config.train.preview_every}: previews of a network of "
                "model.low_size enlarge held-out images, and none are held out; leave it out, or "
                "give data.num_test_images"
            )
        self._low = LowResolutions(config) if enlarges else None
        num_timesteps = config.diffusion.num_timesteps
        num_calls = min(NUM_CALLS, num_timesteps)
        self._times = choose_timesteps("trailing", num_timesteps, num_calls)
        self._num_pairs = 0 if held_out is None else _NUM_PAIRS
        # Of the images, in their order; empty: they are of nothing.
        num_classes = None if enlarges else config.num_classes  # held-out images have theirs
        self._labels, self._names = _labels(num_classes), names
        positions = _positions(self._labels, num_classes)
        self._positions = torch.tensor(positions, device=device)
        size = min(config.train.global_batch_size // world_size, _MOST_AT_ONCE)
        self._batches = _slices(len(positions), size)
        self._pairs = _slices(self._num_pairs, size)
        self._start_key = seeding.key(config.sample.seed, "sample_init")
        self._noise_key = seeding.key(config.train.seed, "preview")
        self._low_key = seeding.key(config.train.seed, "preview", 1)

    @property
    def num_pieces(self) -> int:
        """How many calls of the network there are."""
        return len(self._batches) * len(self._times) + len(self._pairs)

    def take(self, weights: Mapping[str, Tensor]) -> None:
        """Copy weights, by the names of the network's parameters; nothing waits for the device."""
        with torch.no_grad():
            for name, param in self._params.items():
                param.copy_(weights[name])

    def pieces(self) -> Generator[None, None, Seen]:
        """Draw and measure; pauses after each piece."""
        images, losses = [], []
        for rows in self._batches:
            for _, x_t, _ in self._steps(rows):  # noqa: B007 - the last is the image
                yield
            images.append(to_u8(x_t).cpu())
        for rows in self._pairs:
            losses.append(self._losses(rows))
            yield
        loss = float(torch.cat(losses).mean()) if losses else None
        return Seen(torch.cat(images).numpy(), loss)

    def publish(
        self, store: Store, origin: Origin, step: int, average: str, seen: Seen
    ) -> Manifest:
        """Keep what was seen of the weights after `step` steps.

        What stands there already stays: another kind of device rounds otherwise.

        Args:
            store: where.
            origin: what the weights belong to.
            step: completed steps.
            average: which weights: the name of an average, or `raw`.
            seen: of `pieces`.

        Raises:
            StorageError: the storage refuses or does not answer.
        """
        run = self._config.name
        folder, stem = layout.previews_folder(run), previews.stem_of(step)
        png = pictures.to_png(self._sheet(seen.images_u8))
        files = {previews.SHEET: write_file(store, folder, stem, ".png", png)}
        expected = previews.expected(step, origin.experiment)
        body = {
            **expected.body,
            "dataset": origin.dataset,
            "average": average,
            "drawn": {
                "sampler": SAMPLER,
                "num_steps": len(self._times),
                "seed": self._config.sample.seed,
                "labels": list(self._labels),
            },
            "loss": seen.loss,
            "num_pairs": self._num_pairs,
        }
        name = previews.name_of(step)
        return commit_first(store, folder, files, body, expected, name=name)

    def _sheet(self, images_u8: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the images on one sheet, (H, W, c); those of classes in rows by name."""
        if not self._labels:
            return pictures.grid(images_u8)
        of_class = np.array(self._labels)
        return pictures.named_rows(
            [
                (self._names[label], images_u8[of_class == label])
                for label in dict.fromkeys(self._labels)
            ]
        )

    # -- pieces ------------------------------------------------------------------------------

    def _steps(self, rows: slice) -> Iterator[tuple[int, Tensor, Tensor]]:
        positions = self._positions[rows]
        x_T = seeding.normal(self._start_key, 0, positions, self._config.data.shape)  # noqa: N806
        labels = torch.tensor(self._labels[rows], device=self._device) if self._labels else None
        if self._low is not None:
            given = self._denoiser.given(self._enlarging(positions))
        else:
            own = Conditioning(label=labels)
            given = self._denoiser.given(self._conditioning(len(positions), own))
        if isinstance(given, BitDenoiser):  # the configuration refuses it before
            raise ConfigError("train.preview_every: previews are of images, not of bits")
        return ddim_steps(respaced(given, self._times), x_T)

    @torch.no_grad()
    def _losses(self, rows: slice) -> Tensor:
        """Return the loss of each pair, whose times lie evenly among those of the training."""
        held_out = self._held_out
        if held_out is None:
            raise DataError("there are no held-out images to measure on")
        positions = torch.arange(rows.start, rows.stop, device=self._device)
        which = positions.cpu() % len(held_out.images)
        x_0 = to_unit_range(held_out.images[which], self._device)
        t = self._times_of_pairs(2 * positions + 1, 2 * _NUM_PAIRS)
        eps = seeding.normal(self._noise_key, 0, positions, tuple(x_0.shape[1:]))
        x_t = self._objective.noised(x_0, t, eps)
        if self._low is not None:
            conditioning = self._enlarging(positions)
        else:
            own = held_out.given(which).to(self._device)
            conditioning = self._conditioning(len(positions), own)
        output = self._called(x_t, t, conditioning)
        return self._objective.losses(output, x_0, x_t, t, eps).cpu()

    def _times_of_pairs(self, parts: Tensor, whole: int) -> Tensor:
        """Return the times below which parts / whole of all times of the training lie."""
        if isinstance(self._objective, ContinuousObjective):
            return self._objective.times.at(parts.double() / whole)
        return parts * self._config.diffusion.num_timesteps // whole

    def _enlarging(self, positions: Tensor) -> Conditioning:
        """Return what the network is given of held-out images: what they are of, as far as it takes
        that, and their low resolutions.
        """
        held_out, low = self._held_out, self._low
        if held_out is None or low is None:
            raise TypeError("there is nothing to enlarge")
        which = positions.cpu() % len(held_out.images)
        x_0 = to_unit_range(held_out.images[which], self._device)
        eps = seeding.normal(self._low_key, 0, positions, tuple(x_0.shape[1:]))
        level = low.level(self._config.sample.low_level, x_0)
        own = replace(held_out.given(which).to(self._device), low=low.made_of(x_0, level, eps))
        return self._conditioning(len(positions), own)

    def _conditioning(self, count: int, own: Conditioning) -> Conditioning:
        """Return what the network is given: these parts, and of everything else the null."""
        if not self._network.null.parts:
            return NOTHING
        null = self._network.null.repeated(count)
        return replace(null, **{name: getattr(own, name) for name in own.parts})


def _labels(num_classes: int | None) -> tuple[int, ...]:
    """Return what the images are of, class after class: of many classes some, evenly."""
    if num_classes is None:
        return ()
    rows = min(num_classes, _MAX_ROWS)
    per_row = min(_MAX_ROWS, max(_ROW_IMAGES, _NUM_IMAGES // rows))
    return tuple(row * num_classes // rows for row in range(rows) for _ in range(per_row))


def _positions(labels: tuple[int, ...], num_classes: int | None) -> list[int]:
    """Return where among the run's samples each image begins: where balanced ones are of it."""
    if num_classes is None:
        return list(range(_NUM_IMAGES))
    return [label + num_classes * labels[:index].count(label) for index, label in enumerate(labels)]


def _slices(count: int, most: int) -> list[slice]:
    """Return slices of 0 ... count - 1 of about one size, at most `most`."""
    number = -(-count // most)
    ends = [count * part // number for part in range(number + 1)] if number else []
    return [slice(start, stop) for start, stop in itertools.pairwise(ends)]
