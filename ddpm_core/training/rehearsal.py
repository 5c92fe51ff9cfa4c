"""A few steps of a training before it begins, for a dry run: memory counted, speed measured.

python -m ddpm_core.training.rehearsal is a worker of that: it reads the configuration, says that
it is ready, and measures once it reads a line, so that all workers of a machine do so at once.
What is trained is thrown away: nothing is read of a run, and nothing written.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ddpm_core.cluster import Place
from ddpm_core.conditioning import Conditioning
from ddpm_core.config import AdmConfig, RunConfig, UNetConfig
from ddpm_core.config.needs import Needs
from ddpm_core.inference.build import arithmetic_of
from ddpm_core.inference.networks import build_network
from ddpm_core.models.recompute import recompute_activations
from ddpm_core.training.memory import available, lack, needs
from ddpm_core.training.stepping.kinds import training_of
from ddpm_core.training.stepping.parallel import Parallel
from ddpm_core.training.stepping.trainee import ADAM

_MEASURED_S = 2.0
_MOST_STEPS = 50
_WARM_UP = 5
"""steps of a GPU before one that is timed: compiling, choosing kernels, recording"""
_PIECES = 4
"""of the images of a step, or fewer, to tell what each pass costs from what each image costs"""
_FEW = 16
"""images, of which a pass that costs as much as one has no share that counts"""
_LONGEST_STEP_S = 4.0
"""seconds that an image may take, as far as is known before it, and twice what a step may"""


@dataclass(frozen=True)
class Speed:
    """Of one worker."""

    update_s: float
    """of optimiser and averages, once a step"""
    pass_s: float
    """of forward and backward, however many images they are of"""
    image_s: float
    """of forward and backward for each image"""
    images: int
    """that were passed at once; 0: none were, and the times follow from the operations"""


def main() -> None:
    """Answer one dry run: two lines of JSON, and between them a line is awaited."""
    asked = json.loads(sys.stdin.readline())
    config = RunConfig.from_dict(asked["config"], origin="the dry run")
    device, world_size = _device(config)
    torch.set_num_threads(config.compute.cpus_per_worker)
    found = needs(config, device, world_size=world_size)
    room = available(device)
    room = None if room is None else room // (world_size if device.type == "cpu" else 1)
    prepared = _Prepared(config, device, found, room)
    first = {
        "needs": asdict(found),
        "lack": lack(config, device, found, world_size=world_size, room=room),
        "world_size": world_size,
        "room": room,
        "device": device.type,
    }
    _answer(first)
    sys.stdin.readline()
    _answer(asdict(prepared.timed()))


def _answer(values: dict[str, Any]) -> None:
    sys.stdout.write(f"{json.dumps(values)}\n")
    sys.stdout.flush()


def _device(config: RunConfig) -> tuple[torch.device, int]:
    """Return where a worker of this machine's own Ray would train, and how many there would be.

    As `cluster.connection.num_workers`: not more than there are cards, if these are used because
    they are there.
    """
    compute = config.compute
    if compute.use_gpu is False or not torch.cuda.is_available():
        return torch.device("cpu"), compute.num_workers
    cards = torch.cuda.device_count()
    fitting = [n for n in range(1, cards + 1) if compute.num_workers % n == 0]
    is_bound = compute.use_gpu is None
    return torch.device("cuda"), max(fitting) if is_bound else compute.num_workers


class _Prepared:
    """A worker that has done what a first step does, and waits to be timed.

    Args:
        config: of the run.
        device: of the worker.
        found: what it needs.
        room: bytes that it may take; None: not known.
    """

    def __init__(
        self, config: RunConfig, device: torch.device, found: Needs, room: int | None
    ) -> None:
        self._config, self._device, self._found = config, device, found
        self._dtype = arithmetic_of(config.train.precision, device)
        self._guess_s = found.flops / self._rate()
        most = int(_LONGEST_STEP_S / self._guess_s)
        most = min(found.images, max(1, most // 2) if most else 0)
        fitting = (n for n in range(most, 0, -1) if room is None or found.with_images(n) <= room)
        self._images = next(fitting, 0)
        self._holds_weights = room is None or 2 * found.state <= room
        if self._images:
            self._prepare(min(self._images, found.at_once))

    def _prepare(self, micro_batch_size: int) -> None:
        config, images = self._config, self._images
        changes = {
            "train.global_batch_size": images,
            "compute.num_workers": 1,
            "compute.divide_state": False,
            "compute.micro_batch_size": micro_batch_size if micro_batch_size < images else None,
        }
        alone = Parallel(Place(rank=0, world_size=1, device=self._device))
        self._training = training_of(config.replaced(changes), alone)
        dtype = getattr(torch, config.data.dtype)
        self._batch = torch.zeros((images, *config.data.shape), dtype=dtype)
        null, accepts = self._training.network.null, self._training.accepts
        given = {part: getattr(null, part) for part in accepts}
        if "label" in self._training.taught:
            given["label"] = torch.zeros(1, dtype=torch.int64)
        self._given = Conditioning(**given).repeated(images)
        for step in range(1 if self._device.type == "cpu" else _WARM_UP):
            self._training.step(step, self._batch, self._given)

    def timed(self) -> Speed:
        """Return how long the parts of a step take."""
        if not self._images:
            return Speed(0.0, 0.0, self._by_operations(), 0)
        step_s, update_s, pass_s = self._step_s(), self._update_s(), 0.0
        size = -(-self._images // _PIECES)
        has_pieces = self._config.role != "clip"  # which is shown the batch at once
        if has_pieces and size < self._images < min(self._found.at_once, _FEW):
            # As many images in more passes: what a pass costs once, of which few images have a
            # larger share than the batch has.
            del self._training
            self._prepare(size)
            more = -(-self._images // size) - 1
            pass_s = min(max(self._step_s() - step_s, 0.0) / more, max(step_s - update_s, 0.0))
        image_s = max(step_s - update_s - pass_s, 0.0) / self._images
        return Speed(update_s, pass_s, image_s, self._images)

    def _step_s(self) -> float:
        steps: list[float] = []
        begin = time.perf_counter()
        while len(steps) < _MOST_STEPS and time.perf_counter() - begin < _MEASURED_S:
            number = len(steps) + _WARM_UP
            steps.append(self._seconds(self._training.step, number, self._batch, self._given))
        return statistics.median(steps)

    def _seconds(self, work: Callable[..., object], *given: object) -> float:
        self._wait()
        begin = time.perf_counter()
        work(*given)
        self._wait()
        return time.perf_counter() - begin

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def _update_s(self) -> float:
        trainee = self._training.trainee
        for param in self._training.network.parameters():
            param.grad = torch.zeros_like(param)

        def update() -> None:
            trainee.optimisers[ADAM].update(0.0)
            trainee.average(_WARM_UP)

        return self._seconds(update)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self._device.type, self._dtype, enabled=self._dtype != torch.float32)

    def _rate(self) -> float:
        """Return the operations per second of a convolution as in the middle of a network."""
        images, layer = (1 if self._device.type == "cpu" else 64), nn.Conv2d(128, 128, 3, padding=1)
        layer, x = layer.to(self._device), torch.zeros(images, 128, 32, 32, device=self._device)
        x.requires_grad_()

        def both() -> None:
            with self._autocast():
                layer(x).sum().backward()

        self._seconds(both)
        return 3 * 2 * 9 * 128**2 * 32**2 * images / min(self._seconds(both) for _ in range(3))

    def _by_operations(self) -> float:
        """Return the seconds of an image by those of a smaller one, and the operations of both."""
        network, shape, halvings = self._config.model, self._config.data.shape, 0
        if not isinstance(network, UNetConfig | AdmConfig) or not self._holds_weights:
            return self._guess_s
        least = 2 ** (len(network.channel_mults) + isinstance(network, AdmConfig))
        while (
            self._guess_s / 4**halvings > _LONGEST_STEP_S
            and min(shape[1:]) >> (halvings + 1) >= least
        ):
            halvings += 1
        unet = build_network(self._config).train().to(self._device)
        if self._config.compute.checkpoint_activations:
            recompute_activations(unet)
        x = torch.zeros(1, shape[0], *(one >> halvings for one in shape[1:]), device=self._device)
        given = unet.null.to(self._device)

        def both() -> None:
            with self._autocast():
                output = unet(x, torch.zeros(1, dtype=torch.int64, device=self._device), given)
            output.square().mean().backward()

        with FlopCounterMode(display=False) as flops:
            seconds = self._seconds(both)
        operations: int = flops.get_total_flops()
        return seconds * self._found.flops / operations


if __name__ == "__main__":
    main()
