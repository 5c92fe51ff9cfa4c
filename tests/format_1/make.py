"""python -m tests.format_1.make FILE.tar.gz: the small run that `test_format_1` goes on with.

It was called at commit 29caf8c, the last whose fingerprints counted housekeeping; what later ones
make has the same bytes, and lies elsewhere. Figures are replaced by one small picture each: nobody
looks at them.
"""

import argparse
import gzip
import io
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

from ddpm_core import cluster
from ddpm_core.config import RunConfig
from ddpm_core.drawing import pictures
from ddpm_core.evaluation import stage as evaluation
from ddpm_core.images import png
from ddpm_core.runs import layout, places
from ddpm_core.runs.run import configure, open_stage
from ddpm_core.sampling.stage import run_sample
from ddpm_core.sharding.stage import run_shard
from ddpm_core.store.commit import commit
from ddpm_core.store.storage import open_store
from ddpm_core.study.stage import run_study
from ddpm_core.training import worker
from tests.sampling.tiny import RecordingTracker, record_tracking, run_in_process

SETTINGS = {
    "data.grey": True,
    "data.height": 8,
    "data.width": 8,
    "data.class_folders": False,
    "data.num_test_images": 4,
    "data.images_per_shard": 8,
    "model.base_channels": 4,
    "model.channel_mults": [1],
    "model.num_res_blocks": 1,
    "model.attention_resolutions": [],
    "model.num_groups": 2,
    "diffusion.num_timesteps": 40,
    "train.num_steps": 6,
    "train.global_batch_size": 4,
    "train.warmup_steps": 0,
    "train.log_every": 2,
    "train.checkpoint_every": 2,
    "sample.num_images": 6,
    "sample.unit_size": 4,
    "sample.batch_size": 2,
    "sample.num_grid_images": 6,
    "sample.num_strip_images": 2,
    "evaluate.num_likelihood_images": 2,
    "study.num_images": 4,
    "study.swept_steps": [5],
    "study.num_likelihood_images": 2,
    "study.num_ode_images": 2,
    "study.num_shown": 2,
    "compute.num_workers": 1,
}
NAME = "old"


def write_images(folder: Path) -> None:
    """Write 16 grey images of 8x8 pixels."""
    folder.mkdir(parents=True)
    rows, columns = np.mgrid[0:8, 0:8]
    for number in range(16):
        values = (rows * (number + 3) + columns * 7 + number * 11) % 256
        (folder / f"{number:03d}.png").write_bytes(png.encode(values[..., None].astype(np.uint8)))


def old_config(images: Path, **changes: object) -> RunConfig:
    """Return the configuration of the run, of images in that folder."""
    given = {**SETTINGS, "data.source": str(images), **changes}
    return configure("images", root=None, run=NAME, changes=given)[1]


def main() -> None:
    """Make the run, without Ray and MLflow, and pack it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    file = parser.parse_args().file
    with tempfile.TemporaryDirectory() as scratch, pytest.MonkeyPatch.context() as patch:
        images, root = Path(scratch) / "images", Path(scratch) / "root"
        write_images(images)
        store, config = open_store(str(root)), old_config(images)
        run_in_process(patch)
        record_tracking(patch)
        patch.setattr(worker, "open_tracker", lambda *_args, **_more: RecordingTracker())
        small = png.encode(np.zeros((8, 8, 1), np.uint8))
        patch.setattr(pictures, "to_png", lambda _image: small)
        for module in ("evaluation.figures", "study.figures", "drawing.sheet"):
            patch.setattr(f"ddpm_core.{module}.png", lambda _figure: small)
        run_shard(store, config)
        open_stage(store, config)
        worker.train_rank(store, config, cluster.Place(0, 1, torch.device("cpu")))
        run_sample(store, config)
        evaluation.run_evaluate(store, config)
        run_study(store, config)
        table = places.ablations(store, config)
        commit(store, table.folder, {}, table.expected.body)
        for name in ("run.json", "begun.json"):
            store.delete(f"{layout.run_folder(NAME)}/{name}")
        open_stage(store, config.replaced({"data.source": "/images"}))
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            for path in sorted(Path(scratch).rglob("*")):
                member = archive.gettarinfo(path, path.relative_to(scratch).as_posix())
                member.uid = member.gid = member.mtime = 0
                member.uname = member.gname = ""
                if path.is_file():
                    with path.open("rb") as data:
                        archive.addfile(member, data)
        file.write_bytes(gzip.compress(packed.getvalue(), mtime=0))


if __name__ == "__main__":
    main()
