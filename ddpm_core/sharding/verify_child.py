"""A process that checks shards of a data set, and its side: lines of JSON, a shard each.

Python runs on one core in a process. No pickling, and no `multiprocessing`, which would import the
program of whoever checks a second time.
"""

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, final

import numpy as np

import ddpm_core
from ddpm_core.errors import ClusterError, PipelineError, StorageError
from ddpm_core.sharding.verify_shard import shard_problems
from ddpm_core.shards.captions import CaptionCounts
from ddpm_core.shards.counts import Counts
from ddpm_core.shards.index import Index, Split, load_index
from ddpm_core.store.storage import Store, open_store


@final
class Child:
    """Such a process; one thread at a time may use it."""

    def __init__(self, store: Store, index: Index) -> None:
        paths = [str(Path(ddpm_core.__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
        self._index = index
        self._process = subprocess.Popen(  # noqa: S603 - this Python, this module, a place
            [sys.executable, "-m", __name__, store.uri, index.manifest.folder],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )

    def look(self, split: Split, number: int) -> tuple[list[str], Counts]:
        """Return what `shard_problems` does.

        Raises:
            StorageError: the storage does not answer.
            ClusterError: the process has ended, e.g. killed for its memory.
        """
        question, answers = self._process.stdin, self._process.stdout
        line = ""
        if question is not None and answers is not None:
            with suppress(OSError):
                question.write(json.dumps([split, number]) + "\n")
                question.flush()
                line = answers.readline()
        if not line.endswith("\n"):
            raise ClusterError(
                f"a process that checks shards has ended (exit code {self._process.wait()}); free "
                "some memory, then run again"
            )
        answer = json.loads(line)
        if "error" in answer:
            raise StorageError(answer["error"])
        counts = Counts(self._index.shape[0], len(answer["classes"]), len(answer["values"][0]))
        captions = CaptionCounts.of_entry(answer["captions"])
        counts.take(np.array(answer["classes"]), np.array(answer["values"]), captions)
        return answer["lines"], counts

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        # What it did not read any more is written once more when its input is closed.
        with suppress(OSError), self._process:
            pass


def main() -> None:
    """Answer the lines of the standard input until it ends."""
    # Control-C is for the parent, which ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    store = open_store(sys.argv[1])
    index: Index | None = None
    for line in sys.stdin:
        split, number = json.loads(line)
        try:
            index = index or load_index(store, sys.argv[2])
            lines, counts = shard_problems(store, index, split, number)
        except PipelineError as error:
            _say({"error": str(error)})
        else:
            values, classes = counts.histogram().tolist(), counts.classes.tolist()
            captions = counts.captions.entry()
            _say({"lines": lines, "classes": classes, "values": values, "captions": captions})


def _say(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
