"""A configuration with one more key in each section, as a later version will have."""

from functools import cache
from typing import Any

from pydantic import create_model

from ddpm_core.config import RunConfig
from ddpm_core.config.section import Section

KEY = "new_key"
SECTIONS = ("data", "model", "diffusion", "train", "sample", "evaluate", "study", "compute")


@cache
def grown(default: object = 7, kind: Any = int) -> type[RunConfig]:
    """Return a RunConfig whose sections all have the key `new_key` with this default."""
    sections: dict[str, Any] = {}
    for name in SECTIONS:
        base: Any = RunConfig.model_fields[name].annotation
        assert issubclass(base, Section)
        model = create_model(f"Grown{base.__name__}", __base__=base, **{KEY: (kind, default)})
        sections[name] = (model, ...)
    return create_model("GrownRunConfig", __base__=RunConfig, **sections)


def as_grown(config: RunConfig, default: object = 7) -> RunConfig:
    """Return a configuration as a version with those keys reads it from its run.json."""
    return grown(default).from_json(config.to_json())
