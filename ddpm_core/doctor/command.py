"""ddpm doctor: print what was found, and fail if anything is in the way."""

from collections.abc import Iterator

from ddpm_core.doctor import machine, places, services
from ddpm_core.doctor.finding import Finding, bad
from ddpm_core.errors import ConfigError, PipelineError
from ddpm_core.output import printable, say
from ddpm_core.store.storage import Store, open_store


def examine(root: str) -> None:
    """Print a line for each check as it is done.

    Raises:
        ConfigError: something would end a run here; the lines say what, and what to do.
    """
    found = []
    for one in _all(root):
        say(printable(f"doctor  {one.line}"))
        found.append(one)
    ended = [one.name for one in found if one.verdict == "bad"]
    if ended:
        raise ConfigError(
            f"{len(ended)} of {len(found)} checks failed ({', '.join(ended)}); each line that "
            "begins with bad says what to do"
        )


def _all(root: str) -> Iterator[Finding]:
    yield from machine.examined()
    store: Store | None = None
    try:
        store = open_store(root)
    except PipelineError as error:
        yield bad("root", f"{root} cannot be used", str(error))
    else:
        yield from places.examined(store)
    yield from services.examined(store)
