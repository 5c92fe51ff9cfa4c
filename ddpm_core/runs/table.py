"""The table of runs below a root: their progress, their numbers, and how they differ."""

import json
from collections.abc import Sequence

from ddpm_core.canonical import MAX_JSON_BYTES
from ddpm_core.config import RunConfig
from ddpm_core.config.explain import near
from ddpm_core.errors import ConfigError, PipelineError
from ddpm_core.runs import going_on, layout, places, previews
from ddpm_core.runs.stages import STAGES
from ddpm_core.store import manifest
from ddpm_core.store.storage import KeyMissingError, Store

_COLUMNS = ("run", "data", "steps", "done")
"""before the numbers"""


def list_runs(store: Store) -> str:
    """Return a table of all runs below the root, a line each; a run that cannot be read says so."""
    names = [name for name in store.names("runs") if store.exists(layout.run_json_key(name))]
    if not names:
        return f"no runs below {store.uri}"
    measured = [column for stage in STAGES.values() for column in stage.numbers.columns]
    return aligned([(*_COLUMNS, *measured), *(_row(store, name, measured) for name in names)])


def show_run(store: Store, name: str) -> str:
    """Return what a run is and where its results lie.

    Raises:
        ConfigError: there is no such run.
    """
    config = config_of(store, name)
    lines = [f"run        {name}", f"folder     {store.uri_of(layout.run_folder(name))}"]
    named = "" if config.data.sets is None else f", {config.data.sets}"
    lines.append(f"data       {config.data.name}, {'x'.join(map(str, config.data.shape))}{named}")
    lines.append(f"steps      {_steps(store, config)}")
    lines += [f"went on    {line}" for line in going_on.history(config)]
    if config.train.start is not None:
        lines.append(f"from       {config.train.start}")
    for stage in STAGES.values():
        try:
            found = stage.result(store, config)
        except PipelineError as error:
            lines.append(f"{stage.name:<9}  {error}")
        else:
            place = "-" if found is None else store.uri_of(found.folder)
            lines.append(f"{stage.name:<9}  {place}")
    made = layout.averages_folder(name)
    for average in store.names(made):
        steps = layout.steps_in(store, f"{made}/{average}")
        lines.append(f"average    {', '.join(f'@{step}:{average}' for step in steps)}")
    if seen := previews.steps(store, name):
        where = store.uri_of(layout.previews_folder(name))
        lines.append(f"previews   {len(seen)}, the last of step {seen[-1]}: {where}")
    lines += [f"{key:<9}  {value}" for key, value in _numbers(store, config).items()]
    return "\n".join(lines)


def compare_runs(store: Store, names: Sequence[str]) -> str:
    """Return the numbers of these runs, and the keys in which their configurations differ.

    Raises:
        ConfigError: one is not there, or fewer than two are given.
    """
    if len(names) < 2:
        raise ConfigError("give at least two runs to compare")
    configs = {name: config_of(store, name) for name in names}
    flat = {name: config.flat() for name, config in configs.items()}
    keys = list(dict.fromkeys(key for one in flat.values() for key in one if key != "name"))
    rows = [("", *names)]
    for key in keys:
        values = [json.dumps(one.get(key)) for one in flat.values()]
        if len(set(values)) > 1:
            rows.append((key, *values))
    numbers = [_numbers(store, config) for config in configs.values()]
    measured = dict.fromkeys(key for one in numbers for key in one)
    rows += [(key, *(one.get(key, "-") for one in numbers)) for key in measured]
    return aligned(rows)


def config_of(store: Store, name: str) -> RunConfig:
    """Return the configuration of a run on record.

    Raises:
        ConfigError: there is no such run; the message names a similar one.
    """
    key = layout.run_json_key(name)
    try:
        data = store.read(key, at_most=MAX_JSON_BYTES)
    except KeyMissingError:
        close = near(name, store.names("runs"))
        meant = f"; did you mean {close!r}?" if close else ""
        raise ConfigError(f"there is no run {name!r} below {store.uri}{meant}") from None
    return RunConfig.from_json(data, origin=store.uri_of(key))


def _row(store: Store, name: str, measured: Sequence[str]) -> tuple[str, ...]:
    try:
        config = config_of(store, name)
        done = [stage.name for stage in STAGES.values() if stage.result(store, config) is not None]
        numbers = _numbers(store, config)
        return (
            name,
            config.data.name,
            _steps(store, config),
            done[-1] if done else "-",
            *(numbers.get(column, "-") for column in measured),
        )
    except PipelineError as error:
        first = str(error).splitlines()[0]
        return (name, f"cannot be read: {first}", "", "", *[""] * len(measured))


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Return rows of cells as lines in which columns begin below each other."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _steps(store: Store, config: RunConfig) -> str:
    for step in layout.committed_steps(store, config.name):
        folder = layout.checkpoint_folder(config.name, step)
        if manifest.load(store, folder, places.checkpoint_expected(step)) is not None:
            return f"{step}/{config.train.num_steps}"
    return f"0/{config.train.num_steps}"


def _numbers(store: Store, config: RunConfig) -> dict[str, str]:
    return {
        number.column: number.value
        for stage in STAGES.values()
        if stage.numbers.columns and (result := stage.result(store, config)) is not None
        for number in stage.numbers.read(store, result)
        if number.value is not None
    }
