"""The pages of a flow run in Prefect's UI, and of its jobs at Ray, for what a flow starts."""

import os
from contextlib import suppress

from prefect.exceptions import PrefectException

from ddpm_core.tracking.place import FLOW_PAGE, JOB_PAGE, without_user
from flows.embedded import Cluster
from flows.prefect_api import OWN
from flows.record import LOST, briefly


def job_page(cluster: Cluster, submission_id: str) -> str | None:
    """Return the page of a job in the cluster's dashboard; None: it is gone with the flow."""
    if cluster.is_embedded:
        return None
    return f"{without_user(cluster.address).rstrip('/')}/#/jobs/{submission_id}"


def page_metadata(cluster: Cluster, submission_id: str) -> dict[str, str]:
    """Return the metadata by which a job knows its own page and its flow's.

    None of a flow is there outside of one, nor where the server is one of our own, which ends with
    the flow.
    """
    page = job_page(cluster, submission_id)
    return _of_flow() | ({} if page is None else {JOB_PAGE: page})


def _of_flow() -> dict[str, str]:
    from prefect.runtime import flow_run  # it reads its settings when it is imported

    if os.environ.get(OWN) or (page := flow_run.ui_url) is None:
        return {}
    # A stage is a flow within that of the run, whose page is the one to look at.
    with suppress(*LOST, PrefectException), briefly():
        if root := flow_run.root_flow_run_id:
            page = f"{str(page).rpartition('/')[0]}/{root}"
    return {FLOW_PAGE: str(page)}
