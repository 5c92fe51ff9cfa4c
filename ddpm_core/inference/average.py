"""An average of any width, made of the snapshots that a training left, and committed as weights.

    averages/power_12/step_00001000/power_12-<sha256>.safetensors    the average of sigma_rel 0.12
                                    manifest.json    with the coefficients of the snapshots

It is referred to as RUN@1000:power_12 like any other. Made again it is found; what was killed
leaves nothing that counts. One tensor file is in memory at a time, beside the sum in float64.

Source: Karras et al. 2024, arXiv:2312.02696, section 3.2.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ddpm_core.config import RunConfig
from ddpm_core.config.averages import powers_of
from ddpm_core.config.model_ref import NEWEST, ModelRef, power_name
from ddpm_core.config.train import require_width
from ddpm_core.errors import CheckpointError, ConfigError
from ddpm_core.inference.tensor_file import TensorFile
from ddpm_core.inference.weights import read_tensors
from ddpm_core.models.profiles import gamma_of
from ddpm_core.models.synthesis import Fit, Profile, fit
from ddpm_core.runs import layout, places, results
from ddpm_core.runs.refusals import require_origin
from ddpm_core.runs.weights import Weights
from ddpm_core.store import manifest
from ddpm_core.store.commit import commit_first, write_file
from ddpm_core.store.manifest import DamagedError, Manifest
from ddpm_core.store.storage import Store

LARGEST_ERROR = 0.05
"""of a profile, relative to it: beyond, the average would be one of another width"""
_SHOWN = 3
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Made:
    """An average that was made of snapshots."""

    weights: Weights
    error: float
    """of its profile, relative to it"""
    coefficients: list[tuple[int, str, float]]
    """step and name of each stored average, and how much of it was taken"""


def make_average(store: Store, config: RunConfig, step: int | str | None, sigma_rel: float) -> Made:
    """Make the average of a width after a step, or return it if it is there and whole.

    Args:
        store: where the run lies.
        config: the run's.
        step: of a snapshot; "newest": of the newest; None: of the last step of the training.
        sigma_rel: the width, relative to the steps behind it.

    Raises:
        ConfigError: no such width, or the training keeps that average itself.
        CheckpointError: there is no snapshot of that step, or too few of them before it.
        DamagedError: a snapshot is damaged; it is set aside, and the same again does without it.
        StorageError: the storage refuses or does not answer.
    """
    require_width("--sigma-rel", sigma_rel)
    name, snapshots = power_name(sigma_rel), _snapshots(store, config)
    if step is None:
        step = config.train.num_steps
    elif step == NEWEST:
        step = max(snapshots, default=config.train.num_steps)
    step = int(step)
    if name in powers_of(config.train):
        raise ConfigError(
            f"--sigma-rel {sigma_rel:g}: run {config.name!r} keeps this average while it trains "
            f"(train.power_averages); name it as --model {ModelRef(step=step, average=name)}"
        )
    folder = layout.average_folder(config.name, name, step)
    found = manifest.intact(store, folder, places.checkpoint_expected(step))
    if found is None:
        _require(store, config, snapshots, step)
        found = _make(store, config, snapshots, step, sigma_rel)
    else:
        require_origin(store, found, experiment=places.experiment(store, config, found))
    said = found.body["made"]
    taken = [(one["step"], one["average"], one["coefficient"]) for one in said["of"]]
    return Made(Weights(found, config, name), said["error"], taken)


def _make(
    store: Store, config: RunConfig, snapshots: Mapping[int, Manifest], step: int, sigma_rel: float
) -> Manifest:
    powers, used = powers_of(config.train), sorted(one for one in snapshots if one <= step)
    sources = [(one, name) for one in used for name in powers]
    stored = [Profile(powers[name].gamma, one) for one, name in sources]
    target = Profile(gamma_of(sigma_rel), step)
    found = fit(target, stored)
    if found.error > LARGEST_ERROR:
        raise CheckpointError(
            f"--sigma-rel {sigma_rel:g}: the {len(used)} snapshot(s) up to step {step} of run "
            f"{config.name!r} give its profile to {100 * found.error:.2g} %, and it must be "
            f"{100 * LARGEST_ERROR:g} % at most. Give a width between those that were kept "
            f"({', '.join(map(str, config.train.power_averages))}), or train a run with more "
            "snapshots: a smaller train.checkpoint_every, or a larger train.num_snapshots"
        )
    total = _sum(store, snapshots, sources, found)
    name, first = power_name(sigma_rel), snapshots[step]
    taken = [
        {
            "step": one,
            "average": average,
            "sha256": snapshots[one].files[average].sha256,
            "coefficient": coefficient,
        }
        for (one, average), coefficient in zip(sources, found.coefficients, strict=True)
    ]
    body: dict[str, Any] = {
        **{key: first.body[key] for key in ("step", "experiment", "dataset")},
        "made": {"sigma_rel": sigma_rel, "gamma": target.gamma, "error": found.error, "of": taken},
    }
    folder = layout.average_folder(config.name, name, step)
    files = {name: write_file(store, folder, name, ".safetensors", TensorFile(total))}
    # The first one counts: of another machine's algebra the last bits may differ.
    return commit_first(store, folder, files, body, places.checkpoint_expected(step))


def _sum(
    store: Store, snapshots: Mapping[int, Manifest], sources: list[tuple[int, str]], found: Fit
) -> dict[str, Tensor]:
    """Return the sum of stored averages with these coefficients, in float32.

    What is no floating point number, such as a count in a buffer, is that of the last; buffers of
    floating point numbers are summed as weights are.
    """
    total: dict[str, Tensor] = {}
    for (step, name), coefficient in zip(sources, found.coefficients, strict=True):
        snapshot = snapshots[step]
        try:
            tensors = read_tensors(store, snapshot, name)
        except DamagedError as error:
            manifest.quarantine(store, snapshot.folder, str(error))
            raise DamagedError(
                f"{error}; the snapshot is set aside: the same command makes the average of the "
                "others, if those are enough"
            ) from None
        for key, one in tensors.items():
            if not one.is_floating_point():
                total[key] = one
            elif key in total:
                total[key].add_(one.double(), alpha=coefficient)
            else:
                total[key] = one.double() * coefficient
    return {key: one.float() if one.is_floating_point() else one for key, one in total.items()}


def _snapshots(store: Store, config: RunConfig) -> dict[int, Manifest]:
    """Return the snapshots of a run that can be used, by step."""
    found: dict[int, Manifest] = {}
    for step in layout.steps_in(store, layout.snapshots_folder(config.name)):
        folder = layout.snapshot_folder(config.name, step)
        one = manifest.intact(
            store, folder, places.checkpoint_expected(step), check=Manifest.require_sizes
        )
        if one is None:
            _log.warning("%s is set aside and not used", store.uri_of(folder))
            continue
        require_origin(store, one, experiment=places.experiment(store, config, one))
        if (pointer := results.dataset_pointer(store, config.name)) is not None:
            require_origin(store, one, dataset=pointer.fingerprint)
        found[step] = one
    return found


def _require(store: Store, config: RunConfig, snapshots: Mapping[int, Manifest], step: int) -> None:
    if step in snapshots:
        return
    where = store.uri_of(layout.snapshots_folder(config.name))
    if not config.train.power_averages:
        raise CheckpointError(
            f"run {config.name!r} keeps no snapshots, of which an average could be made: its "
            "train.power_averages are none. Train one with train.power_averages=[0.05, 0.1], under "
            "another name"
        )
    if not snapshots:
        raise CheckpointError(
            f"{where} has no snapshots: the first comes with a checkpoint, and with "
            "train.num_snapshots=0 there is none"
        )
    there = sorted(snapshots, key=lambda one: (abs(one - step), one))[:_SHOWN]
    raise CheckpointError(
        f"{where} has no snapshot of step {step}; nearest are those of step "
        f"{', '.join(map(str, there))}, the last is {max(snapshots)}: name one, as in "
        f"{config.name}@{there[0]}"
    )
