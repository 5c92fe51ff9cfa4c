"""What one check found."""

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ok", "look", "bad"]


@dataclass(frozen=True)
class Finding:
    """A line of the report."""

    name: str
    """what was looked at, in one or two words"""
    verdict: Verdict
    """fit (ok), possible but slower or less than it could be (look), or in the way of a run (bad)
    """
    said: str
    """what is there, with its numbers"""
    remedy: str = ""
    """what to do about it; not empty unless it is ok"""

    @property
    def line(self) -> str:
        """The finding in one line."""
        remedy = f". {self.remedy}" if self.remedy else ""
        return f"{self.verdict:4} {self.name}: {self.said}{remedy}"


def ok(name: str, said: str) -> Finding:
    """Return the finding of what is fit."""
    return Finding(name, "ok", said)


def look(name: str, said: str, remedy: str) -> Finding:
    """Return the finding of what could be better."""
    return Finding(name, "look", said, remedy)


def bad(name: str, said: str, remedy: str) -> Finding:
    """Return the finding of what ends a run."""
    return Finding(name, "bad", said, remedy)
