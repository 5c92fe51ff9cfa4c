"""How an image is edited: from which noise, and around which known pixels.

Source: Meng et al. 2022, arXiv:2108.01073 (SDEdit: from a depth); Lugmayr et al. 2022,
arXiv:2201.09865 (RePaint); and of what is replaced at each step `diffusion.wrappers.pinning`.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ddpm_core import seeding
from ddpm_core.conditioning import Conditioning, Known, LowRes
from ddpm_core.config import RunConfig, SampleConfig
from ddpm_core.diffusion.denoiser import Denoiser, NetworkDenoiser
from ddpm_core.diffusion.paths.path import chain_of
from ddpm_core.diffusion.paths.spacing import choose_timesteps
from ddpm_core.diffusion.samplers.ancestral import OnStep
from ddpm_core.diffusion.samplers.repaint import repaint_sample
from ddpm_core.diffusion.wrappers.pinning import Pinned
from ddpm_core.diffusion.wrappers.respacing import respaced
from ddpm_core.diffusion.wrappers.shortened import shortened, start_of
from ddpm_core.errors import ConfigError
from ddpm_core.inference.build import require_guidance
from ddpm_core.inference.denoiser import Guide
from ddpm_core.inference.low_resolution import LowResolutions
from ddpm_core.sampling.guided import guided
from ddpm_core.sampling.sampler import Noise, num_steps_of, run_sampler

Name = Literal["replacement", "repaint"]
_MAX_RESAMPLINGS = 1000
"""hours for one small image; all levels are listed beforehand"""


@dataclass(frozen=True)
class Method:
    """What is done, beside the section `sample`."""

    name: Name = "replacement"
    """of what is known: its pixels replaced in each prediction, or RePaint"""
    strength: float | None = None
    """the depth from which the image is made anew, as a share of the path, in (0, 1]; None: from
    noise alone"""
    jump_length: int = 10
    """of repaint, in steps"""
    num_resamplings: int = 10
    """of repaint"""

    def require_possible(self, config: RunConfig) -> None:
        """Refuse what goes with no such sampler or depth.

        Raises:
            ConfigError: saying which setting, and what to give.
        """
        sample, num_timesteps = config.sample, config.diffusion.num_timesteps
        if self.strength is not None and not 0 < self.strength <= 1:
            raise ConfigError(
                f"strength {self.strength:g} must be above 0 and at most 1: the share of the way "
                "to noise that the image goes back"
            )
        is_whole = num_steps_of(sample, num_timesteps) == num_timesteps
        if self.strength is not None and sample.spacing == "leading" and not is_whole:
            raise ConfigError(
                "sample.spacing=leading leaves out the end of the path, where an edit by strength "
                "begins; set sample.spacing=trailing"
            )
        if self.name == "repaint":
            if sample.sampler != "ancestral":
                raise ConfigError(
                    f"--method repaint takes ancestral steps, and sample.sampler={sample.sampler} "
                    "takes others; give --set sample.sampler=ancestral, or --method replacement"
                )
            depth = (
                num_timesteps if self.strength is None else depth_of(self.strength, num_timesteps)
            )
            steps = num_steps_at(sample, num_timesteps, depth)
            if not 1 <= self.jump_length < steps:
                raise ConfigError(
                    f"--jump {self.jump_length} must be at least 1 and less than the {steps} steps "
                    "that are taken, else it never goes back"
                )
            if not 1 <= self.num_resamplings <= _MAX_RESAMPLINGS:
                raise ConfigError(
                    f"--resamplings {self.num_resamplings} must be from 1 to {_MAX_RESAMPLINGS}"
                )

    def about(self, sample: SampleConfig, num_timesteps: int) -> dict[str, Any]:
        """Return what a result says of it, as JSON values."""
        said: dict[str, Any] = {"method": self.name}
        if self.strength is not None:
            depth = depth_of(self.strength, num_timesteps)
            said |= {"strength": self.strength, "depth": depth}
            if not sample.is_adaptive:
                said["steps_from_there"] = num_steps_at(sample, num_timesteps, depth)
        if self.name == "repaint":
            said |= {"jump_length": self.jump_length, "num_resamplings": self.num_resamplings}
        return said


def depth_of(strength: float, num_timesteps: int) -> int:
    """Return how many steps of the chain a share of it is: at least 2."""
    return max(2, round(strength * num_timesteps))


def num_steps_at(sample: SampleConfig, num_timesteps: int, depth: int) -> int:
    """Return how many steps are taken from a depth on: as densely as over the whole chain."""
    taken = num_steps_of(sample, num_timesteps)
    return depth if taken == num_timesteps else max(2, round(taken * depth / num_timesteps))


def require_guided(config: RunConfig, strength: float | None) -> None:
    """Refuse an interval of guidance in which none of the edit's steps lies.

    Raises:
        ConfigError: with the noise levels that there are.
    """
    sample, num_timesteps = config.sample, config.diffusion.num_timesteps
    if strength is None:
        require_guidance(config)
    else:
        depth = depth_of(strength, num_timesteps)
        steps = num_steps_at(sample, num_timesteps, depth)
        require_guidance(config, depth=depth, num_steps=steps)


def followed(
    denoiser: NetworkDenoiser, guide: Guide | None, given: Conditioning, sample: SampleConfig
) -> Denoiser:
    """Return the denoiser that an edit follows, guided and thresholded as `sample` says.

    Args:
        denoiser: of the run, which knows what is known of the images.
        guide: weights that guide it, which know the same.
        given: labels or texts of the images; without parts they are of nothing.
        sample: the section.

    Raises:
        ConfigError: as `guided`.
    """
    denoiser = denoiser.given_nothing()
    guide = guide.given_nothing() if isinstance(guide, NetworkDenoiser) else guide
    # Not every step of the chain is taken, or not from its end.
    return guided(denoiser, given, sample, guide, form="eps")


def low_of(low: Tensor, positions: Tensor, config: RunConfig, *, level: float, seed: int) -> LowRes:
    """Return what a network that enlarges is given of low resolutions (b, c, h, w) in [-1, 1].

    Args:
        low: of the images.
        positions: (b,) numbers by which their noise is keyed.
        config: of the run.
        level: of that noise, a share of the process.
        seed: likewise.
    """
    make, key = LowResolutions(config), seeding.key(seed, "edit", 3)
    eps = seeding.normal(key, 0, positions, config.data.shape)
    return make.given(low, make.level(level, low), eps)


@torch.inference_mode()
def edit_images(
    denoiser: Denoiser,
    images: Tensor,
    known: Known | None,
    positions: Tensor,
    *,
    method: Method,
    sample: SampleConfig,
    seed: int,
    on_step: OnStep | None = None,
) -> Tensor:
    """Return images made anew: a function of image, mask, seed and position, of no batch.

    Args:
        denoiser: of these images, on the whole chain.
        images: (b, c, h, w) in [-1, 1]; where they are not known, anything, but with a strength.
        known: what is kept of them; None: nothing pixel by pixel.
        positions: (b,) numbers by which the noise of each is keyed.
        method: how.
        sample: the sampler and its settings.
        seed: of the noise.
        on_step: called after each step, as by the samplers.

    Returns:
        x_0 in the arithmetic of `sample`; where it is known, the known values exactly.
    """
    dtype = torch.float64 if sample.state == "float64" else torch.float32
    shape = tuple(images.shape[1:])
    start_key, key = seeding.key(seed, "edit", 0), seeding.key(seed, "edit", 1)

    def noise(number: int) -> Tensor:
        return seeding.normal(key, number, positions, shape, dtype=dtype)

    state = seeding.normal(start_key, 0, positions, shape, dtype=dtype)
    num_timesteps = chain_of(denoiser.path).num_timesteps
    if method.strength is not None:
        depth = depth_of(method.strength, num_timesteps)
        if not sample.is_adaptive:
            steps = num_steps_at(sample, num_timesteps, depth)
            sample = sample.model_copy(update={"num_steps": steps})
        denoiser = shortened(denoiser, depth)
        start = start_of(denoiser, images.to(dtype), state)
        state = start.heun_state if sample.sampler == "heun" else start.state
    if known is not None and method.name == "repaint":
        return _repaint(denoiser, state, known, noise, method, sample, on_step)
    if known is None:
        return run_sampler(denoiser, sample, state, noise, on_step)
    return known.into(run_sampler(Pinned(denoiser, known), sample, state, noise, on_step))


def _repaint(
    denoiser: Denoiser,
    state: Tensor,
    known: Known,
    noise: Noise,
    method: Method,
    sample: SampleConfig,
    on_step: OnStep | None,
) -> Tensor:
    num_timesteps = chain_of(denoiser.path).num_timesteps
    taken = num_steps_of(sample, num_timesteps)
    if taken < num_timesteps and sample.spacing != "karras":  # not of an ancestral sampler
        denoiser = respaced(denoiser, choose_timesteps(sample.spacing, num_timesteps, taken))
    return repaint_sample(
        denoiser,
        state,
        known=Known(known.values.to(state.dtype), known.mask),
        noise=noise,
        jump_length=method.jump_length,
        num_resamplings=method.num_resamplings,
        clip_x_0=sample.clip_x_0,
        on_step=on_step,
    )
