"""`.ci/run` with a `make` and an installer that only write down what they were given."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
MAKE = """#!/bin/sh
env > "$PWD/env-of-$(basename "$1")"
echo "make $1 speaks"
test ! -e "$PWD/$1-fails"
"""
INSTALL = """#!/bin/sh
env > "$PWD/env-of-$(basename "$0")"
test ! -e "$PWD/$(basename "$0")-fails"
"""
PACKAGES = ("s3-server", "browser")


@pytest.fixture
def checkout(tmp_path):
    """Give a folder with the gate, in a path with a space."""
    folder = tmp_path / "a checkout"
    for name, text in (("bin/make", MAKE), *((f"infra/{one}", INSTALL) for one in PACKAGES)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    shutil.copytree(PROJECT / ".ci", folder / ".ci")
    return folder


def gate(checkout, **environment):
    path = f"{checkout / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", ".ci/run"],
        cwd=checkout,
        env={"PATH": path, "HOME": "/root", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_nothing_comes_in_from_outside_and_the_tests_have_the_last_word(checkout):
    """Catches: tests that pass only in the shell of who wrote them, such as one that writes no
    .pyc files; a mirror of pip that set-up does not find; a proxy that the tests would speak to.
    """
    theirs = {
        "PYTHONDONTWRITEBYTECODE": "1",
        "MLFLOW_TRACKING_URI": "http://mlflow",
        "LC_ALL": "tr_TR.UTF-8",
    }
    registries = {"PIP_INDEX_URL": "https://mirror/a b", "https_proxy": "http://proxy"}
    done = gate(checkout, **theirs, **registries)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "make test-all speaks"

    def env_of(name):
        lines = (checkout / f"env-of-{name}").read_text().splitlines()
        given = dict(line.split("=", 1) for line in lines)
        return {name: given[name] for name in given.keys() - {"PWD", "OLDPWD", "SHLVL", "_"}}

    declared = {"HOME", "PATH", "LANG", "TERM", "CI"}
    for name in ("lint", "test-all"):
        assert env_of(name).keys() == declared
        assert env_of(name)["HOME"] != "/root"
    for name in (".installed-dev", *PACKAGES):
        assert env_of(name).keys() == declared | registries.keys()
        assert env_of(name).items() >= registries.items()


@pytest.mark.parametrize("part", ["lint", "test-all", *PACKAGES])
def test_a_part_that_fails_fails_the_gate_but_for_packages(checkout, part):
    """Catches: the outcome of what runs in the background lost, and a failure without its words."""
    (checkout / f"{part}-fails").touch()
    done = gate(checkout)
    assert (done.returncode == 0) == (part in PACKAGES)
    assert "make test-all speaks" in done.stdout
    assert ("make lint speaks" in done.stdout) == (part == "lint")
    assert ("without the s3-server" in done.stdout) == (part == "s3-server")
    assert ("without the browser" in done.stdout) == (part == "browser")
