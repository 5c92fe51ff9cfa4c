"""A store of the imagination: actors take turns at its calls, and a seed says what breaks.

The actors are threads that run the real functions of `ddpm_core.store.manifest`, one at a time:
each call to the store is a point where another may go on instead, where the caller may be killed,
where a call may fail before it is done, or be done and its reply be lost.
"""

import hashlib
import json
import random
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from ddpm_core.errors import StorageError
from ddpm_core.store.store import KeyMissingError, Store, require_equal

T = TypeVar("T")

KILLED, FAILED, REPLY_LOST, LISTED_TWICE = 0.004, 0.03, 0.03, 0.1


class KillError(BaseException):
    """kill -9: no `except` of the code under test may see it, and none of its `finally` acts."""


class Turns:
    """Lets one of several threads run at a time; the seed alone decides which."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)  # noqa: S311 - a schedule, not a secret
        self.problem: BaseException | None = None
        self._live: list[int] = []
        self._batons: list[threading.Lock] = []  # held = not your turn
        self._me = threading.local()

    def play(self, actors: Sequence[Callable[[], None]]) -> None:
        """Run all actors to their end; raise what an invariant found."""
        self._live = list(range(len(actors)))
        self._batons = [threading.Lock() for _ in actors]
        for baton in self._batons:
            baton.acquire()
        threads = [
            threading.Thread(target=self._run, args=(number, actor), daemon=True)
            for number, actor in enumerate(actors)
        ]
        for thread in threads:
            thread.start()
        self._batons[self.random.choice(self._live)].release()
        for thread in threads:
            thread.join()
        if self.problem is not None:
            raise self.problem

    def next(self) -> None:
        """Called by the running actor: perhaps another goes on, perhaps this one dies."""
        chosen = self.random.choice(self._live)
        if chosen != self._me.number:
            self._batons[chosen].release()
            self._batons[self._me.number].acquire()
        if self.problem is not None or self.random.random() < KILLED:
            raise KillError

    def _run(self, number: int, actor: Callable[[], None]) -> None:
        self._me.number = number
        self._batons[number].acquire()
        try:
            if self.problem is None:
                actor()
        except (KillError, StorageError):  # StorageError: it gave up
            pass
        except BaseException as problem:  # noqa: BLE001 - handed to the thread of the test
            self.problem = self.problem or problem
        self._live.remove(number)
        if self._live:
            self._batons[self.random.choice(self._live)].release()


class SimulatedStore(Store):
    """Objects in a dict; every call is one atomic step of the schedule, and may go wrong.

    After each change the invariants of the protocol are checked for the folder it happened in.
    """

    def __init__(self, turns: Turns, *, create_overwrites: bool = False) -> None:
        self.uri = "/simulated"
        self.objects: dict[str, bytes] = {}
        self.calm = False
        """nobody else, and nothing breaks: for what comes after"""
        self._turns = turns
        self._create_overwrites = create_overwrites
        self._manifests: dict[str, bytes] = {}
        self._committed: dict[str, bool] = {}
        self._newest = ""

    def read(self, key: str, *, at_most: int | None = None, checked: bool = True) -> bytes:
        return self._step(lambda: self._read(key, at_most))

    def read_part(self, key: str, start: int, num_bytes: int) -> bytes:
        return self._step(lambda: self._read(key, None)[start : start + num_bytes])

    def write(self, key: str, data: bytes, *, sha256: str | None = None) -> None:
        self._step(lambda: self._put(key, data))

    def create(self, key: str, data: bytes) -> bool:
        def put_if_absent() -> bool:
            if key in self.objects and not self._create_overwrites:
                return False
            self._put(key, data)
            return True

        try:
            created = self._step(put_if_absent)
        except StorageError:
            created = False
        if not created:
            try:
                require_equal(self, key, data)
            except KeyMissingError:
                raise StorageError("not created") from None
        return created

    def copy(self, key: str, to: str) -> None:
        self.write(to, self.read(key))

    def exists(self, key: str) -> bool:
        return self._step(lambda: key in self.objects)

    def names(self, folder: str) -> list[str]:
        def listed() -> list[str]:
            below = [key for key in self.objects if key.startswith(f"{folder}/")]
            found = sorted({key[len(folder) + 1 :].split("/")[0] for key in below})
            return found + found[:1] if self._turns.random.random() < LISTED_TWICE else found

        return self._step(listed)

    def sizes(self, folder: str) -> dict[str, int]:
        def listed() -> dict[str, int]:
            start = len(folder) + 1
            return {
                key[start:]: len(data)
                for key, data in self.objects.items()
                if key.startswith(f"{folder}/") and "/" not in key[start:]
            }

        return self._step(listed)

    def delete(self, key: str) -> None:
        def remove() -> None:
            self.objects.pop(key, None)
            self._check(key)

        self._step(remove)

    def local_path(self, key: str) -> Path | None:
        del key

    def _step(self, act: Callable[[], T]) -> T:
        if self.calm:
            return act()
        self._turns.next()
        fate = self._turns.random.random()
        if fate < FAILED:
            raise StorageError("failed before it was done")
        result = act()
        if fate > 1 - REPLY_LOST:
            raise StorageError("done, and its reply lost")
        return result

    def _read(self, key: str, at_most: int | None) -> bytes:
        if key not in self.objects:
            raise KeyMissingError(key)
        return self.objects[key] if at_most is None else self.objects[key][: at_most + 1]

    def _put(self, key: str, data: bytes) -> None:
        self.objects[key] = data
        self._check(key)

    def _check(self, key: str) -> None:
        folder = key.rpartition("/")[0]
        manifest = self.objects.get(f"{folder}/manifest.json")
        if manifest is not None:
            first = self._manifests.setdefault(folder, manifest)
            assert first == manifest, f"the manifest of {folder} was rewritten"
        committed = manifest is not None and f"{folder}/retired" not in self.objects
        if committed:
            for record in json.loads(manifest)["files"].values():
                data = self.objects.get(f"{folder}/{record['name']}")
                whole = data is not None and hashlib.sha256(data).hexdigest() == record["sha256"]
                assert whole, f"{folder} is committed, and {record['name']} is not as promised"
        self._committed[folder] = committed
        newest = max((one for one, valid in self._committed.items() if valid), default="")
        assert newest >= self._newest, f"the newest went back from {self._newest} to {newest!r}"
        self._newest = newest
