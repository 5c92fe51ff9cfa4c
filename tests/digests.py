"""python -m tests.digests > FILE: the SHA-256 of every byte that two small runs end in.

For a change that must change no number: the list before and after it must be the same. Floating
point differs between kinds of processors, so a list says nothing of another machine.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from ddpm_core.store.storage import sha256_of

STAGES = "shard,train,sample,evaluate,study"
SHORT = {
    "train.num_steps": "30",
    "train.checkpoint_every": "10",
    "sample.num_images": "16",
    "sample.unit_size": "8",
    "sample.batch_size": "8",
    "sample.num_grid_images": "16",
    "evaluate.num_likelihood_images": "8",
    "evaluate.feature_steps": "20",
    "study.num_images": "16",
    "study.num_likelihood_images": "8",
    "study.num_ode_images": "4",
    "study.num_shown": "4",
    "study.swept_steps": "[5]",
    "diffusion.num_timesteps": "40",
}
OF_THE_MOMENT = ("birth.json", "begun.json", "mlflow", "mlflow.db", "mlartifacts", "lease.json")


def write_images(folder: Path) -> None:
    """Write 24 PNG files of two classes, a function of nothing."""
    for number in range(24):
        place = folder / ("even", "odd")[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        rows, columns = np.mgrid[0:20, 0:24]
        values = (rows * (number + 3) + columns * 7 + number * 11) % 256
        image = np.stack([values, values.T.reshape(20, 24), 255 - values], axis=-1)
        Image.fromarray(image.astype(np.uint8)).save(place / f"{number:03d}.png")


def run(root: Path, stages: str, recipe: str, name: str, changes: dict[str, str]) -> None:
    """Run the stages of a recipe in one process below `root`."""
    words = [word for key, value in changes.items() for word in ("--set", f"{key}={value}")]
    command = ["-m", "ddpm_core.several", stages, recipe, "--root", str(root), "--run", name]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{root}/mlflow.db"}
    command = [sys.executable, *command, *words]
    subprocess.run(command, env=environment, check=True, stdout=sys.stderr)


def digests_of(root: Path) -> dict[str, str]:
    """Return the SHA-256 of each file that holds nothing of the moment."""
    return {
        path.relative_to(root).as_posix(): sha256_of(path.read_bytes())
        for path in sorted(root.rglob("*"))
        if path.is_file() and not set(OF_THE_MOMENT) & set(path.relative_to(root).parts)
    }


def main() -> None:
    """Make the two runs and print a line for each file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ddpm-digests-") as folder:
        root, images = Path(folder) / "root", Path(folder) / "images"
        root.mkdir()
        write_images(images)
        run(root, STAGES, "digits", "digits", SHORT)
        ours = {**SHORT, "data.source": str(images), "data.height": "16", "data.width": "16"}
        ours |= {"data.num_test_images": "8", "train.global_batch_size": "8"}
        ours |= {"model.attention_resolutions": "[8]", "model.channel_mults": "[1,2]"}
        ours |= {"model.base_channels": "8", "model.num_groups": "4"}
        run(root, "shard,train,sample,evaluate", "images", "images", ours)
        for name, digest in digests_of(root).items():
            sys.stdout.write(f"{digest}  {name}\n")


if __name__ == "__main__":
    main()
