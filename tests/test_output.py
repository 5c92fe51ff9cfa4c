"""A line that cannot be shown: closed, full, or of letters that the stream lacks."""

import io
import os
import subprocess
import sys

import pytest

from ddpm_core.output import say

PROGRAM = """
import sys
from ddpm_core.output import command_output, say
from ddpm_core.progress import Progress
with command_output():
    for number in range(20000):
        say("bits/dim 3.25 \\u00b1 0.50")
        Progress("train", number, 20000, "steps").show()
    print("unflushed" * 10)
    say("done \\u00b1", stream=sys.stderr)
sys.exit(3)
"""


def run(redirection: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the program by a shell that redirects it; its own exit code comes back."""
    return subprocess.run(
        ["sh", "-c", f'"$0" -c "$1" {redirection}', sys.executable, PROGRAM],
        capture_output=True, text=True, errors="replace", env=os.environ | env, check=False,
        timeout=120,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("redirection", "said"),
    [(">/dev/full", "No space left on device"), (">&-", "done"), (">&- 2>&- <&-", "")],
    ids=["full", "closed", "all closed"],
)
def test_an_output_that_takes_nothing_ends_nothing(redirection, said):
    """Catches: a traceback in the midst of the work, and the interpreter's own exit code 120."""
    if "full" in redirection and not os.path.exists("/dev/full"):  # noqa: PTH110 - a device
        pytest.skip("this system has no /dev/full")
    done = run(redirection)
    assert done.returncode == 3
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_a_reader_that_goes_away_ends_nothing():
    """Catches: BrokenPipeError after `| head -1`."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.readline()
    process.stdout.close()
    said = process.stderr.read().decode(errors="replace")
    process.stderr.close()
    assert process.wait(120) == 3
    assert said.count("the work goes on") == 1
    assert "Traceback" not in said
    assert "Exception ignored" not in said


def test_letters_that_the_encoding_lacks_are_escaped():
    """Catches: UnicodeEncodeError at the sign between a number and its error."""
    done = run("", PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert done.returncode == 3
    assert "bits/dim 3.25 \\xb1 0.50" in done.stdout
    assert "Traceback" not in done.stderr


def test_a_stream_that_is_closed_or_has_no_descriptor_is_no_error():
    """Catches: a fallback that needs a file."""
    stream = io.StringIO()
    say("a ± b", stream=stream)
    assert stream.getvalue() == "a ± b\n"
    stream.close()
    say("more", stream=stream)
    say("name \udcff", stream=(bytes_ := io.TextIOWrapper(io.BytesIO(), "utf-8")))
    assert bytes_.buffer.getvalue() == b"name \\udcff\n"


def test_closed_descriptors_are_opened_before_a_file_gets_their_number(tmp_path):
    """Catches: a data file under number 1, into which a C library prints."""
    program = """
import os, sys
from ddpm_core.output import command_output
with command_output():
    with open(sys.argv[1], "w") as file:
        os.write(1, b"chatter of a library")
        file.write("data")
"""
    path = tmp_path / "file"
    done = subprocess.run(
        ["sh", "-c", '"$0" -c "$1" "$2" >&- <&-', sys.executable, program, str(path)], check=True
    )
    assert done.returncode == 0
    assert path.read_text() == "data"
