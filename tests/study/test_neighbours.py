import pytest
import torch

from ddpm_core.errors import ConfigError
from ddpm_core.study import neighbours
from ddpm_core.study.neighbours import memorisation, nearest


def levels(num: int, *shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (num, *shape), generator=generator, dtype=torch.uint8)


def numbers(num: int, dim: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(num, dim, generator=torch.Generator().manual_seed(seed))


def by_hand(queries: torch.Tensor, references: torch.Tensor) -> torch.Tensor:
    """Return all distances (n, m) from the differences themselves."""
    a, b = queries.flatten(1).double(), references.flatten(1).double()
    return (a[:, None] - b).square().sum(-1).sqrt()


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(neighbours, "_QUERY_ROWS", 4)
    monkeypatch.setattr(neighbours, "_REFERENCE_ROWS", 7)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("k", [1, 3, 30])
def test_neighbours_are_those_of_all_distances_whatever_the_chunks(k):
    """Catches: indices within a chunk, only the last chunk's, a chunk smaller than k, a sum for a
    root."""
    queries, references = levels(10, 2, 3, 3), levels(30, 2, 3, 3, seed=1)
    expected, order = by_hand(queries, references).sort(dim=1, stable=True)
    found = nearest(queries, [references], k=k)
    assert torch.equal(found.index, order[:, :k])
    torch.testing.assert_close(found.distance, expected[:, :k])


def test_chunks_do_not_show_in_the_last_bit(monkeypatch):
    """Catches: distances from the matrix product, whose rounding depends on its size."""
    queries, references = numbers(9, 64), numbers(50, 64, seed=1)
    whole = nearest(queries, [references], k=5)
    monkeypatch.setattr(neighbours, "_QUERY_ROWS", 2)
    monkeypatch.setattr(neighbours, "_REFERENCE_ROWS", 3)
    cut = nearest(queries, [references], k=5)
    assert torch.equal(whole.index, cut.index)
    assert torch.equal(whole.distance, cut.distance)


@pytest.mark.usefixtures("small_chunks")
def test_a_copy_is_0_away_and_of_two_the_first_is_named():
    """Catches: what cancellation leaves, ties by chance."""
    references = numbers(30, 5).mul(1e3).add(1e6)
    references[20] = references[3]
    found = nearest(references[[20, 8]], [references], k=2)
    assert found.index[:, 0].tolist() == [3, 8]
    assert int(found.index[0, 1]) == 20
    assert found.distance[:, 0].tolist() == [0, 0]
    assert float(found.distance[0, 1]) == 0


def test_levels_are_not_counted_modulo_256_and_large_images_not_rounded():
    """Catches: differences of uint8, and squares in float32, which are exact up to 2**24 only."""
    zero, white = torch.zeros(1, 3, 32, 32, dtype=torch.uint8), torch.full((1, 3, 32, 32), 255)
    one_off = white.clone()
    one_off[0, 0, 0, 0] = 254
    found = nearest(zero, [torch.cat([white, one_off]).to(torch.uint8)], k=2)
    assert found.index.tolist() == [[1, 0]]
    expected = [(3071 * 255**2 + 254**2) ** 0.5, 3072**0.5 * 255]
    assert found.distance[0].tolist() == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize(
    ("queries", "references", "k"),
    [
        (levels(2, 3), levels(5, 4), 1),
        (levels(2, 3), levels(5, 3), 6),
        (levels(2, 3), levels(5, 3), 0),
    ],
)
def test_what_has_no_neighbours_is_refused(queries, references, k):
    """Catches: fewer neighbours than asked for, without a word."""
    with pytest.raises(ConfigError, match=f"k={k} neighbours"):
        nearest(queries, [references], k=k)


class Counted:
    """References in parts of the sizes given, which counts how often they are gone through."""

    def __init__(self, references: torch.Tensor, sizes: list[int]) -> None:
        self.parts, self.num_passes = torch.split(references, sizes), 0

    def __iter__(self):
        self.num_passes += 1
        return iter(self.parts)


@pytest.mark.parametrize("sizes", [[50], [1] * 50, [7, 43], [13, 0, 20, 17]])
def test_parts_do_not_show_in_the_last_bit(sizes, monkeypatch):
    """Catches: chunks cut where a part ends, whose squares round otherwise; indices within a part;
    rows lost where a chunk begins within a part; of copies in two parts the later one."""
    monkeypatch.setattr(neighbours, "_REFERENCE_ROWS", 7)
    seen = []
    add = neighbours._Search.add

    def recorded(search, first, chunk):
        seen.append((first, len(chunk)))
        add(search, first, chunk)

    monkeypatch.setattr(neighbours._Search, "add", recorded)
    references = numbers(50, 64, seed=1)
    references[[20, 41]] = references[[3, 3]]
    queries = torch.cat([numbers(9, 64), references[[3]]])
    whole = nearest(queries, [references], k=5)
    seen.clear()
    parts = nearest(queries, Counted(references, sizes), k=5)
    assert seen == [(first, min(7, 50 - first)) for first in range(0, 50, 7)]
    assert torch.equal(whole.index, parts.index)
    assert torch.equal(whole.distance, parts.distance)
    assert parts.index[9, :3].tolist() == [3, 20, 41]
    assert parts.distance[9, :3].tolist() == [0, 0, 0]


def test_many_searches_go_through_the_references_together(monkeypatch):
    """Catches: a pass for each search, and queries of any number in memory; results exchanged."""
    references = Counted(numbers(30, 8, seed=1), [11, 19])
    searches = [(numbers(5, 8, seed=seed), k) for seed, k in ((2, 1), (3, 4), (4, 2), (5, 1))]
    expected = [nearest(queries, references.parts, k=k) for queries, k in searches]
    asked = []

    def asked_for():
        for search in searches:
            asked.append(references.num_passes)
            yield search

    for most, passes, before in ((4, 1, [0] * 4), (2, 2, [0, 0, 0, 1]), (0, 4, [0, 0, 1, 2])):
        monkeypatch.setattr(neighbours, "_GROUP_BYTES", most * 5 * 8 * 4)
        references.num_passes = 0
        asked.clear()
        found = neighbours.nearest_of_each(asked_for(), references)
        assert references.num_passes == passes
        assert asked == before
        for one, other in zip(found, expected, strict=True):
            assert torch.equal(one.index, other.index)
            assert torch.equal(one.distance, other.distance)


def test_chunks_of_long_rows_are_small(monkeypatch):
    """Catches: 4096 images of 256x256 pixels in float64 at a time, and 256 x 8 of those found."""
    queries, references = levels(20, 3, 4), levels(40, 3, 4, seed=1)
    expected, order = by_hand(queries, references).sort(dim=1, stable=True)
    monkeypatch.setattr(neighbours, "_CHUNK_BYTES", 16 * 8 * 12)
    seen = set()
    add = neighbours._Nearest.add

    def recorded(chunk, first, b, b_square):
        seen.add((len(chunk._queries), len(b)))
        add(chunk, first, b, b_square)

    monkeypatch.setattr(neighbours._Nearest, "add", recorded)
    found = nearest(queries, [references], k=4)
    assert seen == {(4, 16), (4, 8)}
    assert torch.equal(found.index, order[:, :4])
    torch.testing.assert_close(found.distance, expected[:, :4])


# -- memorisation ----------------------------------------------------------------------------------


def compared(samples, held_out, train, **options):
    """Return how near the samples are to the training rows, beside the held-out rows."""
    distances = (nearest(rows, [train]).distance[:, 0] for rows in (samples, held_out))
    return memorisation(*distances, **options)


def test_copies_are_counted_and_strangers_are_not():
    """Catches: distances to the held-out images, a quantile from the far end."""
    train, held_out = numbers(300, 4), numbers(200, 4, seed=1)
    copies = train[:30] + 1e-6
    strangers = numbers(70, 4, seed=2) + 10
    found = compared(torch.cat([copies, strangers]), held_out, train)
    assert found.share == 0.3
    assert found.expected == 0.01
    nearest_of_held_out = by_hand(held_out, train).min(dim=1).values
    torch.testing.assert_close(found.held_out, nearest_of_held_out)
    assert found.threshold == pytest.approx(float(nearest_of_held_out.quantile(0.01)), rel=1e-12)


def test_images_like_the_held_out_ones_have_about_the_expected_share():
    """Catches: a comparison that finds memory in any sample."""
    train = numbers(500, 4)
    found = compared(numbers(2000, 4, seed=2), numbers(2000, 4, seed=1), train, quantile=0.1)
    assert found.expected == pytest.approx(0.1, abs=1e-9)
    assert abs(found.share - 0.1) < 4 * found.standard_error
    assert found.standard_error == pytest.approx((0.1 * 0.9 / 2000) ** 0.5)
    told = found.as_json()
    assert (told["num_samples"], told["num_held_out"]) == (2000, 2000)
    assert told["median_samples"] == pytest.approx(float(found.samples.median()), rel=0.01)


@pytest.mark.parametrize("quantile", [0, 1, 1.5])
def test_a_quantile_outside_0_and_1_is_refused(quantile):
    """Catches: a threshold that no sample, or every sample, lies below."""
    with pytest.raises(ConfigError, match=f"quantile={quantile}"):
        memorisation(numbers(2, 1)[:, 0], numbers(2, 1)[:, 0], quantile=quantile)


@pytest.mark.gpu
def test_a_gpu_finds_the_neighbours_of_a_cpu(gpu):
    """Catches products in TF32, of which the nearest are no longer those; results left there."""
    queries, references = levels(40, 3, 8, 8, seed=1), levels(300, 3, 8, 8, seed=2)
    expected = nearest(queries, [references], k=5)
    found = nearest(queries.to(gpu), [references.to(gpu)], k=5)
    assert torch.equal(found.index, expected.index)
    torch.testing.assert_close(found.distance, expected.distance, rtol=1e-12, atol=0)
