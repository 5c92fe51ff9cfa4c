"""What is wrong with a configuration, in words: key, value, rule and remedy."""

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from ddpm_core.config.kinds import Kinds, kinds_of, misplaced
from ddpm_core.output import printable

Location = tuple[int | str, ...]
_SHOWN = 200
"""characters of a value that are repeated"""
_EXACT = 0.8
"""difflib's measure above which a word is a misspelling, whatever else it could mean"""

_OTHER_WORDS: dict[str, tuple[str, ...]] = {
    "train.num_steps": ("steps", "epochs", "epoch", "iterations", "iters", "num_iterations",
                        "max_steps", "train_steps", "total_steps", "num_train_steps", "niter",
                        "num_epochs", "max_epochs"),
    "train.learning_rate": ("lr", "base_lr", "rate", "step_size", "alpha"),
    "train.global_batch_size": ("batch_size", "batch", "bs", "train_batch_size"),
    "train.warmup_steps": ("warmup", "lr_warmup", "lr_warmup_steps", "warm_up"),
    "train.grad_clip": ("clip", "grad_norm", "max_grad_norm", "gradient_clip_val"),
    "train.ema_decay": ("ema", "ema_rate", "decay", "ema_beta", "ema_max_decay"),
    "train.random_flip": ("flip", "hflip", "horizontal_flip"),
    "train.augment": ("augmentation", "augment_p", "ada"),
    "train.precision": ("fp16", "bf16", "amp", "dtype", "mixed_precision", "use_fp16", "autocast"),
    "train.checkpoint_every": ("save_every", "save_interval", "checkpoint_interval", "save_steps",
                               "save_and_sample_every"),
    "train.log_every": ("log_interval", "logging_steps"),
    "train.loss": ("loss_type", "objective"),
    "data.height": ("size", "image_size", "img_size", "resolution", "side", "image_height"),
    "data.width": ("image_width",),
    "data.source": ("path", "dir", "folder", "root", "data_dir", "train_data_dir", "data_path",
                    "url", "location", "files"),
    "data.name": ("dataset", "dataset_name", "set", "kind"),
    "data.num_test_images": ("test_size", "holdout", "held_out", "num_test", "val_size",
                             "validation_split", "test_split"),
    "data.grey": ("gray", "grayscale", "greyscale", "mono"),
    "model.base_channels": ("channels", "dim", "ch", "model_channels", "num_channels", "width",
                            "base_dim", "hidden_size"),
    "model.channel_mults": ("ch_mult", "channel_mult", "dim_mults", "block_out_channels"),
    "model.num_res_blocks": ("layers_per_block", "depth", "num_layers", "num_blocks"),
    "model.attention_resolutions": ("attn_resolutions", "attention", "attn"),
    "model.num_groups": ("groups", "norm_num_groups"),
    "model.patch_size": ("patch",),
    "model.hidden_size": ("width", "dim", "embed_dim", "channels"),
    "model.num_layers": ("depth", "layers", "num_blocks"),
    "model.num_heads": ("heads", "num_attention_heads"),
    "diffusion.num_timesteps": ("timesteps", "t", "num_train_timesteps", "diffusion_steps"),
    "diffusion.beta_schedule": ("noise_schedule", "schedule", "schedule_name"),
    "diffusion.prediction": ("prediction_type", "predict", "parameterization", "predict_xstart"),
    "diffusion.variance": ("variance_type", "learn_sigma", "sigma"),
    "sample.num_images": ("n", "num_samples", "count", "number"),
    "sample.num_steps": ("steps", "num_inference_steps", "sampling_timesteps", "nfe",
                         "timestep_respacing"),
    "sample.sampler": ("scheduler", "method", "solver"),
    "evaluate.features": ("fid", "inception", "feature_network"),
    "compute.num_workers": ("workers", "gpus", "num_gpus", "devices", "num_processes", "nproc",
                            "world_size"),
    "compute.use_gpu": ("gpu", "device", "cuda"),
    "compute.cpus_per_worker": ("cpus", "threads", "num_threads", "cores"),
}  # fmt: skip
"""key -> what other programs call it"""


def explain(model: type[BaseModel], error: ValidationError) -> Iterator[str]:
    """Yield a line for each thing that is wrong with the values that `model` was given."""
    for problem in error.errors(include_url=False):
        location, section, kinds = _resolved(model, problem["loc"])
        where = printable(".".join(str(part) for part in location))
        if len(where) > _SHOWN:
            where = f"{where[:_SHOWN]}..."
        if problem["type"] == "extra_forbidden":
            key, siblings = str(location[-1]), list(section.model_fields)
            here = next((kind for kind, one in kinds.items() if one is section), None)
            elsewhere = misplaced(str(location[0]), key, here, kinds)
            yield elsewhere or f"{where}: no such key{did_you_mean(key, siblings)}"
        elif problem["type"] == "union_tag_invalid":
            yield no_such_kind(where, problem["input"]["kind"], kinds)
        elif problem["type"] == "value_error":
            yield (f"{where}: " if where else "") + str(problem["ctx"]["error"])
        else:
            value = _shown(problem["input"])
            yield f"{where}={value}: {problem['msg']}{_remedy(section, location, problem['input'])}"


def _shown(value: Any) -> str:  # noqa: ANN401
    text = json.dumps(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({len(text)} characters)"


def no_such_kind(section: str, kind: Any, kinds: Kinds) -> str:  # noqa: ANN401
    """Return the sentence that says there is no such kind of a section."""
    known = [one for one in kinds if one is not None]
    return f"{section}.kind={_shown(kind)}: no such kind{did_you_mean(str(kind), known)}"


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """Return the end of a sentence that says there is no `word`."""
    close = near(word, known)
    return f"; did you mean {close!r}?" if close else f"; known: {', '.join(known)}"


def near(word: str, known: Sequence[str], *, cutoff: float = 0.6) -> str | None:
    """Return the known word that `word` was probably meant to be."""
    close = difflib.get_close_matches(word[:_SHOWN], known, n=1, cutoff=cutoff)
    return close[0] if close else None


def which_key(dotted: str, sections: Mapping[str, Sequence[str]]) -> str:
    """Return the end of a sentence that says there is no key `dotted`.

    Args:
        dotted: section.key, or a key alone.
        sections: section -> its keys.
    """
    section, _, word = dotted.rpartition(".")
    siblings = sections.get(section, [])
    known = {f"{name}.{key}" for name, keys in sections.items() for key in keys}
    meant = [key for key, words in _OTHER_WORDS.items() if word.lower() in words and key in known]
    meant += [f"{name}.{word}" for name, keys in sections.items() if word in keys]
    own = [key for key in meant if key.startswith(f"{section}.")]
    if not own and (close := near(word, siblings, cutoff=_EXACT)) is not None:
        return f"; did you mean {close!r}?"
    if meant:
        words = " or ".join(repr(key) for key in own or meant)
        if "data.height" in meant:
            words += " and 'data.width'"
        if "epoch" in word.lower():
            words += " (a step is a batch, not an epoch)"
        return f"; did you mean {words}?"
    if not section:
        every = [f"{name}.{key}" for name, keys in sections.items() for key in keys]
        close = near(word, [key.rpartition(".")[2] for key in every])
        found = [key for key in every if key.rpartition(".")[2] == close]
        if found:
            return f"; did you mean {' or '.join(repr(key) for key in found)}?"
    return did_you_mean(word, siblings or list(sections))


def _remedy(section: type[BaseModel], location: Location, value: Any) -> str:  # noqa: ANN401
    """Say what the key is, and what may be written there; "" for what is no key."""
    keys = [part for part in location if isinstance(part, str)]
    field = section.model_fields.get(keys[-1]) if keys else None
    if field is None:
        return ""
    if kinds_of(field.annotation):
        return f" (a section; give one of its keys, as {keys[-1]}.KEY=VALUE)"
    words = [" ".join((field.description or "").split())]
    default = field.get_default()
    if isinstance(default, tuple) and isinstance(value, int) and location[-1] == keys[-1]:
        words.append(f"write {json.dumps([value])}")
    elif default is not None:
        words.append(f"e.g. {default if isinstance(default, str) else json.dumps(default)}")
    return f" ({'; '.join(words)})"


def _resolved(
    model: type[BaseModel], location: Location
) -> tuple[Location, type[BaseModel], Kinds]:
    """Return the location as keys, the model that has the last of them, and which it could be.

    pydantic says the kind of a section after the section's name, as if it were a key.
    """
    if not location or (field := model.model_fields.get(str(location[0]))) is None:
        return location, model, {}
    first, *rest = location
    kinds = kinds_of(field.annotation)
    if not rest or not kinds:
        return location, model, kinds
    section = next(iter(kinds.values()))
    if len(kinds) > 1:
        section = kinds[str(rest.pop(0))]
    return (first, *rest), section if rest else model, kinds
