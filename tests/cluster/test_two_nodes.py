"""A training over two machines, of which one is cut off and does not come back in time."""

import re
import signal
import subprocess
import sys
import threading
import time

import pytest

from tests.cluster.two_nodes import TwoNodes

CHANGES = {
    "compute.num_workers": 2,
    "compute.cpus_per_worker": 2,
    "compute.use_gpu": "false",
    "compute.collective_timeout_s": 60,
    "model.base_channels": 8,
    "model.channel_mults": "[1,2]",
    "model.num_res_blocks": 1,
    "model.num_groups": 4,
    "model.attention_resolutions": "[]",
    "diffusion.num_timesteps": 24,
    "train.num_steps": 1_000_000,
    "train.warmup_steps": 4,
    "train.global_batch_size": 8,
    "train.checkpoint_every": 5,
    "train.log_every": 1,
}


@pytest.fixture
def nodes():
    try:
        made = TwoNodes()
    except OSError as error:
        pytest.skip(f"network namespaces cannot be made here: {error}")
    with made:
        yield made


class Training:
    """The command, on the machine of the head; `lines` is what it has printed."""

    def __init__(self, nodes, root):
        command = [sys.executable, "-m", "ddpm_core", "train", "digits", "--root", str(root)]
        command += ["--run", "apart", *_sets()]
        self.lines = []
        both = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        self.process = nodes.run(0, command, **both)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self):
        with self.process.stdout:
            self.lines += iter(self.process.stdout.readline, "")

    def wait_until(self, is_so, seconds):
        deadline = time.monotonic() + seconds
        while not is_so():
            has_ended = self.process.poll() is not None and not is_so()
            if has_ended or time.monotonic() > deadline:
                pytest.fail("".join(self.lines))
            time.sleep(0.2)

    def end(self, seconds, number=None):
        """Wait for its end, asked for by a signal or not; return its code."""
        if number is not None:
            self.process.send_signal(number)
        self.wait_until(lambda: self.process.poll() is not None, seconds)
        self._reader.join(10)
        return self.process.returncode


def _sets():
    return [word for key, value in CHANGES.items() for word in ("--set", f"{key}={value}")]


def newest(root):
    """Return the step of the newest checkpoint, 0 if there is none."""
    found = root.glob("runs/apart/checkpoints/step_*/manifest.json")
    return max((int(path.parent.name.removeprefix("step_")) for path in found), default=0)


@pytest.mark.nodes
@pytest.mark.ray
@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_machine_that_is_cut_off_is_said_and_the_command_continues_later(nodes, tmp_path):
    """Catches a training without a step, an end or a sentence, and one that begins anew.

    Of all losses the cut is the quietest: no connection is closed, and no process has ended.
    """
    nodes.start_ray(0)
    nodes.start_ray(1)
    root = tmp_path / "root"
    training = Training(nodes, root)
    training.wait_until(lambda: newest(root) > 0, 240)
    nodes.cut()
    assert training.end(300) == 7, "".join(training.lines)
    kept = newest(root)
    nodes.kill(1)
    said = "".join(training.lines)
    assert re.search(r"warning: for \d+ s .* an answer of rank \d on 10\.\S+\.2: of 2 worker", said)
    there = r"asks for 2 worker\(s\) with 2 CPU each; the cluster has room for 1 \(its nodes: 2 CPU"
    assert re.search(
        rf"warning: for \d+ s the training has been waiting for nodes: .*{there}", said
    )
    end = rf"^train: waited \d+ s for nodes: .*{there}.* is kept, and the same command continues$"
    assert re.search(end, said, re.MULTILINE)

    nodes.mend()
    nodes.start_ray(1)
    again = Training(nodes, root)
    again.wait_until(lambda: newest(root) > kept, 240)
    assert any(f"continues from the checkpoint of step {kept}" in line for line in again.lines)
    assert again.end(60, signal.SIGINT) == 130
