"""The chain of a DDPMScheduler's configuration: the same betas, or a refusal."""

import json

import diffusers
import pytest
import torch

from ddpm_core.config import ChainConfig
from ddpm_core.diffusion.paths.betas import make_betas
from ddpm_core.errors import ConfigError
from ddpm_core.exchange.scheduler_config import read_scheduler_config, write_scheduler_config
from ddpm_core.inference.build import build_schedule
from ddpm_core.recipes import cifar10, digits
from tests.exchange.theirs import GOOGLE_SCHEDULER


def read(**changes):
    return read_scheduler_config(GOOGLE_SCHEDULER | changes, origin="scheduler_config.json")


def our_schedule(section):
    diffusion = ChainConfig.model_validate(section)
    return build_schedule(digits().replaced({"diffusion": diffusion.model_dump(mode="json")}))


def test_the_published_chain_is_the_papers():
    """Catches: beta_end that is scaled, or the small variance, diffusers' default."""
    assert read() == cifar10().diffusion.model_dump(mode="json")


@pytest.mark.parametrize("num_timesteps", [1042, 1070, 1212])
def test_of_several_spellings_of_a_beta_the_one_a_person_wrote_is_read(num_timesteps):
    """Catches: 0.020000000000000004 in a run.json; these lengths scale both to the same beta."""
    written = write_scheduler_config(ChainConfig(num_timesteps=num_timesteps))
    found = read_scheduler_config(written, origin="ours")
    assert found["beta_end"] == 0.02


@pytest.mark.parametrize("num_timesteps", [20, 250, 300, 999, 1000, 1500, 4000])
@pytest.mark.parametrize("beta_end", [0.02, 0.0123456789])
def test_their_betas_are_ours_to_the_last_bit_whatever_the_length(num_timesteps, beta_end):
    """Catches: betas scaled by 1000/T, which diffusers does not; or scaled back only nearly."""
    section = read(num_train_timesteps=num_timesteps, beta_end=beta_end)
    betas = our_schedule(section).betas
    # Where no number of float64 is scaled to theirs, the nearest is one step off.
    assert float(betas[0]) == pytest.approx(1e-4, rel=2.3e-16)
    assert float(betas[-1]) == pytest.approx(beta_end, rel=2.3e-16)
    theirs = diffusers.DDPMScheduler(num_train_timesteps=num_timesteps, beta_end=beta_end)
    torch.testing.assert_close(betas, theirs.betas.double(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("num_timesteps", [10, 21, 250, 300, 500, 999, 1000, 1500, 4000])
@pytest.mark.parametrize("name", ["linear", "scaled_linear", "sigmoid", "cosine"])
def test_ours_written_and_read_again_is_the_same_section(num_timesteps, name):
    """Catches: 9.999999999999999e-05 for 1e-4 after the way there and back: another run."""
    section = ChainConfig(
        num_timesteps=num_timesteps,
        beta_schedule=name,
        beta_end=0.0093,
        zero_terminal_snr=name == "linear",
        prediction="v",
        variance="learned_range",
    )
    text = json.dumps(write_scheduler_config(section))
    back = read_scheduler_config(json.loads(text), origin="ours")
    assert ChainConfig.model_validate(back) == section


CHAINS = ("linear", "quad", "scaled_linear", "const", "warmup10", "warmup50", "cosine", "sigmoid")


@pytest.mark.parametrize("num_timesteps", [50, 1000])
@pytest.mark.parametrize(
    ("name", "rescaled"),
    [("jsd", False), *((name, rescaled) for name in CHAINS for rescaled in (False, True))],
)
def test_diffusers_makes_our_chain_of_what_we_write_and_so_do_we(name, num_timesteps, rescaled):
    """Catches: a schedule under the name of another, a list of betas that is not asked for."""
    section = ChainConfig(
        num_timesteps=num_timesteps,
        beta_schedule=name,
        beta_end=0.03,
        zero_terminal_snr=rescaled,
        prediction="v",
    )
    written = json.loads(json.dumps(write_scheduler_config(section)))
    ours = our_schedule(section.model_dump(mode="json"))
    theirs = diffusers.DDPMScheduler.from_config(written)
    torch.testing.assert_close(theirs.betas.double(), ours.betas, rtol=1e-4, atol=1e-6)
    again = our_schedule(read_scheduler_config(written, origin="ours"))
    assert torch.equal(again.betas, ours.betas)


@pytest.mark.parametrize(
    ("changes", "section"),
    [
        ({"variance_type": "fixed_small_log"}, {"variance": "fixed_small"}),
        ({"variance_type": "learned_range"}, {"variance": "learned_range"}),
        ({"prediction_type": "sample"}, {"prediction": "x_0"}),
        ({"prediction_type": "v_prediction"}, {"prediction": "v"}),
        ({"predict_epsilon": False}, {"prediction": "x_0"}),
        ({"predict_epsilon": True, "tensor_format": "pt", "timestep_values": None}, {}),
        ({"timestep_spacing": "trailing", "steps_offset": 1, "sample_max_value": 1.0}, {}),
    ],
)
def test_each_name_of_theirs_has_one_of_ours(changes, section):
    """Catches: two names that are taken for one another, or a harmless key that is refused."""
    assert read(**changes) == read() | section


@pytest.mark.parametrize(
    ("key", "value", "rule"),
    [
        ("beta_schedule", "laplace", "must be linear, scaled_linear, squaredcos_cap_v2, sigmoid"),
        ("variance_type", "fixed_large_log", "must be fixed_small, fixed_small_log, fixed_large"),
        ("variance_type", "learned", "must be fixed_small, fixed_small_log, fixed_large"),
        ("prediction_type", "flow", "must be epsilon, sample, v_prediction"),
        ("prediction_type", 3, "must be epsilon, sample, v_prediction"),
        ("clip_sample", False, "must be true"),
        ("clip_sample_range", 2.0, "must be 1.0"),
        ("thresholding", True, "must be false"),
        ("trained_betas", [0.1, 0.2], "must be null, or 1000 betas that are one of const"),
        ("trained_betas", [0.01] * 1000, "must be null, or 1000 betas that are one of const"),
        ("trained_betas", "linear", "must be null, or 1000 betas"),
        ("num_train_timesteps", 0, "must be a whole number"),
        ("beta_end", None, "must be a number"),
        ("rescale_betas_zero_snr", 1, "must be true or false"),
        ("_class_name", "EulerDiscreteScheduler", 'must be "DDPMScheduler"'),
        ("sigma_min", 0.1, "this program does not know what that changes"),
    ],
)
def test_another_chain_is_refused_with_key_value_and_rule(key, value, rule):
    """Catches: samples of another process than the network was trained on."""
    with pytest.raises(ConfigError) as caught:
        read(**{key: value})
    assert f"{key}={json.dumps(value)[:200]}: {rule}" in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"prediction": "x_prev"}, "prediction=x_prev is not known to diffusers"),
        ({"variance": "learned"}, "variance=learned is the logarithm of the variance"),
    ],
)
def test_what_diffusers_cannot_say_is_not_written(changes, rule):
    """Catches: weights that load there and draw noise of another size."""
    with pytest.raises(ConfigError, match=rule):
        write_scheduler_config(ChainConfig(**changes))


def test_learned_means_another_thing_in_diffusers():
    """Holds the reason for the refusal: there the output is the variance, with us its logarithm."""
    scheduler = diffusers.DDPMScheduler(variance_type="learned")
    spread = torch.full((1,), -3.0)
    assert scheduler._get_variance(500, predicted_variance=spread) is spread


def test_betas_rounded_to_float32_are_still_recognised():
    """Catches: equality of bits where diffusers has rounded once."""
    betas = make_betas("warmup10", 1000, 1e-4, 0.02).float().tolist()
    assert read(trained_betas=betas)["beta_schedule"] == "warmup10"
