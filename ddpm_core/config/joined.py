"""The section `data` of several data sets together: what their images have in common."""

import json
from collections.abc import Mapping
from typing import Any

from ddpm_core.config.data import DataConfig
from ddpm_core.errors import ConfigError

PART_KEYS = ("only_classes", "only_keys", "only_keys_sha256", "duplicates")
"""keys of `data` that say which images of what is there are used"""


def joined(sections: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the keys of `data` that say what the images of several data sets are, as JSON values.

    Those of the data sets where they are the same; else those of a collection of images of this
    shape, whatever each of them was made from.

    Args:
        sections: name of a data set, for people -> its own keys.

    Raises:
        ConfigError: their images have different shapes or data types.
    """
    each = {name: section_of(values) for name, values in sections.items()}
    (first, own), *others = each.items()
    for name, data in others:
        if (own.shape, own.dtype) != (data.shape, data.dtype):
            raise ConfigError(
                f"data.sets names {first} of {_text(own)} images and {name} of {_text(data)}; "
                "images that are trained on together have one shape and one depth: shard one of "
                "them again with the data.height, data.width, data.grey and data.depth of the other"
            )
    if not own.is_part and all(data == own for _, data in others):
        return own.model_dump(mode="json")
    made = {"name": "images", "height": own.height, "width": own.width, "depth": own.depth}
    if any(data.has_captions for data in each.values()):
        made["captions"] = "beside"
    return DataConfig(**made, grey=own.channels == 1).model_dump(mode="json")  # type: ignore[arg-type]


def section_of(values: Mapping[str, Any]) -> DataConfig:
    """Return the section `data` of these keys, as an index has them: without a source."""
    there = {**values, "sets": "there"}  # images in place need a source, or to be there already
    data = DataConfig.model_validate_json(json.dumps(there))
    return data.model_copy(update={"sets": None})


def _text(data: DataConfig) -> str:
    return f"{'x'.join(map(str, data.shape))} {data.dtype}"
