"""The first argument of a command line: a recipe, a run, its run.json, or a data set's folder."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from ddpm_core.canonical import MAX_JSON_BYTES
from ddpm_core.config import RUN_NAME_PATTERN, RunConfig
from ddpm_core.config.data_ref import is_folder_name
from ddpm_core.config.explain import near
from ddpm_core.errors import ConfigError
from ddpm_core.recipes import RECIPES, is_recipe, recipe
from ddpm_core.runs import layout
from ddpm_core.store.storage import KeyMissingError, open_store

DEFAULT_ROOT = "./runs"
_IN_A_RAY_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""set by Ray for the command of a submitted job, and for no other process of a user"""


def read_target(target: str, *, root: str | None) -> tuple[RunConfig, str | None]:
    """Return the configuration that `target` names, and the root it lies in; None: in none.

    A recipe's name always means the recipe: a command must not mean something else once a run of
    that name is there. To mean the run, give its folder.

    Args:
        target: a recipe, perhaps with an ablation; path or URI of a run.json, or of the folder
            that holds one; or the name of a run below the root.
        root: where a run's name is looked up; None is ./runs.

    Raises:
        ConfigError: it is none of these, or what it names is no configuration.
        StorageError: the storage does not answer.
    """
    if is_recipe(target):
        return recipe(target), None
    if target.endswith(".json") or "/" in target:
        file = target if target.endswith(".json") else f"{target.rstrip('/')}/run.json"
        is_other_file = file != target and "://" not in target and os.path.isfile(target)  # noqa: PTH113
        if is_other_file or (found := _read_if_there(file)) is None:
            raise ConfigError(
                f"{target!r} is neither a recipe nor a run: there is no file {file}; give a recipe "
                f"({', '.join(RECIPES)}), or path or URI of a run.json or its folder"
            )
        return found, _root_of(found, file)
    home = DEFAULT_ROOT if root is None else root
    if re.fullmatch(RUN_NAME_PATTERN, target):
        file = f"{home.rstrip('/')}/{layout.run_json_key(target)}"
        if (found := _read_if_there(file)) is not None:
            return found, home
        if (found := _read_if_there(f"{target}/run.json")) is not None:
            return found, _root_of(found, f"{target}/run.json")
    raise ConfigError(
        f"{target!r} is neither a recipe ({', '.join(RECIPES)}), nor a run below {home}, nor the "
        f"path or URI of a run.json or its folder{_suggestion(target, home)}"
    )


def run_place(target: str, root: str | None) -> str:
    """Return the folder of a run that is named alone; of what is a path, that.

    Unlike `read_target` never a recipe of that name.

    Raises:
        ConfigError: there is no run of that name below the root.
        StorageError: the storage does not answer.
    """
    if "/" in target or target.endswith(".json"):
        return target
    home = root or DEFAULT_ROOT
    is_name = re.fullmatch(RUN_NAME_PATTERN, target) is not None
    if not (is_name and open_store(home).exists(layout.run_json_key(target))):
        close = near(target, [*_runs_in(home)])
        meant = f"; did you mean {close!r}?" if close else ""
        raise ConfigError(
            f"there is no run {target!r} below {home}; give the name of one, its folder, or the "
            f"root that it lies in{meant}"
        )
    return f"{home.rstrip('/')}/{layout.run_folder(target)}"


def dataset_place(target: str) -> tuple[str, str] | None:
    """Return (root URI, key there) of a data set's folder; None: it is not called as one.

    The root, because a data set may have its images in the folders of others. Of a copy that lies
    below no root it is the folder around it.
    """
    path = (target if "://" in target else str(Path(target).expanduser().absolute())).rstrip("/")
    parent, slash, name = path.rpartition("/")
    if not is_folder_name(name):
        return None
    root, _, last = parent.rpartition("/")
    if last == "datasets" and not root.endswith("/"):  # of s3://datasets it is the bucket
        return root or slash, f"datasets/{name}"
    return parent or slash, name


def require_lasting_root(root: str) -> None:
    """Refuse a relative root in a Ray job, which would lie in Ray's copy of the working folder.

    Raises:
        ConfigError: saying what to give.
    """
    if os.environ.get(_IN_A_RAY_JOB) and not root.startswith(("/", "~", "s3://", "file:///")):
        raise ConfigError(
            f"root {root!r} is relative, and this is a Ray job, whose working folder Ray deletes "
            "when it is no longer needed; give --root with an absolute path that all nodes reach, "
            "or s3://bucket/prefix"
        )


def _read_if_there(file: str) -> RunConfig | None:
    folder, slash, name = file.rpartition("/")
    try:
        data = open_store(folder or (slash or ".")).read(name, at_most=MAX_JSON_BYTES)
    except KeyMissingError:
        return None
    return RunConfig.from_json(data, origin=file)


def _root_of(config: RunConfig, file: str) -> str | None:
    """Return the root if the file lies where a run's file lies, else None."""
    suffix = "/" + layout.run_json_key(config.name)
    absolute = file if "://" in file else str(Path(file).expanduser().resolve())
    return absolute.removesuffix(suffix) if absolute.endswith(suffix) else None


def _suggestion(target: str, home: str) -> str:
    close = near(target, [*RECIPES, *_runs_in(home)])
    return f"; did you mean {close!r}?" if close else ""


def _runs_in(home: str) -> Iterator[str]:
    """Yield the names of the runs below a root on this machine; buckets are not listed."""
    if "://" not in home:
        yield from open_store(home).names("runs")
