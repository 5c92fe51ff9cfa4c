"""Whatever is handed to the command line ends well or in one message: no traceback, nothing run.

Each case is a process with bounded memory and time; see `server`. Sections: one module each.
"""

import json
import os
import subprocess
import sys

import pytest

from tests.corpus import (
    archive_cases,
    bundle_cases,
    image_cases,
    place_cases,
    setting_cases,
)
from tests.corpus.case import CANARY
from tests.corpus.server import Answer

PEAK_BYTES = 360 * 2**20
"""beyond the imports, which take 240 MiB with torch for CPUs, 520 MiB with torch for CUDA"""
SECTIONS = {
    "settings": setting_cases,
    "images": image_cases,
    "archives": archive_cases,
    "bundles and weights": bundle_cases,
    "places": place_cases,
}
CASES = {
    f"{section}: {case.name}": case for section, module in SECTIONS.items() for case in module.CASES
}


class Server:
    def __init__(self, folder):
        self.folder = folder
        environment = {
            **{name: value for name, value in os.environ.items() if not is_ours(name)},
            "HOME": str(folder),
            "OMP_NUM_THREADS": "1",
            "XDG_CACHE_HOME": str(folder / "cache"),
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.corpus.server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        if self._process.stdout.readline() != "ready\n":
            self.stop()
            raise RuntimeError("the server of the corpus did not start; see above")

    def run(self, arguments, environment, here):
        output = here / "output"
        request = {
            "arguments": arguments,
            "environment": environment,
            "folder": str(here),
            "output": str(output),
        }
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = Answer(**json.loads(self._process.stdout.readline()))
        return answer, output.read_text(errors="replace")

    def stop(self):
        self._process.stdin.close()
        self._process.wait(timeout=30)
        self._process.stdout.close()


def is_ours(name):
    return name.startswith(("MLFLOW_", "RAY_", "PREFECT_", "AWS_", "S3_", "DDPM_"))


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("corpus"))
    yield server
    server.stop()


@pytest.mark.parametrize("name", CASES)
def test_it_ends_in_one_message(name, server, tmp_path):
    """Catches: tracebacks, hangs, memory by a header's word, execution, and "invalid input"."""
    case, here = CASES[name], tmp_path / "here"
    here.mkdir()
    case.make(here)
    beside = sorted(tmp_path.iterdir())

    def filled(text):
        return text.replace("{here}", str(here))

    answer, output = server.run(
        [filled(word) for word in case.arguments],
        {key: filled(value) for key, value in case.environment.items()},
        here,
    )
    assert answer.signal is None, f"signal {answer.signal}: {output[-2000:]}"
    assert "Traceback" not in output, output[-4000:]
    assert answer.code == case.code, output[-2000:]
    for part in case.says:
        assert filled(part) in output, f"{part!r} is not in: {output[-2000:]}"
    for secret in case.never_says:
        assert secret not in output
    assert len(output) < 8000
    assert answer.peak_bytes < PEAK_BYTES
    assert not (here / CANARY).exists()
    assert sorted(tmp_path.iterdir()) == beside
    if case.code:
        assert not list(here.rglob("index.json"))
