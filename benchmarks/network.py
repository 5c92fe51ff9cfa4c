"""Images a second of training and of sampling: ours, and a plain loop of diffusers beside it.

    python -m benchmarks.network                                      # cifar10's network, on a GPU
    python -m benchmarks.network --recipe digits --batch 8 --seconds 2           # anywhere

Both have the same network (the paper's, as `UNet2DModel`) with the same weights, on one device.

Training is the whole step. Ours is `Denoising.step`; theirs the loop of diffusers' own example of
unconditional generation: noise and timesteps by torch, mean square, backward, clip_grad_norm_,
Adam as torch has it by default, EMAModel, all in torch's default memory order. It has no flips, no
learning rate's schedule and no loss read in every step, all of which would cost it.

Sampling is ancestral, a part of the chain from its end: ours through `AveragedNetwork` and
`descend`, with the noise of (seed, image, step); theirs as `DDPMPipeline` does, with
`DDPMScheduler.step`. Images/s are those of the whole chain.

float32 is what torch makes of it: it rounds convolutions on GPUs to TF32, for both. Every round
runs all cases one after the other; shown are medians, and as ratio the median of the rounds'.
"""

import argparse
import itertools
import json
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
from ddpm_core.inference.build import build_denoiser, build_network
from ddpm_core.inference.denoiser import AveragedNetwork
from ddpm_core.loading.loader import to_unit_range
from ddpm_core.models.interop import to_diffusers
from ddpm_core.recipes import recipe
from ddpm_core.training.denoising import Denoising
from ddpm_core.training.parallel import Parallel

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


class Side:
    """One of two that are compared: warmed up, with the number of steps that fill its time."""

    def __init__(self, make, config, device, window_s, most_steps):
        self._device = device
        before = self._allocated()
        self._work = make(config, device)
        self.seconds(WARM_UP)  # plans and memory
        once = self.seconds(2) / 2
        self._own = self._allocated() - before
        self._num_steps = min(most_steps, max(2, round(window_s / once)))
        self.rates, self.peak = [], 0

    def measure(self):
        """Add the steps/s of a window."""
        held = self._allocated()
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        self.rates.append(self._num_steps / self.seconds(self._num_steps))
        if self._device.type == "cuda":
            # What the other cases hold meanwhile is none of it.
            peak = torch.cuda.max_memory_allocated() - held + self._own
            self.peak = max(self.peak, peak)

    def seconds(self, num_steps):
        self._wait()
        begin = time.perf_counter()
        self._work(num_steps)
        self._wait()
        return time.perf_counter() - begin

    def _wait(self):
        if self._device.type == "cuda":
            torch.cuda.synchronize()

    def _allocated(self):
        return torch.cuda.memory_allocated() if self._device.type == "cuda" else 0


def configuration(options):
    changes = dict(one.split("=", 1) for one in options.set)
    for key, text in changes.items():
        try:
            changes[key] = json.loads(text)
        except json.JSONDecodeError:
            continue  # a word
    return recipe(options.recipe).replaced({**changes, "train.global_batch_size": options.batch})


def row(kind, precision, config, sides):
    """A line of the table, and our speed as a multiple of theirs."""
    ratios = [ours / theirs for ours, theirs in zip(*(side.rates for side in sides), strict=True)]
    ratio, size = statistics.median(ratios), config.train.global_batch_size
    steps = [statistics.median(side.rates) for side in sides]
    chain = 1 if kind == "train" else config.diffusion.num_timesteps
    images = [f"{one * size / chain:,.4g}" for one in steps]
    memory = [f"{side.peak / 2**20:,.0f}" if side.peak else "" for side in sides]
    cells = [kind, precision, *(f"{one:,.2f}" for one in steps), *images, f"{ratio:.2f}", *memory]
    return f"| {' | '.join(cells)} |", ratio


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--recipe", default="cifar10")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--batch", type=int, default=128, help="images in each step")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each of the eight cases")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, help="a Markdown file to write the result to")
    options = parser.parse_args()
    base, device = configuration(options), torch.device(options.device)

    cases = {}
    for kind, precision in itertools.product(MAKERS, ("float32", "bfloat16")):
        config = base.replaced({"train.precision": precision})
        most = 10**9 if kind == "train" else config.diffusion.num_timesteps
        cases[kind, precision] = (
            config,
            [
                Side(make, config, device, options.seconds / options.rounds, most)
                for make in MAKERS[kind]
            ],
        )
    for _ in range(options.rounds):
        for _, sides in cases.values():
            for side in sides:
                side.measure()

    lines = [
        "| | precision | ours, steps/s | theirs | ours, images/s | theirs | x theirs | "
        "ours, peak MiB | theirs |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    worst = {}
    for (kind, precision), (config, sides) in cases.items():
        line, ratio = row(kind, precision, config, sides)
        lines.append(line)
        worst[kind] = min(worst.get(kind, ratio), ratio)
    num_weights = sum(weight.numel() for weight in build_network(base).parameters())
    shape = "x".join(str(one) for one in base.data.shape)
    header = [
        f"# Training and sampling beside diffusers: medians of {options.rounds} rounds",
        "",
        *about(
            "benchmarks.network",
            num_cores=torch.get_num_threads(),
            packages=f"diffusers {diffusers.__version__}",
        ),
        f"- {options.recipe}: {num_weights / 1e6:.1f} M parameters, {shape}, batches of "
        f"{options.batch}, T = {base.diffusion.num_timesteps}, on {device.type}; convolutions in "
        f"float32 are {torch.backends.cudnn.conv.fp32_precision} on a GPU",
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
