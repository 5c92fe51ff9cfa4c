"""How our own Ray is started: for us alone, with what is needed, and nothing of the user's."""

import os
import stat
import subprocess
import sys

import pytest

from ddpm_core import machine
from ddpm_core.servers import own_ray


@pytest.fixture
def started(monkeypatch):
    """Return (command, environment, folders) of each server that is started."""
    servers = []

    class Server:
        def __init__(self, _name, command, folder, env, *, more_folders):
            servers.append((command, dict(env), [folder, *more_folders]))
            self.text = ""

        def log(self):
            return self.text

    monkeypatch.setattr(own_ray, "Server", Server)
    monkeypatch.setattr(machine, "cores", lambda: 128)
    return servers


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Start one whose folder the test owns."""
    folder = tmp_path / "own"

    def private_folder():
        folder.mkdir(mode=0o700)
        return folder

    monkeypatch.setattr(own_ray, "private_folder", private_folder)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return own_ray.OwnRay


def test_the_user_s_home_cluster_and_secrets_have_no_part_in_it(started, make, monkeypatch):
    """Catches a token in ~/.ray, which a later `ray start` demands of everybody; a cluster of the
    user's that is joined; Prefect's key in every job.
    """
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_TOKEN", "PREFECT_API_KEY"):
        monkeypatch.setenv(name, "the user's")
    ray = make()
    _, env, _ = started[0]
    assert "the user's" not in env.values()
    path = ray.folder / "token"
    assert env["RAY_AUTH_TOKEN_PATH"] == str(path)
    assert (env["RAY_AUTH_MODE"], path.read_text()) == ("token", ray.token)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert ray.token not in env.values()


def test_it_is_reached_on_loopback_without_a_proxy_or_uv(started, make, monkeypatch):
    """Catches ports that the network reaches, requests to a proxy, and `uv run` in each worker."""
    monkeypatch.setenv("no_proxy", "a.example")
    make()
    _, env, _ = started[0]
    assert env["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"
    assert env["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] == "0"
    assert env["no_proxy"] == env["NO_PROXY"] == "a.example,127.0.0.1,localhost,::1"


@pytest.mark.parametrize(("asked", "cpus", "ahead"), [(2, 2, True), (None, 128, False)])
def test_many_cores_are_no_reason_for_many_processes(started, make, asked, cpus, ahead):
    """Catches 128 workers of 80 MB that are started ahead, for two that are needed."""
    make(num_cpus=asked)
    command, env, _ = started[0]
    assert f"--num-cpus={cpus}" in command
    assert ("RAY_prestart_worker_first_driver" not in env) is ahead


@pytest.mark.parametrize("takes_jobs", [True, False])
def test_the_dashboard_comes_for_jobs_alone(started, make, takes_jobs):
    """Catches nine processes that a stage never asks, and a flow whose jobs nothing takes."""
    make(takes_jobs=takes_jobs)
    command, _, _ = started[0]
    assert f"--include-dashboard={takes_jobs}" in command
    assert "--no-monitor" in command


def test_all_its_files_go_with_it(started, make):
    """Catches sessions of Ray, and what jobs leave in their temporary folder, that stay."""
    ray = make()
    command, env, folders = started[0]
    (temp_dir,) = [word.partition("=")[2] for word in command if word.startswith("--temp-dir=")]
    for path in (temp_dir, env["TMPDIR"], env["RAY_AUTH_TOKEN_PATH"], str(ray.scratch)):
        assert any(os.path.commonpath([path, folder]) == str(folder) for folder in folders)


def test_no_port_is_one_that_another_ray_wants(started, make):
    """Catches the agent's fixed port: a second Ray of this machine then runs no jobs."""
    make()
    command, _, _ = started[0]
    ports = dict(word[2:].split("=") for word in command if "port=" in word)
    for name in ("port", "dashboard-agent-listen-port", "min-worker-port", "max-worker-port"):
        assert ports[name] == "0"
    for name in ("dashboard-port", "ray-client-server-port"):
        assert 20_000 <= int(ports[name]) < 30_000


def test_an_address_is_known_once_all_runs(started, make):
    """Catches an address that is read before it is written, or that of an earlier Ray."""
    ray = make()
    assert ray._address() is None
    (ray.folder / "r" / "ray_current_cluster").write_text("127.0.0.1:6379\n")
    assert ray._address() is None
    ray._server.text = "SUCC -- Ray runtime started."
    assert ray._address() == "127.0.0.1:6379"


def test_an_interpreter_whose_path_has_a_space_is_reached_without(
    started, make, monkeypatch, tmp_path
):
    """Catches a raylet that ends at once where the virtual environment lies in "My Projects"."""
    place = tmp_path / "my projects" / ".venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place], check=True)
    monkeypatch.setattr(sys, "prefix", str(place))
    monkeypatch.setattr(sys, "executable", str(place / "bin" / "python"))
    make()
    command, _, _ = started[0]
    assert command[0] == str(tmp_path / "own" / "v" / "bin" / "python")
    shown = subprocess.run(
        [command[0], "-c", "import sys; print(sys.prefix, sys.executable)"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    prefix = command[0].removesuffix("/bin/python")
    assert shown == f"{prefix} {command[0]}\n", "the same environment, by the other path"


def test_the_variables_of_a_group_are_those_of_all_its_processes(started, make, monkeypatch):
    """Catches controllers and workers that are given them one by one: then no process that was
    started ahead can be used. And a user's own limit that is overwritten.
    """
    monkeypatch.setenv("RAY_TRAIN_COLLECTIVE_TIMEOUT_S", "77")
    ray = make()
    _, env, _ = started[0]
    wanted = own_ray.GROUP_SETTINGS | {"RAY_TRAIN_COLLECTIVE_TIMEOUT_S": "77"}
    for variables in (env, ray.environment):  # of the Ray, and of who connects to it
        assert {key: variables.get(key) for key in wanted} == wanted
        assert own_ray.IS_OURS in variables
