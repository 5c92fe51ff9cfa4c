"""What all units found, put together in the order of their images."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ddpm_core.diffusion.likelihood import LikelihoodTerms
from ddpm_core.evaluation.moments import Moments, merge, moments_of
from ddpm_core.evaluation.scores import inception_score
from ddpm_core.store.storage import Store
from ddpm_core.study.neighbours import Memorisation
from ddpm_core.study.units import Found, Kind, Unit, read


@dataclass(frozen=True)
class Findings:
    """The finished units of a study; read from the storage when they are asked for."""

    store: Store
    folder: str
    units: Sequence[Unit]

    def has(self, kind: Kind, part: str) -> bool:
        """Return whether such units were asked for."""
        return any((unit.kind, unit.part) == (kind, part) for unit in self.units)

    def each(self, kind: Kind, part: str) -> Iterator[Found]:
        """Yield what the units of a part found, one in memory at a time."""
        chosen = [unit for unit in self.units if (unit.kind, unit.part) == (kind, part)]
        for unit in sorted(chosen, key=lambda one: one.start):
            yield read(self.store, self.folder, unit)

    def one(self, kind: Kind, part: str) -> Found:
        """Return what the one unit of a part found."""
        (found,) = self.each(kind, part)
        return found

    def rows(self, kind: Kind, part: str, name: str) -> Tensor:
        """Return an array of all units of a part, one below the other."""
        return torch.cat([found[name] for found in self.each(kind, part)])

    def bound(self, split: str) -> LikelihoodTerms:
        """Return the bound of the images of a split."""
        prior, terms, mse = (self.rows("bound", split, name) for name in ("prior", "terms", "mse"))
        return LikelihoodTerms(prior + terms.sum(dim=1), prior, terms, mse)

    def seen(self, kind: Kind, part: str) -> "Seen | None":
        """Return where the images of a part lie among features, and their inception score.

        None if nobody looked at features.
        """
        return seen_of(self.each(kind, part))

    def progress(self) -> list[tuple[int, "Seen"]]:
        """Return (code index, what was seen of x_0_hat there), in the order of the indices.

        Nothing if nobody looked at features.
        """
        if not self.has("progress", "ancestral"):
            return []
        times: list[int] = next(self.each("progress", "ancestral"))["times"].tolist()
        seen = [
            (t, seen_of(_slot(found, place) for found in self.each("progress", "ancestral")))
            for place, t in enumerate(times)
        ]
        return [(t, one) for t, one in seen if one is not None]

    def memorisation(self, space: str) -> Memorisation:
        """Return the distances to the nearest training images."""
        found = self.one("neighbours", space)
        return Memorisation(found["samples"], found["held_out"], float(found["threshold"]))


@dataclass(frozen=True)
class Seen:
    """A set of images as the feature network sees it."""

    moments: Moments
    score: float | None
    """inception score; None if the network has no classes"""


def seen_of(parts: Iterator[Found]) -> Seen | None:
    """Return the moments and the score of parts of one set of images, in their order.

    None if nobody looked at features.
    """
    moments: Moments | None = None
    probabilities = []
    for part in parts:
        if "features" not in part:
            return None
        own = moments_of(part["features"])
        moments = own if moments is None else merge([moments, own])
        if "probabilities" in part:
            probabilities.append(part["probabilities"])
    if moments is None:
        raise ValueError("no units")
    score = inception_score(torch.cat(probabilities)).value if probabilities else None
    return Seen(moments, score)


def _slot(found: Found, place: int) -> Found:
    names = ("features", "probabilities")
    return {name: found[name][place] for name in names if name in found}
