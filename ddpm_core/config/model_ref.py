"""A reference to weights, as text: RUN@STEP:AVERAGE. What it names is looked up in runs/reference.

@400              the checkpoint after 400 steps, of the run itself
digits@newest     the newest one of the run `digits`, which may still be trained
digits            its last one, after all steps
:raw              the weights as they were trained, not their moving average
digits:ema_999    another average: of train.ema_decays=[0.999]
digits:power_12   that of the power function of sigma_rel 0.12, tracked or made afterwards
digits@400:ema#3f2a90c1    pinned: refused if it names other bytes than these
"""

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal, Self

EMA, RAW = "ema", "raw"
"""the one average that every training keeps, and the weights that it is of"""
NEWEST: Literal["newest"] = "newest"
_EMA, _POWER = "ema_", "power_"
NARROWEST, WIDEST = 0.01, 0.28
"""sigma_rel of the power functions that there are"""
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


def ema_name(decay: float) -> str:
    """Return what the average of another decay than `ema` is called: ema_999 of 0.999."""
    return _EMA + _digits(decay)


def power_name(sigma_rel: float) -> str:
    """Return what the average of a power function is called: power_12 of sigma_rel 0.12."""
    return _POWER + _digits(sigma_rel)


def sigma_rel_in(average: str) -> float | None:
    """Return the sigma_rel in the name of a power function's average; None of any other.

    What `power_name` calls nothing is none: power_050, or power_0, of which there is no function.
    """
    digits = average.removeprefix(_POWER)
    if average == digits or not digits.isdecimal():
        return None
    sigma_rel = float(f"0.{digits}")
    is_one = NARROWEST <= sigma_rel <= WIDEST and power_name(sigma_rel) == average
    return sigma_rel if is_one else None


def _digits(value: float) -> str:
    """Return the digits after the point of a number in (0, 1)."""
    return f"{Decimal(repr(value)):f}".removeprefix("0.")
