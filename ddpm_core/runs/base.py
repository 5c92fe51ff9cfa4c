"""What a run begins from (`train.start_from`): found, pinned by digest, refused if it is not fit.

It is looked up while nothing of the run is there. Its weights are copied once, as the run's
checkpoint of step 0: from then on the run depends on it no more. Knows no torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ddpm_core.canonical import fingerprint
from ddpm_core.config import RunConfig
from ddpm_core.config.averages import averages_of
from ddpm_core.config.explain import near
from ddpm_core.config.model_ref import NEWEST, PINNED, RAW
from ddpm_core.config.start import STATE, Start
from ddpm_core.diffusion.choices import is_learned
from ddpm_core.errors import CheckpointError, ConfigError
from ddpm_core.exchange.described import read_described
from ddpm_core.exchange.files import find_files
from ddpm_core.recipes import recipe
from ddpm_core.runs import begun, layout, places, refusals, results
from ddpm_core.runs.misfits import misfit, misfits, other_chain
from ddpm_core.runs.weights import averages_in, role_of
from ddpm_core.store.manifest import REMEDY, DamagedError, Manifest
from ddpm_core.store.source import Source
from ddpm_core.store.storage import Store, open_store

_WHOLE = 64
"""digits of a digest that is not shortened"""


@dataclass(frozen=True)
class Base:
    """Weights that a run begins from."""

    start: Start
    """pinned"""
    trained: RunConfig
    """of what trained them"""
    checkpoint: Manifest | None
    """of the run that trained them; None: they are a folder's"""
    files: Mapping[str, str]
    """SHA-256 of each file of them, by its role"""

    @property
    def record(self) -> dict[str, Any]:
        """What the checkpoint of step 0 says of where it comes from."""
        return {"from": self.start.name, "files": dict(self.files)}

    @property
    def has_names(self) -> bool:
        """Whether a data set of ours says what its labels stand for: weights from outside lack
        one.
        """
        return self.checkpoint is not None and not results.is_imported(self.checkpoint)


def pinned(store: Store, config: RunConfig) -> RunConfig:
    """Return a configuration that names what the run begins from by step and digest.

    Of a run on record that is what its run.json says: it may be gone since.

    Raises:
        ConfigError: there is no such run.
        CheckpointError: it has no such weights.
        StorageError: the storage does not answer.
    """
    if (start := config.train.start) is None:
        return config
    recorded = begun.recorded(store, config.name)
    if recorded is not None:
        theirs = recorded.train.start
        same = theirs is not None and start.is_met_by(theirs)
        return config.replaced({"train.start_from": str(theirs)}) if same else config
    return config.replaced({"train.start_from": str(base_of(store, config).start)})


def base_of(store: Store, config: RunConfig) -> Base:
    """Return what the run begins from; its manifest is read, not the weights.

    Raises:
        ConfigError: there is no such run, or it is this one.
        CheckpointError: it has no such weights, they are deleted, or others than are pinned.
        StorageError: the storage does not answer.
    """
    start = config.train.start
    if start is None:
        raise ConfigError("train.start_from is not given; name what the run begins from")
    return _of_run(store, config, start) if start.folder is None else _of_folder(start)


def is_begun(store: Store, run: str) -> bool:
    """Say whether the run has a checkpoint, and so needs what it began from no more."""
    return next(places.committed(store, run), None) is not None


def require_fit(store: Store, config: RunConfig) -> str | None:
    """Refuse what a run cannot begin from, unless it has begun.

    Returns:
        A line about what fits and may not be meant.

    Raises:
        ConfigError: with a line for each key that does not fit: what it is there and here, and what
            to set.
        CheckpointError: as `base_of`.
    """
    if config.train.start is None or is_begun(store, config.name):
        return None
    base = base_of(store, config)
    lines = misfits(base.trained, config)
    theirs, ours = base.trained.num_classes, config.num_classes
    if theirs is not None and ours is not None and theirs > ours and not base.has_names:
        lines.append(misfit("model.num_classes", theirs, ours))
    lines += _averages(base, config)
    if lines:
        shown = "".join(f"\n  {line}" for line in lines)
        raise ConfigError(
            f"train.start_from={base.start.name!r} does not fit run {config.name!r}:{shown}"
        )
    # Which chain a folder's is takes torch to read; that it is one does not, nor do EDM's sigmas.
    if base.trained.role != config.role:  # a language model has seen none
        return None
    there, here = base.trained.diffusion.kind, config.diffusion.kind
    is_read = base.checkpoint is not None or there != here or there == "edm"
    return other_chain(base.trained, config) if is_read else None


def require_record(store: Store, config: RunConfig, checkpoint: Manifest) -> None:
    """Refuse a checkpoint of step 0 that does not say that it is of what the run begins from.

    Raises:
        DamagedError: with both digests.
    """
    start = config.train.start
    if start is None or checkpoint.body["step"]:
        return
    files = checkpoint.body.get("base", {}).get("files", {})
    digest = _digest(files, start.model.average)
    if start.folder is not None:
        digest = files.get("weights_sha256", "")
    if start.sha256 is None or not digest.startswith(start.sha256):
        raise DamagedError(
            f"{store.uri_of(checkpoint.folder)} says that it is of weights with digest "
            f"{digest[:PINNED] or 'none'}, and the run begins from {start}; {REMEDY}"
        )


def _averages(base: Base, config: RunConfig) -> list[str]:
    """Compare the averages, where they go on: a line for each that is not there."""
    if base.start.model.average != STATE or base.checkpoint is None:
        return []
    there = averages_in(base.checkpoint)
    return [
        f"the average {name!r} of the settings here is not there, which has {', '.join(there)}; "
        "leave it out of train.ema_decays, or begin from an average"
        for name in averages_of(config.train)
        if name not in there
    ]


# -- of a run ----------------------------------------------------------------------------------


def _of_run(store: Store, config: RunConfig, start: Start) -> Base:
    given, run = f"train.start_from={start.name!r}", str(start.model.run)
    if run == config.name:
        raise ConfigError(
            f"{given}: a run cannot begin from itself; give this one another name (--run NAME), or "
            "train it on with --set train.num_steps=..."
        )
    trained = begun.recorded(store, run)
    if trained is None:
        close = near(run, store.names("runs"))
        meant = f"; did you mean {close!r}?" if close else ""
        raise ConfigError(f"{given}: there is no run {run!r} below {store.uri}{meant}")
    step = trained.train.num_steps if start.model.step is None else start.model.step
    if step == NEWEST:
        newest = next(places.committed(store, run), None)
        step = int(newest.body["step"]) if newest is not None else 0
    found = results.checkpoint_of(store, trained, step)
    if found is None:
        where = store.uri_of(layout.checkpoints_folder(run))
        raise CheckpointError(
            f"{given}: run {run!r} has no checkpoint of step {step} below {where}, or its files "
            f"are deleted; {refusals.steps_there(store, trained)}"
        )
    average, there = start.model.average, averages_in(found)
    if (RAW if average == STATE else average) not in there:
        raise CheckpointError(
            f"{given}: {store.uri_of(found.folder)} has no weights {average!r}; it has "
            f"{', '.join(there)}"
        )
    files = {role: one.sha256 for role, one in found.files.items()}
    digest = _digest(files, average)
    if start.sha256 is not None and not digest.startswith(start.sha256):
        raise CheckpointError(
            f"{given} is pinned to weights with digest {start.sha256}..., and "
            f"{store.uri_of(found.folder)} holds {digest[: len(start.sha256)]}...: they were "
            "trained again or exchanged; give this run another name (--run NAME) to begin from them"
        )
    named = replace(start, model=replace(start.model, step=step), sha256=digest[:PINNED])
    return Base(named, trained, found, files)


# -- of a folder -------------------------------------------------------------------------------


def _of_folder(start: Start) -> Base:
    folder = str(start.folder)
    given = f"train.start_from={folder!r}"
    store = open_store(folder)
    if store.exists("run.json"):
        raise ConfigError(
            f"{given} is the folder of a run; name it by its name, RUN@STEP, with its root as "
            "--root. One below another root: write its weights with export-weights first, and "
            "begin from that folder"
        )
    found = find_files(store)
    if found.encoder is not None:
        raise ConfigError(
            f"{given} has an encoder of texts beside its network, and one file is pinned: make it "
            "a run by import-weights, and begin from that (RUN@STEP)"
        )
    network, outputs = read_described(found, origin=folder)
    channels, height, width = network.shape
    if channels not in (1, 3):
        raise ConfigError(
            f"{given} is a network of images of {channels} channels; images here have 1 or 3"
        )
    keys: dict[str, Any] = {"data.height": height, "data.width": width}
    keys["data.grey"] = channels == 1
    keys |= {f"model.{key}": value for key, value in network.model.items()}
    keys |= {f"diffusion.{key}": value for key, value in outputs.items()}
    variance = outputs.get("variance", "fixed_small")
    learned = is_learned(variance)
    keys["train.loss"] = "hybrid" if learned else "simple"
    trained = recipe("images").replaced(keys)
    if network.out_channels != trained.out_channels:
        raise ConfigError(
            f"{given}: its network has out_channels={network.out_channels}, and with its "
            f"scheduler's variance_type={variance} it must have {trained.out_channels}; "
            "one of the two files belongs to something else"
        )
    weights = start.sha256 or ""
    if len(weights) < _WHOLE:  # else it was read once, and will be compared when it is copied
        weights = _digest_of(store, found.weights_key, given)
    if start.sha256 is not None and not weights.startswith(start.sha256):
        raise CheckpointError(
            f"{given} is pinned to weights with SHA-256 {start.sha256}..., and "
            f"{store.uri_of(found.weights_key)} has {weights[: len(start.sha256)]}..."
        )
    files = {"weights_sha256": weights, **found.digests}
    return Base(replace(start, sha256=weights), trained, None, files)


def _digest_of(store: Store, key: str, given: str) -> str:
    """Return the SHA-256 of a file of any length, read block by block."""
    size = store.sizes(key.rpartition("/")[0]).get(key.rpartition("/")[2])
    if size is None:
        raise CheckpointError(
            f"{given}: {store.uri_of(key)} is not there; save the network with diffusers' "
            "save_pretrained, in one file of safetensors"
        )
    source = Source(store, key, size)
    source.exhaust()
    return source.digest.hexdigest()


def _digest(files: Mapping[str, str], average: str) -> str:
    """Return what determines the bytes that are taken: of a whole state that is several files."""
    if average != STATE:
        return files.get(role_of(average), "")
    return fingerprint({role: sha256 for role, sha256 in files.items() if role != "history"})
