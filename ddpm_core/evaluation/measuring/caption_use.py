"""How much a network makes of captions: whose they are, by its own errors, and what one is worth.

Neither needs samples or a judge. Each held-out image is set against its own caption and others that
are drawn by key from those of the held-out images; its noise is to be predicted best with its own.

Source: as of `diffusion.measures.matching` and `classification`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddpm_core import seeding
from ddpm_core.conditioning import Conditioning
from ddpm_core.config import RunConfig, identity
from ddpm_core.diffusion.denoiser import NetworkDenoiser
from ddpm_core.diffusion.measures.classification import class_errors
from ddpm_core.diffusion.measures.matching import match
from ddpm_core.evaluation.measuring.label_use import NUM_TIMES, classifier_times
from ddpm_core.loading.loader import to_unit_range
from ddpm_core.runs.protocol import PROTOCOL_VERSION
from ddpm_core.text.tokens import encode
from ddpm_core.units.ranges import Arrays

NUM_CANDIDATES = 10
"""captions that an image is set against, its own among them"""
MAX_POOL = 2048
"""held-out images among whose captions the others are drawn"""


def candidates(
    own: Sequence[str], pool: Sequence[str], positions: Tensor, *, seed: int
) -> list[list[str]]:
    """Return what each image is set against: its own caption first, then others, all different.

    Args:
        own: (n,) caption of each image.
        pool: captions to draw from; equal ones count once.
        positions: (n,) place of each image in the held-out split, of which its draw is a function.
        seed: of the draws.

    Returns:
        (n, k), k = NUM_CANDIDATES or as many as there are different captions.
    """
    texts = sorted({*pool})
    count = min(NUM_CANDIDATES, len(texts))
    key = seeding.key(seed, "classifier", 1)
    drawn = seeding.uniform(key, 0, positions.cpu(), (len(texts),))
    found = []
    for text, row in zip(own, drawn.argsort(dim=1).tolist(), strict=True):
        others = [texts[at] for at in row if texts[at] != text]
        found.append([text, *others[: count - 1]])
    return found


def matched_part(
    denoiser: NetworkDenoiser,
    images_u8: Tensor,
    captions: Sequence[Sequence[str]],
    positions: Tensor,
    *,
    text_length: int,
    seed: int,
    num_times: int = NUM_TIMES,
) -> Arrays:
    """Return `eps`, (n, k) float64: how badly the noise of each image is predicted by each caption.

    Args:
        denoiser: of a network of texts, on the device of `positions`.
        images_u8: (n, c, h, w).
        captions: (n, k) of each image, its own first.
        positions: (n,) place of each image in the held-out split, of which its noise is a function.
        text_length: tokens of a text.
        seed: of the noise.
        num_times: noise levels at which each image is looked at.
    """
    key, shape = seeding.key(seed, "classifier"), tuple(images_u8.shape[1:])

    def given(column: Sequence[str]) -> NetworkDenoiser:
        text = Conditioning(text=encode(column, text_length))
        return denoiser.given(text.to(positions.device))

    with torch.inference_mode():
        found = class_errors(
            [given(column) for column in zip(*captions, strict=True)],
            to_unit_range(images_u8, positions.device),
            times=classifier_times(denoiser.schedule.num_timesteps, num_times),
            noise=lambda draw: seeding.normal(key, draw, positions, shape),
        )
    return {"eps": found.eps.to("cpu", torch.float64)}


def matching_metric(eps: Tensor, config: RunConfig, weights: dict[str, Any]) -> dict[str, Any]:
    """Return how often the network predicts the noise of an image best with its own caption.

    Args:
        eps: (n, k) of `matched_part`.
        config: the run.
        weights: which weights these are.
    """
    own = torch.zeros_like(eps, dtype=torch.bool)
    own[:, 0] = True
    found, (count, num_candidates) = match(eps, own), eps.shape
    share = float(found.is_first.mean())
    ranks = np.arange(1, num_candidates + 1)
    return {
        "value": share,
        "standard_error": float(np.sqrt(share * (1 - share) / count)),
        "chance": 1 / num_candidates,
        "mean_reciprocal_rank": float(found.reciprocal_rank.mean()),
        "mean_reciprocal_rank_chance": float((1 / ranks).mean()),
        "protocol": {
            "version": PROTOCOL_VERSION,
            **weights,
            "classifier": "least mean squared error of eps, the same noise for all captions, ties "
            "by lot; Li et al. 2023, arXiv:2303.16203, section 3",
            "captions": f"the first of each image, and {num_candidates - 1} others, drawn by key "
            f"from the first {MAX_POOL} held-out images",
            "num_images": count,
            "images": "held out",
            "times": classifier_times(config.diffusion.num_timesteps),
            "text_length": config.model.text_length,
            **identity.counted("diffusion", config.diffusion),
            "seed": config.evaluate.seed,
        },
    }


def numbers_of_captions(captions: Sequence[str]) -> NDArray[np.int64]:
    """Return a number for each caption, equal ones alike: what counts as the label of its worth."""
    numbers = {text: at for at, text in enumerate(dict.fromkeys(captions))}
    return np.array([numbers[text] for text in captions], np.int64)
