"""What the pages show: blocks of code, by language, with the reason where one is not run."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
MARK = re.compile(r"<!-- not run: (\S.*) -->")


@dataclass(frozen=True)
class Block:
    """Lines that a page shows as code."""

    page: str
    line: int
    """of its first line, from 1"""
    language: str
    """of its fence; empty: none, or the block is indented"""
    text: str
    reason: str | None
    """why it is not run, as `<!-- not run: REASON -->` above it says"""
    is_output: bool = False
    """of the block before it, as `<!-- output -->` above it says"""

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[str]:
    """Return the pages that speak to users, as paths from the root."""
    top = ["README.md", "CONTRIBUTING.md", "infra/README.md"]
    made = {"docs/map.md"}  # of docstrings
    found = (str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").glob("*.md")))
    return [*top, *(page for page in found if page not in made)]


def blocks(page: str, text: str) -> Iterator[Block]:
    """Yield the fenced blocks, and those that are indented by four after an empty line."""
    lines = text.splitlines()
    number, reason, is_output, in_list = 0, None, False, False
    while number < len(lines):
        line = lines[number]
        if line.startswith("```"):
            end = next(i for i in range(number + 1, len(lines)) if lines[i].startswith("```"))
            body = lines[number + 1 : end]
            language = line.strip("`").split(" ")[0]
            yield Block(page, number + 2, language, "\n".join(body), reason, is_output)
            number, reason, is_output = end, None, False
        elif line.startswith("    ") and not in_list:
            end = number
            while end < len(lines) and (lines[end].startswith("    ") or not lines[end].strip()):
                end += 1
            body = [one[4:] for one in lines[number:end]]
            yield Block(page, number + 1, "", "\n".join(body).rstrip(), reason)
            number, reason = end - 1, None
        elif line.strip():
            mark = MARK.fullmatch(line.strip())
            reason = mark[1] if mark else None
            is_output = line.strip() == "<!-- output -->"
            in_list = bool(re.match(r"([-*]|\d+\.) ", line)) or (in_list and line[0] == " ")
        number += 1


def spans(text: str) -> Iterator[str]:
    """Yield the commands of this project in running text; one with … or ... stands for others."""
    for span in re.findall(r"`((?:python -m |make |ddpm )[^`]*)`", re.sub(r"\n(?=\S)", " ", text)):
        if "…" not in span and "..." not in span:
            yield span
