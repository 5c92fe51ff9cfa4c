"""A worker that does not answer is said, while Ray Train still waits for it."""

from types import SimpleNamespace

import pytest

from ddpm_core.cluster import silence


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(time=1000.0)
    monkeypatch.setattr("time.monotonic", lambda: now.time)
    return now


def group_of(*addresses):
    """Return what Ray Train knows of a group, all of whose workers answer."""
    workers = [SimpleNamespace(metadata=SimpleNamespace(node_ip=ip)) for ip in addresses]
    return SimpleNamespace(
        get_workers=lambda: workers,
        _world_rank_to_ongoing_poll={},
        _worker_health_check_timeout_s=60.0,
    )


def said_after(watch, clock, group, seconds, capsys):
    """Poll every two seconds, as Ray Train does, and return what was said."""
    for _ in range(seconds // 2):
        clock.time += 2
        watch.after_worker_group_poll_status(None)
    return capsys.readouterr().err.splitlines()


def test_who_does_not_answer_is_said_once_with_place_and_limit(clock, capsys):
    """Catches a minute without a word, a line every two seconds, and another rank's node."""
    group, watch = group_of("10.0.0.1", "10.0.0.2", "10.0.0.3"), silence.Silence()
    watch.after_worker_group_start(group)
    assert not said_after(watch, clock, group, 100, capsys)
    group._world_rank_to_ongoing_poll[1] = SimpleNamespace(start_time=clock.time)
    assert not said_after(watch, clock, group, 18, capsys)
    assert said_after(watch, clock, group, 30, capsys) == [
        "warning: for 20 s the training has been waiting for an answer of rank 1 on 10.0.0.2: of "
        "3 worker(s) 2 answer(s); after 60 s it counts as lost, and the group starts again from "
        "the newest checkpoint, if compute.max_failures allows it"
    ]


def test_it_is_said_again_of_another_silence(clock, capsys):
    """Catches a rank that is never spoken of again: in a new group, or after it had answered."""
    group, watch = group_of("10.0.0.1"), silence.Silence()
    watch.after_worker_group_start(group)
    for _ in range(2):
        group._world_rank_to_ongoing_poll[0] = SimpleNamespace(start_time=clock.time)
        assert len(said_after(watch, clock, group, 40, capsys)) == 1
        group._world_rank_to_ongoing_poll.clear()
        assert not said_after(watch, clock, group, 4, capsys)
    for again in (group_of("10.0.0.1"), group_of("10.0.0.1")):
        watch.after_worker_group_start(again)
        again._world_rank_to_ongoing_poll[0] = SimpleNamespace(start_time=clock.time)
        assert len(said_after(watch, clock, again, 40, capsys)) == 1


def test_ray_train_has_what_is_read_of_it(monkeypatch):
    """Catches a release of Ray that names otherwise what only it knows."""
    from ray.train.v2._internal.execution.worker_group import worker_group
    from ray.train.v2._internal.execution.worker_group.poll import PollTask

    monkeypatch.setenv("RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S", "7")
    context = SimpleNamespace(run_config=SimpleNamespace(storage_context=None), backend_config=None)
    group = worker_group.WorkerGroup(context, None)
    assert group._world_rank_to_ongoing_poll == {}
    assert group._worker_health_check_timeout_s == 7
    assert "start_time" in PollTask.__dataclass_fields__
