"""The outbox of a stage, and what it delivers first: what the run is."""

import getpass
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

from ddpm_core.config import RunConfig
from ddpm_core.runs import results
from ddpm_core.runs.dataset_names import index_of, names_of
from ddpm_core.shards.lineage import made_of
from ddpm_core.store.manifest import Manifest
from ddpm_core.store.storage import Store
from ddpm_core.tracking import place
from ddpm_core.tracking.outbox import SILENCE_S, SLOW_S, Outbox, say
from ddpm_core.tracking.subject import Subject

if TYPE_CHECKING:
    from ddpm_core.tracking.mlflow_run import MlflowRun


def open_outbox(subject: Subject) -> "Outbox[MlflowRun]":
    """Start the thread that sends, and queue what the run is."""
    place.prepare_environment()
    # Imports mlflow here and not in the thread: two threads that import big packages with common
    # parts at the same time can see each other's unfinished modules.
    from ddpm_core.tracking.connection import connect
    from ddpm_core.tracking.description import log_description
    from ddpm_core.tracking.ending import end_killed

    home, store, config = subject.home, subject.store, subject.config
    outbox: Outbox[MlflowRun] = Outbox(
        lambda watch: connect(home, store, config, subject.changes, watch=watch),
        server=f"MLflow ({place.redacted(home.uri)})",
        remedy=subject.remedy,
        silence_s=SLOW_S if home.is_a_file else SILENCE_S,
    )

    def log_dataset(run: "MlflowRun") -> None:
        for name, index in run.made(lambda: list(inputs_of(store, config))):
            run.log_dataset(name, store.uri_of(index.folder), index.body)

    tags = {"mlflow.source.name": "python -m ddpm_core", "mlflow.source.type": "LOCAL"}
    if commit := place.git_commit():
        tags["mlflow.source.git.commit"] = commit
    with suppress(OSError, KeyError):  # a container's user may have no name
        tags["mlflow.user"] = getpass.getuser()
    metadata = place.job_metadata()
    known = {place.FLOW_PAGE: place.FLOW_PAGE, place.JOB_PAGE: place.JOB_PAGE}
    known["ddpm.ray_job"] = "job_submission_id"
    tags |= {tag: metadata[key] for tag, key in known.items() if key in metadata}
    outbox.put_errand("the source", lambda run: run.set_tags(tags))
    flat, run_json = config.flat(), config.to_json().encode()
    outbox.put_errand("the parameters", lambda run: run.log_params(flat))
    outbox.put_errand("the data set", log_dataset)
    if not subject.changes:
        outbox.put_errand("the description", lambda run: log_description(run, store, config))
    outbox.put_errand("run.json", lambda run: run.log_file("run.json", run_json))

    def end(run: "MlflowRun") -> None:
        for line in end_killed(run.client, run.experiment_id, store):
            say(line)

    outbox.put_errand("the end of what was killed", end)
    return outbox


def inputs_of(store: Store, config: RunConfig) -> Iterator[tuple[str, Manifest]]:
    """Yield the inputs of a run in MLflow, each with its index: its data set, if it has one.

    Of several that the run names each one too: so the runs that use `faces` are found by its name.
    """
    index = results.dataset_of(store, config)
    if index is None:
        return
    yield input_name(store, config, index), index
    sets = config.data.references
    if sets is not None and sets.only is None:
        for ref, one in zip(sets.refs, made_of(index), strict=True):
            yield ref.name, index_of(store, one.folder, one.fingerprint)


def input_name(store: Store, config: RunConfig, index: Manifest) -> str:
    """Return what the data set of a run is called as an input in MLflow.

    By its name below the root, where it has one; of several the one that the run names.
    """
    sets = config.data.references
    if sets is not None:
        return ",".join(ref.name for ref in sets.refs)
    named = names_of(store, str(index.body["fingerprint"]))
    return named[0].name if named else config.data.name
