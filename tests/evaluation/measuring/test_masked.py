"""What a language model makes of hidden bytes of captions, and the stage that measures it."""

import math

import numpy as np
import pytest
import torch

from ddpm_core.evaluation.measuring.masked import bytes_metric, bytes_part
from ddpm_core.evaluation.stage import run_evaluate
from ddpm_core.runs import results
from ddpm_core.runs.table import list_runs
from ddpm_core.text.tokens import HIDDEN, encode
from ddpm_core.verifying.verify import verify
from tests.sampling.tiny import commit_random_weights, tiny_config

MODEL = {"kind": "text", "hidden_size": 16, "num_layers": 1, "num_heads": 2, "text_length": 24}


def text_config(**changes):
    return tiny_config(name="language").replaced(
        {"data.captions": "classes", "model": MODEL, **changes}
    )


def test_every_chosen_byte_is_hidden_and_said_from_the_rest():
    """Catches: bytes that are seen while they are said, bytes that are not hidden and count, the
    same hidden of every caption."""
    text, seen = encode(["aab", "", "abba"], 6), []

    def network(_x, _t, conditioning):
        seen.append(conditioning.text.tokens)
        logits = torch.zeros(3, 6, 259)
        logits[:, :, ord("a") + 3] = math.log(3 * 258 / 1)  # p = 3 / 4
        return logits

    found = bytes_part(network, text, torch.tensor([4, 0, 7]), share=0.5, seed=3)
    hidden = seen[0] == HIDDEN
    assert hidden.sum(dim=1).tolist() == found["num_hidden"].tolist()
    assert found["num_hidden"][1] == 0
    of_a = (hidden & (text.tokens == ord("a") + 3)).sum(dim=1)
    assert torch.equal(found["num_right"], of_a)
    nats = of_a * -math.log(3 / 4) + (found["num_hidden"] - of_a) * math.log(4 * 258)
    torch.testing.assert_close(found["nats"], nats.double())
    assert torch.equal(found["counts"].sum(dim=1), found["num_hidden"])
    assert torch.equal(found["counts"][:, ord("a")], of_a)
    again = bytes_part(network, text, torch.tensor([7, 0, 4]), share=0.5, seed=3)
    assert not torch.equal(again["num_hidden"], found["num_hidden"]) or not torch.equal(*seen)


def test_the_number_is_a_mean_over_bytes_in_bits():
    """Catches: nats, a mean over captions of unequal length, an entropy of all 256 bytes alike."""
    counts = np.zeros((3, 256), np.int64)
    counts[0, 97], counts[1, 98] = 3, 1
    found = bytes_metric(
        np.array([3 * math.log(2), 5 * math.log(2), 0.0]),
        np.array([2, 0, 0]),
        np.array([3, 1, 0]),
        counts,
        config=text_config(),
        weights={},
    )
    assert found["value"] == pytest.approx(2.0)
    assert found["accuracy"] == 0.5
    assert found["by_frequency"] == pytest.approx(0.75 * math.log2(4 / 3) + 0.25 * 2)
    apart = np.array([3 - 6, 5 - 2, 0])
    assert found["standard_error"] == pytest.approx(math.sqrt(3 * apart.var(ddof=1)) / 4)


def test_the_stage_measures_a_language_model(store, in_process, recording_tracker):
    """Catches: an evaluation that asks for samples or the bound, captions of a unit alone, or bytes
    that depend on the units."""
    config = text_config()
    commit_random_weights(store, config)
    numbers = run_evaluate(store, config)
    assert list(numbers) == ["hidden_bytes"]
    said = numbers["hidden_bytes"]
    assert said["protocol"]["num_captions"] == 297
    assert said["value"] > 5
    # "a picture of 7": 14 bytes, of which the last alone differs.
    assert 2 < said["by_frequency"] < 4
    assert len(in_process.units) == 19
    assert set(results.evaluation_of(store, config).files) == {"metrics", "loss-figure"}
    assert recording_tracker.metrics["eval/hidden_bytes_value@10"] == said["value"]
    assert not verify("language", root=store.uri).unfinished
    assert f"{said['value']:.3f}" in list_runs(store)
