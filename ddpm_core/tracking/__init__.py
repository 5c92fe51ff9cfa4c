"""MLflow: one run of the pipeline is one run there, whatever stage, attempt or process writes it.

Nothing here can stop or slow a stage. What is logged is queued, and a thread sends it: bounded in
time, again after an outage, each point once (`outbox`). MLflow is a copy: the truth is in the
store, and what a stage could not deliver the next stage of the run does, or the same command
`python -m ddpm_core STAGE RUN_JSON` again. The only package that imports MLflow, but for
`sampling.served_model`, which MLflow itself loads.
"""

from ddpm_core.tracking.place import tracking_uri
from ddpm_core.tracking.tracker import Tracker, open_tracker

__all__ = ["Tracker", "open_tracker", "tracking_uri"]
