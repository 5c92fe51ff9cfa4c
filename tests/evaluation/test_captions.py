"""An evaluation of samples of texts: what a judge finds of their words, and what captions say.

The network is the small one of `worded`, untrained, on digits with captions of their classes.
"""

import numpy as np
import pytest

from ddpm_core.evaluation import stage as evaluation
from ddpm_core.evaluation.measuring.inputs import Inputs
from ddpm_core.evaluation.stage import run_evaluate
from ddpm_core.runs import results
from ddpm_core.runs.numbers import of_metrics
from ddpm_core.sampling.stage import run_sample
from tests.sampling.tiny import commit_random_weights
from tests.sampling.worded import worded_config

TEXTS = {
    "data.captions": "classes",
    "data.caption_templates": ["digit {name}", "{name} as a picture"],
    "model.text_length": 16,
    "sample.prompts": "held_out",
    "sample.num_images": 8,
    "evaluate.num_likelihood_images": 16,
    "evaluate.num_classified_images": 16,
    "evaluate.label_worth": True,
    "evaluate.feature_steps": 150,
}


@pytest.mark.usefixtures("worded", "in_process", "recording_tracker")
def test_captions_are_measured_by_a_judge_and_by_the_network_itself(store):
    """Catches: words that no image shows among those that count, a judge that is measured on what
    it has learned from, samples set against their own prompt as a control, a network that reads
    nothing and comes out as perfect, and a worth that is no difference of the two bounds."""
    config = worded_config(**TEXTS)
    commit_random_weights(store, config)
    run_sample(store, config)
    numbers = run_evaluate(store, config)
    agreed = numbers["caption_agreement"]
    assert set(agreed["protocol"]["words"]) == {"0", "1", "2", "3", "4", "5", "6", "7", "8", "9"}
    assert [row["word"] for row in agreed["by_word"]] == list("0123456789")
    assert agreed["num"] == {"all": 8, "seen": 8, "unseen": 0, "words": 8}
    assert agreed["held_out"]["value"] > 0.8, "of the judge"
    assert agreed["held_out"]["num"]["all"] < 297 / 2 + 64
    assert agreed["unseen"] is None
    assert agreed["shuffled"] is not None
    assert agreed["protocol"]["prompts"] == "held_out"
    matching = numbers["caption_matching"]
    assert matching["chance"] == 0.1
    assert 0 <= matching["value"] <= 1
    assert matching["mean_reciprocal_rank_chance"] == pytest.approx(0.2929, abs=1e-4)
    worth = numbers["caption_worth"]
    bits = worth["bits_per_dim"]
    assert worth["value"] == pytest.approx((bits["without_caption"] - bits["with_caption"]) * 64)
    assert bits["with_caption"] == pytest.approx(numbers["bits_per_dim"]["value"])
    assert worth["value"] != 0
    assert "prompts shown" in [one.name for one in of_metrics(numbers)]
    assert "show their prompts" in evaluation.summary(numbers)
    # Again: nothing is measured, and the judge is the one that is kept.
    assert run_evaluate(store, config) == numbers
    assert Inputs.of(store, config).judge is not None
    assert results.prompts_of(store, config)[:2] != []
    assert np.isfinite(worth["value"])
