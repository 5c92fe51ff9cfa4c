"""Previews of a run to MLflow: their images over steps, and their figures as curves.

Whatever MLflow lacks is sent, in any order: each preview is looked up by its step.
"""

import time

from ddpm_core.runs import previews
from ddpm_core.store.storage import Store
from ddpm_core.tracking.mlflow_run import MlflowRun
from ddpm_core.tracking.receiver import Measurement, Refused

IMAGE = "preview/images"
"""the name of the images in MLflow, whose page shows them beside the curves `preview/...`"""


def send_previews(run: MlflowRun, store: Store, name: str) -> None:
    """Send what MLflow lacks of the previews of the run `name`; one that is damaged is passed over.

    Raises:
        Unreachable: the server or the storage does not answer; what is left is sent the next time.
        Refused: the server refuses a preview, or one is damaged; the others are sent.
    """
    steps = run.made(lambda: previews.steps(store, name))
    has_image, measured = run.image_steps(IMAGE), dict[str, set[int]]()
    refusal: Refused | None = None
    for step in steps:
        try:
            _send(run, store, name, step, has_image, measured)
        except Refused as error:
            refusal = refusal or error
    if refusal is not None:
        raise refusal


def _send(
    run: MlflowRun,
    store: Store,
    name: str,
    step: int,
    has_image: set[int],
    measured: dict[str, set[int]],
) -> None:
    preview = run.made(lambda: previews.load(store, name, step))
    if preview is None:
        return
    if step not in has_image:
        png = run.made(lambda: preview.read(store, previews.SHEET))
        run.log_image(IMAGE, png, step=step)
    for key, value in previews.figures(preview).items():
        if key not in measured:
            measured[key] = run.metric_steps(key)
        if step not in measured[key]:
            run.send([Measurement(key, value, step, time.time_ns() // 1_000_000)])
