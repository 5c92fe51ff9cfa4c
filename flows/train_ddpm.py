"""The pipeline: data set -> shards -> trained model -> samples -> metrics. Read this first.

python -m flows.train_ddpm digits                                  # all on this machine
prefect deployment run train-ddpm/local --watch -p recipe=digits   # on a Prefect server
"""

import sys

if __name__ == "__main__":
    # The command line may have to start the Prefect API that this process then talks to, and
    # Prefect reads where that is when it is imported. So it comes first, and imports us again.
    from flows.command_line import TRAIN_DDPM, main

    sys.exit(main(TRAIN_DDPM))

from ddpm_core.runs.run import DEFAULT_ROOT
from flows.plan import changes_of
from flows.stages import (
    DataSet,
    ImageScale,
    ImageSize,
    Overrides,
    Recipe,
    RunName,
    recorded,
    run_all,
)


@recorded("train-ddpm")
def train_ddpm(
    recipe: Recipe = "digits",
    root: str = DEFAULT_ROOT,
    run: RunName = None,
    overrides: Overrides = None,
    ray_address: str | None = None,
    size: ImageSize = None,
    scale: ImageScale = None,
    data: DataSet = None,
) -> list[dict[str, str]]:
    """Train a diffusion model from images, sample from it, and measure it.

    What is done is not done again, and what was killed is continued.

    Args:
        recipe: the whole configuration to begin with: data set, network, training, sampling.
        root: where everything lies: a folder, or s3://bucket/prefix; on a cluster of several
            machines, one that all of them reach.
        run: name of the run; default: the recipe's. A name stands for one configuration.
        overrides: keys to change, e.g. {"train.num_steps": 500, "compute.num_workers": 4}.
        ray_address: URL of a Ray cluster's dashboard, e.g. http://ray-head:8265; default: a Ray
            of its own on the machine that runs the flow.
        size: of the recipe images: pixels on a side; network and training follow from it.
        scale: of the recipe images: of the network and its training: S, M or L.
        data: a data set that is there already, by its name, e.g. faces or faces@3f2a90c1; no source
            of images is read then.

    Returns:
        For each stage its name and where its result lies.
    """
    changes = changes_of(recipe, overrides=overrides, size=size, scale=scale, data=data)
    return run_all("train-ddpm", recipe, root, run, changes, ray_address)
