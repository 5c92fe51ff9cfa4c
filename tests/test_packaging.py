"""What pyproject.toml asks for, constraints.txt has."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = Path(__file__).parents[1]


def test_every_requirement_is_pinned_within_its_range():
    """Catches: a dependency added here and not there, so that each machine installs another."""
    lines = (PROJECT / "constraints.txt").read_text().split()
    pins = {canonicalize_name(name): pin for name, _, pin in (one.partition("==") for one in lines)}
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    asked = [Requirement(text) for group in (project["dependencies"], *extras) for text in group]
    outside = [one for one in asked if one.name != project["name"]]
    assert len(outside) > 20
    for one in outside:
        pin = pins.get(canonicalize_name(one.name))
        assert pin is not None, f"{one.name} is not in constraints.txt"
        assert one.specifier.contains(pin), f"{one} does not allow {pin} of constraints.txt"


def test_the_command_ddpm_is_the_stages():
    """Catches: a script that names a function that is not there, or lists no `run`."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    module, _, function = project["scripts"]["ddpm"].partition(":")
    program = (
        f"import sys; sys.argv = ['/bin/ddpm', '--help']; from {module} import {function} as f"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"{program}; f()"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: ddpm ")
    for verb in ("run", "train", "verify", "runs", "export-samples"):
        assert re.search(rf"\n    {verb}\s", done.stdout)
