"""Memory of each rank of a training that divides its state, and of one that does not.

    python -m benchmarks.shares                       # cifar10's network on 1, 2 and 4 ranks

Every rank is a process of this machine; they are joined by gloo. After two steps of one image a
rank says what of the state it holds (weights, moments, averages; not the gradient, nor what a step
computes), and how large the process was at most.
"""

import argparse
import resource
import statistics
import tempfile
from pathlib import Path

import torch
from torch import distributed

from benchmarks.about import about
from ddpm_core.cluster import Place
from ddpm_core.recipes import recipe
from ddpm_core.training.stepping.denoising import Denoising
from ddpm_core.training.stepping.parallel import Parallel

MIB = 2**20


def measure(rank, world_size, folder, name, divides):
    """Leave what this rank holds, in a file of its own."""
    torch.set_num_threads(1)
    if world_size > 1:
        distributed.init_process_group(
            "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world_size
        )
    config = recipe(name).replaced(
        {"name": "bench", "train.global_batch_size": world_size,
         "compute.num_workers": world_size, "compute.divide_state": divides}
    )  # fmt: skip
    place = Place(rank=rank, world_size=world_size, device=torch.device("cpu"))
    learner = Denoising(config, Parallel(place))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    for step in range(2):
        learner.step(step, torch.zeros((1, *config.data.shape), dtype=torch.uint8))
    parts = learner.trainee.parts()
    held = sum(one.nbytes for part in parts.values() for one in part.values() if not one.is_meta)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    torch.save([held / MIB, before, peak], f"{folder}/rank-{rank}")
    if world_size > 1:
        distributed.destroy_process_group()


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--recipe", default="cifar10")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
    options = parser.parse_args()
    print(
        f"{'ranks':>5}  {'divided':<8} {'state MiB':>10} {'before':>8} {'peak MiB':>9}", flush=True
    )
    for world_size in options.ranks:
        for divides in (False, True) if world_size > 1 else (False,):
            with tempfile.TemporaryDirectory() as folder:
                torch.multiprocessing.start_processes(
                    measure,
                    args=(world_size, folder, options.recipe, divides),
                    nprocs=world_size,
                    start_method="spawn",
                )
                ranks = [torch.load(Path(folder, f"rank-{one}")) for one in range(world_size)]
            state, before, peak = (statistics.mean(one) for one in zip(*ranks, strict=True))
            said = "yes" if divides else "no"
            print(
                f"{world_size:>5}  {said:<8} {state:>10.0f} {before:>8.0f} {peak:>9.0f}", flush=True
            )
    print("\n".join(about("benchmarks.shares", num_cores=max(options.ranks))))


if __name__ == "__main__":
    main()
