"""What MLflow's page of a run says above everything: what it is, and how to make it again."""

import hashlib
from collections.abc import Iterator, Sized
from contextlib import suppress

from ddpm_core.config import RunConfig
from ddpm_core.errors import PipelineError
from ddpm_core.recipes.nearest import command_of, nearest_recipe
from ddpm_core.runs import going_on, results
from ddpm_core.store.storage import Store
from ddpm_core.tracking.mlflow_run import MlflowRun
from ddpm_core.tracking.place import FLOW_PAGE, JOB_PAGE, git_commit, job_metadata
from ddpm_core.tracking.receipts import PlaceThere, place_of

FROM, FROM_RUN, WENT_ON = "ddpm.from", "ddpm.from.run_id", "ddpm.went_on"
NOTE, OURS = "mlflow.note.content", "ddpm.description"
"""the description, and the digest of the one that this program wrote last"""
_OF_BEFORE = "Begun from "
"""how descriptions of earlier versions began"""
_GRID = "pictures/grid.png"
_SHORT = 12


def log_description(run: MlflowRun, store: Store, config: RunConfig) -> None:
    """Log what the run is and what it began from; what a user has written stays.

    Raises:
        Unreachable, Refused: as `MlflowRun`.
    """
    tags = {}
    if lines := list(going_on.history(config)):
        tags[WENT_ON] = "; ".join(lines)
    begun = None
    if (start := config.train.start) is not None:
        tags[FROM] = str(start)
        begun = None if start.model.run is None else place_of(store, start.model.run)
        if begun is not None:
            tags[FROM_RUN] = begun.run_id
    is_drawn = is_imported = False
    with suppress(PipelineError):  # what cannot be read is said by the stage
        trained = results.final_checkpoint(store, config)
        is_imported = trained is not None and results.is_imported(trained)
    if config.role == "denoiser":
        with suppress(PipelineError):  # samples that cannot be read are none to show
            is_drawn = results.samples_of(store, config) is not None
    text = _text(run, config, begun, is_drawn=is_drawn, is_imported=is_imported)
    known = run.tags()
    note = known.get(NOTE, "")
    if not note or note.startswith(_OF_BEFORE) or known.get(OURS) == _digest(note):
        tags |= {NOTE: text, OURS: _digest(text)}
    run.set_tags(tags)


def _text(
    run: MlflowRun,
    config: RunConfig,
    begun: PlaceThere | None,
    *,
    is_drawn: bool,
    is_imported: bool,
) -> str:
    """Return it in Markdown."""
    recipe, changes = nearest_recipe(config)
    made_of = f"recipe `{recipe}`" + (f", {_count(changes)} changed" if changes else "")
    made_of = "imported weights, not trained here" if is_imported else made_of
    size = f"{config.num_parameters / 1e6:.2f} M parameters"
    shape = "×".join(map(str, config.data.shape))
    # In its first line: MLflow fades out the third, and a link there cannot be clicked.
    links = "".join(f" [{words}]({page})." for words, page in _pages())
    parts = [f"**{config.name}**: {made_of}; {config.data.name} {shape}, {size}.{links}"]
    if (start := config.train.start) is not None:
        words = start.name
        if begun is not None:
            page = f"#/experiments/{begun.experiment_id}/runs/{begun.run_id}"
            words = f"[{words}]({page})"
        parts.append(f"Begun from {words}.")
    commit = git_commit()
    at = "" if commit is None else f", at commit `{commit[:_SHORT]}`"
    if not is_imported:
        parts.append(f"Made again by{at}:\n\n    {command_of(config)}")
    if is_drawn:
        # The address under which MLflow's own page asks for an artifact.
        folder = "pictures" if run.has_file(_GRID) else "images"  # of earlier versions
        parts.append(f"![samples](get-artifact?path={folder}/grid.png&run_uuid={run.run_id})")
    return "\n\n".join(parts)


def _pages() -> Iterator[tuple[str, str]]:
    known = job_metadata()
    for words, key in (("Its flow in Prefect", FLOW_PAGE), ("Its job at Ray", JOB_PAGE)):
        if page := known.get(key):
            yield words, page


def _count(changes: Sized) -> str:
    return "1 key" if len(changes) == 1 else f"{len(changes)} keys"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
