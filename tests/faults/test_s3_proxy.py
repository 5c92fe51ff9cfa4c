"""Every fault on the way to a real S3 server, at every operation of the store, and its outcome.

The table at the end of docs/storage.md is this one.
"""

import math
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from ddpm_core import s3_operation, storage
from ddpm_core.errors import StorageError
from ddpm_core.manifest import load
from ddpm_core.s3 import s3_options
from ddpm_core.storage import S3Store, Store
from tests.faults.proxy import Fault, FaultProxy, Kind, proxying
from tests.real_s3 import BUCKET, RealS3
from tests.small_commit import FOLDER, KEY, STATE, commit_small

pytestmark = pytest.mark.s3
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
    found = load(store, FOLDER)
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
    "create": Act(lambda store, key: store.create(key, DATA), (True, False), "^PUT", leaves=DATA),
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
    options["config_kwargs"]["read_timeout"] = 1.5
    monkeypatch.setattr(storage, "s3_options", lambda: options | {"endpoint_url": endpoint})
    monkeypatch.setattr(s3_operation, "_ANSWER_TIMEOUT_S", 1.5)
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
    monkeypatch.setattr(storage, "DEADLINE_S", 0.25)
    proxy.faults = [Fault(kind, math.inf, on=act.on, at=act.at)]
    start_s = time.monotonic()
    with pytest.raises(StorageError, match=rf"cannot \w+ {direct.uri}.* requests? in .* run again"):
        act.do(proxied, key)
    assert time.monotonic() - start_s < 15
    if act.leaves is not None:
        assert not direct.exists(key) or direct.read(key) == act.leaves, "half of it is there"
    assert act.do(direct, key) in act.expected, "it cannot be done again"
