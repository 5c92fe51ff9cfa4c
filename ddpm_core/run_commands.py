"""ddpm runs {list,show,compare,delete}, export-samples and doctor: commands that train nothing.

They start nothing, neither Ray nor MLflow.
"""

import argparse
from pathlib import Path

from ddpm_core.cli import TARGET_HELP, add_command, add_model_argument, parse_overrides
from ddpm_core.output import printable, say
from ddpm_core.runs.deletion import delete_run
from ddpm_core.runs.run import DEFAULT_ROOT, configure
from ddpm_core.runs.table import compare_runs, list_runs, show_run
from ddpm_core.store.storage import open_store

COMMANDS = {
    "runs": "list, show, compare or delete the runs below a root",
    "export-samples": "write the samples of a run as PNG files",
    "doctor": "look at this machine and what the environment names, and say what is in the way",
}


def add_parsers(stages: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the commands to the command line."""
    runs, exporting, doctor = (
        add_command(stages, name, text, allow_abbrev=False) for name, text in COMMANDS.items()
    )
    actions = runs.add_subparsers(dest="action", required=True, metavar="ACTION")
    for action, text, names in (
        ("list", "a line for each run: how far it is, and its numbers", None),
        ("show", "where the results of a run lie", 1),
        ("compare", "the keys in which runs differ, and their numbers", "+"),
        ("delete", "delete the folder of a run; its data set and MLflow's record stay", 1),
    ):
        one = add_command(actions, action, text)
        one.add_argument("--root", metavar="URI", default=DEFAULT_ROOT, help="where the runs lie")
        if names is not None:
            one.add_argument("names", metavar="RUN", nargs=names, help="name below the root")
        if action == "delete":
            one.add_argument("--yes", action="store_true", help="it is meant")
    exporting.add_argument("target", metavar="RUN", help=TARGET_HELP)
    exporting.add_argument("folder", metavar="OUT", help="folder on this machine")
    exporting.add_argument("--root", metavar="URI", help="where the run lies, if not there")
    exporting.add_argument(
        "--run", metavar="NAME", help="name of the run, if it is not the recipe's"
    )
    exporting.add_argument(
        "--set",
        dest="overrides",
        metavar="SECTION.KEY=VALUE",
        action="append",
        default=[],
        help="as it was given to `sample`, if those samples are meant",
    )
    add_model_argument(exporting)
    text = "folder or s3://bucket/prefix that runs are to lie in; made if it is not there"
    doctor.add_argument("--root", metavar="URI", default=DEFAULT_ROOT, help=text)


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
    store = open_store(options.root)
    match options.action:
        case "list":
            text = list_runs(store)
        case "show":
            text = show_run(store, options.names[0])
        case "compare":
            text = compare_runs(store, options.names)
        case _:
            text = delete_run(store, options.names[0], confirmed=options.yes)
    say(printable(text))


def _export(options: argparse.Namespace) -> None:
    from ddpm_core.sampling.export import export_samples

    changes = parse_overrides(options.overrides)
    root, config = configure(options.target, root=options.root, run=options.run, changes=changes)
    folder = Path(options.folder).expanduser()
    count = export_samples(open_store(root), config, folder)
    say(f"export-samples  {count} images  {folder}")
