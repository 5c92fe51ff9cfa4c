"""What sections must agree on where a network enlarges low resolutions (model.low_size)."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ddpm_core.config.run import RunConfig

_KEYS = (
    ("train", "low_levels"),
    ("sample", "low_from"),
    ("sample", "low_level"),
    ("evaluate", "num_enlarged_images"),
)
"""section and key of what is for networks of low resolutions alone"""


def low_resolutions_fit(config: "RunConfig") -> None:
    """Refuse low resolutions that are none, and settings of them without such a network."""
    size, data, kind = config.model.low_size, config.data, config.model.kind
    if size is None:
        _refuse_knobs(config)
        return
    given = f"model.low_size={list(size)}"
    if kind not in ("unet", "adm"):
        raise ValueError(
            f"{given} is given to a U-Net beside x_t, and model.kind={kind} has no place for it: "
            "leave it out, or set model.kind=unet or adm"
        )
    if config.diffusion.kind == "binomial":
        raise ValueError(
            f"{given} does not go with diffusion.kind=binomial, a chain of bits, which has no low "
            "resolution: leave it out"
        )
    own = (data.height, data.width)
    if size == own or size[0] > own[0] or size[1] > own[1]:
        raise ValueError(
            f"{given} must be smaller than the images, which have data.height={own[0]}, "
            f"data.width={own[1]}: neither side larger, and not both the same"
        )
    level, (least, most) = config.sample.low_level, config.train.low_levels
    if not least <= level <= most:
        raise ValueError(
            f"sample.low_level={level:g} is a noise that the network is not shown: that of "
            f"train.low_levels={[least, most]} goes from {least:g} to {most:g}; give a level "
            "between"
        )


def _refuse_knobs(config: "RunConfig") -> None:
    for name, key in _KEYS:
        section = getattr(config, name)
        value = getattr(section, key)
        if value != type(section).model_fields[key].default:
            shown = list(value) if isinstance(value, tuple) else value
            raise ValueError(
                f"{name}.{key}={shown} is a setting of networks that enlarge low resolutions, and "
                f"model.low_size is not given; leave {name}.{key} out, or give model.low_size"
            )
