"""A model in memory that draws by request: the served model, the Python API and the page to play
with use it.

Image i of a seed is the one that the sample stage draws, to the network's rounding.
"""

import json
import logging
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, Self

import torch
from numpy.typing import NDArray
from torch import Tensor

from ddpm_core.config import RunConfig
from ddpm_core.config.prompts import checked_prompts
from ddpm_core.diffusion.samplers.ancestral import OnStep
from ddpm_core.diffusion.wrappers.classifier_guidance import Score
from ddpm_core.errors import ConfigError
from ddpm_core.inference.build import AnyDenoiser, require_guidance
from ddpm_core.inference.denoiser import Guide, load_denoiser, load_guide
from ddpm_core.runs.weights import Weights
from ddpm_core.sampling.draw import draw, to_levels
from ddpm_core.sampling.guided import guided
from ddpm_core.sampling.low import Enlarged
from ddpm_core.sampling.plan import Plan, load_plan
from ddpm_core.sampling.sampler import num_steps_of
from ddpm_core.shards.classes import label_numbers
from ddpm_core.store.storage import Store

_OF_A_SAMPLER = (
    "num_steps", "spacing", "eta", "ode_method", "ode_tolerance", "churn", "corrector_snr",
    "clip_x_0",
)  # fmt: skip
"""keys of `sample` that are tuned to a sampler, and mean nothing or something else to another"""
MAX_LISTED = 1024
"""labels, or prompts, of one request"""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wish:
    """How images are to be drawn, where not as the run's own samples."""

    sampler: str | None = None
    """of `sample.sampler`; another than the run's is taken with its default settings"""
    num_steps: int | None = None
    """of `sample.num_steps`"""
    labels: Sequence[int | str] = ()
    """of images 0, 1, ... in turn, by number or name; none: as of the run's own"""
    prompts: Sequence[str] = ()
    """of images 0, 1, ... in turn; none: as of the run's own"""
    guidance_scale: float | None = None
    settings: Mapping[str, Any] | None = None
    """other keys of the section `sample`, e.g. {"eta": 0.5}"""


@dataclass(frozen=True)
class Drawing:
    """A wish that can be granted: what to draw with, and what the images are of."""

    config: RunConfig
    plan: Plan


@dataclass(frozen=True)
class Moment:
    """Images while they are drawn."""

    step: int
    """steps taken, from 1 on"""
    num_steps: int
    """steps in all; of an adaptive solver 1"""
    images: NDArray[Any]
    """x_0_hat, (b, h, w, c) in levels; after the last step the images themselves"""


class Model:
    """Averaged weights, what guides them, and what their images are of."""

    def __init__(
        self,
        config: RunConfig,
        denoiser: AnyDenoiser,
        guide: Guide | None,
        plan: Plan,
        device: torch.device,
        enlarged: Callable[[], Enlarged | None] = lambda: None,
    ) -> None:
        self._enlarged = enlarged
        self.config, self.denoiser, self.guide = config, denoiser, guide
        self.plan, self.device = plan, device

    @classmethod
    def load(cls, store: Store, config: RunConfig, weights: Weights, device: torch.device) -> Self:
        """Read weights, verified, and put them where they compute.

        Raises:
            PipelineError: they are damaged, or not of this configuration.
        """
        denoiser = load_denoiser(store, config, weights.checkpoint, device, average=weights.average)
        guide = load_guide(store, weights, device)
        # When they are drawn: images that are given are enlarged without.
        enlarged = partial(Enlarged.of, store, config)
        plan = load_plan(store, config, may_lack_prompts=True)
        return cls(config, denoiser, guide, plan, device, enlarged)

    @cached_property
    def enlarged(self) -> Enlarged | None:
        """The low resolutions of the images that it draws; None: it draws from noise alone.

        Raises:
            DataError: as `Enlarged`.
        """
        return self._enlarged()

    @property
    def takes_text(self) -> bool:
        """Whether its images are of texts, which its network is given, or CLIP leads to."""
        return self.plan.text_length > 0

    def drawing(self, wish: Wish) -> Drawing:
        """Return how a wish is granted.

        Raises:
            ConfigError: it cannot be: the settings do not go together, or a label is no class.
        """
        sample = self.config.sample
        changes: dict[str, Any] = {}
        if wish.sampler is not None and wish.sampler != sample.sampler:
            fields = type(sample).model_fields
            changes = {f"sample.{key}": fields[key].default for key in _OF_A_SAMPLER}
            # The one sampler in which no predicted image appears that could be clipped.
            changes["sample.clip_x_0"] = wish.sampler != "langevin"
            changes["sample.sampler"] = wish.sampler
        if wish.num_steps is not None:
            changes["sample.num_steps"] = wish.num_steps
        # No configuration says this of a classifier, since without it there is the same for less.
        is_unguided = wish.guidance_scale == 0 and isinstance(self.guide, Score)
        if wish.guidance_scale is not None and not is_unguided:
            changes["sample.guidance_scale"] = wish.guidance_scale
        settings = wish.settings or {}
        for key in settings.keys() & {"model", "guidance_by", "low_from"}:
            raise ConfigError(
                f"{key}={settings[key]!r} names a run, which is read when this one is loaded; give "
                f'it there, Run.load(..., settings={{"sample.{key}": ...}})'
            )
        changes |= {f"sample.{key}": value for key, value in settings.items()}
        if len(wish.labels) > MAX_LISTED:
            raise ConfigError(f"{len(wish.labels)} labels are listed, at most {MAX_LISTED} may be")
        if wish.labels:
            if not self.plan.has_classes:
                raise ConfigError(
                    f"labels={list(wish.labels)}: the images of this model are of no class; leave "
                    "labels out"
                )
            changes["sample.labels"] = [self._label(one) for one in wish.labels]
        if wish.prompts:
            changes["sample.prompts"] = self._prompts(wish.prompts)
        config = self.config.replaced(changes)
        if is_unguided:
            unguided = config.sample.model_copy(update={"guidance_scale": 0.0})
            config = config.model_copy(update={"sample": unguided})
        if isinstance(self.guide, Score) and config.sample.guidance_rescale > 0:
            raise ConfigError(
                f"guidance_rescale={config.sample.guidance_rescale:g} is stated for guidance away "
                "from a reference, and what guides here by its gradient has none; leave it out"
            )
        require_guidance(config)
        plan = self.plan
        if wish.labels:
            plan = replace(plan, in_turn=label_numbers(config, plan.names or None))
        if wish.prompts:
            plan = replace(plan, prompts=tuple(wish.prompts))
            if (cut := plan.cut) is not None:
                _log.warning("%s", cut)
        return Drawing(config, plan)

    def images(
        self,
        indices: Sequence[int],
        drawing: Drawing,
        *,
        seed: int | None = None,
        on_step: OnStep | None = None,
    ) -> NDArray[Any]:
        """Return images of a seed in levels, (n, h, w, c) uint8, or uint16 of data.depth=16.

        Args:
            indices: which images of the seed, 0 or more each.
            drawing: how, and of what.
            seed: None is the run's own.
            on_step: called with (steps to go, x_t, x_0_hat) after each step of each batch.
        """
        sample = drawing.config.sample
        positions = torch.tensor(list(indices), dtype=torch.int64, device=self.device)
        batches = [
            to_levels(
                self._drawn(positions[start : start + sample.batch_size], drawing, seed, on_step),
                self.config.data.num_levels,
            )
            for start in range(0, len(positions), sample.batch_size)
        ]
        images: NDArray[Any] = torch.cat(batches).cpu().numpy()
        return images

    def moments(
        self, indices: Sequence[int], drawing: Drawing, *, seed: int | None = None, every: int = 1
    ) -> Iterator[Moment]:
        """Yield images while they are drawn, as one batch: every so many steps, and the last.

        Closing the iterator ends the drawing at its next step.

        Raises:
            PipelineError: as the drawing does.
        """
        sample, levels = drawing.config.sample, self.config.data.num_levels
        num_steps = num_steps_of(sample, self.config.diffusion.num_timesteps)
        positions = torch.tensor(list(indices), dtype=torch.int64, device=self.device)
        found: queue.Queue[Moment | BaseException] = queue.Queue(maxsize=1)
        left = threading.Event()

        def put(one: Moment | BaseException) -> None:
            while not left.is_set():
                try:
                    found.put(one, timeout=0.1)
                except queue.Full:
                    continue
                return
            raise _LeftError

        def on_step(to_go: int, _x_t: Tensor, x_0_hat: Tensor) -> None:
            step = num_steps - to_go
            if left.is_set():
                raise _LeftError
            if to_go > 0 and step % every == 0:
                put(Moment(step, num_steps, to_levels(x_0_hat, levels).cpu().numpy()))

        def work() -> None:
            try:
                x_0 = self._drawn(positions, drawing, seed, on_step)
                put(Moment(num_steps, num_steps, to_levels(x_0, levels).cpu().numpy()))
            except _LeftError:
                pass
            except BaseException as error:  # noqa: BLE001 - raised where the images are awaited
                with suppress(_LeftError):
                    put(error)

        thread = threading.Thread(target=work, name="drawing", daemon=True)
        thread.start()
        try:
            while True:
                one = found.get()
                if isinstance(one, BaseException):
                    raise one
                yield one
                if one.step == num_steps:
                    return
        finally:
            left.set()
            thread.join()

    def _drawn(
        self, positions: Tensor, drawing: Drawing, seed: int | None, on_step: OnStep | None
    ) -> Tensor:
        sample = drawing.config.sample
        if self.takes_text and not drawing.plan.prompts:
            raise ConfigError(
                "this model draws images of texts, and no captions are known of which; give "
                'prompts, e.g. ["a red seven"]'
            )
        seed = sample.seed if seed is None else seed
        # Labels that are drawn are of the same seed, as the stage's are.
        low, plan = None, replace(drawing.plan, seed=seed)
        if self.enlarged is not None:
            if drawing.plan != self.plan:
                raise ConfigError(
                    "labels or prompts are given, and what this model enlarges says of what it is; "
                    "leave them out"
                )
            plan = drawing.plan
            low = self.enlarged.at(positions, seed=seed, level=sample.low_level)
        sources = positions if self.enlarged is None else self.enlarged.sources(positions)
        given = plan.conditioning(sources, low=low)
        return draw(
            guided(self.denoiser, given, sample, self.guide),
            positions,
            self.config.data.shape,
            sample=sample,
            seed=seed,
            on_step=on_step,
        )

    def _prompts(self, prompts: Sequence[str]) -> list[str]:
        """Return the texts of a wish, checked."""
        if not self.takes_text:
            raise ConfigError(
                f"prompts={json.dumps(list(prompts), ensure_ascii=False)[:100]}: the images of "
                "this model are of no text; leave prompts out"
            )
        if len(prompts) > MAX_LISTED:
            raise ConfigError(f"{len(prompts)} prompts are given, at most {MAX_LISTED} may be")
        try:
            return list(checked_prompts(list(prompts)))
        except ValueError as error:
            raise ConfigError(str(error)) from None

    def _label(self, given: int | str) -> int | str:
        """Return a number for what is written like one, unless a class is called so."""
        if isinstance(given, str) and given not in self.plan.names:
            is_number = given.isascii() and given.isdigit() and len(given) < 7
            return int(given) if is_number else given
        return given


class _LeftError(Exception):
    """Raised within a drawing that nobody waits for any more."""
