"""What a check has looked at, and what it found wrong, unfinished or unnamed."""

from collections.abc import Callable
from dataclasses import dataclass, field

from ddpm_core.errors import CheckpointError, DataError
from ddpm_core.store.manifest import DamagedError
from ddpm_core.store.storage import Store

MARKS = ("retired", "quarantined.json")
"""files that mark a folder, and that no manifest names"""


@dataclass
class Report:
    """What was looked at, and what is wrong."""

    looked_at: list[str] = field(default_factory=list)
    """a line for each thing that is whole"""
    unfinished: list[str] = field(default_factory=list)
    """folders whose manifest is not there, or set aside: nothing is published of them"""
    problems: list[str] = field(default_factory=list)
    unnamed: list[str] = field(default_factory=list)
    """files that nothing names: of attempts that were killed, or of other programs"""

    def check(self, look: Callable[[], None]) -> bool:
        """Call `look`, and keep what it raises; return whether all was well."""
        try:
            look()
        except (DamagedError, DataError, CheckpointError) as error:
            self.problems.append(str(error))
            return False
        return True


def unnamed_in(store: Store, folder: str, named: set[str]) -> list[str]:
    """Return the files of a folder that nothing names."""
    return [
        store.uri_of(f"{folder}/{name}")
        for name in store.names(folder)
        if name not in named and name not in MARKS and not name.endswith(".quarantined.json")
    ]
