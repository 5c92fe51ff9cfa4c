"""Which weights a result is made of: an average in a checkpoint, of this run or of another one."""

from dataclasses import dataclass
from typing import Any

from ddpm_core.config import RunConfig, identity
from ddpm_core.config.averages import first_share
from ddpm_core.config.doubts import MUCH_KEPT
from ddpm_core.config.model_ref import EMA, PINNED, RAW, ModelRef
from ddpm_core.runs.lower import Lower
from ddpm_core.store.manifest import Manifest

_STATE = "state"
_SHOWN = 12


@dataclass(frozen=True)
class Weights:
    """Weights that samples are drawn from and numbers are measured of."""

    checkpoint: Manifest
    """the checkpoint that they lie in; or the manifest of a snapshot, or of an average that was
    made of snapshots"""
    trained: RunConfig
    """of the run that trained them"""
    average: str = EMA
    is_retired: bool = False
    """whether retention has deleted the files: what was made of them stays, and nothing new is"""
    weaker: "Weights | None" = None
    """those that guide them, if `sample.guidance_by` names any: of a weaker model, or a classifier
    """
    lower: Lower | None = None
    """what they enlarge, if they do; `places` calls their results by it"""

    @property
    def role(self) -> str:
        """What the checkpoint calls the file that they lie in."""
        return role_of(self.average)

    @property
    def sha256(self) -> str:
        """Digest of that file, on which all results of these weights hang."""
        return self.checkpoint.files[self.role].sha256

    @property
    def step(self) -> int:
        """Steps of the training behind them."""
        return int(self.checkpoint.body["step"])

    @property
    def name(self) -> str:
        """What they are, as RUN@STEP:AVERAGE."""
        return str(ModelRef(self.trained.name, self.step, self.average))

    @property
    def said(self) -> str:
        """Their name, how their digest begins, and the share of the first weights in them, where
        that is seen; and the same of those that guide them. For people.
        """
        share, is_imported = None, "imported" in self.checkpoint.body
        if self.trained.train.start is None and not is_imported:  # what it began from is no noise
            share = first_share(self.trained.train, self.average, self.step)
        said = f"{self.name} {self.sha256[:_SHOWN]}"
        if share is not None and share > MUCH_KEPT:
            said += f", of which {100 * share:.0f} % are the first weights, random ones"
        said += "" if self.weaker is None else f", guided by {self.weaker.said}"
        return said if self.lower is None else f"{said}, enlarging {self.lower.said}"

    @property
    def has_curves(self) -> bool:
        """Whether the curves of the training lie beside them."""
        return "history" in self.checkpoint.files

    @property
    def digest(self) -> dict[str, Any]:
        """What a result must say of its weights to be of these bytes."""
        guide = {} if self.weaker is None else {"guide_sha256": self.weaker.sha256}
        own = {"ema_sha256" if self.average == EMA else "weights_sha256": self.sha256}
        return own | guide | ({} if self.lower is None else {"low": self.lower.counted})

    @property
    def is_guided_by_class(self) -> bool:
        """Whether a classifier guides them."""
        return self.weaker is not None and self.weaker.trained.role == "classifier"

    @property
    def guide(self) -> dict[str, Any]:
        """What determines the guidance by other weights and what is enlarged; {}: nothing."""
        low = {} if self.lower is None else {"low": self.lower.counted}
        if self.weaker is None:
            return low
        of = self.weaker.trained
        return low | {
            "guide": {
                "ema": self.weaker.sha256,
                "model": identity.counted("model", of.model),
                "diffusion": identity.counted("diffusion", of.diffusion),
                "precision": of.train.precision,
            }
        }

    def identity(self, run: str) -> dict[str, Any]:
        """Return what a result of the run `run` says of its weights.

        Equal bytes may be the weights of two runs or two steps, and have one result.
        """
        more = {} if self.average == EMA else {"average": self.average}
        whose = {} if self.trained.name == run else {"weights_run": self.trained.name}
        guide = {} if self.weaker is None else {"guide": self.weaker.name}
        return {**self.digest, **more, **whose, **guide, "step": self.step}

    def pinned_in(self, config: RunConfig) -> RunConfig:
        """Return a configuration whose references, where given, name these very bytes."""
        changes = {} if config.sample.model is None else {"sample.model": self.pinned}
        if self.weaker is not None:
            changes["sample.guidance_by"] = self.weaker.pinned
        if self.lower is not None and self.lower.pinned is not None:
            changes["sample.low_from"] = self.lower.pinned
        return config.replaced(changes) if changes else config

    @property
    def pinned(self) -> str:
        """The reference that names these very bytes."""
        return str(ModelRef(self.trained.name, self.step, self.average, self.sha256[:PINNED]))


def role_of(average: str) -> str:
    """Return what a checkpoint calls the file with an average of the one network, or with `raw`."""
    return _STATE if average == RAW else average


def averages_in(checkpoint: Manifest) -> list[str]:
    """Return the averages of the one network that a checkpoint has, and `raw` for itself."""
    named = [role for role in checkpoint.files if is_average(role) and "." not in role]
    # Weights from outside come without a training's state.
    has_raw = _STATE in checkpoint.files and "imported" not in checkpoint.body
    return [*named, RAW] if has_raw else named


def is_average(role: str) -> bool:
    """Say whether this file of a checkpoint is an average of weights, which results are made of."""
    return role not in (_STATE, "history") and not role.startswith(("module.", "optimiser."))
