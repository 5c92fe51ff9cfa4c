"""The samplers whose quality is set against their cost, each at several numbers of steps."""

from dataclasses import dataclass
from typing import Any

from ddpm_core.config import RunConfig, SampleConfig
from ddpm_core.diffusion.choices import require_samplable
from ddpm_core.errors import ConfigError

CLEAN = {"spacing": "trailing", "clip_x_0": True, "eta": 0.0, "ode_method": "heun", "churn": 0.0,
          "corrector_snr": 0.16, "ode_tolerance": 1e-5}  # fmt: skip
"""settings of every sampler below, where it does not name its own"""
_SAMPLERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ancestral": ("DDPM, respaced", {"sampler": "ancestral"}),
    "ddim": ("DDIM", {"sampler": "ddim"}),
    "ddim-leading": ("DDIM, leading", {"sampler": "ddim", "spacing": "leading"}),
    "sde": ("reverse SDE", {"sampler": "sde"}),
    "corrector": ("predictor–corrector", {"sampler": "predictor_corrector"}),
    # Without churn EDM's sampler is this one, on the same grid.
    "ode": ("probability flow, Heun", {"sampler": "ode"}),
    "heun-churn": ("EDM Heun, churn", {"sampler": "heun", "churn": 10.0}),
    "dpm": ("DPM-Solver++ 2M", {"sampler": "dpm_solver"}),
    "dpm-sde": ("SDE-DPM-Solver++ 2M", {"sampler": "sde_dpm_solver"}),
    "unipc": ("UniPC", {"sampler": "unipc"}),
}
"""key -> (name in the plot, what is set)"""


@dataclass(frozen=True)
class Setting:
    """A sampler at a number of steps."""

    key: str
    num_steps: int
    sample: SampleConfig

    @property
    def name(self) -> str:
        return f"{self.key}-{self.num_steps}"

    @property
    def label(self) -> str:
        """Of its curve."""
        return _SAMPLERS[self.key][0]


def flow_refusal(config: RunConfig) -> str | None:
    """Return why the run's model has no probability flow; None if it has."""
    diffusion = config.diffusion
    try:
        require_samplable(
            "ode",
            diffusion.prediction,
            diffusion.variance,
            num_steps=None,
            num_timesteps=diffusion.num_timesteps,
            ends_in_pure_noise=diffusion.ends_in_pure_noise,
        )
    except ConfigError as error:
        return str(error)
    return None


def swept(config: RunConfig) -> tuple[list[Setting], list[str]]:
    """Return the settings that can draw from the run's model, and why others cannot.

    Args:
        config: the run's; `study.swept_steps` are the numbers of steps.
    """
    settings, refused = [], []
    for key, (label, changes) in _SAMPLERS.items():
        for num_steps in config.study.swept_steps:
            values = {**CLEAN, **changes, "num_steps": num_steps}
            try:
                changed = config.replaced({f"sample.{k}": v for k, v in values.items()})
            except ConfigError as error:
                reason = str(error).splitlines()[-1].strip()
                refused.append(f"{label}, {num_steps} steps: {reason}")
            else:
                settings.append(Setting(key, num_steps, changed.sample))
    return settings, refused
