"""Check what is there: a run with all that its results rest on, or a data set by itself.

Of a run: its data set, image by image; every checkpoint, set of samples and result, byte by byte;
whether each is what its place promises, and made of what the one before it is: the checkpoint of
this data set, the samples of these weights, the numbers of both. Nothing is changed.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from os import cpu_count
from typing import Any

from ddpm_core.canonical import fingerprint
from ddpm_core.config import RunConfig
from ddpm_core.errors import CheckpointError, DataError
from ddpm_core.progress import Progress
from ddpm_core.runs import layout, places, results
from ddpm_core.runs.run import configure
from ddpm_core.runs.stages import STAGES
from ddpm_core.runs.weights import Weights, averages_in
from ddpm_core.sampling.units import Unit, check_archive
from ddpm_core.sharding.verify import problems_of
from ddpm_core.shards.index import Index, load_index
from ddpm_core.store import manifest
from ddpm_core.store.commit import is_content_name
from ddpm_core.store.expected import Expected
from ddpm_core.store.manifest import DamagedError, Manifest
from ddpm_core.store.storage import Store, open_store
from ddpm_core.units.units import whole_of

_MAX_THREADS = 4
_NUM_SHOWN = 20
_MARKS = ("retired", "quarantined.json")
_FEATURES = "features-"
_DATASET = re.compile(r".+-[0-9a-f]{16}")
"""how the folder of a data set is called"""
Steps = dict[str, set[int]]
"""SHA-256 of weights in a checkpoint -> its step; equal weights may be of two"""


@dataclass
class Report:
    """What was looked at, and what is wrong."""

    looked_at: list[str] = field(default_factory=list)
    """a line for each thing that is whole"""
    unfinished: list[str] = field(default_factory=list)
    """folders whose manifest is not there, or set aside: nothing is published of them"""
    problems: list[str] = field(default_factory=list)
    unnamed: list[str] = field(default_factory=list)
    """files that nothing names: of attempts that were killed, or of other programs"""

    def check(self, look: Callable[[], None]) -> bool:
        """Call `look`, and keep what it raises; return whether all was well."""
        try:
            look()
        except (DamagedError, DataError, CheckpointError) as error:
            self.problems.append(str(error))
            return False
        return True


def verify(target: str, *, root: str | None = None) -> Report:
    """Check a run or a data set, every byte of it.

    Args:
        target: the folder of a data set, path or URI; or a run: its name, its folder or run.json.
        root: where the run lies; None is the root that its run.json lies in, else ./runs.

    Raises:
        DataError: something is wrong with it: the first things, and how many.
        ConfigError: there is no such run or data set.
    """
    report = Report()
    parent, slash, name = target.rstrip("/").rpartition("/")
    store, where = open_store(parent or slash or "."), name
    if _DATASET.fullmatch(name):
        _verify_dataset(store, load_index(store, name), report)
    else:
        home, config = configure(target, root=root, run=None, changes={})
        store, where = open_store(home), layout.run_folder(config.name)
        _verify_run(store, config, report)
    if report.problems:
        count, shown = len(report.problems), report.problems[:_NUM_SHOWN]
        lines = "".join(f"\n  {line}" for line in shown)
        more = f"\n  and {count - _NUM_SHOWN} more" if count > _NUM_SHOWN else ""
        raise DataError(
            f"{count} thing{'s are' if count > 1 else ' is'} wrong with {store.uri_of(where)}:"
            f"{lines}{more}"
        )
    return report


def _verify_run(store: Store, config: RunConfig, report: Report) -> None:
    datasets: set[str] = set()

    def dataset() -> None:
        pointer = results.dataset_pointer(store, config.name)
        if pointer is None:
            command = layout.stage_command(store, config.name, "shard")
            key = layout.dataset_pointer_key(config.name)
            raise DataError(f"{store.uri_of(key)} is missing; the shard stage makes it: {command}")
        index = load_index(store, pointer.folder, pointer.fingerprint)
        results.require_data(store, config, index.manifest)
        datasets.add(index.fingerprint)
        _verify_dataset(store, index, report)

    if not _is_imported(store, config):
        report.check(dataset)
    weights = _verify_checkpoints(store, config, datasets, report)
    for place in _places():
        folder = f"{layout.run_folder(config.name)}/{place}"
        for name in store.names(folder):
            _verify_result(store, f"{folder}/{name}", datasets, weights, report)


def _places() -> list[str]:
    """Return the folders of a run in which results lie, each in a folder of its fingerprint."""
    return [stage.place for stage in STAGES.values() if stage.sections]


def _is_imported(store: Store, config: RunConfig) -> bool:
    """Say whether the run is of weights from outside: it may have no data set."""
    folder = layout.checkpoint_folder(config.name, config.train.num_steps)
    expected = places.checkpoint_expected(config.train.num_steps)
    try:
        found = manifest.load(store, folder, expected)
    except DamagedError:
        return False
    has_dataset = store.exists(layout.dataset_pointer_key(config.name))
    return found is not None and results.is_imported(found) and not has_dataset


def _verify_dataset(store: Store, index: Index, report: Report) -> None:
    folder, problems = index.manifest.folder, len(report.problems)
    report.problems += problems_of(
        store,
        index,
        num_threads=min(_MAX_THREADS, cpu_count() or 1),
        on_progress=lambda done, total: Progress("verify", done, total, "images").show(),
    )
    features = [name for name in store.names(folder) if name.startswith(_FEATURES)]
    for name in features:
        report.check(partial(_verify_features, store, folder, name, index.fingerprint))
    if len(report.problems) == problems:
        total = sum(index.num_images.values())
        networks = f", {len(features)} feature network(s)" if features else ""
        report.looked_at.append(f"{store.uri_of(folder)}: {total} images{networks}")
    named = {record.name for record in index.manifest.files.values()}
    named |= {f"{role}.json" for role in index.manifest.files}
    report.unnamed += _unnamed(store, folder, {layout.DATASET_INDEX, *named, *features})


def _verify_features(store: Store, folder: str, name: str, dataset: str) -> None:
    found = manifest.load(store, f"{folder}/{name}", Expected({}))
    if found is None:
        return  # it is made when it is needed
    recipe = found.body.get("recipe")
    where = store.uri_of(found.folder)
    if not isinstance(recipe, dict) or name != f"{_FEATURES}{fingerprint(recipe)[:16]}":
        raise DamagedError(f"{where} is the feature network of another recipe; {manifest.REMEDY}")
    if recipe.get("dataset", dataset) != dataset:
        raise DamagedError(
            f"{where} was trained on the data set {recipe['dataset']}, not {dataset}; "
            f"{manifest.REMEDY}"
        )
    found.require_bytes(store)


def _verify_checkpoints(
    store: Store, config: RunConfig, datasets: set[str], report: Report
) -> Steps:
    """Check all checkpoints; of those that are retired the files are gone, not the manifest."""
    run, weights = config.name, Steps()

    def look(step: int, folder: str) -> None:
        expected = places.checkpoint_expected(step)
        found = manifest.load(store, folder, expected)
        # Retention keeps the manifest: results may rest on weights whose files are gone.
        known = found or _retired(store, folder, expected)
        if known is None:
            report.unfinished.append(store.uri_of(folder))
            return
        experiment = places.experiment(store, config, known)
        results.require_origin(store, known, experiment=experiment)
        if datasets and not results.is_imported(known):
            results.require_origin(store, known, dataset=min(datasets))
        for role in averages_in(known):
            weights.setdefault(Weights(known, config, role).sha256, set()).add(step)
        if found is not None:
            found.require_bytes(store)
            report.looked_at.append(f"{store.uri_of(folder)}: checkpoint of step {step}")
        named = {record.name for record in known.files.values()}
        report.unnamed.extend(_unnamed(store, folder, {"manifest.json", *named}))

    for step in layout.committed_steps(store, run):
        report.check(partial(look, step, layout.checkpoint_folder(run, step)))
    return weights


def _retired(store: Store, folder: str, expected: Expected) -> Manifest | None:
    if not manifest.is_retired(store, folder):
        return None
    return manifest.load_marked(store, folder, expected)


def _is_of(store: Store, run: str, step: Any, sha256: str) -> bool:  # noqa: ANN401
    """Say whether another run has, or had, these weights after this step."""
    folder, expected = layout.checkpoint_folder(run, step), places.checkpoint_expected(step)
    found = manifest.load(store, folder, expected) or _retired(store, folder, expected)
    return found is not None and sha256 in {record.sha256 for record in found.files.values()}


def _verify_result(
    store: Store, folder: str, datasets: set[str], weights: Steps, report: Report
) -> None:
    """Check a set of samples, an evaluation, a study or a table of ablations."""
    units = _verify_units(store, folder, report)
    named = {record.name for unit in units for record in unit.files.values()}
    named |= {name for name in store.names(folder) if _is_manifest(name)}

    seen: set[str] = set()

    def look(name: str) -> None:
        whole = manifest.load(store, folder, Expected({}), name=name)
        if whole is None:
            report.unfinished.append(store.uri_of(folder))
            return
        named.update(record.name for record in whole.files.values())
        _require_chain(store, whole, datasets, weights)
        whole.require_bytes(store)
        if "units" in whole.body:
            _require_whole_name(store, whole, name)
            _verify_images(store, whole, seen)
        what = f", {len(units)} units" if units else ""
        where = folder if name == "manifest.json" else f"{folder}/{name}"
        report.looked_at.append(f"{store.uri_of(where)}: {len(whole.files)} files{what}")

    wholes = sorted(filter(layout.is_whole, store.names(folder))) or ["manifest.json"]
    for name in wholes:
        report.check(partial(look, name))
    report.unnamed += _unnamed(store, folder, named)


def _verify_units(store: Store, folder: str, report: Report) -> list[Manifest]:
    """Return the manifests of the units of a folder, after checking them."""
    found: list[Manifest] = []

    def look(name: str) -> None:
        unit = manifest.load(store, folder, Expected({}), name=name)
        if unit is not None:
            found.append(unit)
            _require_unit_name(store, unit, name)
            unit.require_bytes(store)

    for name in store.names(folder):
        if _is_manifest(name) and not layout.is_whole(name):
            report.check(partial(look, name))
    return found


def _is_manifest(name: str) -> bool:
    is_mark = name in _MARKS or name.endswith(".quarantined.json")
    return name.endswith(".json") and not is_mark and not is_content_name(name)


def _require_unit_name(store: Store, unit: Manifest, name: str) -> None:
    """Refuse a unit of another's name, or of another's folder, where it says of which it is."""
    body = unit.body
    own = f"{body.get('kind')}-{body.get('part')}-{body.get('start', 0):06d}.json"
    promised = [own]
    if "number" in body:
        number = f"{body['number']:06d}"
        promised = [f"{number}.json", f"{number}-{body['stop'] - body['start']}.json"]
    whole = {kind: body[kind] for kind in _places() if kind in body}
    if name not in promised or whole not in ({}, whole_of(unit.folder)):
        raise DamagedError(
            f"{store.uri_of(unit.folder)}/{name} is the unit {promised[0]} of {whole}; "
            f"{manifest.REMEDY}"
        )


def _require_chain(store: Store, whole: Manifest, datasets: set[str], weights: Steps) -> None:
    """Refuse a result that is not its folder's, or rests on other weights or other images."""
    body, own = whole.body, whole.folder.rpartition("/")[2]
    expected = Expected({"dataset": min(datasets)} if "dataset" in body and datasets else {})
    refusal = expected.refusal(body)
    digest, step, run = (body.get(key) for key in ("ema_sha256", "step", "weights_run"))
    digest = body.get("weights_sha256", digest)
    whose = "this run" if run is None else f"run {run!r}"
    if digest is not None and not (
        step in weights.get(digest, ()) if run is None else _is_of(store, run, step, digest)
    ):
        refusal = (
            f"it is of the weights {digest} of step {step}, which are no checkpoint of {whose}"
        )
    if str(body.get("fingerprint", own))[: len(own)] != own:
        refusal = f"its fingerprint is {body['fingerprint']}, its folder is {own}"
    if refusal is not None:
        raise DamagedError(
            f"{store.uri_of(whole.folder)} is something else's: {refusal}; {manifest.REMEDY}"
        )


def _require_whole_name(store: Store, samples: Manifest, name: str) -> None:
    """Refuse samples of another number than their manifest's name says."""
    if name not in ("manifest.json", layout.whole_name(samples.body["num_images"])):
        raise DamagedError(
            f"{store.uri_of(samples.folder)}/{name} is of the first {samples.body['num_images']} "
            f"images; {manifest.REMEDY}"
        )


def _verify_images(store: Store, samples: Manifest, seen: set[str]) -> None:
    """Decode every image of a set of samples; units whose files were `seen` are done."""
    body = samples.body
    channels, height, width = body["shape"]
    size, total = body["unit_size"], body["num_images"]
    for number, start in enumerate(range(0, total, size)):
        unit = Unit(number, start, min(start + size, total))
        digest = samples.files[unit.role].sha256
        if digest in seen:
            continue
        if unit.stop - unit.start == size:  # of another whole there may be more in it
            seen.add(digest)
        check_archive(store, samples, unit, (channels, height, width))
        Progress("verify", unit.stop, total, "samples").show()


def _unnamed(store: Store, folder: str, named: set[str]) -> list[str]:
    """Return the files of a folder that nothing names."""
    return [
        store.uri_of(f"{folder}/{name}")
        for name in store.names(folder)
        if name not in named and name not in _MARKS and not name.endswith(".quarantined.json")
    ]
