"""ddpm edit: inpainting, outpainting and image to image with a trained model. Starts no Ray."""

import argparse
from typing import TYPE_CHECKING

from ddpm_core.cli import (
    TARGET_HELP,
    add_command,
    add_set_arguments,
    describe_keys,
    parse_overrides,
)
from ddpm_core.output import printable, say
from ddpm_core.runs.run import configure
from ddpm_core.store.storage import open_store

if TYPE_CHECKING:
    from ddpm_core.editing.request import Request

EDIT = "make images anew in part (--mask, --extend) or from a depth (--strength)"
DEFAULT_OUT = "./edited"


def add_parser(stages: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the command line."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = add_command(
        stages, "edit", EDIT, epilog=describe_keys(), formatter_class=raw, allow_abbrev=False
    )
    parser.add_argument("target", metavar="MODEL", help=TARGET_HELP)
    parser.add_argument(
        "--image",
        metavar="PLACE",
        required=True,
        help="an image, a folder of them, or either as s3://bucket/key",
    )
    parser.add_argument(
        "--mask",
        metavar="PLACE",
        help="black and white, white is made anew: one for all images, or a folder with one of "
        "each image's name; in the size of the image, or of what it is brought to",
    )
    parser.add_argument(
        "--extend",
        metavar="SIDES",
        help="pixels of the model's size that are made beside the image, e.g. left=8,right=8; the "
        "image is brought to the rest",
    )
    parser.add_argument(
        "--strength",
        type=float,
        help="how far the image goes back to noise, from 0 to 1; without: all the way",
    )
    parser.add_argument(
        "--method",
        choices=("replacement", "repaint"),
        default="replacement",
        help="how what is known is kept: replaced in each prediction (default), or RePaint; a "
        "model of model.known=true is given it besides",
    )
    parser.add_argument("--jump", type=int, help="of repaint: steps it goes back at once (10)")
    parser.add_argument("--resamplings", type=int, help="of repaint: how often (10)")
    parser.add_argument("--variants", type=int, default=1, help="results for each image (1)")
    parser.add_argument(
        "--batch-size", type=int, default=4, help="images through the network at once (4)"
    )
    parser.add_argument(
        "--out", metavar="PLACE", help=f"folder or s3://bucket/prefix ({DEFAULT_OUT})"
    )
    parser.add_argument("--overwrite", action="store_true", help="write over files of these names")
    parser.add_argument("--root", metavar="URI", help="where the run lies, if not there")
    parser.add_argument("--run", metavar="NAME", help="name of the run, if not the recipe's")
    add_set_arguments(
        parser, "change one key, e.g. sample.sampler=ddim, sample.labels=[3]; keys below"
    )
    parser.add_argument(
        "--seed",
        dest="overrides",
        action="append",
        type=lambda text: f"sample.seed={text}",
        metavar="N",
        help="short for --set sample.seed=N",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="check all, and say what would be written"
    )


def run_edit_command(options: argparse.Namespace) -> None:
    """Run the command.

    Raises:
        PipelineError: as it says.
    """
    changes = parse_overrides(options.overrides)
    root, config = configure(options.target, root=options.root, run=options.run, changes=changes)
    store, out = open_store(root), open_store(options.out or DEFAULT_OUT)
    request = _request(options)
    from ddpm_core.editing.edit import prepare, run_edit  # with it comes torch

    if options.dry_run:
        work = prepare(store, config, request, out)
        say(f"plan: edit: weights {work.weights.said}")
        for key in work.all_keys:
            say(printable(f"plan: edit: would write {out.uri_of(key)}"))
        return
    if config.num_classes is not None and not isinstance(config.sample.labels, tuple):
        say("edit  without labels; --set sample.labels=[3], by number or name, gives one")
    written = run_edit(store, config, request, out)
    say(f"edit  {len(written)} files  {out.uri}")


def _request(options: argparse.Namespace) -> "Request":
    from ddpm_core.editing.canvas import Margins
    from ddpm_core.editing.method import Method
    from ddpm_core.editing.request import Request
    from ddpm_core.errors import ConfigError

    given = {"jump_length": options.jump, "num_resamplings": options.resamplings}
    knobs = {name: value for name, value in given.items() if value is not None}
    if knobs and options.method != "repaint":
        raise ConfigError("--jump and --resamplings are of --method repaint; give it, or neither")
    return Request(
        images=options.image,
        out=options.out or DEFAULT_OUT,
        masks=options.mask,
        margins=None if options.extend is None else Margins.parse(options.extend),
        method=Method(options.method, options.strength, **knobs),
        variants=options.variants,
        batch_size=options.batch_size,
        overwrite=options.overwrite,
    )
