"""What pyproject.toml asks for, constraints.txt has."""

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
