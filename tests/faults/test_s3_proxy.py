"""Every fault on the way to a real S3 server, at every operation of the store, and its outcome.

The table at the end of docs/storage.md is this one.
"""

import math
import re
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import count
from random import Random

import pytest

from ddpm_core.errors import StorageError
from ddpm_core.store import s3_client, s3_operation, storage
from ddpm_core.store.commit import commit, write_file
from ddpm_core.store.expected import Expected
from ddpm_core.store.manifest import load
from ddpm_core.store.s3 import s3_options
from ddpm_core.store.storage import S3Store, Store
from tests.faults.proxy import Fault, FaultProxy, Kind, proxying
from tests.real_s3 import BUCKET, RealS3
from tests.store.small_commit import EXPECTED, FOLDER, KEY, STATE, commit_small

pytestmark = [pytest.mark.s3, pytest.mark.long]
pytest_plugins = ["tests.s3_fixtures"]

DATA = bytes(range(256)) * 12
LONG = bytes(range(256)) * 45 * 2**10
PART_BYTES = 5 * 2**20  # S3's least
MIDDLE = 7
"""the byte that a fault begins at: the shortest body that is meant to be hit is longer"""


@dataclass(frozen=True)
class Act:
    """An operation, what it returns, and which of its requests a fault meets."""

    do: Callable[[Store, str], object]
    """is given a key that no other case has"""
    expected: tuple[object, ...]
    on: str = ""
    at: int = MIDDLE
    leaves: bytes | None = None
    """what lies under the key when it is done; before, nothing does"""


def _read_state(store: Store, _: str) -> object:
    found = load(store, FOLDER, EXPECTED)
    return None if found is None else found.read(store, "state")


ACTS = {
    "read": Act(lambda store, _: store.read("a/b"), (DATA,)),
    "exists": Act(lambda store, _: store.exists("a/b"), (True,), at=0),
    "exists not": Act(lambda store, key: store.exists(key), (False,)),
    "names": Act(lambda store, _: store.names("a"), (["b", "c"],)),
    "names of nothing": Act(lambda store, key: store.names(key), ([],)),
    "write": Act(lambda store, key: store.write(key, DATA), (None,), leaves=DATA),
    "write in parts": Act(lambda store, key: store.write(key, LONG), (None,), leaves=LONG),
    # Whether this call or an earlier try put it is not known if the reply was lost.
    "create": Act(lambda store, key: store.create(key, DATA), (True, False), leaves=DATA),
    "delete": Act(lambda store, key: store.delete(key), (None,)),
    "load manifest": Act(_read_state, (STATE,), on=KEY),
    "load file": Act(_read_state, (STATE,), on=r"state-\w+\.safetensors"),
}
KINDS: tuple[Kind, ...] = (
    "answer", "reset", "stall", "lose", "cut", "reset body", "stall body", "flip", "cut upload",
    "flip upload",
)  # fmt: skip
_NO_BODY_IN_REPLY = {"exists not", "write", "create", "delete"}
_NO_BODY_IN_REQUEST = set(ACTS) - {"write", "write in parts", "create"}
HARMLESS: dict[Kind, set[str]] = {
    "cut": _NO_BODY_IN_REPLY,
    "reset body": _NO_BODY_IN_REPLY,
    "stall body": _NO_BODY_IN_REPLY,
    # Of `exists` only that there is a body counts, of the answers to parts only their headers.
    "flip": _NO_BODY_IN_REPLY | {"exists", "write in parts"},
    "flip upload": _NO_BODY_IN_REQUEST,
}
# A listing has no digest: over http, a changed name in it is another name.
CASES = [
    (kind, name)
    for kind in KINDS
    for name in ACTS
    if name not in HARMLESS.get(kind, ()) and (kind != "flip" or not name.startswith("names"))
]


@pytest.fixture(scope="module")
def way(real_s3: RealS3) -> Iterator[tuple[str, FaultProxy]]:
    with proxying(real_s3.port) as way:
        yield way


@pytest.fixture(scope="module")
def s3_root(real_s3: RealS3) -> Iterator[str]:
    """Give a prefix with something in it."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in real_s3.environment.items():
            patch.setenv(name, value)
        store = S3Store(f"s3://{BUCKET}/{uuid.uuid4().hex}")
        for key in ("a/b", "a/c"):
            store.write(key, DATA)
        commit_small(store)
        yield store.uri


@pytest.fixture
def direct(real_s3_store: S3Store, s3_root: str) -> S3Store:
    """Give the store past the proxy."""
    store = S3Store(s3_root)
    store._connection = real_s3_store._connection
    store._refuses_second_create = True
    return store


@pytest.fixture
def proxied(
    direct: S3Store,
    way: tuple[str, FaultProxy],
    s3_connections: dict[str, object],
    monkeypatch: pytest.MonkeyPatch,
) -> S3Store:
    """Give the same store through the proxy, less patient than usual."""
    endpoint, proxy = way
    proxy.faults = []
    options = s3_options()
    options["config_kwargs"]["read_timeout"] = 1.0
    monkeypatch.setattr(s3_client, "s3_options", lambda: options | {"endpoint_url": endpoint})
    monkeypatch.setattr(s3_operation, "_ANSWER_TIMEOUT_S", 1.0)
    monkeypatch.setattr(s3_operation, "_FIRST_WAIT_S", 0.02)
    for module in (storage, s3_operation):
        monkeypatch.setattr(module, "PART_BYTES", PART_BYTES)
    store = S3Store(direct.uri)
    store._connection = s3_connections.get("proxied")
    store._refuses_second_create = True
    store.check_bucket()
    s3_connections["proxied"] = store._connection
    return store


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_a_fault_that_passes_changes_nothing(
    kind: Kind, name: str, proxied: S3Store, direct: S3Store, way: tuple[str, FaultProxy]
):
    """Catches a run that ends with the first hiccup; an outage that looks like an empty bucket, a
    lost reply like a conflict, changed or half a body like data.
    """
    act, proxy, key = ACTS[name], way[1], f"passes/{kind}/{name}".replace(" ", "-")
    fault = Fault(kind, on=act.on, at=act.at)
    proxy.faults = [fault]
    assert act.do(proxied, key) in act.expected
    assert fault.times == 0, "no request met it"
    if act.leaves is not None:
        assert direct.read(key) == act.leaves


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_a_fault_that_stays_is_one_error(
    kind: Kind,
    name: str,
    proxied: S3Store,
    direct: S3Store,
    way: tuple[str, FaultProxy],
    monkeypatch: pytest.MonkeyPatch,
):
    """Catches a wait without end, an answer that nobody gave, and what half an upload leaves."""
    act, proxy, key = ACTS[name], way[1], f"stays/{kind}/{name}".replace(" ", "-")
    proxy.faults = [Fault(kind, math.inf, on=act.on, at=act.at)]
    with monkeypatch.context() as patch:
        patch.setattr(storage, "DEADLINE_S", 0.25)
        patch.setattr(s3_operation, "_SLOWEST_BYTES_PER_S", 2**30)
        expected = rf"cannot \w+ {direct.uri}.* requests? in .* run again"
        with pytest.raises(StorageError, match=expected):
            act.do(proxied, key)
    if act.leaves is not None:
        assert not direct.exists(key) or direct.read(key) == act.leaves, "half of it is there"
    assert act.do(direct, key) in act.expected, "it cannot be done again"


@pytest.mark.parametrize("kind", ["lose", "reset", "answer"])
def test_a_save_survives_a_fault_at_each_of_its_requests(
    kind: Kind, proxied: S3Store, direct: S3Store, way: tuple[str, FaultProxy]
):
    """Catches one's own manifest, or one's own finished upload, taken for somebody else's or for
    lost when the second try meets it.
    """
    proxy = way[1]

    def save(folder: str) -> None:
        files = {
            "long": write_file(proxied, folder, "long", ".bin", LONG),
            "short": write_file(proxied, folder, "short", ".bin", DATA),
        }
        commit(proxied, folder, files, {"step": 1})

    for number in count():
        folder = f"saves/{kind}/{number}"
        proxy.faults = [Fault(kind, skip=number)]
        save(folder)
        found = load(direct, folder, Expected({"step": 1}))
        assert found is not None
        assert [found.read(direct, role) for role in ("long", "short")] == [LONG, DATA]
        assert len(direct.names(folder)) == 3
        if proxy.faults[0].times:
            break  # no request met it
    assert number >= 8, "three parts with their beginning and end, a file, a manifest"


def test_an_upload_that_is_known_no_more_counts_if_it_was_completed(
    proxied: S3Store, direct: S3Store, way: tuple[str, FaultProxy]
):
    """Catches a lost reply taken for a lost upload: other servers than RGW forget it at once."""
    proxy, complete = way[1], r"^POST \S+uploadId="
    forgotten = Fault("answer", on=complete, status=404, code="NoSuchUpload")
    proxy.faults = [Fault("lose", on=complete), replace(forgotten)]
    proxied.write("uploads/completed", LONG)
    assert direct.read("uploads/completed") == LONG
    assert [fault.times for fault in proxy.faults] == [0, 0]
    proxy.faults = [forgotten]
    with pytest.raises(StorageError, match="cannot write"):
        proxied.write("uploads/lost", LONG)
    assert not direct.exists("uploads/lost")


def test_an_upload_that_cannot_be_completed_is_left_for_another(
    proxied: S3Store, direct: S3Store, way: tuple[str, FaultProxy]
):
    """Catches waiting for the lock on an upload that a killed gateway was about to complete."""
    proxy, complete = way[1], r"^POST \S+uploadId="
    locked = Fault("answer", s3_operation._NUM_COMPLETIONS, complete, 0, 500, "InternalError")
    proxy.faults, proxy.seen[:] = [locked], []
    proxied.write("uploads/locked", LONG)
    assert direct.read("uploads/locked") == LONG
    completed = [line for line in proxy.seen if re.match(complete, line)]
    assert len(completed) == s3_operation._NUM_COMPLETIONS + 1
    assert len(set(completed)) == 2, "one upload for the failures, another for the end"
    assert sum(line.startswith("DELETE") for line in proxy.seen) == 1, "its parts cost room"


def test_no_flipped_bit_is_read_as_data(proxied: S3Store, way: tuple[str, FaultProxy]):
    """Catches a digest over the beginning of a body only."""
    random, proxy = Random(0), way[1]  # noqa: S311
    for _ in range(50):
        proxy.faults = [Fault("flip", at=random.randrange(len(DATA)))]
        assert proxied.read("a/b") == DATA
        assert proxy.faults[0].times == 0


def test_an_unchecked_read_is_what_arrived(proxied: S3Store, way: tuple[str, FaultProxy]):
    """Catches bytes that are hashed though the caller does so."""
    proxy = way[1]
    proxy.faults, proxy.seen[:] = [Fault("flip", at=1)], []
    assert proxied.read("a/b", checked=False) == DATA[:1] + bytes([DATA[1] ^ 1]) + DATA[2:]
    assert len(proxy.seen) == 1
