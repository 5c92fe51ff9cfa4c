"""The keys `data.captions` and `data.caption_*`: what goes together. Knows no image."""

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from ddpm_core.config.data import DataConfig

Captions = Literal["none", "beside", "table", "classes"]
WITH_CAPTIONS = ("coloured_digits",)
"""bundles whose images come with captions"""
NAME = "{name}"
DEFAULT_TEMPLATES = (f"a picture of {NAME}", f"an image of {NAME}", NAME)
KEYS_OF_CLASSES = ("captions", "caption_templates")
"""that say how captions are made of classes: no image, and no file, depends on them"""
_MAX_TEMPLATES = 64
_MAX_TEMPLATE_LETTERS = 500


def caption_of(template: str, name: str) -> str:
    """Return the caption of an image of a class of this name; of `cat_tail` it is "cat tail"."""
    return template.replace(NAME, name.replace("_", " "))


def require_captions_fit(data: "DataConfig") -> None:
    """Refuse keys of captions that do not go together, or with the images.

    Raises:
        ValueError: with what to set.
    """
    _require_source(data)
    for key, needed, default in (
        ("caption_table", "table", None),
        ("caption_key", "beside", None),
        ("caption_templates", "classes", DEFAULT_TEMPLATES),
    ):
        value = getattr(data, key)
        if value != default and data.captions != needed:
            raise ValueError(
                f"{key}={value!r} is a setting of captions={needed}, and captions="
                f"{data.captions}; leave {key} out, or give captions={needed}"
            )
    _require_templates(data.caption_templates)


def _require_source(data: "DataConfig") -> None:
    captions = data.captions
    if captions in ("beside", "table") and not data.is_collection:
        if captions == "beside" and data.name in WITH_CAPTIONS:
            if data.caption_key is not None:
                raise ValueError(
                    f"caption_key={data.caption_key!r} is a key of files of JSON, and {data.name} "
                    "has none; leave caption_key out"
                )
            return
        raise ValueError(
            f"captions={captions}, and the images of {data.name} come without any; give "
            "captions=classes, which makes them from the names of the classes"
        )
    if captions == "table" and data.in_place:
        raise ValueError(
            "captions=table goes by the names of files, and with in_place=True shards are used "
            "whose samples have captions beside them; give captions=beside"
        )


def _require_templates(templates: tuple[str, ...]) -> None:
    if not 1 <= len(templates) <= _MAX_TEMPLATES or len(set(templates)) < len(templates):
        raise ValueError(
            f"caption_templates has {len(templates)} templates; give 1 to {_MAX_TEMPLATES}, each "
            "once"
        )
    for one in templates:
        is_line = one == one.strip() and one.isprintable() and len(one) <= _MAX_TEMPLATE_LETTERS
        if not is_line or one.count(NAME) != 1:
            raise ValueError(
                f"caption_templates has {one[:80]!r}; each must be a line of at most "
                f"{_MAX_TEMPLATE_LETTERS} letters with {NAME} in it once, where the name of the "
                "class is put"
            )
