"""The recipe that a configuration differs least from, and the command that makes it again."""

import json
import shlex
from typing import Any

from ddpm_core.config import RunConfig
from ddpm_core.recipes import RECIPES, recipe


def nearest_recipe(config: RunConfig) -> tuple[str, dict[str, Any]]:
    """Return the recipe, and the keys in which a configuration differs from it, with its values.

    The name and the section `compute` do not count: they change no result.
    """
    own = {
        key: value
        for key, value in config.flat().items()
        if key != "name" and not key.startswith("compute.")
    }
    found = {
        name: {key: value for key, value in own.items() if flat.get(key) != value}
        for name in RECIPES
        for flat in [recipe(name).flat()]
    }
    nearest = min(found, key=lambda name: (len(found[name]), name != config.name))
    return nearest, found[nearest]


def command_of(config: RunConfig) -> str:
    """Return the command line that makes the run of a configuration again."""
    name, changes = nearest_recipe(config)
    words = ["python", "-m", "flows.train_ddpm", name, "--run", config.name]
    for key, value in changes.items():
        words += ["--set", f"{key}={_written(value)}"]
    return shlex.join(words)


def _written(value: object) -> str:
    """Return a value as --set reads it: text as it stands, unless it would read as JSON."""
    if not isinstance(value, str):
        return json.dumps(value)
    try:
        json.loads(value)
    except ValueError:
        return value
    return json.dumps(value)
