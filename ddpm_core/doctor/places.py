"""Where a run would lie: that it can be written and read back, and how much room there is."""

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from ddpm_core.canonical import fingerprint
from ddpm_core.doctor.finding import Finding, bad, look, ok
from ddpm_core.errors import PipelineError
from ddpm_core.store.storage import KeyMissingError, Store

_PROBE_BYTES = 2**20
_GIB = 2**30
_GOOD_ROOM = 5 * _GIB
_SLOW_S = 5.0


def examined(store: Store) -> Iterator[Finding]:
    """Yield what was found of a root; an object is written there, read, and deleted."""
    try:
        seconds = _there_and_back(store)
    except PipelineError as error:
        yield bad("root", f"{store.uri} cannot be used", str(error))
        return
    said = f"{store.uri}: {_PROBE_BYTES / 2**20:g} MiB written and read back in {seconds:.2f} s"
    if seconds < _SLOW_S:
        yield ok("root", said)
    else:
        remedy = "Checkpoints are written there all the time: choose a nearer or faster one"
        yield look("root", said, remedy)
    folder = store.local_path("probe")
    if folder is not None:
        yield _room(folder.parent)


def _there_and_back(store: Store) -> float:
    """Return the seconds; raises PipelineError as the storage does."""
    key = f"doctor-{fingerprint({'pid': os.getpid(), 'time': time.time_ns()})[:16]}"
    data = os.urandom(_PROBE_BYTES)
    begin = time.perf_counter()
    try:
        store.write(key, data)
        same = store.read(key) == data
    except KeyMissingError:
        same = False
    finally:
        store.delete(key)
    if not same:
        raise PipelineError(f"{store.uri} gave back other bytes than were written; do not use it")
    return time.perf_counter() - begin


def _room(folder: Path) -> Finding:
    usage = shutil.disk_usage(folder)
    said = f"{usage.free / _GIB:.1f} GiB free of {usage.total / _GIB:.0f}"
    if usage.free >= _GOOD_ROOM:
        return ok("disk", said)
    return look(
        "disk",
        said,
        "--dry-run of a recipe says what it writes; three checkpoints of cifar10 are 1.7 GB",
    )
