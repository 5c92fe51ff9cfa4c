"""Where a run's results lie, or will, and the identity that each must have. Knows no torch.

A result lies under its fingerprint. Versions before took it by another rule; what they made goes on
where it is: if nothing lies at the present place and something at the earlier one, that is the
place. No other module knows that there is more than one rule.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ddpm_core.config import RunConfig, identity
from ddpm_core.config.identity import PRESENT, Rule
from ddpm_core.config.rates import Segment
from ddpm_core.runs import begun, layout
from ddpm_core.runs.weights import Weights
from ddpm_core.store import manifest
from ddpm_core.store.expected import Expected
from ddpm_core.store.manifest import DamagedError, Manifest
from ddpm_core.store.storage import Store

_KNOBS = (
    "clip_x_0",
    "state",
    "spacing",
    "eta",
    "ode_method",
    "ode_tolerance",
    "churn",
    "corrector_snr",
)
"""of a sampler; samples say those that their own one has"""


@dataclass(frozen=True)
class Place:
    """Where a result lies, or will, and the identity that its manifest must have."""

    folder: str
    expected: Expected
    name: str = "manifest.json"
    """file name of the manifest"""


# -- the experiment --------------------------------------------------------------------------------


def checkpoint_expected(step: int) -> Expected:
    """Return the identity of the checkpoint in the folder of `step`."""
    return Expected({"step": step})


def experiment(store: Store, config: RunConfig, checkpoint: Manifest | None = None) -> str:
    """Return the fingerprint by which the run's checkpoints know its experiment.

    Args:
        store: where the run lies.
        config: the run's.
        checkpoint: of which it is to be; None: of the newest that is of this experiment.

    Returns:
        The present one, unless what is there was made by an earlier version.

    Raises:
        StorageError: the storage does not answer.
    """
    checkpoints = committed(store, config.name) if checkpoint is None else [checkpoint]
    for found in checkpoints:
        said = found.body.get("experiment")
        for rule in _rules(store, config):
            if layout.experiment_fingerprint(config, rule) == said:
                return str(said)
        if checkpoint is not None:
            last_step = experiments_before(store, config).get(str(said), -1)
            if int(found.body.get("step", 0)) <= last_step:
                return str(said)
    return layout.experiment_fingerprint(config)


def experiments_before(store: Store, config: RunConfig) -> dict[str, int]:
    """Return the fingerprints that a run had while it was shorter, each with its last step."""
    return {
        layout.experiment_fingerprint(before, rule): segment.until
        for segment, before in earlier(config)
        for rule in _rules(store, before)
    }


def first_experiment(store: Store, config: RunConfig) -> str:
    """Return the fingerprint that a run was begun with, however often it went on since."""
    return experiment(store, next((one for _, one in earlier(config)), config))


def earlier(config: RunConfig) -> Iterator[tuple[Segment, RunConfig]]:
    """Yield each segment that a run has behind it, with its configuration at that time."""
    segments = config.train.earlier
    for number, segment in enumerate(segments):
        settings = segment.model_dump(mode="json", exclude={"until"})
        changes = {f"train.{key}": value for key, value in settings.items()}
        before = [one.model_dump(mode="json") for one in segments[:number]]
        yield segment, config.replaced({**changes, "train.earlier": before})


def committed(store: Store, run: str) -> Iterator[Manifest]:
    """Yield the checkpoints of a run that are there, newest first."""
    for step in layout.committed_steps(store, run):
        try:
            found = manifest.load(
                store, layout.checkpoint_folder(run, step), checkpoint_expected(step)
            )
        except DamagedError:
            continue  # set aside when it is read
        if found is not None:
            yield found


def _rules(store: Store, config: RunConfig) -> Iterator[Rule]:
    """Yield the present rule, then the one before: with the housekeeping that is given now, that
    run.json says, and that it said when the run was begun.
    """
    yield PRESENT
    yield Rule(housekeeping=config)
    for of in (begun.recorded, begun.as_begun):
        if (then := of(store, config.name)) is not None:
            yield Rule(housekeeping=then)


# -- results ---------------------------------------------------------------------------------------


def samples(store: Store, config: RunConfig, weights: Weights) -> Place:
    """Return the place of the first `sample.num_images` samples of these weights.

    One folder holds them however many there are, and has a manifest for each number that was asked
    for. In versions before each number had a folder.
    """
    sample = config.sample
    body = {
        "num_images": sample.num_images,
        "unit_size": sample.unit_size,
        "batch_size": sample.batch_size,
        "shape": list(config.data.shape),
        "sampler": sample.sampler,
        "seed": sample.seed,
        **identity.counted("diffusion", config.diffusion),
        "precision": config.train.precision,
        **weights.digest,
    }
    # Earlier versions wrote neither the fingerprint nor the knobs.
    knobs = {
        "num_steps": None
        if sample.is_adaptive
        else sample.num_steps or config.diffusion.num_timesteps,
        **{knob: getattr(sample, knob) for knob in _KNOBS},
    }

    def called(digest: str, name: str) -> Place:
        noted = weights.identity(config.name)
        expected = Expected(body, {"fingerprint": digest, **knobs}, noted)
        return Place(layout.samples_folder(config.name, digest), expected, name)

    def by(rule: Rule) -> Place:
        return called(
            layout.sample_fingerprint(config, weights.sha256, rule, weights.guide), "manifest.json"
        )

    present = called(
        layout.sample_set_fingerprint(config, weights.sha256, weights.guide),
        layout.whole_name(sample.num_images),
    )
    if store.exists(f"{present.folder}/{present.name}"):
        return present
    return _first(store, config, by, otherwise=present)


def evaluation(store: Store, config: RunConfig, weights: Weights, dataset: str) -> Place:
    """Return the place of the evaluation of these weights on this data set."""
    noted = measured_weights(config, weights, dataset)
    body = {**weights.digest, "precision": config.train.precision, "dataset": dataset}

    def by(rule: Rule) -> Place:
        digest = layout.evaluation_fingerprint(config, weights.sha256, dataset, rule, weights.guide)
        folder = layout.evaluation_folder(config.name, digest)
        return Place(folder, Expected(body, {"fingerprint": digest}, noted))

    return _first(store, config, by)


def study(store: Store, config: RunConfig, weights: Weights, dataset: str) -> Place:
    """Return the place of the study of these weights on this data set."""
    noted = measured_weights(config, weights, dataset)
    body = {**weights.digest, "precision": config.train.precision, "dataset": dataset}

    def by(rule: Rule) -> Place:
        digest = layout.study_fingerprint(config, weights.sha256, dataset, rule, weights.guide)
        folder = layout.study_folder(config.name, digest)
        return Place(folder, Expected(body, {"fingerprint": digest}, noted))

    return _first(store, config, by)


def ablations(store: Store, config: RunConfig) -> Place:
    """Return the place of the table of the run's ablations.

    The first versions did not write its fingerprint: their table is made again of the runs, which
    are kept.
    """

    def by(rule: Rule) -> Place:
        digest = layout.ablations_fingerprint(config, rule)
        folder = layout.ablations_folder(config.name, digest)
        return Place(folder, Expected({"fingerprint": digest}))

    return _first(store, config, by)


def measured_weights(config: RunConfig, weights: Weights, dataset: str) -> dict[str, Any]:
    """Return which weights were measured on which data set, for protocols and manifests."""
    trained, by_class = weights.trained.train, weights.is_guided_by_class
    # Of a network that is given labels they are said with the numbers that depend on them.
    own = config.sample.labels if config.model.low_size is None else "of what is enlarged"
    drawn = {"labels": own} if by_class and config.num_classes is None else {}
    return {
        **weights.identity(config.name),
        **drawn,
        "loss": trained.loss,
        "weighting": trained.weighting,
        "precision": config.train.precision,
        "dataset": dataset,
    }


def _first(
    store: Store, config: RunConfig, by: Callable[[Rule], Place], *, otherwise: Place | None = None
) -> Place:
    """Return the first place at which something lies; if nothing does, `otherwise` or the present
    one.
    """
    tried = set()
    for rule in _rules(store, config):
        place = by(rule)
        if place.folder in tried:
            continue
        tried.add(place.folder)
        # A listing may be long; the manifest of the whole is not.
        if store.exists(f"{place.folder}/manifest.json") or store.names(place.folder):
            return place
    return by(PRESENT) if otherwise is None else otherwise
