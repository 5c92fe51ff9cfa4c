"""A group that does not start: what is waited for is said, and it ends."""

from types import SimpleNamespace

import pytest
import ray
from ray._raylet import PlacementGroupID

from ddpm_core.cluster import start
from ddpm_core.config import ComputeConfig

OWN, OTHER = "e98e8ac824b4aa059209eefd1e18", "cb6f8dd47b861e1dd6dbe6010300"
TWO = ComputeConfig(num_workers=2, cpus_per_worker=3, use_gpu=False, collective_timeout_s=60)


@pytest.fixture
def cluster(monkeypatch):
    """What Ray knows: nodes, placement groups; and a clock that `wait` moves."""

    class Known:
        nodes, time = [6.0], 0.0

        def __init__(self):
            self.groups = {f"{OTHER}02000000": {"state": "PENDING"}}

        def wait(self, seconds):
            self.time += seconds
            return False

    known = Known()
    monkeypatch.setattr(
        "ray.nodes",
        lambda: [{"Alive": True, "Resources": {"CPU": float(n)}} for n in known.nodes],
    )
    monkeypatch.setattr("ray.available_resources", lambda: {"CPU": 1.0})
    monkeypatch.setattr("ray.util.placement_group_table", lambda: known.groups)
    job = SimpleNamespace(get_job_id=lambda: "01000000")
    monkeypatch.setattr("ray.get_runtime_context", lambda: job)
    monkeypatch.setattr("time.monotonic", lambda: known.time)
    return known


class EndedError(Exception):
    pass


def run(cluster, tmp_path, monkeypatch, capsys):
    """Watch until it ends the process; return how, when, and what was said before."""

    def end(code):
        raise EndedError(code)

    monkeypatch.setattr("os._exit", end)
    with pytest.raises(EndedError):
        start.StartLimit(TWO, tmp_path / "reason")._watch(cluster)
    said = capsys.readouterr().err.splitlines()
    return *start.read_reason(tmp_path / "reason"), cluster.time, said


def test_a_node_that_is_gone_is_said_and_waited_for_so_long(cluster, tmp_path, monkeypatch, capsys):
    """Catches five minutes without a step, an end or a sentence."""
    cluster.nodes = [3.0]
    text, lacks_room, ended, said = run(cluster, tmp_path, monkeypatch, capsys)
    have = "compute asks for 2 worker(s) with 3 CPU each; the cluster has room for 1 (its nodes: 3 "
    assert have in text
    assert lacks_room
    assert 60 < ended < 65
    assert len(said) == 1, "after 30 s, then every 30 s"
    assert said[0].startswith("warning: for 31 s the training has been waiting for nodes: compute")
    assert have in said[0]
    assert said[0].endswith("it ends after 60 s")


def test_cores_that_others_use_are_waited_for_longer(cluster, tmp_path, monkeypatch, capsys):
    """Catches a second training on a busy cluster that gives up as if nodes were missing."""
    cluster.groups = {
        f"{OTHER}02000000": {"state": "CREATED"},
        f"{OWN}01000000": {"state": "PENDING"},
    }
    text, lacks_room, ended, said = run(cluster, tmp_path, monkeypatch, capsys)
    assert "cores that others use" in text
    assert "1 CPU and 0 GPU are free" in text
    assert lacks_room
    assert 360 < ended < 365
    assert len(said) == 11


def test_a_worker_that_does_not_answer_is_a_lost_worker(cluster, tmp_path, monkeypatch, capsys):
    """Catches one that was stopped while the group starts: Ray waits for it for ever. Also a group
    of another job, which waits for cores, taken for this one's.
    """
    cluster.groups |= {
        f"{OWN}01000000": {"state": "CREATED"},
        f"{OTHER}01000000": {"state": "REMOVED"},
    }
    text, lacks_room, ended, _ = run(cluster, tmp_path, monkeypatch, capsys)
    assert "the answer of a worker" in text
    assert not lacks_room
    assert 60 < ended < 65


def test_a_group_that_has_started_is_not_watched(cluster, tmp_path):
    """Catches an end in the middle of a training."""
    limit = start.StartLimit(TWO, tmp_path / "reason")
    limit.before_worker_group_start(None)
    over = limit._over
    assert not over.is_set()
    limit.before_worker_group_start(None)
    assert over.is_set(), "an attempt that failed is over when the next begins"
    again = limit._over
    limit.after_worker_group_training_start(None)
    assert again.is_set()
    assert not (tmp_path / "reason").exists()
    assert start.read_reason(tmp_path / "reason") is None


def test_the_places_of_a_group_that_was_given_up_are_given_back(cluster, monkeypatch):
    """Catches a group that waits for its own cores, and the places of another job that are lost."""
    removed = []
    monkeypatch.setattr("ray.util.remove_placement_group", lambda group: removed.append(group.id))
    cluster.groups |= {
        f"{OWN}01000000": {"state": "CREATED"},
        f"{OTHER}01000000": {"state": "REMOVED"},
    }
    start.release_places()
    assert [one.hex() for one in removed] == [f"{OWN}01000000"]


def test_a_placement_group_s_identity_ends_with_its_job_s():
    """Catches a release of Ray that counts otherwise."""
    job = ray.JobID.from_int(7)
    assert PlacementGroupID.of(job).hex().endswith(job.hex())


def test_it_travels_to_the_controller(tmp_path):
    """Catches an event or a thread in what Ray has to pickle."""
    limit = start.StartLimit(TWO, tmp_path / "reason")
    limit.before_worker_group_start(None)
    assert limit.__getstate__() == {**vars(limit), "_over": None}
    limit.after_worker_group_training_start(None)
