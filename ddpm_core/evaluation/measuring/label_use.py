"""How much a network makes of labels: the classes that it tells apart, and what one is worth.

Neither needs samples or a judge: images are classified by the label with which their noise is
predicted best, and the worth is the bits that an image costs less once its label is known.

Source: as of `diffusion.measures.classification`.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddpm_core import seeding
from ddpm_core.conditioning import Conditioning
from ddpm_core.config import RunConfig, identity
from ddpm_core.diffusion.denoiser import NetworkDenoiser
from ddpm_core.diffusion.measures.classification import class_errors, label_worth
from ddpm_core.loading.loader import to_unit_range
from ddpm_core.runs.protocol import PROTOCOL_VERSION
from ddpm_core.units.ranges import Arrays

NUM_TIMES = 20
"""noise levels at which each image is looked at; of 150 digits 10 classify 95.3 to 98.7 %, by which
levels they are, 20 97.3 to 98.7 %, 40 98.0 to 98.7 %, 80 99.3 %"""


def classifier_times(num_timesteps: int, num_times: int = NUM_TIMES) -> list[int]:
    """Return the code indices at which images are classified: the middles of equal parts."""
    count = min(num_times, num_timesteps)
    return [(2 * part + 1) * num_timesteps // (2 * count) for part in range(count)]


def classified_part(
    denoiser: NetworkDenoiser,
    images_u8: Tensor,
    positions: Tensor,
    *,
    num_classes: int,
    seed: int,
    num_times: int = NUM_TIMES,
) -> Arrays:
    """Return `eps`, (n, k) float64: how badly the noise of each image is predicted by each class.

    Args:
        denoiser: of a network of labels, on the device of `positions`.
        images_u8: (n, c, h, w).
        positions: (n,) place of each image in the held-out split, of which its noise is a function.
        num_classes: k.
        seed: of the noise.
        num_times: noise levels at which each image is looked at.
    """
    key, shape = seeding.key(seed, "classifier"), tuple(images_u8.shape[1:])
    labels = torch.arange(num_classes, device=positions.device)[:, None]
    with torch.inference_mode():
        found = class_errors(
            [denoiser.given(Conditioning(label=label)) for label in labels],
            to_unit_range(images_u8, positions.device),
            times=classifier_times(denoiser.schedule.num_timesteps, num_times),
            noise=lambda draw: seeding.normal(key, draw, positions, shape),
        )
    return {"eps": found.eps.to("cpu", torch.float64)}


def classifier_metric(
    is_right: NDArray[np.bool_], config: RunConfig, weights: dict[str, Any], *, num_classes: int
) -> dict[str, Any]:
    """Return how many held-out images the network classifies right.

    Args:
        is_right: (n,) of each image.
        config: the run.
        weights: which weights these are.
        num_classes: of the data set.
    """
    count, share = len(is_right), float(is_right.mean())
    return {
        "value": share,
        "standard_error": float(np.sqrt(share * (1 - share) / count)),
        "chance": 1 / num_classes,
        "protocol": {
            "version": PROTOCOL_VERSION,
            **weights,
            "classifier": "least mean squared error of eps, the same noise for all classes; "
            "Li et al. 2023, arXiv:2303.16203, eq. 7",
            "num_classes": num_classes,
            "num_images": count,
            "images": "held out",
            "times": classifier_times(config.diffusion.num_timesteps),
            **identity.counted("diffusion", config.diffusion),
            "seed": config.evaluate.seed,
        },
    }


def worth_metric(
    unlabelled: NDArray[np.float64],
    labelled: NDArray[np.float64],
    labels: NDArray[np.int64],
    config: RunConfig,
    weights: dict[str, Any],
    *,
    what: str = "label",
) -> dict[str, Any] | None:
    """Return bits(x) - bits(x | c), in bits an image; None of fewer than two images.

    Args:
        unlabelled: (n,) bits/dim of held-out images of which nothing is said.
        labelled: (n,) of the same, with the same noise, each given its label.
        labels: (n,) theirs.
        config: the run.
        weights: which weights these are.
        what: a label, or a caption, of which equal ones have equal `labels`.
    """
    dropout = f"{'text' if what == 'caption' else 'label'}_dropout"
    if len(labels) < 2:
        return None
    num_dims = int(np.prod(config.data.shape))
    without, given = torch.from_numpy(unlabelled), torch.from_numpy(labelled)
    worth = label_worth(without, given, num_dims, torch.from_numpy(labels))
    excess = worth.bits - worth.entropy
    return {
        "value": worth.bits,
        "standard_error": worth.standard_error,
        "entropy": worth.entropy,
        "bits_per_dim": {
            f"without_{what}": float(unlabelled.mean()),
            f"with_{what}": float(labelled.mean()),
        },
        "protocol": {
            "version": PROTOCOL_VERSION,
            **weights,
            "unit": f"bits an image: (bits/dim without its {what} - with it) x dimensions",
            "bound": "both are those of bits_per_dim, with the same noise",
            "entropy": f"of the {what}s of these images: no {what} is worth more to a network that "
            "knows the images without it",
            "num_images": len(labels),
            dropout: getattr(config.train, dropout),
            **identity.counted("diffusion", config.diffusion),
            "seed": config.evaluate.seed,
            "warnings": [
                f"{excess:.1f} bits above the entropy of a {what}: that much the network without "
                f"{what}s is worse than it could be; train for longer, or raise train.{dropout}"
            ]
            if excess > 2 * worth.standard_error
            else [],
        },
    }
