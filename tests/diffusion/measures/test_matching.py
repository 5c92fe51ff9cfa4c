"""Ranks of an image's own captions, against counting all orders of what is tied."""

from itertools import permutations

import pytest
import torch

from ddpm_core.conditioning import Conditioning
from ddpm_core.diffusion.denoiser import NetworkDenoiser
from ddpm_core.diffusion.measures.classification import class_errors
from ddpm_core.diffusion.measures.matching import match
from ddpm_core.errors import ConfigError
from ddpm_core.text.tokens import encode
from tests.diffusion.chains import SHORT, normal


def counted(errors, own):
    """Return the two numbers of one image by going through every order of its captions."""
    first, reciprocal, orders = 0.0, 0.0, 0
    for order in permutations(range(len(errors))):
        ranked = sorted(order, key=lambda column: errors[column])  # stable: ties in this order
        rank = 1 + min(place for place, column in enumerate(ranked) if own[column])
        first, reciprocal, orders = first + (rank == 1), reciprocal + 1 / rank, orders + 1
    return first / orders, reciprocal / orders


@pytest.mark.parametrize(
    ("errors", "own"),
    [
        ([1, 2, 3, 4], [True, False, False, False]),
        ([3, 2, 1, 4], [True, False, False, False]),
        ([1, 1, 1, 1], [True, False, False, False]),
        ([1, 1, 1, 1], [False, False, True, True]),
        ([2, 1, 2, 2], [True, False, True, False]),
        ([2, 1, 2, 3], [False, False, True, True]),
        ([5], [True]),
    ],
)
def test_ranks_are_those_of_all_orders_of_what_is_tied(errors, own):
    """Catches a tie that is won by the first column, where the own caption stands, and own
    captions that stand in each other's way."""
    found = match(torch.tensor([errors], dtype=torch.float64), torch.tensor([own]))
    first, reciprocal = counted(errors, own)
    assert float(found.is_first) == pytest.approx(first)
    assert float(found.reciprocal_rank) == pytest.approx(reciprocal)


def test_images_do_not_depend_on_their_neighbours():
    errors = torch.randint(0, 3, (50, 6), generator=torch.Generator().manual_seed(0)).double()
    own = torch.arange(6) == torch.arange(50)[:, None] % 6
    found = match(errors, own)
    for row in range(50):
        alone = match(errors[row : row + 1], own[row : row + 1])
        assert float(alone.reciprocal_rank) == float(found.reciprocal_rank[row])
        assert float(alone.is_first) == float(found.is_first[row])


@pytest.mark.parametrize(("slope", "right"), [(0.0, 1 / 3), (1.0, 1.0)])
def test_a_network_that_reads_its_captions_finds_them_and_one_that_does_not_by_chance(slope, right):
    """Catches a network without any use of text that comes out as perfect.

    Images are constants, which the captions say; the network moves eps as far as they differ.
    """
    levels = {"dark": -0.5, "grey": 0.0, "light": 0.5}
    texts = list(levels)
    x_0 = torch.tensor([levels[text] for text in texts])[:, None, None, None].expand(3, 1, 2, 2)
    values = {encode([text], 8).tokens.sum().item(): level for text, level in levels.items()}

    def network(x_t, t, conditioning):
        said = torch.tensor([values[int(row.sum())] for row in conditioning.text.tokens])
        abar = SHORT.alphas_cumprod[t].float()[:, None, None, None]
        mean = slope * said[:, None, None, None]
        return (x_t - abar.sqrt() * mean) / (1 - abar).sqrt()

    denoiser = NetworkDenoiser(network, SHORT)
    given = [denoiser.given(Conditioning(text=encode([text], 8))) for text in texts]
    errors = class_errors(
        given, x_0.contiguous(), times=[5, 20], noise=lambda draw: normal(3, 1, 2, 2).float() + draw
    )
    found = match(errors.eps, torch.eye(3, dtype=torch.bool))
    assert float(found.is_first.mean()) == pytest.approx(right)


@pytest.mark.parametrize(
    ("errors", "own", "said"),
    [
        ([1.0, 2.0], [False, False], "none is its own"),
        ([1.0, float("nan")], [True, False], "number"),
    ],
)
def test_what_has_no_rank_is_refused(errors, own, said):
    with pytest.raises(ConfigError, match=said):
        match(torch.tensor([errors]), torch.tensor([own]))
