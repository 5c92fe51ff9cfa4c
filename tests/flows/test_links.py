"""The pages of a flow and of its jobs, in the metadata of the jobs."""

from prefect.runtime import flow_run

from flows.embedded import Cluster
from flows.links import page_metadata

OWN = Cluster("http://127.0.0.1:8265", token="ends with the flow")  # noqa: S106


def test_a_job_on_a_cluster_knows_its_own_page():
    """Catches: a link to a Ray that ends with the flow; a password in what all may read."""
    address = "https://me:secret@ray-head:8265/"
    assert page_metadata(Cluster(address), "r-train-1-a1") == {
        "ddpm.job_page": "https://ray-head:8265/#/jobs/r-train-1-a1"
    }
    assert page_metadata(OWN, "r-train-1-a1") == {}


def test_a_job_knows_the_page_of_its_flow(monkeypatch):
    """Catches: a link to a server of our own, which is gone with the flow, and none to another; the
    page of the first stage for that of the whole."""
    monkeypatch.setenv("PREFECT__RUNTIME__FLOW_RUN__UI_URL", "http://prefect/runs/1")
    assert page_metadata(OWN, "x-a1") == {"ddpm.flow_page": "http://prefect/runs/1"}
    monkeypatch.setenv("PREFECT__RUNTIME__FLOW_RUN__ROOT_FLOW_RUN_ID", "0")
    assert page_metadata(OWN, "x-a1") == {"ddpm.flow_page": "http://prefect/runs/0"}
    monkeypatch.setenv("DDPM_OWN_PREFECT", "true")
    assert page_metadata(OWN, "x-a1") == {}
    monkeypatch.delenv("DDPM_OWN_PREFECT")
    monkeypatch.delenv("PREFECT__RUNTIME__FLOW_RUN__UI_URL")
    assert flow_run.ui_url is None
    assert page_metadata(OWN, "x-a1") == {}
