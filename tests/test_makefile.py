"""The Makefile, with a Python that only tells what it was asked: set-up that failed, and `ui`."""

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
# `-m venv` makes its own copy in .venv/bin, then ends with the status in the file `venv-status`,
# as Debian's does where ensurepip is missing: python is there, pip is not.
PYTHON = """#!/bin/sh
echo "$@" >> "$FAKE/asked"
case "$*" in
  "-m venv"*)
    rm -rf .venv/lib; mkdir -p .venv/bin .venv/lib; cp "$FAKE/python" .venv/bin/python
    test "$(cat "$FAKE/venv-status")" = 0 || exit 1
    touch .venv/lib/pip ;;
  "-m pip"*)
    test -e .venv/lib/pip || { echo "No module named pip" >&2; exit 1; } ;;
esac
"""


# What a `make test ARGS=…` around these tests would hand on.
OUR_OWN = ("MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES", "ARGS", "RECIPE", "ROOT", "PORT",
           "MLFLOW_TRACKING_URI")  # fmt: skip


class Checkout:
    """A copy of what make reads, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.fake = folder / "checkout", folder / "fake"
        self.folder.mkdir()
        self.fake.mkdir()
        for name in ("Makefile", "pyproject.toml", "constraints.txt"):
            shutil.copy(PROJECT / name, self.folder)
        (self.fake / "python").write_text(PYTHON)
        (self.fake / "python").chmod(0o755)
        self.let_venv_end_with(0)

    def let_venv_end_with(self, status: int) -> None:
        (self.fake / "venv-status").write_text(str(status))

    def make(self, *arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
        env = {k: v for k, v in os.environ.items() if k not in OUR_OWN}
        return subprocess.run(
            ["make", *arguments, f"PYTHON={self.fake / 'python'}"],
            cwd=self.folder,
            env=env | {"FAKE": str(self.fake)} | extra,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def asked(self) -> list[str]:
        """Return what Python was asked since the last call."""
        log = self.fake / "asked"
        lines = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return lines


@pytest.fixture
def checkout(tmp_path):
    return Checkout(tmp_path)


def test_set_up_works_at_the_second_try(checkout):
    """Catches: a .venv without pip, left by a venv that failed or was killed, taken for whole."""
    checkout.let_venv_end_with(1)
    assert checkout.make("run").returncode != 0
    assert not [words for words in checkout.asked() if words.startswith("-m pip")]
    checkout.let_venv_end_with(0)
    done = checkout.make("run")
    assert done.returncode == 0, done.stderr
    asked = checkout.asked()
    assert "-m venv --clear .venv" in asked
    assert "-m flows.train_ddpm digits --root ./runs" in asked


def test_set_up_says_that_it_takes_long_and_is_done_once(checkout):
    """Catches: minutes without a word, an installation at every run, an upgrade from nothing."""
    assert "installing into .venv" in checkout.make("run").stdout
    checkout.asked()
    again = checkout.make("run")
    assert "installing" not in again.stdout
    assert checkout.asked() == ["-m flows.train_ddpm digits --root ./runs"]
    newer = (checkout.folder / ".venv/.installed").stat().st_mtime + 10
    os.utime(checkout.folder / "constraints.txt", (newer, newer))
    checkout.make("run")
    modules = [words.split()[1] for words in checkout.asked()]
    assert modules == ["pip", "compileall", "flows.train_ddpm"]


def test_what_the_tests_need_is_installed_at_once(checkout):
    """Catches: pip that resolves and installs twice before the first test, or before a run."""
    checkout.make("test")
    asked = checkout.asked()
    assert [words for words in asked if words.startswith("-m pip")] == [
        "-m pip install --quiet --no-compile --constraint constraints.txt --editable .[dev]",
        "-m pip install --quiet --constraint constraints.txt --no-deps torch-fidelity",
    ]
    assert asked[-1].startswith("-m pytest ")
    checkout.make("run")
    assert checkout.asked() == ["-m flows.train_ddpm digits --root ./runs"]


def test_each_mark_says_something_to_a_target_and_is_on_a_test():
    """Catches: marks that do nothing."""
    options = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["pytest"]
    marks = {line.partition(":")[0] for line in options["ini_options"]["markers"]}
    makefile = (PROJECT / "Makefile").read_text()
    chosen = " ".join(re.findall(r' -m "?([a-z0-9_ ]+)"? \$\(ARGS\)', makefile)).split()
    assert set(chosen) - {"not", "and"} == marks
    sources = "".join(path.read_text() for path in (PROJECT / "tests").rglob("test_*.py"))
    assert set(re.findall(r"pytest\.mark\.(\w+)", sources)) >= marks


def test_ui_without_results_says_what_to_do_and_installs_nothing(checkout):
    """Catches: an empty MLflow on a database that `make ui` itself has just made."""
    refused = checkout.make("ui", "ROOT=elsewhere")
    assert refused.returncode != 0
    assert "no elsewhere/mlflow.db" in refused.stderr
    assert "make run" in refused.stderr
    assert not checkout.asked()


@pytest.mark.parametrize("root", ["my runs", "it's a root", 'a "b" #c'])
@pytest.mark.parametrize("uri", ["", "sqlite:////data/mlflow.db", "https://mlflow.example/path"])
def test_ui_gets_root_and_port_as_they_were_given(checkout, root, uri):
    """Catches: a root with a space or a quote cut in pieces, a port that cannot be changed, and a
    success where the page could not be served."""
    folder = checkout.folder / root
    folder.mkdir()
    (folder / "mlflow.db").touch()
    done = checkout.make("ui", f"ROOT={root}", MLFLOW_TRACKING_URI=uri)
    assert done.returncode == 0, done.stderr
    assert checkout.asked()[-1] == f"-m ddpm_core.tracking.ui {folder.name} --port 5000"
    checkout.make("ui", f"ROOT={root}", "PORT=5001", MLFLOW_TRACKING_URI=uri)
    assert checkout.asked()[-1] == f"-m ddpm_core.tracking.ui {folder.name} --port 5001"
    (checkout.folder / ".venv/bin/python").write_text("#!/bin/sh\nexit 7\n")
    assert checkout.make("ui", f"ROOT={root}", MLFLOW_TRACKING_URI=uri).returncode != 0
