"""Stages on real workers: the same bytes from however many there are, and whoever dies.

One file for all of them, since each Ray takes ten seconds of a core to start.
"""

import os
import signal
from pathlib import Path

import pytest

from ddpm_core import cluster
from ddpm_core.config import ComputeConfig
from ddpm_core.runs.run import open_run
from ddpm_core.sampling import stage, worker
from ddpm_core.sharding.stage import run_shard
from ddpm_core.store.storage import open_store
from tests.images.image_files import files, write_folder
from tests.own_cache import cache_folder
from tests.sampling.tiny import (
    _sampled_root,
    _trained_root,
    classifier_config,
    commit_earlier,
    commit_random_weights,
    files_of,
    one_thread,
    recording_tracker,
    run_in_process,
    sampled,
    store,
)
from tests.sharding.test_collection import config_of, datasets_below
from tests.sharding.test_dataset import by_key, colour_shards, wanted

__all__ = [
    "_sampled_root",
    "_trained_root",
    "cache_folder",
    "colour_shards",
    "one_thread",
    "recording_tracker",
    "sampled",
    "store",
]
pytestmark = [
    pytest.mark.long,
    pytest.mark.ray,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # Ray uses its own old names
]


@pytest.fixture(scope="module", autouse=True)
def ray_of_three():
    """Give a Ray with room for three workers, whatever this machine has."""
    import ray

    ray.init(
        address="local",
        num_cpus=3,
        include_dashboard=False,
        configure_logging=False,
        log_to_driver=False,
    )
    yield
    ray.shutdown()


def make_dying_worker(payload, get_device):
    """Make the real worker; its process dies twice: before unit 1, and after publishing unit 2."""
    make = worker.make_worker(payload, get_device)

    def work(unit):
        scar = Path(payload["root"]) / f"died-{unit.number}"
        dies = unit.number in (1, 2) and not scar.exists()
        if dies and unit.number == 1:
            scar.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        done = make(unit)
        if dies:
            scar.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return done

    return work


@pytest.mark.usefixtures("recording_tracker")
def test_samples_are_the_same_from_one_worker_three_and_after_a_death(sampled, monkeypatch):
    """Catches: noise that depends on the worker, units lost or doubled when a worker dies, an actor
    that is not guided by the earlier step, or only some of the way; and the same of a classifier,
    whose labels go to the actors."""
    store, config = sampled
    commit_earlier(store, config, 5)
    config = config.replaced(
        {
            "sample.guidance_by": "@5",
            "sample.guidance_scale": 2.0,
            "sample.guidance_interval": [0.3, 3],
            "sample.threshold_percentile": 99,
        }
    )
    commit_random_weights(store, classifier_config())
    open_run(store, classifier_config())
    by_class = {"sample.guidance_by": "judge", "sample.num_images": 12}
    configs = [config, config.replaced(by_class)]
    with monkeypatch.context() as patch:
        run_in_process(patch)
        folder, classes = (stage.run_sample(store, one) for one in configs)
    expected = files_of(store, folder)  # made here, in the order of the units
    assert sum(name.endswith(".tar") for name in expected) == 4
    of_classes = files_of(store, classes)

    def again(num_workers: int) -> dict[str, bytes]:
        for name in store.names(folder):
            store.delete(f"{folder}/{name}")
        stage.run_sample(store, config.replaced({"compute.num_workers": num_workers}))
        return files_of(store, folder)

    assert again(1) == expected
    assert again(3) == expected
    monkeypatch.setattr(stage, "make_worker", make_dying_worker)
    assert again(2) == expected
    assert {"died-1", "died-2"} <= {path.name for path in Path(store.uri).iterdir()}
    monkeypatch.undo()
    for name in of_classes:
        store.delete(f"{classes}/{name}")
    stage.run_sample(store, configs[1].replaced({"compute.num_workers": 3}))
    assert files_of(store, classes) == of_classes


def test_shards_are_the_same_from_one_worker_two_and_three(tmp_path):
    """Catches bytes that depend on who made them, on real workers."""
    folder = write_folder(tmp_path / "photos", files())
    made = []
    with cluster.connect(ComputeConfig(num_workers=3)):
        for workers in (1, 2, 3):
            root = tmp_path / str(workers)
            config = config_of(folder).replaced(
                {"compute.num_workers": workers, "train.global_batch_size": 6}
            )
            run_shard(open_store(str(root)), config)
            made.append(datasets_below(root))
    assert made[0] == made[1] == made[2]
    assert len(made[0]) == 12


def test_ray_data_reads_the_same_samples(colour_shards):
    """Catches keys that Ray groups in another way than WebDataset."""
    import ray.data

    paths, images = colour_shards
    assert by_key(ray.data.read_webdataset(paths).take_all()) == wanted(images)
