"""A reference to data sets below the root, as text. What it names is looked up in runs/named_data.

faces                        the data set of that name, as it is now
faces@3f2a90c1d2e4b6a8       pinned: the one whose fingerprint begins so, however faces grew since
digits-3f2a90c1d2e4b6a8      one that has no name, by its folder
faces:0.7,flowers:0.3        two, of which 7 and 3 of 10 images are drawn
"""

import math
import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Self

from pydantic import Field, model_validator

from ddpm_core.config.section import Section

PINNED = 16
"""hex digits of a fingerprint in a pinned reference: as many as end a data set's folder"""
_NAME = r"[0-9a-z][0-9a-z._-]{0,62}"
_DIGITS = r"[0-9a-f]{8,64}"
_FOLDER = re.compile(rf".+-[0-9a-f]{{{PINNED}}}")
_WEIGHT = r"[0-9.eE+-]{1,32}"
_DECIMAL = re.compile(_WEIGHT)
_PATTERN = re.compile(rf"({_NAME})(?:@({_DIGITS}))?")
_ITEM = rf" *{_NAME}(@{_DIGITS})?(:{_WEIGHT})? *"
SETS_PATTERN = rf"^{_ITEM}(,{_ITEM})*$"
"""of the text, for forms: what it takes may still be refused, for its weights"""


class DataRef(Section):
    """One data set."""

    name: str = Field(pattern=rf"^{_NAME}$")
    """that was given to it, or its folder's"""
    fingerprint: str | None = Field(None, pattern=rf"^{_DIGITS}$")
    """how its fingerprint begins; None: whatever has the name"""
    weight: float | None = Field(None, gt=0)
    """how often its images are drawn, beside the others' weights; None: not given"""

    def __str__(self) -> str:
        fingerprint = "" if self.fingerprint is None else f"@{self.fingerprint}"
        weight = "" if self.weight is None else f":{self.weight!r}".removesuffix(".0")
        return f"{self.name}{fingerprint}{weight}"

    @property
    def unweighted(self) -> Self:
        """The same without its weight."""
        return self.model_copy(update={"weight": None})


class DataSets(Section):
    """Which data sets a run is trained on, in the order in which they are given."""

    refs: tuple[DataRef, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _go_together(self) -> Self:
        _require_together(self.refs)
        return self

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what `str` writes.

        Raises:
            ValueError: it names no data sets.
        """
        refs = tuple(_parsed(item.strip()) for item in text.split(","))
        _require_together(refs)  # here too: what a model raises is many lines
        return cls(refs=refs)

    def __str__(self) -> str:
        return ",".join(map(str, self.refs))

    @property
    def only(self) -> DataRef | None:
        """The one data set; None: there are several."""
        return self.refs[0] if len(self.refs) == 1 else None

    @property
    def is_pinned(self) -> bool:
        """Whether each is named by its fingerprint too."""
        return all(ref.fingerprint is not None for ref in self.refs)

    @property
    def counted(self) -> list[list[str | None]]:
        """What a fingerprint counts of them: which they are, and the share of each as a fraction.

        [] of one data set, which is what its images are.
        """
        if self.only is not None:
            return []
        # As they were written: 0.7 is 7/10, and no float is.
        weights = [None if ref.weight is None else Fraction(str(ref.weight)) for ref in self.refs]
        total = sum(weight for weight in weights if weight is not None)
        return [
            [ref.fingerprint or ref.name, None if weight is None else str(weight / total)]
            for ref, weight in zip(self.refs, weights, strict=True)
        ]

    def is_met_by(self, pinned: "DataSets") -> bool:
        """Say whether `pinned` may be what this named when it was given."""
        pairs = list(zip(self.refs, pinned.refs, strict=False))
        return len(self.refs) == len(pinned.refs) and all(
            (ours.name, ours.weight) == (theirs.name, theirs.weight)
            and (theirs.fingerprint or "").startswith(ours.fingerprint or "")
            for ours, theirs in pairs
        )


def is_folder_name(name: str) -> bool:
    """Say whether a name is of the form that data sets' folders have, and no name to be given."""
    return _FOLDER.fullmatch(name) is not None


def _require_together(refs: Sequence[DataRef]) -> None:
    names = [ref.name for ref in refs]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"names {twice!r} twice; name each data set once, with one weight")
    if len({ref.weight is None for ref in refs}) > 1:
        bare = next(ref for ref in refs if ref.weight is None)
        raise ValueError(f"gives {bare} no weight and others one; give each one, or none")


def _parsed(item: str) -> DataRef:
    named, colon, weight = item.partition(":")
    found = _PATTERN.fullmatch(named)
    if found is None:
        given = f"has {item[:200]!r}, which names" if item else "has an empty item, which names"
        raise ValueError(
            f"{given} no data set; write NAME of a-z, 0-9, dot, dash and underscore, NAME@ and at "
            "least 8 digits of its fingerprint, or several as in faces:0.7,flowers:0.3"
        )
    number = _number(weight) if colon else None
    if colon and (number is None or not 0 < number < math.inf):
        raise ValueError(f"has {item[:200]!r}, whose weight must be a number above 0, e.g. 0.7")
    return DataRef(name=found[1], fingerprint=found[2], weight=number)


def _number(text: str) -> float | None:
    """Return a decimal number; what Python reads beside that (nan, 1_0) is none."""
    try:
        return float(text) if _DECIMAL.fullmatch(text) else None
    except ValueError:
        return None
