"""What is measured of captions: whether samples show their prompts, by a judge of words.

Its verdicts on held-out images that it has not learned from stand beside: samples cannot be
expected to be judged right more often. So does the control, the samples set against each other's
prompts: of a judge that finds every word everywhere, or of prompts that are all alike, it is as
high.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ddpm_core.config import RunConfig, identity
from ddpm_core.evaluation.features.judge import is_learned_from
from ddpm_core.evaluation.numbers.agreement import (
    SEEN_FROM,
    Agreement,
    agreement,
    balanced_accuracy,
    by_word,
    shuffled,
)
from ddpm_core.permutation import keyed_permutation
from ddpm_core.runs.protocol import PROTOCOL_VERSION
from ddpm_core.sampling.sampler import describe
from ddpm_core.text.words import Has, has_words


@dataclass(frozen=True)
class Read:
    """Images as the judge of words sees them, and their texts."""

    found: Has
    """(n, words)"""
    captions: list[tuple[str, ...]]
    """of each; of a sample its prompt"""


def agreement_metric(
    samples: Read,
    held_out: Read,
    train: list[tuple[str, ...]],
    config: RunConfig,
    weights: dict[str, Any],
    *,
    words: tuple[str, ...],
    network: dict[str, Any],
) -> dict[str, Any]:
    """Return how often samples show all words of their prompts that can be seen.

    Args:
        samples: the run's.
        held_out: held-out images.
        train: captions of training images.
        config: the run.
        weights: which weights made the samples.
        words: of the judge.
        network: what to say of it.
    """
    of_train = has_words(train, words)
    rest = ~is_learned_from(len(held_out.captions))
    of_held_out = has_words(held_out.captions, words)[rest]
    found = held_out.found[rest]
    accuracy = balanced_accuracy(found, of_held_out)
    visible = accuracy >= SEEN_FROM
    wanted = has_words(samples.captions, words)
    own = agreement(samples.found, wanted, visible, of_train)
    firsts = has_words([one[:1] for one in held_out.captions], words)[rest]
    beside = agreement(found, firsts, visible, of_train)
    # By what is to be seen: "red seven" is no other prompt than "a red seven".
    asked, count = [row.tobytes() for row in wanted & visible], len(wanted)
    order = keyed_permutation(b"shuffled prompts", count, np.arange(count))
    others = shuffled(count, order, asked)
    control = agreement(samples.found[others >= 0], wanted[others[others >= 0]], visible, of_train)
    return {
        "value": own.all,
        "standard_error": own.standard_error,
        **_parts(own),
        "held_out": {"value": beside.all, **_parts(beside)},
        "shuffled": control.all,
        "by_word": by_word(words, visible, samples.found, wanted),
        **({} if visible.any() else {"reason": _nothing(words)}),
        "protocol": {
            "version": PROTOCOL_VERSION,
            **weights,
            "judge": network,
            "agreement": "each word of a prompt that can be seen is found in its sample",
            "seen_from": SEEN_FROM,
            "words": {
                word: round(float(one), 4) for word, one in zip(words, accuracy, strict=True)
            },
            "seen": f"words that stand together in captions of one of {len(train)} training images",
            "num_images": {"samples": count, "test": int(rest.sum())},
            **identity.counted("diffusion", config.diffusion),
            **describe(
                config.sample,
                config.diffusion.num_timesteps,
                takes_text=True,
                enlarges=config.model.low_size is not None,
            ),
        },
    }


def _parts(one: Agreement) -> dict[str, Any]:
    return {"seen": one.seen, "unseen": one.unseen, "words": one.words, "num": dict(one.num)}


def _nothing(words: tuple[str, ...]) -> str:
    if not words:
        return "the captions of the training images do not differ in any word"
    return "the judge finds no word in held-out images; give it more evaluate.feature_steps"
