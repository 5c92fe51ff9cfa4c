"""Curves in Weights & Biases. The only file that imports wandb; login and mode are its own."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import wandb

from ddpm_core.tracking.receiver import Measurement, Refused, Unreachable

_STEP = "train_step"


class WandbCurves:
    """The receiver of one run of W&B's, which goes on where it was left."""

    def __init__(self, project: str, name: str, run_id: str, config: Mapping[str, Any]) -> None:
        """Begin the run, or go on with it.

        Args:
            project: of W&B's.
            name: of the run, for people.
            run_id: that tells it from every other.
            config: what W&B shows beside the curves.

        Raises:
            Unreachable: no answer.
            Refused: the user is not logged in, or may not write there.
        """
        try:
            self._run = wandb.init(
                project=project,
                name=name,
                id=run_id,
                resume="allow",
                config=dict(config),
                settings=wandb.Settings(silent=True, console="off"),
            )
            self._run.define_metric("*", step_metric=_STEP)
        except wandb.errors.CommError as error:
            raise Unreachable(str(error).splitlines()[0]) from error
        except (wandb.errors.Error, ValueError) as error:
            raise Refused(str(error).splitlines()[0]) from error
        # Of a run that goes on: the last value of each key is in its summary, the step beside it.
        self._last = int(self._run.summary.get(_STEP, -1))
        self._steps: dict[str, int] = {}

    def last_steps(self) -> dict[str, int]:
        """Return the highest step of each key."""
        if self._last >= 0:
            keys = [key for key in self._run.summary.keys() if not key.startswith("_")]  # noqa: SIM118
            return dict.fromkeys(keys, self._last) | self._steps
        return self._steps

    def step_at(self, timestamp_ms: int) -> int:
        """Return seconds; nothing measured by the clock is sent here."""
        return timestamp_ms // 1000

    def send(self, measurements: Sequence[Measurement]) -> None:
        """Log them, those of a step together.

        Raises:
            Unreachable: W&B does not take them.
        """
        try:
            for step, group in groupby(measurements, key=lambda one: one.step):
                values = {one.key: one.value for one in group}
                self._run.log({**values, _STEP: step})
                self._steps |= dict.fromkeys(values, step or 0)
        except wandb.errors.Error as error:
            raise Unreachable(str(error).splitlines()[0]) from error
