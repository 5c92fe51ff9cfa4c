"""A run small enough for tests, and several ranks on this machine without Ray."""

import io
import math
import multiprocessing
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, distributed

from ddpm_core.ahead import Ahead
from ddpm_core.cluster import Place
from ddpm_core.config import RunConfig
from ddpm_core.inference.tensor_file import TensorFile, fill_tensors
from ddpm_core.loading.loader import ImageSet, batch
from ddpm_core.permutation import global_batch_indices
from ddpm_core.recipes import digits
from ddpm_core.runs import layout, places
from ddpm_core.store import manifest
from ddpm_core.store.manifest import Manifest
from ddpm_core.store.storage import Store
from ddpm_core.training.loop import Training
from ddpm_core.training.stepping.denoising import Denoising
from ddpm_core.training.stepping.inputs import Drawing
from ddpm_core.training.stepping.kinds import training_of
from ddpm_core.training.stepping.parallel import Parallel

CPU = torch.device("cpu")


def newest_checkpoint(store: Store, run: str) -> Manifest | None:
    """Return the newest checkpoint that counts."""
    for step in layout.committed_steps(store, run):
        folder = layout.checkpoint_folder(run, step)
        if found := manifest.load(store, folder, places.checkpoint_expected(step)):
            return found
    return None


def small_config(**changes) -> RunConfig:
    """Return a run of a network of 6,000 parameters; `train__num_steps=3` changes a key."""
    return digits().replaced(
        {
            "name": "small",
            "model.base_channels": 8,
            "model.channel_mults": [1, 2],
            "model.num_res_blocks": 1,
            "model.num_groups": 4,
            "model.attention_resolutions": [],
            "model.dropout": 0.1,
            "diffusion.num_timesteps": 24,
            "train.num_steps": 20,
            "train.global_batch_size": 12,
            "train.learning_rate": 1e-3,
            "train.warmup_steps": 4,
            "train.ema_decay": 0.9,
            "train.random_flip": True,
            "train.log_every": 4,
            "train.checkpoint_every": 5,
            "train.keep_checkpoints": 3,
            "compute.num_workers": 1,
            **{key.replace("__", "."): value for key, value in changes.items()},
        }
    )


def small_images(num_images: int = 50) -> ImageSet:
    """Return images with a left and a right, so that a flip shows."""
    generator = torch.Generator().manual_seed(0)
    images_u8 = torch.randint(0, 256, (num_images, 1, 8, 8), generator=generator).to(torch.uint8)
    images_u8[..., :4] //= 4
    return ImageSet(
        images_u8,
        {"label": torch.zeros(num_images, dtype=torch.int64)},
        num_classes=1,
        counts=(num_images,),
    )


def rank_slice(config: RunConfig, image_set: ImageSet, step: int, rank: int, world_size: int):
    """Return what `loop.Batches` gives this rank for this step."""
    train = config.train
    indices = global_batch_indices(train.seed, step, train.global_batch_size, len(image_set))
    size = train.global_batch_size // world_size
    return batch(image_set, indices[rank * size : (rank + 1) * size])


def make_learner(
    config: RunConfig, rank: int = 0, world_size: int = 1, device: torch.device = CPU
) -> Denoising:
    return training_of(config, parallel_of(rank, world_size, device))


def parallel_of(rank: int = 0, world_size: int = 1, device: torch.device = CPU) -> Parallel:
    return Parallel(Place(rank=rank, world_size=world_size, device=device))


def drawing_as(learner: Denoising, rank: int, world_size: int) -> Drawing:
    """Have the learner draw what that rank would, without the others; return what draws."""
    drawing = learner._drawing
    rows = drawing._ahead.positions.chunk(world_size)[rank]
    drawing._ahead = Ahead(drawing._drawn, rows, row_size=math.prod(drawing._shape))
    return drawing


def state_of(learner: Training) -> dict[str, Tensor]:
    """Return what a checkpoint's `state` is made of; not copies."""
    return learner.trainee.parts()["state"]


def average_of(learner: Training) -> dict[str, Tensor]:
    return learner.trainee.averaged()


def load(learner: Training, **parts: dict[str, Tensor]) -> None:
    """Continue from the parts of a checkpoint, by way of their files."""
    for role, tensors in parts.items():
        data = TensorFile(tensors)[:]
        into = learner.trainee.parts()[role]
        fill_tensors(io.BytesIO(data), len(data), into, origin="the checkpoint")
    learner.trainee.settle()


def copy_of(tensors) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in tensors.items()}


def run_group(target: Callable[[int, int, Path], None], world_size: int, folder: Path) -> None:
    """Call `target(rank, world_size, folder)` in as many processes, joined by gloo."""
    # A server that has imported torch once, and is forked: seconds less for every process.
    multiprocessing.set_forkserver_preload(["ddpm_core.training.stepping.denoising"])
    torch.multiprocessing.start_processes(
        _run_rank,
        args=(target, world_size, folder),
        nprocs=world_size,
        start_method="forkserver",
    )


def _run_rank(rank: int, target, world_size: int, folder: Path) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world_size
    )
    target(rank, world_size, folder)
    distributed.destroy_process_group()
