"""One row of `benchmarks.gpu_speed`: a process of its own, which prints one line of JSON.

    python -m benchmarks.gpu_rows train-eager --recipe cifar10 --batch 128 --seconds 8

A row trains or samples for windows of some seconds, as `benchmarks.network` does, with settings of
its own; on a GPU it then looks at a few steps with torch's profiler: how much of the wall time
some kernel was running, and which ones.
"""

import argparse
import importlib.util
import itertools
import json
import statistics
import time
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import network
from ddpm_core.inference.networks import build_network
from ddpm_core.inference.replay import off_the_default_stream
from ddpm_core.recipes import recipe

NUM_PROFILED = 3
NUM_TOP = 12
ROUNDS = 3
BACKWARD = 2
"""times the arithmetic of a forward pass, which the backward pass is"""


@dataclass(frozen=True)
class Row:
    """What one row measures."""

    kind: str
    """train, sample, matmul or copy"""
    ours: bool = True
    compile: bool = False
    graphs: bool = False
    batch: int | None = None
    """in place of --batch"""
    cudnn_benchmark: bool = False
    attention: SDPBackend | None = None
    settings: dict = field(default_factory=dict)

    def needs(self, device):
        """Why it cannot be measured here, or nothing."""
        if device.type != "cuda" and (self.graphs or self.kind in ("matmul", "copy")):
            return "it needs a CUDA device"
        # Inductor's kernels for GPUs are Triton's, those for CPUs are g++'s.
        if self.compile and device.type == "cuda" and importlib.util.find_spec("triton") is None:
            return "triton is not installed"
        return ""


ROWS = {
    "matmul": Row("matmul"),
    "copy": Row("copy"),
    "train-eager": Row("train"),
    "train-graph": Row("train", graphs=True),
    "train-compiled": Row("train", compile=True),
    "train-compiled-graph": Row("train", compile=True, graphs=True),
    "train-diffusers": Row("train", ours=False),
    "train-diffusers-compiled": Row("train", ours=False, compile=True),
    "sample-eager": Row("sample"),
    "sample-graph": Row("sample", graphs=True),
    "sample-compiled": Row("sample", compile=True),
    "sample-compiled-graph": Row("sample", compile=True, graphs=True),
    "sample-diffusers": Row("sample", ours=False),
    "sample-diffusers-compiled": Row("sample", ours=False, compile=True),
    "train-eager-16": Row("train", batch=16),
    "train-compiled-graph-16": Row("train", compile=True, graphs=True, batch=16),
    "train-compiled-graph-512": Row("train", compile=True, graphs=True, batch=512),
    "train-float32": Row("train", settings={"train.precision": "float32"}),
    "train-graph-cudnn-benchmark": Row("train", graphs=True, cudnn_benchmark=True),
    "train-graph-attention-math": Row("train", graphs=True, attention=SDPBackend.MATH),
    "sample-compiled-graph-250": Row("sample", compile=True, graphs=True, batch=250),
}


def configuration(row, options):
    """The run of a row."""
    changes = {
        "train.precision": "bfloat16",
        **row.settings,
        "train.global_batch_size": row.batch or options.batch,
        "compute.compile": row.compile,
        "compute.cuda_graphs": row.graphs,
    }
    return recipe(options.recipe).replaced(changes)


def forward_flops(config):
    """Floating-point operations of one image's way through the network."""
    x_t, t = torch.zeros(1, *config.data.shape), torch.zeros(1, dtype=torch.long)
    # As products of matrices: a fused attention is not counted.
    counted = FlopCounterMode(display=False)
    with sdpa_kernel(SDPBackend.MATH), counted, torch.no_grad():
        build_network(config)(x_t, t)
    return counted.get_total_flops()


def work_of(row, config, device):
    """The function of a number of steps that is measured."""
    if row.ours:
        return network.MAKERS[row.kind][0](config, device)
    theirs = network.MAKERS[row.kind][1]
    if not row.compile:
        return theirs(config, device)
    made = network.their_network

    def compiled(*arguments):
        # As diffusers' documentation has it.
        return torch.compile(made(*arguments).to(memory_format=torch.channels_last), fullgraph=True)

    network.their_network = compiled
    try:
        return theirs(config, device)
    finally:
        network.their_network = made


def busy(work, device):
    """Of some steps: the share of the wall time in which a kernel runs, and which take most."""
    activities = [ProfilerActivity.CPU, ProfilerActivity.CUDA]
    with profile(activities=activities) as profiler:
        work(NUM_PROFILED)
        torch.cuda.synchronize(device)
    kernels = [one for one in profiler.events() if one.device_type.name == "CUDA"]
    spans = sorted((one.time_range.start, one.time_range.end) for one in kernels)
    covered, end = 0.0, 0.0
    for first, last in spans:
        covered += max(0.0, last - max(first, end))
        end = max(end, last)
    times = {}
    for one in kernels:
        times[one.name] = times.get(one.name, 0.0) + one.time_range.elapsed_us()
    top = sorted(times.items(), key=lambda item: -item[1])[:NUM_TOP]
    return {
        "busy_ms": covered / 1e3 / NUM_PROFILED,
        "kernels": len(kernels) / NUM_PROFILED,
        "top": [[name[:100], round(us / 1e3 / NUM_PROFILED, 3)] for name, us in top],
    }


def measure_steps(row, options, device):
    """What a row of training or sampling says."""
    config = configuration(row, options)
    work = work_of(row, config, device)
    _seconds(work, network.WARM_UP + 2, device)  # compiled, and recorded at the fourth call
    if not options.seconds:
        return {"warmed": True}
    most = 10**9 if row.kind == "train" else config.diffusion.num_timesteps
    once = _seconds(work, 2, device) / 2
    num_steps = min(most, max(2, round(options.seconds / ROUNDS / once)))
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    rates = [num_steps / _seconds(work, num_steps, device) for _ in range(ROUNDS)]
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
    size = config.train.global_batch_size
    steps_per_s = statistics.median(rates)
    passes = 1 + BACKWARD if row.kind == "train" else 1
    found = {
        "steps_per_s": steps_per_s,
        "images_per_s": steps_per_s * size,
        "spread": (max(rates) - min(rates)) / steps_per_s,
        "tflops_per_s": steps_per_s * size * passes * forward_flops(config) / 1e12,
        "peak_mib": peak / 2**20,
    }
    if device.type == "cuda":
        found |= busy(work, device)
        found["busy_share"] = found["busy_ms"] / 1e3 * steps_per_s
    return found


def _seconds(work, num_steps, device):
    begin = time.perf_counter()
    work(num_steps)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begin


def measure_matmul(device):
    """TFLOP/s of a product of bf16 matrices: what arithmetic can reach at all."""
    side = 8192
    left, right = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    seconds = _seconds_each(lambda: left @ right, 20)
    return {"tflops_per_s": 2 * side**3 / seconds / 1e12}


def measure_copy(device):
    """GB/s, read and written, of a copy of 4 GB."""
    source = torch.empty(2**32, device=device, dtype=torch.uint8)
    target = torch.empty_like(source)
    return {"gb_per_s": 2 * source.numel() / _seconds_each(lambda: target.copy_(source), 20) / 1e9}


def _seconds_each(work, count):
    for _ in range(3):
        work()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in itertools.repeat(None, count):
        work()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / 1e3 / count


def measure(name, options):
    """The values of a row."""
    row, device = ROWS[name], torch.device(options.device)
    if reason := row.needs(device):
        return {"skipped": reason}
    if row.kind == "matmul":
        return measure_matmul(device)
    if row.kind == "copy":
        return measure_copy(device)
    torch.backends.cudnn.benchmark = row.cudnn_benchmark
    attention = nullcontext() if row.attention is None else sdpa_kernel(row.attention)
    with attention, off_the_default_stream(device, wanted=row.graphs):
        return measure_steps(row, options, device)


def parser_of(description):
    """The options that a row shares with the whole."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--recipe", default="cifar10")
    parser.add_argument("--batch", type=int, default=128, help="images in each step")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser


def main():
    parser = parser_of(__doc__.partition("\n")[0])
    parser.add_argument("row", choices=ROWS)
    parser.add_argument("--seconds", type=float, default=8.0, help="0: only compile")
    options = parser.parse_args()
    print(json.dumps({"row": options.row, **measure(options.row, options)}))


if __name__ == "__main__":
    main()
