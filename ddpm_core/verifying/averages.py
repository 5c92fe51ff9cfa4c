"""Check the snapshots of a run's averages, and what was made of them."""

from functools import partial

from ddpm_core.config import RunConfig
from ddpm_core.runs import layout, places, refusals
from ddpm_core.store import manifest
from ddpm_core.store.manifest import Manifest
from ddpm_core.store.storage import Store
from ddpm_core.verifying.report import Report, unnamed_in
from ddpm_core.verifying.results import Steps


def verify_averages(
    store: Store, config: RunConfig, datasets: set[str], weights: Steps, report: Report
) -> None:
    """Read every snapshot and every average that was made; add these to `weights`."""
    run, whole = config.name, []

    def read(step: int, folder: str) -> Manifest | None:
        found = manifest.load(store, folder, places.checkpoint_expected(step))
        if found is None:
            report.unfinished.append(store.uri_of(folder))
            return None
        refusals.require_origin(store, found, experiment=places.experiment(store, config, found))
        if datasets:
            refusals.require_origin(store, found, dataset=min(datasets))
        found.require_bytes(store)
        named = {record.name for record in found.files.values()}
        report.unnamed.extend(unnamed_in(store, folder, {"manifest.json", *named}))
        return found

    def snapshot(step: int) -> None:
        if read(step, layout.snapshot_folder(run, step)) is not None:
            whole.append(step)

    def average(name: str, step: int) -> None:
        folder = layout.average_folder(run, name, step)
        if (found := read(step, folder)) is not None:
            for record in found.files.values():
                weights.setdefault(record.sha256, set()).add(step)
            report.looked_at.append(f"{store.uri_of(folder)}: average {name} of step {step}")

    for step in layout.steps_in(store, layout.snapshots_folder(run)):
        report.check(partial(snapshot, step))
    if whole:
        where = store.uri_of(layout.snapshots_folder(run))
        report.looked_at.append(f"{where}: {len(whole)} snapshots of averages")
    for name in store.names(layout.averages_folder(run)):
        for step in layout.steps_in(store, f"{layout.averages_folder(run)}/{name}"):
            report.check(partial(average, name, step))
