"""A run: a name under a root, and the configuration that the name stands for.

runs/<run>/run.json     written once, when the run's first result is about to stand
runs/<run>/begun.json   what it said then: a run.json that was changed since is spoken of
"""

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

from ddpm_core.config import RunConfig
from ddpm_core.config.feature_networks import FOLDER
from ddpm_core.errors import CheckpointError, ConfigError, RunConflictError
from ddpm_core.runs import (
    base,
    begun,
    going_on,
    grown_data,
    layout,
    named_data,
    prompt_file,
    results,
)
from ddpm_core.runs.stages import Section
from ddpm_core.runs.targets import DEFAULT_ROOT, read_target, require_lasting_root
from ddpm_core.store.pinned_file import read_pinned
from ddpm_core.store.storage import Store, open_store

__all__ = [
    "DEFAULT_ROOT",
    "begin_stage",
    "check_run",
    "check_stage",
    "configure",
    "open_run",
    "open_stage",
    "refuse_training_imported",
    "require_feature_file",
]

_log = logging.getLogger(__name__)


def configure(
    target: str, *, root: str | None, run: str | None, changes: Mapping[str, Any]
) -> tuple[str, RunConfig]:
    """Return (root URI, configuration) of what a command line names; writes nothing.

    Args:
        target: a recipe's name, perhaps with an ablation's; or a run: its name, or path or URI of
            its folder or its run.json.
        root: where everything lies; None is the root that the run lies in, else ./runs.
        run: name of the run; None is the recipe's or the file's own.
        changes: `{"section.key": value}` on top.

    Raises:
        ConfigError: if any of it is not valid.
        RunConflictError: if `changes` would make a run that exists another experiment.
        DataError: if the data set that `data.sets` names is damaged.
    """
    first, home = read_target(target, root=root)
    named = {**changes, "name": run} if run is not None else dict(changes)
    where = (home or DEFAULT_ROOT) if root is None else root
    if first.data.sets is not None or named_data.is_in(named):
        require_lasting_root(where)
        named = named_data.with_sets(open_store(where), first, named.get("name", first.name), named)
    if grown_data.is_in(first, named):
        require_lasting_root(where)
        own = named.get("name", first.name)
        named = grown_data.with_append(open_store(where), first, own, named)
    config = _with_absolute_paths(first.replaced(prompt_file.with_texts(named)))
    _require_source(config)
    require_lasting_root(where)
    config = going_on.as_on_record(open_store(where), base.pinned(open_store(where), config))
    if home is not None and run is None and root is None:
        _refuse_other_experiment(first, config, where=target)
    for line in _new_kinds(first, config, changes):
        _log.warning("%s", line)
    return where, config


def check_run(store: Store, config: RunConfig) -> bool:
    """Return whether the run is on record, as this configuration; writes nothing.

    What changes no result may differ from what is on record: `compute`, where the raw data lie, how
    often something is noted, kept or shown.

    Raises:
        RunConflictError: with a line for each key that differs.
    """
    recorded = begun.recorded(store, config.name)
    if recorded is None:
        return False
    where = store.uri_of(layout.run_json_key(config.name))
    _refuse(going_on.differences(recorded, config), config.name, where=where)
    return True


def check_stage(store: Store, config: RunConfig) -> bool:
    """Return whether the run is on record, for one stage of it; writes nothing.

    Unlike for `check_run`, a run on record may be sampled and evaluated in another way than the
    first time: such results stand beside the others, under their own fingerprint.

    Raises:
        RunConflictError: if the run on record is another experiment.
    """
    recorded = begun.recorded(store, config.name)
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
        _create(store, config, check_run)
    return config


def open_stage(store: Store, config: RunConfig) -> RunConfig:
    """Write run.json, unless the run is on record: called when its first result is about to stand.

    Not earlier, so that an attempt that was refused or killed before its first result has not taken
    the name; of several that come to this at the same time one wins.

    Raises:
        RunConflictError: as `check_stage`.
    """
    if not check_stage(store, config):
        _create(store, config, check_stage)
    return config


def begin_stage(store: Store, config: RunConfig) -> None:
    """Check that a stage of this run may begin.

    Say, once, if its run.json was changed, and which housekeeping is another than before.

    Raises:
        RunConflictError: the run on record is another experiment.
    """
    if check_stage(store, config):
        begun.report_changes(store, config.name)
        begun.report_housekeeping(store, config)


def _create(store: Store, config: RunConfig, check: Callable[[Store, RunConfig], bool]) -> None:
    config = base.pinned(store, config)
    if config.data.recheck:  # that is said to one command, and not to all that follow
        config = config.replaced({"data.recheck": False})
    key, data = layout.run_json_key(config.name), config.to_json().encode()
    try:
        store.create(key, data)
    except RunConflictError:
        check(store, config)  # another process was first
    else:
        begun.keep(store, config, data)


def refuse_training_imported(target: str, *, root: str | None, config: RunConfig) -> None:
    """Refuse to train what `target` names if that is a run of imported weights under another name.

    It would be trained from random weights, which cannot be meant with this file.

    Raises:
        ConfigError: saying what to do.
    """
    first, home = read_target(target, root=root)
    if home is None or first.name == config.name or config.train.start is not None:
        return
    with suppress(CheckpointError):  # of another experiment or damaged: nothing to train on
        found = results.final_checkpoint(open_store(home), first)
        if found is not None and "imported" in found.body:
            raise ConfigError(
                f"{target} is a run of imported weights, and {config.name!r} would begin with "
                f"random ones. To begin from these give --from {first.name}; to train such a "
                "network from the beginning, give a recipe and its sections with --set"
            )


def require_feature_file(config: RunConfig) -> None:
    """Refuse a feature network that is to be read from this machine and is not there.

    Called before the training where the evaluation is to run on this machine too. What the file
    does is tried by `evaluation.features.check`, for which torch is needed.

    Raises:
        ConfigError: naming the path: there is no such file, or it has another digest.
    """
    evaluate = config.evaluate
    if evaluate.is_file_here:
        read_pinned(evaluate.features, str(evaluate.features_sha256), key="evaluate.features")


def _new_kinds(base: RunConfig, config: RunConfig, changes: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each section of another kind than in `base`, with what was not given."""
    before, now = base.flat(), config.flat()
    given = config.shared_keys().union(
        changes, *({f"{k}.{one}" for one in v} for k, v in changes.items() if isinstance(v, dict))
    )
    for kind in (key for key in now if key.endswith(".kind") and now[key] != before[key]):
        section = kind.removesuffix("kind")
        own = {k: v for k, v in now.items() if k.startswith(section) and k not in given}
        if own:
            gone = [key for key in before if key.startswith(section) and key not in now]
            by_default = ", ".join(f"{key}={json.dumps(value)}" for key, value in own.items())
            line = f"{kind}={now[kind]}: not given, and so as by default, are {by_default}"
            if gone:
                line += f"; {', '.join(gone)} are keys of {kind}={before[kind]} and fall away"
            yield line


def _with_absolute_paths(config: RunConfig) -> RunConfig:
    """Return it with paths that mean the same to workers, which run in other folders."""
    paths = {"data.source": config.data.source}
    if config.evaluate.is_file_here:
        paths["evaluate.features"] = config.evaluate.features
    if (reference := config.evaluate.reference) is not None:
        paths["evaluate.reference"] = reference
    if config.data.only_keys is not None:
        paths["data.only_keys"] = config.data.only_keys
    if (start := config.train.start) is not None and start.folder is not None:
        paths["train.start_from"] = str(start)
    changes = {
        key: _absolute(key, path)
        for key, path in paths.items()
        if path != "default" and "://" not in path
    }
    folder = config.evaluate.features.removeprefix(FOLDER)
    if folder != config.evaluate.features and "://" not in folder:
        changes["evaluate.features"] = FOLDER + _absolute("evaluate.features", folder)
    return config.replaced(changes)


def _absolute(key: str, path: str) -> str:
    try:
        absolute = Path(path).expanduser().resolve()
        absolute.exists()  # raises where it cannot be looked at
    except (OSError, RuntimeError, ValueError) as error:
        # No such user; too long, or this user may not look there; a NUL.
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"{key}={path[:300]!r} is no path here: {reason}; give another") from None
    return str(absolute)


def _require_source(config: RunConfig) -> None:
    data = config.data
    if data.is_collection and data.source == "default" and data.sets is None:
        raise ConfigError(
            f"data.source='default', but {data.name} is nothing that can be downloaded here; give "
            "--set data.source=PLACE: a folder, a .zip or .tar of images, an LMDB export, or "
            "WebDataset shards, as a path, s3://bucket/prefix or https:// URI; or --data NAME, a "
            "data set that is there already"
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


def _refuse_other_experiment(recorded: RunConfig, config: RunConfig, *, where: str) -> None:
    other_results = tuple(f"{section}." for section in get_args(Section))
    lines = going_on.differences(recorded, config)
    lines = [line for line in lines if not line.startswith(other_results)]
    _refuse(lines, recorded.name, where=where)


def _refuse(differences: list[str], run: str, *, where: str) -> None:
    if differences:
        lines = "\n".join(f"  {line}" for line in differences)
        raise RunConflictError(
            f"run {run!r} exists with another configuration ({where}):\n{lines}\n"
            "Give this one another name (--run NAME), or repeat the first one's settings."
        )
