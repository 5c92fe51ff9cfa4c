"""Which run is played with where none is named: the one that was trained last."""

from ddpm_core.errors import ConfigError, PipelineError
from ddpm_core.runs import layout, results
from ddpm_core.runs.table import config_of
from ddpm_core.store.storage import Store


def newest_run(store: Store) -> str:
    """Return the name of the run below a root whose last checkpoint is the newest.

    Raises:
        ConfigError: there is none, or several in a bucket, which tells no times.
    """
    found: dict[str, str] = {}
    for name in store.names("runs"):
        if not store.exists(layout.run_json_key(name)):
            continue
        try:
            config = config_of(store, name)
            last = None if config.role != "denoiser" else results.final_checkpoint(store, config)
        except PipelineError:
            continue  # a run that cannot be read is none to play with
        if last is not None:
            found[name] = f"{last.folder}/manifest.json"
    if not found:
        raise ConfigError(
            f"no run below {store.uri} is trained yet: run the pipeline first (make run), or give "
            "--root; a run that is being trained is played with by its name and --model @newest"
        )
    paths = {name: store.local_path(key) for name, key in found.items()}
    times = {name: path.stat().st_mtime for name, path in paths.items() if path is not None}
    if len(found) > 1 and not times:
        raise ConfigError(
            f"say which run of {store.uri}, e.g. {min(found)} of the {len(found)} that are "
            "trained: a bucket does not tell the newest"
        )
    return max(found, key=lambda name: times.get(name, 0.0))
