"""As much of S3 as the store uses, in memory, with a say in what goes wrong."""

import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

BUCKET = "pictures"
SECRET = "canary-secret-canary"  # noqa: S105 - must never be seen again


@dataclass
class Answer:
    """What goes back; `code` makes it one of S3's errors."""

    status: int = 200
    body: bytes = b""
    code: str = ""
    cut_at: int | None = None
    """close the connection after this many bytes of the body"""
    bytes_per_s: float | None = None
    reply: bool = True
    """False: close the connection without a word"""
    headers: dict[str, str] = field(default_factory=dict)


Fault = Callable[[str, str, Callable[[], Answer]], Answer]
"""(method, key or "" for a listing, how it would be answered) -> how it is answered"""


class FakeS3:
    """One bucket; `fault` stands between the request and its answer."""

    def __init__(self) -> None:
        self.stopped = threading.Event()
        self.reset()

    def reset(self) -> None:
        """Be an empty server again, in which nothing goes wrong."""
        self.objects: dict[str, bytes] = {}
        self.page_size = 1000
        self.authorizations: list[str] = []
        self.fault: Fault = lambda _method, _key, answer: answer()

    def answer(self, method: str, url: str, headers: dict[str, str], body: bytes) -> Answer:
        parts = urlsplit(url)
        bucket, _, key = unquote(parts.path).lstrip("/").partition("/")
        self.authorizations.append(headers.get("authorization", ""))
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}

        def usual() -> Answer:
            if bucket != BUCKET:
                return Answer(404, code="NoSuchBucket")
            if not key:
                return self._list(query)
            if method == "PUT":
                if headers.get("if-none-match") == "*" and key in self.objects:
                    return Answer(412, code="PreconditionFailed")
                source = unquote(headers.get("x-amz-copy-source", "")).lstrip("/")
                copied = self.objects.get(source.removeprefix(f"{BUCKET}/"), b"")
                self.objects[key] = copied if source else body
                return Answer(body=b"<CopyObjectResult/>" if source else b"")
            if method == "DELETE":
                self.objects.pop(key, None)
                return Answer(204)
            if key not in self.objects:
                return Answer(404, code="NoSuchKey")
            tag = self.tag_of(key)
            if headers.get("if-match", tag) != tag:
                return Answer(412, code="PreconditionFailed")
            found = self._part(self.objects[key], headers.get("range"))
            found.headers["ETag"] = tag
            return found

        return self.fault(method, key, usual)

    def tag_of(self, key: str) -> str:
        """The ETag of an object."""
        return f'"{zlib.crc32(self.objects[key]):x}"'

    @staticmethod
    def _part(data: bytes, wanted: str | None) -> Answer:
        if wanted is None:
            return Answer(body=data)
        first, last = (int(number) for number in wanted.removeprefix("bytes=").split("-"))
        if first >= len(data):
            return Answer(416, code="InvalidRange")
        part = data[first : last + 1]
        where = f"bytes {first}-{first + len(part) - 1}/{len(data)}"
        return Answer(206, part, headers={"Content-Range": where})

    def _list(self, query: dict[str, str]) -> Answer:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
        found = {}
        for key in sorted(self.objects):
            if key.startswith(prefix):
                head, slash, _ = key[len(prefix) :].partition(delimiter or "\0")
                found[prefix + head + slash] = bool(slash)
        after = query.get("continuation-token", "")
        size = min(self.page_size, int(query.get("max-keys", 1000)))
        rest = [name for name in found if name > after]
        page, more = rest[:size], len(rest) > size
        items = "".join(
            f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>"
            if found[name]
            else f"<Contents><Key>{escape(name)}</Key><Size>{len(self.objects[name])}</Size>"
            f"<ETag>{escape(self.tag_of(name))}</ETag></Contents>"
            for name in page
        )
        token = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if more else ""
        text = (
            f"<ListBucketResult><IsTruncated>{str(more).lower()}</IsTruncated>{items}{token}"
            "</ListBucketResult>"
        )
        return Answer(body=text.encode())


@contextmanager
def serving(server: FakeS3) -> Iterator[str]:
    """Serve on a free port of this machine; yield the endpoint."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _handle(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            answer = server.answer(self.command, self.path, headers, body)
            if not answer.reply:
                self.close_connection = True
                return
            if answer.code:
                answer.body = f"<Error><Code>{answer.code}</Code></Error>".encode()
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            if "ETag" not in answer.headers:
                self.send_header("ETag", '"0"')
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            if self.command == "HEAD":
                return
            if answer.bytes_per_s is not None:
                for byte in answer.body:
                    self.wfile.write(bytes([byte]))
                    if server.stopped.wait(1 / answer.bytes_per_s):
                        break
                return
            self.wfile.write(answer.body[: answer.cut_at])
            self.close_connection = answer.cut_at is not None

        do_GET = do_PUT = do_DELETE = do_HEAD = _handle  # noqa: N815

        def log_message(self, *_args: object) -> None:
            pass

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_args: object) -> None:
            """A client that has gone is what some tests are about."""

    http = Quiet(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{http.server_address[1]}"
    finally:
        server.stopped.set()
        http.shutdown()
        thread.join()
        http.server_close()
