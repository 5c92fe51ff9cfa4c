"""The page of a run: numbers, pictures, curves, data, model, protocol, and how to make it again.

Of several runs, what differs between them comes first.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeGuard

from ddpm_core.config import RunConfig
from ddpm_core.drawing.plot import CATEGORIES, drawable, plot, png
from ddpm_core.recipes.nearest import command_of
from ddpm_core.reporting import html
from ddpm_core.reporting.gathered import Facts
from ddpm_core.runs import results
from ddpm_core.runs.numbers import Number
from ddpm_core.runs.stages import STAGES
from ddpm_core.shards.lineage import Ancestor, left_out, made_of

_DIGITS = 16
_COVERS = [stage for stage in STAGES.values() if stage.cover is not None]


def report_of(runs: Sequence[Facts]) -> str:
    """Return the page, as HTML in one file.

    Args:
        runs: one, or several that are set side by side.
    """
    names = [one.config.name for one in runs]
    if len(runs) == 1:
        return html.page(names[0], _run(runs[0], prefix=""))
    parts = [html.heading(" · ".join(names), level=1), *_comparison(runs)]
    for number, one in enumerate(runs):
        inner = "\n".join(_run(one, prefix=f"{number}-"))
        parts.append(html.folded(f"all of {one.config.name}", inner))
    return html.page(" · ".join(names), parts)


def _run(facts: Facts, *, prefix: str) -> Iterator[str]:
    config = facts.config
    yield html.heading(config.name, level=1)
    of = facts.weights.said if facts.weights is not None else "not trained to its end yet"
    yield html.paragraph(f"{of} · {facts.folder}", soft=True)
    sections = ["results", "training", "data", "model", "protocol", "again"]
    yield html.links((f"{prefix}{name}", name) for name in sections)
    yield html.heading("results", anchor=f"{prefix}results")
    if not facts.stages and not facts.missing:
        yield html.paragraph("no stage has a result yet")
    yield html.cards(_cards(facts))
    for stage, why in facts.missing.items():
        yield html.paragraph(f"{stage}: {why}")
    for stage, found in facts.stages.items():
        if found.pictures:
            yield html.heading(stage, level=3)
            yield html.pictures(
                html.picture(one.png, one.role.replace("-", " ")) for one in found.pictures
            )
    yield html.heading("training", anchor=f"{prefix}training")
    yield from _training(facts)
    yield html.heading("data", anchor=f"{prefix}data")
    yield from _data(facts)
    yield html.heading("model", anchor=f"{prefix}model")
    yield from _model(facts)
    yield html.heading("protocol", anchor=f"{prefix}protocol")
    yield from _protocol(facts.metrics)
    yield html.heading("how to make it again", anchor=f"{prefix}again")
    yield from _again(facts)


def _cards(facts: Facts) -> Iterator[tuple[str, str, str]]:
    for number in _numbers(facts):
        value = number.value or "-"
        yield number.name, value, number.text.removeprefix(value).strip()


def _numbers(facts: Facts) -> list[Number]:
    return [number for found in facts.stages.values() for number in found.numbers]


def _imported(facts: Facts) -> Mapping[str, str]:
    """Return the format and the digests of weights that were not trained here; {} of others."""
    if facts.weights is None or not results.is_imported(facts.weights.checkpoint):
        return {}
    found: Mapping[str, str] = facts.weights.checkpoint.body["imported"]
    return found


def _training(facts: Facts) -> Iterator[str]:
    config = facts.config
    if imported := _imported(facts):
        yield html.paragraph("The weights were imported; no training was made here.")
        yield html.table(imported.items())
        return
    yield html.table(
        [
            ("steps", _of(config.train.num_steps, facts)),
            ("images in a step", config.train.global_batch_size),
            ("images in all", f"{facts.step * config.train.global_batch_size:,}"),
            ("began from", config.train.start or "random weights of train.seed"),
            ("arithmetic", config.train.precision),
        ]
    )
    # The evaluation draws it too, by quarters of the chain.
    if "evaluate" not in facts.stages and (curve := _curves([facts])):
        yield html.picture(curve, "loss of the training, mean over the steps between two points")


def _of(num_steps: int, facts: Facts) -> str:
    return str(num_steps) if facts.step == num_steps else f"{facts.step} of {num_steps}"


def _curves(runs: Sequence[Facts]) -> bytes | None:
    shown = [one for one in runs if one.curve]
    if not shown:
        return None
    figure, axes = plot("loss of the training", "step", "loss")
    for number, one in enumerate(shown):
        points = [(point["step"], point["loss"]) for point in one.curve if "loss" in point]
        axes.plot(
            *zip(*points, strict=True),
            color=CATEGORIES[number % len(CATEGORIES)],
            label=drawable(one.config.name),
            linewidth=1.2,
        )
    axes.set_yscale("log")
    if len(shown) > 1:
        axes.legend(frameon=False)
    return png(figure)


def _data(facts: Facts) -> Iterator[str]:
    data, index = facts.config.data, facts.index
    if index is None:
        yield html.paragraph(f"{data.name}; its data set is not there, or cannot be read")
        return
    rows: list[tuple[object, ...]] = [
        ("data set", f"{data.name}, fingerprint {index.fingerprint[:_DIGITS]}"),
        ("read from", data.source if data.sets is None else f"the data set {data.sets}"),
        *(
            ("called", f"{one.pinned}, of {one.source or 'a source not noted'}")
            for one in facts.named
        ),
        *(("licence", one.licence or "not noted") for one in facts.named[-1:]),
        *(("made of", part) for part in facts.parts),
        ("an image", f"{'×'.join(map(str, index.shape))} {index.image.dtype}"),
        *((split, f"{count:,} images") for split, count in index.num_images.items()),
        *(
            (said, ", ".join(f"{one:.1f}" for one in values))
            for said, values in (
                ("mean of the channels", index.image.mean),
                ("deviation", index.image.std),
            )
            if values  # not known of images that are used in place
        ),
        *_captions(facts),
        ("left out", f"{len(index.rejected):,} files that could not be used"),
        *(("made of", _ancestor(one)) for one in made_of(index.manifest)),
        *(
            (f"left out of {split}", str(counts))
            for split, counts in left_out(index.manifest).items()
        ),
    ]
    yield html.table(rows)
    if facts.first_images is not None:
        yield html.picture(facts.first_images, "the first training images", is_small=True)
    names, counts = index.label.names, index.label.counts
    if len(names) > 1:
        splits = list(counts)
        classes = [
            (name, *(f"{counts[split][label]:,}" for split in splits))
            for label, name in enumerate(names)
        ]
        inside = html.table(classes, head=("class", *splits))
        yield html.folded(f"{len(names)} classes", inside)
    if index.rejected:
        left = [(one.key, one.reason) for one in index.rejected[:100]]
        yield html.folded("files that were left out", html.table(left, head=("file", "why")))


def _captions(facts: Facts) -> Iterator[tuple[object, ...]]:
    data, index = facts.config.data, facts.index
    if data.captions == "classes":
        yield "captions", f"made from the names of the classes: {'; '.join(data.caption_templates)}"
    elif index is not None and index.captions is not None:
        for split, counts in (index.captions.counts or {}).items():
            yield f"captions of {split}", str(counts)


def _ancestor(one: Ancestor) -> str:
    weight = "" if one.weight is None else f", weight {one.weight}"
    return f"{one.folder.removeprefix('datasets/')}{weight}"


def _model(facts: Facts) -> Iterator[str]:
    config = facts.config
    size = f"{config.num_parameters / 1e6:.2f} M parameters"
    rows: list[tuple[object, ...]] = [("network", f"model.kind={config.model.kind}, {size}")]
    rows.append(("process", f"diffusion.kind={config.diffusion.kind}"))
    if facts.weights is not None:
        rows.append(("weights", f"{facts.weights.name}, SHA-256 {facts.weights.sha256}"))
    yield html.table(rows)
    if facts.weights is None:
        return
    if config.role == "classifier":
        does = "It says of which class of its data set a noised image is, and draws nothing."
        unsaid = "whether it treats groups of images unequally"
    elif config.role == "clip":
        does = "It says how well a noised image fits a caption, and draws nothing."
        unsaid = "whether it treats groups of images or words unequally"
    elif config.role == "text":
        does = "It says bytes that are hidden in captions, and draws nothing."
        unsaid = "whether it treats languages or words unequally"
    else:
        does = "It draws images like those of its data set, and of nothing else."
        unsaid = "whether it repeats training images, or treats groups in them unequally,"
    yield html.paragraph(
        f"{does} What is measured of it stands above, on the images named there; {unsaid} is not "
        "part of these numbers unless a stage above says so."
    )


def _protocol(metrics: Mapping[str, Any]) -> Iterator[str]:
    shown = {name: one["protocol"] for name, one in metrics.items() if _has_protocol(one)}
    if not shown:
        yield html.paragraph("nothing is measured yet")
    for name, protocol in shown.items():
        rows = [
            (key, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
            for key, value in protocol.items()
        ]
        yield html.folded(name.replace("_", " "), html.table(rows))


def _has_protocol(value: object) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict) and isinstance(value.get("protocol"), dict)


def _again(facts: Facts) -> Iterator[str]:
    if _imported(facts):
        yield html.paragraph(
            "ddpm import-weights makes it again of the same files. The configuration, run.json:"
        )
    else:
        yield html.paragraph(
            "On a CPU, with as many workers, the weights are the same to the last bit; elsewhere "
            "to rounding."
        )
        yield html.code(command_of(facts.config))
        yield html.paragraph("Or from the whole configuration, run.json:")
    yield html.folded("run.json", html.code(facts.config.to_json()))


def _comparison(runs: Sequence[Facts]) -> Iterator[str]:
    names = [one.config.name for one in runs]
    yield html.heading("what differs")
    rows = list(differences([one.config for one in runs]))
    if rows:
        yield html.table(rows, head=("key", *names))
    else:
        yield html.paragraph("their configurations are the same")
    yield html.heading("numbers")
    for doubt in _doubts(runs):
        yield html.paragraph(doubt)
    columns = dict.fromkeys(number.name for one in runs for number in _numbers(one))
    by_name = [{number.name: number.text for number in _numbers(one)} for one in runs]
    if columns:
        rows_of = [(name, *(one.get(name, "-") for one in by_name)) for name in columns]
        yield html.table(rows_of, head=("", *names))
    else:
        yield html.paragraph("nothing is measured yet")
    if curve := _curves(runs):
        yield html.picture(curve, "loss of the training")
    for stage in _COVERS:
        yield html.heading(stage.label or stage.name)
        yield html.pictures(
            html.picture(one.png, facts.config.name)
            for facts in runs
            if stage.name in facts.stages
            for one in facts.stages[stage.name].pictures
            if one.role == stage.cover
        )


def _doubts(runs: Sequence[Facts]) -> Iterator[str]:
    """Yield what stands in the way of a comparison."""
    if len({one.index.fingerprint for one in runs if one.index is not None}) > 1:
        yield "They are of different data sets: their numbers say nothing of which is better."
    for name in dict.fromkeys(name for one in runs for name in one.metrics):
        found = [one.metrics.get(name) for one in runs]
        counts = [one["protocol"].get("num_images") for one in found if _has_protocol(one)]
        if any(one != counts[0] for one in counts):
            said = ", ".join(json.dumps(one) for one in counts)
            yield f"{name.replace('_', ' ')}: measured on other numbers of images ({said})."
    kinds = {(one.config.train.loss, one.config.diffusion.kind, one.config.role) for one in runs}
    if len(kinds) > 1:
        yield "Their losses are of different kinds: the curves do not compare."


def differences(configs: Sequence[RunConfig]) -> Iterator[tuple[str, ...]]:
    """Yield the keys in which configurations differ, each with the value of every one."""
    flat = [config.flat() for config in configs]
    for key in dict.fromkeys(key for one in flat for key in one if key != "name"):
        values = tuple(json.dumps(one[key]) if key in one else "-" for one in flat)
        if len(set(values)) > 1:
            yield key, *values
