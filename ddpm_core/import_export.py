"""Import weights of other programs as a run, and export the weights of a run for them.

A run of imported weights has one checkpoint, the last: the averaged weights, no optimiser, no
curves, and `imported` in its manifest with the digests of the files they came from. Its `train`
section trained nothing; `train.num_steps` is the number of steps that the user gives for the
weights, else 1. Such a run can be sampled and evaluated; its training cannot be continued.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ddpm_core.config import RunConfig, UNetConfig
from ddpm_core.config.model_ref import EMA
from ddpm_core.diffusion.choices import is_learned
from ddpm_core.errors import CheckpointError, ConfigError, RunConflictError
from ddpm_core.exchange.described import read_network
from ddpm_core.exchange.folder import exact_float32, read_folder, write_folder
from ddpm_core.exchange.keys import Described
from ddpm_core.exchange.networks import (
    encoder_from_transformers,
    encoder_to_transformers,
    from_diffusers,
    to_diffusers,
    write_network,
)
from ddpm_core.exchange.npz import read_npz
from ddpm_core.exchange.scheduler_config import read_scheduler_config, write_scheduler_config
from ddpm_core.inference.networks import build_network
from ddpm_core.inference.weights import load_average
from ddpm_core.models.interop import from_original
from ddpm_core.recipes import recipe
from ddpm_core.runs import chosen, layout, places, results
from ddpm_core.runs.run import configure, open_run
from ddpm_core.runs.stages import require_denoiser
from ddpm_core.runs.weights import Weights
from ddpm_core.store.manifest import DamagedError
from ddpm_core.store.storage import Store, open_store
from ddpm_core.training.storing import checkpoint

_NO_DATASET = "none: imported weights"


@dataclass(frozen=True)
class Imported:
    """Weights from outside and the run that they become; nothing is written yet."""

    root: str
    config: RunConfig
    weights: dict[str, Tensor]
    """float32, by the names of our network's parameters"""
    provenance: dict[str, str]
    """format, and SHA-256 of each file"""


def read_weights(
    source: str, recipe_name: str, *, root: str | None, run: str | None, changes: Mapping[str, Any]
) -> Imported:
    """Read weights from outside, and say which run they become.

    Args:
        source: path or URI of a folder of diffusers, which brings its network and its chain, or
            of an .npz of the original's variables, for which the recipe says both.
        recipe_name: the recipe for everything else, the data set above all.
        root: where the run is to lie; None is ./runs.
        run: name of the run; required, since the recipe's own stands for a training.
        changes: `{"section.key": value}` on top of the recipe.

    Raises:
        ConfigError: the network or the chain is not one of ours, or not of these data.
        CheckpointError: the weights are not all of this network's, each finite, and no others.
        StorageError: the storage does not answer.
    """
    if run is None:
        raise ConfigError(
            "the run of imported weights has no name; give --run NAME: the recipe's own stands "
            "for a training"
        )
    if changes.get("train.start_from") is not None:
        raise ConfigError(
            "imported weights begin from nothing (--from, train.start_from); import them, and "
            "begin another run from theirs"
        )
    if changes.get("train.augment"):
        raise ConfigError(
            f"train.augment={changes['train.augment']}: imported weights are of a network that is "
            "not given how images were transformed; leave it out, or import them and begin an "
            "augmented run from theirs"
        )
    if source.endswith(".npz"):
        return _from_npz(
            source, recipe_name, root, {"train.num_steps": 1, "train.augment": 0.0, **changes}, run
        )
    return _from_folder(source, recipe_name, root, changes, run)


def import_weights(store: Store, imported: Imported) -> str:
    """Make the run: run.json, and the final checkpoint. The same again is fine.

    Returns:
        The URI of its run.json.

    Raises:
        RunConflictError: the name stands for another run, a training, or other weights.
        StorageError: the storage refuses or does not answer.
    """
    config = imported.config
    key = layout.run_json_key(config.name)
    if store.exists(key):
        open_run(store, config)
    _refuse_training(store, config)
    name, step = config.name, config.train.num_steps
    try:
        checkpoint.commit(
            store,
            name,
            checkpoint.Origin(places.experiment(store, config), _NO_DATASET),
            step=step,
            images_seen=0,
            written=checkpoint.write_parts(store, name, step, {"state": {}, EMA: imported.weights}),
            history=[],
            imported=imported.provenance,
        )
    except RunConflictError:
        raise RunConflictError(
            f"run {config.name!r} has other weights, imported from other files; give these "
            "another name (--run NAME)"
        ) from None
    # Last: what a kill leaves behind must not look like a run that is still to be trained.
    open_run(store, config)
    return store.uri_of(key)


def export_weights(
    target: str, folder: str, *, root: str | None = None, model: str | None = None
) -> tuple[str, Weights]:
    """Write weights of a run as a folder that diffusers loads.

    Args:
        target: path or URI of the run's run.json.
        folder: path or URI to write to; what stands there is not overwritten.
        root: where the run lies; None is the root that its run.json lies in.
        model: which weights, as RUN@STEP:AVERAGE; None: those of `sample.model` in its run.json,
            by default the average of the last step.

    Returns:
        The URI of the folder, and which weights lie there.

    Raises:
        ConfigError: diffusers has no such network or no such chain.
        CheckpointError: the weights are not there, or damaged.
        RunConflictError: other files stand there.
        StorageError: the storage refuses or does not answer.
    """
    changes = {} if model is None else {"sample.model": model}
    home, config = configure(target, root=root, run=None, changes=changes)
    require_denoiser(config, "export-weights")
    network, scheduler = write_network(config), write_scheduler_config(config.diffusion)
    store = open_store(home)
    found = chosen.require_named(store, config, "model")  # alone: what guides them stays
    chosen.require_files(store, found)
    weights = load_average(store, found.checkpoint, average=found.average)
    written = write_folder(
        folder,
        network=network,
        scheduler=scheduler,
        weights=to_diffusers(config, weights),
        encoder_weights=encoder_to_transformers(weights),
    )
    return written.uri, found


def _from_folder(
    source: str, recipe_name: str, root: str | None, changes: Mapping[str, Any], run: str
) -> Imported:
    ours = [key for key in changes if key.startswith(("model.", "diffusion."))]
    if ours:
        raise ConfigError(
            f"--set {', '.join(ours)}: the folder says what network and chain its weights are of; "
            "leave it out"
        )
    found = read_folder(source)
    network = read_network(found.network, found.encoder, origin=f"the network of {source}")
    diffusion = read_scheduler_config(found.scheduler, origin=f"the scheduler of {source}")
    _require_same_images(source, network, recipe_name, changes)
    _require_room_for_variance(source, network, diffusion)
    learned = is_learned(diffusion.get("variance", "fixed_small"))
    sections = {f"model.{key}": value for key, value in network.model.items()}
    sections |= {f"diffusion.{key}": value for key, value in diffusion.items()}
    # Nothing of this section is used, but it must be valid together with the others.
    train = {
        "train.num_steps": 1,
        "train.loss": "hybrid" if learned else "simple",
        "train.weighting": "none",
        "train.augment": 0.0,
    }
    home, config = configure(
        recipe_name, root=root, run=run, changes={**sections, **train, **changes}
    )
    weights = exact_float32(found.weights, origin=source)
    encoder = exact_float32(found.encoder_weights, origin=source)
    with _naming(source):
        like = _like(config)
        parts = from_diffusers(config, weights, like) | encoder_from_transformers(encoder, like)
    weights = {name: parts[name] for name in like}
    return Imported(home, config, weights, {"format": "diffusers", **found.digests})


def _from_npz(
    source: str, recipe_name: str, root: str | None, changes: Mapping[str, Any], run: str
) -> Imported:
    recipe(recipe_name)  # no run.json: that is a run already
    home, config = configure(recipe_name, root=root, run=run, changes=changes)
    require_denoiser(config, "import-weights")
    if not isinstance(config.model, UNetConfig):
        raise ConfigError(
            f"model.kind={config.model.kind}: the original's variables ({source}) are those of a "
            "U-Net; leave model.kind out"
        )
    if config.num_classes is not None:
        raise ConfigError(
            f"model.conditioning=label: the network of the original's variables ({source}) takes "
            "no labels; take a recipe without them"
        )
    variables, digest = read_npz(source)
    num_levels = len(config.model.channel_mults)
    with _naming(source):
        weights = from_original(variables, _like(config), num_levels=num_levels)
    provenance = {"format": "tensorflow-npz", "weights_sha256": digest}
    return Imported(home, config, exact_float32(weights, origin=source), provenance)


@contextmanager
def _naming(source: str) -> Iterator[None]:
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{source}: {error}") from None


def _like(config: RunConfig) -> dict[str, Tensor]:
    """Return the parameters of the network by name: shapes, no numbers."""
    with torch.device("meta"):
        return build_network(config).state_dict()


def _require_same_images(
    source: str, network: Described, recipe_name: str, changes: Mapping[str, Any]
) -> None:
    """Refuse a data set whose images the network does not draw."""
    # With a network that any size fits, so that the data section alone is checked.
    anything = {"kind": "unet", "channel_mults": [1], "attention_resolutions": []}
    own = recipe(recipe_name).data.model_dump(mode="json")
    of_data = {key: value for key, value in changes.items() if key.startswith("data.")}
    data = RunConfig.from_dict({"data": own, "model": anything}).replaced(of_data).data
    if data.shape != network.shape:
        theirs, ours = ("x".join(map(str, shape)) for shape in (network.shape, data.shape))
        raise ConfigError(
            f"the network in {source} draws images of {theirs} (channels, height, width), the "
            f"recipe {recipe_name} has {ours}; take a recipe of such images, or set data.height "
            "and data.width"
        )


def _require_room_for_variance(
    source: str, network: Described, diffusion: Mapping[str, Any]
) -> None:
    """Refuse a network whose output has no second half for a learned variance, or one too many."""
    channels, variance = network.shape[0], diffusion.get("variance", "fixed_small")
    needed = channels * (2 if is_learned(variance) else 1)
    if network.out_channels != needed:
        raise ConfigError(
            f"the network in {source} has out_channels={network.out_channels}, and with its "
            f"scheduler's variance_type={variance} it must have {needed}; one of the two files "
            "belongs to something else"
        )


def _refuse_training(store: Store, config: RunConfig) -> None:
    """Refuse a run with checkpoints of a training: imported weights may not pass for its result."""
    last = config.train.num_steps
    try:
        found = results.final_checkpoint(store, config)
    except DamagedError:
        found = None  # an import over it mends it
    others = [step for step in layout.committed_steps(store, config.name) if step != last]
    if others or (found is not None and "imported" not in found.body):
        raise RunConflictError(
            f"run {config.name!r} has checkpoints of a training; give the imported weights another "
            "name (--run NAME)"
        )
