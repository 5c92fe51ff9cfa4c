"""Which run is played with where none is named: the one that was trained last."""

from pathlib import Path

from ddpm_core.errors import ConfigError, PipelineError
from ddpm_core.runs import layout, results
from ddpm_core.runs.table import config_of
from ddpm_core.store.storage import Store


def newest_run(store: Store) -> str:
    """Return the name of the run below a local root whose last checkpoint is the newest.

    Raises:
        ConfigError: there is none, or the root is a bucket, which tells no times.
    """
    times: dict[str, float] = {}
    for name in store.names("runs"):
        if not store.exists(layout.run_json_key(name)):
            continue
        try:
            config = config_of(store, name)
            found = None if config.role != "denoiser" else results.final_checkpoint(store, config)
        except PipelineError:
            continue  # a run that cannot be read is none to play with
        if found is not None:
            path = store.local_path(f"{found.folder}/manifest.json")
            if path is None:
                raise ConfigError(
                    f"say which run of {store.uri}: a bucket does not tell the newest"
                )
            times[name] = Path(path).stat().st_mtime
    if not times:
        raise ConfigError(
            f"no run below {store.uri} is trained yet: run the pipeline first (make run), or give "
            "--root"
        )
    return max(times, key=lambda name: times[name])
