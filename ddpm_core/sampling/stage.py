"""The sample stage: images drawn from the averaged weights, by as many actors as there are."""

from contextlib import suppress

import numpy as np
import torch
from numpy.typing import NDArray

from ddpm_core.canonical import canonical_json
from ddpm_core.config import RunConfig
from ddpm_core.drawing import pictures
from ddpm_core.inference.build import require_guidance
from ddpm_core.output import say
from ddpm_core.progress import WARNING, Progress
from ddpm_core.runs import chosen, places, results
from ddpm_core.runs.lower import lower_of
from ddpm_core.runs.places import Place
from ddpm_core.runs.weights import Weights
from ddpm_core.sampling.plan import Plan, load_plan
from ddpm_core.sampling.sampler import describe
from ddpm_core.sampling.units import (
    IMAGES_ROLE,
    STRIP_ROLE,
    Unit,
    finished,
    first_images,
    units_of,
)
from ddpm_core.sampling.worker import make_worker, payload_of
from ddpm_core.store import manifest
from ddpm_core.store.commit import commit_first, write_file
from ddpm_core.store.manifest import DamagedError, Manifest
from ddpm_core.store.storage import Store
from ddpm_core.tracking import Tracker, open_tracker
from ddpm_core.training.worker import deliver_curve
from ddpm_core.units.units import without
from ddpm_core.units.work import work_on

GRID_ROLE = "grid"


def run_sample(store: Store, config: RunConfig) -> str:
    """Draw `config.sample.num_images` images and return the folder that holds them.

    What they enlarge, samples of the run of `sample.low_from`, is drawn before them as far as it is
    not there: a stage of its own, whose units are kept as these are.

    Units that are there are kept, for whatever number of images they were drawn; damaged ones are
    made again. If all are there nothing is drawn, and what MLflow may have missed is sent.

    Raises:
        CheckpointError: the weights are not there.
        ConfigError: as `require_guidance`.
        ClusterError: workers were lost too often; what they published is kept.
    """
    weights = chosen.require(store, config)
    config = weights.pinned_in(config)
    require_guidance(config)
    lower = lower_of(store, config)
    if lower is not None and not _are_drawn(store, lower):
        say(f"first the {lower.sample.num_images} images of run {lower.name!r} that are enlarged")
        run_sample(store, lower.model_copy(update={"compute": config.compute}))
    say(f"weights: {weights.said}")
    with open_tracker(store, config, stage="sample") as tracker:
        committed = _complete_samples(store, config, weights, tracker)
        deliver_own_curve(tracker, store, config, weights)
        deliver_samples(tracker, store, config, weights, committed)
    return committed.folder


def _are_drawn(store: Store, config: RunConfig) -> bool:
    with suppress(DamagedError):  # the stage sets it aside and makes it again
        return results.samples_of(store, config) is not None
    return False


def _complete_samples(
    store: Store, config: RunConfig, weights: Weights, tracker: Tracker
) -> Manifest:
    """Return the manifest of all samples, after drawing what is missing.

    Complete samples are known by the manifest of the whole, which names every file; units alone
    where that is not there.
    """
    place, total = places.samples(store, config, weights), config.sample.num_images
    plan = load_plan(store, config)
    folder = place.folder
    committed = manifest.intact(
        store, folder, place.expected, check=_require_whole, name=place.name
    )
    if committed is not None:
        note = f"done already: {store.uri_of(folder)}"
        Progress("sample", total, total, "images", note).show()
        return committed
    units, unit_size = _units_at(place, config), config.sample.unit_size
    made = finished(store, folder, units, unit_size=unit_size)
    missing = without(units, made)
    if missing:
        if (cut := plan.cut) is not None:
            say(f"{WARNING}{cut}")
        chosen.require_files(store, weights)
        tracker.begin()
        _make(store, config, weights, plan, folder, missing)
        made = finished(store, folder, units, unit_size=unit_size)
        if len(made) < len(units):
            raise DamagedError(
                f"units of {store.uri_of(folder)} were damaged or set aside while others were "
                "made; run the sample stage again"
            )
    return _commit(store, config, place, plan, made)


def _units_at(place: Place, config: RunConfig) -> list[Unit]:
    """Return the units; the folders of versions before hold one number of images for ever."""
    return units_of(config.sample, grows=place.name != "manifest.json")


def _require_whole(samples: Manifest, store: Store) -> None:
    """Refuse samples of which a file has another length, or a picture other bytes."""
    samples.require_sizes(store)
    for role in (GRID_ROLE, STRIP_ROLE):
        samples.read(store, role)


def _make(
    store: Store,
    config: RunConfig,
    weights: Weights,
    plan: Plan,
    folder: str,
    missing: list[Unit],
) -> None:
    """Draw and publish the missing units."""
    total = config.sample.num_images
    work_on(
        make_worker,
        payload_of(store.uri, config, folder, weights.sha256, plan),
        missing,
        config.compute,
        whole=Progress("sample", total, total, "images"),
        size=lambda unit: unit.stop - unit.start,
        note=lambda _unit, rate: f"{rate:.1f} images/s",
    )


def _commit(
    store: Store, config: RunConfig, place: Place, plan: Plan, made: dict[str, Manifest]
) -> Manifest:
    """Draw the grid and publish the whole: all units in order, and how they were made."""
    sample, folder, expected = config.sample, place.folder, place.expected
    units = _units_at(place, config)
    files = {unit.role: made[unit.name].files[IMAGES_ROLE] for unit in units}
    whole = Manifest(folder, {}, files)
    shown = first_images(store, whole, sample, config.data.shape, sample.num_grid_images)
    grid_png = pictures.to_png(_grid(shown, plan))
    files[GRID_ROLE] = write_file(store, folder, GRID_ROLE, ".png", grid_png)
    if plan.prompts:  # those of a data set too, for whom has the samples alone
        content = canonical_json(list(plan.prompts))
        files[results.PROMPTS_ROLE] = write_file(
            store, folder, results.PROMPTS_ROLE, ".json", content
        )
    files[STRIP_ROLE] = made[units[0].name].files[STRIP_ROLE]
    num_classes = config.num_classes or len(plan.names) or None
    body = {
        **describe(
            sample,
            config.diffusion.num_timesteps,
            num_classes=num_classes,
            takes_text=config.model.uses_text,
            enlarges=config.model.low_size is not None,
        ),
        **expected.body,
        **expected.noted,
        "fingerprint": expected.if_written["fingerprint"],
        "units": [files[unit.role].sha256 for unit in units],
    }
    # Another start may have drawn a grid of another size beside the same images.
    return commit_first(store, folder, files, body, expected, name=place.name)


def _grid(images_u8: NDArray[np.uint8], plan: Plan) -> NDArray[np.uint8]:
    """Return the first images on one sheet; where they are of prompts or classes, in rows by name.

    Where each has a prompt of its own it stands below the image.
    """
    count = len(images_u8)
    if plan.prompts:
        texts = [plan.prompt(index) or "" for index in range(count)]
        several = list(dict.fromkeys(texts))
        if len(several) == count > 1:
            return pictures.captioned(images_u8, texts)
        of = np.array([several.index(text) for text in texts])
        return pictures.named_rows(
            [(text, images_u8[of == number]) for number, text in enumerate(several)], num_lines=3
        )
    labels = plan.labels(torch.arange(count))
    if labels is None:
        return pictures.grid(images_u8)
    of_class = labels.numpy()
    rows = [(plan.name(label), images_u8[of_class == label]) for label in np.unique(of_class)]
    return pictures.named_rows(rows)


def deliver_own_curve(tracker: Tracker, store: Store, config: RunConfig, weights: Weights) -> None:
    """Log the curves of the run's own training, unless they are deleted with the weights."""
    is_own = not tracker.is_variant and weights.trained.name == config.name
    is_there = weights.has_curves and not manifest.is_retired(store, weights.checkpoint.folder)
    if is_own and is_there:
        deliver_curve(tracker, store, weights.checkpoint)


def deliver_samples(
    tracker: Tracker, store: Store, config: RunConfig, weights: Weights, committed: Manifest
) -> None:
    """Log complete samples, unless MLflow is known to have them."""

    def log() -> None:
        for role in (GRID_ROLE, STRIP_ROLE):
            tracker.log_image(f"{role}.png", committed, role)
        if results.PROMPTS_ROLE in committed.files:
            tracker.log_artifact("prompts.json", committed, results.PROMPTS_ROLE)
        tracker.describe()
        count = {"sample/num_images": config.sample.num_images}
        tracker.log_metrics(count, step=weights.step)
        tracker.set_tags(
            {
                "ddpm.samples_uri": store.uri_of(committed.folder),
                "ddpm.weights": weights.name,
                "ddpm.weights_sha256": weights.sha256,
            }
        )

    tracker.deliver(committed, log)
