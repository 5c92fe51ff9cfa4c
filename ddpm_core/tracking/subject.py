"""What a tracker logs: a stage of a run, and its differences from the run's run.json."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ddpm_core.canonical import canonical_json
from ddpm_core.config import RunConfig
from ddpm_core.errors import StorageError
from ddpm_core.runs import layout
from ddpm_core.store.manifest import Manifest
from ddpm_core.store.storage import Store
from ddpm_core.tracking.outbox import say
from ddpm_core.tracking.place import Home
from ddpm_core.tracking.receipts import receipt_key


@dataclass(frozen=True)
class Subject:
    """Which run, where, and what of it differs from its run.json."""

    home: Home
    store: Store
    config: RunConfig
    stage: str
    changes: Mapping[str, Any]

    def receipt_key(self, result: Manifest) -> str | None:
        """Return where it is noted that MLflow has `result`; None for a database of our own."""
        if self.home.database is not None:
            return None
        return receipt_key(self.config.name, self.home, result, self.changes)

    def keep_receipts(self, results: Sequence[Manifest]) -> None:
        """Note that MLflow has these results."""
        try:
            for result in results:
                if (key := self.receipt_key(result)) is not None:
                    self.store.write(key, canonical_json({"delivered": result.folder}))
        except StorageError as error:
            say(f"MLflow has everything, which could not be noted: {error}")

    @property
    def remedy(self) -> str:
        run_json = self.store.uri_of(layout.run_json_key(self.config.name))
        words = ["python", "-m", "ddpm_core", self.stage, run_json]
        for key, value in self.changes.items():
            words += ["--set", f"{key}={value if isinstance(value, str) else json.dumps(value)}"]
        # Not the pipeline's command: of a database in the root it takes all for sent.
        return f"it is kept: the run's next stage sends it, or now `{shlex.join(words)}`"
