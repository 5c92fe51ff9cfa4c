"""The section `train`: the optimisation."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ddpm_core.config.section import HOUSEKEEPING, Count, Section
from ddpm_core.diffusion.choices import Loss, Weighting


class TrainConfig(Section):
    """The optimisation (appendix B of the paper)."""

    num_steps: Count = 800_000
    """optimiser steps"""
    loss: Loss = "simple"
    """L_simple (simple), a term of the variational bound (vlb), or L_simple and the bound for a
    learned variance (hybrid)"""
    weighting: Weighting = "none"
    """weight of L_simple by the signal-to-noise ratio of the timestep"""
    min_snr_gamma: float = Field(5.0, gt=0)
    """signal-to-noise ratio above which min_snr weighs a timestep down"""
    p2_gamma: float = Field(1.0, ge=0)
    """exponent of p2's weight 1 / (p2_k + snr)**p2_gamma"""
    p2_k: float = Field(1.0, gt=0)
    """signal-to-noise ratio around which p2's weight begins to fall"""
    global_batch_size: Count = 128
    """images per step, all workers together"""
    learning_rate: float = Field(2e-4, gt=0)
    """Adam's step size after warm-up"""
    warmup_steps: int = Field(5000, ge=0, le=10**9)
    """steps over which the learning rate grows from 0; 0 for none"""
    grad_clip: float = Field(1.0, gt=0)
    """largest allowed norm of the gradient of all parameters together"""
    ema_decay: float = Field(0.9999, ge=0, lt=1)
    """decay per step of the moving average of the weights, which samples are drawn from"""
    random_flip: bool = True
    """mirror each image with probability 1/2"""
    label_dropout: float = Field(0.1, gt=0, lt=1)
    """of model.conditioning=label: probability that an image is shown without its label, from which
    guidance learns what images without one are; above 0, or nothing would train the null"""
    seed: int = Field(0, ge=0, lt=2**63)
    """seed of weights, data order, timesteps, noise, flips and the labels that are left out"""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """arithmetic of the network; auto is bfloat16 on GPUs that have it, else float32, in which
    torch rounds convolutions on GPUs to TF32"""
    log_every: Annotated[Count, HOUSEKEEPING] = 100
    """steps between two points of the curves"""
    checkpoint_every: Annotated[Count, HOUSEKEEPING] = 5000
    """steps between two checkpoints; the last step is always saved"""
    keep_checkpoints: Annotated[int, HOUSEKEEPING] = Field(3, ge=2, le=10**9)
    """newest checkpoints whose files are kept"""

    @model_validator(mode="after")
    def _knobs_belong_to_the_weighting(self) -> Self:
        knobs = {"min_snr_gamma": "min_snr", "p2_gamma": "p2", "p2_k": "p2"}
        self.refuse_unused("weighting", knobs)
        return self
