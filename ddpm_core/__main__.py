"""python -m ddpm_core {shard,train,sample,evaluate,...}, or ddpm ...: one stage, here or on Ray.

And verify, which checks a run or a data set; {import-weights,export-weights}: a run from weights of
other programs, and the way back; and what `run_commands` adds, about runs that are there.
"""

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from ddpm_core import __version__, compare_command
from ddpm_core.cli import (
    MODEL_KEY,
    TARGET_HELP,
    add_command,
    add_model_argument,
    add_naming_arguments,
    add_run_arguments,
    changes_of,
    describe_keys,
    exit_code_of,
    options_again,
    parse_overrides,
)
from ddpm_core.compare_command import run_compare_command
from ddpm_core.config import ContinuousConfig, RunConfig
from ddpm_core.edit_command import add_edit_parsers, run_edit_command
from ddpm_core.errors import CheckpointError
from ddpm_core.output import command_output, printable, say
from ddpm_core.preflight import Findings, preflight
from ddpm_core.recipes import RECIPES
from ddpm_core.run_commands import add_parsers, run_command
from ddpm_core.runs import begun, chosen, going_on, layout, results
from ddpm_core.runs.reference import given, keys_given
from ddpm_core.runs.run import begin_stage, configure, open_stage, refuse_training_imported
from ddpm_core.runs.stages import STAGES, any_checks
from ddpm_core.store.storage import Store, open_store

EXCHANGES = {
    "import-weights": "make a run that samples and evaluates of weights from diffusers or the "
    "original",
    "export-weights": "write the averaged weights of a trained run as a folder for diffusers",
}

VERIFY = "check a run and all that its results rest on, or a data set: every byte, every image"

_EPILOG = """\
examples:
  python -m ddpm_core train digits --set train.num_steps=500 --run short
  python -m ddpm_core sample runs/runs/short/run.json --set sample.num_images=100
  python -m ddpm_core sample short --model @newest
  python -m ddpm_core shard images --set data.source=photos.zip --set data.on_bad=skip
  python -m ddpm_core train images --size 64 --scale S --run photos --set data.source=photos.zip
  python -m ddpm_core shard images --run faces --set data.source=faces.zip --name faces
  python -m ddpm_core train images --run trained --data faces
  python -m ddpm_core datasets list
  python -m ddpm_core verify short
  python -m ddpm_core import-weights ./ddpm-cifar10-32 cifar10 --run google
  python -m ddpm_core runs list
  python -m ddpm_core export-samples runs/runs/short ./pictures
  python -m ddpm_core average short@500 --sigma-rel 0.12
  python -m ddpm_core compare short short:test --features trained
  python -m ddpm_core edit short --image photos/ --mask mask.png --variants 4
  python -m ddpm_core upscale larger --images small/ --low-level 0.1
  ray job submit --working-dir . -- python -m ddpm_core train digits --root s3://bucket/ddpm

exit codes:
  0 done   2 configuration, or a cluster that is too small for it   3 data   4 checkpoint
  5 divergence   6 storage   7 cluster   130 interrupted
"""


class Outer(NamedTuple):
    """A command that a program around this one adds, as `ddpm` does `run`."""

    help: str
    main: Callable[[Sequence[str]], int]
    """called with the words after its name; returns the process's exit code"""


_NO_OUTER: Mapping[str, Outer] = MappingProxyType({})


def main(arguments: Sequence[str] | None = None, *, outer: Mapping[str, Outer] = _NO_OUTER) -> int:
    """Run one stage, or a command of `outer`, and return the process's exit code."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    if words and words[0] in outer:
        return outer[words[0]].main(words[1:])
    with command_output():
        options = _parser(outer).parse_args(words)
        return exit_code_of(options.stage, partial(_act, options))


def _act(options: argparse.Namespace) -> None:
    match options.stage:
        case "verify":
            _verify(options)
        case "import-weights":
            _import_weights(options)
        case "export-weights":
            _export_weights(options)
        case "edit" | "upscale":
            run_edit_command(options)
        case "compare":
            run_compare_command(options)
        case "runs" | "datasets" | "export-samples" | "report" | "play" | "doctor" | "average":
            run_command(options)
        case _:
            _run_stage(options)


def _run_stage(options: argparse.Namespace) -> None:
    stage: str = options.stage
    changes = changes_of(options, options.target)
    root, config = configure(options.target, root=options.root, run=options.run, changes=changes)
    if any_checks([stage], "images"):
        refuse_training_imported(options.target, root=options.root, config=config)
    store = open_store(root)
    found = preflight(
        store,
        config,
        (stage,),
        command=partial(_command, options),
        here=not os.environ.get("RAY_ADDRESS"),
        look=options.dry_run,  # else the stage itself does, before anything starts
    )
    if any_checks(found.missing, "features"):
        _check_ahead(store, config)
    is_continuous = isinstance(config.diffusion, ContinuousConfig)
    if found.missing and (is_continuous or config.sample.guidance_interval is not None):
        from ddpm_core.inference import build  # with it comes torch

        build.require_process(config)
        build.require_guidance(config)
    if options.dry_run:
        say(config.to_json(), end="")
        say(printable(_plan(store, config, stage, found)), stream=sys.stderr)
        return
    run = STAGES[stage].load()  # first: it takes seconds, and the newest weights may go meanwhile
    while True:
        named = chosen.pinned(store, config) if STAGES[stage].uses_weights else config
        begin_stage(store, named)
        try:
            run(store, named)
        except CheckpointError:
            if not chosen.is_overtaken(store, config, named):
                raise
            went = " or ".join(str(given(named, key)) for key in keys_given(named))
            say(f"weights: {went} went meanwhile; beginning anew with the newest")
        else:
            break
    open_stage(store, named)  # unless `shard` has: of ablations alone, or where it was lost


def _command(options: argparse.Namespace, stage: str) -> str:
    """Return the command that runs another stage with the options of this one."""
    words = ["python", "-m", "ddpm_core", stage, options.target, *options_again(options)]
    return shlex.join(words)


def _check_ahead(store: Store, config: RunConfig) -> None:
    """Refuse before this stage, which may take days, what a later one would refuse after it."""
    if config.evaluate.features == "trained":
        return
    from ddpm_core.evaluation.features import check  # with it comes torch

    check.check_reference(config)
    if not results.has_foreign_network(store, config):
        check.check_feature_network(config)


def _verify(options: argparse.Namespace) -> None:
    from ddpm_core.verifying.verify import verify

    report = verify(options.target, root=options.root)
    for line in report.looked_at:
        say(f"verify  whole: {line}")
    for uri in report.unfinished:
        say(printable(f"verify  not finished: {uri}"))
    for uri in report.unnamed:
        say(printable(f"verify  named by nothing: {uri}"))


def _import_weights(options: argparse.Namespace) -> None:
    from ddpm_core.import_export import import_weights, read_weights

    found = read_weights(
        options.source,
        options.recipe,
        root=options.root,
        run=options.run,
        changes=changes_of(options, options.recipe),
    )
    num_weights = sum(tensor.numel() for tensor in found.weights.values())
    if options.dry_run:
        say(found.config.to_json(), end="")
        said = f"plan: import-weights: {num_weights} weights fit; nothing was written"
        say(said, stream=sys.stderr)
        return
    run_json = import_weights(open_store(found.root), found)
    command = shlex.join(["python", "-m", "ddpm_core", "sample", run_json])
    say(f"import-weights  {num_weights} weights  {command}")


def _export_weights(options: argparse.Namespace) -> None:
    from ddpm_core.import_export import export_weights

    changes = parse_overrides(options.overrides)
    uri, weights = export_weights(
        options.target, options.folder, root=options.root, model=changes.get(MODEL_KEY)
    )
    say(f"weights: {weights.said}")
    say(f"export-weights  {uri}")


def _plan(store: Store, config: RunConfig, stage: str, found: Findings) -> str:
    """Return what a dry run says."""
    if not found.missing and (result := STAGES[stage].result(store, config)) is not None:
        lines = [f"plan: {stage}: done, nothing to do ({store.uri_of(result.folder)})"]
    else:
        where = store.uri_of(layout.run_folder(config.name))
        workers = config.compute.num_workers
        lines = [f"plan: {stage}: would run on {workers} worker(s) ({where})", *found.lines(config)]
    changes = [begun.changes_of(store, config.name), begun.housekeeping_of(store, config)]
    changes.append(going_on.said_of(store, config))
    return "\n".join(filter(None, [*lines, *changes]))


def _parser(outer: Mapping[str, Outer] = _NO_OUTER) -> argparse.ArgumentParser:
    is_script = Path(sys.argv[0]).name == "ddpm"
    parser = argparse.ArgumentParser(
        prog="ddpm" if is_script else "python -m ddpm_core",
        description="One stage of the DDPM pipeline. The same command continues what was killed "
        "and does nothing where everything is done.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"ddpm-pipeline {__version__}")
    stages = parser.add_subparsers(dest="stage", required=True, metavar="STAGE")
    for name, command in outer.items():
        add_command(stages, name, command.help)  # listed; its words are read by its own program
    for name, one in STAGES.items():
        raw = argparse.RawDescriptionHelpFormatter
        stage = add_command(stages, name, one.help, epilog=describe_keys(), formatter_class=raw)
        add_run_arguments(stage)
        if one.uses_weights:
            add_model_argument(stage)
        if name == "shard":
            add_naming_arguments(stage)
        stage.add_argument("target", metavar="RECIPE[:ABLATION]|RUN", help=TARGET_HELP)
    verifying = add_command(stages, "verify", VERIFY)
    verifying.add_argument(
        "target",
        metavar="RUN|DATASET",
        help="a run: its name, or path or URI of its folder or run.json; or path or URI of the "
        "folder of a data set",
    )
    verifying.add_argument("--root", metavar="URI", help="where a run named by its name lies")
    _add_exchanges(stages)
    add_edit_parsers(stages)
    compare_command.add_parser(stages)
    add_parsers(stages)
    return parser


def _add_exchanges(stages: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    raw = argparse.RawDescriptionHelpFormatter
    importing, exporting = (
        add_command(stages, name, text, formatter_class=raw) for name, text in EXCHANGES.items()
    )
    add_run_arguments(importing)
    importing.add_argument(
        "source",
        metavar="SOURCE",
        help="folder of diffusers, or .npz of the original's variables; path or s3:// URI",
    )
    importing.add_argument(
        "recipe",
        metavar="RECIPE",
        help="the recipe of the data set, and for an .npz of the network and the chain: "
        f"{', '.join(RECIPES)}",
    )
    exporting.add_argument("--root", metavar="URI", help="where the run lies, if not there")
    exporting.add_argument("target", metavar="RUN_JSON", help="path or URI of the run's run.json")
    exporting.set_defaults(overrides=[])
    add_model_argument(exporting)
    exporting.add_argument("folder", metavar="FOLDER", help="path or s3:// URI to write to")


if __name__ == "__main__":
    sys.exit(main())
