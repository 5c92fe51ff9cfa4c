"""How often a classifier of noised images is right, by how noisy they are.

CLIP is one whose classes are captions: those of the held-out images, equal ones once. So its
accuracy is how often an image finds its own caption among all of them (recall at 1).

Source: Dhariwal and Nichol 2021, arXiv:2105.05233, section 4: what a classifier guides by it must
tell at every noise of the process; Radford et al. 2021, arXiv:2103.00020, section 3.1.2: captions
as classes.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddpm_core import seeding
from ddpm_core.config import RunConfig, identity
from ddpm_core.diffusion.paths.schedule import NoiseSchedule
from ddpm_core.diffusion.process import q_sample
from ddpm_core.diffusion.wrappers.classifier_guidance import Classifier
from ddpm_core.evaluation.measuring.label_use import classifier_times
from ddpm_core.loading.loader import to_unit_range
from ddpm_core.runs.protocol import PROTOCOL_VERSION
from ddpm_core.units.ranges import Arrays

_OF_CAPTIONS = {"clip": {"classes": "the captions of these images, equal ones once"}}
"""what the protocol says of classes that the data set does not name"""


def accuracy_part(
    classifier: Classifier,
    schedule: NoiseSchedule,
    images: Tensor,
    labels: Tensor,
    positions: Tensor,
    *,
    seed: int,
) -> Arrays:
    """Return what a classifier makes of noised images, at each of `classifier_times`.

    `is_right` (n, k) uint8, and `nats` (n, k) float64: -log p(label | x_t).

    Args:
        classifier: on the device of `positions`.
        schedule: of the noise.
        images: (n, c, h, w) uint8 or uint16.
        labels: (n,) int64, on the device of `positions`.
        positions: (n,) place of each image in the held-out split, of which its noise is a function.
        seed: of the noise.
    """
    key, shape = seeding.key(seed, "classifier"), tuple(images.shape[1:])
    x_0 = to_unit_range(images, positions.device)
    is_right, nats = [], []
    with torch.inference_mode():
        for draw, time in enumerate(classifier_times(schedule.num_timesteps)):
            t = torch.full_like(positions, time)
            x_t = q_sample(schedule, x_0, t, seeding.normal(key, draw, positions, shape))
            log_p = classifier.network(x_t, t).double().log_softmax(dim=1)
            is_right.append(log_p.argmax(dim=1) == labels)
            nats.append(-log_p.gather(1, labels[:, None])[:, 0])
    return {
        "is_right": torch.stack(is_right, dim=1).to("cpu", torch.uint8),
        "nats": torch.stack(nats, dim=1).to("cpu", torch.float64),
    }


def accuracy_metric(
    is_right: NDArray[np.uint8],
    nats: NDArray[np.float64],
    config: RunConfig,
    weights: dict[str, Any],
    *,
    class_counts: NDArray[np.int64],
) -> dict[str, Any]:
    """Return how many noised held-out images a classifier has right, and at which noise.

    Args:
        is_right: (n, k), of each image at each time.
        nats: (n, k), their cross entropy.
        config: the run.
        weights: which weights these are.
        class_counts: held-out images of each class, of which guessing has the commonest right.
    """
    of_image, times = is_right.mean(axis=1), classifier_times(config.diffusion.num_timesteps)
    count = len(of_image)
    return {
        "value": float(of_image.mean()),
        # Over the images; each has one noise at each time.
        "standard_error": float(of_image.std(ddof=1) / np.sqrt(count)) if count > 1 else None,
        "chance": float(class_counts.max() / class_counts.sum()),
        "cross_entropy": float(nats.mean()),
        "by_noise": [
            {"t": t, "value": float(right), "cross_entropy": float(entropy)}
            for t, right, entropy in zip(
                times, is_right.mean(axis=0), nats.mean(axis=0), strict=True
            )
        ],
        "protocol": {
            "version": PROTOCOL_VERSION,
            **weights,
            "images": "held out, with the noise of each time",
            "num_images": count,
            "num_classes": len(class_counts),
            **_OF_CAPTIONS.get(config.role, {}),
            "times": times,
            "chance": "the commonest class of these images",
            "cross_entropy": "nats",
            **identity.counted("diffusion", config.diffusion),
            "seed": config.evaluate.seed,
        },
    }
