"""Parallel efficiency of a training on two cores: one worker against two, start-up excluded.

    python -m benchmarks.parallel                    # about three minutes, on a machine left alone

Three ways to make the same steps of the same global batch: one worker of one thread, two workers
of one thread each (their gradients summed over gloo, as Ray Train's workers do it), and one worker
of two threads. Each is a set of processes that is warmed up first; every round runs all three one
after the other, and what is shown are medians of the rounds.

Efficiency is the time of one worker of one thread, divided by twice the time of the other. By CPU
time it is that of one worker divided by that of both: what the second worker costs in work, waits
apart, which also says something where others use the machine.
"""

import argparse
import contextlib
import multiprocessing
import socket
import statistics
import time
from pathlib import Path

import torch
from torch import distributed

from benchmarks.about import about
from benchmarks.network import batches
from ddpm_core.cluster import Place
from ddpm_core.machine import keep_freed_memory
from ddpm_core.recipes import recipe
from ddpm_core.training.stepping.denoising import Denoising
from ddpm_core.training.stepping.parallel import Parallel

WAYS = {
    "1 worker x 1 thread": (1, 1),
    "2 workers x 1 thread": (2, 1),
    "1 worker x 2 threads": (1, 2),
}
CPU = torch.device("cpu")


class Way:
    """The workers of one way to train, each in a process of its own."""

    def __init__(self, config, num_workers, num_threads):
        context = multiprocessing.get_context("spawn")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self._pipes, self._processes, self.seconds, self.cpu_seconds = [], [], [], []
        for rank in range(num_workers):
            ours, theirs = context.Pipe()
            arguments = (theirs, config, rank, num_workers, num_threads, port)
            process = context.Process(target=_work, args=arguments, daemon=True)
            process.start()
            self._pipes.append(ours)
            self._processes.append(process)

    def steps(self, num_steps):
        """Return wall seconds and CPU seconds, of all workers, of so many steps."""
        for pipe in self._pipes:
            pipe.send(num_steps)
        took = [pipe.recv() for pipe in self._pipes]
        return max(wall for wall, _ in took), sum(cpu for _, cpu in took)

    def measure(self, num_steps):
        wall, cpu = self.steps(num_steps)
        self.seconds.append(wall / num_steps)
        self.cpu_seconds.append(cpu / num_steps)

    def close(self):
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join()


def _work(pipe, config, rank, world_size, num_threads, port):
    torch.set_num_threads(num_threads)
    keep_freed_memory()
    if world_size > 1:
        where = f"tcp://127.0.0.1:{port}"
        distributed.init_process_group("gloo", init_method=where, rank=rank, world_size=world_size)
    learner = Denoising(config, Parallel(Place(rank=rank, world_size=world_size, device=CPU)))
    size = config.train.global_batch_size // world_size
    images = batches(config.replaced({"train.global_batch_size": size}), CPU)
    step = 0
    with contextlib.suppress(EOFError):
        while True:
            num_steps = pipe.recv()
            begin, began = time.perf_counter(), time.process_time()
            for _ in range(num_steps):
                learner.step(step, next(images))
                step += 1
            pipe.send((time.perf_counter() - begin, time.process_time() - began))


def table(name, batch, ways):
    """The lines of one network."""
    alone = ways["1 worker x 1 thread"]
    lines = []
    for what, way in ways.items():
        cores = 1 if way is alone else 2
        efficiency, by_cpu = (
            statistics.median(one / other for one, other in zip(own, others, strict=True))
            for own, others in (
                (alone.seconds, [cores * one for one in way.seconds]),
                (alone.cpu_seconds, way.cpu_seconds),
            )
        )
        times = (1e3 * statistics.median(one) for one in (way.seconds, way.cpu_seconds))
        cells = [f"{name}, batches of {batch}", what, *(f"{one:,.0f}" for one in times)]
        cells += [f"{efficiency:.0%}", f"{by_cpu:.0%}"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "networks", nargs="*", default=["cifar10=8", "digits=64"], metavar="RECIPE=BATCH"
    )
    parser.add_argument("--seconds", type=float, default=20.0, help="of each way, of each network")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="a Markdown file to write the result to")
    options = parser.parse_args()
    lines = [
        "| | | ms a step | CPU ms a step | efficiency | by CPU time |",
        "|---|---|---|---|---|---|",
    ]
    for text in options.networks:
        name, batch = text.split("=")
        config = recipe(name).replaced(
            {"train.global_batch_size": int(batch), "train.precision": "float32"}
        )
        ways = {what: Way(config, *how) for what, how in WAYS.items()}
        for way in ways.values():
            way.steps(2)  # plans and memory
        once = ways["1 worker x 1 thread"].steps(1)[0]
        num_steps = max(1, round(options.seconds / options.rounds / once))
        for _ in range(options.rounds):
            for way in ways.values():
                way.measure(num_steps)
        for way in ways.values():
            way.close()
        lines += table(name, batch, ways)
    header = [
        f"# One worker and two, on two cores: medians of {options.rounds} rounds",
        "",
        *about("benchmarks.parallel", num_cores=2),
        "",
        *lines,
    ]
    print(*header, sep="\n")
    if options.out:
        options.out.write_text("\n".join([*header, ""]))


if __name__ == "__main__":
    main()
