"""Groups that train together: places, errors, losses."""

import contextlib
import json
import os
import signal
import threading
import time
from types import SimpleNamespace

import psutil
import pytest
import ray
import ray.exceptions
import ray.train
import ray.train.torch
import torch

from ddpm_core.cluster import group
from ddpm_core.config import ComputeConfig
from ddpm_core.errors import ClusterError, DivergenceError
from ddpm_core.servers.own_ray import IS_OURS
from tests.cluster import workers

TWO = ComputeConfig(num_workers=2, max_failures=1)
# Ray Data, which Ray Train uses, sets settings of its own that it calls deprecated.
quiet_ray_data = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context")


GONE = ray.exceptions.ActorDiedError()


class EndedByLimit:
    """A trainer whose controller `StartLimit` has ended."""

    def __init__(self, reason, **what):
        self._reason, self._what = reason, what

    def fit(self):
        self._reason.write_text(json.dumps(self._what))
        raise GONE


def test_missing_nodes_end_the_stage_with_what_is_missing(tmp_path, monkeypatch):
    """Catches "the actor died", of which nobody learns that a node is gone and what is kept."""
    monkeypatch.setattr(group, "release_places", lambda: None)
    reason = tmp_path / "reason"
    ended = EndedByLimit(reason, lacks_room=True, text="waited 120 s for nodes: compute asks for 2")
    with pytest.raises(ClusterError, match=r"waited 120 s for nodes.*Add nodes.*is kept") as caught:
        group._fit(ended, reason)
    assert caught.value.exit_code == 7


def test_a_worker_that_never_answers_counts_as_lost(monkeypatch):
    """Catches a stage that ends at the first, and one that starts the group again for ever."""
    tried = []

    def trainer(_worker, _payload, _compute, _name, folder, losses):
        tried.append(losses)
        return EndedByLimit(folder / "reason", lacks_room=False, text="waited 120 s for a worker")

    monkeypatch.setattr(group, "_trainer", trainer)
    monkeypatch.setattr(group, "release_places", lambda: tried.append("released"))
    with pytest.raises(ClusterError, match=r"more than compute\.max_failures=1.*waited 120 s"):
        group.train_group(print, {}, TWO, name="stuck")
    assert tried == [0, "released", 1, "released"]


@quiet_ray_data
def test_no_actor_is_started_that_has_nothing_to_do(tmp_path, monkeypatch):
    """Catches two seconds of a core for each, at each start of a group; and a name that is Ray's no
    longer, with which they would come back unnoticed.
    """
    monkeypatch.setattr(group, "num_workers", lambda _compute: 2)
    monkeypatch.setattr(group, "uses_gpu", lambda _compute: False)
    trainer = group._trainer(print, {}, TWO, "idle", tmp_path, 0)
    every = super(group._Trainer, trainer)._create_default_callbacks()
    kept = trainer._create_default_callbacks()
    assert {type(one).__name__ for one in every} - {type(one).__name__ for one in kept} == {
        "DatasetsCallback",
        "PlacementGroupCleanerCallback",
    }


@pytest.mark.parametrize("is_ours", [True, False])
def test_only_on_another_s_cluster_are_processes_given_variables(monkeypatch, is_ours):
    """Catches a controller and workers that cannot be processes which were started ahead, and on
    another's cluster ones without our limits.
    """
    monkeypatch.setenv("RAY_TRAIN_COLLECTIVE_TIMEOUT_S", "300")
    if is_ours:
        monkeypatch.setenv(IS_OURS, "1")
    else:
        monkeypatch.delenv(IS_OURS, raising=False)
    asked = {}

    class Actor:
        run = get_result = SimpleNamespace(remote=lambda: None)

        def options(self, **options):
            asked.update(options)
            return self

        def remote(self, **_words):
            return self

    node = SimpleNamespace(get_node_id=lambda: "here")
    monkeypatch.setattr(ray, "get_runtime_context", lambda: node)
    monkeypatch.setattr(
        ray, "remote", lambda **options: asked.update(options) or (lambda _: Actor())
    )
    monkeypatch.setattr(ray, "get", lambda asked: asked)
    handler = signal.getsignal(signal.SIGINT)
    try:
        object.__new__(group._Trainer)._initialize_and_run_controller()
    finally:
        signal.signal(signal.SIGINT, handler)
    assert asked["num_cpus"] == 0
    assert list(asked["label_selector"].values()) == ["here"]
    given = group._WorkerGroup._get_worker_runtime_env({})
    for environment in (given, asked.get("runtime_env", {})):
        variables = environment.get("env_vars", {})
        assert ("RAY_TRAIN_COLLECTIVE_TIMEOUT_S" in variables) is not is_ours
        assert environment == {} or not is_ours


def test_one_interruption_ends_a_group_that_does_not_start(monkeypatch):
    """Catches a Ctrl-C that waits for a controller which hears nothing, and an end with code 0."""
    waited = []

    def get(_asked, timeout):
        waited.append(timeout)
        raise ray.exceptions.GetTimeoutError

    monkeypatch.setattr(ray, "get", get)
    deaf = SimpleNamespace(abort=SimpleNamespace(remote=lambda: None))
    before = signal.getsignal(signal.SIGINT)
    try:
        assert hasattr(ray.train.torch.TorchTrainer, "_register_sigint_handler")
        object.__new__(group._Trainer)._register_sigint_handler(deaf)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
    assert waited == [15.0], "a second one ends at once"


class GroupOfOne:
    """A group of Ray Train's with one worker: this process."""

    def __init__(self):
        self.ran, self.is_aborted = [], False

    def execute_async(self, function, *arguments, **words):
        return [self.execute_single_async(0, function, *arguments, **words)]

    def execute_single_async(self, rank, function, *arguments, **words):
        self.ran.append((rank, function.__name__))  # as Ray's does: a partial has none
        return function(*arguments, **words)

    def get_resources_per_worker(self):
        return {"CPU": 1.0}

    def __len__(self):
        return 1

    def abort(self):
        self.is_aborted = True


@pytest.fixture
def group_of_one(monkeypatch):
    monkeypatch.setattr("ray.util.get_node_ip_address", lambda: "127.0.0.1")
    monkeypatch.setattr(group, "_set_torch_distributed_env_vars", lambda: None)
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        monkeypatch.setenv(name, "lo")
    return GroupOfOne()


def test_ranks_meet_at_the_first_one_s_address_within_a_time(group_of_one, monkeypatch):
    """Catches a call to a worker that has no limit: one that is stopped holds up all for ever."""
    limits = []

    def get(found, timeout):
        limits.append(timeout)
        return found

    monkeypatch.setattr(ray, "get", get)
    group._GroupBackend().on_start(group_of_one, group._GroupConfig(timeout_s=30))
    try:
        assert torch.distributed.get_backend() == "gloo"
        assert torch.distributed.get_world_size() == 1
        assert [name for _, name in group_of_one.ran][-2:] == ["open_meeting_place", "meet"]
        assert set(limits) == {30}
        assert len(limits) == 4
    finally:
        torch.distributed.destroy_process_group()


def test_a_group_whose_worker_does_not_answer_is_given_up(group_of_one, monkeypatch):
    """Catches workers that go on, and hold their cores, after the start has failed."""

    def get(_found, timeout):
        raise ray.exceptions.GetTimeoutError(f"{timeout} s")

    monkeypatch.setattr(ray, "get", get)
    with pytest.raises(ray.exceptions.GetTimeoutError):
        group._GroupBackend().on_start(group_of_one, group._GroupConfig(timeout_s=30))
    assert group_of_one.is_aborted


@quiet_ray_data
@pytest.mark.long
@pytest.mark.ray
def test_an_error_for_the_user_comes_out_as_it_is_and_once(ray_here, tmp_path):
    """Catches Ray's wrapping, and restarts for an error that would come again; also that the
    other rank, which waits in a collective, does not hold it up.
    """
    payload = {"folder": str(tmp_path), "defect": False}
    with pytest.raises(DivergenceError) as caught:
        group.train_group(workers.fail_on_rank_1, payload, TWO, name="fail")
    assert str(caught.value) == "step 3: the loss is nan; lower the rate"
    assert (tmp_path / "attempts1").read_text() == "x"


@quiet_ray_data
@pytest.mark.ray
@pytest.mark.long
def test_lost_workers_are_replaced_so_often_and_no_more(ray_here, tmp_path):
    """Catches endless restarts, one too many, and an error that does not say what to do.

    That they are replaced at all shows the next test, and tests/faults/test_kill_training.py.
    """
    none = ComputeConfig(num_workers=2, max_failures=0)
    with pytest.raises(ClusterError, match=r"more than compute\.max_failures=0 times.*Run again"):
        group.train_group(workers.die_on_rank_1, {"folder": str(tmp_path)}, none, name="die")
    assert (tmp_path / "attempts1").read_text() == "x"


def stop_a_worker(stopped):
    """Stop the first worker of a group that is seen, which has not met the others then."""
    deadline = time.monotonic() + 60
    while not stopped and time.monotonic() < deadline:
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if " ".join(process.cmdline()).startswith("ray::RayTrainWorker"):
                    process.suspend()
                    stopped.append(process)
                    return
        time.sleep(0.05)


@quiet_ray_data
@pytest.mark.ray
@pytest.mark.long
def test_a_worker_that_stops_while_the_group_starts_is_replaced(
    ray_here, tmp_path, monkeypatch, caplog
):
    """Catches a group that, begun again, waits for cores that its own predecessor has taken.

    And of any group: threads of the whole node in every worker, and ranks that are not one group;
    also a port of Ray's, of torch's store or of gloo's that others than this machine reach.
    """
    true_trainer, stopped = group._trainer, []

    def trainer(worker, payload, compute, name, folder, losses):
        soon_over = compute.model_copy(update={"collective_timeout_s": 120 if losses else 30})
        return true_trainer(worker, payload, soon_over, name, folder, losses)

    monkeypatch.setattr(group, "_trainer", trainer)
    stopper = threading.Thread(target=stop_a_worker, args=(stopped,))
    stopper.start()
    payload = {"folder": str(tmp_path), "driver": os.getpid()}
    try:
        group.train_group(workers.meet, payload, TWO, name="stop")
    finally:
        stopper.join()
        for process in stopped:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
    assert len(stopped) == 1
    assert (tmp_path / "open").read_text() == ""
    assert (tmp_path / "0").read_text() == "0 2 cpu 1.0 1"
    assert (tmp_path / "1").read_text() == "1 2 cpu 1.0 1"
    (said,) = [
        r.getMessage() for r in caplog.records if "while the group started" in r.getMessage()
    ]
    assert "for the answer of a worker" in said
