"""What Prefect's UI shows of a stage: how far it is, where its result lies, and the result.

None of it may end a stage: an API that does not answer, a storage that cannot be read, a damaged
picture are one line each, and the work goes on.
"""

import base64
import re
import time
from collections.abc import Callable, Sequence
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
from ddpm_core.runs.stages import STAGES, Stage
from ddpm_core.store.manifest import Manifest
from ddpm_core.store.storage import Store
from flows.plan import mlflow_page, result_of
from flows.record import LOST, briefly, say

_EVERY_S = 2.0
_PAUSE_S = 60.0
"""seconds without progress in the UI after an API that did not take it"""
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
    one, where = STAGES[stage], f"`{store.uri_of(result.folder)}`"
    if one.numbers.columns:
        _quietly(one.numbers.title, lambda: _publish_numbers(store, config, one, result, where))
    _quietly(
        f"result of {stage}",
        lambda: create_markdown_artifact(
            markdown="\n\n".join([where, *_images(store, stage, result, one.pictures)]),
            key=artifact_key(config.name, stage, "result"),
            description=f"{stage}: {config.name}",
        ),
    )
    # A place on a disk or in S3 stands as text above: Prefect's page opens http only.
    if one.is_training and (page := mlflow_page(store, config.name)) is not None:
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


def publish_job(run: str, stage: str, page: str | None) -> None:
    """Show the page of a stage's job in the cluster's dashboard, where there is one that stays."""
    if page is None:
        return
    _quietly(
        "link to Ray",
        lambda: create_link_artifact(
            link=page,
            link_text=f"the job at Ray, {page}",
            key=artifact_key(run, stage, "job"),
            description=f"log and resources of {stage}, as long as the cluster keeps them",
        ),
    )


def publish_run(store: Store, config: RunConfig) -> None:
    """Show on the page of the whole run what its stages show on theirs: grid and numbers."""
    _quietly("summary", lambda: _publish_run(store, config))


def _publish_run(store: Store, config: RunConfig) -> None:
    numbers, pictures = [], []
    for stage in STAGES.values():
        if not stage.numbers.columns and stage.cover is None:
            continue
        if (result := result_of(store, config, stage.name)) is not None:
            rows = [f"| {one.name} | {one.text} |" for one in stage.numbers.read(store, result)]
            numbers += ["\n".join(["| metric | value |", "|---|---|", *rows])] if rows else []
            roles = [] if stage.cover is None else [stage.cover]
            pictures += _images(store, stage.name, result, roles)
    if numbers or pictures:
        create_markdown_artifact(
            markdown="\n\n".join([*_links(store, config), *numbers, *pictures]),
            key=artifact_key(config.name, "summary"),
            description=config.name,
        )


def _links(store: Store, config: RunConfig) -> list[str]:
    found = mlflow_page(store, config.name)
    return [] if found is None else [f"[The run in MLflow]({found[0]}) ({found[1]})"]


def _publish_numbers(
    store: Store, config: RunConfig, stage: Stage, result: Manifest, where: str
) -> None:
    rows = [{"metric": one.name, "value": one.text} for one in stage.numbers.read(store, result)]
    key = artifact_key(config.name, stage.numbers.title)
    create_table_artifact(table=rows, key=key, description=where)


def _images(store: Store, stage: str, result: Manifest, roles: Sequence[str]) -> list[str]:
    """Return what there is to look at as Markdown; what cannot be read is left out, and said."""
    shown = []
    for role in roles:
        try:
            image = _inlined(store, result, role)
        except (PipelineError, OSError, ValueError) as error:
            say(f"{WARNING}{stage}: no {role} on Prefect's page: {error}")
            continue
        if image is not None:
            shown.append(f"![{role}]({image})")
    return shown


def artifact_key(*words: str) -> str:
    """Return a key that Prefect accepts: lower-case letters, digits and dashes."""
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
