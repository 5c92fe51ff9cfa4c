"""Which samplers are set against one another, and at what."""

import pytest

from ddpm_core.study.settings import flow_refusal, swept
from tests.study.small import study_config

LABELS = {
    "ancestral": "DDPM, respaced",
    "ddim": "DDIM",
    "ddim-leading": "DDIM, leading",
    "sde": "reverse SDE",
    "corrector": "predictor–corrector",
    "ode": "probability flow, Heun",
    "heun-churn": "EDM Heun, churn",
    "dpm": "DPM-Solver++ 2M",
    "dpm-sde": "SDE-DPM-Solver++ 2M",
    "unipc": "UniPC",
}


def test_a_model_of_the_noise_is_drawn_from_by_every_sampler_at_every_number_of_steps():
    """Catches: a curve that is left out without a word, or a point with other steps."""
    settings, refused = swept(study_config(**{"study.swept_steps": [5, 10, 21]}))
    assert refused == []
    expected = [(key, steps) for key in LABELS for steps in (5, 10, 21)]
    assert [(one.key, one.num_steps) for one in settings] == expected
    for one in settings:
        assert one.sample.num_steps == one.num_steps
        assert one.name == f"{one.key}-{one.num_steps}"
        assert one.label == LABELS[one.key]
    assert len({one.sample.model_dump_json() for one in settings}) == len(settings)


def test_curves_are_what_their_labels_say():
    """Catches: two curves of one sampler, noise in the DDIM that has none, another
    amount of it in EDM's, by which the curves of two studies would differ."""
    settings = {one.key: one.sample for one in swept(study_config())[0]}
    told = {
        key: (sample.sampler, sample.eta, sample.spacing, sample.churn)
        for key, sample in settings.items()
    }
    assert told == {
        "ancestral": ("ancestral", 0, "trailing", 0),
        "ddim": ("ddim", 0, "trailing", 0),
        "ddim-leading": ("ddim", 0, "leading", 0),
        "sde": ("sde", 0, "trailing", 0),
        "corrector": ("predictor_corrector", 0, "trailing", 0),
        "ode": ("ode", 0, "trailing", 0),
        "heun-churn": ("heun", 0, "trailing", 10),
        "dpm": ("dpm_solver", 0, "trailing", 0),
        "dpm-sde": ("sde_dpm_solver", 0, "trailing", 0),
        "unipc": ("unipc", 0, "trailing", 0),
    }
    assert settings["ode"].ode_method == "heun"


@pytest.mark.parametrize(
    "own",
    [
        {"sampler": "ddim", "eta": 0.3, "spacing": "quadratic", "num_steps": 7},
        {"sampler": "heun", "churn": 4.0, "num_steps": 7},
        {"sampler": "ode", "ode_method": "rk4"},
        {"sampler": "predictor_corrector", "corrector_snr": 0.3},
        {"sampler": "langevin", "clip_x_0": False},
    ],
)
def test_the_run_s_own_way_to_sample_does_not_show(own):
    """Catches: knobs of the run's sampler that are refused by, or change, those compared."""
    config = study_config(**{f"sample.{key}": value for key, value in own.items()})
    assert swept(config) == swept(study_config())


def test_more_steps_than_the_chain_has_are_reported():
    """Catches: points that vanish, or a study that ends for the sake of one point."""
    settings, refused = swept(study_config(**{"study.swept_steps": [21, 22]}))
    assert {one.num_steps for one in settings} == {21}
    assert len(settings) == len(refused) == len(LABELS)
    for label, line in zip(LABELS.values(), refused, strict=True):
        assert line.startswith(f"{label}, 22 steps: ")
        assert "num_steps=22 is more than the 21 steps of the chain" in line


def test_few_drawn_steps_with_the_large_variance_are_reported():
    """Catches: a curve of mere noise, which says of the variance what it seems to say of DDPM."""
    settings, refused = swept(study_config(**{"diffusion.variance": "fixed_large"}))
    assert {one.key for one in settings} == set(LABELS) - {"ancestral", "corrector"}
    assert [line.partition(":")[0] for line in refused] == [
        "DDPM, respaced, 5 steps",
        "predictor–corrector, 5 steps",
    ]
    assert all("variance=fixed_large leave noise" in line for line in refused)


def test_a_model_of_single_steps_is_drawn_from_by_the_whole_chain_alone():
    """Catches: x_prev asked for a step that it never learned."""
    config = study_config(**{"diffusion.prediction": "x_prev", "study.swept_steps": [5, 21]})
    settings, refused = swept(config)
    assert {one.num_steps for one in settings} == {21}
    assert {one.key for one in settings} == {
        "ancestral", "ddim", "ddim-leading", "corrector",
    }  # fmt: skip
    assert len(settings) + len(refused) == 2 * len(LABELS)
    assert all("x_prev speaks of single steps" in line for line in refused)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"diffusion.prediction": "x_prev"}, "x_prev speaks of single steps"),
        (
            {"diffusion.zero_terminal_snr": True, "diffusion.prediction": "v"},
            "divides by the signal",
        ),
    ],
)
def test_why_there_is_no_probability_flow_is_reported(changes, reason):
    """Catches: a reason without words, or the run's number of steps taken for one."""
    assert reason in flow_refusal(study_config(**changes))
    assert flow_refusal(study_config(**{"diffusion.prediction": "v"})) is None
    assert flow_refusal(study_config(**{"sample.num_steps": 5})) is None
