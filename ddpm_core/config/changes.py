"""Changes of a configuration: single keys, kinds of sections, and sections given whole."""

import json
from collections.abc import Mapping
from typing import Any

from ddpm_core.config.explain import did_you_mean, no_such_kind, which_key
from ddpm_core.config.kinds import Kinds, misplaced, shared_keys
from ddpm_core.errors import ConfigError


def changed(
    before: Mapping[str, Any], changes: Mapping[str, Any], sections: Mapping[str, Kinds]
) -> dict[str, Any]:
    """Return the values with the changes; see `RunConfig.replaced`.

    Args:
        before: `{"section": {"key": value}}`, all that there are.
        changes: `{"section.key": value}` or `{"section": {"key": value}}`.
        sections: the kinds that each section may have.

    Raises:
        ConfigError: there is no such section, kind or key. Values are not validated.
    """
    values = {**before, **_of_other_kinds(before, changes, sections)}
    for dotted, value in sorted(changes.items(), key=lambda change: "." in change[0]):
        section, _, key = dotted.rpartition(".")
        target = values if not section else values.get(section)
        if not isinstance(target, dict):
            raise ConfigError(f"no section {section!r}{did_you_mean(section, list(values))}")
        if key == "kind" and section in changes and target.get("kind", value) != value:
            raise ConfigError(
                f"{dotted}={json.dumps(value)}, and {section}={json.dumps(changes[section])} "
                "is of another kind; give one of them"
            )
        kinds = sections.get(section, {})
        kind = target.get("kind", next(iter(kinds), None))
        own = {key for name, one in kinds.items() if name == kind for key in one.model_fields}
        if key not in target and key not in own:
            if (words := misplaced(section, key, kind, kinds)) is not None:
                raise ConfigError(words)
            known = {name: list(one) for name, one in values.items() if isinstance(one, dict)}
            raise ConfigError(f"no key {dotted!r}{which_key(dotted, known)}")
        if not section and isinstance(value, dict):
            value = _shared(before, key, sections) | value
        target[key] = value
    return values


def _of_other_kinds(
    before: Mapping[str, Any], changes: Mapping[str, Any], sections: Mapping[str, Kinds]
) -> dict[str, Any]:
    """Return each section whose kind is changed to another, with what it begins with.

    Raises:
        ConfigError: there is no such kind.
    """
    found = {}
    for name, kinds in sections.items():
        kind = changes.get(f"{name}.kind")
        if kind is None or None in kinds or kind == before[name]["kind"]:
            continue
        if not isinstance(kind, str) or kind not in kinds:
            raise ConfigError(no_such_kind(name, kind, kinds))
        # Not validated: the defaults alone need not be what can be.
        begins = kinds[kind].model_construct().model_dump(mode="json")
        found[name] = begins | _shared(before, name, sections)
    return found


def _shared(before: Mapping[str, Any], name: str, sections: Mapping[str, Kinds]) -> dict[str, Any]:
    """Return what a section keeps when it becomes another: what means the same in every kind."""
    kinds = sections.get(name)
    # Of one kind alone there are none: a section given whole is all of it.
    return {} if kinds is None else {key: before[name][key] for key in shared_keys(kinds)}
