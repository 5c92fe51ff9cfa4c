"""Whether samples show the words of their prompts, as a judge of words sees it.

A sample agrees with its prompt if each of its words that can be seen at all is found in it. Which
can be seen is decided on held-out images that the judge has not learned from: a word counts if the
judge finds it there far better than by chance. So words that no image shows (a, the, photo) do not
count, and a list of attributes is not needed.

Combinations of words that no training image has are told from those that one has: a network that
reads words draws both, one that has learned whole captions by heart the latter alone.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ddpm_core.errors import ConfigError
from ddpm_core.text.words import Has

SEEN_FROM = 0.75
"""balanced accuracy on held-out images from which on a word can be seen; by chance it is 0.5"""


def balanced_accuracy(found: Has, has: Has) -> NDArray[np.float64]:
    """Return, of each word, the mean of the shares judged right with it and without it.

    0.5 where the images, or none of them, have the word: nothing is known of it.

    Args:
        found: what the judge says of each image.
        has: what its captions say.
    """
    with_it, without = has.sum(0), (~has).sum(0)
    right = (found & has).sum(0) / np.maximum(with_it, 1)
    right_without = (~found & ~has).sum(0) / np.maximum(without, 1)
    known = (with_it > 0) & (without > 0)
    accuracy: NDArray[np.float64] = np.where(known, (right + right_without) / 2, 0.5)
    return accuracy


@dataclass(frozen=True)
class Agreement:
    """How often samples show all visible words of their prompts; None: of no sample."""

    all: float | None
    """of all samples whose prompt has a visible word"""
    seen: float | None
    """of those whose visible words some training image has together"""
    unseen: float | None
    """of those whose visible words none has together"""
    words: float | None
    """share of the visible words that are shown"""
    num: Mapping[str, int]
    """samples of `all`, `seen`, `unseen`; and `words`"""

    @property
    def standard_error(self) -> float | None:
        """Of `all`."""
        if self.all is None:
            return None
        return float(np.sqrt(self.all * (1 - self.all) / self.num["all"]))


def agreement(found: Has, wanted: Has, visible: NDArray[np.bool_], train: Has) -> Agreement:
    """Return how often samples show what their prompts say.

    Args:
        found: words that the judge finds in each sample.
        wanted: words of its prompt.
        visible: (words,) which can be seen.
        train: words of the training images.

    Raises:
        ConfigError: these are not of the same samples and words.
    """
    if found.shape != wanted.shape or {len(visible), train.shape[1]} != {found.shape[1]}:
        raise ConfigError(
            f"found {found.shape}, wanted {wanted.shape}, visible {visible.shape} and training "
            f"{train.shape} are not of the same samples and words"
        )
    asked = wanted & visible
    counts = asked.any(1)
    shown: NDArray[np.bool_] = np.all(found | ~asked, axis=1)
    is_seen = are_together(asked, train & visible)
    parts = {"all": counts, "seen": counts & is_seen, "unseen": counts & ~is_seen}
    shares = {
        name: float(shown[rows].mean()) if rows.any() else None for name, rows in parts.items()
    }
    num = {name: int(rows.sum()) for name, rows in parts.items()}
    total = int(asked.sum())
    return Agreement(
        **shares,
        words=float((found & asked).sum() / total) if total else None,
        num={**num, "words": total},
    )


def are_together(asked: Has, train: Has) -> NDArray[np.bool_]:
    """Return, of each row of words, whether a training image has all of them."""
    combinations, which = np.unique(asked, axis=0, return_inverse=True)
    distinct = np.unique(train, axis=0)
    together = np.array([bool((distinct | ~one).all(1).any()) for one in combinations], bool)
    return together[which.reshape(-1)]


def by_word(
    words: Sequence[str], visible: NDArray[np.bool_], found: Has, wanted: Has
) -> list[dict[str, object]]:
    """Return, of each visible word, how many samples were to show it and how many do."""
    return [
        {
            "word": word,
            "num_samples": int(wanted[:, column].sum()),
            "shown": float(found[wanted[:, column], column].mean())
            if wanted[:, column].any()
            else None,
        }
        for column, word in enumerate(words)
        if visible[column]
    ]


def shuffled(
    count: int, order: NDArray[np.int64], prompts: Sequence[Hashable]
) -> NDArray[np.int64]:
    """Return whose prompt each sample is set against where prompts are shuffled: never its own.

    Args:
        count: samples.
        order: a permutation of 0 ... count - 1.
        prompts: what each sample is to show, equal where it is the same.

    Returns:
        (n,) for each sample the next one in `order`, around the end, with another prompt; -1 where
        all prompts are alike.
    """
    numbers = {text: number for number, text in enumerate(dict.fromkeys(prompts))}
    texts = np.array([numbers[text] for text in prompts])[order]
    # Where, in the order, the next other text begins: runs of the same text are passed over.
    following = np.full(2 * count + 1, 2 * count, np.int64)
    twice = np.concatenate([texts, texts])
    for place in range(2 * count - 2, -1, -1):
        same = twice[place] == twice[place + 1]
        following[place] = following[place + 1] if same else place + 1
    found = np.full(count, -1, np.int64)
    for place in range(count):
        if following[place] < 2 * count:
            found[order[place]] = order[following[place] % count]
    return found
