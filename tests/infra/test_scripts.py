"""The scripts of infra/: read by bash and shellcheck; that for Slurm runs, on a Slurm of stubs.

The stubs are programs called srun, scontrol, scancel, ray and ddpm. What a real Slurm does of
itself (signals to every step, the queue) is not tested here: infra/README.md says what was seen.
"""

import itertools
import os
import re
import signal
import subprocess
import sysconfig
import time
from pathlib import Path

import pytest

from ddpm_core.cluster.autoscaling import PATIENCE_VARIABLE

PROJECT = Path(__file__).parents[2]
SBATCH = PROJECT / "infra/slurm/ddpm.sbatch"
SCRIPTS = [path for path in (PROJECT / "infra").iterdir() if path.is_file() and not path.suffix]
SCRIPTS = sorted(path for path in SCRIPTS if path.read_text().startswith("#!"))
STUBS = {
    "srun": """
echo "srun $*" >>"$SAID"
echo $$ >>"$SAID.steps"
while [ "${1#-}" != "$1" ]; do shift; done
exec "$@\"""",
    "scontrol": 'echo "scontrol $*" >>"$SAID"\n[ "$1" != show ] || printf "one\\ntwo\\nthree\\n"',
    # Twice, as where Slurm ends the job and the script its steps.
    "scancel": 'kill -TERM $(cat "$SAID.steps")\nsleep 0.2\nkill -TERM $(cat "$SAID.steps")',
    "ray": """
echo "ray $*" >>"$SAID"
[ "$1" = start ] || exit 0
while [ $# -gt 0 ]; do
    [ "$1" != --temp-dir ] || { mkdir -p "$2" && echo 10.0.0.1:7 >"$2/ray_current_cluster"; }
    shift
done
exec sleep 100""",
    "ddpm": """
token=$RAY_AUTH_TOKEN_PATH
echo "$RAY_AUTH_MODE $(stat -c %a "$token") $(wc -c <"$token") $DDPM_WAIT_FOR_NODES_S" >>"$SAID"
echo "ddpm $*" >>"$SAID"
[ "$WORK" = ends ] && exit 5
exec sleep 100""",
}  # fmt: skip


def shellcheck():
    return Path(sysconfig.get_path("scripts")) / "shellcheck"


@pytest.mark.parametrize("path", [SBATCH, *SCRIPTS], ids=lambda path: path.name)
def test_bash_and_shellcheck_have_no_complaint(path):
    """Catches an unquoted path with a space, and a variable that is misspelt."""
    assert {"entrypoint", "s3-server", "secrets"} <= {one.name for one in SCRIPTS}
    subprocess.run(["bash", "-n", path], check=True, timeout=60)
    done = subprocess.run(
        [shellcheck(), path], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout


_NUMBERS = itertools.count()


class Job:
    """The script, as Slurm would run it on the first of three nodes."""

    def __init__(self, folder: Path, work: str) -> None:
        stubs = folder / "stubs of slurm"
        stubs.mkdir()
        for name, body in STUBS.items():
            (stubs / name).write_text(f"#!/bin/bash\n{body}\n")
            (stubs / name).chmod(0o755)
        self._said, self.shared = folder / "said", folder / "sh ared"
        self._said.touch()
        # Its files on a node, in /tmp, are named after it: no other's.
        self.number = f"{os.getpid()}{next(_NUMBERS)}"
        variables = {
            "PATH": f"{stubs}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(folder),
            "SAID": str(self._said),
            "WORK": work,
            "DDPM_SLURM_DIR": str(self.shared),
            "SLURM_JOB_ID": self.number,
            "SLURM_JOB_NODELIST": "nodes[1-3]",
            "SLURM_JOB_NUM_NODES": "3",
            "SLURM_CPUS_ON_NODE": "6",
        }
        words = ["digits", "--root", "/a b"]
        self.process = subprocess.Popen(
            [SBATCH, *words], env=variables, stderr=subprocess.PIPE, text=True
        )

    @property
    def said(self) -> list[str]:
        return self._said.read_text().splitlines()

    def wait_for(self, beginning: str) -> str:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            for line in self.said:
                if line.startswith(beginning):
                    return line
            time.sleep(0.05)
        raise AssertionError(f"no {beginning!r} in {self.said}")

    def end(self) -> int:
        """Return the exit code, once it is seen that nothing was left behind."""
        code = self.process.wait(60)
        assert not any(self.shared.iterdir())
        assert not Path(f"/tmp/ddpm-ray-{self.number}").exists()
        return code


@pytest.fixture
def job(request, tmp_path):
    job = Job(tmp_path, request.param)
    yield job
    if job.process.poll() is None:
        job.process.terminate()
    job.process.communicate(timeout=60)


@pytest.mark.parametrize("job", ["ends"], indirect=True)
def test_a_job_is_a_ray_over_its_nodes_and_ddpm_run_on_it(job):
    """Catches a Ray without a token, a node that has none, and an exit code that gets lost."""
    assert job.end() == 5
    head, workers = [line for line in job.said if line.startswith("srun")]
    assert "--nodes=1 --ntasks=1 --nodelist=one " in head
    assert "--nodes=2 --ntasks=2 --ntasks-per-node=1 --exclude=one " in workers
    starts = [line for line in job.said if line.startswith("ray start --")]
    of_head = next(line for line in starts if "--head" in line)
    ports = re.findall(r"-port (\d+)", of_head)
    ours = [int(port) for port in ports if port != "0"]
    assert len(set(ours)) == len(ours) == 7
    assert all(20_000 <= port < 32_768 for port in ours)  # Linux gives out those above
    assert all("--num-cpus 6" in line for line in starts)
    if len(starts) > 1:  # a stub may be ended before it says so
        assert any("--address 10.0.0.1:7" in line for line in starts)
    assert any(line.startswith("ray job list --address http://127.0.0.1:") for line in job.said)
    (dashboard,) = re.findall(r"--dashboard-port (\d+)", of_head)
    said = job.wait_for("ddpm run")
    assert said == f"ddpm run digits --root /a b --ray-address http://127.0.0.1:{dashboard}"
    assert "token 600 64 300" in job.said


@pytest.mark.parametrize("job", ["goes on"], indirect=True)
def test_scancel_ends_everything(job):
    """Catches processes and files that stay on a node when the job is cancelled."""
    job.wait_for("ddpm run")
    job.process.terminate()
    assert job.end() == 128 + signal.SIGTERM


@pytest.mark.parametrize("job", ["goes on"], indirect=True)
def test_a_job_whose_time_is_over_goes_back_into_the_queue(job):
    """Catches a run of days that ends with its first allotment."""
    job.wait_for("ddpm run")
    job.process.send_signal(signal.SIGUSR1)
    assert job.wait_for("scontrol requeue") == f"scontrol requeue {job.number}"
    assert job.process.poll() is None  # Slurm ends it
    job.process.terminate()
    job.end()


def test_slurm_is_told_to_keep_the_job_and_to_say_when_its_time_is_over():
    """Catches a job that is not put back when a node fails, and whose signal goes to nobody."""
    text = SBATCH.read_text()
    for option in ("--requeue", "--open-mode=append", "--signal=B:USR1@120", "--ntasks-per-node=1"):
        assert f"\n#SBATCH {option}\n" in text
    assert PATIENCE_VARIABLE in text


def test_it_refuses_to_run_without_slurm_and_without_a_recipe(tmp_path):
    """Catches a Ray that is started on a login node."""
    options = {"capture_output": True, "text": True, "check": False, "timeout": 60}
    clean = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    done = subprocess.run([SBATCH, "digits"], env=clean, **options)
    assert (done.returncode, "submit me: sbatch" in done.stderr) == (2, True)
    done = subprocess.run([SBATCH], env=clean | {"SLURM_JOB_ID": "1"}, **options)
    assert (done.returncode, "give what ddpm run is given" in done.stderr) == (2, True)
    assert not any(tmp_path.iterdir())
