"""Which averages of its weights a training keeps, by name, and of which it takes snapshots.

No torch.
"""

from ddpm_core.config.model_ref import EMA, ema_name, power_name, sigma_rel_in
from ddpm_core.config.train import TrainConfig
from ddpm_core.models.profiles import Decay, Exponential, Power, gamma_of


def averages_of(train: TrainConfig) -> dict[str, Decay]:
    """Return the averages that a checkpoint of this training has, by their names in it."""
    warmup = train.ema_warmup
    constant = {ema_name(decay): Exponential(decay, warmup) for decay in train.ema_decays}
    return {EMA: Exponential(train.ema_decay, warmup), **constant, **powers_of(train)}


def powers_of(train: TrainConfig) -> dict[str, Power]:
    """Return the averages of power functions among them, of which snapshots are kept."""
    return {power_name(sigma_rel): Power(gamma_of(sigma_rel)) for sigma_rel in train.power_averages}


def first_share(train: TrainConfig, average: str, num_steps: int) -> float | None:
    """Return the share of the first step's weights in an average after `num_steps` steps.

    Args:
        train: the training.
        average: its name; it may have been made after the training.
        num_steps: at least 1.

    Returns:
        None for what is no average of this training, such as the trained weights.
    """
    decay = averages_of(train).get(average)
    if decay is None and (sigma_rel := sigma_rel_in(average)) is not None:
        decay = Power(gamma_of(sigma_rel))
    return None if decay is None else decay.first_share(num_steps)


def has_snapshot(train: TrainConfig, step: int) -> bool:
    """Say whether the checkpoint of this step leaves a snapshot of the power functions' averages.

    There are `num_snapshots` of them over the training, as far as there are checkpoints, the last
    step always among them: the first checkpoint after each of as many equal parts.
    """
    if not train.power_averages or train.num_snapshots == 0:
        return False
    before = (step - 1) // train.checkpoint_every * train.checkpoint_every
    parts, steps = train.num_snapshots, train.num_steps
    return step * parts // steps > before * parts // steps


def count_snapshots(train: TrainConfig) -> int:
    """Return how many snapshots a whole training leaves."""
    if not train.power_averages or train.num_snapshots == 0:
        return 0
    return min(train.num_snapshots, -(-train.num_steps // train.checkpoint_every))
