"""What a run begins from, as text: RUN@STEP:AVERAGE below the root, or a folder of diffusers.

digits@800              the average of the weights after 800 steps of the run `digits`
digits@newest:raw       the weights as they were trained
digits:state            weights and averages, each as they were after the last step
./ddpm-cifar10-32       a folder of diffusers; s3://bucket/prefix is one too
digits@800:ema#3f2a90c1d2e4b6a8    pinned: refused if it names other bytes than these
"""

import re
from dataclasses import dataclass, replace
from typing import Self

from ddpm_core.config.model_ref import NEWEST, PINNED, RAW, ModelRef

STATE = "state"
"""in the place of an average: all of them, and the weights that they are of"""
_DIGEST = re.compile(r"#([0-9a-f]{8,64})$")


@dataclass(frozen=True)
class Start:
    """What a run begins from."""

    folder: str | None
    """path or URI of a folder of diffusers; None: weights of a run below the root"""
    model: ModelRef
    """which weights of that run"""
    sha256: str | None
    """how the digest of the weights begins; None: not pinned yet"""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what `str` writes.

        Raises:
            ValueError: it names nothing that a run could begin from.
        """
        found = _DIGEST.search(text)
        sha256 = found[1] if found else None
        name = text[: found.start()] if found else text
        if "/" in name or name.startswith((".", "~")):
            return cls(name, ModelRef(), sha256)
        try:
            model = ModelRef.parse(name)
        except ValueError:
            model = ModelRef()
        if model.run is None:
            raise ValueError(
                f"start_from={text[:200]!r} names nothing to begin from; write RUN@STEP:AVERAGE of "
                "another run, e.g. digits, digits@800:raw or digits@800:state, or the path or URI "
                "of a folder of diffusers, with a slash in it, e.g. ./folder"
            )
        return cls(None, model, sha256)

    def __str__(self) -> str:
        name = str(self.model) if self.folder is None else self.folder
        return name if self.sha256 is None else f"{name}#{self.sha256}"

    @property
    def name(self) -> str:
        """What it is called, without the digest."""
        return str(replace(self, sha256=None))

    @property
    def has_moments(self) -> bool:
        """Whether the moments of an optimiser lie beside these weights, and are theirs."""
        return self.folder is None and self.model.average in (RAW, STATE)

    @property
    def counted(self) -> str:
        """What of it determines the weights: the bytes and what is taken of them, not the place."""
        what = self.model.average if self.folder is None else "folder"
        return str(self) if self.sha256 is None else f"{what}#{self.sha256[:PINNED]}"

    def is_met_by(self, pinned: "Start") -> bool:
        """Say whether `pinned` may be what this named when it was given.

        A step that is left out, or `newest`, names other weights as a training goes on.
        """
        ours, theirs = self.model, pinned.model
        if self.sha256 is not None and not (pinned.sha256 or "").startswith(self.sha256):
            return False
        if (self.folder, ours.run, ours.average) != (pinned.folder, theirs.run, theirs.average):
            return False
        return ours.step in (None, NEWEST, theirs.step)
