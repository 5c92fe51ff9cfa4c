"""Processes that decode, without a loader: what is lost, refused or gone, and their end."""

import errno
import os
import signal
import socket
import sys
import threading
from contextlib import closing

import numpy as np
import pytest

from ddpm_core.errors import ClusterError, StorageError
from ddpm_core.loading import decode_pool
from ddpm_core.loading.decode_pool import DecodePool, _Child
from ddpm_core.loading.shard_files import Places, ShardFile
from tests.loading.streams import encoded, smooth

SHAPE = (16, 12, 3)
NUM_IMAGES = 3


@pytest.fixture
def places(tmp_path):
    """Images one after the other in a file."""
    files = [encoded(smooth(number, SHAPE), "PNG") for number in range(NUM_IMAGES)]
    path = tmp_path / "train-000000.tar"
    path.write_bytes(b"".join(files))
    sizes = np.array([len(file) for file in files])
    which = np.zeros(NUM_IMAGES, np.int64)
    return Places([opened(path, "some/train-000000.tar")], which, np.cumsum(sizes) - sizes, sizes)


@pytest.fixture
def child():
    """A process whose answers are not read."""
    found = _Child(NUM_IMAGES * int(np.prod(SHAPE)))
    yield found
    found.close()


def opened(path, where):
    return ShardFile(os.open(path, os.O_RDONLY | os.O_CLOEXEC), where)


def decoded(places):
    out = np.zeros((len(places), *SHAPE), np.uint8)
    with closing(DecodePool(1, SHAPE)) as pool:
        pool.decode(places, out, origin=str)
    return out


def answers_wait(channel):
    """Return once an answer is there to be read."""
    channel._connection.settimeout(60)
    assert channel._connection.recv(NUM_IMAGES, socket.MSG_PEEK) == b"\1" * NUM_IMAGES


def test_a_process_ends_in_silence_when_its_answer_is_never_read(child, places, capfd):
    """Catches the traceback of a process whose parent was killed between two batches."""
    child.channels[0].ask(places, SHAPE)
    answers_wait(child.channels[0])
    for channel in child.channels:  # as the kernel does to a parent that is killed
        channel.close()
    assert child.process.wait(60) == 0
    assert capfd.readouterr().err == ""


def test_a_process_ends_in_silence_when_its_parent_is_gone(child, places, capfd):
    """Catches the traceback of a process whose parent was killed while it decoded."""
    child.channels[1].ask(places, SHAPE)
    answers_wait(child.channels[1])  # from here on it waits for requests
    os.kill(child.process.pid, signal.SIGSTOP)
    child.channels[0].ask(places, SHAPE)
    child.channels[0].close()
    os.kill(child.process.pid, signal.SIGCONT)
    child.channels[1].close()
    assert child.process.wait(60) == 0
    assert capfd.readouterr().err == ""


def refusing(monkeypatch, num_times, before=lambda: None):
    """Have the kernel refuse so many packets, since too many descriptors are under way."""
    send, refused = socket.send_fds, []

    def send_or_refuse(*arguments):
        if len(refused) < num_times:
            refused.append(arguments)
            before()
            raise OSError(errno.ETOOMANYREFS, os.strerror(errno.ETOOMANYREFS))
        return send(*arguments)

    monkeypatch.setattr(socket, "send_fds", send_or_refuse)
    return refused


def test_too_many_descriptors_under_way_are_waited_for(places, monkeypatch):
    """Catches a training that ends since other processes of its user are busy."""
    refused = refusing(monkeypatch, 3)
    images_u8 = decoded(places)
    assert len(refused) == 3
    np.testing.assert_array_equal(images_u8, [smooth(number, SHAPE) for number in range(3)])


def test_a_process_that_is_gone_is_not_waited_for(child, places, monkeypatch):
    """Catches a wait without an end for a process that will never receive anything."""

    def kill():
        child.process.kill()
        child.process.wait()

    refusing(monkeypatch, sys.maxsize, before=kill)
    with pytest.raises(ClusterError, match="code -9"):
        child.channels[0].ask(places, SHAPE)


def test_a_process_that_gets_nowhere_is_given_up(child, places, monkeypatch):
    """Catches a training that waits for ever for a file system that does not answer."""
    monkeypatch.setattr(decode_pool, "STUCK_AFTER_S", 0.3)
    monkeypatch.setattr(decode_pool, "_LOOK_EVERY_S", 0.1)
    child.channels[0].ask(places, SHAPE)
    answers_wait(child.channels[0])  # from here on it uses no time
    os.kill(child.process.pid, signal.SIGSTOP)
    child.channels[1].ask(places, SHAPE)
    with pytest.raises(ClusterError, match=r"computed nothing for 0\.3 s: does the file system"):
        child.channels[1].take(np.zeros((NUM_IMAGES, *SHAPE), np.uint8))
    assert child.process.wait(60) == -signal.SIGKILL


def test_a_process_that_computes_is_waited_for(child, places, monkeypatch):
    """Catches a limit on the time that images may take, instead of on silence."""
    monkeypatch.setattr(decode_pool, "STUCK_AFTER_S", 0.3)
    monkeypatch.setattr(decode_pool, "_LOOK_EVERY_S", 0.1)
    looks = iter(range(1000))
    monkeypatch.setattr(_Child, "used_s", lambda _: float(next(looks)))
    os.kill(child.process.pid, signal.SIGSTOP)
    child.channels[0].ask(places, SHAPE)
    threading.Timer(1.5, os.kill, (child.process.pid, signal.SIGCONT)).start()
    out = np.zeros((NUM_IMAGES, *SHAPE), np.uint8)
    assert child.channels[0].take(out).all()
    assert next(looks) > 5


@pytest.fixture
def broken_disk():
    """A shard of which the system gives no byte: nothing is mapped at 0, so reading is an EIO."""
    numbers = np.zeros(1, np.int64)
    return Places(
        [opened("/proc/self/mem", "disk/train-000007.tar")], numbers, numbers, numbers + 9
    )


def test_a_disk_that_gives_no_bytes_is_reported_with_the_file(broken_disk):
    """Catches a bare OSError, which says of no file and no way out."""
    with pytest.raises(StorageError, match=r"^disk/train-000007\.tar .*Input/output error; mend"):
        broken_disk.read_all()


def test_a_disk_that_gives_a_decoding_process_no_bytes_is_reported_with_the_file(
    broken_disk, capfd
):
    """Catches a process that ends for it: the error would speak of a lack of memory."""
    with pytest.raises(StorageError, match=r"^disk/train-000007\.tar .*Input/output error; mend"):
        decoded(broken_disk)
    assert capfd.readouterr().err == ""
