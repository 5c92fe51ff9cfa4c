"""Conditioning of an image: one frozen object through network, batch and sampling.

A part that a network does not take is None for ever; a part that one row of a batch lacks is the
null value there, the same object in training, sampling and export: two nulls are the commonest bug
of conditional diffusion. A new part is a field, and nothing else here changes.

Source of the null: Ho and Salimans 2022, arXiv:2207.12598, section 3.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ddpm_core.errors import ConfigError, DataError


@dataclass(frozen=True, eq=False)
class Known:
    """What is known of the images of a batch.

    Raises:
        ConfigError: if the mask does not fit the values.
    """

    values: Tensor
    """(b, c, h, w) images in [-1, 1]; where they are not known, anything"""
    mask: Tensor
    """bool, True where they are known; broadcast to `values`"""

    def __post_init__(self) -> None:
        try:
            self.mask.broadcast_to(self.values.shape)
        except RuntimeError:
            raise ConfigError(
                f"the mask is shaped {tuple(self.mask.shape)} and the images "
                f"{tuple(self.values.shape)}; give one truth value for each of their values, or "
                "for each of one image or channel"
            ) from None

    def into(self, images: Tensor, values: Tensor | None = None) -> Tensor:
        """Return the images with the known values in their places, or others given for them."""
        values = self.values if values is None else values
        return torch.where(self.mask, values.to(images.dtype), images)


@dataclass(frozen=True, eq=False)
class LowRes:
    """The low resolution of each image of a batch, as a network that enlarges is given it.

    Raises:
        ConfigError: there is not one level for each image.
    """

    image: Tensor
    """(b, c, h, w) in the size of x_t, noised; of the null (1, c, 1, 1) zeros"""
    level: Tensor
    """(b,) int64: how many steps of the process noised it; 0: none, -1: the null"""

    def __post_init__(self) -> None:
        if self.level.shape != self.image.shape[:1]:
            raise ConfigError(
                f"the levels are shaped {tuple(self.level.shape)} and the low resolutions "
                f"{tuple(self.image.shape)}; give one level for each"
            )


@dataclass(frozen=True, eq=False)
class Text:
    """A text of each image of a batch, as tokens.

    Raises:
        ConfigError: if the mask is none of these tokens.
    """

    tokens: Tensor
    """(b, l) int64 numbers of tokens, see `text.tokens`; or (b, l, d) states of an encoder"""
    mask: Tensor
    """(b, l) bool, False behind the end of the text; True somewhere in each row, so that no
    attention is among nothing: the empty text has its end"""

    def __post_init__(self) -> None:
        if self.mask.shape != self.tokens.shape[:2]:
            raise ConfigError(
                f"the mask is shaped {tuple(self.mask.shape)} and the tokens "
                f"{tuple(self.tokens.shape)}; give one truth value for each token"
            )


@dataclass(frozen=True)
class Conditioning:
    """The conditioning of each row of a batch; every tensor has the batch as its first axis.

    A part is a tensor, a frozen dataclass of parts, or a tuple of parts.
    """

    label: Tensor | None = None
    """(b,) int64: the class, 0 ... num_classes - 1; num_classes is the null"""
    text: Text | None = None
    """what each image is to show, in words; the empty text, encoded as any other, is the null"""
    known: Known | None = None
    """the part of each image that is known, its mask (b, 1, h, w); a mask that is False everywhere
    is the null. Guidance does not drop it, and no data set holds it: training draws it"""
    low: LowRes | None = None
    """the low resolution that each image is to have. Guidance does not drop it, and training does
    not either: no network is trained with its null, which stands where sizes alone count"""
    augment: Tensor | None = None
    """(b, 9) float32: how each image was transformed, see `training.stepping.augmentation`; zeros
    are the null, with which images are drawn and measured. Training alone draws others"""

    @property
    def parts(self) -> frozenset[str]:
        """The names of the parts that are given."""
        return frozenset(one.name for one in fields(self) if getattr(self, one.name) is not None)

    def only(self, parts: frozenset[str]) -> "Conditioning":
        """Return this without the parts that are not named."""
        if self.parts <= parts:
            return self
        return replace(self, **dict.fromkeys(self.parts - parts))

    def rows(self, index: Tensor) -> "Conditioning":
        """Return the rows `index`, (k,) int64 or (b,) bool, of every part."""
        return self._mapped(lambda tensor: tensor[index.to(tensor.device)])

    def to(self, device: torch.device) -> "Conditioning":
        """Return every part on `device`; a copy from pinned memory to a GPU waits for nothing."""
        return self._mapped(lambda tensor: tensor.to(device, non_blocking=device.type == "cuda"))

    def pinned(self) -> "Conditioning":
        """Return every part in memory from which a GPU reads by itself."""
        return self._mapped(lambda tensor: tensor.pin_memory())

    def where(self, keep: Mapping[str, Tensor], null: "Conditioning") -> "Conditioning":
        """Return this with the rows of a part replaced by the null's where `keep` is False.

        Args:
            keep: part -> (b,) bool; parts that it does not name are kept.
            null: one row, of the same parts.

        Raises:
            DataError: `keep` or this has a part that the null lacks.
        """
        if wrong := (keep.keys() - self.parts) | (keep.keys() - null.parts):
            raise DataError(
                f"the part {min(wrong)!r} cannot be dropped: this conditioning has "
                f"{_words(self.parts)} and the null has {_words(null.parts)}"
            )
        changed = {
            name: together(_chosen(kept), [getattr(self, name), getattr(null, name)])
            for name, kept in keep.items()
        }
        return replace(self, **changed)

    def repeated(self, count: int) -> "Conditioning":
        """Return `count` rows of a conditioning of one; of that many, these.

        Raises:
            DataError: there are others.
        """

        def repeat(tensor: Tensor) -> Tensor:
            if len(tensor) not in (1, count):
                raise DataError(
                    f"a conditioning of {len(tensor)} images was given for {count}; give one for "
                    "each image, or one for all"
                )
            return tensor.expand(count, *tensor.shape[1:])

        return self._mapped(repeat)

    def _mapped(self, function: Callable[[Tensor], Tensor]) -> "Conditioning":
        # The commonest case costs nothing.
        if not self.parts:
            return self
        whole: Conditioning = together(lambda tensors: function(tensors[0]), [self])
        return whole


AUGMENT_NUMBERS = 9
"""that say how an image was transformed"""

NOTHING = Conditioning()
"""of an unconditional network"""

DROPPED = frozenset({"label", "text"})
"""the parts without which images are of nothing: guidance leaves them out, and so does training"""

MEMBERS = frozenset({"label", "text"})
"""the parts that the images of a data set come with"""


def cat(several: Sequence[Conditioning]) -> Conditioning:
    """Return the rows of all, one after the other.

    Raises:
        DataError: they do not have the same parts.
    """
    if any(one.parts != several[0].parts for one in several):
        found = sorted({_words(one.parts) for one in several})
        raise DataError(f"rows of other parts cannot be put together: {'; '.join(found)}")
    whole: Conditioning = together(lambda tensors: torch.cat(list(tensors)), several)
    return whole


def require_accepted(given: Conditioning, accepts: frozenset[str], *, model: str) -> None:
    """Refuse what a network does not take, and the lack of what it takes.

    A forgotten part would otherwise silently give an unconditional result.

    Args:
        given: for each row.
        accepts: names of the parts that the network takes.
        model: of what network, for people.

    Raises:
        DataError: with both.
    """
    if given.parts != accepts:
        raise DataError(
            f"{model} takes {_words(accepts)} and was called with {_words(given.parts)}; give "
            "exactly the parts that it takes"
        )


def _words(parts: frozenset[str]) -> str:
    return ", ".join(sorted(parts)) if parts else "no conditioning"


def _chosen(kept: Tensor) -> Callable[[Sequence[Tensor]], Tensor]:
    def choose(tensors: Sequence[Tensor]) -> Tensor:
        own, null = tensors
        where = kept.to(own.device).reshape(-1, *[1] * (own.ndim - 1))
        return torch.where(where, own, null.to(own.device))

    return choose


def together(function: Callable[[Sequence[Tensor]], Tensor], values: Sequence[Any]) -> Any:  # noqa: ANN401 - a tree
    """Return a tree like the first value, each tensor made of those in its place in all of them.

    Args:
        function: called with the tensors of one place, one of each value.
        values: trees of tensors, of tuples and dataclasses of them, and of None; all alike.
    """
    first = values[0]
    if first is None:
        return None
    if isinstance(first, Tensor):
        return function(values)
    if isinstance(first, tuple):
        return tuple(together(function, place) for place in zip(*values, strict=True))
    if is_dataclass(first) and not isinstance(first, type):
        names = [one.name for one in fields(first)]
        parts = {
            name: together(function, [getattr(value, name) for value in values]) for name in names
        }
        return replace(first, **parts)
    raise TypeError(f"{type(first).__name__} is no part of a conditioning")
