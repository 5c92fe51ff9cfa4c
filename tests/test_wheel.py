"""The wheel, installed where nothing else is: what it holds, and what it can do."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from ddpm_core import __version__

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).parents[1]
SHIPPED = ("ddpm_core", "flows")
ALSO = ("pyproject.toml", "README.md", "LICENSE")
# Of the user who runs the tests and of the session: none of it may reach the program.
CLEAN = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8"}


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """Return a folder with the sdist and the wheel that is built of it, without a network."""
    folder = tmp_path_factory.mktemp("built")
    source = folder / "source with a space"
    for name in SHIPPED:
        shutil.copytree(PROJECT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ALSO:
        shutil.copy(PROJECT / name, source / name)
    run([sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, source])
    return folder


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory) -> Path:
    """Return the programs of an environment that has the wheel, and this one's packages."""
    place = tmp_path_factory.mktemp("an environment") / "venv"
    venv.create(place, with_pip=False)
    python = place / "bin" / "python"
    (wheel,) = built.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "--python", python, "install"]
    run([*pip, "--quiet", "--no-index", "--no-deps", "--no-compile", wheel])
    # Its own packages come first; of what lies in this path no .pth is read, so no checkout.
    site = run([python, "-c", "import site; print(site.getsitepackages()[0])"]).strip()
    (Path(site) / "of-the-tests.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python.parent


def run(command, **options) -> str:
    done = subprocess.run(
        [str(word) for word in command],
        capture_output=True, text=True, check=False, timeout=200, **options,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_holds_every_file_of_the_program_and_nothing_else(built):
    """Catches a package without __init__.py, or a file of data, that only a checkout has."""
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    files = [path for top in SHIPPED for path in (PROJECT / top).rglob("*") if path.is_file()]
    ours = {path.relative_to(PROJECT).as_posix() for path in files if path.suffix != ".pyc"}
    assert held == ours
    assert wheel.name == f"ddpm_pipeline-{__version__}-py3-none-any.whl"


def test_the_sdist_is_enough_to_build_the_wheel(built):
    """Catches an sdist without the licence or the file that says the version."""
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {*ALSO, "ddpm_core/__init__.py", "flows/ddpm.py", "ddpm_core/py.typed"} <= names


def test_the_installed_command_runs_the_pipeline_and_knows_its_version(installed, tmp_path):
    """Catches `ddpm run` that is there in a checkout alone, or that reads a file of it."""
    clean = CLEAN | {"HOME": str(tmp_path / "home")}
    there = {"cwd": tmp_path, "env": clean}
    assert run([installed / "ddpm", "--version"], **there) == f"ddpm-pipeline {__version__}\n"
    place = run([installed / "python", "-c", "import flows; print(flows.__file__)"], **there)
    assert Path(place.strip()).is_relative_to(installed.parent)
    said = run([installed / "ddpm", "run", "digits", "--dry-run"], **there)
    assert '"name":"digits"' in said.replace(" ", "")
    assert "usage: ddpm run " in run([installed / "ddpm", "run", "--help"], **there)
    assert not (tmp_path / "runs").exists()
    assert not (tmp_path / "home").exists()
