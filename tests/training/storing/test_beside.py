"""Checkpoints stored beside the training: what is stored, when, and what becomes of an error."""

import threading
import time
from concurrent.futures import wait

import pytest
import torch

from ddpm_core.errors import DivergenceError, StorageError
from ddpm_core.runs import layout, places
from ddpm_core.store import manifest
from ddpm_core.store.storage import LocalStore, open_store
from ddpm_core.training.stepping.denoising import Denoising
from ddpm_core.training.storing import beside, checkpoint
from ddpm_core.training.storing.beside import Storing
from ddpm_core.training.storing.checkpoint import Origin
from ddpm_core.training.storing.host_copy import HostCopy
from ddpm_core.training.worker import train_rank
from tests.training.small import (
    make_learner,
    newest_checkpoint,
    parallel_of,
    run_group,
    small_config,
)
from tests.training.stepping.test_trainee import parts_of
from tests.training.test_worker import (
    ALONE,
    Killed,
    reference,
    sharded,
    store,
    trackers,
    train_until,
)

__all__ = ["reference", "sharded", "store", "trackers"]

ORIGIN = Origin("e" * 64, "d" * 64)
PATIENCE_S = 60
"""for what a thread waits for, lest a mistake hang"""


class Gate:
    """What is stored waits before it is written, until the gate is open."""

    def __init__(self, monkeypatch):
        self.is_open, self._write = threading.Event(), checkpoint.write_parts
        monkeypatch.setattr(checkpoint, "write_parts", self._write_later)

    def _write_later(self, *args, **more):
        assert self.is_open.wait(PATIENCE_S)
        return self._write(*args, **more)


@pytest.fixture
def gate(monkeypatch):
    return Gate(monkeypatch)


def storing_of(store, learner, parallel=None, **more) -> Storing:
    parallel = parallel or parallel_of()
    return Storing(store, small_config(), ORIGIN, learner.trainee, parallel, **more)


def manifests(store):
    """Return the manifests of all checkpoints, also of those whose files are gone."""
    return {
        step: manifest.load_marked(
            store, layout.checkpoint_folder("small", step), places.checkpoint_expected(step)
        )
        for step in layout.committed_steps(store, "small")
    }


class Shared(HostCopy):
    """No copy: the very tensors."""

    def __init__(self, parts):
        self.parts, self._is_there = parts, None

    def take(self, parts):
        pass


@pytest.mark.parametrize("copy", [HostCopy, Shared])
def test_what_is_stored_is_the_state_as_it_was(tmp_path, monkeypatch, gate, copy):
    """Catches any tensor of any part that the next step changes before it is written; of a copy
    that shares memory with the training, this test sees that.
    """
    store, learner = open_store(str(tmp_path)), make_learner(small_config())
    before, curve = parts_of(learner), [{"step": 4.0}]
    monkeypatch.setattr(beside, "HostCopy", copy)
    with storing_of(store, learner) as one:
        one.take(5, curve)
        for part in learner.trainee.parts().values():
            for tensor in part.values():
                tensor.detach().add_(1)
        curve.append({"step": 8.0})
        gate.is_open.set()
        one.finish()
    into = make_learner(small_config()).trainee.parts()
    begun = checkpoint.resume_at(store, "small", 5, into)
    assert begun.history == [{"step": 4.0}]
    same = [
        torch.equal(tensor, before[role][name])
        for role, part in into.items()
        for name, tensor in part.items()
    ]
    assert any(same) == all(same) == (copy is HostCopy)


def test_steps_go_on_while_a_checkpoint_is_stored(store, sharded, trackers, reference, monkeypatch):
    """Catches steps that wait for the storage, and any checkpoint, the last or not, that is not
    that of a training whose steps wait.
    """
    true_step, true_write, done = Denoising.step, checkpoint.write_parts, threading.Condition()
    completed = [0]

    def counted_step(self, number, *args):
        true_step(self, number, *args)
        with done:
            completed[0] = number + 1
            done.notify_all()

    def write_after_another_step(store, run, step, parts, **more):
        with done:
            assert done.wait_for(lambda: completed[0] > min(step, 19), PATIENCE_S)
        return true_write(store, run, step, parts, **more)

    monkeypatch.setattr(Denoising, "step", counted_step)
    monkeypatch.setattr(checkpoint, "write_parts", write_after_another_step)
    train_rank(store, small_config(), ALONE)
    assert manifests(store) == manifests(sharded)
    assert list(manifests(store)) == [20, 15, 10, 5]


def test_a_second_checkpoint_waits_for_the_first(tmp_path, monkeypatch, gate):
    """Catches a copy over numbers that are yet to be written, and one copy more for each
    checkpoint that is due meanwhile.
    """
    store, learner = open_store(str(tmp_path)), make_learner(small_config())
    true_take, seen = HostCopy.take, []

    def noted_take(self, parts):
        seen.append(layout.committed_steps(store, "small"))
        true_take(self, parts)

    monkeypatch.setattr(HostCopy, "take", noted_take)
    with storing_of(store, learner) as one:
        one.take(5, [])
        second = threading.Thread(target=one.take, args=(10, []))
        second.start()
        second.join(0.2)
        assert seen == [[]]
        gate.is_open.set()
        second.join()
        one.finish()
    assert seen == [[], [5]]
    assert layout.committed_steps(store, "small") == [10, 5]


@pytest.mark.parametrize(("struck", "last_step"), [(10, 11), (20, 19)])
def test_a_storage_that_refuses_ends_the_training(
    store, trackers, reference, monkeypatch, struck, last_step
):
    """Catches an error that stays in the thread: behind the next point of the curves, or behind the
    end; and a sentence that is another for that.
    """
    true_step, true_write, steps = Denoising.step, LocalStore.write, []
    refused = threading.Event()

    def noted_step(self, number, *args):
        steps.append(number)
        if number == struck:  # the first behind that checkpoint: on a busy machine it is early
            assert refused.wait(60)
            time.sleep(0.5)
        true_step(self, number, *args)

    def full(self, key, *args, **more):
        if f"step_{struck:08d}" in key:
            refused.set()
            raise StorageError("cannot write it: No space left on device; make room")
        true_write(self, key, *args, **more)

    monkeypatch.setattr(Denoising, "step", noted_step)
    with monkeypatch.context() as patch:
        patch.setattr(LocalStore, "write", full)
        with pytest.raises(StorageError, match=r"^cannot write it: No space"):
            train_rank(store, small_config(), ALONE)
    assert steps[-1] == last_step
    assert trackers[0].closed is StorageError
    assert newest_checkpoint(store, "small").body["step"] == struck - 5
    train_rank(store, small_config(), ALONE)
    assert newest_checkpoint(store, "small") == reference


def test_an_interruption_waits_and_stays_one(store, trackers, gate, monkeypatch):
    """Catches a kill that takes a checkpoint with it which is about to be committed, and a Ctrl-C
    that becomes an error of the storage.
    """
    threading.Timer(0.2, gate.is_open.set).start()
    train_until(store, small_config(), 6, monkeypatch)
    assert newest_checkpoint(store, "small").body["step"] == 5

    def refused(*_args, **_more):
        raise StorageError("away")

    def interrupted():
        with storing_of(store, make_learner(small_config())) as one:
            one.take(10, [])
            raise Killed

    monkeypatch.setattr(checkpoint, "write_parts", refused)
    with pytest.raises(Killed) as caught:
        interrupted()
    assert caught.value.__notes__ == ["The checkpoint of step 10 was not stored: away"]


def test_checkpoints_too_close_to_each_other_are_said_once(tmp_path, monkeypatch, caplog):
    """Catches a share of the wrong time, and a piece of advice that is not the remedy."""
    store, learner, clock = open_store(str(tmp_path)), make_learner(small_config()), [0.0]
    true_write, waiting = checkpoint.write_parts, threading.Event()

    def noted_wait(futures):
        waiting.set()
        return wait(futures)

    def slow_write(*args, **more):
        assert waiting.wait(PATIENCE_S)
        waiting.clear()
        clock[0] += 7.0
        return true_write(*args, **more)

    monkeypatch.setattr(beside, "wait", noted_wait)
    monkeypatch.setattr(checkpoint, "write_parts", slow_write)
    with storing_of(store, learner, now=lambda: clock[0]) as one:
        for step in (5, 10, 15):
            clock[0] += 5.0  # the steps
            one.take(step, [])
        one.finish()
    (said,) = [record.getMessage() for record in caplog.records]
    # Due at 10 s, done at 17 s; 12 s are 12 steps.
    assert said == (
        "warning: the checkpoint of step 5 took 12 s to store, and the next was due after 5 s: the "
        "steps waited for 7 s; with train.checkpoint_every=12 they do not"
    )


def test_another_rank_that_is_late_is_no_reason_for_fewer_checkpoints(
    tmp_path, monkeypatch, caplog
):
    """Catches advice that is not the remedy: what is waited for is not the storage."""
    store, learner, clock = open_store(str(tmp_path)), make_learner(small_config()), [0.0]
    parallel = parallel_of()

    def late():
        clock[0] += 7.0

    monkeypatch.setattr(parallel, "wait", late)
    with storing_of(store, learner, parallel, now=lambda: clock[0]) as one:
        for step in (5, 10):
            clock[0] += 5.0
            one.take(step, [])
            wait([one._stored])
        one.finish()
    assert caplog.records == []


def test_a_copy_is_of_the_tensors_order_and_once_of_each():
    """Catches twice the memory for weights that lie in two parts, and a copy that has to turn every
    weight around while the steps wait.
    """
    weight = torch.randn(4, 3, 3, 3).to(memory_format=torch.channels_last)
    copy = HostCopy({"state": {"model.w": weight}, "*": {"w": weight.detach()}})
    assert copy.parts["state"]["model.w"] is copy.parts["*"]["w"]
    copy.take({"state": {"model.w": weight}, "*": {"w": weight}})
    copy.wait()
    assert torch.equal(copy.parts["*"]["w"], weight)
    assert copy.parts["*"]["w"].stride() == weight.stride()


# -- several ranks -----------------------------------------------------------------------------


def _two_ranks(rank, world_size, folder):
    torch.set_num_threads(1)
    store, learner = open_store(str(folder)), make_learner(small_config(), rank, world_size)
    parallel, true_write = parallel_of(rank, world_size), checkpoint.write_parts
    is_open = threading.Event()

    def write_later(*args, **more):
        assert is_open.wait(PATIENCE_S)
        return true_write(*args, **more)

    checkpoint.write_parts = write_later
    with storing_of(store, learner, parallel) as one:
        one.take(5, [])
        for number in range(50):
            assert parallel.gather(number + rank) == [number, number + 1]
        is_open.set()
        one.finish()
        assert layout.committed_steps(store, "small") == [5]
        learner.network.conv_out.bias.data += rank
        one.take(10, [])
        with pytest.raises(
            DivergenceError, match=r"weights of rank\(s\) 1 are not those of rank 0"
        ):
            one.finish()
    parallel.wait()
    assert layout.committed_steps(store, "small") == [5]


def test_what_ranks_agree_on_beside_is_apart_from_what_they_agree_on(tmp_path):
    """Catches a thread that answers to what the steps gather, a checkpoint that `finish` does not
    wait for on a rank that writes none of it, and ranks that differ and are not compared.
    """
    run_group(_two_ranks, 2, tmp_path)
