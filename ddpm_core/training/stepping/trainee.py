"""The state of a training, by name: modules, optimisers, averages of weights, and counters.

Each is a part of a checkpoint, in a file of its own; what is called `model` and `adam`, as the one
network has always been, lies in one file with the counts. What a step does with them is in a file
for each kind of training. What a training uses and never changes, a frozen base say, is none of
it: only that kind of training knows it.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from torch import Tensor, nn

from ddpm_core.config.model_ref import EMA
from ddpm_core.errors import ConfigError
from ddpm_core.inference.weights import MODEL, STATE, average_role
from ddpm_core.models import ema
from ddpm_core.models.profiles import Decay
from ddpm_core.training.stepping.counting import Counts
from ddpm_core.training.stepping.optimiser import Optimiser
from ddpm_core.training.stepping.scaling import LossScaling

ADAM = "adam"
NOTHING_DIVIDED: Mapping[str, Collection[str]] = MappingProxyType({})
_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
_TAKEN = ("raw", "state", "history", "window", "module", "optimiser", "scaling")


@dataclass(frozen=True)
class Average:
    """A moving average of the parameters of one module; its buffers are those of the module."""

    module: str
    name: str
    decay: Decay


class Trainee:
    """All state of the training that the next step depends on, by name.

    The modules are the same on all ranks at all times: the same at the beginning, and moved by the
    same averaged gradients.

    Args:
        modules: what is trained, already on its device.
        optimisers: what moves them. A module may have several, and an optimiser several modules.
        averages: of which modules, and how fast; begun with the weights as they are.
        counts: of the curves.
        scaling: of the loss; None: it is not scaled.
        held: by module, the parameters whose averages this rank holds, where ranks divide them.

    Raises:
        ConfigError: a name that is taken or cannot be that of a part, or a module not there.
    """

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        optimisers: Mapping[str, Optimiser],
        averages: Sequence[Average],
        counts: Counts,
        scaling: LossScaling | None = None,
        *,
        held: Mapping[str, Collection[str]] = NOTHING_DIVIDED,
    ) -> None:
        _require_names([*modules, *optimisers, *{one.name for one in averages}])
        self.modules, self.optimisers, self.counts = dict(modules), dict(optimisers), counts
        self._scaling = {} if scaling is None else scaling.state()
        self._averages: dict[str, tuple[Average, ema.EMA]] = {}
        for one in averages:
            if one.module not in modules:
                raise ConfigError(
                    f"the average {one.name!r} is of the module {one.module!r}, and there are "
                    f"{', '.join(modules)}; name one of them"
                )
            role = average_role(one.module, one.name)
            if role in self._averages:
                raise ConfigError(f"there are two averages {role!r}; give one another name")
            params = dict(modules[one.module].named_parameters())
            self._averages[role] = one, ema.EMA(params, held=held.get(one.module))

    def average(self, step: int) -> None:
        """Take the weights into all averages, after the step with `step` steps before it."""
        for one, moving in self._averages.values():
            moving.update(one.decay.at(step))

    def begin_averages(self) -> None:
        """Make all averages the weights as they are, as before the first step."""
        for _, moving in self._averages.values():
            moving.update(0)

    def averaged(self, module: str = MODEL, average: str = EMA) -> dict[str, Tensor]:
        """Return an average by the names of the module's parameters and buffers; not copies."""
        moving = self._averages[average_role(module, average)][1]
        return moving.state_dict() | self._buffers(module)

    def _buffers(self, module: str) -> dict[str, Tensor]:
        """Return what else the module's state is: counted or drawn, and so never averaged."""
        own = self.modules[module]
        params = {name for name, _ in own.named_parameters(remove_duplicate=False)}
        return {name: one for name, one in own.state_dict().items() if name not in params}

    # -- state -------------------------------------------------------------------------------

    def weights(self) -> dict[str, Tensor]:
        """Return all tensors of all modules as `MODULE.*`; not copies."""
        return {
            f"{name}.{key}": tensor.detach()
            for name, module in self.modules.items()
            for key, tensor in module.state_dict().items()
        }

    def parts(self) -> dict[str, dict[str, Tensor]]:
        """Return the tensors themselves, by the role of their part of a checkpoint.

        `state` has `model.*`, `adam.exp_avg.*`, `adam.exp_avg_sq.*`, `adam.step` and the counts'
        `window`, which is whole on rank 0 after `counts.gather`, and `scaling.*` where the loss is
        scaled; `module.NAME` and `optimiser.NAME` have those of other names, and each average has
        its own. What another rank holds is on the device `meta`.
        """
        scaling = {f"scaling.{key}": one for key, one in self._scaling.items()}
        parts: dict[str, dict[str, Tensor]] = {STATE: {"window": self.counts.window} | scaling}
        for name, module in self.modules.items():
            part = parts.setdefault(STATE if name == MODEL else f"module.{name}", {})
            tensors = module.state_dict()
            part.update({f"{name}.{key}": one.detach() for key, one in tensors.items()})
        for name, optimiser in self.optimisers.items():
            part = parts.setdefault(STATE if name == ADAM else f"optimiser.{name}", {})
            part.update({f"{name}.{key}": one for key, one in optimiser.state().items()})
        averages = {
            role: self.averaged(one.module, one.name) for role, (one, _) in self._averages.items()
        }
        return parts | averages

    def settle(self) -> None:
        """Continue from the values written into the tensors of `parts`, equal on every rank."""
        for optimiser in self.optimisers.values():
            optimiser.settle()
        self.counts.keep_on_rank_0()


def _require_names(names: Sequence[str]) -> None:
    for name in names:
        if _NAME.fullmatch(name) is None or name in _TAKEN or names.count(name) > 1:
            raise ConfigError(
                f"{name!r} names a module, an optimiser or an average, and must be of small "
                f"letters, digits and _, not {', '.join(_TAKEN)}, and the only one; rename it"
            )
