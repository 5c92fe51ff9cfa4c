"""The sampling actor: holds the averaged weights, and draws unit after unit of samples."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddpm_core.cluster import GetDevice
from ddpm_core.config import RunConfig
from ddpm_core.drawing import pictures
from ddpm_core.errors import CheckpointError
from ddpm_core.inference.denoiser import load_denoiser, load_guide
from ddpm_core.runs import results
from ddpm_core.sampling.draw import draw, to_levels, to_u8
from ddpm_core.sampling.guided import guided
from ddpm_core.sampling.low import Enlarged
from ddpm_core.sampling.plan import Plan
from ddpm_core.sampling.sampler import num_steps_of
from ddpm_core.sampling.units import Unit, publish
from ddpm_core.store.storage import open_store

_NUM_STRIP_MOMENTS = 9


def payload_of(
    root: str, config: RunConfig, folder: str, sha256: str, plan: Plan
) -> dict[str, Any]:
    """Return the payload of `make_worker`, as JSON values."""
    return {
        "root": root,
        "plan": asdict(plan),
        "config": config.model_dump(mode="json"),
        "folder": folder,
        "weights": sha256,
    }


def make_worker(payload: dict[str, Any], get_device: GetDevice) -> Callable[[Unit], None]:
    """Load the weights and return the function that makes and publishes a unit.

    Raises:
        CheckpointError: if the weights are gone, damaged, or not the ones in the payload.
    """
    device = get_device()
    store = open_store(payload["root"])
    config = RunConfig.from_dict(payload["config"])
    weights = results.weights_of(store, config)
    if weights is None or weights.sha256 != payload["weights"]:
        raise CheckpointError(
            f"the weights {payload['weights'][:16]} that this stage began with are not there any "
            "more: they were trained again, exchanged or deleted; run the sample stage again"
        )
    compute = config.compute
    denoiser = load_denoiser(
        store, config, weights.checkpoint, device, average=weights.average, compute=compute
    )
    guide = load_guide(store, weights, device, compute=compute)
    plan = Plan.of_payload(payload["plan"])
    enlarged = Enlarged.of(store, config)

    def make(unit: Unit) -> None:
        recorder = _Recorder(config, plan)
        parts = []
        for start in range(unit.start, unit.stop, config.sample.batch_size):
            # Always a whole batch, since rounding depends on it: the images of a part of a unit are
            # those of the unit, to the last bit.
            stop = start + config.sample.batch_size
            recorder.begin(start, unit.stop)
            positions = torch.arange(start, stop, device=device)
            low = None if enlarged is None else enlarged.at(positions, seed=config.sample.seed)
            given = plan.conditioning(positions, low=low)
            x_0 = draw(
                guided(denoiser, given, config.sample, guide),
                positions,
                config.data.shape,
                sample=config.sample,
                seed=config.sample.seed,
                on_step=recorder.record,
            )
            parts.append(to_levels(x_0, config.data.num_levels).cpu().numpy())
        publish(
            store,
            payload["folder"],
            unit,
            np.concatenate(parts)[: unit.stop - unit.start],
            seed=config.sample.seed,
            about=plan.about,
            strip_png=recorder.png() if unit.start == 0 else None,
        )

    return make


class _Recorder:
    """Keeps x_t and the predicted x_0 of the first images at a few moments of their making."""

    def __init__(self, config: RunConfig, plan: Plan) -> None:
        last = num_steps_of(config.sample, config.diffusion.num_timesteps) - 1
        moments = np.linspace(last, 0, min(_NUM_STRIP_MOMENTS, last + 1)).round()
        self._moments = [int(t) for t in moments]
        self._shown, self._plan = config.sample.num_strip_images, plan
        self._frames: dict[int, list[tuple[Tensor, Tensor]]] = {t: [] for t in self._moments}
        self._wanted = 0

    def begin(self, start: int, stop: int) -> None:
        """Announce the next batch, from image `start` on; the images before `stop` count."""
        self._wanted = max(0, min(self._shown, stop) - start)

    def record(self, to_go: int, x_prev: Tensor, x_0_hat: Tensor) -> None:
        if self._wanted and to_go in self._frames:
            wanted = slice(0, self._wanted)
            self._frames[to_go].append((to_u8(x_prev[wanted]).cpu(), to_u8(x_0_hat[wanted]).cpu()))

    def png(self) -> bytes:
        """Return the strip: left what the chain held, right the x_0 that it was heading for."""
        x_t, x_0_hat = (
            np.stack([torch.cat([pair[which] for pair in self._frames[t]]) for t in self._moments])
            for which in (0, 1)
        )
        sheet = pictures.strip(
            [("x_t, steps to go:", x_t), ("x_0 as the network saw it then", x_0_hat)],
            captions=[str(t) for t in self._moments],
            row_names=[self._plan.prompt(row) or "" for row in range(x_t.shape[1])]
            if self._plan.prompts
            else (),
        )
        return pictures.to_png(sheet)
