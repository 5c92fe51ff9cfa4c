"""What is guarded ends with its owner, whatever it does to get away."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from ddpm_core.servers import folders, guardian

# A process that detaches itself as daemons do (double fork, new session), refuses to end when
# asked to, tells its pid through a file, and stays.
DAEMON = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork(): os._exit(0)
os.setsid()
if os.fork(): os._exit(0)
open(sys.argv[1], "w").write(str(os.getpid()))
time.sleep(600)
"""

COMMAND = """
import os, subprocess, sys, time
subprocess.Popen([sys.executable, "-c", sys.argv[1], sys.argv[2]]).wait()
while not (os.path.exists(sys.argv[2]) and os.path.getsize(sys.argv[2])): time.sleep(0.01)
print("ready", flush=True)
code = int(sys.argv[3])
time.sleep(600) if code < 0 else sys.exit(code)
"""

OWNER = """
import json, os, sys, time
from ddpm_core.servers.folders import private_folder
from ddpm_core.servers.guardian import guarded
folder = private_folder()
command = json.loads(sys.argv[1])
with guarded(command, folder=folder, env=dict(os.environ), grace_s=0.3) as process:
    while b"ready" not in (folder / "log").read_bytes(): time.sleep(0.01)
    print(json.dumps({"folder": str(folder), "guardian": process.pid}), flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def daemon_pid_file(tmp_path):
    return tmp_path / "daemon.pid"


def command(daemon_pid_file: Path, exit_code: int) -> list[str]:
    return [sys.executable, "-c", COMMAND, DAEMON, str(daemon_pid_file), str(exit_code)]


def daemon_is_gone(daemon_pid_file: Path, within_s: float = 1.0) -> bool:
    pid, deadline = int(daemon_pid_file.read_text()), time.monotonic() + within_s
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True  # over; whether it is buried yet is up to its new parent
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.05)
    return False


def test_kill_of_the_owner_ends_a_detached_grandchild(daemon_pid_file):
    """Catches: reaping by process group or session, atexit handlers, a single kill without TERM."""
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, json.dumps(command(daemon_pid_file, -1))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    told = json.loads(owner.stdout.readline())
    assert Path(told["folder"]).stat().st_mode & 0o777 == 0o700
    assert psutil.pid_exists(int(daemon_pid_file.read_text()))
    owner.send_signal(signal.SIGKILL)
    owner.communicate()
    assert daemon_is_gone(daemon_pid_file, within_s=5)
    psutil.wait_procs([p for p in psutil.process_iter() if p.pid == told["guardian"]], timeout=3)
    assert not Path(told["folder"]).exists()


@pytest.mark.parametrize("exit_code", [0, 9])
def test_end_of_the_command_ends_what_it_left_behind(daemon_pid_file, tmp_path, exit_code):
    """Catches: a guardian that only acts on its owner's death, or that hides the exit code."""
    folder = tmp_path / "private"
    folder.mkdir()
    start = ["--cleanup", str(folder), "--grace", "0.2", "--", *command(daemon_pid_file, exit_code)]
    done = subprocess.run(
        [sys.executable, guardian.__file__, *start], stdin=endless(), capture_output=True
    )
    assert done.returncode == exit_code
    assert daemon_is_gone(daemon_pid_file)
    assert not folder.exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signal_to_the_guardian_ends_all(daemon_pid_file, tmp_path, number):
    """Catches: a signal whose default action ends the guardian before it has done its work."""
    process = subprocess.Popen(
        [sys.executable, guardian.__file__, "--cleanup", str(tmp_path / "x"), "--grace", "0.2",
         "--", *command(daemon_pid_file, -1)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    process.stdout.readline()
    process.send_signal(number)
    assert process.wait(timeout=10) == 0
    process.communicate()
    assert daemon_is_gone(daemon_pid_file)


def test_where_there_is_no_subreaper_nothing_is_started(monkeypatch, tmp_path):
    """Catches: a Ray that outlives its owner on a kernel that does not hand over orphans."""
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(SystemExit, match="only Linux"):
        guardian.main(["--", "touch", str(tmp_path / "started")])
    assert not (tmp_path / "started").exists()


def test_leaving_the_block_ends_the_command_and_removes_the_folder(daemon_pid_file):
    """Catches: a context manager that leaves the work to the interpreter's exit."""
    folder = folders.private_folder()
    start = command(daemon_pid_file, -1)
    with guardian.guarded(start, folder=folder, env=os.environ, grace_s=0.3) as process:
        while (folder / "log").read_bytes() != b"ready\n":
            time.sleep(0.01)
    assert process.returncode == 0
    assert not folder.exists()
    assert daemon_is_gone(daemon_pid_file)


def endless():
    """A standard input that never ends by itself."""
    readable, _ = os.pipe()
    return readable


def test_a_guardian_finds_its_package_where_its_owner_did(tmp_path):
    """Catches a guardian that ends at once where packages come by PYTHONPATH or are the user's."""
    (tmp_path / "psutil.py").write_text("raise SystemExit('this psutil')")
    folder = folders.private_folder()
    env = dict(os.environ) | {"PYTHONPATH": str(tmp_path)}
    with guardian.guarded(["true"], folder=folder, env=env) as process:
        process.wait(timeout=60)
        assert (folder / "log").read_text() == "this psutil\n"
    shutil.rmtree(folder)
