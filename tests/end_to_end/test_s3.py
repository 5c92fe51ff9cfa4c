"""The pipeline with everything on a real S3 server, held against the same on a disk."""

import json
import re
import signal
import sys
import uuid

import pytest

from ddpm_core.store.storage import Store, open_store, sha256_of
from tests.end_to_end.conftest import PROJECT, SMALL, ended, fetched, free_port, names_in, wait_for
from tests.real_s3 import BUCKET

pytestmark = [pytest.mark.end_to_end, pytest.mark.s3, pytest.mark.timeout(1800)]
pytest_plugins = ["tests.s3_fixtures"]
RUN = (sys.executable, "-m", "flows.train_ddpm", "digits")
# Made by what may run beside these tests.
CACHES = {".pytest_cache", ".hypothesis", ".mypy_cache", ".ruff_cache", ".import_linter_cache"}
FINAL = f"runs/digits/checkpoints/step_{SMALL['train.num_steps']:08d}"


def digests(store: Store, folder: str) -> dict[str, str]:
    """Return the SHA-256 of each object below the folder."""
    found = {}
    for name in store.names(folder):
        key = f"{folder}/{name}"
        if store.exists(key):
            found[key] = sha256_of(store.read(key))
        else:
            found |= digests(store, key)
    return found


def test_a_run_on_s3_is_the_run_on_a_disk_although_both_were_killed(
    shell, sets, tmp_path, real_s3_server, finished
):
    """Catches: a stage that needs a local root, bytes that depend on where they lie, what is left
    on the disk and should be in the store, a restart of the server that costs bits.

    One test for all, since each part needs the result of the one before.
    """
    there = open_store(f"s3://{BUCKET}/{uuid.uuid4().hex}")
    files_before = names_in(PROJECT) - CACHES
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    s3 = real_s3_server.environment | {"MLFLOW_TRACKING_URI": url}
    mlflow = (
        "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{tmp_path}/mlflow.db",
        "--artifacts-destination", str(tmp_path / "artifacts"),
    )  # fmt: skip
    # Its locks are its own; its jobs would leave folders in shared memory, and we ask for none.
    own = {"TMPDIR": str(tmp_path), "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with ended(shell.start(*mlflow, log=tmp_path / "mlflow.log", **own)):
        wait_for(lambda: fetched(f"{url}/health") is not None, 240, "MLflow server")
        servers = set(shell.processes())
        flow = shell.start(*RUN, "--root", there.uri, *sets, log=tmp_path / "killed.log", **s3)
        first = "runs/digits/checkpoints/step_00000010/manifest.json"
        wait_for(lambda: there.exists(first) or flow.poll() is not None, 400, "first checkpoint")
        real_s3_server.kill("rgw", "osd")
        real_s3_server.start()
        assert flow.poll() is None, (tmp_path / "killed.log").read_text()
        flow.send_signal(signal.SIGKILL)
        flow.wait()
        wait_for(lambda: not set(shell.processes()) - servers, 60, "end of the flow's own Ray")
        out = shell.run(*RUN, "--root", there.uri, *sets, **s3)
        assert "bits/dim" in out
        assert re.search(rf"^grid +{there.uri}/runs/digits/samples/\S+\.png$", out, re.MULTILINE)
        assert url in out
        again = shell.run(*RUN, "--root", there.uri, *sets, **s3)
        assert "done already; nothing was started" in again
        assert_mlflow_has(url)
    here = open_store(str(finished.root))
    for folder in ("datasets", FINAL, "runs/digits/samples", "runs/digits/evaluation"):
        assert digests(there, folder) == digests(here, folder) != {}, folder
    assert names_in(PROJECT) - CACHES == files_before
    kinds = ("*.safetensors", "*.tar", "mlruns", "mlflow.db", "manifest.json")
    assert not [path for kind in kinds for path in shell.home.rglob(kind)]
    shell.assert_nothing_is_left()


def assert_mlflow_has(url: str) -> None:
    """See that the server has the run's curve, its numbers and its files."""
    body = json.dumps({"experiment_ids": ["1"], "max_results": 5}).encode()
    (run,) = json.loads(fetched(f"{url}/api/2.0/mlflow/runs/search", body))["runs"]
    assert run["info"]["status"] == "FINISHED"
    metrics = {one["key"] for one in run["data"]["metrics"]}
    assert any("bits_per_dim" in key for key in metrics), metrics
    listed = fetched(f"{url}/api/2.0/mlflow/artifacts/list?run_id={run['info']['run_id']}")
    assert json.loads(listed)["files"]
