"""Everything that a later stage would refuse is refused before the first one, and in a dry run.

What needs torch is not here, since flows call this too: the stages `shard` and `train` see to it
when they begin, and `__main__` for a dry run.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from ddpm_core import machine
from ddpm_core.composing.ahead import captions_of, grown, part_of
from ddpm_core.config import RunConfig
from ddpm_core.config.doubts import doubts
from ddpm_core.config.estimate import disk_use, size_text
from ddpm_core.config.needs import is_small
from ddpm_core.config.prompts import lacking
from ddpm_core.datasets.ahead import dataset_text, in_named_sets
from ddpm_core.errors import CheckpointError, ConfigError, DataError
from ddpm_core.recipes import ablation_runs
from ddpm_core.rehearse import ELSEWHERE, SMALL, rehearsed
from ddpm_core.runs import base, chosen, going_on, named_data, results
from ddpm_core.runs.lower import lower_of, require_no_labels
from ddpm_core.runs.reference import (
    is_own,
    keys_given,
    require_end_known,
    scored_by,
    trained_by,
)
from ddpm_core.runs.run import check_stage, require_feature_file
from ddpm_core.runs.stages import STAGES, any_checks, needs_of, require_stages, stages_of
from ddpm_core.shards.caption_words import caption_lines, require_captions
from ddpm_core.shards.classes import classes_text, labelled_classes, require_classes, require_labels
from ddpm_core.shards.index import load_index
from ddpm_core.shards.one_class import distance_warning
from ddpm_core.sources.download import downloads_folder
from ddpm_core.sources.glance import Glance, glance
from ddpm_core.store.manifest import DamagedError
from ddpm_core.store.storage import Store
from ddpm_core.tracking.curves import require_writers
from ddpm_core.tracking.place import tracking_uri


@dataclass(frozen=True)
class Findings:
    """What is known before anything starts."""

    missing: list[str]
    """the stages that are not done"""
    source: Glance | None
    """of the images; None if they are sharded already, or lie where only others see them"""
    doubts: list[str]
    """settings that can hardly be meant"""
    here: bool = True
    """whether this machine is the one that would train"""
    dataset: str | None = None
    """which data set below the root is used, or may be, for people; None: none that is known"""
    captions: Sequence[str] = ()
    """lines on the captions of the images, as far as they are known"""

    def lines(self, config: RunConfig) -> list[str]:
        """Return them for people; of a training, after a few steps of it for trial."""
        seen, lines = (
            self.source,
            [f"network: {config.model.kind}, {config.num_parameters:,} parameters"],
        )
        if config.train.start is not None:
            lines.append(f"begins from: {config.train.start}")
        if self.dataset is not None:
            lines.append(f"data set: {self.dataset}")
        if seen is not None:
            lines.append(f"images: {seen.text}")
            lines += _class_lines(config, seen)
        lines += self.captions
        known = seen is not None and seen.num_train is not None and seen.num_test is not None
        is_made = config.data.sets is None and known  # else no shard is written
        num_images = seen.num_train + seen.num_test if is_made else None  # type: ignore[union-attr,operator]
        use = disk_use(config, num_images)
        shards = f"{size_text(use.dataset)} of shards, " if use.dataset is not None else ""
        kept = f"{size_text(use.snapshots)} of snapshots, " if use.snapshots else ""
        draws = "sample" in stages_of("train-ddpm", config.role)
        lines.append(
            f"disk: about {shards}{size_text(use.checkpoints)} of checkpoints, {kept}"
            + (f"at most {size_text(use.samples)} of samples" if draws else "no samples")
        )
        if any(STAGES[stage].is_training for stage in self.missing):
            lines += SMALL if is_small(config) else rehearsed(config) if self.here else ELSEWHERE
        return lines + [f"warning: {doubt}" for doubt in self.doubts]


def preflight(
    store: Store,
    config: RunConfig,
    stages: Sequence[str],
    *,
    command: Callable[[str], str],
    here: bool,
    look: bool = True,
) -> Findings:
    """Refuse what any of `stages` would refuse; writes nothing and starts nothing.

    Args:
        store: the root.
        config: of the run.
        stages: which are to run, in their order; those that are done are not checked.
        command: stage -> the command that runs it for this run, for people.
        here: whether they run on this machine, and not on a cluster that may hold other files.
        look: whether to look at the source of the images where they are still to be sharded.

    Raises:
        ConfigError: a setting does not go with another, with this machine, or with its files.
        RunConflictError: the name of the run, or of an ablation of it, stands for something else.
        CheckpointError: the stage needs a trained run, and it is not.
        DataError: it needs samples, and there are none; or the images cannot be used, as far as
            their names tell.
        StorageError: the storage does not answer, or cannot be written to.
    """
    tracking_uri(store)
    require_writers()
    require_stages(config, stages)
    check_stage(store, config)
    require_earlier(store, config, stages, command)
    if list(stages) == ["shard"]:  # by itself it gives the name also to what is there
        named_data.require_name(store, config)
    # What is damaged the stage sets aside and makes again.
    missing = [stage for stage in stages if not _is_there(store, config, stage)]
    if not missing:
        return Findings([], None, [])
    require_weights(store, config, missing)
    if "study" in missing and scored_by(store, config) is not None:
        require_end_known(config)  # it draws by other samplers too
    require_images(config, missing)
    require_captions(config)
    require_lower(store, config, missing)
    of_base = base.require_fit(store, config)
    if here:
        store.require_writable()
    if here and any_checks(missing, "cores"):
        require_cores(config)
    is_measured = any_checks(missing, "features")
    if here and is_measured and not results.has_foreign_network(store, config):
        require_feature_file(config)
    if any_checks(missing, "ablations"):
        require_ablations(store, config)
    source = dataset = None
    if any_checks(missing, "images"):
        named_data.require_name(store, config)
        source = in_named_sets(store, config)
    if look and any_checks(missing, "images"):
        source = source or _source(store, config, here=here)
        dataset = dataset_text(store, config)
    num_test = source.num_test if source is not None else None
    if config.model.low_size is not None and config.sample.low_from is None and num_test == 0:
        raise ConfigError(
            "model.low_size without sample.low_from enlarges held-out images, and none are held "
            "out: give data.num_test_images, or sample.low_from"
        )
    found = doubts(config, num_test=num_test, is_imported=_is_imported(store, config))
    classes = source.classes if source is not None else None
    require_meanings(store, config, missing, classes)
    require_prompts(store, config, missing)
    num_classes = len(classes) if classes is not None else None
    if (warning := distance_warning(store, config, num_classes=num_classes)) is not None:
        found.append(warning)
    found += [of_base] if of_base is not None else []
    captions = _caption_lines(store, config, source)
    return Findings(missing, source, found, here, dataset, captions)


def require_earlier(
    store: Store, config: RunConfig, stages: Sequence[str], command: Callable[[str], str]
) -> None:
    """Refuse a stage whose input is neither there nor made by `stages`; see `preflight`."""
    for stage in stages:
        for need in needs_of(stage, config.role):
            # Of a damaged one the stage that reads it says what is damaged, and what to do.
            if need not in stages and not _is_served(store, config, need):
                kind, words = STAGES[need].absence(store, config)
                raise kind(f"{stage} needs {words}: {command(need)}")


def require_images(config: RunConfig, missing: Sequence[str]) -> None:
    """Refuse a stage that is of images for a chain of bits.

    Raises:
        ConfigError: with what can be done of it.
    """
    if config.diffusion.kind == "binomial" and "study" in missing:
        raise ConfigError(
            "study measures what images are on their way through Gaussian noise, and diffusion.kind"
            "=binomial is a chain of bits: evaluate has its bound"
        )


def require_lower(store: Store, config: RunConfig, missing: Sequence[str]) -> None:
    """Refuse low resolutions that will not be there when they are enlarged.

    Raises:
        ConfigError: a stage needs images of nothing, or the run of `sample.low_from` does not fit.
        CheckpointError: it has no such weights.
    """
    if config.model.low_size is None:
        return
    for stage in ("study", "ablations"):
        if stage in missing:
            raise ConfigError(
                f"{stage} measures networks that draw images from noise alone, and model.low_size="
                f"{list(config.model.low_size)} enlarges others: evaluate has its numbers"
            )
    if not any(STAGES[stage].uses_weights for stage in missing):
        return
    require_no_labels(config)
    lower = lower_of(store, config)
    while lower is not None:
        with suppress(DamagedError):  # the stage that reads them says what is damaged
            weights = chosen.require(store, lower)
            if not results.is_begun(store, lower, weights, "sample"):
                chosen.require_files(store, weights)
        lower = lower_of(store, lower)


def require_cores(config: RunConfig) -> None:
    """Refuse more workers than this machine can hold.

    Raises:
        ConfigError: there are fewer cores than `compute` needs.
    """
    compute, cores = config.compute, machine.cores()
    if compute.num_workers * compute.cpus_per_worker > cores:
        raise ConfigError(
            f"compute asks for {compute.num_workers} worker(s) with {compute.cpus_per_worker} CPU "
            f"each; this machine has {cores}. Lower compute.num_workers or "
            "compute.cpus_per_worker, or give the address of a cluster"
        )


def require_ablations(store: Store, config: RunConfig) -> None:
    """Refuse a run whose six ablations cannot be run.

    Raises:
        ConfigError: one does not go with the rest of `config`, or its name would be too long.
        RunConflictError: the name of one stands for another run.
    """
    try:
        runs = ablation_runs(config)
    except ConfigError as error:
        raise ConfigError(f"the ablations of run {config.name!r} cannot be run: {error}") from None
    for run in runs.values():  # with more steps than they have they go on, as the run does
        check_stage(store, going_on.as_on_record(store, run))


def _class_lines(config: RunConfig, seen: Glance) -> list[str]:
    """Return the classes of the images, where there are several, and how to train on them."""
    if seen.classes is None or len(seen.classes) == 1:
        return []
    lines = [f"classes: {classes_text(seen.classes, seen.class_counts)}"]
    if config.num_classes is None and config.data.is_collection:
        lines.append(
            "labels: not used; to train on them give --set model.conditioning=label "
            f"--set model.num_classes={len(seen.classes)}"
        )
    return lines


def require_weights(store: Store, config: RunConfig, missing: Sequence[str]) -> None:
    """Refuse weights that a reference names and that will not be there when they are used.

    Raises:
        ConfigError, CheckpointError: saying which are there, or what to set.
    """
    using = [stage for stage in missing if STAGES[stage].uses_weights]
    is_trained_first = any(STAGES[stage].is_training for stage in missing)
    keys = keys_given(config) if using else []
    for key in keys:
        if is_own(config, key) and is_trained_first:
            chosen.require_reachable(store, config, key)
            continue
        with suppress(DamagedError):  # the stage that reads them says what is damaged
            named = chosen.require_named(store, config, key)
            if is_trained_first:
                chosen.require_files(store, named)
    if not keys or is_trained_first:
        return
    with suppress(DamagedError):
        weights = chosen.require(store, config)
        # Where units are there they may be all: the stage looks, and refuses what it cannot make.
        if not all(results.is_begun(store, config, weights, stage) for stage in missing):
            chosen.require_files(store, weights)


def require_meanings(
    store: Store, config: RunConfig, missing: Sequence[str], classes: Sequence[str] | None
) -> None:
    """Refuse classes that are not the network's labels, and `sample.labels` that means none.

    Args:
        store: the root.
        config: of the run.
        missing: the stages that are to run.
        classes: of its images, as far as their source says; None: that does not say it.

    Raises:
        ConfigError: with what to set.
    """
    if config.num_classes is None and config.sample.guidance_by is None:
        return
    if classes is not None:
        require_classes(config, classes)
    if not (is_own(config) or any(STAGES[stage].uses_weights for stage in missing)):
        return
    with suppress(DataError):  # the stages that read the index say what is damaged
        known = labelled_classes(store, config, ours=classes)
        if known is None and config.num_classes is None:
            return
        if known is not None:
            classes = known.names
        if classes is not None or not any_checks(missing, "images"):
            require_labels(config, classes)


def require_prompts(store: Store, config: RunConfig, missing: Sequence[str]) -> None:
    """Refuse captions as prompts where the data set that is to say them is there and has none.

    Raises:
        ConfigError: with what to give.
    """
    prompts, is_made = config.sample.prompts, any_checks(missing, "images")
    is_drawn = "sample" in missing and config.model.uses_text and config.model.low_size is None
    if not is_drawn or is_made or not isinstance(prompts, str):
        return
    with suppress(DataError):  # the stages that read the index say what is damaged
        for run in (trained_by(store, config), config):
            if (pointer := results.dataset_pointer(store, run.name)) is None:
                continue
            index = load_index(store, pointer.folder, pointer.fingerprint)
            split = "test" if prompts == "held_out" else "train"
            has_captions = index.captions is not None or run.data.captions == "classes"
            if has_captions and index.num_images[split]:
                return
            break
        raise lacking(prompts)


def _caption_lines(store: Store, config: RunConfig, source: Glance | None) -> list[str]:
    """Return what is to be said of captions, by the source or by the data set that is there."""
    if config.data.captions == "none":
        return []
    if source is not None:
        return caption_lines(config, source.captions, source.classes)
    with suppress(DataError):  # the stages that read the index say what is damaged
        if (pointer := results.dataset_pointer(store, config.name)) is not None:
            index = load_index(store, pointer.folder, pointer.fingerprint)
            return caption_lines(config, captions_of(index), index.label.names)
    return []


def _is_served(store: Store, config: RunConfig, stage: str) -> bool:
    """Say whether what later stages need of a stage is there, damaged or not."""
    try:
        return (STAGES[stage].serves or STAGES[stage].result)(store, config) is not None
    except DamagedError:
        return True


def _is_there(store: Store, config: RunConfig, stage: str) -> bool:
    try:
        return STAGES[stage].result(store, config) is not None
    except DamagedError:
        return False
    except CheckpointError:
        if STAGES[stage].uses_weights:  # there is what draws, and what guides it is to come
            return False
        raise


def _is_imported(store: Store, config: RunConfig) -> bool:
    with suppress(CheckpointError, DamagedError):  # said by the stage that reads it
        found = results.final_checkpoint(store, config)
        return found is not None and results.is_imported(found)
    return False


def _source(store: Store, config: RunConfig, *, here: bool) -> Glance | None:
    is_remote = "://" in config.data.source and not config.data.source.startswith("file:")
    if not (here or is_remote):
        return None
    with suppress(DamagedError):  # the stage sets it aside and reads the source again
        if results.dataset_pointer(store, config.name) is not None:
            return None
    seen = part_of(config.data, glance(config.data, cache=downloads_folder(), store=store))
    return seen if config.data.append_to is None else grown(store, config, seen)
