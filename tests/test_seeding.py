"""Counter-based randomness against known answers, its distribution, and its independence."""

import math

import pytest
import torch
from torch.nn.functional import dropout

from ddpm_core import seeding

KEY = seeding.key(0, "noise")


def philox_of(counter: tuple[int, ...], key: tuple[int, int]) -> list[int]:
    words = seeding.philox(tuple(torch.tensor([word]) for word in counter), key)
    return [int(word) for word in words]


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0,) * 4, (0,) * 2, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        (
            (0xFFFFFFFF,) * 4,
            (0xFFFFFFFF,) * 2,
            (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
        ),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_known_answers_of_random123(counter, key, expected):
    """Catches any wrong constant, shift, order of words or number of rounds."""
    assert philox_of(counter, key) == list(expected)


def test_random_words_use_the_documented_counter():
    """Catches swapped counter words: (block, position low, position high, step)."""
    position = 5 + (7 << 32)
    words = seeding.random_words((11, 12), 9, torch.tensor([position]), 6)
    first, second = philox_of((0, 5, 7, 9), (11, 12)), philox_of((1, 5, 7, 9), (11, 12))
    assert words.tolist() == [(first + second)[:6]]
    assert words.dtype == torch.int64


def test_key_is_pinned_for_ever():
    """Catches a change of the spelling that is hashed: every published run would change."""
    assert seeding.key(0, "noise") == (512500913, 730068698)
    assert seeding.key(2**63 - 1, "order", 3) == (3871034587, 2679147383)


def test_key_spells_its_words_apart():
    """Catches concatenation without a separator, and arguments that are left out."""
    keys = [
        seeding.key(1, "noise"),
        seeding.key(2, "noise"),
        seeding.key(1, "flip"),
        seeding.key(1, "noise", 2, 3),
        seeding.key(1, "noise", 23),
        seeding.key(1, "noise", 3, 2),
        seeding.key(12, "noise", 3),
    ]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("shape", [(), (1,), (3, 5, 7), (1, 32, 32)])
def test_normal_rows_do_not_depend_on_their_neighbours(shape):
    """Catches numbers drawn in sequence, and vector code that rounds by place in memory."""
    positions = torch.tensor([3, 1_000_000_007, 0, 2**40 + 1, 17, 4, 9])
    together = seeding.normal(KEY, 5, positions, shape)
    assert together.shape == (7, *shape)
    order = torch.tensor([6, 2, 0, 5])
    assert torch.equal(seeding.normal(KEY, 5, positions[order], shape), together[order])
    for row, position in zip(together, positions, strict=True):
        assert torch.equal(seeding.normal(KEY, 5, position[None], shape)[0], row)


def test_normal_does_not_depend_on_the_number_of_threads():
    """Catches functions whose rounding depends on where the threads cut the array."""
    threads = torch.get_num_threads()
    results = []
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            results.append(seeding.normal(KEY, 5, torch.arange(37), (1, 31, 33)))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_the_root_of_the_radius_is_rounded_exactly():
    """Catches torch's own root on a CPU, which is off by the last bit for 1 % of all numbers: then
    a CPU and a GPU, and CPUs of two makers, draw other normal numbers."""
    squares = torch.linspace(0, 44.4, 20011, dtype=torch.float64)
    expected = [math.sqrt(square) for square in squares.tolist()]
    assert seeding._root(squares.clone()).tolist() == expected


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_normal_is_the_same_on_the_gpu(dtype, gpu):
    """Catches operations that CPU and GPU round differently, such as log, cos or fused ones."""
    positions = torch.arange(100)
    on_gpu = seeding.normal(KEY, 5, positions.to(gpu), (3, 32, 32), dtype=dtype)
    assert on_gpu.device.type == gpu.type
    assert torch.equal(on_gpu.cpu(), seeding.normal(KEY, 5, positions, (3, 32, 32), dtype=dtype))


@pytest.mark.gpu
@pytest.mark.parametrize(
    "draw",
    [
        lambda at: seeding.uniform_int(KEY, 3, at, 1000),
        lambda at: seeding.coin(KEY, 3, at),
        lambda at: seeding.uniform(KEY, 3, at, (3, 5)),
        lambda at: seeding.signs(KEY, 3, at, (3, 5)),
    ],
    ids=["uniform_int", "coin", "uniform", "signs"],
)
def test_the_other_numbers_are_the_same_on_the_gpu(draw, gpu):
    """Catches a division by a number, which a GPU does as a product with its inverse."""
    positions = torch.tensor([0, 7, 2**33 + 5, 2**40])
    assert torch.equal(draw(positions.to(gpu)).cpu(), draw(positions))


@pytest.mark.gpu
def test_seed_dropout_repeats_a_step_on_the_gpu(gpu):
    """Catches masks drawn from a generator of the CPU, or of another GPU."""
    masks = []
    for _ in range(2):
        seeding.seed_dropout(7, 3, 0, gpu)
        masks.append(dropout(torch.ones(1000, device=gpu), 0.5))
    assert torch.equal(*masks)
    assert not torch.equal(masks[0], dropout(torch.ones(1000, device=gpu), 0.5))


def test_normal_is_box_muller_of_the_words():
    """Catches a wrong logarithm, cosine or sine; the tolerance is theirs, 1e-14, with room."""
    positions = torch.arange(1000)
    words = seeding.random_words(KEY, 2, positions, 8).double().unflatten(1, (-1, 2))
    radius = (-2 * ((words[..., 0] + 1) / 2**32).log()).sqrt()
    angle = (words[..., 1] + 0.5) * (2 * math.pi / 2**32)
    expected = torch.stack([radius * angle.cos(), radius * angle.sin()], dim=-1).flatten(1)
    numbers = seeding.normal(KEY, 2, positions, (8,), dtype=torch.float64)
    torch.testing.assert_close(numbers, expected, rtol=0, atol=1e-12)


def test_normal_in_float32_is_the_rounded_float64():
    """Catches intermediate float32, which would lose the tail of the distribution."""
    positions = torch.arange(50)
    exact = seeding.normal(KEY, 2, positions, (9,), dtype=torch.float64)
    assert torch.equal(seeding.normal(KEY, 2, positions, (9,)), exact.float())


def test_normal_is_distributed_normally():
    """Catches wrong scale, skew or tails: moments within 5 standard errors, and KS at p = 0.001."""
    numbers = seeding.normal(KEY, 0, torch.arange(1024), (1024,), dtype=torch.float64).flatten()
    n = numbers.numel()
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96), (6, 15, 10170)):
        error = float(numbers.pow(power).mean()) - moment
        assert abs(error) < 5 * math.sqrt(variance / n), power
    cdf = torch.special.ndtr(numbers.sort().values)
    steps = torch.arange(n + 1, dtype=torch.float64) / n
    distance = torch.maximum((steps[1:] - cdf).abs().max(), (cdf - steps[:-1]).abs().max())
    assert float(distance) < 1.95 / math.sqrt(n)
    assert 4.2 < float(numbers.abs().max()) < 6.67


def test_normal_is_finite_at_the_extreme_words():
    """Catches log 0 at the smallest word, and a largest magnitude other than documented."""
    words = torch.tensor([0, 1, 2**31, 2**32 - 2, 2**32 - 1])
    radius = seeding._radius(words)
    assert bool(radius.isfinite().all())
    assert float(radius[0]) == pytest.approx(math.sqrt(2 * 32 * math.log(2)), rel=1e-14)
    assert float(radius[-1]) == 0


def test_streams_of_other_purpose_step_or_position_are_uncorrelated():
    """Catches an ignored key, step or position, and shifted copies of one stream."""
    positions = torch.arange(64)
    base = seeding.normal(KEY, 5, positions, (256,))
    others = [
        seeding.normal(seeding.key(0, "sample_noise"), 5, positions, (256,)),
        seeding.normal(seeding.key(1, "noise"), 5, positions, (256,)),
        seeding.normal(KEY, 6, positions, (256,)),
        seeding.normal(KEY, 5, positions + 64, (256,)),
        seeding.normal(KEY, 5, positions + (1 << 32), (256,)),
        base.roll(1, 0),
        base.roll(1, 1),
        base.roll(4, 1),
    ]
    for other in others:
        assert abs(float((base * other).mean())) < 5 / math.sqrt(base.numel())
        assert not torch.equal(base, other)


def test_uniform_int_is_uniform_and_stays_below_high():
    """Catches `% 2**k` habits and off-by-one ends: all of 0..999 occur, chi-square within 5 sd."""
    numbers = seeding.uniform_int(KEY, 3, torch.arange(200_000), 1000)
    counts = torch.bincount(numbers, minlength=1000).double()
    assert counts.numel() == 1000
    assert float(counts.min()) > 0
    chi_square = float(((counts - 200) ** 2 / 200).sum())
    assert abs(chi_square - 999) < 5 * math.sqrt(2 * 999)


def test_uniform_int_and_coin_are_read_off_the_first_word():
    """Catches another mapping, as uniform as this one: every published run would change."""
    positions = torch.arange(100)
    word = seeding.random_words(KEY, 3, positions, 1)[:, 0]
    for high in (1, 1000, 2**31):
        expected = [int(value) * high // 2**32 for value in word]
        assert seeding.uniform_int(KEY, 3, positions, high).tolist() == expected
    assert torch.equal(seeding.coin(KEY, 3, positions), word >= 2**31)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_uniform_and_signs_are_read_off_the_words(dtype):
    """Catches another mapping, numbers of 1, and signs of 0; rows know no neighbours."""
    positions = torch.tensor([5, 2**40, 7])
    words = seeding.random_words(KEY, 3, positions, 6)
    uniform = seeding.uniform(KEY, 3, positions, (2, 3), dtype=dtype)
    expected = [[(int(word) >> 8) / 2**24 for word in row] for row in words]
    assert uniform.flatten(1).tolist() == expected
    signs = seeding.signs(KEY, 3, positions, (2, 3), dtype=dtype)
    expected = [[1.0 if int(word) >= 2**31 else -1.0 for word in row] for row in words]
    assert signs.flatten(1).tolist() == expected
    assert uniform.dtype == signs.dtype == dtype
    assert torch.equal(seeding.uniform(KEY, 3, positions[1:2], (2, 3), dtype=dtype), uniform[1:2])


def test_uniform_stays_below_1_in_float32(monkeypatch):
    """Catches rounding up: a pixel dequantised by 1 would be in the next level's bin."""
    words = torch.tensor([[0, 2**32 - 1]])
    monkeypatch.setattr(seeding, "random_words", lambda *_: words)
    numbers = seeding.uniform(KEY, 3, torch.arange(1), (2,), dtype=torch.float32)
    assert numbers.tolist() == [[0.0, 1 - 2**-24]]


def test_uniform_int_reaches_the_ends_of_the_largest_range():
    """Catches an overflow of int64 in the product."""
    numbers = seeding.uniform_int(KEY, 3, torch.arange(100_000), 2**31)
    assert 0 <= int(numbers.min()) < 10**5
    assert 2**31 - 10**5 < int(numbers.max()) < 2**31


@pytest.mark.parametrize("high", [0, -1, 2**31 + 1])
def test_uniform_int_refuses_an_impossible_range(high):
    """Catches a silent wrap-around."""
    with pytest.raises(ValueError, match=r"must be in 1 \.\.\. 2\*\*31"):
        seeding.uniform_int(KEY, 0, torch.arange(2), high)


@pytest.mark.parametrize("step", [-1, 2**32])
def test_a_step_that_does_not_fit_the_counter_is_refused(step):
    """Catches masking, which would make step 2**32 repeat step 0."""
    with pytest.raises(ValueError, match="step="):
        seeding.normal(KEY, step, torch.arange(2), (3,))


def test_coin_is_fair():
    """Catches a threshold other than the middle; within 5 standard errors."""
    coins = seeding.coin(KEY, 3, torch.arange(100_000))
    assert coins.dtype == torch.bool
    assert abs(float(coins.double().mean()) - 0.5) < 5 * 0.5 / math.sqrt(100_000)


def test_generator_is_a_function_of_its_arguments():
    """Catches arguments that are ignored."""
    first = torch.rand(4, generator=seeding.generator(0, "init"))
    assert torch.equal(first, torch.rand(4, generator=seeding.generator(0, "init")))
    for other in (
        seeding.generator(1, "init"),
        seeding.generator(0, "features"),
        seeding.generator(0, "init", 1),
    ):
        assert not torch.equal(first, torch.rand(4, generator=other))


def test_seed_dropout_repeats_a_step_and_no_other():
    """Catches masks that depend on history, and steps or ranks that share one."""
    before = torch.get_rng_state()
    try:
        masks = {}
        for step, rank in ((0, 0), (1, 0), (0, 1)):
            seeding.seed_dropout(7, step, rank, torch.device("cpu"))
            masks[step, rank] = dropout(torch.ones(1000), 0.5)
        seeding.seed_dropout(7, 0, 0, torch.device("cpu"))
        assert torch.equal(dropout(torch.ones(1000), 0.5), masks[0, 0])
        assert not torch.equal(masks[0, 0], masks[1, 0])
        assert not torch.equal(masks[0, 0], masks[0, 1])
    finally:
        torch.set_rng_state(before)


def test_only_seed_dropout_touches_the_default_generator():
    """Catches a hidden draw from global state."""
    before = torch.get_rng_state()
    positions = torch.arange(4)
    seeding.normal(KEY, 0, positions, (5,))
    seeding.uniform_int(KEY, 0, positions, 10)
    seeding.coin(KEY, 0, positions)
    torch.rand(3, generator=seeding.generator(0, "init"))
    assert torch.equal(before, torch.get_rng_state())


def test_normal_never_waits_for_its_device():
    """Catches `.item()` and the like: on the meta device there is no value to wait for."""
    positions = torch.empty(4, dtype=torch.int64, device="meta")
    assert seeding.normal(KEY, 0, positions, (3, 5)).shape == (4, 3, 5)
    assert seeding.uniform_int(KEY, 0, positions, 9).shape == (4,)
