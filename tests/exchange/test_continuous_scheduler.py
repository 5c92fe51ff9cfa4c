"""Processes in continuous time in diffusers: its schedulers draw our images with our network."""

import diffusers
import pytest
import torch

from ddpm_core.config import RunConfig
from ddpm_core.config.diffusion import BinomialConfig, EdmConfig, SubVpConfig, VeConfig, VpConfig
from ddpm_core.diffusion.paths.spacing import karras_sigmas
from ddpm_core.diffusion.samplers.ddim import ddim_sample
from ddpm_core.errors import ConfigError
from ddpm_core.exchange.continuous_scheduler import CLASS_NAMES, read_continuous, write_continuous
from ddpm_core.exchange.networks import to_diffusers, write_network
from ddpm_core.exchange.scheduler_config import read_scheduler_config, write_scheduler_config
from ddpm_core.inference.build import build_denoiser
from ddpm_core.inference.continuous import path_of
from ddpm_core.inference.denoiser import AveragedNetwork
from ddpm_core.inference.networks import build_network
from ddpm_core.sampling.sampler import run_sampler
from tests.models.diffusers_oracle import perturb
from tests.sampling.tiny import tiny_config

EDM = {"diffusion.kind": "edm", "diffusion.sigma_min": 0.01, "diffusion.sigma_max": 20.0,
       "diffusion.sigma_data": 0.6}  # fmt: skip
FLOW = {"diffusion.kind": "flow"}
STEPS = 7
X_T = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(3))


def continuous(**changes) -> RunConfig:
    size = {"model.base_channels": 16, "model.num_groups": 8, "diffusion.num_timesteps": STEPS}
    return tiny_config(**{"sample.clip_x_0": False, **changes, **size})


def both(config):
    """Return our denoiser, and the same network as diffusers makes it of what we write."""
    network = build_network(config).eval()
    perturb(network, scale=0.1)
    theirs = diffusers.UNet2DModel.from_config(write_network(config).config).eval()
    theirs.load_state_dict(to_diffusers(config, network.state_dict()))
    averaged = AveragedNetwork(network, torch.device("cpu"), dtype=torch.float32)
    return build_denoiser(config, averaged), theirs


@torch.no_grad()
def drawn(scheduler, unet, x):
    """Draw with diffusers, as its pipelines do."""
    for t in scheduler.timesteps:
        scaled = x if isinstance(scheduler, diffusers.FlowMatchEulerDiscreteScheduler) else (
            scheduler.scale_model_input(x, t)
        )  # fmt: skip
        x = scheduler.step(unet(scaled, t).sample, t, x).prev_sample
    return x


def test_the_scheduler_of_flow_matching_draws_the_images_of_our_steps_of_euler():
    """Catches: a velocity of the other sign, a time that is not 1000 t, and t = 1 for the image.

    DDIM is Euler's method on the line. What the scheduler computes is float32.
    """
    config = continuous(**FLOW)
    denoiser, unet = both(config)
    written = write_scheduler_config(config.diffusion)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler.from_config(written)
    times = torch.linspace(0, path_of(config.diffusion).end, STEPS + 1).flip(0)[:-1]
    scheduler.set_timesteps(sigmas=times.tolist())
    signal, noise = path_of(config.diffusion).marginal(times[:1].double())
    found = drawn(scheduler, unet, X_T * (signal.square() + noise.square()).sqrt().float())
    expected = ddim_sample(denoiser, X_T, noise=lambda _: X_T, clip_x_0=False)
    assert float(expected.std()) > 0.3
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "sampler"),
    [
        ("EDMEulerScheduler", {"sample.sampler": "ode", "sample.ode_method": "euler"}),
        ("EDMDPMSolverMultistepScheduler", {"sample.sampler": "dpm_solver"}),
    ],
)
def test_the_schedulers_of_edm_draw_the_images_of_our_solvers(name, sampler):
    """Catches: sigmas, or a sigma_data, that are diffusers' defaults; a network that is
    preconditioned twice or not at all, and one that is given sigma or its whole logarithm.

    Their last step begins at sigma_min, and ours where the chain's first step leads.
    """
    karras = {"sample.spacing": "karras", "sample.num_steps": STEPS}
    config = continuous(**EDM, **sampler, **karras)
    denoiser, unet = both(config)
    least = karras_sigmas(denoiser.schedule, STEPS)[-1]
    written = write_scheduler_config(config.diffusion) | {"sigma_min": least}
    scheduler = getattr(diffusers, name).from_config(written)
    scheduler.set_timesteps(STEPS)
    found = drawn(scheduler, unet, X_T * scheduler.init_noise_sigma)
    expected = run_sampler(denoiser, config.sample, X_T.double(), noise=lambda _: X_T)
    assert float(expected.std()) > 0.3
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=2e-5)


def test_what_is_written_is_what_is_read():
    """Catches a sigma that is lost on the way."""
    edm = EdmConfig(num_timesteps=300, sigma_min=0.01, sigma_max=20.0, sigma_data=0.6)
    section = read_scheduler_config(write_continuous(edm), origin="ours")
    assert EdmConfig.model_validate(section) == edm
    flow = continuous(**FLOW).diffusion
    assert read_scheduler_config(write_continuous(flow), origin="ours") == {"kind": "flow"}
    for name in CLASS_NAMES:
        theirs = dict(getattr(diffusers, name)().config) | {"_class_name": name}
        assert read_continuous(theirs, origin="theirs")["kind"] in ("flow", "edm")


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("FlowMatchEulerDiscreteScheduler", "num_train_timesteps", 500),
        ("FlowMatchEulerDiscreteScheduler", "invert_sigmas", True),
        ("EDMEulerScheduler", "prediction_type", "v_prediction"),
        ("EDMEulerScheduler", "sigma_max", "80"),
        ("EDMDPMSolverMultistepScheduler", "thresholding", True),
        ("EDMEulerScheduler", "sigma_shift", 3.0),
    ],
)
def test_a_scheduler_that_calls_a_network_otherwise_is_refused(name, key, value):
    """Catches weights that are taken for those of another function."""
    with pytest.raises(ConfigError, match=key):
        read_scheduler_config({"_class_name": name, key: value}, origin="theirs")


@pytest.mark.parametrize(
    ("section", "says"),
    [
        (VpConfig(), "999 times that"),
        (SubVpConfig(), "no scheduler of"),
        (VeConfig(), r"images in \[0, 1\]"),
        (BinomialConfig(), "a chain of bits"),
    ],
)
def test_a_process_that_no_scheduler_is_says_why(section, says):
    """Catches a folder that diffusers loads and draws noise from."""
    with pytest.raises(ConfigError, match=f"diffusion.kind={section.kind} cannot be .*{says}"):
        write_scheduler_config(section)
