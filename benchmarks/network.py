"""Images a second of training and of sampling: ours, and a plain loop of diffusers beside it.

    python -m benchmarks.network                                      # cifar10's network, on a GPU
    python -m benchmarks.network --batch 8 --and digits=64 --device cpu          # and a small one

Both have the same network (the paper's, as `UNet2DModel`) with the same weights, on one device.

Training is the whole step. Ours is `Denoising.step`; theirs the loop of diffusers' own example of
unconditional generation: noise and timesteps by torch, mean square, backward, clip_grad_norm_,
Adam as torch has it by default, EMAModel, all in torch's default memory order. It has no flips, no
learning rate's schedule and no loss read in every step, all of which would cost it.

Sampling is ancestral, a part of the chain from its end: ours through `AveragedNetwork` and
`descend`, with the noise of (seed, image, step); theirs as `DDPMPipeline` does, with
`DDPMScheduler.step`. Images/s are those of the whole chain.

float32 is what torch makes of it: it rounds convolutions on GPUs to TF32, for both. Each case is a
process of its own, as it would be elsewhere: ours keeps the memory that it frees, as our workers
do. Every round runs all cases one after the other; shown are medians, and as ratio the median of
the rounds'. On a machine that others use too, only the ratio of the CPU times says something.
"""

import argparse
import contextlib
import itertools
import json
import multiprocessing
import statistics
import time
from pathlib import Path

import diffusers
import torch
from diffusers.training_utils import EMAModel
from torch.nn import functional

from benchmarks.about import about
from ddpm_core import seeding
from ddpm_core.cluster import Place
from ddpm_core.diffusion.samplers.ancestral import descend
from ddpm_core.exchange.scheduler_config import write_scheduler_config
from ddpm_core.exchange.unet_config import write_unet_config
from ddpm_core.inference.build import build_denoiser
from ddpm_core.inference.denoiser import AveragedNetwork
from ddpm_core.inference.networks import build_network
from ddpm_core.loading.loader import to_unit_range
from ddpm_core.machine import keep_freed_memory
from ddpm_core.models.interop import to_diffusers
from ddpm_core.recipes import recipe
from ddpm_core.training.stepping.denoising import Denoising
from ddpm_core.training.stepping.parallel import Parallel

WARM_UP = 3
NUM_BATCHES = 4


def their_network(config, device):
    """The same function with the same weights."""
    network = diffusers.UNet2DModel(**write_unet_config(config, config.model))
    network.load_state_dict(to_diffusers(build_network(config).state_dict()))
    return network.to(device)


def their_scheduler(config):
    scheduler = diffusers.DDPMScheduler(**write_scheduler_config(config.diffusion))
    scheduler.set_timesteps(config.diffusion.num_timesteps)
    return scheduler


def batches(config, device):
    """Batches of bytes for ever, where a loader puts them."""
    shape = (config.train.global_batch_size, *config.data.shape)
    generator = torch.Generator().manual_seed(0)
    made = [
        torch.randint(0, 256, shape, generator=generator).to(torch.uint8)
        for _ in range(NUM_BATCHES)
    ]
    return itertools.cycle([one.pin_memory() if device.type == "cuda" else one for one in made])


# -- training: functions that take a number of steps -----------------------------------------------


def our_training(config, device):
    keep_freed_memory()
    learner = Denoising(config, Parallel(Place(rank=0, world_size=1, device=device)))
    images, numbers = batches(config, device), itertools.count()

    def train(num_steps):
        for _ in range(num_steps):
            learner.step(next(numbers), next(images))

    return train


def their_training(config, device):
    network, scheduler = their_network(config, device).train(), their_scheduler(config)
    adam = torch.optim.Adam(network.parameters(), lr=config.train.learning_rate)
    average = EMAModel(network.parameters(), decay=config.train.ema_decay, use_ema_warmup=True)
    images, size = batches(config, device), config.train.global_batch_size
    bfloat16 = config.train.precision == "bfloat16"

    def train(num_steps):
        for _ in range(num_steps):
            clean = to_unit_range(next(images), device)
            noise = torch.randn(clean.shape, device=device)
            t = torch.randint(0, config.diffusion.num_timesteps, (size,), device=device).long()
            noisy = scheduler.add_noise(clean, noise, t)
            with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
                output = network(noisy, t).sample
            functional.mse_loss(output.float(), noise).backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), config.train.grad_clip)
            adam.step()
            adam.zero_grad()
            average.step(network.parameters())

    return train


# -- sampling: functions that take a number of steps of the chain ----------------------------------


def our_sampling(config, device):
    keep_freed_memory()
    dtype = getattr(torch, config.train.precision)
    network = AveragedNetwork(build_network(config), device, dtype=dtype, compute=config.compute)
    denoiser, shape = build_denoiser(config, network), config.data.shape
    positions = torch.arange(config.train.global_batch_size, device=device)
    first, steps = seeding.key(0, "sample_init"), seeding.key(0, "sample_noise")
    x_T = seeding.normal(first, 0, positions, shape)
    end = config.diffusion.num_timesteps - 1

    @torch.inference_mode()
    def sample(num_steps):
        descend(
            denoiser,
            x_T,
            first=end,
            last=end + 1 - num_steps,
            noise=lambda t: seeding.normal(steps, t, positions, shape),
            clip_x_0=config.sample.clip_x_0,
        )

    return sample


def their_sampling(config, device):
    network, scheduler = their_network(config, device).eval(), their_scheduler(config)
    x_T = torch.randn(config.train.global_batch_size, *config.data.shape, device=device)
    bfloat16 = config.train.precision == "bfloat16"

    @torch.no_grad()
    def sample(num_steps):
        x = x_T
        for t in scheduler.timesteps[:num_steps]:
            with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
                output = network(x, t).sample
            x = scheduler.step(output.float(), t, x).prev_sample

    return sample


MAKERS = {"train": (our_training, their_training), "sample": (our_sampling, their_sampling)}


# -- measuring -------------------------------------------------------------------------------------


class Side:
    """One of two that are compared, in a process of its own."""

    def __init__(self, make, config, device, window_s, most_steps):
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        arguments = (theirs, make, config, device, window_s, most_steps)
        self._process = context.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        self._pipe.recv()
        self.rates, self.cpu_rates, self.peak = [], [], 0

    def measure(self):
        """Add the steps/s of a window."""
        self._pipe.send(None)
        rate, cpu_rate, self.peak = self._pipe.recv()
        self.rates.append(rate)
        self.cpu_rates.append(cpu_rate)

    def close(self):
        self._pipe.close()
        self._process.join()


def _serve(pipe, make, config, device, window_s, most_steps):
    """Warm up, and measure as many steps as fill the window, each time that it is wanted."""
    work, cuda = make(config, device), device.type == "cuda"

    def seconds(num_steps):
        begin, began = time.perf_counter(), time.process_time()
        work(num_steps)
        if cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - begin, time.process_time() - began

    seconds(WARM_UP)  # plans and memory
    num_steps = min(most_steps, max(2, round(window_s / (seconds(2)[0] / 2))))
    pipe.send(None)
    with contextlib.suppress(EOFError):
        while True:
            pipe.recv()
            if cuda:
                torch.cuda.reset_peak_memory_stats()
            rates = [num_steps / one for one in seconds(num_steps)]
            pipe.send((*rates, torch.cuda.max_memory_allocated() if cuda else 0))


def configuration(name, batch, options):
    changes = dict(one.split("=", 1) for one in options.set)
    for key, text in changes.items():
        try:
            changes[key] = json.loads(text)
        except json.JSONDecodeError:
            continue  # a word
    return recipe(name).replaced({**changes, "train.global_batch_size": int(batch)})


def row(name, kind, precision, config, sides):
    """A line of the table, and our speed as a multiple of theirs."""

    def ratio(rates):
        return statistics.median(
            ours / theirs for ours, theirs in zip(*(rates(side) for side in sides), strict=True)
        )

    by_clock, by_cpu = ratio(lambda side: side.rates), ratio(lambda side: side.cpu_rates)
    size = config.train.global_batch_size
    steps = [statistics.median(side.rates) for side in sides]
    chain = 1 if kind == "train" else config.diffusion.num_timesteps
    images = [f"{one * size / chain:,.4g}" for one in steps]
    memory = [f"{side.peak / 2**20:,.0f}" if side.peak else "" for side in sides]
    what = f"{name}, batches of {size}: {kind}"
    cells = [what, precision, *(f"{one:,.2f}" for one in steps), *images]
    cells += [f"{by_clock:.2f}", f"{by_cpu:.2f}", *memory]
    return f"| {' | '.join(cells)} |", by_clock


def network_line(name, config):
    num_weights = sum(weight.numel() for weight in build_network(config).parameters())
    shape = "x".join(str(one) for one in config.data.shape)
    return (
        f"- {name}: {num_weights / 1e6:.2f} M parameters, {shape}, "
        f"T = {config.diffusion.num_timesteps}"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--recipe", default="cifar10")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--batch", type=int, default=128, help="images in each step")
    parser.add_argument(
        "--and", dest="more", action="append", default=[], metavar="RECIPE=BATCH",
        help="another network, measured in the same rounds",
    )  # fmt: skip
    parser.add_argument("--seconds", type=float, default=8.0, help="of each side of each case")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, help="a Markdown file to write the result to")
    options = parser.parse_args()
    device = torch.device(options.device)
    sizes = {options.recipe: options.batch} | dict(one.split("=", 1) for one in options.more)
    bases = {name: configuration(name, batch, options) for name, batch in sizes.items()}

    cases = {}
    for name, kind, precision in itertools.product(bases, MAKERS, ("float32", "bfloat16")):
        config = bases[name].replaced({"train.precision": precision})
        most = 10**9 if kind == "train" else config.diffusion.num_timesteps
        window_s = options.seconds / options.rounds
        sides = [Side(make, config, device, window_s, most) for make in MAKERS[kind]]
        cases[name, kind, precision] = config, sides
    for _ in range(options.rounds):
        for _, sides in cases.values():
            for side in sides:
                side.measure()

    lines = [
        "| | precision | ours, steps/s | theirs | ours, images/s | theirs | x theirs | "
        "x by CPU time | ours, peak MiB | theirs |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    worst = {}
    for (name, kind, precision), (config, sides) in cases.items():
        line, ratio = row(name, kind, precision, config, sides)
        lines.append(line)
        worst[kind] = min(worst.get(kind, ratio), ratio)
        for side in sides:
            side.close()
    header = [
        f"# Training and sampling beside diffusers: medians of {options.rounds} rounds",
        "",
        *about(
            "benchmarks.network",
            num_cores=torch.get_num_threads(),
            packages=f"diffusers {diffusers.__version__}",
        ),
        *(network_line(name, config) for name, config in bases.items()),
        f"- on {device.type}; convolutions in float32 are "
        f"{torch.backends.cudnn.conv.fp32_precision} on a GPU",
        "",
        *lines,
        "",
        f"worst: train {worst['train']:.2f} x the peer, sample {worst['sample']:.2f} x the peer",
    ]
    print(*header, sep="\n")
    if options.out:
        options.out.write_text("\n".join([*header, ""]))


if __name__ == "__main__":
    main()
