"""A reference to weights, as text: RUN@STEP:AVERAGE. What it names is looked up in runs/reference.

@400              the checkpoint after 400 steps, of the run itself
digits@newest     the newest one of the run `digits`, which may still be trained
digits            its last one, after all steps
:raw              the weights as they were trained, not their moving average
digits@400:ema#3f2a90c1    pinned: refused if it names other bytes than these
"""

import re
from dataclasses import dataclass
from typing import Literal, Self

EMA, RAW = "ema", "raw"
"""the one average that every training keeps, and the weights that it is of"""
NEWEST: Literal["newest"] = "newest"
PINNED = 16
"""hex digits of a SHA-256 in a pinned reference"""
_PATTERN = re.compile(
    r"(?P<run>[0-9a-z][0-9a-z._-]{0,62})?"
    r"(?:@(?P<step>newest|[0-9]{1,10}))?"
    r"(?::(?P<average>[a-z][a-z0-9_]{0,39}))?"
    r"(?:#(?P<sha256>[0-9a-f]{8,64}))?"
)


@dataclass(frozen=True)
class ModelRef:
    """Which weights are meant."""

    run: str | None = None
    """name of the run that trained them; None: the run that the reference stands in"""
    step: int | Literal["newest"] | None = None
    """None: the last of the training"""
    average: str = EMA
    sha256: str | None = None
    """how the SHA-256 of their file begins; None: whatever lies there"""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a reference.

        Raises:
            ValueError: it is none.
        """
        found = _PATTERN.fullmatch(text)
        if found is None or not text:
            raise ValueError(
                f"model={text[:200]!r} names no weights; write RUN@STEP:AVERAGE, each part "
                "of which may be left out, e.g. @400, digits@newest or digits@400:raw"
            )
        step = found["step"]
        return cls(
            found["run"],
            step if step is None or step == NEWEST else int(step),
            found["average"] or EMA,
            found["sha256"],
        )

    def __str__(self) -> str:
        step = "" if self.step is None else f"@{self.step}"
        sha256 = "" if self.sha256 is None else f"#{self.sha256}"
        return f"{self.run or ''}{step}:{self.average}{sha256}"
