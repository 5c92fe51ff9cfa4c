"""The captions of a data set as prompts: the first of each image that has one, in their order."""

from ddpm_core.config import RunConfig
from ddpm_core.loading.texts import captions_of_data, first_captions
from ddpm_core.runs import results
from ddpm_core.runs.reference import trained_by
from ddpm_core.shards.index import Split, load_index
from ddpm_core.store.storage import Store

MAX_IMAGES = 2**14
"""whose captions are prompts: the first of a split; images beyond have them again in turn"""


def captions_named(store: Store, config: RunConfig) -> tuple[str, ...] | None:
    """Return the captions that `sample.prompts` names by a word, of the data set of the run that
    trained the weights; where that has none, of the run's own.

    Returns:
        None where it names none, or no data set with captions is known.

    Raises:
        DataError: an index or captions cannot be read.
        ConfigError: as `trained_by`.
    """
    if not config.model.uses_text or not isinstance(config.sample.prompts, str):
        return None
    split: Split = "test" if config.sample.prompts == "held_out" else "train"
    for run in (trained_by(store, config), config):
        pointer = results.dataset_pointer(store, run.name)
        if pointer is None:
            continue
        index = load_index(store, pointer.folder, pointer.fingerprint)
        if captions_of_data(run, index) is None:
            return None
        return tuple(one for one in first_captions(store, run, split, MAX_IMAGES) if one)
    return None
