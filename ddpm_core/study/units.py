"""The units of a study: ranges of images, each measured in one way.

    study/<fingerprint>/
      sweep-ddim-20-000000-<digest>.safetensors    what the unit found: named arrays
      sweep-ddim-20-000000.json                    its manifest: it is finished
      manifest.json                                numbers, figures and sheets made of all units

What a unit finds follows from its name and the configuration, so it does not matter who works on
it, or how often.
"""

from typing import Literal

from ddpm_core.config import RunConfig
from ddpm_core.evaluation.measuring.worker import FEATURE_IMAGES
from ddpm_core.study.ddim.cells import TAUS, cells
from ddpm_core.study.settings import flow_refusal, swept
from ddpm_core.units.ranges import Range

Kind = Literal[
    "bound",
    "ode",
    "sweep",
    "progress",
    "features",
    "neighbours",
    "decoding",
    "latents",
    "mixes",
    "depths",
    "round-trip",
    "ddim",
    "reconstruction",
    "arcs",
]
"""bound: bits/dim by every term; ode: bits/dim by the probability flow; sweep: samples of one
sampler at one cost; progress: x_0_hat over the reverse steps; features: of real images;
neighbours: of samples among the training images; ddim: samples of a cell of the DDIM paper's
table 1; reconstruction: its table 2; the rest: pictures."""

Unit = Range[Kind]


def units_of(
    config: RunConfig, num_train: int, num_test: int, *, has_features: bool = True
) -> list[Unit]:
    """Return all units, those that take longest first, so that workers end at the same time.

    Args:
        config: the run's.
        num_train: training images there are.
        num_test: held-out images there are.
        has_features: whether there is a feature network; without one nothing is looked for in
            feature space.
    """
    study = config.study
    of_features = (
        Unit("neighbours", "features", 0, min(study.num_images, config.sample.num_images)),
        *Unit.cut("features", "train", num_train, FEATURE_IMAGES),
        *Unit.cut("features", "test", num_test, FEATURE_IMAGES),
    )
    bound = {
        "train": min(study.num_likelihood_images, num_train),
        "test": min(study.num_likelihood_images, num_test),
    }
    shown = min(study.num_shown, num_test)
    has_flow = flow_refusal(config) is None
    num_ode = min(study.num_ode_images, num_test) if has_flow else 0
    return [
        *_ddim_units(config, num_test),
        *Unit.cut("ode", "adaptive", num_ode, study.batch_size),
        *Unit.cut("ode", "heun", num_ode, study.batch_size),
        *Unit.cut("progress", "ancestral", study.num_images, study.batch_size),
        *(unit for split, total in bound.items()
          for unit in Unit.cut("bound", split, total, study.batch_size)),
        *(unit for setting in sorted(swept(config)[0], key=lambda one: -one.num_steps)
          for unit in Unit.cut("sweep", setting.name, study.num_images, study.batch_size)),
        Unit("latents", "quarters", 0, study.num_shown),
        *([Unit("mixes", "pairs", 0, shown), Unit("depths", "pair", 0, 2)] if num_test > 1 else []),
        *([Unit("round-trip", "ddim", 0, shown)] if has_flow else []),
        Unit("decoding", "test", 0, shown),
        Unit("neighbours", "pixels", 0, min(study.num_images, config.sample.num_images)),
        *(of_features if has_features else ()),
    ]  # fmt: skip


def _ddim_units(config: RunConfig, num_test: int) -> list[Unit]:
    study, shown = config.study, config.study.num_shown
    if not study.ddim_steps:
        return []
    return [
        *(unit for tau in TAUS
          for unit in Unit.cut(
              "reconstruction", tau, min(study.num_images, num_test), study.batch_size)),
        *(unit for cell in sorted(cells(config), key=lambda one: -one.num_steps)
          for unit in Unit.cut("ddim", cell.name, study.num_images, study.batch_size)),
        Unit("arcs", "slerp", 0, max(2, shown - shown % 2)),
    ]  # fmt: skip


def uses_network(unit: Unit) -> bool:
    """Return whether the result of a unit depends on the feature network, where there is one."""
    of_features = (unit.kind, unit.part) == ("neighbours", "features")
    return of_features or unit.kind in ("sweep", "progress", "features", "ddim")
