"""The flow on a Prefect server and on a Ray cluster of the user's, started as users do."""

import hashlib
import json
import re
import shutil
import sys
import time

import pytest

from tests.end_to_end.conftest import (
    SMALL,
    ended,
    fetched,
    free_port,
    names_in,
    small_sets,
    wait_for,
)

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(1500)]
# Many steps after the first checkpoint: the run is cancelled while it takes them. Not so many
# that continuing it takes long.
LONGER = SMALL | {"train.num_steps": 600, "train.checkpoint_every": 50}
ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
# Prefect's own: each of its runners makes a folder in it, for code that it would have to fetch.
RUNNERS = "runner_storage"


def test_deployment_is_cancelled_and_continued_on_a_prefect_server(shell, tmp_path):
    """Catches: a prefect.yaml that does not deploy, parameters that do not match the flow, a job
    that outlives its cancelled flow run, a cancelled run that cannot be continued.

    One test for all, since server, worker and Ray take a minute to start.
    """
    port = free_port()
    api = {
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    }
    start = ("prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port))
    with ended(shell.start(*start, log=tmp_path / "server.log", **api)):
        wait_for(lambda: fetched(f"{api['PREFECT_API_URL']}/health"), 240, "Prefect server")
        shell.run("prefect", "work-pool", "create", "local", "--type", "process", **api)
        deploy = ("prefect", "--no-prompt", "deploy", "--all")
        shell.run(*deploy, "--prefect-file", "infra/prefect.yaml", **api)
        start = ("prefect", "worker", "start", "--pool", "local", "--type", "process")
        with ended(shell.start(*start, log=tmp_path / "worker.log", **api)):
            root = tmp_path / "root"
            given = {"root": str(root), "overrides": LONGER}
            assert_cancelling_stops_the_job(shell, given, root / "runs/digits", api)
            assert "stopping the job" in (tmp_path / "worker.log").read_text()
            shell.run(
                "prefect", "deployment", "run", "train-ddpm/local", "--watch",
                "-p", f"root={root}", "-p", f"overrides={json.dumps(LONGER)}", **api,
            )  # fmt: skip
        assert_continued(root / "runs/digits")
    left = list((shell.temp / RUNNERS).rglob("*"))
    assert not [path for path in left if not path.is_dir()]
    shutil.rmtree(shell.temp / RUNNERS)
    shell.assert_nothing_is_left()


def assert_cancelling_stops_the_job(shell, given, folder, api):
    """Cancel while it trains; what was running before, server and worker, may be running after.

    Run and cancelled by requests, as by the server's page: each of Prefect's commands takes five
    seconds of a core.
    """
    others, files = set(shell.processes()), names_in(shell.temp)

    def asked(path, **body):
        url = f"{api['PREFECT_API_URL']}/{path}"
        return json.loads(fetched(url, json.dumps(body).encode() if body else None) or "null")

    deployment = asked("deployments/name/train-ddpm/local")["id"]
    flow_run = asked(f"deployments/{deployment}/create_flow_run", parameters=given)["id"]
    checkpoints = folder / "checkpoints"
    wait_for((checkpoints / "step_00000050/manifest.json").exists, 400, "first checkpoint")
    # The flow copies the job's log each second; what comes in the last one before its end is lost.
    wait_for(lambda: any(map(has_begun, logs_of(folder))), 60, "the first line of the training")
    cancelling = {"type": "CANCELLING", "name": "Cancelling"}
    assert asked(f"flow_runs/{flow_run}/set_state", state=cancelling)["status"] == "ACCEPT"

    def state():
        found = asked(f"flow_runs/{flow_run}")
        return found["state"]["type"] if found else "unknown"

    wait_for(lambda: state() in ENDED, 120, "end of the flow run")
    assert state() == "CANCELLED"
    wait_for(lambda: not set(shell.processes()) - others, 60, "end of the flow and of its Ray")
    # The worker removes its folders of a flow run a moment after the flow's processes are gone.
    wait_for(lambda: names_in(shell.temp) - files <= {RUNNERS}, 60, "an empty temporary folder")
    committed = sorted(checkpoints.glob("*/manifest.json"))
    assert not (checkpoints / f"step_{LONGER['train.num_steps']:08d}").exists()
    for record in json.loads(committed[-1].read_text())["files"].values():
        content = (committed[-1].parent / record["name"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == record["sha256"]


def logs_of(folder):
    return [path.read_text() for path in folder.glob("logs/digits-train-*.log")]


def has_begun(log):
    return " steps  begins" in log


def assert_continued(folder):
    trainings = logs_of(folder)
    assert sum(map(has_begun, trainings)) == 1
    assert sum("continues from the checkpoint of step" in log for log in trainings) == 1
    assert list(folder.glob("evaluation/*/manifest.json"))


def submitted(shell, *command, **extra):
    """Run the command as soon as the head's agent takes jobs: the head answers before it does."""
    for _ in range(60):
        try:
            return shell.run(*command, **extra)
        except AssertionError as error:
            if "No available agent" not in str(error):
                raise
        time.sleep(2)
    raise AssertionError("no agent of the Ray head took the job within two minutes")


@pytest.mark.skipif(
    " " in sys.executable, reason="ray start (Ray 2.60) fails where the path of Python has a space"
)
def test_training_and_flow_on_a_ray_cluster(shell, sets, tmp_path):
    """Catches: a package that does not import from a working directory, or needs the flow; a flow
    that does only what its own Ray allows.

    One test for the two, since they need the same cluster.
    """
    port, token, temp = free_port(), tmp_path / "token", shell.temp / "head"
    url = f"http://127.0.0.1:{port}"
    temp.mkdir()
    token.write_text("e2e-" + "0" * 60)
    token.chmod(0o600)
    auth = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    head = (
        "ray", "start", "--head", "--block", "--node-ip-address=127.0.0.1",
        f"--port={free_port()}", "--dashboard-host=127.0.0.1", f"--dashboard-port={port}",
        f"--temp-dir={temp}/ray", "--num-cpus=2", "--object-store-memory=200000000",
    )  # fmt: skip
    with ended(shell.start(*head, log=tmp_path / "ray.log", TMPDIR=str(temp), **auth)):
        wait_for(lambda: fetched(f"{url}/api/gcs_healthz"), 240, "Ray head")
        root = tmp_path / "root"
        flow = (sys.executable, "-m", "flows.train_ddpm", "digits", "--root", str(root), *sets)
        out = shell.run(*flow, "--run", "by-flow", "--ray-address", url, **auth)
        assert "bits/dim" in out
        assert "starting Ray" not in out
        jobs = fetched(f"{url}/api/jobs/", Authorization=f"Bearer {token.read_text()}").decode()
        stages = set(re.findall(r"by-flow-(shard|train|sample|evaluate)-[\w-]+-a1", jobs))
        assert stages == {"shard", "train", "sample", "evaluate"}
        assert list(root.glob("runs/by-flow/evaluation/*/manifest.json"))
        out = submitted(
            shell, "ray", "job", "submit", "--address", url, "--working-dir", ".", "--",
            "python", "-m", "ddpm_core", "train", "digits", "--root", str(root),
            *small_sets({"compute.num_workers": 2}), **auth,
        )  # fmt: skip
        assert "succeeded" in out
        final = f"checkpoints/step_{SMALL['train.num_steps']:08d}/manifest.json"
        assert (root / "runs/digits" / final).exists()
    # A cluster is its owner's, and so is what it leaves: Ray's logs; what its dashboard, a child
    # of multiprocessing, kept its sockets in; the cache folder that torch makes when imported.
    vendors = ("ray", "pymp-", "torchinductor_")
    assert not [name for name in names_in(temp) if not name.startswith(vendors)]
    shutil.rmtree(temp)
    shell.assert_nothing_is_left()
