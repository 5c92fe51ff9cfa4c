"""A small classifier of the data set, whose last hidden layer is a feature network.

Three convolutions are enough to tell digits apart and too few for state-of-the-art accuracy; they
train in seconds on a CPU. Distances between its features compare runs on one data set with one
another, not with published FIDs.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ddpm_core import seeding
from ddpm_core.loading.blocks import BlockOrder
from ddpm_core.loading.loader import Images, ImageSet
from ddpm_core.runs.protocol import protocol_identity
from ddpm_core.shards.members import LABEL
from ddpm_core.training.stepping.optimiser import Optimiser

FEATURE_DIM = 64
_SEED = 0  # fixed: a measuring instrument is not redrawn with the seed of a run
_BATCH_SIZE = 64
LEARNING_RATE = 1e-3
_ARCHITECTURE = "conv16-conv32/2-conv64/2-pool2x2-linear64"


def recipe(dataset_fingerprint: str, num_steps: int) -> dict[str, Any]:
    """Return what determines the trained network."""
    return {
        "kind": "trained",
        "architecture": _ARCHITECTURE,
        "dataset": dataset_fingerprint,
        "num_steps": num_steps,
        "batch_size": _BATCH_SIZE,
        "learning_rate": LEARNING_RATE,
        "seed": _SEED,
        **protocol_identity(),
    }


class Classifier(nn.Module):
    """Three convolutions, 64 features, one linear layer to the classes."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            [
                nn.Conv2d(channels, 16, 3, padding=1),
                nn.Conv2d(16, 32, 3, stride=2, padding=1),
                nn.Conv2d(32, 64, 3, stride=2, padding=1),
            ]
        )
        self.features = nn.Linear(64 * 2 * 2, FEATURE_DIM)
        self.classes = nn.Linear(FEATURE_DIM, num_classes)
        generator = seeding.generator(_SEED, "features", 0)
        with torch.no_grad():
            for layer in [*self.convs, self.features, self.classes]:
                nn.init.kaiming_normal_(layer.weight, generator=generator)
                layer.bias.zero_()

    def embed(self, images_u8: Tensor) -> Tensor:
        """Return the features (n, 64) of uint8 images (n, c, h, w), before the nonlinearity."""
        x = images_u8.float() / 127.5 - 1
        for conv in self.convs:
            x = functional.relu(conv(x))
        embedded: Tensor = self.features(_quarters(x).flatten(1))
        return embedded

    def forward(self, images_u8: Tensor) -> Tensor:
        """Return the logits (n, classes)."""
        logits: Tensor = self.classes(functional.relu(self.embed(images_u8)))
        return logits

    def classify(self, images_u8: Tensor) -> Tensor:
        """Return the probabilities (n, classes), float32."""
        logits: Tensor = self(images_u8)
        return logits.float().softmax(dim=1)


def _quarters(x: Tensor) -> Tensor:
    """Return (n, c, 2, 2), the means over the quarters of maps (n, c, h, w) of any size.

    Of an odd side from 5 on the last row or column is left out; of 3 the middle one counts in both
    halves, and a side of 1 is both halves. Not adaptive pooling: its gradient on a GPU is not
    reproducible.
    """
    height, width = (max(2, side) for side in x.shape[-2:])
    kernel = [2 if side == 3 else side // 2 for side in (height, width)]
    stride = [height // 2, width // 2]
    return functional.avg_pool2d(x.expand(-1, -1, height, width), kernel, stride)


def train_classifier(train: Images, *, num_steps: int, device: torch.device) -> Classifier:
    """Return a classifier trained on `train`; the same on every run on the same hardware."""
    take = _taking(train, device)
    channels = train.images(0, 1).shape[1]
    network = Classifier(channels, train.num_classes).to(device)
    optimiser = Optimiser(dict(network.named_parameters()), fused=False)
    order = train.windows(_SEED)
    for step in range(num_steps):
        train.expect(_position(order, step))
        images_u8, labels = take(batch_numbers(order, step))
        loss = functional.cross_entropy(network(images_u8), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.update(LEARNING_RATE)
    return network.eval()


def batch_numbers(order: BlockOrder, step: int) -> NDArray[np.int64]:
    """Return the images of a step: random ones of the window in which a training would be.

    Of a small data set, which is one window, any; of a large one those of some dozens of shards,
    whether it is in memory or not.
    """
    epoch, within = divmod(_position(order, step), order.num_images)
    members = order.members(epoch, order.window_of(epoch, within))
    key, positions = seeding.key(_SEED, "features", 1), torch.arange(_BATCH_SIZE)
    numbers: NDArray[np.int64] = members[
        seeding.uniform_int(key, step, positions, len(members)).numpy()
    ]
    return numbers


def _position(order: BlockOrder, step: int) -> int:
    """Return where a step is: from epoch 1 on, since epoch 0 begins with windows of few shards."""
    return order.num_images + step * _BATCH_SIZE


def _taking(
    train: Images, device: torch.device
) -> Callable[[NDArray[np.int64]], tuple[Tensor, Tensor]]:
    """Return what gives the images of these numbers, and their labels, on the device."""
    if isinstance(train, ImageSet):
        # Once to the device, where they are small enough to be in memory.
        images_u8 = train.images(0, len(train)).to(device)
        labels = train.others[LABEL].to(device)

        def chosen(numbers: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
            where = torch.from_numpy(numbers).to(device)
            return images_u8[where], labels[where]

        return chosen

    def take(numbers: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        # A copy: grey images count as contiguous also with the channel last, but are convolved
        # otherwise, with other rounding.
        images_u8 = train.take(numbers).clone(memory_format=torch.contiguous_format)
        return images_u8.to(device), train.member(LABEL, numbers).to(device)

    return take


def to_bytes(network: Classifier) -> bytes:
    """Return the weights as a safetensors file."""
    state = network.state_dict()
    return safetensors.torch.save({name: value.cpu() for name, value in state.items()})


def from_bytes(data: bytes) -> Classifier:
    """Return the network of a file that `to_bytes` made."""
    tensors = safetensors.torch.load(data)
    network = Classifier(tensors["convs.0.weight"].shape[1], len(tensors["classes.bias"]))
    network.load_state_dict(tensors)
    return network.eval()


@torch.inference_mode()
def accuracy(network: Classifier, test: Images, device: torch.device) -> float:
    """Return the share of images whose class is the most probable one."""
    correct = 0
    for start in range(0, len(test), 512):
        stop = min(start + 512, len(test))
        found = network(test.images(start, stop).to(device)).argmax(1).cpu()
        correct += int((found == test.member(LABEL, np.arange(start, stop))).sum())
    return correct / len(test)
