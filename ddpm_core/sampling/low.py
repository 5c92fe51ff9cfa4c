"""What image i of a run of `model.low_size` is made of: sample i of another run, or held-out image
i, these in turn. A function of the configuration, what is there, and i alone.
"""

from functools import lru_cache
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddpm_core import seeding
from ddpm_core.conditioning import LowRes
from ddpm_core.config import RunConfig
from ddpm_core.diffusion.low_resolution import shrunk
from ddpm_core.errors import DataError
from ddpm_core.inference.low_resolution import LowResolutions
from ddpm_core.loading.loader import Images, to_unit_range
from ddpm_core.runs import refusals, results
from ddpm_core.runs.lower import lower_of
from ddpm_core.sampling import units
from ddpm_core.sampling.held_out import held_out_index, open_held_out
from ddpm_core.store.manifest import Manifest
from ddpm_core.store.storage import Store


class Enlarged:
    """The low resolutions of a run's samples.

    Args:
        store: where the runs lie.
        config: of the run.

    Raises:
        DataError: the samples that it enlarges are not there, or it has no held-out images.
    """

    def __init__(self, store: Store, config: RunConfig) -> None:
        self._store, self._config, self._make = store, config, LowResolutions(config)
        self._lower = lower_of(store, config)
        self._held_out: Images | None = None
        self._samples: Manifest | None = None
        if self._lower is None:
            self._held_out = open_held_out(store, held_out_index(store, config))
        else:
            self._samples = results.samples_of(store, self._lower)
            if self._samples is None:
                command = refusals.command_of(store, self._lower, "sample")
                raise DataError(
                    f"sample.low_from={config.sample.low_from!r}: the samples of run "
                    f"{self._lower.name!r} are not there; draw them first: {command}"
                )
        self._unit = lru_cache(maxsize=4)(self._read_unit)

    @classmethod
    def of(cls, store: Store, config: RunConfig) -> Self | None:
        """Return them; None of a run that enlarges nothing."""
        return None if config.model.low_size is None else cls(store, config)

    def sources(self, positions: Tensor) -> Tensor:
        """Return which of those that are enlarged the images at these positions are made of: of
        more images than there are of those, these from the first on again.
        """
        lower, held_out = self._lower, self._held_out
        if held_out is not None:
            return positions % len(held_out)
        if lower is None:
            raise TypeError("neither held-out images nor samples")
        return positions % lower.sample.num_images

    def at(self, positions: Tensor, *, seed: int, level: float | None = None) -> LowRes:
        """Return what the network is given of the images at these positions, on their device.

        Args:
            positions: (b,) int64.
            seed: of the noise on the low resolutions.
            level: of it, a share of the process; None: `sample.low_level`.
        """
        low = self._small(self.sources(positions).cpu().numpy()).to(positions.device)
        data, level = self._config.data, self._config.sample.low_level if level is None else level
        key = seeding.key(seed, "sample_low")
        eps = seeding.normal(key, 0, positions, data.shape)
        return self._make.given(low, self._make.level(level, low), eps)

    def _small(self, sources: NDArray[np.int64]) -> Tensor:
        """Return the low resolutions, (b, c, h, w) in [-1, 1] on the CPU."""
        if self._held_out is not None:
            images = self._held_out.take(sources)
            return shrunk(to_unit_range(images, torch.device("cpu")), self._make.size)
        lower = self._lower
        if lower is None:
            raise TypeError("neither held-out images nor samples")
        places = [divmod(int(one), lower.sample.unit_size) for one in sources]
        levels = np.stack([self._unit(number)[row] for number, row in places])
        return to_unit_range(torch.from_numpy(levels).permute(0, 3, 1, 2), torch.device("cpu"))

    def _read_unit(self, number: int) -> NDArray[np.uint8]:
        lower, samples = self._lower, self._samples
        if lower is None or samples is None:
            raise TypeError("these are no samples")
        unit = units.units_of(lower.sample)[number]
        return units.read_unit(self._store, samples, unit, lower.data.shape)
