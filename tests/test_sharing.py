"""How xdist's processes share the tests, and where the time went."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import seconds

PROJECT = Path(__file__).parents[1]
INI = """
[pytest]
markers =
    ray: group "clusters"
    end_to_end: group "clusters"
"""
WAITS = """
import os, pathlib, time
import pytest

@pytest.mark.ray
def test_waits_for_the_other_process():
    pathlib.Path("one").write_text(os.environ["PYTEST_XDIST_WORKER"])
    for _ in range(600):
        if pathlib.Path("beside").exists():
            return
        time.sleep(0.05)
    raise AssertionError("nothing ran beside")
"""
MARKED = """
import os, pathlib
import pytest

pytestmark = [pytest.mark.end_to_end]

def test_is_of_the_same_process():
    assert pathlib.Path("one").read_text() == os.environ["PYTEST_XDIST_WORKER"]
"""
BESIDE = """
import pathlib

def test_only_speaks_of_pytest_mark_ray():
    "Not pytest.mark.ray, which it names."
    pathlib.Path("beside").touch()

def test_is_skipped_with_a_reason():
    import pytest
    pytest.skip("this is why")
"""


@pytest.fixture
def suite(tmp_path):
    """Give a folder of tests of which two start clusters, in two files."""
    (tmp_path / "pytest.ini").write_text(INI)
    for name, text in (("test_a", WAITS), ("test_b", MARKED), ("test_c", BESIDE)):
        (tmp_path / f"{name}.py").write_text(text)
    return tmp_path


def test_what_starts_clusters_is_one_process_s_and_the_rest_runs_beside(suite):
    """Catches: groups by name or source instead of marks, marks of a module that do not count, a
    scheduler that pytest ignores; the seconds of a process that are lost, reasons that are hidden.
    """
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    plugins = ("-p", "tests.sharing", "-p", "tests.seconds", "-p", "no:cacheprovider")
    shared = ("-n", "2", "--dist", "loadscope", "--no-loadscope-reorder")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-ra", *plugins, *shared, "."],
        cwd=suite,
        env=env | {"PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert any(line.startswith("SKIPPED") and line.endswith(": this is why") for line in lines)
    assert "3 passed, 1 skipped" in lines[-1]


def test_the_table_has_each_file_and_each_process():
    """Catches: seconds of fixtures left out, files that are cut off without a word."""
    report = {"outcome": "passed", "longrepr": None, "location": ("", 0, ""), "keywords": {}}
    reports = [
        pytest.TestReport(nodeid=f"f{n % 30}.py::t", when=when, duration=n, **report)
        for n in range(60)
        for when in ("setup", "call")
    ]
    for number, one in enumerate(reports):
        one.worker_id = f"gw{number % 2}"
    files, workers = seconds.seconds_of(
        {"": reports[::2], "passed": reports[1::2], "warnings": [1]}
    )
    assert files == {f"f{n}.py": 2 * (n + n + 30) for n in range(30)}
    assert workers == {"gw0": 1770, "gw1": 1770}
