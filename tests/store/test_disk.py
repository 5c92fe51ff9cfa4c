"""The store on a disk, and how its files reach the disk."""

import errno
import os
import pickle  # noqa: TID251 - how Ray sends things to workers
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from ddpm_core.errors import ConfigError, RunConflictError, StorageError
from ddpm_core.store import durable
from ddpm_core.store.content import sha256_of
from ddpm_core.store.disk import LocalStore
from ddpm_core.store.store import KeyMissingError, Store

OPERATIONS: tuple[Callable[[Store], object], ...] = (
    lambda store: store.read("a/b"),
    lambda store: store.exists("a/b"),
    lambda store: store.names("a"),
    lambda store: store.sizes("a"),
    lambda store: store.write("a/b", b"1"),
    lambda store: store.create("a/b", b"1"),
    lambda store: store.delete("a/b"),
)


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "new" / "root")


def test_a_local_store_keeps_its_promises(store: LocalStore):
    """Catches folders read as objects, names that are paths, and deletes that must find."""
    with pytest.raises(KeyMissingError, match="a/b"):
        store.read("a/b")
    assert not store.exists("a/b")
    assert store.names("a") == store.names("") == []
    store.write("a/b", b"hello")
    assert store.exists("a/b")
    assert not store.exists("a")
    with pytest.raises(KeyMissingError):
        store.read("a")
    with pytest.raises(KeyMissingError):
        store.read("a/b/c")
    assert store.names("a/b") == []
    assert store.read("a/b") == b"hello"
    assert store.read("a/b", at_most=5) == b"hello"
    assert store.read("a/b", at_most=2) == b"hel"
    assert store.read_part("a/b", 1, 3) == b"ell"
    assert store.read_part("a/b", 3, 9) == b"lo"
    assert store.read_part("a/b", 5, 1) == b""
    with pytest.raises(KeyMissingError):
        store.read_part("a/z", 0, 1)
    store.write("a/b", b"")
    assert store.read("a/b") == b""
    store.write("a/c/d", b"1")
    assert store.names("a") == ["b", "c"]
    store.delete("a/b")
    store.delete("a/b")
    assert store.names("a") == ["c"]
    assert store.local_path("a/c/d") == Path(store.uri_of("a/c/d"))
    assert store.uri_of("") == store.uri
    assert pickle.loads(pickle.dumps(store)).read("a/c/d") == b"1"  # noqa: S301


def test_the_sizes_in_a_folder_are_those_of_its_files(store: LocalStore):
    """Catches folders, links to nothing and unfinished files counted as objects."""
    assert store.sizes("a") == store.sizes("") == {}
    store.write("a/b", b"hello")
    store.write("a/empty", b"")
    store.write("a/c/d", b"1")
    folder = Path(store.uri) / "a"
    (folder / ".e.1-0123456789abcdef.tmp").write_bytes(b"unfinished")
    (folder / "link").symlink_to("b")
    (folder / "nowhere").symlink_to("gone")
    os.mkfifo(folder / "pipe")
    assert store.sizes("a") == {"b": 5, "empty": 0, "link": 5}
    assert store.sizes("a/b") == {}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_what_is_no_regular_file_is_refused_and_not_waited_for(store: LocalStore, make):
    """Catches: a read that waits for a FIFO's writer, or that fills the memory from a device."""
    store.write("a/b", b"")
    store.delete("a/b")
    make(store.local_path("a/b"))
    for at_most in (None, 10):
        with pytest.raises(StorageError, match=r"a/b is no regular file.*put a file in its place"):
            store.read("a/b", at_most=at_most)
    assert not store.exists("a/b")
    assert store.names("a") == ["b"]


def test_a_link_to_a_file_is_read_as_the_file(store: LocalStore, tmp_path: Path):
    """Catches: a refusal of whatever is not a file by itself."""
    store.write("a/b", b"1")
    Path(store.uri_of("a/c")).symlink_to(store.uri_of("a/b"))
    assert store.read("a/c") == b"1"


def test_create_puts_only_what_is_absent(store: LocalStore):
    """Catches a create by rename, which replaces."""
    assert store.create("manifest", b"one")
    assert not store.create("manifest", b"one")
    with pytest.raises(RunConflictError, match="manifest holds other bytes") as caught:
        store.create("manifest", b"two")
    assert sha256_of(b"one")[:16] in str(caught.value)
    assert store.read("manifest") == b"one"


def test_create_has_one_winner(store: LocalStore):
    """Catches a create that looks first and puts then."""
    for number in range(20):

        def contend(who: int, key: str = f"race/{number}") -> str:
            try:
                return "won" if store.create(key, f"{who}".encode()) else "same"
            except RunConflictError:
                return "lost"

        with ThreadPoolExecutor(4) as pool:
            results = list(pool.map(contend, range(4)))
        assert sorted(results) == ["lost"] * 3 + ["won"]
        assert store.read(f"race/{number}") == f"{results.index('won')}".encode()


@pytest.mark.parametrize(
    "key",
    ["../x", "a/../x", "/etc/passwd", "a//b", "a/", ".hidden", "a/.x", "a b", "a\0b", "é", "a\n"],
)
def test_a_key_that_leaves_the_root_or_hides_is_refused(store: LocalStore, key: str):
    """Catches a manifest or a name from outside that reaches another folder."""
    for operate in (
        store.read,
        store.exists,
        store.names,
        store.sizes,
        store.delete,
        store.local_path,
    ):
        with pytest.raises(ConfigError, match="storage key"):
            operate(key)
    for put in (store.write, store.create):
        with pytest.raises(ConfigError, match="storage key"):
            put(key, b"")


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EIO, "kernel log"),
        (errno.EROFS, "writable"),
        (errno.EACCES, "give this user the right"),
        (errno.ESTALE, "see to this storage"),
    ],
)
def test_an_error_of_the_disk_names_file_reason_and_remedy(
    store: LocalStore, number: int, remedy: str, monkeypatch: pytest.MonkeyPatch
):
    """Catches a traceback for a full disk, and an outage taken for absence."""
    store.write("a/b", b"before")

    def fail(*_args: object, **_kwargs: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        for function in ("open", "stat", "unlink", "scandir"):
            patch.setattr(os, function, fail)
        for method in ("open", "iterdir"):
            patch.setattr(Path, method, fail)
        for operate in OPERATIONS:
            with pytest.raises(
                StorageError, match=rf"cannot .*/a.*{os.strerror(number)}.*{remedy}"
            ):
                operate(store)
    assert store.read("a/b") == b"before"


def test_a_root_that_vanishes_is_an_outage(store: LocalStore):
    """Catches an unmounted disk taken for an empty one: training again from step 0."""
    store.write("a/b", b"1")
    Path(store.uri).rename(Path(store.uri).with_name("elsewhere"))
    for operate in OPERATIONS[:4]:
        with pytest.raises(StorageError, match="has gone"):
            operate(store)


def test_a_file_in_the_way_is_said(store: LocalStore):
    """Catches a FileExistsError of a folder taken for 'this object is there already'."""
    store.write("a", b"")
    for operate in OPERATIONS[4:6]:
        with pytest.raises(StorageError, match="a file stands where a folder is needed"):
            operate(store)


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        (os.ST_RDONLY, "Read-only file system; mount it writable"),
        (0, "Permission denied; give this user the right"),
    ],
)
def test_a_root_that_cannot_be_written_is_refused_without_a_write(
    tmp_path: Path, flag: int, said: str, monkeypatch: pytest.MonkeyPatch
):
    """Catches the rights of the root itself looked at where only its parent is there."""
    looked: list[Path] = []

    def refuse(path: Path, mode: int) -> bool:
        looked.append(path)
        return mode & os.W_OK == 0

    root = LocalStore(tmp_path / "a" / "b")
    root.require_writable()
    monkeypatch.setattr(os, "access", refuse)
    monkeypatch.setattr(os, "statvfs", lambda _path: SimpleNamespace(f_flag=flag))
    with pytest.raises(StorageError, match=f"cannot write below {root.uri}: {said}"):
        root.require_writable()
    assert looked == [tmp_path]
    assert not list(tmp_path.iterdir())


def test_a_file_above_the_root_is_said_without_a_write(tmp_path: Path):
    """Catches 'permission denied' for a root below a file, which no right mends."""
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="a file stands where a folder is needed"):
        LocalStore(tmp_path / "file" / "b").require_writable()


# -- how files reach the disk ------------------------------------------------------------------


class Calls:
    """Writes down what happens to the disk, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[str] = []
        self._open: dict[int, str] = {}
        real_open, real_fsync, real_close = os.open, os.fsync, os.close

        def opened(path: str | Path, *args: int) -> int:
            descriptor = real_open(path, *args)
            self._open[descriptor] = self._short(path)
            return descriptor

        def synced(descriptor: int) -> None:
            self.seen.append(f"fsync {self._open[descriptor]}")
            real_fsync(descriptor)

        def closed(descriptor: int) -> None:
            self._open.pop(descriptor, None)
            real_close(descriptor)

        monkeypatch.setattr(os, "open", opened)
        monkeypatch.setattr(os, "fsync", synced)
        monkeypatch.setattr(os, "close", closed)
        for name in ("replace", "link", "mkdir", "unlink"):
            monkeypatch.setattr(os, name, self._noted(name, getattr(os, name)))

    def _noted(self, name: str, real: Callable[..., None]) -> Callable[..., None]:
        def call(*args: str | Path, **kwargs: object) -> None:
            real(*args, **kwargs)
            self.seen.append(
                f"{name} {self._short(args[1] if name in ('replace', 'link') else args[0])}"
            )

        return call

    @staticmethod
    def _short(path: str | Path) -> str:
        name = Path(path).name
        return "temporary" if durable.is_temporary(name) else name


@pytest.mark.parametrize(("operation", "last"), [("write", "replace b"), ("create", "link b")])
def test_bytes_reach_the_disk_before_their_name(
    tmp_path: Path, operation: str, last: str, monkeypatch: pytest.MonkeyPatch
):
    """Catches a missing fsync: after a power cut an empty file under the final name, or none."""
    (tmp_path / "top").mkdir()
    store = LocalStore(tmp_path / "top" / "root")
    calls = Calls(monkeypatch)
    getattr(store, operation)("folder/b", b"1")
    expected = ["mkdir root", "mkdir folder", "fsync temporary", last]
    expected += ["unlink temporary"] if operation == "create" else []
    expected += ["fsync folder", "fsync root", "fsync top"]
    assert calls.seen[: len(expected)] == expected
    # At the first write: whether manifests can be put here later.
    probe = ["link temporary", "unlink temporary", "unlink temporary"]
    assert calls.seen[len(expected) :] == (probe if operation == "write" else [])
    calls.seen.clear()
    store.create("folder/b", b"1")
    assert calls.seen[-2:] == ["fsync folder", "fsync root"], "a dead twin may not have synced"


def test_a_failed_fsync_is_never_tried_again(store: LocalStore, monkeypatch: pytest.MonkeyPatch):
    """Catches the second fsync that reports success over lost pages."""
    failed = []

    def fail(descriptor: int) -> None:
        failed.append(descriptor)
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StorageError, match="kernel log"):
        store.write("a", b"1")
    assert len(failed) == 1
    assert os.listdir(store.uri) == []  # noqa: PTH208 - with what is hidden


def test_short_writes_are_continued(store: LocalStore, monkeypatch: pytest.MonkeyPatch):
    """Catches a file cut where the kernel took less than all."""
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:3]))
    store.write("a", b"0123456789")
    assert store.read("a") == b"0123456789"


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS, errno.EBADF, errno.EOPNOTSUPP])
def test_a_file_system_that_cannot_sync_folders_will_do(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, number: int
):
    """Catches a refusal of every FUSE mount."""
    real = os.fsync

    def no_folders(descriptor: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):  # noqa: PTH112
            raise OSError(number, os.strerror(number))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", no_folders)
    store.write("a/b", b"1")
    assert store.read("a/b") == b"1"


def test_temporary_files_are_hidden_and_go_with_their_dead_writer(store: LocalStore):
    """Catches leftovers that fill the disk, listed ones, and the removal of a living writer's."""
    store.write("a/b", b"1")
    folder = Path(store.uri) / "a"
    code = (
        "import os, pathlib, sys, time; from ddpm_core.store import durable\n"
        "temporary, _ = durable._open_locked(pathlib.Path(sys.argv[1]))\n"
        "print(temporary.name, flush=True); time.sleep(60)"
    )
    arguments = [sys.executable, "-c", code, str(folder / "c")]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        temporary = folder / writer.stdout.readline().strip()
        assert durable.is_temporary(temporary.name)
        assert store.names("a") == ["b"]
        store.write("a/d", b"1")
        assert temporary.exists(), "its writer lives"
        writer.send_signal(signal.SIGKILL)
    store.write("a/d", b"1")
    assert not temporary.exists(), "its writer is dead"


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK])
def test_a_file_system_without_hard_links_will_do(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, number: int
):
    """Catches a refusal of exFAT and SMB, and a plain rename in place of the link: it replaces."""

    def no_links(*_args: object, **_words: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", no_links)
    test_create_puts_only_what_is_absent(store)
    test_create_has_one_winner(store)
    assert sorted(os.listdir(store.uri)) == ["manifest", "race"]  # noqa: PTH208 - with hidden ones


@pytest.mark.parametrize("operation", ["write", "create"])
def test_a_file_system_that_cannot_give_a_name_once_is_refused_at_the_first_write(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, operation: str
):
    """Catches two writers of one manifest, or hours of work before the refusal."""

    def no_links(*_args: object, **_words: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(os, "link", no_links)
    monkeypatch.setattr(durable.ctypes, "CDLL", lambda *_args, **_words: object())
    with pytest.raises(StorageError, match=r"neither hard links nor renames.*another file system"):
        getattr(store, operation)("a", b"1")
    assert [name for name in os.listdir(store.uri) if name.startswith(".")] == []  # noqa: PTH208


FULL_DISK = """
import sys
from pathlib import Path
from ddpm_core.errors import StorageError
from ddpm_core.store.disk import LocalStore
root = Path(sys.argv[1]) / "a" / "root"
store = LocalStore(root)
store.write("small", b"1")
for put in (store.write, store.create):
    try:
        put("folder/large", bytes(2**20))
    except StorageError as error:
        print(error)
print(sorted(str(path.relative_to(root)) for path in root.rglob("*")))
store.write("folder/fits", b"1")
"""


def test_a_full_disk_is_reported_with_what_is_needed_and_free(tmp_path: Path):
    """Catches an error without numbers, and half a file that keeps the disk full."""
    mounted = f'mount -t tmpfs -o size=256k none "{tmp_path}" && exec "$0" "$@"'
    if shutil.which("unshare") is None:
        pytest.skip("no unshare")
    own = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mounted]
    if subprocess.run([*own[:-1], mounted.partition(" &&")[0]], check=False).returncode:
        pytest.skip("this user may not mount a small disk")
    done = subprocess.run(
        [*own, sys.executable, "-c", FULL_DISK, tmp_path],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[1],
    )
    assert done.returncode == 0, done.stderr
    *said, left = done.stdout.splitlines()
    for operation, line in zip(("write", "create"), said, strict=True):
        assert re.fullmatch(
            rf"cannot {operation} {re.escape(str(tmp_path))}/a/root/folder/large: No space left on "
            r"device \(1048576 bytes are needed, \d{5,6} are free\); free some space or choose "
            "another root, then run again",
            line,
        )
    assert left == "['folder', 'small']"


def test_what_another_machine_may_be_writing_is_left_for_a_day(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
):
    """Catches a file deleted under its writer, whose lock a network file system does not show."""
    store.write("a/b", b"1")
    monkeypatch.setattr(durable.socket, "gethostname", lambda: "another")
    path = Path(store.uri) / "a" / f".c.1-{durable._host()}01234567.tmp"
    monkeypatch.undo()
    path.write_bytes(b"half")
    store.write("a/b", b"2")
    assert path.exists()
    os.utime(path, (1, 1))
    store.write("a/b", b"3")
    assert not path.exists()


def refused(*_arguments: object) -> None:
    raise OSError(errno.EPERM, "no links here")


@pytest.mark.parametrize("has_links", [True, False])
def test_a_copy_is_whole_and_its_own(has_links, tmp_path, monkeypatch):
    """Catches a copy that changes with its original, a temporary name that stays where both are one
    file already, and a file system without links on which nothing is ever committed."""
    if not has_links:
        monkeypatch.setattr(Path, "hardlink_to", refused)
    local = LocalStore(tmp_path / "a root")
    local.write("a/b", b"first")
    local.write("c/d", b"over it")
    for _ in range(2):
        local.copy("a/b", "c/d")
    local.write("a/b", b"second")
    assert local.read("c/d") == b"first"
    assert [path.name for path in (tmp_path / "a root" / "c").iterdir()] == ["d"]
    with pytest.raises(KeyMissingError):
        local.copy("a/z", "c/e")
