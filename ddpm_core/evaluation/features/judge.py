"""A judge of captions: a small network that says of an image how probable each word is.

It is the classifier of the features with a word in the place of each class, which may hold beside
one another; trained for all runs on the data set, and no part of what draws the samples, nor of
what guides them.
"""

import json
from typing import Any

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch.nn import functional

from ddpm_core import seeding
from ddpm_core.canonical import canonical_json
from ddpm_core.evaluation.features import classifier
from ddpm_core.evaluation.features.classifier import Classifier, batch_numbers
from ddpm_core.loading.loader import Images
from ddpm_core.loading.texts import Texts
from ddpm_core.text.words import has_words, vocabulary
from ddpm_core.training.stepping.optimiser import Optimiser

MAX_IMAGES = 2**15
"""training images of which the words are looked at: which there are, and which stand together"""
_AT_ONCE = 1024
_RUN = 64
_RULE = f"words of {MAX_IMAGES} training images; half of a batch is of every other {_RUN} held out"
_SEED = 0  # as of the classifier


def recipe(dataset_fingerprint: str, num_steps: int, texts: Texts) -> dict[str, Any]:
    """Return what determines the trained judge."""
    said = {"templates": list(texts.templates)} if texts.templates else {}
    values = classifier.recipe(dataset_fingerprint, num_steps)
    return {**values, "kind": "words", "judge": _RULE, **said}


def captions_at(images: Images, texts: Texts, count: int = MAX_IMAGES) -> list[tuple[str, ...]]:
    """Return the captions of so many images, evenly spread, or of all."""
    count = min(count, len(images))
    numbers = np.arange(count) * len(images) // max(count, 1)
    return [
        own
        for start in range(0, count, _AT_ONCE)
        for own in texts.captions(images, numbers[start : start + _AT_ONCE])
    ]


def is_learned_from(count: int) -> NDArray[np.bool_]:
    """Return which of so many held-out images the judge learns from: every other run of them.

    Runs, since neighbours may be one picture in other colours.
    """
    run = max(1, min(_RUN, count // 8))
    learned: NDArray[np.bool_] = np.arange(count) // run % 2 == 0
    return learned


def train_judge(
    train: Images, test: Images, texts: Texts, *, num_steps: int, device: torch.device
) -> tuple[tuple[str, ...], Classifier]:
    """Return words and their judge; the same each time on the same hardware.

    Half of what it learns from are held-out images, where there are any: `is_learned_from` says
    which. It is to judge also what the training images of a sampler lack, such as pairs of words
    that never stand together there, of which it would else learn that they exclude one another.

    Without two captions that differ there are no words, and the judge has learned nothing.
    """
    words = vocabulary(captions_at(train, texts))
    network = Classifier(train.images(0, 1).shape[1], max(1, len(words))).to(device)
    optimiser = Optimiser(dict(network.named_parameters()), fused=False)
    order, beside = train.windows(_SEED), np.flatnonzero(is_learned_from(len(test)))
    key = seeding.key(_SEED, "features", 2)
    for step in range(num_steps if words else 0):
        numbers = batch_numbers(order, step)
        shown = [(train, numbers[: len(numbers) // 2] if len(beside) else numbers)]
        if len(beside):
            rows = torch.arange(len(numbers) - len(shown[0][1]))
            chosen = seeding.uniform_int(key, step, rows, len(beside)).numpy()
            shown.append((test, beside[chosen]))
        # Contiguous, as the classifier takes them: other memory has other rounding.
        images_u8 = torch.cat([images.take(which) for images, which in shown])
        images_u8 = images_u8.clone(memory_format=torch.contiguous_format)
        captions = [own for images, which in shown for own in texts.captions(images, which)]
        logits = network(images_u8.to(device))
        has = torch.from_numpy(has_words(captions, words)).to(logits)
        functional.binary_cross_entropy_with_logits(logits, has).backward()  # type: ignore[no-untyped-call]
        optimiser.update(classifier.LEARNING_RATE)
    return words, network.eval()


def to_bytes(words: tuple[str, ...], judge: Classifier) -> bytes:
    """Return words and weights as a safetensors file."""
    state = {name: value.cpu() for name, value in judge.state_dict().items()}
    return safetensors.torch.save(state, {"words": canonical_json(list(words)).decode()})


def from_bytes(data: bytes) -> tuple[tuple[str, ...], Classifier]:
    """Return words and network of a file that `to_bytes` made."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    return tuple(json.loads(header["__metadata__"]["words"])), classifier.from_bytes(data)


@torch.inference_mode()
def found_in(judge: Classifier, images_u8: torch.Tensor) -> torch.Tensor:
    """Return which words the judge finds in images (n, c, h, w): more probable than not."""
    found: torch.Tensor = judge(images_u8) > 0
    return found
