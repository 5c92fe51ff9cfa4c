"""A study of a few images, and the context of an actor that works on it."""

import torch

from ddpm_core.config import RunConfig
from ddpm_core.evaluation.measuring.context import EvaluationContext
from ddpm_core.evaluation.measuring.inputs import Inputs
from ddpm_core.store.storage import Store
from tests.sampling.tiny import tiny_config


def study_config(**changes) -> RunConfig:
    """Return the tiny run with a study of two units each; its seed is no other part's."""
    return tiny_config(
        **{
            "study.num_images": 6,
            "study.batch_size": 4,
            "study.swept_steps": [5],
            "study.num_likelihood_images": 5,
            "study.num_ode_images": 2,
            "study.ode_steps": 4,
            "study.ode_tolerance": 0.1,
            "study.mix_depth": 0.5,
            "study.num_shown": 3,
            "study.seed": 7,
            **changes,
        }
    )


def context_of(store: Store, config: RunConfig) -> EvaluationContext:
    """Return the context of a run that has samples."""
    inputs = Inputs.of(store, config)
    return EvaluationContext(
        store,
        config,
        inputs.index.pointer,
        inputs.recipe,
        torch.device("cpu"),
        inputs.of_weights.sha256,
    )
