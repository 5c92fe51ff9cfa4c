"""kill -9 a worker, then the whole driver, in the middle of a training of two ranks under Ray.

The last checkpoint must be, byte for byte, that of a training that nothing interrupted; and that
one is made here without Ray, by two plain processes, so that Ray does not show either.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from ddpm_core import cluster
from ddpm_core.recipes import digits
from ddpm_core.runs import layout, results
from ddpm_core.sharding.stage import run_shard
from ddpm_core.store.storage import open_store
from ddpm_core.training.worker import train_rank
from tests.training.small import CPU, newest_checkpoint, run_group

pytestmark = [pytest.mark.ray, pytest.mark.long, pytest.mark.timeout(600)]

PROJECT = Path(__file__).parents[2]
CHECKPOINT_EVERY = 20
CHANGES = {
    "model.base_channels": 32,
    "model.channel_mults": [1],
    "model.num_groups": 8,
    "model.attention_resolutions": [8],
    "diffusion.num_timesteps": 50,
    "train.global_batch_size": 16,
    "train.num_steps": 200,
    "train.warmup_steps": 10,
    "train.log_every": 15,  # so that checkpoints fall between two points of the curves
    "train.checkpoint_every": CHECKPOINT_EVERY,
    "compute.num_workers": 2,
}
CONFIG = digits().replaced({**CHANGES, "name": "kill"})


@dataclass
class Training:
    """`python -m ddpm_core train` in a session of its own, and all that comes of it."""

    root: str
    home: Path
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)

    def start(self, log: Path, **extra: str) -> subprocess.Popen:
        foreign = ("PREFECT_", "MLFLOW_", "RAY_", "AWS_", "S3_")
        env = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
        env |= {"HOME": str(self.home), "DDPM_TEST_MARK": self.mark, **extra}
        command = [sys.executable, "-m", "ddpm_core", "train", "digits"]
        command += ["--root", self.root, "--run", "kill"]
        for key, value in CHANGES.items():
            command += ["--set", f"{key}={json.dumps(value)}"]
        with log.open("wb") as stream:
            return subprocess.Popen(
                command,
                cwd=PROJECT,
                env=env,
                stdout=stream,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    def processes(self) -> list[psutil.Process]:
        """Return all living processes that inherited our mark, whoever their parent is now."""
        found = []
        for process in psutil.process_iter():
            try:
                ours = process.environ().get("DDPM_TEST_MARK") == self.mark
                if ours and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return found

    def workers(self) -> list[psutil.Process]:
        return [
            p for p in self.processes() if any("RayTrainWorker" in word for word in p.cmdline())
        ]

    def newest_step(self) -> int:
        newest = newest_checkpoint(open_store(self.root), "kill")
        return newest.body["step"] if newest else 0

    def wait_for_step(self, step: int, driver: subprocess.Popen, log: Path) -> None:
        self.wait_for(lambda: self.newest_step() >= step, driver, log)

    def wait_for(self, holds: Callable[[], object], driver: subprocess.Popen, log: Path) -> None:
        deadline = time.monotonic() + 240
        while not holds():
            assert driver.poll() is None, log.read_text()[-5000:]
            assert time.monotonic() < deadline, log.read_text()[-5000:]
            time.sleep(0.05)

    def wait_for_end(self, driver: subprocess.Popen, log: Path) -> None:
        code = driver.wait(timeout=400)
        assert code == 0, f"exit code {code}:\n{log.read_text()[-8000:]}"

    def reap(self) -> None:
        for process in self.processes():
            process.kill()


def _train_plainly(rank: int, world_size: int, folder: Path) -> None:
    place = cluster.Place(rank=rank, world_size=world_size, device=CPU)
    train_rank(open_store(str(folder / "root")), CONFIG, place)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """The root of a training of two ranks that nothing interrupted, with its last checkpoint."""
    folder = tmp_path_factory.mktemp("reference")
    store = open_store(str(folder / "root"))
    run_shard(store, CONFIG)
    run_group(_train_plainly, 2, folder)
    return store, results.final_checkpoint(store, CONFIG)


@pytest.fixture
def training(reference, tmp_path):
    """A training that has its data set and nothing else."""
    store, _ = reference
    root, home = tmp_path / "root", tmp_path / "home"
    root.mkdir()
    home.mkdir()
    (root / "datasets").symlink_to(store.local_path("datasets"))
    key = layout.dataset_pointer_key("kill")
    open_store(str(root)).write(key, store.read(key))
    training = Training(str(root), home)
    yield training
    training.reap()


def continued_from(log: Path) -> list[int]:
    found = re.findall(r"train  \d+/200 steps  continues from the checkpoint of step (\d+)",
                       log.read_text())  # fmt: skip
    return [int(step) for step in found]


def assert_same_as_uninterrupted(training: Training, reference) -> None:
    _, expected = reference
    store = open_store(training.root)
    final = results.final_checkpoint(store, CONFIG)
    assert final == expected
    for role in final.files:
        final.read(store, role)


def test_neither_a_killed_worker_nor_a_killed_driver_costs_a_bit(training, reference, tmp_path):
    """Catches a resume from Ray's own snapshot (it lags behind), from step 0, or with a part of
    the state missing; a group that is not started again; a second start that begins anew, or that
    its dying predecessor can harm, whose workers go on for seconds, and commit; a dependence of
    the numbers on Ray: threads, order, anything; processes that are left behind; a third start
    that does more than say that all is done. Nobody runs that tracking server: it must not matter.

    One training for both kills, since each start of Ray and of two workers takes a minute of CPU.
    """
    first, second, third = tmp_path / "first", tmp_path / "second", tmp_path / "third"
    driver = training.start(first, MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    training.wait_for_step(2 * CHECKPOINT_EVERY, driver, first)
    workers = training.workers()
    assert len(workers) == 2
    workers[1].kill()
    committed = training.newest_step()
    training.wait_for(lambda: continued_from(first), driver, first)
    training.wait_for_step(committed + 2 * CHECKPOINT_EVERY, driver, first)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    [step] = continued_from(first)
    assert step >= committed
    assert "Traceback" not in first.read_text().rpartition("continues from")[2]

    committed = training.newest_step()
    assert committed < CONFIG.train.num_steps
    driver = training.start(second)
    training.wait_for_end(driver, second)
    assert_same_as_uninterrupted(training, reference)
    [step] = continued_from(second)
    assert step >= committed
    deadline = time.monotonic() + 20
    while (left := training.processes()) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not left, [" ".join(process.cmdline())[:200] for process in left]

    training.wait_for_end(training.start(third), third)
    assert "done already" in third.read_text()
    assert "Ray" not in third.read_text()
