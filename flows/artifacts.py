"""What Prefect's UI shows of a stage: how far it is, where its result lies, and the result.

None of it may end a stage: an API that does not answer is logged, and the work goes on.
"""

import base64
import contextlib
import re
import time
from collections.abc import Iterator
from uuid import UUID

import httpx
from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.exceptions import PrefectException
from prefect.logging import get_logger

from ddpm_core.config import RunConfig
from ddpm_core.manifest import Manifest
from ddpm_core.progress import Progress
from ddpm_core.storage import Store
from flows.plan import headline, metrics_of, mlflow_page

_EVERY_S = 2.0
_SHOWN_ROLES = ("grid", "coding-figure", "samplers-figure", "distances-figure", "samples-sheet")
MAX_INLINE_BYTES = 200_000
"""largest image in an artifact; Prefect sets no limit, but its page loads an artifact whole"""


class ProgressArtifact:
    """A bar in the UI, written at most every two seconds."""

    def __init__(self, run: str, stage: str) -> None:
        self._key, self._stage = artifact_key(run, stage, "progress"), stage
        self._id: UUID | None = None
        self._written_at = float("-inf")

    def show(self, progress: Progress) -> None:
        """Move the bar, if it is time to."""
        now = time.monotonic()
        if now - self._written_at < _EVERY_S and progress.done < progress.total:
            return
        self._written_at = now
        percent = 100.0 * progress.done / progress.total if progress.total else 100.0
        with _quietly("progress"):
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
    lines = [f"`{store.uri_of(result.folder)}`"]
    with _quietly("result"):
        if stage == "evaluate":
            rows = [{"metric": k, "value": v} for k, v in headline(metrics_of(store, result))]
            create_table_artifact(
                table=rows, key=artifact_key(config.name, "metrics"), description=lines[0]
            )
        for role in _SHOWN_ROLES:
            if (image := _inlined(store, result, role)) is not None:
                lines += ["", f"![{role}]({image})"]
        create_markdown_artifact(
            markdown="\n".join(lines),
            key=artifact_key(config.name, stage, "result"),
            description=f"{stage}: {config.name}",
        )
        # A place on a disk or in S3 is told as text above: Prefect's page opens http only.
        if stage == "train" and (page := mlflow_page(store)) is not None:
            url, when = page
            create_link_artifact(
                link=url,
                link_text=f"curves, pictures and the model in MLflow, {url}",
                key=artifact_key(config.name, "mlflow"),
                description=when,
            )


def artifact_key(*words: str) -> str:
    """Return a key as Prefect wants it: lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(words).lower()).strip("-")


def _inlined(store: Store, result: Manifest, role: str) -> str | None:
    """Return the image, or a coarser copy if it is large, as a data URI; None if there is none."""
    if role not in result.files:
        return None
    image, kind = result.read(store, role), "png"
    if len(image) > MAX_INLINE_BYTES:
        from ddpm_core.sampling import pictures  # numpy and Pillow, for this alone

        image, kind = pictures.preview(image, max_bytes=MAX_INLINE_BYTES), "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"


@contextlib.contextmanager
def _quietly(what: str) -> Iterator[None]:
    try:
        yield
    except (httpx.HTTPError, PrefectException, OSError) as error:
        get_logger("flows").warning("no %s in Prefect's UI: %s", what, error)
