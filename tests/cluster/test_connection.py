"""Joining or starting a cluster; an early error for what it cannot hold."""

import os
import subprocess
import sys

import pytest
from ray._private.worker import _maybe_modify_runtime_env

from ddpm_core import cluster, machine
from ddpm_core.cluster import connection
from ddpm_core.cluster.connection import one_line
from ddpm_core.config import ComputeConfig
from ddpm_core.errors import ClusterError, ConfigError


@pytest.mark.parametrize(
    ("node", "cpus", "gpu", "slots"),
    [
        ({"CPU": 4.0}, 1, False, 4),
        ({"CPU": 4.0}, 3, False, 1),
        ({"CPU": 2.0}, 3, False, 0),
        ({"CPU": 8.0, "GPU": 2.0}, 1, True, 2),
        ({"CPU": 2.0, "GPU": 8.0}, 2, True, 1),
        ({"GPU": 1.0}, 1, False, 0),
    ],
)
def test_a_worker_fits_on_one_node_or_not_at_all(node, cpus, gpu, slots):
    """Catches CPUs of several nodes added up for one worker, and GPUs that are not counted."""
    assert connection._slots(node, cpus, gpu=gpu) == slots


@pytest.mark.parametrize(
    ("wanted", "gpus", "use_gpu", "expected"),
    [
        (2, (1,), None, 1),
        (8, (4, 2), None, 4),
        (8, (3,), None, 2),
        (2, (4,), None, 2),
        (2, (), None, 2),
        (2, (1,), False, 2),
        (2, (1,), True, 2),
    ],
)
def test_not_more_workers_than_gpus_that_are_used_unasked(
    monkeypatch, wanted, gpus, use_gpu, expected
):
    """Catches a recipe for two cores that is refused by a machine of one GPU, a number of workers
    that does not divide the batch, and an explicit wish that is not followed.
    """
    nodes = [{"Alive": True, "Resources": {"CPU": 16.0, "GPU": float(n)}} for n in gpus]
    nodes.append({"Alive": True, "Resources": {"CPU": 16.0}})
    monkeypatch.setattr("ray.nodes", lambda: nodes)
    monkeypatch.setattr("ray.cluster_resources", lambda: {"GPU": sum(gpus)})
    compute = ComputeConfig(num_workers=wanted, use_gpu=use_gpu)
    assert connection.num_workers(compute) == expected
    if use_gpu and expected > sum(gpus):
        with pytest.raises(ConfigError, match="2 worker"):
            connection._preflight(compute, patience_s=0)
    else:
        connection._preflight(compute, patience_s=0)


def test_workers_that_are_left_out_are_reported(monkeypatch, caplog):
    """Catches a cluster whose GPUs are fewer than was thought, and nobody learns of it."""
    node = {"Alive": True, "Resources": {"CPU": 16.0, "GPU": 1.0}}
    monkeypatch.setattr("ray.nodes", lambda: [node])
    monkeypatch.setattr("ray.cluster_resources", lambda: {"GPU": 1.0})
    connection._preflight(ComputeConfig(num_workers=2), patience_s=0)
    (record,) = caplog.records
    assert "GPUs for 1 of compute.num_workers=2 worker(s): 1 will work" in record.getMessage()


@pytest.mark.parametrize("address", ["http://127.0.0.1:8265", "ray://head:10001"])
def test_an_address_of_the_wrong_kind_is_refused(monkeypatch, address):
    """Catches Ray Client, on which Ray Train does not work, and minutes of waiting."""
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ClusterError, match="is the address of the Jobs API or of Ray Client"):
        cluster.connect(ComputeConfig())


def test_an_address_where_nobody_is_fails_in_seconds(monkeypatch):
    """Catches Ray's own wait of over ten minutes."""
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(ClusterError, match=r"no Ray cluster at '127\.0\.0\.1:1': Connection"):
        cluster.connect(ComputeConfig())


class FakeRay:
    """Our own Ray, as far as a connection knows it."""

    def __init__(self, *, num_cpus, takes_jobs):
        assert not takes_jobs
        self.num_cpus, self.closed = num_cpus, False
        self.scratch = None
        self.environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": "/private/token"}

    def address(self):
        return "127.0.0.1:6379"

    def is_running(self):
        return True

    def close(self):
        self.closed = True


@pytest.fixture
def own_ray(monkeypatch):
    """Return the Rays that were started."""
    started = []

    def start(**words):
        started.append(FakeRay(**words))
        return started[-1]

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "the user's")
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    monkeypatch.setattr(connection, "OwnRay", start)
    monkeypatch.setattr(machine, "cores", lambda: 4)
    return started


def test_a_ray_that_does_not_join_is_one_error_and_ends(monkeypatch, own_ray):
    """Catches a traceback on a busy machine, where Ray raises a bare Exception, and leftovers."""

    def init(**words):
        assert words["address"] == "127.0.0.1:6379"
        assert os.environ["RAY_AUTH_TOKEN_PATH"] == "/private/token"  # noqa: S105 - its place
        assert "RAY_AUTH_TOKEN" not in os.environ, "it would be used instead"
        raise Exception("The current node timed out during startup.")  # noqa: TRY002

    monkeypatch.setattr("ray.init", init)
    before = dict(os.environ)
    with pytest.raises(ClusterError, match=r"no Ray cluster at '127.*': .*node timed out"):
        cluster.connect(ComputeConfig())
    assert own_ray[0].closed
    proxies = {"no_proxy", "NO_PROXY"}
    assert {k: v for k, v in os.environ.items() if k not in proxies} == {
        k: v for k, v in before.items() if k not in proxies
    }


def test_workers_of_our_own_ray_are_not_started_by_uv(monkeypatch, own_ray):
    """Catches the variable that Ray read when it was imported, and so too late: below `uv run`
    each worker ran `uv run` in a copy of the folder, or nothing started.
    """
    monkeypatch.setattr(
        "ray._private.runtime_env.uv_runtime_env_hook._get_uv_run_cmdline",
        lambda: ["uv", "run", "ddpm", "train", "digits"],
    )
    asked = []

    def init(**_words):
        asked.append(_maybe_modify_runtime_env({}, _skip_env_hook=False))
        raise OSError

    monkeypatch.setattr("ray.init", init)
    with pytest.raises(ClusterError):
        cluster.connect(ComputeConfig())
    assert asked == [{}]
    assert _maybe_modify_runtime_env({}, _skip_env_hook=False) != {}, (
        "a cluster of others is theirs"
    )


@pytest.mark.parametrize(("workers", "each", "cpus"), [(2, 1, 2), (1, 3, 3), (64, 2, 4)])
def test_our_own_ray_has_as_many_cores_as_configured(monkeypatch, own_ray, workers, each, cpus):
    """Catches 128 workers started ahead on 128 cores, and more cores than the machine gives."""

    def init(**_words):
        raise OSError

    monkeypatch.setattr("ray.init", init)
    with pytest.raises(ClusterError):
        cluster.connect(ComputeConfig(num_workers=workers, cpus_per_worker=each))
    assert own_ray[0].num_cpus == cpus


LOST = """
import sys, time
from ddpm_core.cluster import connection
from ddpm_core.config import ComputeConfig

class Lost:
    closed = False
    def __init__(self, **_): self.environment, self.scratch = {}, None
    def address(self): return "127.0.0.1:1"
    def is_running(self): return False
    def close(self): print("closed", flush=True)

connection.OwnRay = Lost
connection._init = lambda _: None
own = connection._Own(ComputeConfig())
own.join()
time.sleep(60)
"""


def test_the_end_of_our_own_ray_is_one_sentence_and_a_code():
    """Catches Ray's C++ lines, an abort, advice about a RAY_ADDRESS that nobody has set."""
    done = subprocess.run([sys.executable, "-c", LOST], capture_output=True, text=True, check=False)
    assert done.returncode == 7
    assert done.stdout == "closed\n", "what it left is removed before"
    (line,) = done.stderr.splitlines()
    assert line.startswith("the Ray that was started here for this command has ended: ")
    assert line.endswith("The same command continues what was saved")


def test_a_message_of_ray_becomes_one_line():
    """Catches a traceback pasted into an error message."""
    assert one_line(RuntimeError("Traceback\n  File x\nKeyError: 'a'\n\n")) == (
        "RuntimeError: KeyError: 'a'"
    )
    assert one_line(RuntimeError()) == "RuntimeError: "


@pytest.mark.ray
def test_too_few_cpus_are_named_with_the_key_to_change(ray_here):
    """Catches Ray's endless wait for resources that never come."""
    with pytest.raises(
        ConfigError,
        match=r"asks for 500 worker\(s\) with 2 CPU each; the cluster has room for \d+ "
        r"\(its nodes: \d+ CPU 0 GPU\)\. Lower compute\.num_workers or compute\.cpus_per_worker",
    ):
        cluster.connect(ComputeConfig(num_workers=500, cpus_per_worker=2))
    with pytest.raises(ConfigError, match=r"1 CPU and 1 GPU each.*set compute\.use_gpu=false"):
        cluster.connect(ComputeConfig(use_gpu=True))


@pytest.mark.ray
def test_connecting_twice_neither_starts_nor_ends_a_cluster(ray_here):
    """Catches a stage that shuts down what its caller goes on using."""
    import ray

    with cluster.connect(ComputeConfig()):
        pass
    assert ray.is_initialized()


@pytest.mark.ray
def test_a_stage_joins_the_cluster_of_the_environment_and_leaves_it_running(ray_here):
    """Catches a second cluster started inside a Ray job, and one that is shut down by a guest."""
    import ray

    here = ray.get_runtime_context().gcs_address
    code = (
        "import ray; from ddpm_core import cluster; from ddpm_core.config import ComputeConfig\n"
        "with cluster.connect(ComputeConfig(num_workers=2)):\n"
        "    print('joined', ray.get_runtime_context().gcs_address)\n"
        "assert not ray.is_initialized()"
    )
    env = {**os.environ, "RAY_ADDRESS": here}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
    )
    assert f"joined {here}" in done.stdout
    assert len(ray.nodes()) == 1
    assert ray.nodes()[0]["Alive"]


@pytest.mark.parametrize(("gpus", "use_gpu"), [(0, None), (1, None), (1, False)])
def test_graphs_that_nothing_comes_of_are_mentioned_once(gpus, use_gpu, monkeypatch, caplog):
    """Catches a switch that silently does nothing, and one that fails where there is no GPU."""
    monkeypatch.setattr("ray.cluster_resources", lambda: {"GPU": float(gpus)})
    for wanted in (True, False):
        compute = ComputeConfig(use_gpu=use_gpu, cuda_graphs=wanted)
        connection._say_what_is_ignored(compute)
    is_used = gpus and use_gpu is None
    assert caplog.text.count("compute.cuda_graphs=true changes nothing here") == (not is_used)
