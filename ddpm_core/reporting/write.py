"""Write the page of runs, or make it for another place."""

from collections.abc import Sequence
from pathlib import Path

from ddpm_core.config import RunConfig
from ddpm_core.errors import StorageError
from ddpm_core.reporting.gathered import gather
from ddpm_core.reporting.report import report_of
from ddpm_core.store.storage import Store


def page_of(store: Store, config: RunConfig) -> bytes:
    """Return the page of a run as it stands now, in UTF-8."""
    return report_of([gather(store, config)]).encode()


def write_report(runs: Sequence[tuple[Store, RunConfig]], file: Path) -> None:
    """Write the page of runs, over an earlier one.

    Raises:
        StorageError: the file cannot be written.
    """
    content = report_of([gather(store, config) for store, config in runs]).encode()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    except OSError as error:
        raise StorageError(f"cannot write {file}: {error.strerror or error}") from None
