"""What is wrong with a configuration, in words: key, value, rule and remedy."""

import difflib
import json
from collections.abc import Iterator, Sequence
from typing import Any, TypeGuard

from pydantic import BaseModel, ValidationError

Location = tuple[int | str, ...]
_SHOWN = 200
"""characters of a value that are repeated"""


def explain(model: type[BaseModel], error: ValidationError) -> Iterator[str]:
    """Yield a line for each thing that is wrong with the values that `model` was given."""
    for problem in error.errors(include_url=False):
        location = problem["loc"]
        where = ".".join(str(part) for part in location)
        if problem["type"] == "extra_forbidden":
            siblings = list(_section_of(model, location).model_fields)
            yield f"{where}: no such key{did_you_mean(str(location[-1]), siblings)}"
        elif problem["type"] == "value_error":
            yield (f"{where}: " if where else "") + str(problem["ctx"]["error"])
        else:
            value = json.dumps(problem["input"])
            if len(value) > _SHOWN:
                value = f"{value[:_SHOWN]}... ({len(value)} characters)"
            yield f"{where}={value}: {problem['msg']}{_remedy(model, location, problem['input'])}"


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """Return the end of a sentence that says there is no `word`."""
    close = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(known)}"


def _remedy(model: type[BaseModel], location: Location, value: Any) -> str:  # noqa: ANN401
    """Say what the key is, and what may be written there; "" for what is no key."""
    field, keys = None, [part for part in location if isinstance(part, str)]
    if keys:
        field = _section_of(model, location).model_fields.get(keys[-1])
    if field is None:
        return ""
    if _is_section(field.annotation):
        return f" (a section; give one of its keys, as {keys[-1]}.KEY=VALUE)"
    words = [" ".join((field.description or "").split())]
    default = field.get_default()
    if isinstance(default, tuple) and isinstance(value, int) and location[-1] == keys[-1]:
        words.append(f"write {json.dumps([value])}")
    elif default is not None:
        words.append(f"e.g. {default if isinstance(default, str) else json.dumps(default)}")
    return f" ({'; '.join(words)})"


def _section_of(model: type[BaseModel], location: Location) -> type[BaseModel]:
    """Return the model that has the last key of `location`."""
    for part in location[:-1]:
        field = model.model_fields.get(str(part))
        if field is not None and _is_section(field.annotation):
            model = field.annotation
    return model


def _is_section(annotation: object) -> TypeGuard[type[BaseModel]]:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
