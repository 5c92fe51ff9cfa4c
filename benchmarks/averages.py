"""Draw the figure of docs/averages.md: Frechet distance by the width of the average.

    python benchmarks/averages.py ROOT RUN OUT.png

Of a run with train.power_averages whose averages are measured (`evaluate RUN --model :power_12`).
"""

import json
import sys
from pathlib import Path

from ddpm_core.config.averages import averages_of
from ddpm_core.config.doubts import MUCH_KEPT
from ddpm_core.config.model_ref import RAW, sigma_rel_in
from ddpm_core.drawing.plot import BLUE, GREY, ORANGE, plot, png
from ddpm_core.models.profiles import Exponential
from ddpm_core.runs import layout, results
from ddpm_core.runs.begun import recorded
from ddpm_core.store.storage import open_store

TICKS = (0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3)


def distance_of(store, config, average):
    found = results.evaluation_of(store, config.replaced({"sample.model": f":{average}"}))
    metrics = None if found is None else json.loads(found.read(store, "metrics"))
    return None if metrics is None else metrics["frechet_distance"]["value"]


def main(root, run, out):
    store = open_store(root)
    config = recorded(store, run)
    train = config.train
    names = {*averages_of(train), *store.names(layout.averages_folder(run)), RAW}
    found = {name: distance_of(store, config, name) for name in sorted(names)}
    found = {name: value for name, value in found.items() if value is not None}
    figure, axes = plot(
        f"{config.data.name}, {train.num_steps} steps", "width of the average, share of the run",
        "Frechet distance of samples",
    )  # fmt: skip
    powers = sorted((s, v) for n, v in found.items() if (s := sigma_rel_in(n)) is not None)
    axes.plot(*zip(*powers, strict=True), "o-", color=BLUE, label="power function, by sigma_rel")
    constant = []
    for name, decay in averages_of(train).items():
        # One that is still full of the first weights would leave no room for the others.
        forgets = decay.first_share(train.num_steps) <= MUCH_KEPT
        if isinstance(decay, Exponential) and name in found and forgets:
            # Its standard deviation in steps is d**.5 / (1 - d), as long as the run is longer.
            width = decay.decay**0.5 / (1 - decay.decay) / train.num_steps
            constant.append((width, found[name], f"{name} ({decay.decay:g})"))
    constant.sort()
    axes.plot([c[0] for c in constant], [c[1] for c in constant], "s--", color=ORANGE,
              label="constant decay")  # fmt: skip
    for width, value, name in constant:
        axes.annotate(name, (width, value), textcoords="offset points", xytext=(5, 6), fontsize=8)
    if RAW in found:
        axes.axhline(found[RAW], color=GREY, linestyle=":", label="trained weights, not averaged")
    axes.set_xscale("log")
    axes.set_xticks(TICKS, [f"{tick:g}" for tick in TICKS])
    axes.minorticks_off()
    axes.set_ylim(0)
    axes.set_xlim(TICKS[0], TICKS[-1])
    axes.legend(frameon=False)
    Path(out).write_bytes(png(figure))
    for name, value in found.items():
        print(f"{name:10} {value:8.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
