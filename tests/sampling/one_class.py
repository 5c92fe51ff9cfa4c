"""A run of images without classes, as anybody's folder of photographs is."""

from pathlib import Path

from ddpm_core.config import RunConfig
from ddpm_core.store.storage import Store
from tests.images.image_files import image_file, write_folder
from tests.sampling.tiny import commit_random_weights
from tests.study.small import study_config


def one_class_config(folder: Path, **changes) -> RunConfig:
    """Return the tiny run, for grey images of 8x8 without classes in a folder that is made."""
    write_folder(folder, {f"{number:02d}.png": image_file(number) for number in range(40)})
    return study_config(
        **{
            "data.name": "images",
            "data.source": str(folder),
            "data.grey": True,
            "data.num_test_images": 10,
            "evaluate.num_likelihood_images": 10,
            **changes,
        }
    )


def commit_one_class(store: Store, folder: Path) -> RunConfig:
    """Make the data set of such a run and weights for it; to be called without Ray."""
    config = one_class_config(folder)
    commit_random_weights(store, config)
    return config
