"""All randomness starts here: numbers that are functions of (key, step, position), not of history.

A generator that is drawn from in sequence makes the result depend on who drew before: on the
number of workers, the batch size, the last crash. Here every number is computed from a counter by
Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), so that row i of
a batch is the same whatever stands beside it, wherever and whenever it is computed.

The normal numbers use only operations that IEEE 754 rounds exactly (+, *, /, sqrt), in float64:
they are bit-equal on any number of threads, in any place of a batch, and on CPU and GPU.
"""

import hashlib
import math
from typing import Literal

import torch
from torch import Tensor

Purpose = Literal[
    "init",
    "order",
    "timesteps",
    "noise",
    "flip",
    "drop.label",
    "drop.text",
    "caption",
    "masking",
    "known",
    "low_level",
    "low_noise",
    "sample_low",
    "augment",
    "edit",
    "dropout",
    "sample_init",
    "sample_noise",
    "sample_label",
    "likelihood",
    "preview",
    "classifier",
    "features",
    "split",
    "study",
]
"""What a stream of numbers is for; streams of two purposes have nothing in common."""

Key = tuple[int, int]
"""Two words of 32 bits that name a stream."""

Step = int | Tensor
"""The step that numbers are drawn at, or (b,) int64: that of each row, whose range is not checked,
since that would wait for the device."""

_MASK_32 = 0xFFFFFFFF
# Multipliers and key increments of Philox4x32 (Salmon et al. 2011, table 2 and section 3.3).
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_INCREMENTS = (0x9E3779B9, 0xBB67AE85)
_NUM_ROUNDS = 10


def key(seed: int, purpose: Purpose, *words: int) -> Key:
    """Return the key of the stream of this purpose: a part of the SHA-256 of the arguments.

    Args:
        seed: the seed of the run, as its configuration gives it.
        purpose: what the numbers are for.
        words: whatever else distinguishes the stream, e.g. an epoch.
    """
    spelling = ":".join(["ddpm", str(int(seed)), purpose, *(str(int(word)) for word in words)])
    digest = hashlib.sha256(spelling.encode()).digest()
    return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:8], "little")


def random_words(key: Key, step: Step, positions: Tensor, num_words: int) -> Tensor:
    """Return uniform words of 32 bits; row i is a function of (key, step, positions[i]) alone.

    Args:
        key: the stream, see `key`.
        step: optimiser step or timestep, 0 ... 2**32 - 1; or that of each row.
        positions: (b,) integers >= 0: index in the global batch, or of the image.
        num_words: words per row; the first words do not depend on their number.

    Returns:
        (b, num_words) int64 in [0, 2**32), on the device of `positions`.

    Raises:
        ValueError: if `step` does not fit its word of the counter.
    """
    words = torch.stack(_blocks(key, step, positions, num_words), dim=-1)
    return words.flatten(1)[:, :num_words]


def normal(
    key: Key,
    step: Step,
    positions: Tensor,
    shape: tuple[int, ...],
    *,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Return standard normal numbers; row i is a function of (key, step, positions[i]) alone.

    The largest possible magnitude is 6.66 = sqrt(2 ln 2**32), exceeded by a true normal number
    once in 3.7e10.

    Args:
        key: the stream, see `key`.
        step: as in `random_words`.
        positions: (b,) as there.
        shape: shape of one row.
        dtype: of the result; the numbers are computed in float64 and rounded once.

    Returns:
        (b, *shape), on the device of `positions`.

    Raises:
        ValueError: if `step` does not fit its word of the counter.

    Source: Box and Muller 1958, on the words of Philox4x32-10.
    """
    num_numbers = math.prod(shape)
    words = _blocks(key, step, positions, num_numbers)
    rows = torch.empty((*words[0].shape, 4), dtype=dtype, device=positions.device)
    for pair in (0, 1):
        radius = _radius(words[2 * pair])
        cosine, sine = _cos_sin(words[2 * pair + 1])
        rows[..., 2 * pair] = cosine.mul_(radius)
        rows[..., 2 * pair + 1] = sine.mul_(radius)
    return rows.flatten(1)[:, :num_numbers].reshape(len(positions), *shape)


def uniform(
    key: Key,
    step: Step,
    positions: Tensor,
    shape: tuple[int, ...],
    *,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """Return numbers uniform on [0, 1), multiples of 2**-24; arguments as in `normal`.

    24 bits, so that float32 holds them exactly: rounded to it, a number could become 1.
    """
    words = random_words(key, step, positions, math.prod(shape))
    return ((words >> 8).to(dtype) * 2**-24).reshape(len(positions), *shape)


def signs(
    key: Key,
    step: Step,
    positions: Tensor,
    shape: tuple[int, ...],
    *,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """Return +1 and -1 with equal probability; arguments as in `normal`."""
    words = random_words(key, step, positions, math.prod(shape))
    return ((words >> 31).to(dtype) * 2 - 1).reshape(len(positions), *shape)


def uniform_int(key: Key, step: Step, positions: Tensor, high: int) -> Tensor:
    """Return (b,) int64 uniform on 0 ... high - 1; the probabilities differ by < high / 2**32.

    Args:
        key: the stream, see `key`.
        step: optimiser step, 0 ... 2**32 - 1.
        positions: (b,) integers >= 0: index in the global batch.
        high: number of values, 1 ... 2**31.

    Raises:
        ValueError: if `high` or `step` is out of its range.
    """
    if not 1 <= high <= 2**31:
        raise ValueError(f"high={high} must be in 1 ... 2**31")
    return (random_words(key, step, positions, 1)[:, 0] * high) >> 32


def coin(key: Key, step: Step, positions: Tensor) -> Tensor:
    """Return (b,) bool, True with probability 1/2; arguments as in `random_words`."""
    return random_words(key, step, positions, 1)[:, 0] >= 2**31


def generator(seed: int, purpose: Purpose, *words: int) -> torch.Generator:
    """Return a CPU generator for what is drawn once and in sequence: initial weights."""
    return torch.Generator().manual_seed(_joined(key(seed, purpose, *words)))


def seed_dropout(seed: int, step: int, rank: int, device: torch.device) -> None:
    """Seed torch's default generators, from which dropout draws; call before each step.

    Dropout offers no other generator, so this is the one place that touches them. It does not
    wait for the device.

    Args:
        seed: the seed of the run.
        step: optimiser step.
        rank: of this worker; dropout is the one thing that depends on it.
        device: where the network is.
    """
    value = _joined(key(seed, "dropout", step, rank))
    torch.default_generator.manual_seed(value)
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        torch.cuda.default_generators[index].manual_seed(value)


def _joined(key: Key) -> int:
    # The CPU's Mersenne twister reads the low 32 bits only; either word is uniform.
    return key[0] | key[1] << 32


def _blocks(
    key: Key, step: Step, positions: Tensor, num_words: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return four (b, blocks) tensors of words; the row is their interleaving."""
    num_blocks = (num_words + 3) // 4
    size = (len(positions), num_blocks)
    block = torch.arange(num_blocks, device=positions.device).expand(size).clone()
    place = positions.long()[:, None]
    low = (place & _MASK_32).expand(size).clone()
    high = (place >> 32 & _MASK_32).expand(size).clone()
    if isinstance(step, Tensor):
        steps = step[:, None].expand(size).clone()
    else:
        require_step(step)
        steps = torch.full_like(block, step)
    return philox((block, low, high, steps), key)


def require_step(step: int) -> None:
    """Refuse a step that does not fit its word of the counter.

    Raises:
        ValueError: with the range.
    """
    if not 0 <= step <= _MASK_32:
        raise ValueError(f"step={step} must be in 0 ... 2**32 - 1")


def philox(
    counter: tuple[Tensor, Tensor, Tensor, Tensor], key: Key
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return Philox4x32-10 of counters; the tensors given are overwritten.

    Args:
        counter: four int64 tensors of one shape, with values in [0, 2**32).
        key: two words.

    Returns:
        Four int64 tensors with values in [0, 2**32).

    Source: Salmon et al. 2011, section 3.3.
    """
    c_0, c_1, c_2, c_3 = counter
    key_0, key_1 = key
    for _ in range(_NUM_ROUNDS):
        # int64 products wrap modulo 2**64, so their bits are those of the unsigned product. The
        # bits above 32 that c_1 and c_3 carry are cut off when the next round reads them.
        product_0 = c_0 * _MULTIPLIERS[0]
        product_1 = c_2 * _MULTIPLIERS[1]
        c_1 ^= product_1 >> 32
        c_3 ^= product_0 >> 32
        c_0 = c_1.bitwise_xor_(key_0).bitwise_and_(_MASK_32)
        c_2 = c_3.bitwise_xor_(key_1).bitwise_and_(_MASK_32)
        c_1, c_3 = product_1, product_0
        key_0 = (key_0 + _KEY_INCREMENTS[0]) & _MASK_32
        key_1 = (key_1 + _KEY_INCREMENTS[1]) & _MASK_32
    return c_0, c_1.bitwise_and_(_MASK_32), c_2, c_3.bitwise_and_(_MASK_32)


def _radius(words: Tensor) -> Tensor:
    """Return sqrt(-2 ln u), u = (word + 1) / 2**32 in (0, 1], relative error < 1e-14."""
    mantissa, exponent = torch.frexp((words + 1).double())
    # Mantissa into [sqrt(1/2), sqrt(2)), where ln m = 2 artanh s, s = (m - 1)/(m + 1), |s| < 0.172.
    small = mantissa < math.sqrt(0.5)
    mantissa += mantissa * small
    exponent = exponent - 32 - small.to(exponent.dtype)
    s = (mantissa - 1).div_(mantissa.add_(1))
    log_mantissa = _polynomial(s * s, [2 / (2 * k + 1) for k in range(9)]).mul_(s)
    log_u = exponent.double().mul_(math.log(2)).add_(log_mantissa)
    return _root(log_u.mul_(-2))


def _root(squares: Tensor) -> Tensor:
    """Return the square roots of float64 0 or 1e-200 to 1e200 as IEEE 754 rounds them.

    Those of torch on a CPU are up to 0.503 ulp off, and so other numbers for 1 %. There
    a step of Newton's rule follows, with a residual that is exact (Dekker 1971).
    """
    root = squares.sqrt()
    if squares.device.type != "cpu":
        return root
    shifted = root * (2**27 + 1)
    high = shifted - (shifted - root)  # the upper half of its digits, whose square is exact
    low = root - high
    product = root * root
    below = (high * high).sub_(product).add_(high * low * 2).add_(low * low)
    residual = (squares - product).sub_(below)
    return root.add_(residual.div_((root * 2).clamp_min_(1e-300)))


def _cos_sin(words: Tensor) -> tuple[Tensor, Tensor]:
    """Return cosine and sine of 2 pi (word + 1/2) / 2**32, absolute error < 1e-14."""
    # The nearest quarter turn, and the angle from there, at most pi/4 to either side.
    shifted = words + 2**29
    angle = (shifted & (2**30 - 1)).double().sub_(2**29 - 0.5).mul_(math.pi / 2**31)
    square = angle * angle
    cosine = _polynomial(square, [(-1) ** k / math.factorial(2 * k) for k in range(9)])
    sine = _polynomial(square, [(-1) ** k / math.factorial(2 * k + 1) for k in range(9)])
    sine *= angle
    quarter = shifted >> 30
    odd = (quarter & 1).bool()
    # Quarter turns 0, 1, 2, 3, 4: (c, s), (-s, c), (-c, -s), (s, -c), (c, s).
    cosine, sine = torch.where(odd, sine, cosine), torch.where(odd, cosine, sine)
    return cosine.mul_(1 - (quarter + 1 & 2)), sine.mul_(1 - (quarter & 2))


def _polynomial(x: Tensor, coefficients: list[float]) -> Tensor:
    """Return sum_k coefficients[k] x**k by Horner's rule, multiplication and addition apart.

    A fused multiply-add rounds once instead of twice: whether it is used would show in the bits.
    """
    value = torch.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        value.mul_(x).add_(coefficient)
    return value
