"""What is known to have arrived, and what is kept."""

import shlex
import socket

import pytest

from ddpm_core.runs import layout
from ddpm_core.store.storage import open_store
from ddpm_core.tracking import opening, receipts
from ddpm_core.tracking import tracker as tracker_module
from tests.tracking.local import artifact, closed_port, committed, log, open_quiet, the_run


@pytest.fixture
def shared(tmp_path, monkeypatch):
    """A root of its own, and a database that stands for a server: it may be away."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/server.db")
    return open_store(str(tmp_path / "root"))


def deliver(store, config, result, stage="sample"):
    """Return whether it was logged, and whether all arrived."""
    logged = []

    def log():
        logged.append(True)
        tracker.log_image("grid.png", result, "grid")

    tracker = open_quiet(store, config, stage)
    tracker.deliver(result, log)
    return bool(logged), tracker.close()


def test_what_has_arrived_needs_no_server(shared, config, monkeypatch, capsys):
    """Catches seconds of waiting for a server that is away, with nothing to send; a receipt that
    another server, or other content, takes for its own."""
    result = committed(shared, config, grid=b"a PNG")
    assert deliver(shared, config, result) == (True, True)
    reached = []
    monkeypatch.setattr(tracker_module, "open_outbox", reached.append)
    assert deliver(shared, config, result) == (False, True)
    assert not reached
    monkeypatch.undo()
    other = committed(shared, config, grid=b"another")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://user:secret@127.0.0.1:{closed_port()}")
    monkeypatch.setattr(opening, "SILENCE_S", 0.1)
    assert deliver(shared, config, result) == (True, False)
    assert deliver(shared, config, other) == (True, False)
    names = shared.names(layout.tracking_folder(config.name))
    assert len(names) == 2, "the place of the run on the first server, and its receipt"
    assert "secret" not in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["dead", "silent"])
def test_what_was_kept_is_delivered_by_the_next_stage(shared, config, monkeypatch, kind):
    """Catches results that arrive only if the very stage is started again, and an hour of waiting
    for a server that takes requests and never answers."""
    result = committed(shared, config, grid=b"a PNG")
    with monkeypatch.context() as patch, socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        if kind == "silent":
            taken.listen()
        patch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{taken.getsockname()[1]}")
        patch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "3600")
        patch.setattr(opening, "SILENCE_S", 0.1)
        assert deliver(shared, config, result) == (True, False)
    assert deliver(shared, config, result, stage="evaluate") == (True, True)
    assert artifact(shared, config, "pictures/grid.png") == b"a PNG"
    assert deliver(shared, config, result) == (False, True)


def test_the_database_in_the_root_is_read_each_time(store, config):
    """Catches a receipt that outlives a deleted database."""
    result = committed(store, config, grid=b"a PNG")
    for _ in range(2):
        assert deliver(store, config, result) == (True, True)


def test_the_page_of_the_run_is_known_without_mlflow(store, config):
    """Catches a link to a page that MLflow does not have, to another run's, to that for agents."""
    assert receipts.page_of(store, config.name) is None
    log(store, config)
    _, run = the_run(store, config)
    place_ = f"experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
    assert receipts.page_of(store, config.name) == f"/#/{place_}?workflowType=machine_learning"


def test_the_command_that_sends_what_was_kept_is_whole(store, config, monkeypatch, capsys):
    """Catches a command that sends the results of run.json instead of those that were kept."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{closed_port()}")
    monkeypatch.setattr(opening, "SILENCE_S", 0.1)
    store.create(layout.run_json_key(config.name), config.to_json().encode())
    other = config.replaced({"sample.sampler": "unipc", "sample.num_steps": 10})
    tracker = open_quiet(store, other, "sample")
    tracker.set_tags({"a": "b"})
    assert not tracker.close(3600)
    command = capsys.readouterr().err.rpartition("or now `")[2].partition("`")[0]
    words = shlex.split(command)
    assert words[3:5] == ["sample", store.uri_of(layout.run_json_key(config.name))]
    changes = dict(word.split("=") for word in words[6::2])
    assert changes == {"sample.sampler": "unipc", "sample.num_steps": "10"}
