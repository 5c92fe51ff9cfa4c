"""Whether weights of one run fit another, key by key of their configurations. Knows no torch."""

import json
from typing import Any

from ddpm_core.config import AdmConfig, RunConfig, TextConfig, UNetConfig, identity
from ddpm_core.config.start import STATE
from ddpm_core.diffusion.choices import is_learned

_FREE = (
    "text_frozen",
    "dropout",
    "conditioning",
    "num_classes",
    "attention_resolutions",
    "known",
    "low_size",
)
"""keys of the network that may differ, some in one direction alone, see `misfits`"""
_OUTPUTS_APART = ("binomial", "flow", "edm")
"""kinds of `diffusion` whose networks say what those of no other kind say: log odds of bits, the
velocity, and what is left of the image once x_t is added, see `diffusion.path_network`"""


def misfits(theirs: RunConfig, ours: RunConfig) -> list[str]:
    """Return a line for each key with which the weights of one run are none of another's."""
    if isinstance(theirs.model, TextConfig) and isinstance(ours.model, AdmConfig):
        return _of_encoder(theirs, ours)
    if theirs.model.kind != ours.model.kind:
        return [misfit("model.kind", theirs.model.kind, ours.model.kind)]
    there, here = (_of_network(one) for one in (theirs, ours))
    lines = [
        misfit(f"model.{key}", there.get(key), here.get(key))
        for key in {**there, **here}
        if there.get(key) != here.get(key)
    ]
    lines += _attention(theirs, ours)
    if ours.role == "classifier" and theirs.num_classes != ours.num_classes:
        lines.append(misfit("model.num_classes", theirs.num_classes, ours.num_classes))
    given, ours_given = theirs.model.conditioning, ours.model.conditioning
    is_less = theirs.num_classes is not None and ours.num_classes is None
    if is_less or theirs.model.uses_text != ours.model.uses_text:
        lines.append(misfit("model.conditioning", given, ours_given))
    if theirs.model.known and not ours.model.known:
        lines.append(misfit("model.known", there=True, here=False))
    if theirs.model.low_size is not None and ours.model.low_size is None:
        lines.append(misfit("model.low_size", theirs.model.low_size, None))
    first, second = (getattr(one.model, "text_frozen", False) for one in (theirs, ours))
    if first != second and ours.train.start_optimiser == "kept":  # of what is frozen there is none
        line = misfit("model.text_frozen", first, second)
        lines.append(f"{line}, or leave train.start_optimiser out")
    if ours.role == "text":  # which sees neither images nor noise
        return lines
    if theirs.data.channels != ours.data.channels:
        lines.append(
            f"channels of the images: {theirs.data.channels} there, {ours.data.channels} here; set "
            f"data.grey={json.dumps(theirs.data.channels == 1)}, or take other images"
        )
    if ours.role == "clip":  # it learns a row for each patch
        lines += [
            misfit(f"data.{key}", first, second)
            for key in ("height", "width")
            if (first := getattr(theirs.data, key)) != (second := getattr(ours.data, key))
        ]
    return lines + _outputs(theirs, ours)


def _of_encoder(theirs: RunConfig, ours: RunConfig) -> list[str]:
    """Compare a language model with the encoder of captions that begins as its."""
    there, here, start = theirs.model, ours.model, ours.train.start
    if not isinstance(there, TextConfig) or not isinstance(here, AdmConfig):
        raise TypeError("no language model, or nothing that reads captions")
    if not here.uses_text:
        return [misfit("model.conditioning", "text", here.conditioning)]
    lines = [
        f"model.{key}: {value} here, model.{name}={wanted} there; set model.{key}={wanted}"
        for name, key, wanted, value in (
            ("text_length", "text_length", there.text_length, here.text_length),
            ("hidden_size", "text_hidden_size", there.hidden_size, here.text_hidden_size),
            ("num_layers", "text_num_layers", there.num_layers, here.text_num_layers),
            ("num_heads", "text_num_heads", there.num_heads, here.text_num_heads),
        )
        if wanted != value
    ]
    if ours.train.start_optimiser == "kept" or (start is not None and start.model.average == STATE):
        lines.append(
            "a language model has no moments and no averages of what draws images: name one of its "
            "averages (RUN@STEP), and leave train.start_optimiser out"
        )
    return lines


def other_chain(theirs: RunConfig, ours: RunConfig) -> str | None:
    """Return a line about a chain that the weights have not seen, which fits all the same."""
    is_same = theirs.diffusion.kind == ours.diffusion.kind
    there, here = (_of_process(one, whole=is_same) for one in (theirs, ours))
    lines = [
        f"diffusion.{key} is {json.dumps(there[key])} there and {json.dumps(here[key])} here"
        for key in there
        if there[key] != here[key]
    ]
    if not lines:
        return None
    return (
        f"the weights of train.start_from={ours.train.start_from!r} were trained on another chain, "
        f"and have to learn this one: {'; '.join(lines)}"
    )


def _of_process(config: RunConfig, *, whole: bool) -> dict[str, Any]:
    """Return the keys that say which noise a network has seen; of another kind that alone."""
    section = config.diffusion
    if not whole:
        return {"kind": section.kind}
    return section.model_dump(mode="json", exclude={"prediction", "variance"})


def _outputs(theirs: RunConfig, ours: RunConfig) -> list[str]:
    """Compare what the outputs of the networks mean."""
    first, second = theirs.diffusion, ours.diffusion
    if first.kind != second.kind and {first.kind, second.kind}.intersection(_OUTPUTS_APART):
        return [misfit("diffusion.kind", first.kind, second.kind)]
    lines = []
    if first.prediction != second.prediction:
        lines.append(misfit("diffusion.prediction", first.prediction, second.prediction))
    is_said = is_learned(first.variance) or is_learned(second.variance)
    if is_said and first.variance != second.variance:
        lines.append(misfit("diffusion.variance", first.variance, second.variance))
    return lines


def _of_network(config: RunConfig) -> dict[str, Any]:
    section = identity.counted("model", config.model)
    return {key: value for key, value in section.items() if key not in _FREE}


def _attention(theirs: RunConfig, ours: RunConfig) -> list[str]:
    """Compare where attention is in the network: images of another height move it."""
    there, here = _levels(theirs), _levels(ours)
    if there == here:
        return []
    heights = _heights(ours)
    wanted = sorted((heights[level] for level in there), reverse=True)
    return [
        f"model.attention_resolutions: {_resolutions(theirs)} of images of height "
        f"{theirs.data.height} there, {_resolutions(ours)} of height {ours.data.height} here; set "
        f"model.attention_resolutions={wanted}, which are the same places"
    ]


def _resolutions(config: RunConfig) -> list[int]:
    model = config.model
    return list(model.attention_resolutions) if isinstance(model, UNetConfig | AdmConfig) else []


def _levels(config: RunConfig) -> set[int]:
    """Return the levels of a U-Net, from 0 the highest resolution, that have attention."""
    wanted = _resolutions(config)
    return {level for level, height in enumerate(_heights(config)) if height in wanted}


def _heights(config: RunConfig) -> list[int]:
    """Return the heights of the levels of a U-Net; [] of networks without."""
    match config.model:
        case AdmConfig() as model:
            return model.heights(config.data.height)
        case UNetConfig() as model:
            return [config.data.height // 2**level for level in range(len(model.channel_mults))]
        case _:
            return []


def misfit(key: str, there: object, here: object) -> str:
    """Return the line of a key that must be as it is there."""
    first, second = json.dumps(there), json.dumps(here)
    return f"{key}: {first} there, {second} here; set {key}={first}"
