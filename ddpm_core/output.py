"""Lines for people: one that cannot be shown ends no work, and leaves the exit code as it is."""

import os
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

_OBEYED = ("Cc", "Cf", "Zl", "Zp")
"""control characters, those of direction and joining, and separators of lines and paragraphs"""


def say(text: object, *, stream: TextIO | None = None, end: str = "\n") -> None:
    """Print at once, so that a follower sees it now; never raises for the sake of the stream.

    Letters that the stream's encoding lacks are escaped. Once the stream is closed (`| head -1`)
    or full, this line and those to come go nowhere, which is said once on standard error.

    Args:
        text: what to print.
        stream: None is standard output.
        end: what follows it.
    """
    stream = stream if stream is not None else sys.stdout
    if stream is None or stream.closed:
        return
    try:
        print(_encodable(str(text), stream), end=end, file=stream, flush=True)
    except (OSError, ValueError) as error:  # ValueError: another thread has closed it
        _give_up(stream, error)


@contextmanager
def command_output() -> Iterator[None]:
    """Within the block, which is a whole command, standard output and error may fail.

    Without it the interpreter's last flush fails, and the exit code of finished work is 120.
    """
    _open_what_is_closed()
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None and not stream.closed:
                try:
                    stream.flush()
                except (OSError, ValueError) as error:
                    _give_up(stream, error)


def printable(text: str) -> str:
    """Return `text` with the characters escaped that a terminal obeys rather than shows.

    Names in foreign files come with them: escape sequences, and letters that turn the direction.
    """
    return "".join(
        character if character in "\n\t" or unicodedata.category(character) not in _OBEYED
        else character.encode("unicode_escape").decode()
        for character in text
    )  # fmt: skip


def _encodable(text: str, stream: TextIO) -> str:
    encoding = getattr(stream, "encoding", None)
    if encoding is None:
        return text
    return text.encode(encoding, "backslashreplace").decode(encoding)


def _give_up(stream: TextIO, error: Exception) -> None:
    """Send what is still in the stream's buffer, and what is yet to come, nowhere."""
    with suppress(OSError, ValueError):  # a stream without a descriptor keeps nothing
        nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.dup2(nowhere, stream.fileno())
        finally:
            os.close(nowhere)
    if stream is not sys.stderr:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        say(
            f"standard output cannot be written ({reason}); the work goes on, its lines are not "
            "shown, and the exit code says how it ended",
            stream=sys.stderr,
        )


def _open_what_is_closed() -> None:
    """Open the null device as standard input, output and error where these are closed (`>&-`).

    Else the next file that is opened gets the number, and the lines that C libraries print.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number: this one
