"""A run: a name under a root, and the configuration that the name stands for."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ddpm_core import layout
from ddpm_core.canonical import MAX_JSON_BYTES
from ddpm_core.config import RunConfig
from ddpm_core.errors import ConfigError, RunConflictError
from ddpm_core.pinned_file import read_pinned
from ddpm_core.recipes import RECIPES, is_recipe, recipe
from ddpm_core.storage import KeyMissingError, Store, open_store

DEFAULT_ROOT = "./runs"


def configure(
    target: str, *, root: str | None, run: str | None, changes: Mapping[str, Any]
) -> tuple[str, RunConfig]:
    """Return (root URI, configuration) of what a command line names; writes nothing.

    Args:
        target: a recipe's name, perhaps with an ablation's, or path or URI of a run.json.
        root: where everything lies; None is the root that the run.json lies in, else ./runs.
        run: name of the run; None is the recipe's or the file's own.
        changes: `{"section.key": value}` on top.

    Raises:
        ConfigError: if any of it is not valid.
        RunConflictError: if `changes` would make a run that exists another experiment.
    """
    if is_recipe(target):
        base, home = recipe(target), None
    else:
        base, home = _read_run_json(target)
    named = {**changes, "name": run} if run is not None else dict(changes)
    config = _with_absolute_paths(base.replaced(named))
    _require_source(config)
    if home is not None and run is None and root is None:
        _refuse_other_experiment(base, config, where=target)
        return home, config
    return home or DEFAULT_ROOT if root is None else root, config


def check_run(store: Store, config: RunConfig) -> bool:
    """Return whether the run is on record, as this configuration; writes nothing.

    `compute`, and where the raw data lie, may differ from what is on record: they change how fast
    a run goes, not what it is.

    Raises:
        RunConflictError: with a line for each key that differs.
    """
    recorded = _recorded(store, config.name)
    if recorded is None:
        return False
    where = store.uri_of(layout.run_json_key(config.name))
    _refuse(recorded.differences(config), config.name, where=where)
    return True


def check_stage(store: Store, config: RunConfig) -> bool:
    """Return whether the run is on record, for one stage of it; writes nothing.

    Unlike for `check_run`, a run on record may be sampled and evaluated in another way than the
    first time: such results stand beside the others, under their own fingerprint.

    Raises:
        RunConflictError: if the run on record is another experiment.
    """
    recorded = _recorded(store, config.name)
    if recorded is None:
        return False
    where = store.uri_of(layout.run_json_key(config.name))
    _refuse_other_experiment(recorded, config, where=where)
    return True


def open_run(store: Store, config: RunConfig) -> RunConfig:
    """Write run.json once, or check that the one that is there says the same.

    Raises:
        RunConflictError: as `check_run`.
    """
    if not check_run(store, config):
        try:
            store.create(layout.run_json_key(config.name), config.to_json().encode())
        except RunConflictError:
            check_run(store, config)  # somebody else was first
    return config


def open_stage(store: Store, config: RunConfig) -> RunConfig:
    """Return the configuration for one stage of a run that may exist.

    Raises:
        RunConflictError: as `check_stage`.
    """
    return config if check_stage(store, config) else open_run(store, config)


def require_feature_file(config: RunConfig) -> None:
    """Refuse a feature network that is to be read from this machine and is not there.

    Called before the training where the evaluation is to run on this machine too. What the file
    does is tried by `evaluation.check`, for which torch is needed.

    Raises:
        ConfigError: naming the path: there is no such file, or it has another digest.
    """
    evaluate = config.evaluate
    if evaluate.features != "trained" and "://" not in evaluate.features:
        read_pinned(evaluate.features, str(evaluate.features_sha256), key="evaluate.features")


def _recorded(store: Store, run: str) -> RunConfig | None:
    key = layout.run_json_key(run)
    try:
        return RunConfig.from_json(
            store.read(key, at_most=MAX_JSON_BYTES), origin=store.uri_of(key)
        )
    except KeyMissingError:
        return None


def _with_absolute_paths(config: RunConfig) -> RunConfig:
    """Return it with paths that mean the same to workers, which run in other folders."""
    paths = {"data.source": config.data.source, "evaluate.features": config.evaluate.features}
    return config.replaced(
        {
            key: _absolute(key, path)
            for key, path in paths.items()
            if path not in ("default", "trained") and "://" not in path
        }
    )


def _absolute(key: str, path: str) -> str:
    try:
        absolute = Path(path).expanduser().resolve()
        absolute.exists()  # whether or not: it can be asked
    except (OSError, RuntimeError, ValueError) as error:
        # No such user; too long, or this user may not look there; a NUL.
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"{key}={path[:300]!r} is no path here: {reason}; give another") from None
    return str(absolute)


def _require_source(config: RunConfig) -> None:
    data = config.data
    if data.is_collection and data.source == "default":
        raise ConfigError(
            f"data.source='default', but {data.name} is nothing that can be downloaded here; give "
            "--set data.source=PLACE: a folder, a .zip or .tar of images, an LMDB export, or "
            "WebDataset shards, as a path, s3://bucket/prefix or https:// URI"
        )
    scheme, separator, place = data.source.partition("://")
    if separator and "@" in place.partition("/")[0]:
        raise ConfigError(
            f"data.source={scheme}://... holds a user or a password, which run.json would keep; "
            "give it without: credentials come from the environment or the AWS files"
        )
    if data.source.startswith("https://") and data.source_sha256 is None:
        raise ConfigError(
            f"data.source={data.source!r} is fetched from outside and data.source_sha256 is not "
            "given; give the SHA-256 of the archive you trust"
        )


def _read_run_json(target: str) -> tuple[RunConfig, str | None]:
    """Return the configuration in the file, and the root if it lies where a run's file lies."""
    folder, _, name = target.rpartition("/")
    if not name.endswith(".json"):
        raise ConfigError(
            f"{target!r} is neither a recipe ({', '.join(RECIPES)}) nor the path or URI of a "
            "run.json"
        )
    try:
        data = open_store(folder or ".").read(name, at_most=MAX_JSON_BYTES)
    except KeyMissingError:
        raise ConfigError(f"there is no file {target}; give a recipe or a run.json") from None
    config = RunConfig.from_json(data, origin=target)
    suffix = "/" + layout.run_json_key(config.name)
    absolute = target if "://" in target else str(Path(target).expanduser().resolve())
    return config, absolute.removesuffix(suffix) if absolute.endswith(suffix) else None


def _refuse_other_experiment(recorded: RunConfig, config: RunConfig, *, where: str) -> None:
    other_results = ("sample.", "evaluate.", "study.")
    lines = [line for line in recorded.differences(config) if not line.startswith(other_results)]
    _refuse(lines, recorded.name, where=where)


def _refuse(differences: list[str], run: str, *, where: str) -> None:
    if differences:
        lines = "\n".join(f"  {line}" for line in differences)
        raise RunConflictError(
            f"run {run!r} exists with another configuration ({where}):\n{lines}\n"
            "Give this one another name (--run NAME), or repeat the first one's settings."
        )
