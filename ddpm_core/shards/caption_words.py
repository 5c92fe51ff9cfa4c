"""What captions there are, in words, and how many a network cuts: known before it is trained."""

from collections.abc import Mapping, Sequence

from ddpm_core.config import RunConfig
from ddpm_core.config.captions import caption_of
from ddpm_core.errors import ConfigError
from ddpm_core.shards.captions import CaptionCounts, sum_of
from ddpm_core.shards.index import Split


def require_captions(config: RunConfig) -> None:
    """Refuse a network that reads captions where there are none, and captions that nothing reads.

    Raises:
        ConfigError: with what to set.
    """
    captions, reads = config.data.captions, config.model.uses_text
    if reads and captions == "none":
        raise ConfigError(
            f"model.kind={config.model.kind} is given captions, and with data.captions=none the "
            "data set has none; set data.captions=beside, table or classes"
        )
    if captions == "classes" and not reads:
        raise ConfigError(
            "data.captions=classes makes captions for a network that reads them, and "
            f"model.kind={config.model.kind} with model.conditioning={config.model.conditioning} "
            "reads none; leave data.captions out"
        )


def caption_lines(
    config: RunConfig,
    counts: Mapping[Split, CaptionCounts] | None,
    classes: Sequence[str] | None,
) -> list[str]:
    """Return what is to be said of the captions of a run, and how many its network cuts.

    Args:
        config: of the run.
        counts: split -> captions of the data set; None: not known yet, or there are none.
        classes: names of the classes, as far as they are known.

    Raises:
        ConfigError: captions are made of the name of a class that is no text.
    """
    data, lines = config.data, []
    if data.captions == "classes":
        if classes is None:
            return []
        made = CaptionCounts()
        for name in classes:
            made.add([_caption_of(one, name) for one in data.caption_templates])
        lines = [
            f"captions: made from the names of the classes by {len(data.caption_templates)} "
            f"templates, e.g. {_caption_of(data.caption_templates[0], classes[0])!r}"
        ]
        total = made
    elif counts is not None:
        lines = [f"captions of {split}: {one}" for split, one in counts.items()]
        total = sum_of(counts.values())
    else:
        return []
    return [*lines, *_cut(config, total)]


def _cut(config: RunConfig, counts: CaptionCounts) -> list[str]:
    model = config.model
    if not model.uses_text:
        return []
    number, length = counts.num_cut(model.text_length), f"model.text_length={model.text_length}"
    if not number:
        return [f"captions: {length} cuts none; the longest needs {counts.longest + 1}"]
    return [
        f"captions: {length} cuts {number} of {counts.num_captions}, which keep their first "
        f"{model.text_length - 1} bytes; the longest needs {counts.longest + 1}"
    ]


def _caption_of(template: str, name: str) -> str:
    caption = caption_of(template, name)
    try:
        caption.encode()
    except UnicodeEncodeError:
        raise ConfigError(
            f"data.captions=classes, and the class {name!a} has a name that is no text in UTF-8; "
            "rename its folder"
        ) from None
    return caption
