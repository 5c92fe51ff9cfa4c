"""How large what a configuration says may be; beyond, a slip of the keys is more likely."""

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ddpm_core.config.run import RunConfig

_MAX_PARAMETERS = 2 * 10**10
"""Each worker holds the whole network, and 20 bytes for each parameter: 400 GB at the bound. The
largest of the paper has 2.6 * 10**8."""
_MAX_PIXELS = 2**26
_MAX_BATCH_BYTES = 2**36


def _sizes_are_sane(config: "RunConfig") -> None:
    data, train = config.data, config.train
    if data.height * data.width > _MAX_PIXELS:
        raise ValueError(
            f"data.height={data.height} x data.width={data.width} is over {_MAX_PIXELS} "
            "pixels, more than a network of this kind can be trained on; lower them"
        )
    if config.num_parameters > _MAX_PARAMETERS:
        *first, last = (f"model.{key}" for key in config.model.size_keys)
        raise ValueError(
            f"the network of this model section has {config.num_parameters:.2g} parameters, over "
            f"{_MAX_PARAMETERS:.0e}, and every worker holds all of it; lower "
            f"{', '.join(first)} or {last}"
        )
    batch_bytes = train.global_batch_size * data.channels * data.height * data.width
    if batch_bytes // config.compute.num_workers > _MAX_BATCH_BYTES:
        raise ValueError(
            f"train.global_batch_size={train.global_batch_size} of images of {data.height}x"
            f"{data.width} is {batch_bytes / 2**30:.0f} GiB of pixels, over "
            f"{_MAX_BATCH_BYTES // 2**30} GiB for each of compute.num_workers="
            f"{config.compute.num_workers}; lower it or raise these"
        )


RULES: tuple[Callable[["RunConfig"], None], ...] = (_sizes_are_sane,)
