"""ddpm runs, datasets, export-samples, average and doctor: commands that train nothing.

They start nothing, neither Ray nor MLflow.
"""

import argparse
import re
import shlex
from collections.abc import Mapping
from pathlib import Path

from ddpm_core.cli import TARGET_HELP, add_command, add_set_arguments, parse_overrides
from ddpm_core.datasets.deletion import delete_dataset
from ddpm_core.datasets.table import list_datasets, show_dataset
from ddpm_core.extras import require_packages
from ddpm_core.output import printable, say
from ddpm_core.runs import layout
from ddpm_core.runs.deletion import delete_run
from ddpm_core.runs.run import DEFAULT_ROOT, configure
from ddpm_core.runs.table import compare_runs, config_of, list_runs, show_run
from ddpm_core.runs.targets import run_place
from ddpm_core.servers.port import require_free
from ddpm_core.store.storage import Store, open_store

COMMANDS = {
    "runs": "list, show, compare or delete the runs below a root",
    "datasets": "list, show or delete the data sets below a root",
    "export-samples": "write the samples of a run as PNG files",
    "report": "write all that is known of a run, or of several side by side, as one HTML page",
    "play": "open a page on this machine to draw, mix, paint and compress with a trained run",
    "doctor": "look at this machine and what the environment names, and say what is in the way",
    "average": "make an average of a trained run's weights, of any width, of its snapshots",
}
Nargs = int | str | None
_RUN_ACTIONS: Mapping[str, tuple[str, Nargs]] = {
    "list": ("a line for each run: how far it is, and its numbers", None),
    "show": ("where the results of a run lie", 1),
    "compare": ("the keys in which runs differ, and their numbers", "+"),
    "delete": ("delete the folder of a run; its data set and MLflow's record stay", 1),
}
"""action -> its help, and how many names it takes"""
_DATASET_ACTIONS: Mapping[str, tuple[str, Nargs]] = {
    "list": ("a line for each data set: its name, its images, and how many runs use it", None),
    "show": ("what a data set holds, where it came from, and which runs use it", 1),
    "delete": ("delete a data set that no run uses, and its name", 1),
}
_SHOWN = 0.01
"""how large a coefficient is that is printed"""


def add_parsers(stages: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the commands to the command line."""
    runs, datasets, exporting, reporting, playing, doctor, averaging = (
        add_command(stages, name, text, allow_abbrev=False) for name, text in COMMANDS.items()
    )
    for parser, metavar, actions in (
        (runs, "RUN", _RUN_ACTIONS),
        (datasets, "NAME[@FINGERPRINT]", _DATASET_ACTIONS),
    ):
        _add_actions(parser, metavar, actions)
    exporting.add_argument("target", metavar="RUN", help=TARGET_HELP)
    exporting.add_argument("folder", metavar="OUT", help="folder on this machine")
    exporting.add_argument("--root", metavar="URI", help="where the run lies, if not there")
    exporting.add_argument(
        "--run", metavar="NAME", help="name of the run, if it is not the recipe's"
    )
    add_set_arguments(exporting, "as it was given to `sample`, if those samples are meant")
    reporting.add_argument(
        "targets", metavar="RUN", nargs="+", help="a run: its name, its folder or its run.json"
    )
    reporting.add_argument("--root", metavar="URI", help="where runs lie that are named alone")
    reporting.add_argument(
        "--out", metavar="FILE", default="report.html", help="file on this machine (report.html)"
    )
    add_set_arguments(
        reporting, "as it was given to `sample` or `evaluate`, if those results are meant"
    )
    playing.add_argument(
        "target",
        metavar="RUN",
        nargs="?",
        help="a run: its name, its folder or its run.json; without: the newest below the root",
    )
    playing.add_argument("--root", metavar="URI", help="where the run lies, if not there")
    playing.add_argument(
        "--port", type=int, default=7860, help="port on this machine, reached from it alone (7860)"
    )
    add_set_arguments(playing, "change one key, e.g. sample.guidance_by=digits-classifier")
    text = "folder or s3://bucket/prefix that runs are to lie in; made if it is not there"
    doctor.add_argument("--root", metavar="URI", default=DEFAULT_ROOT, help=text)
    averaging.add_argument(
        "target",
        metavar="RUN[@STEP]",
        help="a run, by its name, or path or URI of its folder or run.json; and the step up to "
        "which it averages, or @newest; by default the last",
    )
    averaging.add_argument("--root", metavar="URI", help="where the run lies, if not there")
    averaging.add_argument(
        "--sigma-rel",
        metavar="WIDTH",
        type=float,
        required=True,
        help="over which share of the steps it reaches back, e.g. 0.12",
    )


def _add_actions(
    parser: argparse.ArgumentParser, metavar: str, actions: Mapping[str, tuple[str, Nargs]]
) -> None:
    where = "where they lie"
    parser.add_argument("--root", metavar="URI", default=DEFAULT_ROOT, help=where)
    commands = parser.add_subparsers(dest="action", metavar="ACTION", help="by default: list")
    parser.set_defaults(action="list")
    for action, (text, names) in actions.items():
        one = add_command(commands, action, text)
        # Without a default of its own, which would stand in the place of what was given before.
        one.add_argument("--root", metavar="URI", default=argparse.SUPPRESS, help=where)
        if names is not None:
            one.add_argument("names", metavar=metavar, nargs=names, help="name below the root")
        if action == "delete":
            one.add_argument("--yes", action="store_true", help="it is meant")


def run_command(options: argparse.Namespace) -> None:
    """Run one of the commands.

    Raises:
        PipelineError: as it says.
    """
    if options.stage == "export-samples":
        _export(options)
        return
    if options.stage == "doctor":
        from ddpm_core.doctor.command import examine

        examine(options.root)
        return
    if options.stage == "average":
        _average(options)
        return
    if options.stage == "play":
        _play(options)
        return
    if options.stage == "report":
        _report(options)
        return
    store = open_store(options.root)
    say(printable(_about(store, options)))


def _about(store: Store, options: argparse.Namespace) -> str:
    """Do what `runs` or `datasets` is to do; return what it says."""
    match options.action, options.stage:
        case "list", "datasets":
            return list_datasets(store)
        case "show", "datasets":
            return show_dataset(store, options.names[0])
        case "delete", "datasets":
            return delete_dataset(store, options.names[0], confirmed=options.yes)
        case "list", _:
            return list_runs(store)
        case "show", _:
            return show_run(store, options.names[0])
        case "compare", _:
            return compare_runs(store, options.names)
        case _:
            return delete_run(store, options.names[0], confirmed=options.yes)


def _export(options: argparse.Namespace) -> None:
    from ddpm_core.sampling.export import export_samples

    changes = parse_overrides(options.overrides)
    root, config = configure(options.target, root=options.root, run=options.run, changes=changes)
    folder = Path(options.folder).expanduser()
    count = export_samples(open_store(root), config, folder)
    say(f"export-samples  {count} images  {folder}")


def _report(options: argparse.Namespace) -> None:
    from ddpm_core.reporting.write import write_report

    changes, found = parse_overrides(options.overrides), []
    for target in options.targets:
        place = run_place(target, options.root)
        root, config = configure(place, root=None, run=None, changes=changes)
        found.append((open_store(root), config))
    file = Path(options.out).expanduser()
    write_report(found, file)
    say(f"report  {', '.join(config.name for _, config in found)}  {file.resolve().as_uri()}")


def _play(options: argparse.Namespace) -> None:
    require_packages("gradio")
    require_free(options.port, option="--port ")
    from ddpm_core.api import Run
    from ddpm_core.play.newest import newest_run
    from ddpm_core.play.page import serve

    root = options.root
    target = options.target or newest_run(open_store(DEFAULT_ROOT if root is None else root))
    run = Run.load(target, root=root, settings=parse_overrides(options.overrides))
    say(f"play  {run.weights.said}  http://127.0.0.1:{options.port}  (end it with Ctrl+C)")
    serve(run, port=options.port)


def _average(options: argparse.Namespace) -> None:
    from ddpm_core.inference.average import make_average

    target, _, step = options.target.rpartition("@")
    if not target or re.fullmatch(r"newest|[0-9]{1,10}", step) is None:
        target, step = options.target, None
    if "/" in target or target.endswith(".json"):
        root, config = configure(target, root=options.root, run=None, changes={})
        store = open_store(root)
    else:  # never a recipe, also where one is called so
        store = open_store(DEFAULT_ROOT if options.root is None else options.root)
        config = config_of(store, target)
    made = make_average(store, config, step, options.sigma_rel)
    for at, average, coefficient in made.coefficients:
        if abs(coefficient) >= _SHOWN:
            say(f"average  {coefficient:+.4f} of {average} after step {at}")
    say(
        f"average  {made.weights.said}: of {len(made.coefficients)} stored averages, its profile "
        f"to {100 * made.error:.2g} %"
    )
    run_json = store.uri_of(layout.run_json_key(config.name))
    reference = made.weights.name.removeprefix(config.name)
    stage = "sample" if config.role == "denoiser" else "evaluate"
    words = ["python", "-m", "ddpm_core", stage, run_json, "--model", reference]
    say(f"average  {shlex.join(words)}")
