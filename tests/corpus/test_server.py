"""The bounds of the corpus bind: without them it would show nothing."""

import json
import signal
import subprocess
import sys

import pytest

from tests.corpus.server import LIMIT_BYTES

ENDS = {
    "memory": (f"bytearray({2 * LIMIT_BYTES})", 1),  # more: what was freed before may be used again
    "processor": ("while True: pass", -signal.SIGXCPU),
    "processor, in C": ("pow(3, 10**9)", -signal.SIGXCPU),
    "clock": ("import time; time.sleep(50)", -signal.SIGALRM),
    "disk": ("open('large', 'wb').truncate(2**27)", 1),
    "nothing": ("print('as usual')", 0),
}


@pytest.mark.parametrize("what", ENDS)
def test_a_case_that_takes_too_much_is_ended(what, tmp_path):
    """Catches: a limit that is set too late, for another process, or not at all."""
    line, code = ENDS[what]
    clock_s = 3 if what == "clock" else 30
    request = {"folder": str(tmp_path), "output": str(tmp_path / "output"), "environment": {}}
    program = (
        "from tests.corpus.server import confine\n"
        f"confine({json.dumps(request)}, limit_s=1, clock_s={clock_s})\n{line}\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60)
    output = (tmp_path / "output").read_text()
    assert done.returncode == code
    assert done.stdout == done.stderr == b""  # all of it is in the file
    assert ("Error" in output) == (code == 1)
