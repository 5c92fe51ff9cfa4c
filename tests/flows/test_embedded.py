"""Ray and Prefect of this machine's own: reachable by us alone, and gone without a trace."""

import contextlib
import http.server
import json
import os
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest

from ddpm_core.errors import ClusterError
from flows import command_line, prefect_database
from flows.embedded import Cluster, EmbeddedRay, cluster_at, shared_ray
from flows.prefect_api import PrefectApi
from flows.ray_jobs import RayJobs

COUNT = "import time\nfor n in range(3):\n    print('line', n, flush=True); time.sleep(0.4)\n"
STAY = """
import signal, sys, time
try:
    print("up", flush=True); time.sleep(600)
except KeyboardInterrupt:
    open(sys.argv[1], "w").write("saved"); sys.exit(130)
"""


def descendants() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def status_of(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=10) as reply:  # noqa: S310 - loopback
            return reply.status
    except urllib.error.HTTPError as error:
        return error.code


def listening_elsewhere(processes: list[psutil.Process]) -> list[str]:
    """Return the addresses other than loopback that these processes listen on."""
    open_to_others = []
    for process in processes:
        try:
            connections = process.net_connections("tcp")
        except psutil.Error:
            continue
        open_to_others += [
            f"{process.name()} {c.laddr.ip}:{c.laddr.port}"
            for c in connections
            if c.status == psutil.CONN_LISTEN and not c.laddr.ip.endswith("127.0.0.1")
        ]
    return open_to_others


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore:ssl=None is deprecated")  # Ray's client
def test_embedded_ray_from_start_to_end(tmp_path, monkeypatch):
    """Catches: ports open to others, a readable token, attempts that collide, leftovers.

    One test, since a Ray takes ten seconds to start on an idle machine.
    """
    monkeypatch.setenv("RAY_ADDRESS", "http://203.0.113.1:8265")  # a cluster that is not ours
    before = descendants()  # such as the server that other tests fork their processes from
    with shared_ray() as ray:
        with cluster_at(None) as cluster, cluster_at(None) as again:
            assert again is cluster
        folder = ray._ray.folder
        assert folder.stat().st_mode & 0o777 == 0o700
        assert (folder / "token").stat().st_mode & 0o777 == 0o600
        assert listening_elsewhere(descendants()) == []
        assert status_of(f"{cluster.address}/api/jobs/") == 401
        runs_jobs(RayJobs(cluster), tmp_path)
        processes = [one for one in descendants() if one not in before]
        assert len(processes) > 5
    assert not [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    assert not folder.exists()


def runs_jobs(jobs: RayJobs, tmp_path: Path) -> None:
    lines: list[str] = []
    job, attached = jobs.ensure("r-shard-1", [sys.executable, "-c", COUNT + "raise SystemExit(3)"])
    assert (job.submission_id, attached) == ("r-shard-1-a1", False)
    assert jobs.ensure("r-shard-1", ["never"]) == (jobs.job("r-shard-1-a1"), True)
    assert not jobs._submit("r-shard-1-a1", ["true"]), "the id is taken"
    ended = jobs.follow("r-shard-1-a1", lines.append)
    assert (ended.status, ended.exit_code) == ("FAILED", 3)
    assert [line for line in lines if line.startswith("line ")] == ["line 0", "line 1", "line 2"]

    saved = tmp_path / "saved"
    command = [sys.executable, "-c", STAY, str(saved)]
    job, _ = jobs.ensure("r-shard-1", command)
    assert job.submission_id == "r-shard-1-a2"
    for _ in range(600):
        if "up" in jobs._logs_of(job.submission_id)().splitlines():
            break
        time.sleep(0.1)
    assert [one.submission_id for one in jobs.alive("r-shard-")] == ["r-shard-1-a2"]
    assert jobs.stop(job.submission_id).status == "STOPPED"
    assert saved.read_text() == "saved", "an interrupt, with time to save"
    assert jobs.alive("r-shard-") == []


@pytest.mark.long
@pytest.mark.ray
def test_embedded_ray_starts_again_after_it_was_lost():
    """Catches: a retry that talks to a Ray which is dead."""
    ray = EmbeddedRay()
    try:
        first = ray.cluster()
        for process in descendants():
            if "gcs_server" in process.name():
                process.kill()
        deadline = time.monotonic() + 60
        while ray._ray.is_running() and time.monotonic() < deadline:
            time.sleep(0.1)
        second = ray.cluster()
        assert second.address != first.address
        assert RayJobs(second).alive("") == []
    finally:
        ray.close()


def test_an_address_starts_nothing():
    """Catches: a Ray started on the laptop although a cluster was given."""
    with shared_ray() as ray, cluster_at("http://head:8265") as cluster:
        assert cluster == Cluster("http://head:8265")
        assert not cluster.is_embedded
        assert ray._ray is None


OWN_API = """
import json, os, urllib.request
from flows.prefect_api import PrefectApi
before = dict(os.environ)
api = PrefectApi()
told = {"own": api.use(), "url": os.environ.get("PREFECT_API_URL"),
        "home": os.environ.get("PREFECT_HOME")}
from prefect.client.orchestration import get_client
with get_client(sync_client=True) as client:
    told["client"] = str(client.api_url)
    # Sends nulls for what is not asked, which newer releases of FastAPI refuse.
    told["flows"] = client.read_flows() if told["own"] else None
try:
    urllib.request.urlopen(f"{told['url']}/flows/filter", data=b"{}")
except Exception as error:
    told["stranger"] = str(error)
api.close()
told["restored"] = dict(os.environ) == before
print(json.dumps(told))
"""


def use_api(**env: str) -> dict:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    done = subprocess.run(
        [sys.executable, "-c", OWN_API], env=kept | env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def rows_kept(folder: Path) -> set[str]:
    """Return the tables with anything in them that the next server begins with."""
    prefect_database.give(folder)
    with contextlib.closing(sqlite3.connect(folder / prefect_database.DATABASE)) as database:
        found = database.execute("select name from sqlite_master where type = 'table'").fetchall()
        return {one for (one,) in found if database.execute(f'select 1 from "{one}"').fetchone()}  # noqa: S608


@pytest.mark.prefect
def test_own_prefect_api_serves_us_alone_and_leaves_nothing(tmp_path):
    """Catches: a server in the user's ~/.prefect, without a key, or one that stays; and in the
    database that is kept for the next one anything but tables.
    """
    told = use_api(HOME=str(tmp_path), PREFECT_SERVER_DATABASE_CONNECTION_URL="sqlite:///nowhere/x")
    assert told["own"]
    assert told["url"].startswith("http://127.0.0.1:")
    assert told["client"].rstrip("/") == told["url"]
    assert told["flows"] == []
    assert "401" in told["stranger"]
    assert told["restored"]
    assert not Path(told["home"]).exists()
    assert not (tmp_path / ".prefect").exists()
    assert rows_kept(tmp_path) == {"alembic_version"}


class _Health(http.server.BaseHTTPRequestHandler):
    """Answers as a Prefect server does, or one that something is wrong with."""

    status = 200

    def do_GET(self):
        self.send_response(self.status if self.path == "/api/health" else 404)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def configured_url():
    """The URL of an API that answers."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Health)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/api"
    server.shutdown()
    server.server_close()


DEAD_URL = "http://me:secret@127.0.0.1:9/api"


def write_profile(folder: Path, url: str) -> None:
    """Write what `prefect config set PREFECT_API_URL=...` leaves behind."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "profiles.toml").write_text(
        f'active = "mine"\n[profiles.mine]\nPREFECT_API_URL = "{url}"\n'
    )


@pytest.mark.prefect
def test_configured_prefect_api_is_used_as_it_is(tmp_path, configured_url):
    """Catches: a second server beside the one of the user's profile."""
    write_profile(tmp_path, configured_url)
    told = use_api(PREFECT_HOME=str(tmp_path))
    assert (told["own"], told["url"]) == (False, None)
    assert told["client"].rstrip("/") == configured_url
    told = use_api(PREFECT_HOME=str(tmp_path / "x"), PREFECT_API_URL=configured_url)
    assert told["own"] is False


def test_configured_by_the_environment_starts_nothing(monkeypatch, configured_url):
    """Catches: seconds spent on looking for what is given."""
    monkeypatch.setenv("PREFECT_API_URL", configured_url)
    before = descendants()
    api = PrefectApi()
    assert not api.use()
    assert descendants() == before
    api.close()


@pytest.mark.parametrize(("status", "is_alive"), [(401, True), (404, True), (503, False)])
def test_any_answer_of_a_server_is_a_sign_of_life(monkeypatch, configured_url, status, is_alive):
    """Catches: Prefect Cloud, or a server that wants a key, taken for dead; a proxy for alive."""
    monkeypatch.setattr(_Health, "status", status)
    monkeypatch.setenv("PREFECT_API_URL", configured_url)
    refused = contextlib.nullcontext() if is_alive else pytest.raises(ClusterError, match="503")
    with refused:
        PrefectApi().find()


@pytest.mark.parametrize(
    "where", ["environment", pytest.param("profile", marks=pytest.mark.prefect)]
)
def test_dead_configured_prefect_api_is_reported_before_anything_is_started(
    tmp_path, monkeypatch, capsys, where
):
    """Catches: a traceback, after Ray was started, at every run once the server is stopped."""
    for name in [name for name in os.environ if name.startswith("PREFECT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    if where == "environment":
        monkeypatch.setenv("PREFECT_API_URL", DEAD_URL)
    else:
        write_profile(tmp_path / "prefect", DEAD_URL)
    monkeypatch.setattr(EmbeddedRay, "start", lambda _: pytest.fail("Ray was started"))
    monkeypatch.setattr("ddpm_core.machine.cores", lambda: 8)
    before = descendants()
    assert (
        command_line.main(command_line.TRAIN_DDPM, ["digits", "--root", str(tmp_path / "root")])
        == 7
    )
    said = capsys.readouterr().err
    assert "PREFECT_API_URL is http://127.0.0.1:9/api" in said
    for remedy in ("prefect server start", "prefect config unset PREFECT_API_URL"):
        assert remedy in said
    assert "secret" not in said
    assert descendants() == before
