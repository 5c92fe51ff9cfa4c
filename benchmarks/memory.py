"""Memory of training with a batch in pieces and with activations computed twice, and its price.

    python -m benchmarks.memory                       # writes benchmarks/results/memory-cpu.md

Each row is a process of its own on one thread of a CPU: what its memory grows by, at most, from
before the training is built to the end of its second step, as the system counts it (ru_maxrss);
beside it the tensors that `training.memory` counts without computing anything. Seconds are those
of the processor, of the second step: other programs on the machine change them little.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch

from benchmarks.about import about
from ddpm_core.cluster import Place
from ddpm_core.recipes import recipe
from ddpm_core.training.memory import needs
from ddpm_core.training.stepping.denoising import Denoising
from ddpm_core.training.stepping.parallel import Parallel

OUT = Path(__file__).parent / "results" / "memory-cpu.md"
NETWORKS = {
    "cifar10, 32x32": ("cifar10", 16, {}),
    "128x128": (
        "images",
        4,
        {
            "data.source": "/images",
            "data.height": 128,
            "data.width": 128,
            "model.base_channels": 128,
            "model.channel_mults": [1, 1, 2, 3, 4],
            "model.num_res_blocks": 2,
            "model.attention_resolutions": [16],
            "model.num_groups": 32,
            "model.dropout": 0.1,
        },
    ),
}
"""title -> recipe, images of a batch, what else is set"""
WAYS = {
    "as it is": {},
    "micro_batch_size=B/4": {"compute.micro_batch_size": 4},
    "checkpoint_activations": {"compute.checkpoint_activations": True},
    "both": {"compute.micro_batch_size": 4, "compute.checkpoint_activations": True},
}
NUM_STEPS = 2


def config_of(network, way, precision):
    name, size, changes = NETWORKS[network]
    changes = changes | {"train.global_batch_size": size, "train.precision": precision}
    changes |= {"compute.num_workers": 1, "compute.use_gpu": False} | WAYS[way]
    if "compute.micro_batch_size" in changes:
        changes["compute.micro_batch_size"] = size // 4
    return recipe(name).replaced(changes)


def resident():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def measure(network, way, precision):
    torch.set_num_threads(1)
    config, device = config_of(network, way, precision), torch.device("cpu")
    shape = (config.train.global_batch_size, *config.data.shape)
    images = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0))
    before = resident()
    training = Denoising(config, Parallel(Place(rank=0, world_size=1, device=device)))
    seconds = []
    for step in range(NUM_STEPS):
        begin = time.process_time()
        training.step(step, images.to(torch.uint8))
        seconds.append(time.process_time() - begin)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    norm = training.trainee.counts.point()["grad_norm"]
    print(json.dumps({"peak": peak - before, "seconds": seconds[-1], "norm": norm}))


def measured(*words):
    """Return what another process measures."""
    command = [sys.executable, "-m", "benchmarks.memory", "--only", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 - ours
    return json.loads(done.stdout.splitlines()[-1])


def rows(network, precision):
    whole = None
    for way in WAYS:
        found = measured(network, way, precision)
        device = torch.device("cpu")
        counted = needs(config_of(network, way, precision), device, world_size=1)
        whole = whole or found
        cells = [
            network,
            precision,
            way.replace("B/4", str(NETWORKS[network][1] // 4)),
            f"{found['peak'] / 1e9:.2f}",
            f"{(counted.state + counted.step - counted.scratch) / 1e9:.2f}",
            f"{(found['peak'] - counted.state) / 1e9:.2f}",
            f"{(found['peak'] - counted.state) / (whole['peak'] - counted.state):.2f}",
            f"{found['seconds']:.1f}",
            f"{found['seconds'] / whole['seconds']:.2f}",
            f"{found['norm']:.6g}",
        ]
        yield f"| {' | '.join(cells)} |"


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--only", nargs=3, metavar=("NETWORK", "WAY", "PRECISION"))
    args = parser.parse_args()
    if args.only is not None:
        measure(*args.only)
        return
    lines = [
        "| network | precision | | peak, GB | counted, GB | without state, GB | x as it is | "
        "CPU s a step | x as it is | gradient norm |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for network in args.networks:
        for line in rows(network, "float32"):
            print(line, flush=True)
            lines.append(line)
    head = ["# Memory of a training step", "", *about("benchmarks.memory", num_cores=1)]
    sizes = []
    for title in args.networks:
        size = NETWORKS[title][1]
        millions = config_of(title, "as it is", "float32").num_parameters / 1e6
        sizes.append(f"{title}: {millions:.1f} M parameters, batch {size}")
    head += [
        f"- {'; '.join(sizes)}",
        "- gradient norm of the second step, where dropout has little to drop yet",
        "",
    ]
    args.out.write_text("\n".join([*head, *lines]) + "\n")


if __name__ == "__main__":
    main()
