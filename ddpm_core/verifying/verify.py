"""Check what is there: a run with all that its results rest on, or a data set by itself.

Of a run: its data set, image by image; every checkpoint, set of samples and result, byte by byte;
whether each is what its place promises, and made of what the one before it is: the checkpoint of
this data set, the samples of these weights, the numbers of both. Nothing is changed.
"""

from functools import partial
from typing import Any

from ddpm_core.canonical import fingerprint
from ddpm_core.config import RunConfig
from ddpm_core.errors import DataError
from ddpm_core.machine import cores
from ddpm_core.progress import Progress
from ddpm_core.recipes import is_recipe, recipe
from ddpm_core.runs import base, layout, places, previews, refusals, results
from ddpm_core.runs.run import DEFAULT_ROOT, configure
from ddpm_core.runs.targets import dataset_place
from ddpm_core.runs.weights import Weights, averages_in
from ddpm_core.sharding.verify import problems_of
from ddpm_core.shards.index import SPLITS, Index, load_index
from ddpm_core.store import manifest
from ddpm_core.store.expected import Expected
from ddpm_core.store.manifest import DamagedError
from ddpm_core.store.storage import Store, open_store
from ddpm_core.verifying.averages import verify_averages
from ddpm_core.verifying.report import Report, unnamed_in
from ddpm_core.verifying.results import Steps, folder_kinds, retired, verify_result

_NUM_SHOWN = 20
_FEATURES, _STATISTICS = "features-", "statistics-"


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
    if (place := dataset_place(target)) is not None:
        store, where = open_store(place[0]), place[1]
        _verify_dataset(store, load_index(store, where), report)
    else:
        on_record = _on_record(target, root)
        home, config = configure(on_record or target, root=root, run=None, changes={})
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


def _on_record(target: str, root: str | None) -> str | None:
    """Return the run.json of the run that is called as the recipe `target`, if there is one.

    To all other commands a recipe's name is the recipe; what is checked is what is there.
    """
    if not is_recipe(target):
        return None
    store = open_store(root or DEFAULT_ROOT)
    key = layout.run_json_key(recipe(target).name)
    return store.uri_of(key) if store.exists(key) else None


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
    verify_averages(store, config, datasets, weights, report)
    _verify_previews(store, config, datasets, report)
    dtype = config.data.dtype
    for place in folder_kinds():
        folder = f"{layout.run_folder(config.name)}/{place}"
        for name in store.names(folder):
            verify_result(store, f"{folder}/{name}", datasets, weights, report, dtype=dtype)


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
        num_at_once=cores(),
        on_progress=lambda done, total: Progress("verify", done, total, "images").show(),
    )
    features = [name for name in store.names(folder) if name.startswith(_FEATURES)]
    for name in features:
        report.check(partial(_verify_features, store, folder, name, index.fingerprint))
    statistics = [name for name in store.names(folder) if name.startswith(_STATISTICS)]
    for name in statistics:
        report.check(partial(_verify_statistics, store, folder, name, index.fingerprint))
    if len(report.problems) == problems:
        total = sum(index.num_images.values())
        networks = f", {len(features)} feature network(s)" if features else ""
        report.looked_at.append(f"{store.uri_of(folder)}: {total} images{networks}")
    named = {record.name for record in index.manifest.files.values()}
    named |= {f"{role}.json" for role in index.manifest.files}
    if index.is_in_parts:
        files = [
            index.located_at(split, number)
            for split in SPLITS
            for number in range(len(index.shards[split]))
        ]
        own = {file.name for file in files if file.place == folder}
        named |= own | {f"{name.removesuffix('.tar')}.json" for name in own}
    report.unnamed += unnamed_in(
        store, folder, {layout.DATASET_INDEX, *named, *features, *statistics}
    )


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


def _verify_statistics(store: Store, folder: str, name: str, dataset: str) -> None:
    found = manifest.load(store, f"{folder}/{name}", Expected({}))
    if found is None:
        return  # they are made when they are needed
    made_of: Any = found.body.get("made_of")
    is_own = isinstance(made_of, dict) and made_of.get("dataset") == dataset
    if not is_own or name != f"{_STATISTICS}{fingerprint(made_of)[:16]}":
        raise DamagedError(
            f"{store.uri_of(found.folder)} holds statistics of something else; {manifest.REMEDY}"
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
        known = found or retired(store, folder, expected)
        if known is None:
            report.unfinished.append(store.uri_of(folder))
            return
        experiment = places.experiment(store, config, known)
        refusals.require_origin(store, known, experiment=experiment)
        if datasets and not results.is_imported(known):
            refusals.require_origin(store, known, dataset=min(datasets))
        base.require_record(store, config, known)
        for role in averages_in(known):
            weights.setdefault(Weights(known, config, role).sha256, set()).add(step)
        if found is not None:
            found.require_bytes(store)
            report.looked_at.append(f"{store.uri_of(folder)}: checkpoint of step {step}")
        named = {record.name for record in known.files.values()}
        report.unnamed.extend(unnamed_in(store, folder, {"manifest.json", *named}))

    for step in layout.committed_steps(store, run):
        report.check(partial(look, step, layout.checkpoint_folder(run, step)))
    return weights


def _verify_previews(store: Store, config: RunConfig, datasets: set[str], report: Report) -> None:
    """Check what was drawn while the run trained: of this experiment and data set, byte by byte."""
    folder, named = layout.previews_folder(config.name), set[str]()
    found = previews.steps(store, config.name)

    def look(step: int) -> None:
        named.add(previews.name_of(step))
        preview = previews.load(store, config.name, step)
        if preview is None:
            report.unfinished.append(store.uri_of(f"{folder}/{previews.name_of(step)}"))
            return
        named.update(record.name for record in preview.files.values())
        refusals.require_origin(
            store, preview, experiment=places.experiment(store, config, preview)
        )
        if datasets:
            refusals.require_origin(store, preview, dataset=min(datasets))
        preview.require_bytes(store)

    checked = [report.check(partial(look, step)) for step in found]
    if checked and all(checked):
        report.looked_at.append(f"{store.uri_of(folder)}: {len(found)} previews")
    report.unnamed += unnamed_in(store, folder, named)
