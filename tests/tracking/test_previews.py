"""Previews of a run in MLflow: an image and a loss of each step, once, whatever is tried."""

import re

import numpy as np
from PIL import Image

from ddpm_core.drawing import pictures
from ddpm_core.runs import layout, previews
from ddpm_core.store.commit import commit, write_file
from ddpm_core.tracking.mlflow_run import MlflowRun
from ddpm_core.tracking.receiver import Unreachable
from tests.tracking.local import committed, history, open_quiet, the_run


def keep(store, config, step, *, average="ema", loss=0.5):
    """Keep a preview whose picture is as bright as its step."""
    folder, stem = layout.previews_folder(config.name), previews.stem_of(step)
    png = pictures.to_png(np.full((20, 20, 1), step, np.uint8))
    files = {previews.SHEET: write_file(store, folder, stem, ".png", png)}
    body = {"step": step, "average": average, "loss": loss}
    commit(store, folder, files, body, name=previews.name_of(step))
    return png


def images_of(store, config) -> dict[int, list[bytes]]:
    """Return the images of each step as MLflow's page finds them."""
    client, run = the_run(store, config)
    found: dict[int, list[bytes]] = {}
    for file in client.list_artifacts(run.info.run_id, "images"):
        name, word, step, *_ = file.path.removeprefix("images/").split("+")
        assert (name, word) == ("preview~images", "step")
        data = client.download_artifacts(run.info.run_id, file.path)
        with Image.open(data) as image:
            found.setdefault(int(step), []).append((image.format, image.getpixel((3, 3))))
    return {step: sorted(images) for step, images in found.items()}


def test_each_preview_is_there_once_with_its_step(store, config):
    """Catches an image without its step, one that a second start sends again, and a curve of two
    kinds of weights."""
    keep(store, config, 0, average="raw", loss=0.75)
    keep(store, config, 80)
    for _ in range(2):
        with open_quiet(store, config) as tracker:
            tracker.log_previews()
    keep(store, config, 120, loss=0.25)
    with open_quiet(store, config) as tracker:
        tracker.log_previews()
        tracker.log_previews()
    found = images_of(store, config)
    assert {step: [kind for kind, _ in both] for step, both in found.items()} == {
        step: ["PNG", "WEBP"] for step in (0, 80, 120)
    }
    assert all(dict(both)["PNG"] == step for step, both in found.items())
    assert history(store, config, "preview/loss_raw") == [(0, 0.75)]
    assert history(store, config, "preview/loss_ema") == [(80, 0.5), (120, 0.25)]
    _, run = the_run(store, config)
    assert run.data.tags["mlflow.loggedImages"] == "True"


def test_no_other_picture_hides_the_images(store, config):
    """Catches a file in MLflow's own folder of images that is not named as its page expects: the
    page then shows no image of any step."""
    keep(store, config, 40)
    result = committed(store, config, grid=b"a PNG")
    with open_quiet(store, config) as tracker:
        tracker.log_previews()
        tracker.log_image("grid.png", result, "grid")
    client, run = the_run(store, config)
    names = [file.path for file in client.list_artifacts(run.info.run_id, "images")]
    assert len(names) == 2
    assert all(re.fullmatch(r"images/[^+]+\+step\+40\+timestamp\+.*", name) for name in names)


def test_what_an_outage_cut_short_is_sent_by_the_next_try(store, config, monkeypatch, capsys):
    """Catches a preview that is lost because a later one has arrived, and a figure that is taken
    for sent because a later step has one."""
    for step in (40, 80, 120):
        keep(store, config, step)
    true_log, failed = MlflowRun.log_image, []

    def fails_once(self, name, png, *, step):
        if step == 80 and not failed:
            failed.append(step)
            raise Unreachable("away")
        true_log(self, name, png, step=step)

    monkeypatch.setattr(MlflowRun, "log_image", fails_once)
    with open_quiet(store, config) as tracker:
        tracker.log_previews()
    assert sorted(images_of(store, config)) == [40, 80, 120]
    assert [step for step, _ in history(store, config, "preview/loss_ema")] == [40, 80, 120]


def test_a_damaged_preview_holds_up_no_other(store, config, capsys):
    """Catches an outbox that tries a damaged file for ever, or passes over all behind it."""
    for step in (40, 80, 120):
        keep(store, config, step)
    folder = layout.previews_folder(config.name)
    (name,) = [one for one in store.names(folder) if one.startswith("step_00000080-")]
    store.write(f"{folder}/{name}", b"torn")
    with open_quiet(store, config) as tracker:
        tracker.log_previews()
    assert sorted(images_of(store, config)) == [40, 120]
    assert "did not get the previews: it refused" in capsys.readouterr().err
