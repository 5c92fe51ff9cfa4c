"""One HTTP answer: which addresses and redirects are followed, how long it may take to begin.

urllib's own limits are one timeout for each read: a host that sends a byte of its headers now and
then is waited for as long as it likes. Here connecting, redirects and headers have one deadline.
"""

import http
import http.client
import socket
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from types import TracebackType
from typing import IO, Any, Self
from urllib.parse import urlsplit

from ddpm_core.images.names import quoted
from ddpm_core.sources.public_hosts import NotPublicError, PublicConnection

_SILENCE_S = 30.0
HEADERS_S = 60.0
"""Connecting, all redirects and the headers of the answer, together."""
_MAX_REDIRECTS = 3
_OUTAGES = frozenset({408, 416, 425, 429})
"""Statuses of 4xx after which the same request may succeed; 416: what was kept is thrown away."""


class RefusedError(OSError):
    """The same request would fail again: it is not an outage."""


_FINAL = (
    RefusedError,
    NotPublicError,
    ssl.SSLCertVerificationError,
    ValueError,
    http.client.InvalidURL,
)


@contextmanager
def opened(
    url: str, headers: Mapping[str, str], *, schemes: tuple[str, ...], public_only: bool
) -> Iterator[http.client.HTTPResponse]:
    """Give the answer to a GET, after at most 60 s; its body is read by the caller.

    Args:
        url: of the file.
        headers: of the request.
        schemes: what `url`, and whatever it redirects to, may begin with.
        public_only: refuse hosts, of redirects too, whose address is not one of the public
            Internet.

    Raises:
        OSError: there is no answer, or a bad one; `is_final` says whether asking again may help.
        http.client.HTTPException: the host does not speak HTTP.
        ValueError: the URL, or that of a redirect, is none.
    """
    _check_scheme(url, schemes)
    request = urllib.request.Request(url, headers=dict(headers))  # noqa: S310 - checked above
    with _Deadline(HEADERS_S) as deadline:
        handlers = (_Http(deadline), _Https(deadline, public_only), _Redirects(schemes))
        try:
            response = urllib.request.build_opener(*handlers).open(request, timeout=_SILENCE_S)
        except (OSError, http.client.HTTPException):
            if not deadline.is_over:
                raise
            response = None
    # Headers that are cut off look as if they had ended.
    if response is None or deadline.is_over:
        if response is not None:
            response.close()
        raise OSError(f"the host has not begun its answer in {HEADERS_S:g} s")
    with response:
        yield response


def is_final(error: Exception) -> bool:
    """Return whether the same request would fail again, so that a retry is useless."""
    if isinstance(error, urllib.error.HTTPError):
        return error.code < http.HTTPStatus.INTERNAL_SERVER_ERROR and error.code not in _OUTAGES
    if isinstance(error, urllib.error.URLError) and isinstance(error.reason, Exception):
        return is_final(error.reason)
    return isinstance(error, _FINAL)


def reason_of(error: Exception) -> str:
    """Return what went wrong in one line; what a host wrote is shown without control characters."""
    if isinstance(error, urllib.error.HTTPError):
        if error.code in (301, 302, 303, 307, 308):
            return f"HTTP {error.code}: more than {_MAX_REDIRECTS} redirects, or to nowhere"
        with suppress(ValueError):
            return f"HTTP {error.code} {http.HTTPStatus(error.code).phrase}"
        return f"HTTP {error.code}"
    if isinstance(error, urllib.error.URLError) and isinstance(error.reason, Exception):
        return reason_of(error.reason)
    text = str(error) or type(error).__name__
    return text if text.isascii() and text.isprintable() else quoted(text)


class _Deadline:
    """Ends the connections of a request that has not been answered in time."""

    def __init__(self, seconds: float) -> None:
        self.is_over = False
        self._sockets: list[socket.socket] = []
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._timer.cancel()

    def watch(self, connection: socket.socket) -> None:
        self._sockets.append(connection)
        if self.is_over:
            self._end()

    def _end(self) -> None:
        self.is_over = True
        for one in self._sockets:
            with suppress(OSError):
                # Not ssl's own, which would leave the thread that reads without its encryption.
                socket.socket.shutdown(one, socket.SHUT_RDWR)


class _Watched(http.client.HTTPConnection):
    def __init__(self, host: str, *, deadline: _Deadline, **words: Any) -> None:  # noqa: ANN401 - http.client's signature
        super().__init__(host, **words)
        self._deadline = deadline

    def connect(self) -> None:
        super().connect()
        self._deadline.watch(self.sock)


class _WatchedHttps(_Watched, http.client.HTTPSConnection):
    pass


class _WatchedPublic(_Watched, PublicConnection):
    pass


class _Http(urllib.request.HTTPHandler):
    def __init__(self, deadline: _Deadline) -> None:
        super().__init__()
        self._deadline = deadline

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(partial(_Watched, deadline=self._deadline), req)


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, deadline: _Deadline, public_only: bool) -> None:
        super().__init__()
        self._deadline = deadline
        self._kind: type[_Watched] = _WatchedPublic if public_only else _WatchedHttps

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(partial(self._kind, deadline=self._deadline), req)


class _Redirects(urllib.request.HTTPRedirectHandler):
    max_redirections = _MAX_REDIRECTS

    def __init__(self, schemes: tuple[str, ...]) -> None:
        self._schemes = schemes

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: Any,  # noqa: ANN401 - urllib's signature
        newurl: str,
    ) -> urllib.request.Request | None:
        _check_scheme(newurl, self._schemes)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _check_scheme(url: str, schemes: tuple[str, ...]) -> None:
    scheme = urlsplit(url).scheme
    if scheme not in schemes:
        raise RefusedError(f"{quoted(scheme)} is not allowed, only {', '.join(schemes)}")
