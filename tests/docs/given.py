"""What pages take for granted: images and weights of the reader's, and runs made before."""

import re
import struct
import tarfile
import zipfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

DIGITS = "python -m flows.train_ddpm digits"
TRAIN = "python -m ddpm_core train"
IMAGES = "python -m ddpm_core {} images --run {} --set data.source=/data/{}"
COMMANDS: Mapping[str, tuple[str, ...]] = {
    "README.md": ('mkdir photos; cp "$PAGE_DATA"/photos/cat/00*.jpg photos',),
    "docs/edit.md": (f"{TRAIN} digits-classes", f"{TRAIN} digits"),
    "docs/evaluation.md": (DIGITS,),
    "docs/family.md": (
        DIGITS,
        f"{TRAIN} mnist --set train.num_steps=1200 --set data.source=/data/mnist",
    ),
    "docs/fine-tune.md": (IMAGES.format("train", "photos", "photos"),),
    "docs/going-on.md": (
        IMAGES.format("train", "photos", "photos"),
        f"{TRAIN} digits --set train.keep_checkpoints=9",
    ),
    "docs/guidance.md": (
        f"{TRAIN} digits-classes",
        f"{TRAIN} digits",
        f"{TRAIN} digits --run small --set model.base_channels=8",
    ),
    "docs/mixtures.md": (
        IMAGES.format("shard", "x", "faces") + " --name faces",
        IMAGES.format("shard", "y", "flowers") + " --name flowers",
    ),
    "docs/new-sampler.md": (f"{TRAIN} digits",),
    "docs/play.md": (f"{TRAIN} digits-classes",),
    "docs/prompts.md": (f"{TRAIN} glide-small",),
    "docs/upscale.md": (f"{TRAIN} digits-upscale",),
    "docs/report.md": (DIGITS, f"{TRAIN} digits-dit"),
}
"""by page, what the reader has run before"""


def files(text: str, checkout: Path, data: Path) -> None:
    """Write the files and folders that a page names: in the reader's folder, and below /data."""
    for name in set(re.findall(r"\./(ddpm-[\w-]+)", text)):
        _weights(checkout / name)
    for name in ("photos", "faces", "flowers", "cats", "birds", "more"):
        _photos(data / name, seed=name)
        _zipped(data / name, data / f"{name}.zip")
    for name in ("cats", "birds"):
        (checkout / f"{name}.zip").symlink_to(data / f"{name}.zip")
    _mnist(data / "mnist")
    _shards(data / "laion")
    for name, side in (("few", 8), ("typed", 80), ("made", 32), ("real", 32)):
        (checkout / name).mkdir()
        for number in range(4 if name in ("few", "typed") else 24):
            _picture(f"{name}{number}", side + 20 * (name == "typed"), side).save(
                checkout / name / f"{number}.png"
            )
    mask = np.zeros((8, 8), np.uint8)
    mask[:, 4:] = 255
    for name in ("mask.png", "right.png"):
        Image.fromarray(mask).save(checkout / name)
    _picture("mine", 96, 72).save(checkout / "mine.png")


def _weights(folder: Path) -> None:
    """Write a U-Net of the recipe `images` with random weights and its chain, as diffusers does."""
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    network = UNet2DModel(
        sample_size=32,
        block_out_channels=(24, 48, 48),
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=8,
        norm_eps=1e-6,
        downsample_padding=0,
        flip_sin_to_cos=False,
        freq_shift=1,
        attention_head_dim=None,
    )
    chain = DDPMScheduler(num_train_timesteps=200, clip_sample=True)
    DDPMPipeline(unet=network, scheduler=chain).save_pretrained(folder)


def _picture(name: str, width: int, height: int) -> Image.Image:
    """Return a disc on a plain ground, of which everything follows from a name."""
    dice = np.random.default_rng(list(name.encode()))
    ground, disc = (tuple(int(v) for v in dice.integers(0, 256, 3)) for _ in range(2))
    image = Image.new("RGB", (width, height), ground)
    x, y, r = dice.uniform(0.3, 0.7) * width, dice.uniform(0.3, 0.7) * height, 0.3 * height
    ImageDraw.Draw(image).ellipse((x - r, y - r, x + r, y + r), fill=disc)
    return image


def _photos(folder: Path, *, seed: str) -> None:
    """Write 60 images of five classes, of which the last six are the same."""
    for number in range(60):
        target = folder / ("bird", "cat", "dog", "fish", "owl")[number % 5]
        target.mkdir(parents=True, exist_ok=True)
        _picture(f"{seed}{min(number, 54)}", 48, 40).save(target / f"{number:03}.jpg")


def _zipped(folder: Path, target: Path) -> None:
    with zipfile.ZipFile(target, "w") as archive:
        for path in sorted(folder.rglob("*.jpg")):
            archive.write(path, path.relative_to(folder))


def _mnist(folder: Path) -> None:
    folder.mkdir()
    dice = np.random.default_rng(0)
    for split, count in (("train", 600), ("t10k", 100)):
        images = dice.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        for kind, values in (("images-idx3", images), ("labels-idx1", labels)):
            head = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
            (folder / f"{split}-{kind}-ubyte").write_bytes(head + values.tobytes())


def _shards(folder: Path) -> None:
    """Write WebDataset shards of 32x32 images."""
    folder.mkdir()
    for shard in range(2):
        with tarfile.open(folder / f"{shard:05}.tar", "w") as archive:
            for number in range(40):
                content = BytesIO()
                _picture(f"{shard}-{number}", 32, 32).save(content, "PNG")
                member = tarfile.TarInfo(f"{shard:02}{number:04}.png")
                member.size = content.tell()
                content.seek(0)
                archive.addfile(member, content)
