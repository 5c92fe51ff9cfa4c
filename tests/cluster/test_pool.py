"""Pools that share out units: each is made, whatever dies, and errors come out as they are."""

import psutil
import pytest
import ray.exceptions

from ddpm_core import cluster
from ddpm_core.cluster import kept, pool
from ddpm_core.config import ComputeConfig
from ddpm_core.errors import ClusterError, DivergenceError, StorageError
from tests.cluster import workers

pytestmark = [pytest.mark.ray, pytest.mark.long]
TWO = ComputeConfig(num_workers=2, max_failures=2)


def run(folder, units, **payload):
    """Return {unit: result} and how often each unit was begun."""
    done = {}

    def on_done(unit, result):
        assert unit not in done
        done[unit] = result

    payload["folder"] = str(folder)
    cluster.map_units(workers.squares, payload, units, TWO, on_done=on_done)
    begun = {unit: (folder / f"unit{unit}").stat().st_size for unit in units}
    return done, begun


def test_every_unit_is_made_once(ray_here, tmp_path):
    """Catches a unit that is lost or made twice, and results given to another unit."""
    done, begun = run(tmp_path, list(range(9)))
    assert done == {unit: (unit * unit, "cpu") for unit in range(9)}
    assert set(begun.values()) == {1}


def test_no_units_need_no_actors(ray_here, tmp_path):
    """Catches a wait for actors that were never started."""
    assert run(tmp_path, []) == ({}, {})


def test_units_of_dead_actors_are_made_again(ray_here, tmp_path):
    """Catches a unit that dies with its actor, and units that were finished made again."""
    done, begun = run(tmp_path, list(range(6)), deadly=[1, 4])
    assert done == {unit: (unit * unit, "cpu") for unit in range(6)}
    assert begun == {0: 1, 1: 2, 2: 1, 3: 1, 4: 2, 5: 1}


def test_a_unit_that_always_kills_ends_it(ray_here, tmp_path):
    """Catches endless replacing."""
    with pytest.raises(ClusterError, match=r"died 3 times, compute\.max_failures=2 allows no more"):
        run(tmp_path, [0, 1], deadly=[1], always=True)


def test_an_error_for_the_user_comes_out_as_it_is(ray_here, tmp_path):
    """Catches Ray's wrapping, and another actor that tries again what cannot succeed."""
    with pytest.raises(DivergenceError) as caught:
        run(tmp_path, [0, 1, 2], bad=1)
    assert str(caught.value) == "unit 1 is not finite"
    assert (tmp_path / "unit1").stat().st_size == 1


def test_an_error_while_the_worker_is_made_comes_out_as_it_is(ray_here, tmp_path):
    """Catches an error in the constructor that Ray reports as a dead actor, and replaces."""
    with pytest.raises(StorageError, match=r"^s3://nowhere does not answer$"):
        run(tmp_path, [0, 1], refuse_to_start=True)


def test_a_defect_comes_out_with_its_traceback(ray_here, tmp_path):
    """Catches a defect that is retried as if the actor had died."""
    with pytest.raises(ray.exceptions.RayTaskError, match="in square"):
        run(tmp_path, [0], defect=0)
    assert (tmp_path / "unit0").stat().st_size == 1


def test_a_unit_of_a_stuck_actor_is_given_to_another(ray_here, tmp_path, monkeypatch):
    """Catches a stage that waits for ever for a file system or a device that does not answer."""
    monkeypatch.setenv("DDPM_STUCK_AFTER_S", "15")
    monkeypatch.setattr(pool, "_LOOK_EVERY_S", 1.0)
    done, begun = run(tmp_path, [0, 1, 2], stuck=1)
    assert done == {unit: (unit * unit, "cpu") for unit in range(3)}
    assert begun == {0: 1, 1: 2, 2: 1}


def held(folder, number, compute=TWO, **payload):
    """Return what a pool of two holds, by process."""
    done = {}
    payload |= {"folder": str(folder), "number": number}
    cluster.map_units(workers.holders, payload, [0, 1], compute, on_done=done.__setitem__)
    return dict(done.values())


def test_actors_go_on_to_the_next_pool_without_what_they_held(ray_here, tmp_path):
    """Catches processes that start and import anew for each stage, and the networks of one stage
    that fill the memory of the next.
    """
    kept.release()
    first = held(tmp_path, 1)
    assert list(first.values()) == [[1], [1]]
    assert held(tmp_path, 2) == {pid: [2] for pid in first}


def test_a_kept_actor_that_has_died_is_replaced(ray_here, tmp_path):
    """Catches a stage that waits for an actor, or fails, which ended after the stage before: that
    is none of the deaths which this one allows.
    """
    kept.release()
    gone, stays = held(tmp_path, 1)
    psutil.Process(gone).kill()
    after = held(tmp_path, 2, TWO.model_copy(update={"max_failures": 0}))
    assert stays in after
    assert gone not in after


def test_a_pool_that_fails_leaves_no_actor(ray_here, tmp_path):
    """Catches cores, and the memory of a stage that failed, held by processes without work."""
    kept.release()
    before = held(tmp_path, 1)
    with pytest.raises(DivergenceError):
        held(tmp_path, 2, bad=1)
    assert not kept._kept
    psutil.wait_procs([psutil.Process(pid) for pid in before if psutil.pid_exists(pid)], timeout=20)
    assert not [pid for pid in before if psutil.pid_exists(pid)]
