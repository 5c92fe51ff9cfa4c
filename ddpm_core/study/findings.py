"""Results of all units, joined in the order of their images."""

from collections.abc import Iterator
from itertools import chain

from ddpm_core.diffusion.measures.likelihood import LikelihoodTerms
from ddpm_core.evaluation.numbers.seen import Seen, seen_of
from ddpm_core.study.neighbours import Memorisation
from ddpm_core.study.units import Kind
from ddpm_core.units import ranges
from ddpm_core.units.ranges import Arrays


class Findings(ranges.Findings[Kind]):
    """The finished units of a study; read from the storage on access."""

    def bound(self, split: str) -> LikelihoodTerms:
        """Return the bound of the images of a split."""
        prior, terms, mse = (self.rows("bound", split, name) for name in ("prior", "terms", "mse"))
        return LikelihoodTerms(prior + terms.sum(dim=1), prior, terms, mse)

    def seen(self, kind: Kind, part: str) -> Seen | None:
        """Return where the images of a part lie among features, and their inception score.

        None without features.
        """
        return _seen_of(self.each(kind, part))

    def progress(self) -> list[tuple[int, Seen]]:
        """Return (code index, what was seen of x_0_hat there), in the order of the indices.

        Nothing without features.
        """
        if not self.has("progress", "ancestral"):
            return []
        times: list[int] = next(self.each("progress", "ancestral"))["times"].tolist()
        seen = [
            (t, _seen_of(_slot(found, place) for found in self.each("progress", "ancestral")))
            for place, t in enumerate(times)
        ]
        return [(t, one) for t, one in seen if one is not None]

    def memorisation(self, space: str) -> Memorisation:
        """Return the distances to the nearest training images."""
        found = self.one("neighbours", space)
        return Memorisation(found["samples"], found["held_out"], float(found["threshold"]))


def _seen_of(parts: Iterator[Arrays]) -> Seen | None:
    for first in parts:
        return seen_of(chain([first], parts)) if "features" in first else None
    raise ValueError("no units")


def _slot(found: Arrays, place: int) -> Arrays:
    names = ("features", "probabilities")
    return {name: found[name][place] for name in names if name in found}
