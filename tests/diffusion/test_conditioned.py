"""A denoiser with its conditioning: rows where they belong, and one call for two of one network."""

import pytest
import torch
from torch import Tensor

from ddpm_core.conditioning import NOTHING, Conditioning, Known
from ddpm_core.diffusion.denoiser import NetworkDenoiser, predict_each
from ddpm_core.diffusion.samplers.ddim import ddim_sample
from ddpm_core.diffusion.wrappers.respacing import respaced
from ddpm_core.errors import DataError
from tests.diffusion.chains import SHORT, normal

LABELS = Conditioning(label=torch.tensor([0, 2, 1]))
NULL = Conditioning(label=torch.tensor([3]))
X_T = normal(3, 1, 2, 2)
T = torch.tensor([0, 20, 49])


class Labelled:
    """A network of three classes without arithmetic across rows; it counts its calls."""

    def __init__(self, factor: float = 0.5) -> None:
        self.factor, self.calls = factor, 0

    def __call__(self, x_t: Tensor, t: Tensor, conditioning: Conditioning = NOTHING) -> Tensor:
        self.calls += 1
        assert conditioning.label is not None
        shift = conditioning.label + 0.01 * t
        return self.factor * x_t + shift[:, None, None, None].to(x_t.dtype)


def denoiser_of(network, **options):
    return NetworkDenoiser(network, SHORT, null=NULL, **options)


def test_each_row_is_predicted_with_its_own_conditioning():
    """Catches the label of another row, of the first for all, and a denoiser that changes."""
    network = Labelled()
    denoiser = denoiser_of(network)
    found = denoiser.given(LABELS).predict(X_T, T).value
    assert torch.equal(found, network(X_T, T, LABELS))
    for row in range(3):
        one = denoiser.given(LABELS.rows(torch.tensor([row])))
        assert torch.equal(one.predict(X_T[[row]], T[[row]]).value, found[[row]])
    assert denoiser.conditioning is NOTHING


def test_one_row_speaks_for_all_images_and_other_numbers_are_refused():
    """Catches a null of one row that is refused, and two labels that are spread over three."""
    network = Labelled()
    nothing = denoiser_of(network).given_nothing().predict(X_T, T)
    assert torch.equal(nothing.value, network(X_T, T, NULL.repeated(3)))
    two = denoiser_of(network).given(LABELS.rows(torch.tensor([0, 1])))
    with pytest.raises(DataError, match="of 2 images was given for 3"):
        two.predict(X_T, T)


def test_a_network_without_conditioning_is_called_as_it_always_was():
    """Catches a third argument for networks that take two, and a cost where nothing is given."""
    denoiser = NetworkDenoiser(lambda x_t, t: 0.5 * x_t, SHORT)
    assert torch.equal(denoiser.predict(X_T, T).value, 0.5 * X_T)
    assert torch.equal(denoiser.given_nothing().predict(X_T, T).value, 0.5 * X_T)


def test_a_sampler_hears_nothing_of_it_on_a_respaced_chain_too():
    """Catches a wrapper that loses the conditioning, or a sampler that reorders the rows."""
    denoiser, steps = denoiser_of(Labelled()), [0, 10, 30, 49]
    together = ddim_sample(respaced(denoiser.given(LABELS), steps), X_T)
    for row in range(3):
        alone = denoiser.given(LABELS.rows(torch.tensor([row])))
        assert torch.equal(ddim_sample(respaced(alone, steps), X_T[[row]]), together[[row]])
    assert not torch.equal(together[0], together[1])


@pytest.mark.parametrize("variance", ["fixed_small", "learned_range"])
def test_two_of_one_network_are_one_call_with_what_two_calls_give(variance):
    """Catches the halves exchanged, the x_t of one row beside the label of another, two calls."""
    network = Labelled()

    def doubled(x_t: Tensor, t: Tensor, conditioning: Conditioning = NOTHING) -> Tensor:
        value = network(x_t, t, conditioning)
        return value if variance == "fixed_small" else torch.cat([value, value + 1], dim=1)

    denoiser = denoiser_of(doubled, variance=variance)
    both = [denoiser.given(LABELS), denoiser.given_nothing()]
    expected = [one.predict(X_T, T) for one in both]
    network.calls = 0
    found = predict_each(both, X_T, T)
    assert network.calls == 1
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.x_0, other.x_0)
        assert one.x_t is X_T
        if variance == "learned_range":
            assert torch.equal(one.log_variance, other.log_variance)


def test_other_networks_and_other_meanings_are_called_one_by_one():
    """Catches a weak network replaced by the strong one, and v read as eps."""
    strong, weak = Labelled(0.5), Labelled(0.3)
    chain = denoiser_of(strong).given(LABELS)
    for other in (
        denoiser_of(weak).given(LABELS),
        denoiser_of(strong, prediction="v").given(LABELS),
        respaced(chain, range(50)),
    ):
        found = predict_each([chain, other], X_T, T)
        assert torch.equal(found[0].x_0, chain.predict(X_T, T).x_0)
        assert torch.equal(found[1].x_0, other.predict(X_T, T).x_0)


def test_what_is_known_stays_with_other_labels_and_with_none():
    """Catches guidance that drops what is known, and a network without a mask that is given one."""
    nothing = Conditioning(known=Known(torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 1).bool()))
    null = Conditioning(label=NULL.label, known=nothing.known)
    bare = NetworkDenoiser(Labelled(), SHORT, conditioning=nothing, null=null)
    known = Known(X_T, torch.ones(3, 1, 2, 2, dtype=torch.bool))
    assert bare.given(LABELS).conditioning.known is nothing.known
    assert bare.knowing(known).given(LABELS).conditioning.known is known
    said = bare.knowing(known).given_nothing().conditioning
    assert said.known is known
    assert torch.equal(said.label, NULL.label)
    assert denoiser_of(Labelled()).knowing(known).conditioning is NOTHING
