"""Arrays out of a pickle, without unpickling it.

A pickle is a program; Python's `pickle` runs it, and calls what it names. Here the few instructions
that a file of arrays, numbers and texts is made of are carried out on values of our own: a name
calls nothing, an array is made from its bytes by us, every other instruction is refused.

Source: the instructions are those of Python's `pickletools`; what NumPy writes is described by
`numpy.ndarray.__reduce__`.
"""

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ddpm_core.errors import DataError

_MAX_STEPS = 10**6
"""CIFAR-10's batches take 60,000; bounds the memory that instructions of one byte can take."""
_MAX_MADE_BYTES = 2**26
"""more than the file's own length that texts may take as bytes: one text may be named many times"""
_MAX_SIDES = 8
_RECONSTRUCT = frozenset(
    {("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct")}
)
_NDARRAY, _DTYPE = ("numpy", "ndarray"), ("numpy", "dtype")
_ENCODE = ("_codecs", "encode")
_BYTES = frozenset({b"u1", "u1"})
_GLOBAL = re.compile(rb"([\w.]{1,100})\n([\w.]{1,100})\n", re.ASCII)
_MARK = object()
_MAX_PROTOCOL = 5


class _Name(NamedTuple):
    module: str
    name: str


@dataclass
class _ByteType:
    """NumPy's unsigned byte, the only type of which arrays are made."""


@dataclass(eq=False)
class _Array:
    values: NDArray[np.uint8] | None = None


class _RefusedError(Exception):
    """The pickle calls for something else than arrays."""


def read_pickled_arrays(content: bytes, origin: str) -> dict[bytes, Any]:
    """Return the dictionary that a pickle holds: text as bytes, arrays of unsigned bytes as such.

    Args:
        content: the whole pickle, of protocol 2 to 5.
        origin: what to call it in an error.

    Raises:
        DataError: it is damaged, or holds anything but dictionaries, lists, tuples, numbers, text
            and arrays of unsigned bytes. Nothing of it was executed.
    """
    machine = _Machine(content)
    try:
        found = machine.run()
        items = _expect(found, dict).items()
        return {machine.as_bytes(key): machine.finished(value) for key, value in items}
    except (_RefusedError, IndexError, KeyError, TypeError, ValueError, struct.error) as error:
        said = str(error) if isinstance(error, _RefusedError) else f"{type(error).__name__} {error}"
        raise DataError(
            f"{origin} is a pickle that is not only of arrays, numbers and text, or is damaged: at "
            f"byte {machine.at}: {said[:200]}. Nothing of it was executed. Fetch the file again"
        ) from None


@dataclass
class _Machine:
    content: bytes
    at: int = 0
    stack: list[Any] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)
    made: int = 0
    """bytes that texts were made into"""

    def run(self) -> Any:  # noqa: ANN401 - whatever the pickle holds
        for _ in range(_MAX_STEPS):
            code = self._take(1)
            if code == b".":
                return self.stack.pop()
            step = _STEPS.get(code)
            if step is None:
                raise _RefusedError(f"the instruction {code!r}")
            step(self)
        raise _RefusedError(f"over {_MAX_STEPS} instructions")

    def _take(self, num_bytes: int) -> bytes:
        taken = self.content[self.at : self.at + num_bytes]
        if num_bytes < 0 or len(taken) != num_bytes:
            raise _RefusedError("its end, too early")
        self.at += num_bytes
        return taken

    def number(self, form: str) -> int:
        """Take one little-endian number."""
        value: int = struct.unpack(form, self._take(struct.calcsize(form)))[0]
        return value

    def counted(self, form: str) -> bytes:
        """Take a length, and as many bytes."""
        return self._take(self.number(form))

    def since_mark(self) -> list[Any]:
        """Take what stands above the last mark."""
        for place in reversed(range(len(self.stack))):
            if self.stack[place] is _MARK:
                found = self.stack[place + 1 :]
                del self.stack[place:]
                return found
        raise _RefusedError("no mark")

    def tuple_of(self, count: int) -> None:
        if len(self.stack) < count:
            raise _RefusedError("too few values")
        found = tuple(self.stack[-count:])
        del self.stack[-count:]
        self.stack.append(found)

    def name(self) -> None:
        found = _GLOBAL.match(self.content, self.at)
        if found is None:
            raise _RefusedError("a name of nothing")
        self.at = found.end()
        self.stack.append(_Name(found[1].decode(), found[2].decode()))

    def stack_name(self) -> None:
        module, name = self.stack[-2:]
        self.stack[-2:] = [_Name(_expect(module, str), _expect(name, str))]

    def protocol(self) -> None:
        if self.number("<B") > _MAX_PROTOCOL:
            raise _RefusedError("a protocol that is not known")

    def frame(self) -> None:
        self.number("<Q")  # only a hint for reading ahead

    def extend(self, items: list[Any]) -> None:
        _expect(self.stack[-1], list).extend(items)

    def set_items(self, items: list[Any]) -> None:
        pairs = zip(items[::2], items[1::2], strict=True)
        _expect(self.stack[-1], dict).update((_as_key(key), value) for key, value in pairs)

    def call(self) -> None:
        """Put in place of a name and its arguments what they mean; nothing is called."""
        arguments, name = self.stack.pop(), self.stack.pop()
        match name, arguments:
            case _Name(), (str(text), encoding) if name == _ENCODE and encoding in (
                "latin1",
                b"latin1",
            ):
                self.stack.append(self._encoded(text, "latin1"))
            case _:
                self.stack.append(_meaning(name, arguments))

    def build(self) -> None:
        state = self.stack.pop()
        _build(self.stack[-1], state)

    def memoize(self) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def finished(self, value: object) -> object:
        """Return a value of the dictionary with text as bytes, and an array as NumPy's."""
        if isinstance(value, _Array):
            if value.values is None:
                raise _RefusedError("an array without a state")
            return value.values
        if isinstance(value, list | tuple) and len(value) < _MAX_STEPS:
            return [self.as_bytes(one) if isinstance(one, str) else one for one in value]
        return self.as_bytes(value) if isinstance(value, str) else value

    def as_bytes(self, value: object) -> bytes:
        if isinstance(value, str):
            return self._encoded(value, "utf-8")
        return bytes(_expect(value, bytes))

    def _encoded(self, text: str, encoding: str) -> bytes:
        self.made += len(text)
        if self.made > _MAX_MADE_BYTES + len(self.content):
            raise _RefusedError(f"it makes over {self.made} bytes of texts")
        return text.encode(encoding)


def _meaning(name: object, arguments: object) -> object:
    match name, arguments:
        case _Name(), (kind, _, _) if name in _RECONSTRUCT and kind == _NDARRAY:
            return _Array()
        case _Name(), (code, *_) if name == _DTYPE and _is_byte(code):
            return _ByteType()
    shown = f"{name.module}.{name.name}" if isinstance(name, _Name) else type(name).__name__
    raise _RefusedError(f"a call of {shown}")


def _is_byte(code: object) -> bool:
    # What else stands there is not hashed: a tuple of tuples may take hours, or all of the stack.
    return isinstance(code, str | bytes) and code in _BYTES


def _build(target: object, state: object) -> None:
    match target, state:
        case _ByteType(), (*_,):
            return  # version, byte order, and what only other types have
        case _Array(values=None), (_, tuple(shape), _ByteType(), int(fortran), bytes(raw)):
            if len(shape) > _MAX_SIDES:
                raise _RefusedError(f"an array of {len(shape)} sides")
            if any(not isinstance(side, int) or side < 0 for side in shape):
                raise _RefusedError("an array of no shape")
            if prod(shape) != len(raw):
                raise _RefusedError(f"an array of shape {shape} in {len(raw)} bytes")
            order: Any = "F" if fortran else "C"
            target.values = np.frombuffer(raw, np.uint8).reshape(shape, order=order)
            return
    raise _RefusedError(f"a state of {type(target).__name__}")


def _as_key(value: object) -> object:
    if not isinstance(value, str | bytes | int):
        raise _RefusedError(f"a key that is {type(value).__name__}")
    return value


def _expect(value: object, kind: type) -> Any:  # noqa: ANN401 - of that type
    if not isinstance(value, kind):
        raise _RefusedError(f"{type(value).__name__} in place of {kind.__name__}")
    return value


def _pushes(value: Callable[[_Machine], Any]) -> Callable[[_Machine], None]:
    return lambda machine: machine.stack.append(value(machine))


def _text(form: str) -> Callable[[_Machine], None]:
    return _pushes(lambda machine: machine.counted(form).decode("utf-8", "surrogatepass"))


def _puts(form: str) -> Callable[[_Machine], None]:
    def put(machine: _Machine) -> None:
        place = machine.number(form)
        machine.memo[place] = machine.stack[-1]

    return put


_STEPS: dict[bytes, Callable[[_Machine], None]] = {
    b"\x80": _Machine.protocol,
    b"\x95": _Machine.frame,
    b"(": lambda m: m.stack.append(_MARK),
    b"N": _pushes(lambda _: None),
    b"\x88": _pushes(lambda _: True),
    b"\x89": _pushes(lambda _: False),
    b"J": _pushes(lambda m: m.number("<i")),
    b"K": _pushes(lambda m: m.number("<B")),
    b"M": _pushes(lambda m: m.number("<H")),
    b"U": _pushes(lambda m: m.counted("<B")),
    b"T": _pushes(lambda m: m.counted("<i")),
    b"C": _pushes(lambda m: m.counted("<B")),
    b"B": _pushes(lambda m: m.counted("<I")),
    b"\x8e": _pushes(lambda m: m.counted("<Q")),
    b"X": _text("<I"),
    b"\x8c": _text("<B"),
    b"}": _pushes(lambda _: {}),
    b"]": _pushes(lambda _: []),
    b")": _pushes(lambda _: ()),
    b"\x85": lambda m: m.tuple_of(1),
    b"\x86": lambda m: m.tuple_of(2),
    b"\x87": lambda m: m.tuple_of(3),
    b"t": _pushes(lambda m: tuple(m.since_mark())),
    b"e": lambda m: m.extend(m.since_mark()),
    b"a": lambda m: m.extend([m.stack.pop()]),
    b"u": lambda m: m.set_items(m.since_mark()),
    b"s": lambda m: m.set_items([m.stack.pop(-2), m.stack.pop()]),
    b"q": _puts("<B"),
    b"r": _puts("<I"),
    b"\x94": _Machine.memoize,
    b"h": _pushes(lambda m: m.memo[m.number("<B")]),
    b"j": _pushes(lambda m: m.memo[m.number("<I")]),
    b"c": _Machine.name,
    b"\x93": _Machine.stack_name,
    b"R": _Machine.call,
    b"b": _Machine.build,
}
