"""ddpm edit and ddpm upscale: images of a user made anew, or enlarged. Starts no Ray."""

import argparse
import json
from typing import TYPE_CHECKING, TypeAlias

from ddpm_core.cli import (
    TARGET_HELP,
    add_command,
    add_set_arguments,
    describe_keys,
    parse_overrides,
)
from ddpm_core.output import printable, say
from ddpm_core.runs.run import configure
from ddpm_core.runs.stages import require_denoiser
from ddpm_core.store.storage import open_store

if TYPE_CHECKING:
    from ddpm_core.editing.request import Request

EDIT = "make images anew in part (--mask, --extend) or from a depth (--strength)"
UPSCALE = "enlarge images with a model of model.low_size"
DEFAULT_OUT = {"edit": "./edited", "upscale": "./upscaled"}
_Stages: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_edit_parsers(stages: _Stages) -> None:
    """Add both commands to the command line."""
    parser = _command(stages, "edit", EDIT)
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
    _add_results(parser, "edit")
    parser = _command(stages, "upscale", UPSCALE)
    parser.add_argument(
        "--images",
        metavar="PLACE",
        required=True,
        help="a folder of images, one image, or either as s3://bucket/key; of another size than "
        "model.low_size they are brought to it by the rule of the data set",
    )
    parser.add_argument(
        "--low-level",
        type=float,
        metavar="L",
        help="how noisy they are made before, a share of the process (sample.low_level, 0): a "
        "little hides what is wrong with them, and leaves more to be made up",
    )
    _add_results(parser, "upscale")


def _command(stages: _Stages, name: str, words: str) -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = add_command(
        stages, name, words, epilog=describe_keys(), formatter_class=raw, allow_abbrev=False
    )
    parser.add_argument("target", metavar="MODEL", help=TARGET_HELP)
    return parser


def _add_results(parser: argparse.ArgumentParser, name: str) -> None:
    """Add the options of what is written, and of the run."""
    parser.add_argument("--variants", type=int, default=1, help="results for each image (1)")
    parser.add_argument(
        "--batch-size", type=int, default=4, help="images through the network at once (4)"
    )
    parser.add_argument(
        "--out", metavar="PLACE", help=f"folder or s3://bucket/prefix ({DEFAULT_OUT[name]})"
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
        "--prompt",
        dest="overrides",
        action="append",
        type=lambda text: f"sample.prompts={json.dumps([text], ensure_ascii=False)}",
        metavar="TEXT",
        help="of a model that takes texts, what the images become; short for "
        "--set 'sample.prompts=[\"TEXT\"]', which takes one for each image too, in turn",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="check all, and say what would be written"
    )


def run_edit_command(options: argparse.Namespace) -> None:
    """Run either command.

    Raises:
        PipelineError: as it says.
    """
    changes = parse_overrides(options.overrides)
    root, config = configure(options.target, root=options.root, run=options.run, changes=changes)
    verb, place = options.stage, options.out or DEFAULT_OUT[options.stage]
    store, out = open_store(root), open_store(place)
    if verb == "edit":
        request = _request(options, place)
    else:
        level = config.sample.low_level if options.low_level is None else options.low_level
        request = _enlarging(options, place, level)
    from ddpm_core.editing.edit import prepare, run_edit  # with it comes torch

    require_denoiser(config, verb)
    if options.dry_run:
        work = prepare(store, config, request, out)
        say(f"plan: {verb}: weights {work.weights.said}")
        for key in work.all_keys:
            say(printable(f"plan: {verb}: would write {out.uri_of(key)}"))
        return
    if config.num_classes is not None and not isinstance(config.sample.labels, tuple):
        say(f"{verb}  without labels; --set sample.labels=[3], by number or name, gives one")
    if config.model.uses_text and isinstance(config.sample.prompts, str):
        say(f'{verb}  without a prompt; --prompt "a red seven" gives one')
    written = run_edit(store, config, request, out)
    say(f"{verb}  {len(written)} files  {out.uri}")


def _enlarging(options: argparse.Namespace, out: str, level: float) -> "Request":
    from ddpm_core.editing.request import Request

    return Request(
        images=options.images,
        out=out,
        variants=options.variants,
        batch_size=options.batch_size,
        overwrite=options.overwrite,
        low_level=level,
    )


def _request(options: argparse.Namespace, out: str) -> "Request":
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
        out=out,
        masks=options.mask,
        margins=None if options.extend is None else Margins.parse(options.extend),
        method=Method(options.method, options.strength, **knobs),
        variants=options.variants,
        batch_size=options.batch_size,
        overwrite=options.overwrite,
    )
