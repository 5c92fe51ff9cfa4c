"""What is measured of each class: bits/dim of its images, and whether its samples are of it.

The judge is the classifier of the features: trained on the training images alone, the same for
every run on the data set, and no part of what drew the samples. Its own accuracy on held-out images
stands beside: samples cannot be expected to be judged right more often.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddpm_core.config import RunConfig, identity
from ddpm_core.runs.protocol import PROTOCOL_VERSION
from ddpm_core.sampling.sampler import describe

Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Judged:
    """Images with the class that they are of, and the one that the judge finds most probable."""

    labels: Labels
    """(n,)"""
    found: Labels
    """(n,)"""

    def share(self, label: int | None = None) -> float | None:
        """Return the share that is judged right, of one class or of all; None of no images."""
        mine = self.labels >= 0 if label is None else self.labels == label
        return float((self.found == self.labels)[mine].mean()) if mine.any() else None


def judge_metric(
    samples: Judged,
    held_out: Judged,
    config: RunConfig,
    weights: dict[str, Any],
    *,
    network: dict[str, Any],
    num_classes: int,
) -> dict[str, Any]:
    """Return how often a sample is judged to be of the class that it was drawn of.

    Args:
        samples: those of the run.
        held_out: held-out images.
        config: the run.
        weights: which weights made the samples.
        network: what to say of the judge.
        num_classes: of the data set.
    """
    return {
        "value": samples.share(),
        "held_out": held_out.share(),
        "chance": 1 / num_classes,
        "protocol": {
            "version": PROTOCOL_VERSION,
            **weights,
            "judge": network,
            "num_classes": num_classes,
            "num_images": {"samples": len(samples.labels), "test": len(held_out.labels)},
            **identity.counted("diffusion", config.diffusion),
            **describe(
                config.sample,
                config.diffusion.num_timesteps,
                num_classes=num_classes,
                takes_text=config.model.uses_text,
                enlarges=config.model.low_size is not None,
            ),
        },
    }


def class_rows(
    names: Sequence[str],
    bits: NDArray[np.float64],
    bits_labels: Labels,
    judged: tuple[Judged, Judged] | None,
    *,
    saved: NDArray[np.float64] | None = None,
    classified: Judged | None = None,
) -> list[dict[str, Any]]:
    """Return what was measured of each class, as JSON values.

    Args:
        names: of the classes, by label.
        bits: (n,) bits/dim of held-out images, each given its label.
        bits_labels: (n,) their labels.
        judged: the samples and the held-out images; None where there is no judge.
        saved: (n,) bits that each image costs less given its label; None: not measured.
        classified: held-out images as the network itself classifies them; None: not measured.
    """
    rows = []
    for label, name in enumerate(names):
        mine = bits[bits_labels == label]
        row: dict[str, Any] = {
            "label": label,
            "class": name,
            "bits_per_dim": float(mine.mean()) if len(mine) else None,
            "num_likelihood_images": len(mine),
        }
        if saved is not None:
            row["label_worth"] = float(saved[bits_labels == label].mean()) if len(mine) else None
        if classified is not None:
            row |= {
                "classified_right": classified.share(label),
                "num_classified_images": int((classified.labels == label).sum()),
            }
        if judged is not None:
            samples, held_out = judged
            row |= {
                "judged_right": samples.share(label),
                "num_samples": int((samples.labels == label).sum()),
                "held_out_judged_right": held_out.share(label),
            }
        rows.append(row)
    return rows
