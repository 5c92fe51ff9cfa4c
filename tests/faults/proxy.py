"""A proxy between a client of S3 and its server that breaks HTTP on purpose.

Each connection carries one request, whole or not, so that every fault has a place to happen.
"""

import asyncio
import re
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal[
    "answer",  # an error of S3's, without asking the server
    "reset",  # the connection is reset instead of an answer; the server gets no request
    "stall",  # nothing comes back, until the client is tired of it
    "lose",  # the server does it; the reply is lost
    "cut",  # the reply ends after `at` bytes of its body, politely
    "reset body",  # the same with a reset
    "stall body",  # the same, and the connection stays
    "flip",  # a bit of byte `at` of the reply's body changes
    "cut upload",  # the server gets `at` bytes of the request's body, then a reset; so the client
    "flip upload",  # a bit of byte `at` of the request's body changes
]


@dataclass
class Fault:
    """What happens to `times` requests whose first line matches `on`, from the `skip`-th on."""

    kind: Kind
    times: float = 1
    on: str = ""
    at: int = 0
    status: int = 503
    code: str = "SlowDown"
    skip: int = 0


@dataclass
class Message:
    """A request or a reply: first line and headers as they came, and how long the body is."""

    head: bytes
    length: int

    @property
    def line(self) -> str:
        return self.head.split(b"\r\n", 1)[0].decode()

    def value(self, name: str) -> str:
        """Return the value of a header, or an empty text."""
        found = re.search(rf"\r\n{name}: *([^\r]*)".encode(), self.head, flags=re.IGNORECASE)
        return found[1].decode() if found else ""

    def without(self, *names: str) -> bytes:
        """Return the head with the connection closed after it, and without some headers."""
        head = self.head
        for name in ("connection", "keep-alive", *names):
            head = re.sub(rf"\r\n{name}:[^\r]*".encode(), b"", head, flags=re.IGNORECASE)
        return head[:-2] + b"Connection: close\r\n\r\n"


@dataclass
class FaultProxy:
    """Passes on what is said to and by `127.0.0.1:upstream`, except for `faults`."""

    upstream: int
    faults: list[Fault] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)
    """the first lines of all requests"""
    ranges: list[str] = field(default_factory=list)
    """and which bytes each wants, as its header says; empty: whole"""
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # The loop holds its tasks weakly: one whose peer is gone is collected where it stands.
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            with suppress(OSError, asyncio.IncompleteReadError):
                request = await _read_head(reader)
                self.seen.append(request.line)
                self.ranges.append(request.value("range"))
                await self._carry(self._fault_of(request.line), request, reader, writer)
        finally:
            await _close(writer)

    def _fault_of(self, line: str) -> Fault | None:
        for fault in self.faults:
            if fault.times > 0 and re.search(fault.on, line):
                if fault.skip == 0:
                    fault.times -= 1
                    return fault
                fault.skip -= 1
        return None

    async def _carry(
        self,
        fault: Fault | None,
        request: Message,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        kind = fault.kind if fault else None
        if kind == "reset":
            return _reset(writer)
        if kind == "stall":
            await asyncio.sleep(60)
        if re.search(rb"(?i)\r\nexpect: *100-continue", request.head):
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        wanted = min(request.length, fault.at) if fault and kind == "cut upload" else request.length
        body = await reader.readexactly(wanted)
        if fault and kind == "answer":
            return _answer(fault, request, writer)
        if fault and kind == "flip upload" and body:
            body = _flipped(body, min(fault.at, len(body) - 1))
        server_reader, server = await asyncio.open_connection("127.0.0.1", self.upstream)
        try:
            server.write(request.without("expect") + body)
            await server.drain()
            if kind == "cut upload":
                _reset(server)
                return _reset(writer)
            reply = await _read_head(server_reader)
            if kind == "lose":
                await server_reader.read()
                return _reset(writer)
            writer.write(reply.without())
            await _pass_body(fault, server_reader, writer)
        finally:
            await _close(server)
        return None


async def _pass_body(
    fault: Fault | None, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    num_passed = 0
    while chunk := await reader.read(2**16):
        if fault is not None and num_passed <= fault.at < num_passed + len(chunk):
            here = fault.at - num_passed
            if fault.kind == "flip":
                chunk = _flipped(chunk, here)
            elif fault.kind in ("cut", "reset body", "stall body"):
                writer.write(chunk[:here])
                await writer.drain()
                if fault.kind == "stall body":
                    await asyncio.sleep(60)
                return None if fault.kind == "cut" else _reset(writer)
        writer.write(chunk)
        await writer.drain()
        num_passed += len(chunk)
    return None


async def _read_head(reader: asyncio.StreamReader) -> Message:
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    return Message(head, int(length[1]) if length else 0)


def _answer(fault: Fault, request: Message, writer: asyncio.StreamWriter) -> None:
    body = f"<Error><Code>{fault.code}</Code></Error>".encode()
    head = f"HTTP/1.1 {fault.status} Injected\r\nContent-Length: {len(body)}\r\n"
    writer.write(f"{head}Connection: close\r\n\r\n".encode())
    if not request.line.startswith("HEAD"):
        writer.write(body)


def _flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close at once: what was sent and not yet received is lost too."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()


@contextmanager
def proxying(upstream: int) -> Iterator[tuple[str, FaultProxy]]:
    """Run a proxy to that port on a thread of its own; yield its endpoint, and itself."""
    proxy, loop = FaultProxy(upstream), asyncio.new_event_loop()
    server = loop.run_until_complete(asyncio.start_server(proxy.serve, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", proxy
    finally:
        asyncio.run_coroutine_threadsafe(_end(server), loop).result(timeout=10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _end(server: asyncio.Server) -> None:
    server.close()
    tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
