"""Which checkpoints keep their files."""

from ddpm_core.runs import layout, places
from ddpm_core.store import manifest
from ddpm_core.store.commit import retire
from ddpm_core.store.manifest import DamagedError
from ddpm_core.store.storage import Store


def prune(store: Store, run: str, keep: int) -> None:
    """Delete the files of all but the newest `keep` usable checkpoints; their manifests stay."""
    kept = 0
    for step in layout.committed_steps(store, run):
        folder = layout.checkpoint_folder(run, step)
        if kept < keep:
            kept += _is_usable(store, folder, step)
        elif not manifest.is_retired(store, folder):
            retire(store, folder)
        elif set(store.names(folder)) > {"manifest.json", "retired"}:
            retire(store, folder)  # a retention that was killed half way
        else:
            return  # what is older was retired before this one


def _is_usable(store: Store, folder: str, step: int) -> bool:
    try:
        return manifest.load(store, folder, places.checkpoint_expected(step)) is not None
    except DamagedError:
        return False
