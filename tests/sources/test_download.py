import fcntl
import hashlib
import http.server
import threading
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest

from ddpm_core.errors import DataError, PipelineError, StorageError
from ddpm_core.sources import download, http_answer
from ddpm_core.sources.download import RemoteFile, fetch, fetch_pinned
from ddpm_core.store import durable

CONTENT = np.random.default_rng(0).bytes(1_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


STATUS_OF = {"missing": 404, "private": 403, "gone": 410, "busy": 503, "slow-down": 429}


class Host(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT in the way that the first part of the path names."""

    requests: list[tuple[str, str | None]]

    def do_GET(self):
        way = self.path.partition("?")[0].strip("/")
        wanted = self.headers.get("Range")
        self.requests.append((way, wanted))
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        content = {"other": CONTENT[::-1], "longer": CONTENT + b"!"}.get(way, CONTENT)
        if way in STATUS_OF or (way == "refuses-ranges" and wanted):
            self.send_response(STATUS_OF.get(way, 416), "\x1b[31mphrase of a host")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if way == "drips-headers":
            self.wfile.write(b"HTTP/1.0 200 OK\r\n")
            while not self.server.dripped.wait(0.05):
                with suppress(OSError):
                    self.wfile.write(b"X-Name: value\r\n"[: 1 + len(self.requests) % 2])
            return
        if way in {"to-ftp", "loop"}:
            self.send_response(302)
            self.send_header("Location", "ftp://127.0.0.1:9/x" if way == "to-ftp" else "/loop")
            self.end_headers()
            return
        body = content if way == "no-ranges" else content[start:]
        self.send_response(206 if wanted and way != "no-ranges" else 200)
        if wanted and way != "no-ranges":
            lie = 1 if way == "other-range" else 0
            self.send_header("Content-Range", f"bytes {start + lie}-{len(content) - 1}/x")
        if way != "longer":
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if way == "drip":
            while not self.server.dripped.wait(0.05):
                with suppress(OSError):
                    self.wfile.write(b"x")
            return
        if way == "cut":
            body = body[: len(body) // 2]
        self.wfile.write(body)

    def log_message(self, *_arguments):
        pass


@pytest.fixture
def host():
    Host.requests = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Host) as server:
        server.dripped = threading.Event()
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.dripped.set()
        server.shutdown()
        thread.join()


def remote(*urls, schemes=("http",)):
    return RemoteFile("some.bin", len(CONTENT), SHA256, urls, schemes)


def test_fetch_downloads_once_and_shows_how_far_it_is(host, tmp_path, capfd):
    """Catches a cache that is never used, and a silent download."""
    path = fetch(remote(host + "good"), tmp_path / "cache" / "deep")
    assert path.read_bytes() == CONTENT
    assert fetch(remote(host + "good"), tmp_path / "cache" / "deep") == path
    assert Host.requests == [("good", None)]
    lines = capfd.readouterr().out.splitlines()
    assert lines[-1] == "shard  1000000/1000000 bytes  downloading some.bin"
    assert 2 <= len(lines) <= 10


def test_a_disk_without_room_is_reported_before_it_is_full(host, tmp_path, monkeypatch):
    """Catches hours of download that end with a full disk, and a second mirror for the same."""
    monkeypatch.setattr(durable, "free_bytes", lambda _path: 999_999)
    expected = r"1000000 bytes are needed \(999999 bytes are free\)\. Make room"
    with pytest.raises(StorageError, match=expected):
        fetch(remote(host + "good", host + "good"), tmp_path)
    assert Host.requests == [("good", None)]
    (tmp_path / "some.bin.part").write_bytes(CONTENT[:1])
    assert fetch(remote(host + "good"), tmp_path).read_bytes() == CONTENT


def test_fetch_downloads_again_what_was_damaged_in_the_cache(host, tmp_path):
    """Catches trusting a file by its name."""
    (tmp_path / "some.bin").write_bytes(CONTENT[:-1] + b"\0")
    assert fetch(remote(host + "good"), tmp_path).read_bytes() == CONTENT


def test_fetch_continues_where_it_was_cut(host, tmp_path):
    """Catches starting anew, and taking half a file for a whole one."""
    with pytest.raises(StorageError, match=r"ended after 500000 of 1000000 bytes(.|\n)*Run again"):
        fetch(remote(host + "cut"), tmp_path)
    assert not (tmp_path / "some.bin").exists()
    assert fetch(remote(host + "good"), tmp_path).read_bytes() == CONTENT
    assert Host.requests == [("cut", None), ("good", "bytes=500000-")]


def test_fetch_starts_anew_where_ranges_are_not_known(host, tmp_path):
    """Catches appending a whole file to half of it."""
    (tmp_path / "some.bin.part").write_bytes(CONTENT[:1000])
    assert fetch(remote(host + "no-ranges"), tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("way", ["other-range", "refuses-ranges"])
def test_fetch_forgets_a_beginning_that_cannot_be_continued(way, host, tmp_path):
    """Catches a download that stays stuck for ever on the same beginning."""
    (tmp_path / "some.bin.part").write_bytes(CONTENT[:1000])
    with pytest.raises(StorageError):
        fetch(remote(host + way), tmp_path)
    assert fetch(remote(host + way), tmp_path).read_bytes() == CONTENT


def test_fetch_takes_a_finished_part_without_asking(host, tmp_path):
    """Catches a range that begins at the end, which hosts refuse."""
    (tmp_path / "some.bin.part").write_bytes(CONTENT)
    assert fetch(remote(host + "good"), tmp_path).read_bytes() == CONTENT
    assert Host.requests == []


@pytest.mark.parametrize("part", [CONTENT[::-1], CONTENT + b"!", b"x" * 1000])
def test_fetch_recovers_from_a_wrong_part(part, host, tmp_path):
    """Catches a part of another file that blocks the download."""
    (tmp_path / "some.bin.part").write_bytes(part)
    path = fetch(remote(host + "good", host + "good"), tmp_path)
    assert path.read_bytes() == CONTENT


def test_what_a_host_refuses_is_no_outage(host, tmp_path):
    """Catches a wrong address that is tried again and again as if the network were away."""
    for way, status in (("missing", 404), ("private", 403), ("gone", 410)):
        with pytest.raises(DataError, match=rf"HTTP {status} (.|\n)*Running again would not help"):
            fetch(remote(host + way), tmp_path)
    for way, status in (("busy", 503), ("slow-down", 429)):
        with pytest.raises(StorageError, match=rf"HTTP {status} (.|\n)*Run again to continue"):
            fetch(remote(host + way), tmp_path)
    # One of two mirrors may come back.
    with pytest.raises(StorageError, match=r"HTTP 404 (.|\n)*HTTP 503"):
        fetch(remote(host + "missing", host + "busy"), tmp_path)


def test_what_a_host_says_does_not_reach_the_terminal_raw(host, tmp_path):
    """Catches escape sequences in the phrase behind a status."""
    for way in ("missing", "busy"):
        with pytest.raises(PipelineError, match="HTTP ") as caught:
            fetch(remote(host + way), tmp_path)
        assert "\x1b" not in str(caught.value)


def test_headers_have_a_deadline(host, tmp_path, monkeypatch):
    """Catches a timeout for each read only: a host that drips its headers was waited for, for ever.

    The host drips until the end of the test: without a deadline this test does not end.
    """
    monkeypatch.setattr(http_answer, "HEADERS_S", 0.5)
    with pytest.raises(StorageError, match=r"has not begun its answer in 0\.5 s"):
        fetch(remote(host + "drips-headers"), tmp_path)


def test_fetch_refuses_another_file(host, tmp_path):
    """Catches using what was not checked, and keeping it."""
    with pytest.raises(DataError, match=rf"SHA-256 is .*expected {SHA256}(.|\n)*data\.source"):
        fetch(remote(host + "other"), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["some.bin.lock"]


def test_fetch_stops_at_the_known_length(host, tmp_path):
    """Catches an endless body that fills the disk."""
    with pytest.raises(StorageError, match="sends more than the 1000000 bytes"):
        fetch(remote(host + "longer"), tmp_path)
    assert (tmp_path / "some.bin.part").stat().st_size <= len(CONTENT)


def test_fetch_tries_the_next_mirror(host, tmp_path):
    """Catches giving up with the first."""
    urls = [host + way for way in ("missing", "other", "cut", "good")]
    assert fetch(remote(*urls), tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("way", "message"),
    [("missing", "404"), ("to-ftp", '"ftp" is not allowed'), ("loop", "redirect")],
)
def test_fetch_says_what_each_mirror_did(way, message, host, tmp_path):
    """Catches following a redirect to anywhere, or for ever."""
    with pytest.raises(DataError, match=rf"{way}: .*{message}"):
        fetch(remote(host + way), tmp_path)
    assert len(Host.requests) <= 5


def test_fetch_does_not_show_what_signs_a_url(host, tmp_path):
    """Catches a signature in a log."""
    with pytest.raises(DataError, match="/missing: ") as caught:
        fetch(remote(host + "missing?signature=canary"), tmp_path)
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/x", "file:///etc/passwd", "ftp://a/b"])
def test_fetch_accepts_https_only_by_default(url, tmp_path):
    """Catches a published URL, or a typing mistake in one, that is read in the clear."""
    with pytest.raises(DataError, match="is not allowed, only https"):
        fetch(remote(url, schemes=RemoteFile("", 1, "", ()).schemes), tmp_path)


def test_fetch_says_when_nobody_answers(tmp_path):
    """Catches a bare URLError, and reading an outage as a wrong file."""
    with pytest.raises(StorageError, match="Run again to continue, or put the file into a folder"):
        fetch(remote("http://127.0.0.1:9/x"), tmp_path)


def test_fetch_gives_up_on_a_host_that_drips(host, tmp_path, monkeypatch):
    """Catches a deadline per read only, which ten bytes a second never trip, and a read that waits
    for as many bytes as were requested before anyone looks at the clock.
    """
    monkeypatch.setattr(download, "_GRACE_S", 0.3 - len(CONTENT) / download._MIN_BYTES_PER_S)
    with pytest.raises(StorageError, match="slower than"):
        fetch(remote(host + "drip"), tmp_path)


@pytest.mark.parametrize("url", ["http://a..b/x", "http://127.0.0.1:9/\u00e9", "http://[b/x"])
def test_a_url_that_is_none_is_one_error(url, tmp_path):
    """Catches what only the standard library says of a URL, perhaps one of a redirect."""
    with pytest.raises(DataError, match=r"some\.bin could not be downloaded"):
        fetch(remote(url), tmp_path)


def test_fetch_says_when_the_cache_cannot_be_written(tmp_path):
    """Catches a bare OSError that does not say which folder to mend."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match=r"cannot write downloads to .*file"):
        fetch(remote("https://example.invalid/x"), tmp_path / "file")


def unknown(*urls):
    return RemoteFile("some.bin", None, SHA256, urls, ("http",))


def test_fetch_of_a_file_of_unknown_length_is_resumed_and_shown(host, tmp_path, capfd):
    """Catches a file named by its digest alone that starts anew, or asks beyond its end."""
    with pytest.raises(StorageError, match="ended after 500000 of 1000000 bytes"):
        fetch(unknown(host + "cut"), tmp_path)
    assert fetch(unknown(host + "good"), tmp_path).read_bytes() == CONTENT
    assert Host.requests == [("cut", None), ("good", "bytes=500000-")]
    assert "1000000/1000000 bytes  downloading some.bin" in capfd.readouterr().out
    (tmp_path / "some.bin").rename(tmp_path / "some.bin.part")
    assert fetch(unknown(host + "good"), tmp_path).read_bytes() == CONTENT
    assert len(Host.requests) == 2


def test_fetch_of_a_file_of_unknown_length_is_bounded(host, tmp_path):
    """Catches a host that fills the disk, and one that does not say how long its file is."""
    bounded = replace(unknown(host + "good"), max_bytes=999_999)
    with pytest.raises(DataError, match="announces 1000000 bytes; at most 999999"):
        fetch(bounded, tmp_path)
    with pytest.raises(DataError, match="does not say how long"):
        fetch(unknown(host + "longer"), tmp_path)


def test_a_pinned_file_comes_from_public_hosts_by_https_only(host, tmp_path):
    """Catches a second way to download, with fewer guards, for what a configuration names."""
    words = {"suffix": ".pt", "max_bytes": 10**9, "key": "evaluate.features", "stage": "evaluate"}
    for url, said in {
        host + "good": "only https",
        "https://127.0.0.1:9/x": "no public address",
        "https://localhost:9/x": "no public address",
    }.items():
        with pytest.raises(DataError, match=rf"{said}(.|\n)*path as evaluate\.features"):
            fetch_pinned(url, SHA256, tmp_path, **words)
    # What is there already needs no host.
    there = tmp_path / "fetched" / f"{SHA256}.pt"
    there.write_bytes(CONTENT)
    assert fetch_pinned("https://127.0.0.1:9/x", SHA256, tmp_path, **words) == there
    assert Host.requests == []


def test_a_wait_for_the_download_of_another_is_said_once(tmp_path, monkeypatch):
    """Catches: a process that stands still without a word; a word where nothing is waited for."""
    said, path = [], tmp_path / "net.pt"
    monkeypatch.setattr(download, "_PATIENCE_S", 0.05)
    monkeypatch.setattr(download, "say", lambda text: (said.append(text), held.close()))
    with download.locked(path):
        held = path.with_name("net.pt.lock").open("w")
    assert said == []
    fcntl.flock(held, fcntl.LOCK_EX)
    end = threading.Timer(5, held.close)
    end.start()
    with download.locked(path):
        end.cancel()
    assert said == [f"net.pt is being fetched by another process, in {tmp_path}: waiting"]


def test_two_downloads_at_once_do_not_disturb_each_other(host, tmp_path):
    """Catches two writers of one part."""
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(fetch(remote(host + "good"), tmp_path)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [path.read_bytes() == CONTENT for path in results] == [True] * 4
    assert len(Host.requests) == 1
