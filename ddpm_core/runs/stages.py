"""The stages of the pipeline, in their order."""

from collections.abc import Callable

from ddpm_core.config import RunConfig
from ddpm_core.runs import results
from ddpm_core.store.manifest import Manifest
from ddpm_core.store.storage import Store

RESULTS: dict[str, Callable[[Store, RunConfig], Manifest | None]] = {
    "shard": results.dataset_of,
    "train": results.final_checkpoint,
    "sample": results.samples_of,
    "evaluate": results.evaluation_of,
    "study": results.study_of,
    "ablations": results.ablations_of,
}
"""stage, in the order of the pipeline -> how to find its result; None while it is not complete"""
