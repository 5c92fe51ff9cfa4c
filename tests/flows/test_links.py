"""The page of a flow, in the metadata of its jobs."""

from prefect.runtime import flow_run

from flows.links import page_metadata


def test_a_job_knows_the_page_of_its_flow(monkeypatch):
    """Catches: a link to a server of our own, which is gone with the flow, and none to another."""
    monkeypatch.setenv("PREFECT__RUNTIME__FLOW_RUN__UI_URL", "http://prefect/runs/1")
    assert page_metadata() == {"ddpm.flow_page": "http://prefect/runs/1"}
    monkeypatch.setenv("DDPM_OWN_PREFECT", "true")
    assert page_metadata() == {}
    monkeypatch.delenv("DDPM_OWN_PREFECT")
    monkeypatch.delenv("PREFECT__RUNTIME__FLOW_RUN__UI_URL")
    assert flow_run.ui_url is None
    assert page_metadata() == {}
