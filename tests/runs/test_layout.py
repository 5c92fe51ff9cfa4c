"""What a result's place depends on: all that determines its bytes."""

import pytest

from ddpm_core.recipes import digits
from ddpm_core.runs import layout

EMA = "e" * 64
# Another value for every key of the chain; together with `also` a configuration that can be.
CHAINS = {
    "num_timesteps": 251,
    "beta_schedule": "cosine",
    "beta_start": 2e-4,
    "beta_end": 0.03,
    "zero_terminal_snr": True,
    "prediction": "x_0",
    "variance": "fixed_large",
}
ALSO = {"zero_terminal_snr": {"diffusion.prediction": "v"}}


@pytest.mark.parametrize("key", CHAINS)
def test_samples_and_numbers_of_another_chain_lie_elsewhere(key):
    """Catches: "done already" over samples of another schedule, prediction or variance."""
    also = ALSO.get(key, {})
    before = digits().replaced(also)
    after = digits().replaced({**also, f"diffusion.{key}": CHAINS[key]})
    assert layout.sample_fingerprint(before, EMA) != layout.sample_fingerprint(after, EMA)
    ours, theirs = (
        layout.evaluation_fingerprint(config, EMA, "d" * 64) for config in (before, after)
    )
    assert ours != theirs


def test_every_key_of_the_chain_was_tried():
    """Catches: a new key that is in no fingerprint."""
    assert {*CHAINS, "kind"} == set(digits().diffusion.model_dump())


@pytest.mark.parametrize(
    "changes",
    [
        {"sample.seed": 1},
        {"sample.batch_size": 32},
        {"train.precision": "float32"},
        {"model.dropout": 0.2},
    ],
)
def test_samples_drawn_otherwise_lie_elsewhere(changes):
    """Catches: a way of drawing that shows in the pixels and not in the place."""
    config = digits().replaced(changes)
    assert layout.sample_fingerprint(config, EMA) != layout.sample_fingerprint(digits(), EMA)


def test_samples_of_other_weights_lie_elsewhere_and_those_of_another_name_do_not():
    """Catches: an objective that counts beside the weights which it made, or weights that do not.

    How the weights were trained is in their digest.
    """
    ours = layout.sample_fingerprint(digits(), EMA)
    assert layout.sample_fingerprint(digits(), "f" * 64) != ours
    same = digits().replaced({"name": "x", "compute.num_workers": 4, "train.weighting": "p2"})
    assert layout.sample_fingerprint(same, EMA) == ours


# -- the study and the ablations -------------------------------------------------------------------

# Another value for every key of the study.
STUDIES = {
    "num_images": 99,
    "swept_steps": [5, 10],
    "num_likelihood_images": 9,
    "num_ode_images": 9,
    "ode_steps": 9,
    "ode_tolerance": 0.5,
    "num_shown": 9,
    "ddim_steps": [5],
    "mix_depth": 0.75,
    "batch_size": 9,
    "seed": 9,
    "ablation_steps": 9,
}
# What makes another set of samples or another evaluation, and so another study.
RESULTS = [
    {"sample.seed": 1},
    {"evaluate.feature_steps": 7},
    {"evaluate.seed": 1},
    {"diffusion.variance": "fixed_large"},
]


def study(config, ema=EMA, dataset="d" * 64) -> str:
    return layout.study_fingerprint(config, ema, dataset)


def test_a_study_lies_by_all_that_determines_it():
    """Catches: "done already" over another study, or one worked on again for six more trainings."""
    assert set(STUDIES) == set(digits().study.model_dump()), "a new key that was not tried"
    for key, value in STUDIES.items():
        other = digits().replaced({f"study.{key}": value})
        assert (study(other) == study(digits())) is (key == "ablation_steps")
    for changes in RESULTS:
        assert study(digits().replaced(changes)) != study(digits())
    assert study(digits(), ema="f" * 64) != study(digits())
    assert study(digits(), dataset="e" * 64) != study(digits())
    assert study(digits().replaced({"name": "x", "compute.num_workers": 4})) == study(digits())
    folder = layout.study_folder("x", study(digits()))
    assert folder == f"runs/x/study/{study(digits())[:16]}"


def test_ablations_lie_by_what_is_trained_and_how_it_is_measured():
    """Catches: a table of another length or data set; six trainings for another picture."""
    ours = layout.ablations_fingerprint(digits())
    for key, value in STUDIES.items():
        other = layout.ablations_fingerprint(digits().replaced({f"study.{key}": value}))
        assert (other == ours) is (key != "ablation_steps")
    for changes in [*RESULTS, {"train.seed": 1}, {"train.learning_rate": 1e-3},
                    {"model.dropout": 0.2}, {"data.num_test_images": 290}]:  # fmt: skip
        assert layout.ablations_fingerprint(digits().replaced(changes)) != ours
    same = digits().replaced({"name": "x", "compute.num_workers": 4})
    assert layout.ablations_fingerprint(same) == ours
    assert layout.ablations_folder("x", ours) == f"runs/x/ablations/{ours[:16]}"


@pytest.mark.parametrize("fingerprint", [study, layout.ablations_fingerprint])
def test_a_feature_network_counts_by_its_digest_and_not_by_its_place(fingerprint):
    """Catches: hours of work done again for a file that was moved, and none for another file."""
    places = [{"evaluate.features": path, "evaluate.features_sha256": digest * 64}
              for path, digest in (("a.pt", "0"), ("b.pt", "0"), ("a.pt", "1"))]  # fmt: skip
    first, moved, other = (fingerprint(digits().replaced(place)) for place in places)
    assert first == moved
    assert len({first, other, fingerprint(digits())}) == 3
