"""The study stage: what the paper shows beside its headline numbers, of one trained run."""

import json
from typing import Any

import torch

from ddpm_core.canonical import canonical_json
from ddpm_core.config import RunConfig
from ddpm_core.evaluation.delivery import deliver_evaluation
from ddpm_core.evaluation.features.kept import describe_network
from ddpm_core.evaluation.measuring.inputs import Inputs
from ddpm_core.evaluation.measuring.measure import measure, set_aside_damaged
from ddpm_core.output import say
from ddpm_core.progress import Progress
from ddpm_core.reporting.write import page_of
from ddpm_core.runs import places, results
from ddpm_core.sampling.plan import load_plan
from ddpm_core.store import manifest
from ddpm_core.store.commit import commit, write_files
from ddpm_core.store.expected import Expected
from ddpm_core.store.manifest import Manifest
from ddpm_core.store.storage import Store
from ddpm_core.study.drawings import drawings_of
from ddpm_core.study.findings import Findings
from ddpm_core.study.numbers import metrics_of, numbers_of
from ddpm_core.study.units import Kind, Unit, units_of, uses_network
from ddpm_core.study.worker import make_worker
from ddpm_core.tracking import Tracker, open_tracker
from ddpm_core.units import ranges

NUMBERS_ROLE = "numbers"


def run_study(store: Store, config: RunConfig) -> dict[str, Any]:
    """Work on all units of the study, draw its figures, and return its numbers.

    Finished units are verified and kept, damaged ones are worked on again. If all is there nothing
    is done, and what MLflow may have missed is sent.

    Raises:
        CheckpointError: the weights are not there, or deleted before all is measured.
        DataError: the data set or the samples are not there.
        ClusterError: workers were lost too often; what they finished is kept.
    """
    inputs = Inputs.of(store, config)
    config = inputs.config
    say(f"weights: {inputs.of_weights.said}")
    place = places.study(store, config, inputs.of_weights, inputs.index.fingerprint)
    folder, expected = place.folder, place.expected
    has_features = inputs.recipe is not None
    units = units_of(config, inputs.num_train, inputs.num_test, has_features=has_features)
    with open_tracker(store, config, stage="study") as tracker:
        committed = manifest.intact(store, folder, expected)
        note = f"  done already: {store.uri_of(folder)}" if committed else ""
        if committed is not None:
            set_aside_damaged(inputs, folder, units)
        else:
            found = _measure(inputs, folder, units, tracker)
            committed = _publish(inputs, folder, expected, Findings(found.published, found.units))
        numbers: dict[str, Any] = json.loads(committed.read(store, NUMBERS_ROLE))
        if (evaluation := results.evaluation_of(store, config)) is not None:
            deliver_evaluation(tracker, inputs, evaluation)
        tracker.deliver(committed, lambda: _log(tracker, inputs, committed, numbers))
        total = len(units)
        Progress("study", total, total, "units", summary(numbers) + note).show()
    return numbers


def summary(numbers: dict[str, Any]) -> str:
    """Return the numbers to look at first, in one line."""
    bits, quality = numbers["bits_per_dim"], numbers["quality"]
    words = [f"bits/dim {bits['train']['value']:.3f} train, {bits['test']['value']:.3f} held out"]
    if quality["floor"] is None:
        words.append(f"no Frechet distance: {numbers['protocol']['features']['reason']}")
    elif quality["samplers"]:
        best = min(quality["samplers"], key=lambda one: one["frechet_distance"])
        words.append(
            f"best of {len(quality['samplers'])} samplers {best['setting']} "
            f"({best['frechet_distance']:.2f}, floor {quality['floor']:.2f})"
        )
    return "; ".join(words)


def _measure(
    inputs: Inputs, folder: str, units: list[Unit], tracker: Tracker
) -> ranges.Findings[Kind]:
    return measure(
        inputs,
        folder,
        units,
        uses_network,
        make_worker,
        stage="study",
        begin=tracker.begin,
        note=lambda unit: f"{unit.kind} {unit.part}",
    )


def _publish(inputs: Inputs, folder: str, expected: Expected, findings: Findings) -> Manifest:
    """Compute numbers, figures and sheets from the results of the units, and commit them."""
    store, config = inputs.store, inputs.config
    features = (
        {"reason": inputs.why_no_distance}
        if inputs.recipe is None
        else describe_network(store, inputs.recipe)
    )
    num_images = dict(inputs.index.num_images)
    protocol = {**inputs.weights, "features": features, "num_images": num_images}
    labels = load_plan(store, config).labels(torch.arange(config.study.num_images))
    numbers = numbers_of(findings, config, protocol, labels)
    canonical_json(numbers)  # refuses NaN and infinity, which are no JSON
    contents = {
        NUMBERS_ROLE: (".json", (json.dumps(numbers, indent=2, sort_keys=True) + "\n").encode()),
        **drawings_of(findings, config, numbers),
    }
    files = write_files(store, folder, contents)
    body = {**expected.body, **expected.noted, **expected.if_written, "summary": summary(numbers)}
    return commit(store, folder, files, body)


def _log(tracker: Tracker, inputs: Inputs, committed: Manifest, numbers: dict[str, Any]) -> None:
    store = inputs.store
    steps: dict[int, dict[str, float]] = {}
    for name, value, step in metrics_of(numbers):
        steps.setdefault(step, {})[name] = value
    for step, values in sorted(steps.items()):
        tracker.log_metrics(values, step=step)
    for role, record in committed.files.items():
        if record.name.endswith(".png"):
            tracker.log_image(f"study/{role}.png", committed, role)
        else:
            suffix = record.name.rpartition(".")[2]
            tracker.log_artifact(f"study/{role}.{suffix}", committed, role)
    tracker.log_made("report.html", lambda: page_of(store, inputs.config))
    tracker.set_tags({"ddpm.study_uri": store.uri_of(committed.folder)})
