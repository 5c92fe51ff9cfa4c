"""The recipes of 2015: diffusion probabilistic models, with their constants as far as known.

Source: Sohl-Dickstein et al. 2015, arXiv:1503.03585, section 3 and table 1, and its code,
`model.py` and `train.py` of github.com/Sohl-Dickstein/Diffusion-Probabilistic-Models.
"""

from ddpm_core.config import (
    BinomialConfig,
    ChainConfig,
    ComputeConfig,
    DataConfig,
    EvaluateConfig,
    MLPConfig,
    RunConfig,
    SampleConfig,
    TrainConfig,
)


def heartbeat() -> RunConfig:
    """Sequences of 20 bits with a pulse at every fifth, by a chain of bits: two minutes.

    The paper's chain has 2000 steps, and its bound is -2.414 bits a sequence. Here there are 200,
    with which no network of independent bits is above -2.347.
    """
    return RunConfig(
        name="heartbeat",
        data=DataConfig(name="heartbeat", height=1, width=20, images_per_shard=1000),
        model=MLPConfig(hidden_size=128, num_layers=2),
        diffusion=BinomialConfig(num_timesteps=200),
        train=TrainConfig(
            num_steps=2000,
            loss="vlb",
            global_batch_size=128,
            learning_rate=2e-3,
            warmup_steps=100,
            ema_decay=0.995,
            random_flip=False,
            log_every=50,
            checkpoint_every=500,
        ),
        sample=SampleConfig(num_images=1000, unit_size=250, batch_size=250),
        evaluate=EvaluateConfig(num_likelihood_images=500, batch_size=250),
        compute=ComputeConfig(num_workers=2),
    )


def swiss_roll() -> RunConfig:
    """Points of the Swiss roll by a Gaussian chain of 40 steps with learned mean and variance: five
    minutes.

    The paper learns the betas of this chain; here they are those of cosine, whose first steps are
    as small as the noise on the roll. No network of independent coordinates is below 0.65 bits a
    point, of a density; that of the roll itself is 0.485.
    """
    return RunConfig(
        name="swiss-roll",
        data=DataConfig(name="swiss_roll", height=1, width=2, depth=16, images_per_shard=2500),
        model=MLPConfig(hidden_size=128, num_layers=3, first_gain=5.0),
        diffusion=ChainConfig(
            num_timesteps=40,
            beta_schedule="cosine",
            prediction="drift",
            variance="learned_beta",
        ),
        train=TrainConfig(
            num_steps=6000,
            loss="vlb",
            global_batch_size=512,
            learning_rate=2e-3,
            warmup_steps=100,
            ema_decay=0.998,
            random_flip=False,
            precision="float32",
            log_every=100,
            checkpoint_every=2000,
        ),
        sample=SampleConfig(num_images=2000, unit_size=500, batch_size=500),
        evaluate=EvaluateConfig(num_likelihood_images=2000, batch_size=500),
        compute=ComputeConfig(num_workers=2),
    )
