"""Measuring the units of a stage on actors: the missing ones alone, each kept when it is done.

A unit that depends on samples names their bytes: a unit of samples that was damaged is drawn again,
perhaps by another kind of device. A unit that depends on the feature network names it. One that was
trained again on another device rounds otherwise, and distances between features of two networks
mean nothing: units of another network are measured again.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ddpm_core.cluster import GetDevice
from ddpm_core.evaluation.features.kept import keep_foreign_network, kept_network
from ddpm_core.evaluation.measuring.context import WORDS, payload_of, uses_samples, uses_weights
from ddpm_core.evaluation.measuring.inputs import Inputs
from ddpm_core.progress import Progress
from ddpm_core.sampling.units import bytes_of
from ddpm_core.units.ranges import Findings, K, Range
from ddpm_core.units.units import Units
from ddpm_core.units.work import work_on


def measure(
    inputs: Inputs,
    folder: str,
    units: Sequence[Range[K]],
    uses_network: Callable[[Range[K]], bool],
    make_worker: Callable[[dict[str, Any], GetDevice], Callable[[Range[K]], None]],
    *,
    stage: str,
    begin: Callable[[], None],
    note: Callable[[Range[K]], str] = lambda _unit: "",
) -> Findings[K]:
    """Measure the missing units on actors, and return the results of all.

    Args:
        inputs: what is measured.
        folder: of the whole that the units belong to.
        units: all of them.
        uses_network: whether what a unit finds depends on the feature network.
        make_worker: which calls `measuring`.
        stage: for the progress.
        begin: called before the work, once nothing speaks against it.
        note: what to say of a unit when it is finished.

    Raises:
        CheckpointError: a missing unit needs weights whose files are deleted.
    """
    store, config, recipe = inputs.store, inputs.config, inputs.recipe
    if recipe is not None:
        keep_foreign_network(store, config, recipe)

    def published() -> Units[Range[K]]:
        network = {} if recipe is None else kept_network(store, recipe)
        judge = None if inputs.judge is None else kept_network(store, inputs.judge)

        def made_with(unit: Range[K]) -> Mapping[str, Any] | None:
            of_samples = (
                bytes_of(inputs.samples, config.sample, unit.start, unit.stop)
                if uses_samples(unit)
                else {}
            )
            if not uses_network(unit):
                return of_samples
            made_by = judge if unit.kind == WORDS else network
            return None if made_by is None else {**made_by, **of_samples}

        return Units(store, folder, made_with)

    missing = published().missing(units)
    if any(map(uses_weights, missing)):
        inputs.require_files()
    begin()
    sha256 = inputs.of_weights.sha256
    context = payload_of(
        store.uri, config, inputs.index.pointer, recipe, sha256, stage, judge=inputs.judge
    )
    work_on(
        make_worker,
        {"context": context, "folder": folder},
        missing,
        config.compute,
        whole=Progress(stage, len(units), len(units), "units"),
        note=lambda unit, _rate: note(unit),
    )
    # Anew: a network that was missing has been trained by now.
    return Findings(published(), units)


def set_aside_damaged(inputs: Inputs, folder: str, units: Sequence[Range[K]]) -> None:
    """Set aside what is damaged of the units of a finished whole, which no longer needs them.

    Of whichever network: that is what the whole says it was. A whole of an earlier version has none
    of some units.
    """
    Units[Range[K]](inputs.store, folder).finished(units)
