"""One training of a run at a time: a lease that says who trains, and ends with its holder.

    runs/<run>/train.lease.json    {"beat": 7, "host": ..., "pid": ..., "since": ..., "token": ...}

Two trainings of one run at once write the same weights, but they cost twice, and it shows nowhere;
with another `train.log_every` their curves differ, and one of them ends in a conflict. So the
second is refused while the first is alive. A holder on this machine is alive while its process is;
one elsewhere while its lease beats: clocks of two machines are not compared. What a killed holder
left is taken over, at once here, after `SILENCE_S` elsewhere.
"""

import json
import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime

from ddpm_core.canonical import canonical_json
from ddpm_core.errors import RunConflictError, StorageError
from ddpm_core.progress import WARNING
from ddpm_core.runs import layout
from ddpm_core.runs.process import Process, this_process
from ddpm_core.store.storage import KeyMissingError, Store

BEAT_S = 5.0
SILENCE_S = 20.0
"""how long a lease of another machine is watched for a beat"""
_MAX_BYTES = 4096

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Holder(Process):
    """A process that holds the lease."""

    since: str
    """UTC, for people"""
    token: str
    beat: int = 0


@contextmanager
def held(
    store: Store, run: str, *, sleep: Callable[[float], None] = time.sleep
) -> Iterator[Holder]:
    """Hold the lease of a run's training while the block runs.

    Args:
        store: the root.
        run: name of the run.
        sleep: waits; a test's own.

    Raises:
        RunConflictError: a live process trains this run.
        StorageError: the storage does not answer.
    """
    key = lease_key(run)
    mine = _new_holder()
    _acquire(store, key, mine, sleep)
    ended = threading.Event()
    beats = threading.Thread(
        target=_beat, args=(store, key, mine, ended), name=f"lease-{run}", daemon=True
    )
    beats.start()
    try:
        yield mine
    finally:
        ended.set()
        beats.join()
        _release(store, key, mine)


def lease_key(run: str) -> str:
    """Return the key of the lease of a run's training."""
    return f"{layout.run_folder(run)}/train.lease.json"


def _acquire(store: Store, key: str, mine: Holder, sleep: Callable[[float], None]) -> None:
    for _ in range(2):
        try:
            store.create(key, _bytes_of(mine))
        except RunConflictError:
            other = _read(store, key)
            if other is not None and _is_alive(store, key, other, sleep):
                raise RunConflictError(_refusal(store, key, other)) from None
            _log.warning("%staking over %s of a training that ended", WARNING, store.uri_of(key))
            store.delete(key)
        else:
            return
    other = _read(store, key)
    raise RunConflictError(_refusal(store, key, other if other is not None else mine))


def _is_alive(store: Store, key: str, other: Holder, sleep: Callable[[float], None]) -> bool:
    if other.is_here:
        return other.is_running
    _log.warning(
        "%s%s is of host %s: watching it for %.0f s",
        WARNING, store.uri_of(key), other.host, SILENCE_S,
    )  # fmt: skip
    sleep(SILENCE_S)
    return _read(store, key) not in (other, None)


def _refusal(store: Store, key: str, other: Holder) -> str:
    return (
        f"this run is being trained by process {other.pid} on host {other.host}, since "
        f"{other.since} ({store.uri_of(key)}); wait for it, stop it, or give this one another name "
        "(--run NAME)"
    )


def _beat(store: Store, key: str, mine: Holder, ended: threading.Event) -> None:
    beat = 0
    while not ended.wait(BEAT_S):
        beat += 1
        try:
            found = _read(store, key)
            if found is not None and found.token == mine.token:
                store.write(key, _bytes_of(replace(mine, beat=beat)))
        except StorageError as error:
            # The training itself ends if the storage stays away.
            _log.warning("the lease %s has missed a beat: %s", store.uri_of(key), error)


def _release(store: Store, key: str, mine: Holder) -> None:
    try:
        found = _read(store, key)
        if found is not None and found.token == mine.token:
            store.delete(key)
    except StorageError as error:
        _log.warning("the lease %s is left behind: %s", store.uri_of(key), error)


def _read(store: Store, key: str) -> Holder | None:
    """Return the holder; None where there is no lease, or something else lies there."""
    try:
        return Holder(**json.loads(store.read(key, at_most=_MAX_BYTES)))
    except (KeyMissingError, ValueError, TypeError):
        return None


def _bytes_of(holder: Holder) -> bytes:
    return canonical_json(asdict(holder))


def _new_holder() -> Holder:
    return Holder(
        **asdict(this_process()),
        since=datetime.now(UTC).isoformat(timespec="seconds"),
        token=uuid.uuid4().hex,
    )
