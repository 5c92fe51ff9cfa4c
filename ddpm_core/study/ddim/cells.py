"""The cells of the DDIM paper's table 1: how much noise, which steps of the chain, and how many.

Source: Song et al. 2020, arXiv:2010.02502, section 5 and appendix D.
"""

from dataclasses import dataclass

from ddpm_core.config import RunConfig, SampleConfig
from ddpm_core.diffusion.choices import ChainSpacing, is_learned
from ddpm_core.study.settings import CLEAN

ETAS = ("0", "0.2", "0.5", "1")
"""of table 1; 0 is DDIM, 1 ancestral sampling with the smaller variance"""
SIGMA_HAT = "sigma-hat"
"""the last row of table 1: ancestral sampling with the larger variance"""
TAUS: dict[str, ChainSpacing] = {"linear": "linspace", "quadratic": "quadratic"}
"""the two choices of steps of appendix D.2; both begin at the chain's end"""


@dataclass(frozen=True)
class Cell:
    """Samples of one amount of noise, drawn in some steps of the chain."""

    noise: str
    """eta, or `SIGMA_HAT`"""
    tau: str
    num_steps: int
    sample: SampleConfig

    @property
    def name(self) -> str:
        return cell_name(self.noise, self.tau, self.num_steps)


def cell_name(noise: str, tau: str, num_steps: int) -> str:
    """Return what the units of a cell are called."""
    return f"{noise}-{tau}-{num_steps}"


def noises(config: RunConfig) -> list[str]:
    """Return the rows of the table: a network of a learned variance has no other to be given."""
    return [*ETAS, *([] if is_learned(config.diffusion.variance) else [SIGMA_HAT])]


def cells(config: RunConfig) -> list[Cell]:
    """Return all cells: row by row, by tau, by `study.ddim_steps`.

    With all steps of the chain there is nothing to choose: such a cell is called linear. Of the
    section `sample` stay clipping, arithmetic, labels and guidance.
    """
    found = []
    for noise in noises(config):
        for tau, spacing in TAUS.items():
            for num_steps in config.study.ddim_steps:
                if num_steps == config.diffusion.num_timesteps and tau != "linear":
                    continue
                changes = {**CLEAN, "clip_x_0": config.sample.clip_x_0, "spacing": spacing}
                changes |= {"num_steps": num_steps, "sampler": "ancestral"}
                if noise != SIGMA_HAT:
                    changes |= {"sampler": "ddim", "eta": float(noise)}
                sample = SampleConfig(**{**config.sample.model_dump(), **changes})
                found.append(Cell(noise, tau, num_steps, sample))
    return found
