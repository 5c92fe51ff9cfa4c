"""A seventh stage as somebody would add it: a module, and an entry of the table."""

from ddpm_core.canonical import fingerprint
from ddpm_core.config import RunConfig
from ddpm_core.progress import Progress
from ddpm_core.runs import layout
from ddpm_core.runs.numbers import Number, Numbers
from ddpm_core.runs.stages import Stage
from ddpm_core.store import manifest
from ddpm_core.store.commit import commit, write_file
from ddpm_core.store.expected import Expected
from ddpm_core.store.manifest import Manifest
from ddpm_core.store.storage import Store


def run_toy(store: Store, config: RunConfig) -> None:
    """Make the stage's result."""
    files = {"fun": write_file(store, _folder(config), "fun", ".bin", b"7 of 9")}
    commit(store, _folder(config), files, {"fingerprint": _digest(config)})
    Progress("toy", 1, 1, "toys").show()


def toy_of(store: Store, config: RunConfig) -> Manifest | None:
    return manifest.load(store, _folder(config), Expected({"fingerprint": _digest(config)}))


def _digest(config: RunConfig) -> str:
    return fingerprint(config.sample.model_dump(mode="json"))


def _folder(config: RunConfig) -> str:
    return f"{layout.run_folder(config.name)}/toys/{_digest(config)[: layout.SHORT]}"


def _fun(store: Store, result: Manifest) -> list[Number]:
    text = result.read(store, "fun").decode()
    return [Number("fun", text.partition(" ")[0], "play value", text)]


STAGE = Stage(
    name="toy",
    help="make a toy of the samples",
    entry="tests.toy_stage:run_toy",
    result=toy_of,
    place="toys",
    label="toys made",
    needs=("train", "sample"),
    checks=("cores",),
    sections=("sample",),
    numbers=Numbers("toys", ("fun",), _fun),
)
