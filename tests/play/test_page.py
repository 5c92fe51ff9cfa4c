"""The page to play with, in a browser."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from ddpm_core.runs.run import open_run
from tests.browser import needs_browser, opened
from tests.sampling.tiny import (  # noqa: F401 - fixtures
    _trained_root,
    one_thread,
    store,
    trained,
)


@needs_browser
@pytest.mark.slow
def test_a_person_draws_and_paints(trained, tmp_path):  # noqa: F811
    """Catches: a page that asks of other hosts, a button that does nothing, a drawing that is not
    shown while it is made, and a mask that does not reach the model."""
    where, config = trained
    open_run(where, config)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "ddpm_core", "play", "--root", where.uri, "--port", str(port)]
    environment = {**os.environ, "HOME": str(tmp_path)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert "tiny@10:ema" in server.stdout.readline()
            address = f"http://127.0.0.1:{port}"
            wait_until_served(address)
            with opened(address) as seen:
                use(seen)
        finally:
            server.send_signal(signal.SIGINT)
        assert server.wait(60) in (0, 130)


def use(seen):
    note = seen.locator("#draw-note")
    seen.click("#draw")
    note.filter(has_text=re.compile(r"step \d+ of \d+")).wait_for()
    note.filter(has_text="step 21 of 21").wait_for()
    assert seen.locator("#drawn img").get_attribute("src").endswith(".png")
    seen.get_by_role("tab", name="paint").click()
    seen.click("#take")
    canvas = seen.locator("#editor canvas").first
    canvas.wait_for()
    seen.click("#paint")
    seen.get_by_text("nothing is painted over yet").wait_for()
    box = canvas.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    seen.mouse.move(x, y)
    seen.mouse.down()
    seen.mouse.move(x + 30, y + 30, steps=5)
    seen.mouse.up()
    seen.click("#paint")
    seen.locator("#painted img").wait_for()


def wait_until_served(address):
    for _ in range(600):
        try:
            urllib.request.urlopen(address, timeout=10).close()  # noqa: S310 - on loopback
        except OSError:
            time.sleep(0.1)
        else:
            return
    pytest.fail(f"nothing is served at {address}")
