"""Where else than to MLflow the curves of a training are written: TensorBoard, Weights & Biases.

    DDPM_TENSORBOARD=/data/tensorboard    event files in /data/tensorboard/<run>/<its birth>
    DDPM_WANDB=my-project                 a run of W&B's of the run's name, as its own settings say

Copies, as MLflow's is: each has a queue and a thread of its own, and stops or slows nothing. The
birth of a run's folder tells a run from others of its name: of another root, or trained anew.
"""

import os
import shlex
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

from ddpm_core.config import RunConfig
from ddpm_core.errors import ConfigError, StorageError
from ddpm_core.runs import layout
from ddpm_core.store.storage import Store
from ddpm_core.tracking.identity import identify
from ddpm_core.tracking.outbox import Outbox
from ddpm_core.tracking.place import TENSORBOARD, WANDB
from ddpm_core.tracking.receiver import Receiver, Unreachable, Watch

_Connect = Callable[[Watch], Receiver]
_SHORT = 8


def require_writers() -> None:
    """Refuse writers that cannot write here, before anything starts.

    Raises:
        ConfigError: a package is missing, or the folder is no local path.
    """
    for variable, package in ((TENSORBOARD, "tensorboard"), (WANDB, "wandb")):
        if os.environ.get(variable) and find_spec(package) is None:
            raise ConfigError(
                f"{variable} is set, and the package {package} is not installed: pip install "
                f"{package}, or unset it"
            )
    if "://" in os.environ.get(TENSORBOARD, ""):
        raise ConfigError(
            f"{TENSORBOARD}={os.environ[TENSORBOARD]} is no folder of a disk; give a path, e.g. of "
            "a shared folder"
        )


def open_curves(store: Store, config: RunConfig) -> list[Outbox[Receiver]]:
    """Start a thread for each writer that the environment names."""
    run_json = store.uri_of(layout.run_json_key(config.name))
    remedy = (
        f"it is kept: `{shlex.join(['python', '-m', 'ddpm_core', 'train', run_json])}` sends it"
    )
    return [
        Outbox(connect, server=name, remedy=remedy) for name, connect in _writers(store, config)
    ]


def _writers(store: Store, config: RunConfig) -> Iterator[tuple[str, _Connect]]:
    run = config.name

    def birth() -> str:  # in the thread: a bucket may not answer, and the training goes on
        try:
            return identify(store, config, {}).birth
        except StorageError as error:
            raise Unreachable(str(error)) from error

    if folder := os.environ.get(TENSORBOARD):
        # Here and not in the thread: two threads that import big packages see unfinished modules.
        from ddpm_core.tracking.tensorboard_curves import TensorBoardCurves

        yield (
            f"TensorBoard ({folder})",
            lambda _watch: TensorBoardCurves(Path(folder) / run / birth()[:_SHORT]),
        )
    if project := os.environ.get(WANDB):
        from ddpm_core.tracking.wandb_curves import WandbCurves

        where = {"run": store.uri_of(layout.run_folder(run)), **config.flat()}
        yield (
            f"Weights & Biases ({project})",
            lambda _watch: WandbCurves(project, run, birth(), where),
        )
