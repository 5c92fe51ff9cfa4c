"""The progress line of a stage: read by people, and by the flow that follows its log.

train  480/2400 steps  loss 0.0312  1520 images/s
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TextIO

from ddpm_core.output import say

_COUNT = r" {2}(?P<done>\d+)/(?P<total>\d+) (?P<unit>[a-z]+)(?: {2}(?P<note>.*?))?\s*$"

WARNING = "warning: "
"""how a log line begins that the flow also shows to the person who started it"""
UNSENT = " did not get "
"""in such a line: what did not reach a server, and what sends it; a flow ends with these lines"""

BEGINS, ENDS = "stage begins: ", "stage ends: "
"""how the lines begin between which a process that runs several stages prints those of one"""


@dataclass(frozen=True)
class Progress:
    """`done` of `total` `unit`s of `stage`; `note` is free text in one line."""

    stage: str
    done: int
    total: int
    unit: str
    note: str = ""

    def __str__(self) -> str:
        line = f"{self.stage}  {self.done}/{self.total} {self.unit}"
        return f"{line}  {self.note}" if self.note else line

    def show(self, stream: TextIO | None = None) -> None:
        """Print the line at once, so that a follower sees it now."""
        say(self, stream=stream)


def parse(line: str, stages: Iterable[str]) -> Progress | None:
    """Return the progress of one of these stages in a log line, whatever stands before it."""
    names = "|".join(map(re.escape, stages))
    found = re.search(rf"\b(?P<stage>{names}){_COUNT}", line)
    if found is None:
        return None
    return Progress(
        found["stage"], int(found["done"]), int(found["total"]), found["unit"], found["note"] or ""
    )
