"""How long the steps of a training wait for a checkpoint that is stored beside them.

    python -m benchmarks.checkpoints                             # cifar10's network, on a CPU
    python -m benchmarks.checkpoints --batch 128 --device cuda   # where there is one

In turn, in every round: some steps alone; a checkpoint that is stored while the steps wait; one
that is stored beside them, with the steps meanwhile. Shown are medians over the rounds, by the
clock and, of what no thread does beside, of processors: these hold on a machine that others use.
`stop` is what the next step waits for.
"""

import argparse
import math
import statistics
import tempfile
import time

import torch

from benchmarks.about import about
from benchmarks.network import batches
from ddpm_core.cluster import Place
from ddpm_core.recipes import recipe
from ddpm_core.store.storage import open_store
from ddpm_core.training.stepping.denoising import Denoising
from ddpm_core.training.stepping.parallel import Parallel
from ddpm_core.training.storing.beside import Storing
from ddpm_core.training.storing.checkpoint import Origin


def seconds_of(work, device):
    """How long it takes by the clock, with what the device has yet to do; and of processors."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    begun, begun_cpu = time.perf_counter(), time.process_time()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begun, time.process_time() - begun_cpu


def measure(config, device, folder, *, rounds, num_steps):
    """Seconds of every case in every round; the first one is left out."""
    parallel = Parallel(Place(rank=0, world_size=1, device=device))
    learner, images = Denoising(config, parallel), batches(config, device)
    store, origin, done = open_store(folder), Origin("e" * 64, "d" * 64), 0
    found = {"step alone": [], "stop, stored in place": [], "stop, stored beside": [],
             "stored beside": [], "step meanwhile": []}  # fmt: skip

    def step():
        nonlocal done
        learner.step(done, next(images))
        done += 1

    def in_place():
        storing.take(done, [])
        storing.finish()

    with Storing(store, config, origin, learner.trainee, parallel) as storing:
        for number in range(rounds + 1):
            alone = [seconds_of(step, device) for _ in range(num_steps)]
            waited = seconds_of(in_place, device)
            step()
            begun = time.perf_counter()
            stop = seconds_of(lambda: storing.take(done, []), device)
            meanwhile = [seconds_of(step, device)]
            while not storing._stored.done():
                meanwhile.append(seconds_of(step, device))
            storing.finish()
            beside = time.perf_counter() - begun, math.nan
            meanwhile = [(clock, math.nan) for clock, _ in meanwhile]
            if number:
                for values, new in zip(
                    found.values(), (alone, [waited], [stop], [beside], meanwhile), strict=True
                ):
                    values += new
            else:
                first = stop
    medians = {
        name: tuple(statistics.median(values) for values in zip(*pairs, strict=True))
        for name, pairs in found.items()
    }
    return {"first stop": first, **medians}


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--recipe", default="cifar10")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2, help="alone, in every round")
    parser.add_argument("--folder", help="where the checkpoints lie; else a temporary one")
    options = parser.parse_args()
    config = recipe(options.recipe).replaced(
        {"name": "bench", "train.global_batch_size": options.batch}
    )
    device = torch.device(options.device)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        found = measure(config, device, folder, rounds=options.rounds, num_steps=options.steps)
    megabytes = 16 * config.num_parameters / 2**20
    print("\n".join(about("benchmarks.checkpoints", num_cores=torch.get_num_threads())))
    print(f"{options.recipe}, {options.batch} images a step, {megabytes:.0f} MiB of state")
    clock_s, cpu_s = found["step alone"]
    for name, (clock, cpu) in found.items():
        print(
            f"{name:<24} {clock:8.3f} s {clock / clock_s:6.3f} steps   "
            f"{cpu:8.3f} s {cpu / cpu_s:6.3f} steps of processors"
        )


if __name__ == "__main__":
    main()
