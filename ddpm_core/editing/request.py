"""What a command line asks of `edit`: what of which images is made anew, and how."""

from dataclasses import dataclass

from ddpm_core.config import RunConfig, SampleConfig
from ddpm_core.editing.canvas import Margins
from ddpm_core.editing.method import Method
from ddpm_core.errors import ConfigError

_PLAIN = Method()


@dataclass(frozen=True)
class Request:
    """What a command line asks of `edit`, beside the run."""

    images: str
    out: str
    masks: str | None = None
    margins: Margins | None = None
    method: Method = _PLAIN
    variants: int = 1
    batch_size: int = 4
    """images through the network at once; a last batch is filled up, since rounding depends on
    it"""
    overwrite: bool = False
    low_level: float | None = None
    """of upscale: a share of the process by which the images, low resolutions, are noised before
    they are enlarged; None: they are edited"""

    @property
    def is_enlarging(self) -> bool:
        """Whether the images are low resolutions, which are enlarged."""
        return self.low_level is not None

    @property
    def verb(self) -> str:
        """The command."""
        return "upscale" if self.is_enlarging else "edit"

    @property
    def option(self) -> str:
        """That names the images."""
        return "--images" if self.is_enlarging else "--image"

    @property
    def is_inpainting(self) -> bool:
        """Whether some pixels are known."""
        return self.masks is not None or self.margins is not None

    def require_possible(self, config: RunConfig) -> None:
        """Refuse what does not go together, before any file is read.

        Raises:
            ConfigError: naming the option, and what to give.
        """
        if self.low_level is not None:
            self._require_enlarging(config, self.low_level)
            return
        require_no_enlarging(config, "edit")
        if config.diffusion.kind == "binomial":
            raise ConfigError(
                "edit changes images, and diffusion.kind=binomial is a chain of bits; give another "
                "model"
            )
        if not self.is_inpainting and self.method.strength is None:
            raise ConfigError(
                "nothing says what to make anew; give --mask (white is made anew), --extend "
                "left=8 and the like, or --strength between 0 and 1 for the whole image"
            )
        if self.margins is not None and self.method.strength is not None:
            raise ConfigError(
                "--extend and --strength do not go together: beside the image there is nothing "
                "to begin from; leave one of them out"
            )
        if self.method.name == "repaint" and not self.is_inpainting:
            raise ConfigError(
                "--method repaint is for what is known of an image; give --mask or --extend with it"
            )
        self._require_counts(config)
        self.method.require_possible(config)

    def _require_counts(self, config: RunConfig) -> None:
        if config.num_classes is not None and not isinstance(config.sample.labels, tuple):
            _refuse_what_needs_labels(config.sample)
        if config.model.uses_text and isinstance(config.sample.prompts, str):
            _refuse_what_needs_prompts(config.sample)
        for option, value in (("--variants", self.variants), ("--batch-size", self.batch_size)):
            if not 1 <= value <= 2**16:
                raise ConfigError(f"{option} {value} must be from 1 to {2**16}")

    def _require_enlarging(self, config: RunConfig, level: float) -> None:
        if config.model.low_size is None:
            raise ConfigError(
                "upscale is of models that enlarge, and this one draws images from noise alone "
                "(model.low_size is not given); give another model, or --strength to edit"
            )
        require_level(config, level, given=f"--low-level {level:g}")
        self._require_counts(config)

    def what(self, config: RunConfig) -> str:
        """Return what is done, as a part of the names of the files."""
        if self.low_level is not None:
            level = f"-level{self.low_level:g}" if self.low_level else ""
            return f"upscaled{level}-seed{config.sample.seed}"
        words = [
            "repainted"
            if self.method.name == "repaint"
            else "inpainted"
            if self.masks is not None
            else "extended"
            if self.margins is not None
            else "changed"
        ]
        if self.method.strength is not None:
            words.append(f"strength{self.method.strength:g}")
        return "-".join([*words, f"seed{config.sample.seed}"])


def require_level(config: RunConfig, level: float, *, given: str) -> None:
    """Refuse a noise of low resolutions that a network was not shown.

    Raises:
        ConfigError: with those that it was.
    """
    least, most = config.train.low_levels
    if not least <= level <= most:
        raise ConfigError(
            f"{given} is a noise that the network was not shown: that of train.low_levels="
            f"{[least, most]} goes from {least:g} to {most:g}; give a level between"
        )


def require_no_enlarging(config: RunConfig, what: str) -> None:
    """Refuse what is of models that draw images from noise alone, for one that enlarges.

    Raises:
        ConfigError: with what there is for it.
    """
    if config.model.low_size is not None:
        height, width = config.model.low_size
        raise ConfigError(
            f"{what} is of models that draw images from noise alone, and this one enlarges those "
            f"of {height}x{width} (model.low_size): `upscale` does"
        )


def _refuse_what_needs_prompts(sample: SampleConfig) -> None:
    if sample.guidance_scale != 1 and sample.guidance_by is None:
        raise ConfigError(
            f"sample.guidance_scale={sample.guidance_scale} has no effect on images without a "
            'prompt; give one, e.g. --prompt "a red seven", or --set sample.guidance_scale=1'
        )


def _refuse_what_needs_labels(sample: SampleConfig) -> None:
    given = {
        "labels": sample.labels == "training",
        "guidance_scale": sample.guidance_scale != 1 and sample.guidance_by is None,
    }
    for key in (key for key, is_given in given.items() if is_given):
        default = SampleConfig.model_fields[key].default
        raise ConfigError(
            f"sample.{key}={getattr(sample, key)} has no effect on images without labels; give "
            f"theirs, e.g. --set sample.labels=[3], or --set sample.{key}={default}"
        )
