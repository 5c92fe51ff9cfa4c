"""Findings without a model: arrays of the right shapes, from which figures cost nothing."""

from collections.abc import Callable

import torch
from torch import Tensor

from ddpm_core.config import RunConfig
from ddpm_core.store.storage import Store
from ddpm_core.study.findings import Findings
from ddpm_core.study.pictures import MIX_WEIGHTS
from ddpm_core.study.units import Unit, units_of
from ddpm_core.units.ranges import Arrays, publish
from ddpm_core.units.units import Units

FOLDER = "runs/tiny/study/s"
NUM_TRAIN, NUM_TEST = 40, 30
NUM_CLASSES, NUM_FEATURES = 4, 3
TIMES = [0, 5, 10]


def make_up(unit: Unit, *, config: RunConfig, has_classes: bool = True) -> Arrays:
    """Return what a unit might have found; rows follow from the positions of their images."""
    positions = torch.arange(unit.start, unit.stop)
    count, shape = len(positions), config.data.shape
    channels, height, width = shape
    last = (height, width, channels)
    salt = sum(f"{unit.kind}-{unit.part}".encode())

    def rows(*rest: int) -> Tensor:
        """Return numbers 0 ... 1, for each image its own whatever the unit."""
        each = [
            torch.rand(rest, generator=torch.Generator().manual_seed(1000 * salt + int(place)))
            for place in positions
        ]
        return torch.stack(each)

    def images(*front: int) -> Tensor:
        generator = torch.Generator().manual_seed(salt)
        return torch.randint(0, 256, front, generator=generator).to(torch.uint8)

    def views(*front: int) -> Arrays:
        shaped = (count, *front)
        found = {"features": rows(*front, NUM_FEATURES)}
        if has_classes:
            found["probabilities"] = rows(*front, NUM_CLASSES).softmax(dim=-1)
        assert all(array.shape[: len(shaped)] == shaped for array in found.values())
        return found

    num_timesteps = config.diffusion.num_timesteps
    num_shown = max(0, min(config.study.num_shown, unit.stop) - unit.start)
    made: dict[str, Callable[[], Arrays]] = {
        "bound": lambda: {
            "prior": rows().double(),
            "terms": rows(num_timesteps).double(),
            "mse": rows(num_timesteps).double(),
        },
        "ode": lambda: {"bits": rows().double(), "evaluations": 10 + positions},
        "sweep": lambda: {
            "evaluations": torch.tensor(9),
            "shown": images(num_shown, *shape),
            **views(),
        },
        "progress": lambda: {
            "times": torch.tensor(TIMES),
            "shown": images(len(TIMES), num_shown, *shape),
            **{name: array.transpose(0, 1) for name, array in views(len(TIMES)).items()},
        },
        "features": views,
        "neighbours": lambda: {
            "samples": rows().double(),
            "held_out": torch.linspace(0, 1, NUM_TEST, dtype=torch.float64),
            "threshold": torch.tensor(0.25, dtype=torch.float64),
            "shown": images(num_shown, *shape),
            "distance": torch.rand(num_shown, 8).double(),
            "nearest": images(num_shown, 8, *shape),
        },
        "decoding": lambda: {
            "times": torch.tensor([20, 10, 0]),
            "decoded": images(3, count, *last),
            "original": images(count, *last),
        },
        "latents": lambda: {
            "times": torch.tensor([20, 14]),
            "latents": images(2, *last),
            "images": images(2, count, *last),
        },
        "mixes": lambda: {
            "depth": torch.tensor(10),
            "mixed": images(len(MIX_WEIGHTS), 1, *last),
            "left": images(1, *last),
            "right": images(1, *last),
        },
        "depths": lambda: {
            "depths": torch.tensor([0, 21]),
            "mixed": images(2, len(MIX_WEIGHTS), *last),
            "ends": images(2, *last),
        },
        "round-trip": lambda: {
            "steps": torch.tensor([5, 21]),
            "rmse": torch.stack([20 + rows(), rows()]).double(),
            "latents": images(2, count, *last),
            "returned": images(2, count, *last),
            "original": images(count, *last),
        },
        "ddim": lambda: {
            "evaluations": torch.tensor(9),
            "shown": images(num_shown, *shape),
            **views(),
        },
        "reconstruction": lambda: {
            "rmse": 10 * rows(len(config.study.ddim_steps)).double().T,
        },
        "arcs": lambda: {"images": images(len(MIX_WEIGHTS), count // 2, *last)},
    }
    return made[unit.kind]()


def made_up(
    store: Store, config: RunConfig, *, num_test: int = NUM_TEST, has_classes: bool = True
) -> Findings:
    """Publish what all units might have found."""
    units = units_of(config, NUM_TRAIN, num_test)
    published = Units[Unit](store, FOLDER)
    for unit in units:
        publish(published, unit, make_up(unit, config=config, has_classes=has_classes))
    return Findings(published, units)
