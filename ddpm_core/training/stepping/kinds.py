"""What is trained, by the role of a run's network."""

from collections.abc import Mapping

from ddpm_core.config import Role, RunConfig
from ddpm_core.training.stepping.classifying import Classifying
from ddpm_core.training.stepping.contrasting import Contrasting
from ddpm_core.training.stepping.denoising import Denoising
from ddpm_core.training.stepping.masking import Masking
from ddpm_core.training.stepping.parallel import Parallel

_KINDS: Mapping[Role, type[Denoising]] = {
    "denoiser": Denoising,
    "classifier": Classifying,
    "clip": Contrasting,
    "text": Masking,
}


def training_of(config: RunConfig, parallel: Parallel) -> Denoising:
    """Return the training of a run as it is before the first step: the same on every rank."""
    return _KINDS[config.role](config, parallel)
