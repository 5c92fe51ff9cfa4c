"""A sequence whose items are made on access."""

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar, final, overload

Given = TypeVar("Given")
Made = TypeVar("Made")


@final
class Lazy(Sequence[Made], Generic[Given, Made]):
    """`make` of each of `given`: results for a million files are never in one list."""

    def __init__(self, given: Sequence[Given], make: Callable[[Given], Made]) -> None:
        self._given, self._make = given, make

    def __len__(self) -> int:
        return len(self._given)

    @overload
    def __getitem__(self, index: int) -> Made: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Made]: ...
    def __getitem__(self, index: int | slice) -> Made | Sequence[Made]:
        if isinstance(index, slice):
            return Lazy(self._given[index], self._make)
        return self._make(self._given[index])
