"""Prefect's API gone: its record ends, the work goes on."""

import contextlib
import io
import logging

import httpx
import pytest

from ddpm_core import errors
from flows import console
from flows.command_line import TRAIN_DDPM
from flows.embedded import Cluster
from tests.flows.fakes import FakeJobs, finish


@pytest.fixture
def shown():
    """Give what the person in front of the terminal sees."""
    stream = io.StringIO()
    with console.show_on(console.Console(stream)):
        yield stream


def lost():
    raise httpx.ConnectError("nobody there")


def test_work_goes_on_without_its_record_and_says_so_once(shown, monkeypatch):
    """Catches: a training that ends with a traceback since the server of its record is gone."""
    from flows import record

    monkeypatch.setattr(record, "is_answering", lambda: False)
    ours = record.Record()
    assert ours.of("a", lambda: "recorded", lambda: "not") == "recorded"
    assert ours.of("a", lost, lambda: "not") == "not"
    assert ours.of("a", lambda: "recorded", lambda: "not") == "not"
    assert shown.getvalue().count("Prefect's API is gone (ConnectError: nobody there)") == 1


def test_api_that_goes_before_the_flow_begins_is_lost_too(shown, monkeypatch):
    """Catches: "RuntimeError: Failed to reach API" of Prefect's first look at its version."""
    from flows import record

    def unreachable():
        try:
            lost()
        except httpx.HTTPError as error:
            raise RuntimeError("Failed to reach API") from error

    assert record.Record().of("a", unreachable, lambda: "not") == "not"


def test_record_goes_on_when_the_api_is_back(shown, monkeypatch):
    """Catches: one short outage after which nothing is ever written again."""
    from flows import record

    ours = record.Record()
    ours.of("a", lost, lambda: None)
    monkeypatch.setattr(record, "is_answering", lambda: True)
    assert ours.of("a", lambda: "recorded", lambda: "not") == "recorded"


def test_reason_is_not_hidden_by_an_api_that_does_not_answer(shown):
    """Catches: a second training, or Prefect's words, where the first was refused with a reason."""
    from flows import record

    @record.explained
    def flow():
        raise errors.DataError("a.png is no image")

    def recorded():
        flow()  # its state is a failed one
        lost()  # and that cannot be written

    with pytest.raises(errors.DataError, match="no image"):
        record.Record().of("a", recorded, lambda: pytest.fail("the work was done again"))


def test_reason_of_an_attempt_that_was_made_good_is_none(shown):
    """Catches: a finished stage that ends with the error of its first attempt."""
    from flows import record

    ends = [errors.StorageError("away"), None]

    @record.explained
    def task():
        if (error := ends.pop(0)) is not None:
            raise error

    def recorded():
        task()
        task()
        lost()

    assert record.Record().of("a", recorded, lambda: "without") == "without"


def test_other_errors_are_no_loss_of_the_api(shown):
    """Catches: a cancelled flow, or a bug, that is answered by doing the work again."""
    from prefect.exceptions import CancelledRun

    from flows import record

    for kind in (CancelledRun, KeyError, RuntimeError, errors.StorageError):
        with pytest.raises(kind):
            record.Record().of("a", raiser(kind("so")), lambda: pytest.fail("done again"))


def raiser(error):
    def call():
        raise error

    return call


def test_log_has_no_traceback_of_an_error_of_ours():
    """Catches: forty lines of Prefect's engine around a sentence; a bug that leaves no trace."""
    from prefect.logging import get_logger

    from flows import record  # noqa: F401 - it is what puts the filter there

    for error, is_kept in ((errors.DataError("so"), False), (KeyError("so"), True)):
        for name in ("flow_runs", "task_runs"):
            told = logging.makeLogRecord({"exc_info": (type(error), error, None)})
            assert get_logger(name).filter(told)
            assert bool(told.exc_info) is is_kept


def test_whole_flow_is_done_where_no_api_answers(store, config, shown, monkeypatch):
    """Catches: a flow that begins after its server has gone, and ends in Prefect's words; attempts
    that only Prefect's task makes; a job for each stage where one would do."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows import one_stage, stages
    from flows.train_ddpm import train_ddpm

    jobs = FakeJobs(lambda name: finish(store, config, name.split("-")[1]), ends=[0, 7, 0])
    monkeypatch.setattr("ddpm_core.machine.cores", lambda: 8)
    monkeypatch.setattr(one_stage, "RETRY_DELAYS_S", [0.0, 0.0])
    monkeypatch.setattr(one_stage, "RayJobs", lambda _cluster: jobs)
    ours = Cluster("http://127.0.0.1:1", "token")
    monkeypatch.setattr(one_stage, "cluster_at", lambda _: contextlib.nullcontext(ours))
    parameters = {"recipe": "digits", "root": store.uri, "run": config.name}
    parameters |= {"overrides": {}, "ray_address": None}
    with temporary_settings(updates={PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        results = stages.run_flow(train_ddpm, TRAIN_DDPM.stages(), parameters)
    assert [result["stage"] for result in results] == list(TRAIN_DDPM.stages())
    assert jobs.ran == ["shard", "train", "train", "sample", "evaluate"]
    assert len(jobs.submitted) == 2
    assert shown.getvalue().count("Prefect's API is gone") == 1
