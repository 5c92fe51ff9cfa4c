"""How many parameters a network has, by its configuration alone: known before torch is imported."""

from collections.abc import Iterator

from ddpm_core.config.model import ModelConfig

MAX_PARAMETERS = 2 * 10**10
"""Each worker holds the whole network, and 20 bytes for each parameter: 400 GB at the bound. The
largest of the paper has 2.6 * 10**8."""


def num_parameters(model: ModelConfig, *, in_channels: int, out_channels: int, height: int) -> int:
    """Return the parameters of `models.unet.UNet` for images of this height, in pixels."""
    base, embedding = model.base_channels, 4 * model.base_channels
    widths = [base * mult for mult in model.channel_mults]
    attends = [height // 2**level in model.attention_resolutions for level in range(len(widths))]
    total = _linear(base, embedding) + _linear(embedding, embedding)
    total += _conv(in_channels, base) + 2 * widths[0] + _conv(widths[0], out_channels)
    total += 2 * _block(widths[-1], widths[-1], embedding) + _attention(widths[-1])
    for level, num_in, width in _blocks(base, widths, model.num_res_blocks):
        total += _block(num_in, width, embedding)
        total += _attention(width) if attends[level] else 0
    # Each level but the lowest is halved at its end, and each but the highest doubled.
    return total + sum(_conv(w, w) for w in widths[:-1]) + sum(_conv(w, w) for w in widths[1:])


def _blocks(base: int, widths: list[int], num_res_blocks: int) -> Iterator[tuple[int, int, int]]:
    """Yield (level, input channels, output channels) of each block, down and up."""
    kept = [base]
    for level, width in enumerate(widths):
        for num_in in (kept[-1], *[width] * (num_res_blocks - 1)):
            yield level, num_in, width
        kept += [width] * (num_res_blocks + 1)
    kept.pop()  # the lowest level is not halved
    below = widths[-1]
    for level, width in reversed(list(enumerate(widths))):
        for num_in in (below, *[width] * num_res_blocks):
            yield level, num_in + kept.pop(), width
        below = width


def _block(num_in: int, num_out: int, embedding: int) -> int:
    shortcut = 0 if num_in == num_out else num_in * num_out + num_out
    norms = 2 * num_in + 2 * num_out
    return (
        norms
        + _conv(num_in, num_out)
        + _linear(embedding, num_out)
        + _conv(num_out, num_out)
        + shortcut
    )


def _attention(channels: int) -> int:
    return 2 * channels + 4 * _linear(channels, channels)


def _conv(num_in: int, num_out: int) -> int:
    return 9 * num_in * num_out + num_out


def _linear(num_in: int, num_out: int) -> int:
    return num_in * num_out + num_out
