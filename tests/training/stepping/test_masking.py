"""One step of training a language model, against the algorithm written out plainly."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from ddpm_core import seeding
from ddpm_core.conditioning import Conditioning
from ddpm_core.inference.networks import build_network
from ddpm_core.text.masking import choose_bytes, hide_most
from ddpm_core.text.tokens import encode
from tests.training.small import make_learner, rank_slice, small_config, small_images

MODEL = {"kind": "text", "hidden_size": 16, "num_layers": 1, "num_heads": 2, "text_length": 10}
CAPTIONS = ["a red one", "two", "", "a blue three", "ä", "six", *["seven"] * 6]


def text_config(**changes):
    return small_config().replaced({"model": MODEL, **changes})


def given(step):
    turned = CAPTIONS[step:] + CAPTIONS[:step]
    return Conditioning(text=encode(turned, 10))


def run(learner, config, start, stop):
    for step in range(start, stop):
        learner.step(step, rank_slice(config, small_images(), step, 0, 1), given(step))


def test_steps_are_those_of_the_cross_entropy_of_the_chosen_bytes():
    """Catches: bytes that are said while they are seen, all bytes of a caption, a sum for a mean,
    captions that are left out, numbers that another step or another image has too."""
    config = text_config()
    learner, network = make_learner(config), build_network(config)
    adam, records = torch.optim.Adam(network.parameters()), []
    for step in range(4):
        text = given(step).text
        key, positions = seeding.key(0, "masking"), torch.arange(12)
        drawn = seeding.uniform(key, step, positions, (10, 3))
        chosen = choose_bytes(text, drawn[..., 0], 0.15)
        shown = Conditioning(text=hide_most(text, chosen, drawn[..., 1:]))
        logits = network(torch.zeros(12, 1, 1, 1), torch.zeros(12), shown)
        losses = []
        for row in range(12):
            wanted = text.tokens[row, chosen[row]]
            own = cross_entropy(logits[row, chosen[row]], wanted, reduction="sum")
            losses.append(own / max(1, len(wanted)))
        adam.zero_grad()
        (sum(losses) / 12).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), config.train.grad_clip)
        adam.param_groups[0]["lr"] = config.train.learning_rate * min(step / 4, 1)
        adam.step()
        records += [float(one.detach()) for one in losses]
    run(learner, config, 0, 4)
    # The gradient of these is 0, and Adam makes steps of what rounding leaves of it.
    alike = [
        {name: one.detach() for name, one in of.named_parameters() if "key.bias" not in name}
        for of in (learner.network, network)
    ]
    torch.testing.assert_close(*alike, rtol=1e-3, atol=2e-5)
    assert learner.trainee.counts.point()["loss"] == pytest.approx(sum(records) / 48, rel=1e-4)


def test_its_parameters_are_counted():
    """Catches: a number in the dry run, and a bound on it, of another network."""
    config = text_config()
    assert sum(one.numel() for one in build_network(config).parameters()) == config.num_parameters


def test_in_pieces_it_is_the_same_step():
    """Catches: a caption that is hidden by the place in its piece."""
    config = text_config()
    whole = make_learner(config)
    pieces = make_learner(config.replaced({"compute.micro_batch_size": 5}))
    for learner in (whole, pieces):
        run(learner, config, 1, 2)
    assert pieces.trainee.counts.point() == pytest.approx(whole.trainee.counts.point(), rel=1e-4)
