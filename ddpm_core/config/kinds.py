"""Sections of which there are several kinds: `model` is one class for each kind of network,
`diffusion` one for each kind of forward process.

The key `kind` says which; where it is left out, it is the first. A key of another kind is refused
with the kind that it belongs to.
"""

from collections.abc import Mapping
from typing import Any, get_args

from ddpm_core.config.section import Section

Kinds = Mapping[str | None, type[Section]]
"""kind -> the section, the default first; of a section of one kind alone: None -> it"""


def kinds_of(annotation: object) -> Kinds:
    """Return what the field of a configuration may hold; {} for a field that is no section."""
    several = get_args(annotation) or (annotation,)
    sections = [one for one in several if isinstance(one, type) and issubclass(one, Section)]
    return {_kind_of(one): one for one in sections}


def with_kinds(values: Mapping[str, Any], sections: Mapping[str, Kinds]) -> dict[str, Any]:
    """Return the values with the kind of each section, the first where none is given."""
    first = {name: next(iter(kinds)) for name, kinds in sections.items()}
    return {
        name: {"kind": first[name], **value}
        if first.get(name) is not None and isinstance(value, dict)
        else value
        for name, value in values.items()
    }


def shared_keys(kinds: Kinds) -> set[str]:
    """Return the keys that mean the same in every kind: those of the class that all derive from.

    A key that several kinds merely call the same is none of them; nor is one of a single kind.
    """
    if len(kinds) == 1:
        return set()
    first = next(iter(kinds.values()))
    base = next(
        one
        for one in first.__mro__
        if issubclass(one, Section) and all(issubclass(kind, one) for kind in kinds.values())
    )
    return set(base.model_fields) - {"kind"}


def misplaced(section: str, key: str, here: str | None, kinds: Kinds) -> str | None:
    """Return why `key` is no key of the kind `here`; None if it is none of any other kind either.

    Args:
        section: the name of the section.
        key: in it.
        here: the kind that it has.
        kinds: that it may have.
    """
    owners = [f"{section}.kind={kind}" for kind, one in kinds.items() if key in one.model_fields]
    if not owners:
        return None
    words = " and ".join(owners)
    return (
        f"{section}.{key} is a key of {words}, and this is {section}.kind={here}; leave it out, or "
        f"set {owners[0]}"
    )


def _kind_of(section: type[Section]) -> str | None:
    field = section.model_fields.get("kind")
    return None if field is None else field.default
