"""What pyproject.toml asks for, constraints.txt has."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import get_args

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from ddpm_core import __version__, errors
from ddpm_core.config import RunConfig
from ddpm_core.inference import weights
from ddpm_core.shards import index
from ddpm_core.store import manifest_bytes

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


def test_the_changelog_has_this_version_and_what_comes_after_it_first():
    """Catches a version that says nothing of itself, and entries out of order."""
    text = (PROJECT / "CHANGELOG.md").read_text(encoding="utf-8")
    first, *versions = re.findall(r"^## \[(.+?)\](.*)$", text, re.MULTILINE)
    assert first == ("Unreleased", "")
    assert __version__ in [number for number, _ in versions]
    assert all(re.fullmatch(r" - \d{4}-\d{2}-\d{2}", date) for _, date in versions)
    numbers = [Version(number) for number, _ in versions]
    assert numbers == sorted(numbers, reverse=True)
    groups = set(re.findall(r"^### (.+)$", text, re.MULTILINE))
    assert groups <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_the_version_policy_names_the_versions_that_the_code_has():
    """Catches a format that was raised here and not in the page that says what is read."""
    page = (PROJECT / "docs/versions.md").read_text(encoding="utf-8")
    run_json = get_args(RunConfig.model_fields["format_version"].annotation)[0]
    said = {
        "`run.json`": f"`format_version` {run_json}",
        "`index.json` of a data set": f"`format_version` {index.FORMAT_VERSION}; {index.IN_PARTS} "
        "of sets that are large, lie elsewhere or are made of others",
        "manifests": f"`format_version` {manifest_bytes.FORMAT_VERSION}",
        "checkpoints": f"`format` {weights.NEWEST_FORMAT} in the manifest; none is 1",
    }
    for what, version in said.items():
        assert f"\n| {what} | {version} |" in page, what
    codes = {one.exit_code for one in errors.PipelineError.__subclasses__()}
    (line,) = re.findall(r"^0 done.*?\.$", page, re.MULTILINE | re.DOTALL)
    said_codes = {int(code) for code in re.findall(r"(?:^|· |\n)(\d+) ", line)}
    assert said_codes == codes | {0, errors.INTERRUPTED_EXIT_CODE}
