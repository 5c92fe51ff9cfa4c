"""What all sections of a configuration have in common: frozen, and nothing unknown in them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

PositiveInt = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=1, le=10**9)]
"""of steps or images: none is sane beyond, and beyond 2**63 torch has no number for it"""
MAX_RUN_NAME = 63
"""characters"""
# Digits first: Prefect's command line takes "[a-z...]" in its refusal for a style, and drops it.
RUN_NAME_PATTERN = rf"^[0-9a-z][0-9a-z._-]{{0,{MAX_RUN_NAME - 1}}}$"
Few = Annotated[int, Field(ge=1, le=2**16)]
"""of what a machine, a network or a batch has: beyond, it is a slip of the keys"""


@dataclass(frozen=True)
class Uncounted:
    """Marks a key that changes no result: in no fingerprint, and free to change under one name."""

    is_said: bool
    """whether a change is said in a line"""


HOUSEKEEPING = Uncounted(is_said=True)
"""how often something is noted, kept or shown: `Annotated[int, HOUSEKEEPING]`"""
PLACE = Uncounted(is_said=False)
"""where the raw data lie, and on what and how wide it runs: it differs from machine to machine"""


class Section(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    @classmethod
    def uncounted(cls) -> dict[str, Uncounted]:
        """Return the keys that change no result, each with its mark."""
        return {
            key: mark
            for key, field in cls.model_fields.items()
            for mark in field.metadata
            if isinstance(mark, Uncounted)
        }

    def refuse_unused(self, choice: str, knobs: Mapping[str, str]) -> None:
        """Refuse a knob that is not used with this value of `choice`.

        Args:
            choice: key of the section.
            knobs: key -> the one value of `choice` that uses it.
        """
        chosen = getattr(self, choice)
        for key, owner in knobs.items():
            value, default = getattr(self, key), type(self).model_fields[key].default
            if chosen != owner and value != default:
                raise ValueError(
                    f"{key}={value} is a setting of {choice}={owner} and {choice}={chosen} has no "
                    f"use for it; leave {key} out, or choose that {choice}"
                )
