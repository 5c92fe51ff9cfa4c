"""The commands `edit` and `upscale`: images of a user, made anew by a trained model in part or from
a depth, or enlarged.

All that can be refused is refused before the network is loaded.
"""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ddpm_core.conditioning import Known
from ddpm_core.config import RunConfig, identity
from ddpm_core.diffusion.denoiser import NetworkDenoiser
from ddpm_core.diffusion.samplers.ancestral import OnStep
from ddpm_core.editing import outputs
from ddpm_core.editing.inputs import Inputs, read_inputs
from ddpm_core.editing.method import edit_images, followed, low_of, require_guided
from ddpm_core.editing.request import Request
from ddpm_core.errors import ConfigError
from ddpm_core.images import png
from ddpm_core.images.names import bytes_of
from ddpm_core.images.resize import resized
from ddpm_core.inference.denoiser import Guide, load_denoiser, load_guide
from ddpm_core.inference.low_resolution import steps_of
from ddpm_core.output import say
from ddpm_core.progress import WARNING, Progress
from ddpm_core.runs import chosen
from ddpm_core.runs.reference import classifier_of, require_end_known, scored_by
from ddpm_core.runs.run import check_stage
from ddpm_core.runs.stages import require_denoiser
from ddpm_core.runs.weights import Weights
from ddpm_core.sampling.draw import to_levels
from ddpm_core.sampling.plan import Plan, plan_of_classes
from ddpm_core.sampling.sampler import describe
from ddpm_core.shards.classes import labelled_classes
from ddpm_core.store.storage import Store

_SHOW_EVERY_S = 5.0


def run_edit(store: Store, config: RunConfig, request: Request, out: Store) -> list[str]:
    """Edit the images of a request, write them, and return their keys in `out`.

    Args:
        store: the root of the run.
        config: of the run.
        request: what to do.
        out: where to write.

    Raises:
        PipelineError: before anything is written, what cannot be done.
    """
    work = prepare(store, config, request, out)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    weights, total = work.weights, len(work.jobs)
    missing = [job for job in work.jobs if work.key_of(job) not in work.there]
    done = total - len(missing)
    # First, so that an edit that is cut off is known for this one when it is begun again; but not
    # beside results of another that are written over one by one.
    if request.overwrite:
        out.delete(work.record_key)
    else:
        out.create(work.record_key, work.record)
    Progress(request.verb, done, total, "images", weights.said).show()
    if missing:
        denoiser = _loaded(store, config, weights, device)
        guide = load_guide(store, weights, device, compute=config.compute)
    for start in range(0, len(missing), request.batch_size):
        jobs = missing[start : start + request.batch_size]
        edited = _edited(denoiser, guide, work, jobs, device, _Steps(request.verb, done, total))
        for job, levels in zip(jobs, edited, strict=True):
            _write(out, work.key_of(job), png.encode(levels), overwrite=request.overwrite)
        done += len(jobs)
        Progress(request.verb, done, total, "images").show()
    if work.sheet_key not in work.there:
        _write(out, work.sheet_key, _sheet(work, out), overwrite=request.overwrite)
    if request.overwrite:
        out.write(work.record_key, work.record)
    return [*work.all_keys]


def _loaded(
    store: Store, config: RunConfig, weights: Weights, device: torch.device
) -> NetworkDenoiser:
    average = weights.average
    denoiser = load_denoiser(
        store, config, weights.checkpoint, device, average=average, compute=config.compute
    )
    if not isinstance(denoiser, NetworkDenoiser):
        raise TypeError(type(denoiser))  # of bits: refused before
    return denoiser


@dataclass(frozen=True)
class Work:
    """A request that can be done."""

    config: RunConfig
    request: Request
    weights: Weights
    inputs: Inputs
    plan: Plan
    """what they are of, in turn"""
    keys: list[list[str]]
    """of each image and variant"""
    there: frozenset[str]
    """the keys that this very edit has written before it was cut off"""

    def key_of(self, job: tuple[int, int]) -> str:
        """Of the result of a job."""
        image, variant = job
        return self.keys[image][variant]

    @property
    def jobs(self) -> list[tuple[int, int]]:
        """(number of the image, variant) of each result."""
        return [
            (image, variant)
            for image in range(len(self.keys))
            for variant in range(self.request.variants)
        ]

    @property
    def sheet_key(self) -> str:
        """Of the sheet."""
        return f"sheet-{self.request.what(self.config)}.png"

    @property
    def record_key(self) -> str:
        """Of what is said of all."""
        return f"{self.request.verb}-{self.request.what(self.config)}.json"

    @property
    def all_keys(self) -> list[str]:
        """All that is written."""
        return [*(key for keys in self.keys for key in keys), self.sheet_key, self.record_key]

    @property
    def record(self) -> bytes:
        """What the results are made of."""
        config, request = self.config, self.request
        about: dict[str, Any] = {
            "weights": {"name": self.weights.name, "sha256": self.weights.sha256},
            "sampler": describe(config.sample, config.diffusion.num_timesteps),
            **self._how,
            "batch_size": request.batch_size,
            "data": identity.data(config.data),
        }
        if (weaker := self.weights.weaker) is not None:
            about["guide"] = {"name": weaker.name, "sha256": weaker.sha256}
        if request.margins is not None:
            about["extend"] = request.margins.words
        if self.plan != Plan():
            about |= {"guidance_scale": config.sample.guidance_scale}
        rows = []
        for number, file in enumerate(self.inputs.files):
            row: dict[str, Any] = {"name": file.name, "sha256": self.inputs.sha256[number]}
            if self.inputs.masks:
                row["mask"] = self.inputs.masks[number]
                row["mask_sha256"] = self.inputs.masks_sha256[number]
            if self.plan.in_turn:
                row["label"] = self.plan.in_turn[number % len(self.plan.in_turn)]
            if self.plan.prompts:
                row["prompt"] = self.plan.prompt(number)
            rows.append({**row, "results": self.keys[number]})
        return outputs.record_of({**about, "images": rows})

    @property
    def _how(self) -> dict[str, Any]:
        """How the images are made anew, as JSON values."""
        config, level = self.config, self.request.low_level
        if level is None:
            return self.request.method.about(config.sample, config.diffusion.num_timesteps)
        return {
            "low_size": list(config.model.low_size or ()),
            "low_level": level,
            "low_level_steps": steps_of(level, config.diffusion.num_timesteps),
        }


def prepare(store: Store, config: RunConfig, request: Request, out: Store) -> Work:
    """Check all that a request needs; writes nothing.

    Raises:
        PipelineError: what cannot be done.
    """
    require_denoiser(config, request.verb)
    request.require_possible(config)
    check_stage(store, config)
    if request.is_enlarging:  # the images of the user, whatever the run's own samples enlarge
        config = config.replaced({"sample.low_from": None})
    plan = Plan()
    classifier, scored = classifier_of(store, config), scored_by(store, config)
    if scored is not None:
        require_end_known(config)
        if scored.role == "clip":
            raise ConfigError(
                f"sample.guidance_by={config.sample.guidance_by!r} is CLIP, which leads to texts, "
                "and images are edited towards classes alone; leave sample.guidance_by out"
            )
    if isinstance(config.sample.labels, tuple):
        plan = Plan(in_turn=plan_of_classes(config, labelled_classes(store, config)).in_turn)
    elif classifier is not None:
        raise ConfigError(
            f"sample.guidance_by={config.sample.guidance_by!r} is a classifier, which leads to the "
            "class that an image is to be of; give it, e.g. --set sample.labels=[3]"
        )
    if isinstance(config.sample.prompts, tuple):
        plan = replace(plan, prompts=config.sample.prompts, text_length=config.model.text_length)
        if (cut := plan.cut) is not None:
            say(f"{WARNING}{cut}")
    require_guided(config, request.method.strength)
    weights = replace(chosen.require(store, config), lower=None)
    chosen.require_files(store, weights)
    inputs = read_inputs(request, config, out.uri)
    names, stems = [one.name for one in inputs.files], [one.stem for one in inputs.files]
    keys = outputs.keys_of(names, stems, request.what(config), request.variants)
    work = Work(config, request, weights, inputs, plan, keys, frozenset())
    if not request.overwrite:
        there = outputs.written_before(out, work.all_keys, work.record_key, work.record)
        work = replace(work, there=there)
    out.require_writable()
    return work


class _Steps:
    """Shows now and then how many steps of a batch are taken, which may be minutes' work."""

    def __init__(self, verb: str, done: int, total: int) -> None:
        self._verb = verb
        self._done, self._total, self._taken = done, total, 0
        self._shown_s = time.monotonic()

    def __call__(self, *_: object) -> None:
        self._taken += 1
        if (now := time.monotonic()) - self._shown_s >= _SHOW_EVERY_S:
            self._shown_s = now
            note = f"step {self._taken} of the next"
            Progress(self._verb, self._done, self._total, "images", note).show()


def position_of(name: str, variant: int) -> int:
    """Return the number by which the noise of a variant of an image is keyed, below 2**63."""
    digest = hashlib.sha256(bytes_of(name) + b"\0" + str(variant).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def _edited(
    denoiser: NetworkDenoiser,
    guide: Guide | None,
    work: Work,
    jobs: Sequence[tuple[int, int]],
    device: torch.device,
    on_step: OnStep,
) -> NDArray[Any]:
    """Return the results of one batch, (jobs, h, w, c)."""
    config, inputs, seed = work.config, work.inputs, work.config.sample.seed
    # Always a whole batch, since rounding depends on it.
    filled = [jobs[number % len(jobs)] for number in range(work.request.batch_size)]
    numbers = [image for image, _ in filled]
    positions = [position_of(inputs.files[image].name, variant) for image, variant in filled]
    half = (np.iinfo(inputs.levels.dtype).max) / 2
    levels = torch.from_numpy(inputs.levels[numbers].astype(np.int64)).permute(0, 3, 1, 2)
    images = (levels.to(device).float() / half - 1).contiguous()
    keyed_by = torch.tensor(positions, device=device)
    known = None
    if work.request.low_level is not None:
        low = low_of(images, keyed_by, config, level=work.request.low_level, seed=seed)
        images, denoiser = low.image, denoiser.enlarging(low)
        guide = guide.enlarging(low) if isinstance(guide, NetworkDenoiser) else guide
    if inputs.known is not None:
        known = Known(images, torch.from_numpy(inputs.known[numbers]).to(device)[:, None])
        denoiser = denoiser.knowing(known)
        guide = guide.knowing(known) if isinstance(guide, NetworkDenoiser) else guide
    given = work.plan.conditioning(torch.tensor(numbers, device=device))
    x_0 = edit_images(
        followed(denoiser, guide, given, config.sample),
        images,
        known,
        keyed_by,
        method=work.request.method,
        sample=config.sample,
        seed=seed,
        on_step=on_step,
    )
    # Where it is known x_0 is the image's own value, whose rounding is its level.
    made: NDArray[Any] = to_levels(x_0, config.data.num_levels).cpu().numpy()
    return made[: len(jobs)]


def _sheet(work: Work, out: Store) -> bytes:
    inputs, shown = work.inputs, slice(0, outputs.MAX_SHOWN)
    after = [
        [_read(out, key, work.config) for key in keys[: outputs.SHOWN_VARIANTS]]
        for keys in work.keys[shown]
    ]
    more = len(inputs.files) - outputs.MAX_SHOWN
    title = f"{work.weights.name}: {work.request.what(work.config)}"
    return outputs.sheet_of(
        title + (f", the first {outputs.MAX_SHOWN} of {len(inputs.files)}" if more > 0 else ""),
        [file.name for file in inputs.files[shown]],
        _as_large(_of_8_bits(inputs.levels[shown]), work.config),
        None if inputs.known is None else inputs.known[shown],
        _of_8_bits(np.array(after)),
    )


def _read(out: Store, key: str, config: RunConfig) -> NDArray[Any]:
    data = config.data
    shape = (data.height, data.width, data.channels)
    return png.decode(out.read(key), shape, origin=out.uri_of(key), depths=[np.dtype(data.dtype)])


def _as_large(images: NDArray[np.uint8], config: RunConfig) -> NDArray[np.uint8]:
    """Return low resolutions pixel by pixel in the size of the results; others as they are."""
    size = config.data.height, config.data.width
    return np.stack([resized(image, size, "box") for image in images])


def _of_8_bits(levels: NDArray[Any]) -> NDArray[np.uint8]:
    if levels.dtype == np.uint8:
        return levels
    return (levels // 257).astype(np.uint8)


def _write(out: Store, key: str, content: bytes, *, overwrite: bool) -> None:
    if overwrite:
        out.write(key, content)
    else:
        out.create(key, content)
