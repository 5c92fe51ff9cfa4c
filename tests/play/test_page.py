"""The page to play with, in a browser."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import numpy as np
import pytest

from ddpm_core.__main__ import main
from ddpm_core.api import Run
from ddpm_core.errors import ConfigError, DataError
from ddpm_core.play.page import _Acts, _sampler_of, serve
from ddpm_core.runs.run import open_run
from tests.browser import needs_browser, opened
from tests.sampling.tiny import (  # noqa: F401 - fixtures
    _trained_root,
    commit_random_weights,
    one_thread,
    store,
    tiny_config,
    trained,
)
from tests.sampling.worded import (  # noqa: F401 - fixtures
    _worded_root,
    prompted,
    worded,
    worded_config,
)

DRIFT = {
    "diffusion.prediction": "drift",
    "diffusion.variance": "learned_beta",
    "train.loss": "vlb",
}


pytest_plugins = ["tests.s3_fixtures"]


@needs_browser
@pytest.mark.slow
def test_a_person_draws_and_paints(trained, tmp_path):  # noqa: F811
    """Catches: a page that asks of other hosts, a button that does nothing, a drawing that is not
    shown while it is made, and a mask that does not reach the model."""
    where, config = trained
    open_run(where, config)
    with played(where.uri, tmp_path) as seen:
        use(seen)
        (kept,) = tmp_path.joinpath("tmp").glob("ddpm-play-*")
        assert any(kept.rglob("*.png"))
    assert not any(tmp_path.joinpath("tmp").rglob("*.png"))  # what was drawn goes with the page


@needs_browser
@pytest.mark.slow
def test_a_run_in_a_bucket_is_drawn_from(s3_store, trained, tmp_path):  # noqa: F811
    """Catches: a model that is looked for on the disk, and a process without the bucket's keys."""
    where, config = trained
    open_run(where, config)
    for path in filter(Path.is_file, Path(where.uri).rglob("*")):
        s3_store.write(str(path.relative_to(where.uri)), path.read_bytes())
    with played(s3_store.uri, tmp_path) as seen:
        draw(seen)


@contextmanager
def played(root, folder):
    """Give the page of `ddpm play` on a root, in a browser; end the process as a person does."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "ddpm_core", "play", "--root", root, "--port", str(port)]
    (folder / "tmp").mkdir()
    environment = {**os.environ, "HOME": str(folder), "TMPDIR": str(folder / "tmp")}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, text=True, preexec_fn=heed_control_c
    ) as server:
        try:
            assert "tiny@10:ema" in server.stdout.readline()
            address = f"http://127.0.0.1:{port}"
            wait_until_served(address)
            with opened(address) as seen:
                yield seen
        finally:
            server.send_signal(signal.SIGINT)
        assert server.wait(60) in (0, 130)


def test_what_is_painted_on_is_what_was_taken(trained):  # noqa: F811
    """Catches: another seed after the image was taken, by which another image is edited than the
    one that is seen."""
    where, config = trained
    open_run(where, config)
    acts = _Acts(Run.load("tiny", root=where.uri))
    how = ("ddim", 3, "all in turn", "", 1.0)
    editor, image, _ = acts.canvas(None, *how, 0)
    layer = np.zeros((320, 320, 4), np.uint8)
    layer[:40, :40] = 255
    painted = acts.paint({**editor, "layers": [layer]}, image, *how, None)
    again = acts.paint({**editor, "layers": [layer]}, image, *how, 7)
    seen = [np.asarray(one)[:, : one.width // 5] for one in (painted, again)]
    np.testing.assert_array_equal(*seen)  # the first is the image itself
    assert (np.asarray(painted) != np.asarray(again)).any()
    with pytest.raises(gr.Error, match="take an image first"):
        acts.paint({**editor, "layers": [layer]}, None, *how, 0)


@pytest.mark.parametrize(
    ("changes", "sampler", "steps"),
    [
        ({"diffusion.num_timesteps": 100}, "ddim", 50),
        ({"diffusion.num_timesteps": 100, **DRIFT}, "ancestral", 100),
    ],
)
def test_what_a_page_begins_with_can_be_drawn(changes, sampler, steps):
    """Catches: a sampler of few steps for a network that speaks of single ones."""
    run = SimpleNamespace(config=tiny_config(**changes), denoiser=None)
    chosen, taken = _sampler_of(run)
    assert (chosen.value, taken.value) == (sampler, steps)


def test_a_file_that_is_no_image_is_said_by_its_name(trained, tmp_path):  # noqa: F811
    """Catches: the folder of this machine in which the page keeps what it is sent, on the page."""
    where, config = trained
    open_run(where, config)
    acts = _Acts(Run.load("tiny", root=where.uri))
    bad = tmp_path / "kept" / "bad.png"
    bad.parent.mkdir()
    bad.write_bytes(b"<svg/>")
    given = {acts.code: (str(bad),), acts.between: (None, str(bad), 1, 0.5)}
    for act, files in given.items():
        with pytest.raises(DataError, match=r"^bad\.png cannot be used") as said:
            act(*files, "ddim", 3, "all in turn", "", 1.0, 0)
        assert str(tmp_path) not in str(said.value)


@pytest.mark.parametrize("port", [0, 70000])
def test_a_port_that_is_none_is_said(port):
    with pytest.raises(ConfigError, match=f"port {port} must be from 1 to 65535"):
        serve(None, port=port)


def test_a_port_that_is_taken_is_said_before_a_model_is_looked_for(tmp_path, capfd):
    """Catches: a minute of loading before the refusal, and the address of another's page."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        words = ["play", "--root", str(tmp_path), "--port", str(port)]
        assert main(words) == ConfigError.exit_code
    said = capfd.readouterr()
    assert f"port {port} of this machine cannot be used" in said.err + said.out
    assert "http://" not in said.err + said.out
    assert not any(tmp_path.iterdir())


def heed_control_c():
    """A shell that started these tests in the background has it ignored, which is inherited."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def use(seen):
    seed = seen.locator("#seed input")
    seed.fill("-3")
    seed.press("Tab")
    seen.click("#draw")
    seen.get_by_text("seed=-3 must be from 0 to").wait_for()
    seed.fill("0")
    seed.press("Tab")
    draw(seen)
    seen.get_by_role("tab", name="paint").click()
    seen.click("#take")
    canvas = seen.locator("#editor canvas").first
    canvas.wait_for()
    seen.locator("#take-note").filter(has_text="paint over").wait_for()
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


def draw(seen):
    note = seen.locator("#draw-note")
    seen.click("#draw")
    note.filter(has_text=re.compile(r"step \d+ of \d+")).wait_for()
    note.filter(has_text="step 21 of 21").wait_for()
    assert seen.locator("#drawn img").get_attribute("src").endswith(".png")


def wait_until_served(address):
    for _ in range(600):
        try:
            urllib.request.urlopen(address, timeout=10).close()  # noqa: S310 - on loopback
        except OSError:
            time.sleep(0.1)
        else:
            return
    pytest.fail(f"nothing is served at {address}")


def test_the_page_draws_the_prompt_that_is_written(prompted):  # noqa: F811
    """Catches a field that does nothing, and an empty one that means the empty text."""
    open_run(prompted, worded_config())
    run = Run.load("tiny", root=prompted.uri)
    acts = _Acts(run)
    how = ("ancestral", 21, "all in turn")
    assert acts.is_guided
    drawn = acts.one(*how, " two ", 1.0, 0)
    np.testing.assert_array_equal(drawn, run.sample(1, prompts="two", steps=None)[0])
    np.testing.assert_array_equal(acts.one(*how, " ", 1.0, 0), run.sample(1)[0])


def test_the_page_draws_what_is_enlarged(store):  # noqa: F811
    """Catches classes of held-out images that are asked for, which such a run refuses."""
    config = tiny_config(name="up", **{"model.low_size": [4, 4]})
    open_run(store, config)
    commit_random_weights(store, config)
    run = Run.load("up", root=store.uri)
    acts = _Acts(run)
    drawn = acts.one("ancestral", 21, "all in turn", "", 1.0, 0)
    assert run.classes
    np.testing.assert_array_equal(drawn, run.sample(1)[0])
