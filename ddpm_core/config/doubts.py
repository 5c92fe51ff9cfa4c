"""Settings that are possible and can hardly be meant: said before anything starts, not refused."""

from ddpm_core.config.averages import count_snapshots, first_share
from ddpm_core.config.model_ref import EMA, ModelRef
from ddpm_core.config.prompts import cut_text
from ddpm_core.config.run import RunConfig

MUCH_KEPT = 0.05
"""Share of the first weights in the averaged ones that samples begin to show."""
_ALL_NOISE = 0.2
_FEW_SNAPSHOTS = 8
_GOOD_SHARE = 0.01


def doubts(
    config: RunConfig, *, num_test: int | None = None, is_imported: bool = False
) -> list[str]:
    """Return a line for each setting that is taken, and may not be meant.

    Args:
        config: of the run.
        num_test: held-out images there are; None if not known yet.
        is_imported: whether its weights are from outside, and its section `train` trained nothing.
    """
    trained = (_warmup(config), _average(config), _snapshots(config), _mirrored(config))
    of_training = () if is_imported else trained
    return [
        line
        for line in (
            *of_training,
            _likelihood(config, num_test),
            _depth(config),
            _threshold(config),
            _prompts(config),
        )
        if line is not None
    ]


def _warmup(config: RunConfig) -> str | None:
    train = config.train
    if train.warmup_steps <= train.num_steps:
        return None
    reached = train.learning_rate * train.num_steps / train.warmup_steps
    return (
        f"train.warmup_steps={train.warmup_steps} is longer than the run, train.num_steps="
        f"{train.num_steps}: the learning rate ends at {reached:.2g} and never reaches "
        f"train.learning_rate={train.learning_rate:g}; lower train.warmup_steps"
    )


def _average(config: RunConfig) -> str | None:
    train, ref = config.train, ModelRef.parse(config.sample.model or f":{EMA}")
    if train.start is not None or ref.run not in (None, config.name):
        return None  # what it begins from is no noise; of another run it is said where it is used
    num_steps = ref.step if isinstance(ref.step, int) and ref.step > 0 else train.num_steps
    share = first_share(train, ref.average, num_steps)
    if share is None or share <= MUCH_KEPT:
        return None
    seen = (
        "samples of little but noise are to be expected"
        if share > _ALL_NOISE
        else "samples show them"
    )
    what, after = f"with train.ema_decay={train.ema_decay:g}", f"train.num_steps={num_steps}"
    remedy = "train for more steps"
    if ref.average != EMA or num_steps != train.num_steps:
        what, after = f"that sample.model={config.sample.model!r} names", f"{num_steps} steps"
        remedy = "name a later step, or one of a lower decay"
    elif num_steps > 1:
        decay = _GOOD_SHARE ** (1 / (num_steps - 1))
        remedy += (
            f", or set train.ema_decay={_shortened(decay)}, of which 1 % is left, or "
            "train.ema_warmup=true"
        )
    return (
        f"the average of the weights {what} reaches back beyond the run: after {after} it still "
        f"holds {100 * share:.0f} % of the first weights, which are random: {seen}; {remedy}"
    )


def _snapshots(config: RunConfig) -> str | None:
    train, count = config.train, count_snapshots(config.train)
    if not 0 < count < min(_FEW_SNAPSHOTS, train.num_snapshots):
        return None
    return (
        f"train.power_averages: the run leaves {count} snapshots of them, one for each checkpoint "
        f"(train.checkpoint_every={train.checkpoint_every}), and averages of other widths that are "
        f"made of so few come out inexact, or are refused; with train.checkpoint_every="
        f"{max(train.num_steps // train.num_snapshots, 1)} there are {train.num_snapshots}"
    )


def _mirrored(config: RunConfig) -> str | None:
    if not config.train.random_flip or not config.model.uses_text or config.role == "text":
        return None
    return (
        "train.random_flip=true mirrors half of the images and none of their captions: those that "
        "say left or right, or what is written in the image, are wrong then; give "
        "train.random_flip=false where there are such"
    )


def _prompts(config: RunConfig) -> str | None:
    prompts = config.sample.prompts
    if isinstance(prompts, str) or not config.model.uses_text:
        return None
    return cut_text(prompts, config.model.text_length)


def _shortened(decay: float) -> str:
    """Return a decay with two digits that count: 0.985, 0.99954."""
    digits = 2
    while digits < 12 and round(decay, digits) >= 1:
        digits += 1
    return f"{round(decay, digits + 1):g}"


def _likelihood(config: RunConfig, num_test: int | None) -> str | None:
    wanted = config.evaluate.num_likelihood_images
    held_out = config.data.max_test_images if num_test is None else num_test
    if held_out is None or wanted <= held_out:
        return None
    return (
        f"evaluate.num_likelihood_images={wanted}, but {held_out} images are held out "
        "(data.num_test_images): bits/dim are those of all of them"
    )


def _depth(config: RunConfig) -> str | None:
    precision = config.train.precision
    on_cpu = precision == "auto" and config.compute.use_gpu is False
    if config.data.depth == 8 or precision == "float32" or on_cpu:
        return None
    # On GPUs torch rounds convolutions to TF32, and the matrices that patches go through are whole.
    whole = "11 on a GPU and 24 on a CPU" if config.model.kind in ("unet", "adm") else "24"
    shown = (
        "float16" if precision == "float16" else "bfloat16, which auto takes on GPUs that have it"
    )
    return (
        f"data.depth={config.data.depth} with train.precision={precision}: in {shown}, the network "
        f"is shown {11 if precision == 'float16' else 8} significant bits of each value; give "
        f"train.precision=float32, in which it is {whole}"
    )


def _threshold(config: RunConfig) -> str | None:
    percentile = config.sample.threshold_percentile
    if percentile is None or percentile > 1:
        return None
    return (
        f"sample.threshold_percentile={percentile:g} is in per cent, and clips nearly every value "
        f"of an image that leaves [-1, 1]; if a share was meant it is {100 * percentile:g}"
    )
