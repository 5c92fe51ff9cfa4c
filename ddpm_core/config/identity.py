"""What of a configuration a fingerprint counts: what determines the bytes of a result. No torch.

The keys of format 1 count always, whatever their defaults become. A key that was added since counts
where it differs from the value with which all is as it was before it (`ADDED`): so a new key with a
default leaves every fingerprint, and every run, as they are. What changes no result is declared at
the field itself, `Annotated[int, HOUSEKEEPING]` or `PLACE`, and does not count.

Doubtful keys, and why they are what they are:

log_every, checkpoint_every, keep_checkpoints, preview_every  the weights of a step are the same
    bytes for any of them; of the curves other points are kept
num_grid_images, num_strip_images  pictures for people, drawn of the samples that there are; what
    was drawn stays as it is
study.num_shown  counts: units hold that many images, and two studies would mix in one folder
*.batch_size, sample.unit_size, data.images_per_shard  count: floating point rounds by the batch,
    and images are cut into files by the others
sample.num_images  counts in what was measured of so many, not in the folder of the samples: the
    first of many are the same images, so more are drawn beside those that there are
train.ema_decays, power_averages  count, though the weights are the same: an average that begins
    half way is another than its name says, and a checkpoint would depend on when the key was set
train.num_snapshots  which averages are kept beside the checkpoints, and no byte of either
train.precision  counts, also as `auto`: other arithmetic, other weights
data.on_bad, max_bad_share, max_megapixels  places: what they leave out is seen in the digest of
    the images
data.sets  a place, since one data set is what its images are; of several, which they are and the
    share of each count in the experiment
data.captions, caption_templates  of captions=classes in the experiment alone: images and shards
    are the same whatever they are called
train.earlier  by the rates that it says: a run that went on at the same rate is the longer one
study.ablation_steps  of the ablations, not of the study
evaluate.features, evaluate.reference, train.start_from  by their digests, not by where they lie

Versions before counted the housekeeping of format 1 (`COUNTED_BEFORE`). Their fingerprints can
still be taken, by another `Rule`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ddpm_core.config import rates
from ddpm_core.config.section import Section

if TYPE_CHECKING:
    from ddpm_core.config.data import DataConfig
    from ddpm_core.config.measure import EvaluateConfig
    from ddpm_core.config.run import RunConfig

_LEVELS = "base_channels channel_mults num_res_blocks attention_resolutions dropout num_groups"

FORMAT_1: Mapping[str, frozenset[str]] = {
    section: frozenset(keys.split())
    for section, keys in {
        "data": "name height width grey crop resize background encoding class_folders "
        "num_test_images images_per_shard",
        "model": _LEVELS,
        "diffusion": "num_timesteps beta_schedule beta_start beta_end zero_terminal_snr "
        "prediction variance",
        "train": "num_steps loss weighting min_snr_gamma p2_gamma p2_k global_batch_size "
        "learning_rate warmup_steps grad_clip ema_decay random_flip seed precision",
        "sample": "sampler num_steps spacing eta ode_method churn corrector_snr clip_x_0 state "
        "num_images unit_size batch_size seed",
        "evaluate": "num_likelihood_images batch_size seed features features_sha256 feature_steps",
        "study": "num_images swept_steps num_likelihood_images num_ode_images ode_steps "
        "ode_tolerance mix_depth num_shown batch_size seed ablation_steps",
    }.items()
}
"""section -> the keys of format 1 that determine a result. Never changed."""

OF_KIND: Mapping[str, frozenset[str]] = {
    "dit": frozenset(["kind", "patch_size", "hidden_size", "num_layers", "num_heads"]),
    "mlp": frozenset(["kind", "hidden_size", "num_layers", "first_gain", "num_bumps"]),
    "multiscale": frozenset(
        [
            *("kind", "conv_channels", "num_conv_layers", "num_scales", "num_bumps"),
            *("dense_size", "num_dense_layers", "dense_channels"),
            *("upper_channels", "num_upper_layers"),
        ]
    ),
    "adm": frozenset(
        [
            *("kind", *_LEVELS.split(), "head_channels", "resample_first", "scale_skips"),
            *("text_hidden_size", "text_num_layers", "text_num_heads", "text_pool"),
        ]
    ),
    "classifier": frozenset({"kind", *_LEVELS.split()}),
    "text": frozenset(["kind", "hidden_size", "num_layers", "num_heads", "hidden_share"]),
    "clip": frozenset(
        [
            *("kind", "noised", "patch_size", "hidden_size", "num_layers", "num_heads"),
            *("text_hidden_size", "text_num_layers", "text_num_heads", "num_features"),
        ]
    ),
    "binomial": frozenset(["kind", "num_timesteps"]),
    **{
        kind: frozenset(f"kind num_timesteps times log_sigma_mean log_sigma_std {keys}".split())
        for kind, keys in {
            "vp": "beta_min beta_max prediction",
            "subvp": "beta_min beta_max prediction",
            "ve": "sigma_min sigma_max prediction",
            "flow": "",
            "edm": "sigma_min sigma_max sigma_data",
        }.items()
    },
}
"""kind of a section that was added since -> the keys that it had when it was added, which count
always, as those of format 1. Never changed."""

ADDED: Mapping[str, Mapping[str, Any]] = {
    "data": {
        "depth": 8,
        "in_place": False,
        "pin": "sha256",
        "label_key": None,
        "min_side": None,
        "only_classes": (),
        "only_keys_sha256": None,
        "duplicates": "keep",
        "captions": "none",
        "caption_key": None,
        "caption_templates": ("a picture of {name}", "an image of {name}", "{name}"),
    },
    "model": {
        "kind": "unet",
        "conditioning": "none",
        "num_classes": None,
        "known": False,
        "text_length": 128,
        "low_size": None,
    },
    "model.unet": {"time_embedding": "sinusoidal"},
    "model.adm": {"text_frozen": False},
    "diffusion": {"kind": "chain", "chain_times": "equal"},
    "train": {
        "label_dropout": 0.1,
        "text_dropout": 0.1,
        "ema_decays": (),
        "ema_warmup": False,
        "power_averages": (),
        "start_from": None,
        "start_optimiser": "fresh",
        "learning_rate_schedule": "constant",
        "earlier": (),
        "augment": 0.0,
        "low_levels": (0.0, 1.0),
    },
    "sample": {
        "labels": "balanced",
        "prompts": "held_out",
        "guidance_scale": 1.0,
        "ode_tolerance": 1e-5,
        "guidance_interval": None,
        "guidance_rescale": 0.0,
        "threshold_percentile": None,
        "threshold_cap": None,
        "low_level": 0.0,
    },
    "evaluate": {
        "num_classified_images": 0,
        "label_worth": False,
        "num_enlarged_images": 0,
        "ode_steps": 50,
        "metrics": (),
        "reference": None,
        "reference_sha256": None,
    },
    "study": {"ddim_steps": ()},
}
"""section -> key that was added since -> the value with which all is as it was before the key: its
first default. It stays what it is when the default changes. Keys of one kind of a section alone
stand under "SECTION.KIND"."""

COUNTED_BEFORE: Mapping[str, tuple[str, ...]] = {
    "train": ("log_every", "checkpoint_every", "keep_checkpoints"),
    "sample": ("num_grid_images", "num_strip_images"),
}
"""section -> the keys that counted in versions before and do not any more"""


@dataclass(frozen=True)
class Rule:
    """By which rule a fingerprint is taken: the present one, or that of the versions before."""

    housekeeping: "RunConfig | None" = None
    """None: the present rule. Else whose values of `COUNTED_BEFORE` count: those that were in force
    when the result was made"""


PRESENT = Rule()


def counted(name: str, section: Section, rule: Rule = PRESENT) -> dict[str, Any]:
    """Return the keys of a section that count, as JSON values.

    Args:
        name: of the section in the configuration, e.g. "train".
        section: it.
        rule: which keys count beside those of the present rule.
    """
    values = section.model_dump(mode="json", exclude=set(section.uncounted()))
    found = {key: value for key, value in values.items() if _counts(name, section, key)}
    if rule.housekeeping is not None and name in COUNTED_BEFORE:
        then: Section = getattr(rule.housekeeping, name)
        found |= then.model_dump(mode="json", include=set(COUNTED_BEFORE[name]))
    return found


def _counts(name: str, section: Section, key: str) -> bool:
    kind = getattr(section, "kind", "")
    if key in OF_KIND.get(kind, FORMAT_1[name]):
        return True
    field = type(section).model_fields[key]
    added = {**ADDED.get(name, {}), **ADDED.get(f"{name}.{kind}", {})}
    before = added[key] if key in added else field.get_default(call_default_factory=True)
    return bool(getattr(section, key) != before)


def data(section: "DataConfig") -> dict[str, Any]:
    """Return what a data set is, whatever the places it is read from."""
    unused = section.unused
    return {key: value for key, value in counted("data", section).items() if key not in unused}


def data_values(said: Mapping[str, Any]) -> dict[str, Any]:
    """Return the section of a data set that says of itself what `data` returned.

    Keys that were added since, and are not said, are as before they were added.
    """
    values = {**ADDED["data"], **said}
    if values.get("name") == "swiss_roll":  # said by its name alone
        values["depth"] = 16
    return values


def experiment(config: "RunConfig", rule: Rule = PRESENT) -> dict[str, Any]:
    """Return what determines the weights, beside the images themselves."""
    train = counted("train", config.train, rule)
    if (start := config.train.start) is not None:
        train["start_from"] = start.counted
    train.pop("earlier", None)
    if pieces := rates.counted(config.train):
        train["earlier"] = pieces
    images = data(config.data)
    if (sets := config.data.references) is not None and sets.counted:
        images["sets"] = sets.counted
    if config.data.captions == "classes":
        images["captions"] = list(config.data.caption_templates)
    return {
        "data": images,
        "model": counted("model", config.model, rule),
        "diffusion": counted("diffusion", config.diffusion, rule),
        "train": train,
    }


def sample_set(config: "RunConfig") -> dict[str, Any]:
    """Return what determines each of the samples of given weights, however many are drawn."""
    values = samples(config)
    del values["sample"]["num_images"]
    return values


def samples(config: "RunConfig", rule: Rule = PRESENT) -> dict[str, Any]:
    """Return what determines so many samples of given weights, as measurements count them.

    Versions before had a folder for each number of images, called by this.
    """
    return {
        "shape": list(config.data.shape),
        **({} if config.data.depth == 8 else {"depth": config.data.depth}),
        "model": counted("model", config.model, rule),
        "diffusion": counted("diffusion", config.diffusion, rule),
        "precision": config.train.precision,
        "sample": counted("sample", config.sample, rule),
    }


def evaluation(config: "RunConfig", rule: Rule = PRESENT) -> dict[str, Any]:
    """Return what determines the metrics of given weights, samples and data.

    A feature network from outside counts by its digest, not by where it lies, and so does a
    reference; the order in which metrics are named does not count.
    """
    values = counted("evaluate", config.evaluate, rule)
    if config.evaluate.features != "trained":
        del values["features"]
        values["features_sha256"] = config.evaluate.pinned
    values.pop("reference", None)
    if config.evaluate.metrics:
        values["metrics"] = sorted(config.evaluate.metrics)
    return values


def study(config: "RunConfig", rule: Rule = PRESENT) -> dict[str, Any]:
    """Return what determines a study, beside what determines the metrics."""
    values = counted("study", config.study, rule)
    del values["ablation_steps"]
    return values


def foreign_features(evaluate: "EvaluateConfig") -> dict[str, Any]:
    """Return what determines a feature network from outside: its digest."""
    return {"kind": evaluate.feature_kind, "sha256": evaluate.pinned}
