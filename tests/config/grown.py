"""A configuration with one more key in each section, as a later version will have."""

from functools import cache
from typing import Annotated, Any, Union

from pydantic import Field, create_model

from ddpm_core.config import RunConfig
from ddpm_core.config.kinds import kinds_of

KEY = "new_key"
SECTIONS = ("data", "model", "diffusion", "train", "sample", "evaluate", "study", "compute")


@cache
def grown(default: object = 7, kind: Any = int) -> type[RunConfig]:
    """Return a RunConfig whose sections, of all kinds, have the key `new_key` with this default."""
    sections: dict[str, Any] = {}
    for name in SECTIONS:
        bases = kinds_of(RunConfig.model_fields[name].annotation).values()
        models = [
            create_model(f"Grown{base.__name__}", __base__=base, **{KEY: (kind, default)})
            for base in bases
        ]
        several = Annotated[Union[*models], Field(discriminator="kind")]
        sections[name] = (models[0] if len(models) == 1 else several, ...)
    return create_model("GrownRunConfig", __base__=RunConfig, **sections)


def as_grown(config: RunConfig, default: object = 7) -> RunConfig:
    """Return a configuration as a version with those keys reads it from its run.json."""
    return grown(default).from_json(config.to_json())
