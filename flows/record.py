"""What Prefect keeps of a flow: its states, its log, its artifacts. No work depends on it.

Prefect's engine writes to its API when a flow begins and ends, and raises where it cannot. Here
that ends the record, and the work goes on without it.
"""

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar

import httpx
from prefect import get_client, get_run_logger
from prefect.client.schemas.objects import State
from prefect.context import SyncClientContext
from prefect.exceptions import MissingContextError, ObjectNotFound
from prefect.logging import get_logger
from prefect.settings import (
    PREFECT_API_REQUEST_TIMEOUT,
    PREFECT_CLIENT_MAX_RETRIES,
    PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED,
    temporary_settings,
)
from prefect.states import Failed

from ddpm_core.errors import PipelineError
from ddpm_core.progress import WARNING
from flows import console

LOST = (httpx.HTTPError, ObjectNotFound)
"""what Prefect's client raises when its API is gone, or came back without this flow run"""
_BRIEFLY_S = 5.0

P = ParamSpec("P")
T = TypeVar("T")


class _WithoutTraceback(logging.Filter):
    """Takes the traceback from what Prefect logs of an error of ours: its state has the words."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and isinstance(record.exc_info[1], PipelineError):
            record.exc_info = None
        return True


for _name in ("flow_runs", "task_runs", "engine"):
    get_logger(_name).addFilter(_WithoutTraceback())

_reasons: ContextVar[list[PipelineError] | None] = ContextVar("_reasons", default=None)


class Record:
    """Prefect's record of the flows that are called through it, as long as its API answers."""

    def __init__(self) -> None:
        self._is_lost = False
        self.results: dict[str, Any] = {}
        """what the calls so far returned, by name"""

    def of(self, name: str, call: Callable[[], T], without: Callable[[], T]) -> T:
        """Return `call()`, a flow of Prefect's; if the API is lost, `without()`, the same work.

        Raises:
            PipelineError: what ended the work, whether or not Prefect recorded it.
        """
        result = self.results[name] = self._of(call, without)
        return result

    def _of(self, call: Callable[[], T], without: Callable[[], T]) -> T:
        reasons: list[PipelineError] = []
        token = _reasons.set(reasons)
        trouble = "it does not answer"
        try:
            if not self._is_lost or is_answering():
                return call()
        except (*LOST, RuntimeError) as error:
            if not isinstance(error, LOST) and not isinstance(error.__cause__, LOST):
                raise  # Prefect's own RuntimeError, "failed to reach API", is of one of these
            if reasons:
                raise reasons[-1] from None
            trouble = _first_line(error)
        finally:
            _reasons.reset(token)
        if not self._is_lost:
            say(f"{WARNING}Prefect's API is gone ({trouble}); the work goes on without its record")
        self._is_lost = True
        return without()


_current: ContextVar[Record | None] = ContextVar("_current", default=None)


@contextlib.contextmanager
def one_record() -> Iterator[Record]:
    """Yield the record that all flows called within the block share."""
    record = _current.get() or Record()
    token = _current.set(record)
    try:
        yield record
    finally:
        _current.reset(token)


def explained(function: Callable[P, T]) -> Callable[P, T]:
    """Let an error of ours be the message of the state in which a flow or task of Prefect's ends.

    Of an exception Prefect makes a message of its own, and two tracebacks in the log. The caller
    gets the error either way.
    """

    @functools.wraps(function)
    def call(*arguments: P.args, **options: P.kwargs) -> T:
        reasons = _reasons.get()
        try:
            result = function(*arguments, **options)
        except PipelineError as error:
            if reasons is not None:
                reasons.append(error)
            failed: Any = Failed(message=str(error), data=error)
            return failed  # type: ignore[no-any-return]
        if reasons is not None:
            reasons.clear()  # an attempt failed, and this one did not
        return result

    return call


def say(text: str) -> None:
    """Show a line to the person in front of the terminal, if any, and keep it in the flow's log."""
    if (terminal := console.shown()) is not None:
        terminal.say(text)
    logger().info("%s", text)


def logger() -> logging.Logger | logging.LoggerAdapter[Any]:
    """Return the log of this run in Prefect; outside of one, Prefect's own."""
    try:
        return get_run_logger()
    except MissingContextError:
        return get_logger("flows")


def error_of(state: State[Any]) -> object:
    """Return the error that a state holds."""
    return state.result(raise_on_failure=False)


def is_answering() -> bool:
    """Return whether Prefect's API answers within seconds."""
    with briefly(), get_client(sync_client=True) as client:
        return client.api_healthcheck() is None


@contextlib.contextmanager
def briefly() -> Iterator[None]:
    """Within the block, Prefect's client tries once, and waits for seconds, where it would wait for
    minutes: what is written there can be done without.
    """
    settings = {
        PREFECT_API_REQUEST_TIMEOUT: _BRIEFLY_S,
        PREFECT_CLIENT_MAX_RETRIES: 0,
        PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED: False,
    }
    with temporary_settings(updates=settings), SyncClientContext():
        yield


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"[:200]
