"""The study stage: what the paper shows beside its headline numbers, of one trained run."""

import json
from dataclasses import dataclass
from typing import Any

from ddpm_core import cluster
from ddpm_core.canonical import canonical_json
from ddpm_core.config import RunConfig
from ddpm_core.evaluation.desk import payload_of
from ddpm_core.evaluation.features import describe_network, keep_foreign_network
from ddpm_core.evaluation.stage import Inputs, deliver_evaluation
from ddpm_core.progress import Progress
from ddpm_core.runs import places, results
from ddpm_core.store import manifest
from ddpm_core.store.manifest import Expected, Manifest
from ddpm_core.store.storage import Store
from ddpm_core.study.drawings import drawings_of
from ddpm_core.study.findings import Findings
from ddpm_core.study.numbers import metrics_of, numbers_of
from ddpm_core.study.units import Unit, missing, units_of
from ddpm_core.study.worker import make_worker
from ddpm_core.tracking import Tracker, open_tracker

NUMBERS_ROLE = "numbers"


@dataclass(frozen=True)
class _Study:
    """The units of a study, and where their results go."""

    inputs: Inputs
    folder: str
    expected: Expected
    units: list[Unit]


def run_study(store: Store, config: RunConfig) -> dict[str, Any]:
    """Work on all units of the study, draw its figures, and return its numbers.

    Finished units are verified and kept, damaged ones are worked on again. If all is there nothing
    is done, and what MLflow may have missed is sent.

    Raises:
        CheckpointError: the training is not finished.
        DataError: the data set or the samples are not there.
        ClusterError: workers were lost too often; what they finished is kept.
    """
    inputs = Inputs.of(store, config)
    place = places.study(store, config, inputs.checkpoint, inputs.index.fingerprint)
    folder, expected = place.folder, place.expected
    num_train, num_test = (inputs.index.num_images[split] for split in ("train", "test"))
    units = units_of(config, num_train, num_test, has_features=inputs.recipe is not None)
    study = _Study(inputs, folder, expected, units)
    with open_tracker(store, config, stage="study") as tracker:
        committed = manifest.intact(store, folder, expected)
        note = f"  done already: {store.uri_of(folder)}" if committed else ""
        if committed is None:
            tracker.begin()
            _work(study)
            committed = _publish(study)
        numbers: dict[str, Any] = json.loads(committed.read(store, NUMBERS_ROLE))
        if (evaluation := results.evaluation_of(store, config)) is not None:
            deliver_evaluation(tracker, inputs, evaluation)
        tracker.deliver(committed, lambda: _log(tracker, store, committed, numbers))
    total = len(study.units)
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


def _work(study: _Study) -> None:
    inputs, total = study.inputs, len(study.units)
    store, config = inputs.store, inputs.config
    todo = missing(store, study.folder, study.units)
    done = total - len(todo)
    Progress("study", done, total, "units").show()
    if not todo:
        return
    if inputs.recipe is not None:
        keep_foreign_network(store, config, inputs.recipe)

    def on_done(unit: Unit, _: None) -> None:
        nonlocal done
        done += 1
        Progress("study", done, total, "units", f"{unit.kind} {unit.part}").show()

    payload = {
        "desk": payload_of(store.uri, config, inputs.index.pointer, inputs.recipe),
        "folder": study.folder,
    }
    with cluster.connect(config.compute):
        cluster.map_units(make_worker, payload, todo, config.compute, on_done=on_done)


def _publish(study: _Study) -> Manifest:
    """Make numbers, figures and sheets of what the units found, and commit them."""
    inputs, folder = study.inputs, study.folder
    store, config = inputs.store, inputs.config
    findings = Findings(store, folder, study.units)
    features = (
        {"reason": inputs.why_no_distance}
        if inputs.recipe is None
        else describe_network(store, inputs.recipe)
    )
    num_images = dict(inputs.index.num_images)
    protocol = {**inputs.weights, "features": features, "num_images": num_images}
    numbers = numbers_of(findings, config, protocol)
    canonical_json(numbers)  # refuses NaN and infinity, which are no JSON
    contents = {
        NUMBERS_ROLE: (".json", (json.dumps(numbers, indent=2, sort_keys=True) + "\n").encode()),
        **drawings_of(findings, config, numbers),
    }
    files = {
        role: manifest.write_file(store, folder, role, suffix, data)
        for role, (suffix, data) in contents.items()
    }
    expected = study.expected
    body = {**expected.body, **expected.if_written, "summary": summary(numbers)}
    return manifest.commit(store, folder, files, body)


def _log(tracker: Tracker, store: Store, committed: Manifest, numbers: dict[str, Any]) -> None:
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
    tracker.set_tags({"ddpm.study_uri": store.uri_of(committed.folder)})
