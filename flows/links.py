"""The page of a flow run in Prefect's UI, for what a flow starts."""

import os

from ddpm_core.tracking.place import FLOW_PAGE
from flows.prefect_api import OWN


def page_metadata() -> dict[str, str]:
    """Return the metadata by which a job knows its flow's page.

    Empty outside of a flow, and where the server is one of our own, which ends with the flow.
    """
    from prefect.runtime import flow_run  # it reads its settings when it is imported

    if os.environ.get(OWN) or (page := flow_run.ui_url) is None:
        return {}
    return {FLOW_PAGE: str(page)}
