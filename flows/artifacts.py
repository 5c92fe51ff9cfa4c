"""What Prefect's UI shows of a stage: how far it is, where its result lies, and the result.

None of it may end a stage: an API that does not answer, a storage that cannot be read, a damaged
picture are one line each, and the work goes on.
"""

import base64
import re
import time
from collections.abc import Callable
from uuid import UUID

from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.context import FlowRunContext, TaskRunContext
from prefect.exceptions import PrefectException
from prefect.logging import get_logger

from ddpm_core.config import RunConfig
from ddpm_core.errors import PipelineError
from ddpm_core.progress import WARNING, Progress
from ddpm_core.store.manifest import Manifest
from ddpm_core.store.storage import Store
from flows.plan import headline, metrics_of, mlflow_page, result_of
from flows.record import LOST, briefly, say

_EVERY_S = 2.0
_PAUSE_S = 60.0
"""seconds without progress in the UI after an API that did not take it"""
_SHOWN_ROLES = ("grid", "coding-figure", "samplers-figure", "distances-figure", "samples-sheet")
MAX_INLINE_BYTES = 200_000
"""largest image in an artifact; Prefect sets no limit, but its page loads an artifact whole"""


class ProgressArtifact:
    """A bar in the UI, written at most every two seconds."""

    def __init__(self, run: str, stage: str) -> None:
        self._key, self._stage = artifact_key(run, stage, "progress"), stage
        self._id: UUID | None = None
        self._is_paused = False
        self._not_before = float("-inf")

    def show(self, progress: Progress) -> None:
        """Move the bar, if it is time to."""
        now = time.monotonic()
        if now < self._not_before and (self._is_paused or progress.done < progress.total):
            return
        self._is_paused = not _quietly("progress", lambda: self._write(progress))
        # The job's log is not followed while an answer is waited for.
        self._not_before = time.monotonic() + (_PAUSE_S if self._is_paused else _EVERY_S)

    def _write(self, progress: Progress) -> None:
        percent = 100.0 * progress.done / progress.total if progress.total else 100.0
        if self._id is None:
            made = create_progress_artifact(
                progress=percent, key=self._key, description=str(progress)
            )
            self._id = made if isinstance(made, UUID) else None  # typed as if it were async
        else:
            update_progress_artifact(
                artifact_id=self._id, progress=percent, description=str(progress)
            )


def publish(store: Store, config: RunConfig, stage: str, result: Manifest) -> None:
    """Show where the result of a stage lies, and what there is to look at."""
    where = f"`{store.uri_of(result.folder)}`"
    if stage == "evaluate":
        _quietly("metrics", lambda: _publish_metrics(store, config, result, where))
    _quietly(
        f"result of {stage}",
        lambda: create_markdown_artifact(
            markdown="\n\n".join([where, *_images(store, stage, result)]),
            key=artifact_key(config.name, stage, "result"),
            description=f"{stage}: {config.name}",
        ),
    )
    # A place on a disk or in S3 stands as text above: Prefect's page opens http only.
    if stage == "train" and (page := mlflow_page(store, config.name)) is not None:
        url, when = page
        _quietly(
            "link to MLflow",
            lambda: create_link_artifact(
                link=url,
                link_text=f"curves, pictures and the model in MLflow, {url}",
                key=artifact_key(config.name, "mlflow"),
                description=when,
            ),
        )


def publish_run(store: Store, config: RunConfig) -> None:
    """Show on the page of the whole run what its stages show on theirs: grid and numbers."""
    _quietly("summary", lambda: _publish_run(store, config))


def _publish_run(store: Store, config: RunConfig) -> None:
    parts = []
    if (evaluation := result_of(store, config, "evaluate")) is not None:
        rows = [f"| {name} | {value} |" for name, value in headline(metrics_of(store, evaluation))]
        parts.append("\n".join(["| metric | value |", "|---|---|", *rows]))
    if (samples := result_of(store, config, "sample")) is not None:
        parts += _images(store, "sample", samples)
    if parts:
        create_markdown_artifact(
            markdown="\n\n".join(parts),
            key=artifact_key(config.name, "summary"),
            description=config.name,
        )


def _publish_metrics(store: Store, config: RunConfig, evaluation: Manifest, where: str) -> None:
    rows = [{"metric": k, "value": v} for k, v in headline(metrics_of(store, evaluation))]
    create_table_artifact(table=rows, key=artifact_key(config.name, "metrics"), description=where)


def _images(store: Store, stage: str, result: Manifest) -> list[str]:
    """Return what there is to look at as Markdown; what cannot be read is left out, and said."""
    shown = []
    for role in _SHOWN_ROLES:
        try:
            image = _inlined(store, result, role)
        except (PipelineError, OSError, ValueError) as error:
            say(f"{WARNING}{stage}: no {role} on Prefect's page: {error}")
            continue
        if image is not None:
            shown.append(f"![{role}]({image})")
    return shown


def artifact_key(*words: str) -> str:
    """Return a key as Prefect wants it: lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(words).lower()).strip("-")


def _inlined(store: Store, result: Manifest, role: str) -> str | None:
    """Return the image, or a coarser copy if it is large, as a data URI; None if there is none."""
    if role not in result.files:
        return None
    image, kind = result.read(store, role), "png"
    if len(image) > MAX_INLINE_BYTES:
        from ddpm_core.drawing import pictures  # numpy and Pillow, for this alone

        image, kind = pictures.preview(image, max_bytes=MAX_INLINE_BYTES), "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"


def _quietly(what: str, write: Callable[[], object]) -> bool:
    """Write to Prefect's API; a failure is one line, ends nothing, and is False."""
    if FlowRunContext.get() is None and TaskRunContext.get() is None:
        return False  # the record is lost, and with it the page
    try:
        with briefly():
            write()
    except (*LOST, PrefectException) as error:
        get_logger("flows").warning("no %s in Prefect's UI: %s", what, error)
        return False
    except (PipelineError, OSError, ValueError, LookupError) as error:
        say(f"{WARNING}no {what} on Prefect's page: {error}")
        return False
    return True
