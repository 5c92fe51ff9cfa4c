"""Check results of a run: each of its own place, and made of these images and weights."""

from contextlib import suppress
from functools import partial
from typing import Any

from ddpm_core.config.model_ref import ModelRef
from ddpm_core.progress import Progress
from ddpm_core.runs import layout, places
from ddpm_core.runs.stages import STAGES
from ddpm_core.sampling.units import Unit, check_archive
from ddpm_core.store import manifest
from ddpm_core.store.commit import is_content_name
from ddpm_core.store.expected import Expected
from ddpm_core.store.manifest import DamagedError, Manifest
from ddpm_core.store.storage import Store
from ddpm_core.units.units import whole_of
from ddpm_core.verifying.report import MARKS, Report, unnamed_in

Steps = dict[str, set[int]]
"""SHA-256 of weights in a checkpoint -> its step; equal weights may be of two"""


def folder_kinds() -> list[str]:
    """Return the folders of a run in which results lie, each in a folder of its fingerprint."""
    return [stage.place for stage in STAGES.values() if stage.sections]


def retired(store: Store, folder: str, expected: Expected) -> Manifest | None:
    if not manifest.is_retired(store, folder):
        return None
    return manifest.load_marked(store, folder, expected)


def _is_of(store: Store, run: str, step: Any, sha256: str) -> bool:  # noqa: ANN401
    """Say whether another run has, or had, these weights after this step, or made them of it."""
    folder, expected = layout.checkpoint_folder(run, step), places.checkpoint_expected(step)
    found = manifest.load(store, folder, expected) or retired(store, folder, expected)
    made = layout.averages_folder(run)
    folders = [layout.average_folder(run, name, step) for name in store.names(made)]
    every = [found, *(manifest.load(store, one, expected) for one in folders)]
    return any(sha256 in {file.sha256 for file in one.files.values()} for one in every if one)


def verify_result(
    store: Store, folder: str, datasets: set[str], weights: Steps, report: Report, *, dtype: str
) -> None:
    """Check a set of samples, an evaluation, a study or a table of ablations.

    `dtype` is what each channel of a sample must have: "uint8" or "uint16".
    """
    units = _verify_units(store, folder, report)
    named = {record.name for unit in units for record in unit.files.values()}
    named |= {name for name in store.names(folder) if _is_manifest(name)}

    seen: set[str] = set()

    def look(name: str) -> None:
        where = folder if name == "manifest.json" else f"{folder}/{name}"
        whole = manifest.load(store, folder, Expected({}), name=name)
        if whole is None:
            report.unfinished.append(store.uri_of(where))
            return
        named.update(record.name for record in whole.files.values())
        _require_chain(store, whole, datasets, weights)
        whole.require_bytes(store)
        if "units" in whole.body:
            _require_whole_name(store, whole, name)
            _verify_images(store, whole, dtype, seen)
        what = f", {len(units)} units" if units else ""
        report.looked_at.append(f"{store.uri_of(where)}: {len(whole.files)} files{what}")

    wholes = sorted(filter(layout.is_whole, store.names(folder))) or ["manifest.json"]
    for name in wholes:
        report.check(partial(look, name))
    report.unnamed += unnamed_in(store, folder, named)


def _verify_units(store: Store, folder: str, report: Report) -> list[Manifest]:
    """Return the manifests of the units of a folder, after checking them."""
    found: list[Manifest] = []
    unit_size = _unit_size(store, folder)

    def look(name: str) -> None:
        unit = manifest.load(store, folder, Expected({}), name=name)
        if unit is not None:
            found.append(unit)
            _require_unit_name(store, unit, name, unit_size)
            unit.require_bytes(store)

    for name in store.names(folder):
        if _is_manifest(name) and not layout.is_whole(name):
            report.check(partial(look, name))
    return found


def _is_manifest(name: str) -> bool:
    is_mark = name in MARKS or name.endswith(".quarantined.json")
    return name.endswith(".json") and not is_mark and not is_content_name(name)


def _unit_size(store: Store, folder: str) -> int | None:
    """Return how many images a whole unit of growing samples has; None of other results."""
    for name in filter(layout.is_whole, store.names(folder)):
        with suppress(DamagedError):  # looked at by itself
            whole = manifest.load(store, folder, Expected({}), name=name)
            if name != "manifest.json" and whole is not None:
                return int(whole.body["unit_size"])
    return None


def _require_unit_name(store: Store, unit: Manifest, name: str, unit_size: int | None) -> None:
    """Refuse a unit of another's name, or of another's folder, where it says of which it is.

    Of samples that grow (`unit_size`) what is shorter is a part, and called so.
    """
    body = unit.body
    own = f"{body.get('kind')}-{body.get('part')}-{body.get('start', 0):06d}.json"
    promised = [own]
    if "number" in body:
        number = f"{body['number']:06d}"
        count = body["stop"] - body["start"]
        is_part = unit_size is not None and count < unit_size
        promised = [*([] if is_part else [f"{number}.json"]), f"{number}-{count}.json"]
    whole = {kind: body[kind] for kind in folder_kinds() if kind in body}
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
    if "guide" in body:
        guide = ModelRef.parse(body["guide"])
        if not _is_of(store, str(guide.run), guide.step, body["guide_sha256"]):
            refusal = (
                f"it was guided by the weights {body['guide_sha256']}, which are not those of "
                f"{body['guide']}"
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


def _verify_images(store: Store, samples: Manifest, dtype: str, seen: set[str]) -> None:
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
        check_archive(store, samples, unit, (channels, height, width), dtype)
        Progress("verify", unit.stop, total, "samples").show()
