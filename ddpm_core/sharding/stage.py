"""The shard stage: source images to a committed data set, and the run's pointer to it."""

from functools import partial

from ddpm_core.composing.ahead import composed_plan
from ddpm_core.config import RunConfig
from ddpm_core.runs import layout, named_data
from ddpm_core.runs.run import open_stage
from ddpm_core.sharding import from_others
from ddpm_core.sharding.of_source import alone, of_source
from ddpm_core.sharding.recorded import pointer_bytes, recorded, show_done
from ddpm_core.store.storage import Store


def run_shard(store: Store, config: RunConfig) -> str:
    """Make sure that the run has its data set; return the folder of it.

    What is there already, of this run or of another, is used and not made again.

    Raises:
        ConfigError: they are of another number of classes than the network has labels.
        DataError: the source images cannot be used.
        RunConflictError: the run has a data set, and it is not of these images.
    """
    key = layout.dataset_pointer_key(config.name)
    pointer, index, passed_over = recorded(store, config)
    if pointer is not None and index is not None and not config.data.recheck:
        if config.data.set_name is not None or config.data.licence is not None:
            named_data.name_set(store, config, pointer)
        show_done(store, index)
        return pointer.folder
    make: from_others.Make = partial(alone, store)
    if config.data.sets is not None and named_data.is_composed(store, config):
        made = from_others.composed(store, config, composed_plan(store, config), pointer)
    elif config.data.sets is not None:
        made = from_others.named(store, config)
    elif config.data.append_to is not None:
        made = from_others.appended(store, config, pointer, make)
    elif config.data.is_part:
        made = from_others.part(store, config, pointer, make)
        named_data.name_set(store, config, made)
    else:
        made = of_source(store, config, pointer)
        named_data.name_set(store, config, made)
    open_stage(store, config)  # the run's first result is about to stand, and not earlier its name
    if passed_over is not None and passed_over == pointer_bytes(store, config):
        store.delete(key)
    store.create(key, made.to_json())
    return made.folder
