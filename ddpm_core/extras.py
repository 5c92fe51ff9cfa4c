"""Packages that come with an extra: a command that lacks one says which."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from ddpm_core.errors import ConfigError

EXTRAS: Mapping[str, str] = {
    "PIL": "core",
    "matplotlib": "core",
    "safetensors": "core",
    "sklearn": "core",
    "webdataset": "core",
    "ray": "ray",
    "mlflow": "mlflow",
    "pynvml": "mlflow",
    "s3fs": "s3",
    "lmdb": "lmdb",
    "transformers": "transformers",
    "fastapi": "flows",
    "prefect": "flows",
    "gradio": "play",
}
"""module -> the extra of pyproject.toml that installs it"""
APART = frozenset({"play", "transformers"})
"""of these, what a pipeline does without, and the extra `all` has not"""


@contextmanager
def packages_named() -> Iterator[None]:
    """Raise ConfigError for a package of an extra that is not installed; others pass."""
    try:
        yield
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if module not in EXTRAS:
            raise
        raise _missing(module) from error


def require_packages(*modules: str) -> None:
    """Make sure that modules of `EXTRAS` are installed, without importing them.

    Raises:
        ConfigError: naming the first that is not.
    """
    for module in modules:
        if find_spec(module) is None:
            raise _missing(module)


def folder_of(module: str) -> Path:
    """Return the folder of a package of `EXTRAS`, without importing it.

    Raises:
        ConfigError: it is not installed.
    """
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise _missing(module)
    return Path(spec.origin).parent


def _missing(module: str) -> ConfigError:
    extra = EXTRAS[module]
    whole, more = (extra, ",") if extra in APART else ("all", ", with all that a pipeline needs")
    return ConfigError(
        f"the package {module} is not installed: it comes with the extra {extra}{more} by pip "
        f"install 'ddpm-pipeline[{whole}]' (in a checkout: pip install -e '.[{whole}]')"
    )
