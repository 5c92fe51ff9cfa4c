"""The options and the ending that command lines share, and the help that RunConfig writes."""

import argparse
import json
import sys
import textwrap
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from ddpm_core.canonical import MAX_JSON_DEPTH, json_depth
from ddpm_core.config import RunConfig
from ddpm_core.config.kinds import kinds_of
from ddpm_core.errors import INTERRUPTED_EXIT_CODE, ConfigError, PipelineError
from ddpm_core.extras import packages_named
from ddpm_core.output import printable, say
from ddpm_core.recipes import PAPER_TABLE_2, RECIPES
from ddpm_core.recipes.sizes import OF_RECIPE, SCALES, SIZES, dialled
from ddpm_core.runs.run import DEFAULT_ROOT

MODEL_KEY, START_KEY, SETS_KEY = "sample.model", "train.start_from", "data.sets"
TARGET_HELP = (
    f"a recipe ({', '.join(RECIPES)}), perhaps after a colon an ablation of the paper's table 2 "
    f"({', '.join(PAPER_TABLE_2)}), e.g. digits:eps-l-fixed; or a run: path or URI of its folder "
    "or its run.json, or its name below the root, if no recipe is called so"
)
"""what the first argument of the command lines may be"""


def exit_code_of(name: str, work: Callable[[], None]) -> int:
    """Do the work of a command; return the process's exit code, after a line for what ended it."""
    try:
        with packages_named():
            work()
    except PipelineError as error:
        say(printable(f"{name}: {error}"), stream=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        words = "interrupted; the same command continues what was saved"
        say(f"{name}: {words}", stream=sys.stderr)
        return INTERRUPTED_EXIT_CODE
    return 0


def add_command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    help_text: str,
    **options: Any,  # noqa: ANN401
) -> argparse.ArgumentParser:
    """Add a command, whose description is its help as a sentence; `options` are argparse's."""
    sentence = f"{help_text[0].upper()}{help_text[1:]}."
    return commands.add_parser(name, help=help_text, description=sentence, **options)


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --root, --run, --size, --scale, --set, --data, --on-bad, --from and --dry-run."""
    parser.add_argument(
        "--root",
        metavar="URI",
        help="folder or s3://bucket/prefix that holds everything "
        f"(default: the root the run.json lies in, else {DEFAULT_ROOT})",
    )
    parser.add_argument(
        "--run", metavar="NAME", help="name of the run (default: the recipe's, e.g. digits)"
    )
    parser.add_argument(
        "--size",
        type=int,
        choices=SIZES,
        help=f"of the recipe {OF_RECIPE}: pixels on a side, from which network and training follow "
        "(docs/sizes.md); a key given by --set wins",
    )
    parser.add_argument(
        "--scale",
        choices=SCALES,
        help=f"of the recipe {OF_RECIPE}: small (S), of the size of DDPM's networks (M) or of "
        "ADM's (L); with --size",
    )
    parser.add_argument(
        "--set",
        dest="overrides",
        metavar="SECTION.KEY=VALUE",
        action="append",
        default=[],
        help="change one key, e.g. train.num_steps=500; may be given again; keys below",
    )
    parser.add_argument(
        "--data",
        dest="overrides",
        metavar="NAME[@FINGERPRINT][:WEIGHT],...",
        action="append",
        type=partial(_as_json, SETS_KEY),
        help="short for --set data.sets=...: a data set that is there already, in place of a "
        "source, or several, as faces:0.7,flowers:0.3; `datasets list` says which there are",
    )
    parser.add_argument(
        "--on-bad",
        dest="overrides",
        metavar="few|fail|skip",
        action="append",
        type=lambda choice: f"data.on_bad={choice}",
        help="short for --set data.on_bad=...: what to do about image files that cannot be used",
    )
    parser.add_argument(
        "--from",
        dest="overrides",
        metavar="RUN@STEP|FOLDER",
        action="append",
        type=partial(_as_json, START_KEY),
        help="short for --set train.start_from=...: what the training begins from, e.g. digits, "
        "digits@800:raw, digits@800:state, or a folder of diffusers, with a slash in its path",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print the resolved run.json, and on standard error the plan; start nothing",
    )


def add_model_argument(parser: argparse.ArgumentParser) -> None:
    """Add --model, which is short for --set sample.model=..."""
    parser.add_argument(
        "--model",
        dest="overrides",
        metavar="RUN@STEP:AVERAGE",
        action="append",
        type=partial(_as_json, MODEL_KEY),
        help="short for --set sample.model=...: which weights, e.g. @400, @newest while the "
        "training still runs, :raw (not averaged), digits@400:ema; default: the last average",
    )


def add_set_arguments(parser: argparse.ArgumentParser, text: str) -> None:
    """Add --set, of which `text` says what it is for here, and --model."""
    parser.add_argument(
        "--set",
        dest="overrides",
        metavar="SECTION.KEY=VALUE",
        action="append",
        default=[],
        help=text,
    )
    add_model_argument(parser)


def add_naming_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --name, --licence and --append, which are short for keys of `data`."""
    for option, key, metavar, text in (
        ("--append", "data.append_to", "NAME", "the data set that grows by what data.source has"),
        ("--name", "data.set_name", "NAME", "name of the data set, for --data"),
        ("--licence", "data.licence", "TEXT", "note on what may be done with the images"),
    ):
        parser.add_argument(
            option,
            dest="overrides",
            metavar=metavar,
            action="append",
            type=partial(_as_json, key),
            help=f"short for --set {key}=...: {text}",
        )


def _as_json(key: str, text: str) -> str:
    """Return `key=text` as --set takes it, where what looks like a number is text too."""
    return f"{key}={json.dumps(text)}"


def changes_of(options: argparse.Namespace, target: str) -> dict[str, Any]:
    """Return what the options change of what `target` names: --set, --size and --scale.

    Raises:
        ConfigError: as `parse_overrides`; or `target` takes no --size and --scale.
    """
    given = parse_overrides(options.overrides)
    return dialled(target, size=options.size, scale=options.scale, changes=given)


def options_again(options: argparse.Namespace) -> list[str]:
    """Return --root, --run, --size, --scale and --set as words, as they were given."""
    words = [word for item in options.overrides for word in ("--set", item)]
    for key in ("scale", "size", "run", "root"):
        value = getattr(options, key)
        words = [f"--{key}", str(value), *words] if value is not None else words
    return words


def parse_overrides(items: Sequence[str]) -> dict[str, Any]:
    """Read `section.key=value` items; a value is JSON if it reads as JSON, else text.

    Raises:
        ConfigError: for an item without `=`, a key given twice, or bytes that are no UTF-8.
    """
    changes: dict[str, Any] = {}
    for item in items:
        key, equals, text = item.partition("=")
        key = key.strip()
        if not equals or not key:
            raise ConfigError(f"--set {item[:200]!r} must read section.key=value")
        if any("\ud800" <= character <= "\udfff" for character in item):
            raise ConfigError(f"--set {key[:200]!r} has a value that is not UTF-8; write it so")
        if key in changes:
            raise ConfigError(f"--set gives {key[:200]} twice; keep one")
        if json_depth(text) > MAX_JSON_DEPTH:
            raise ConfigError(
                f"--set {key[:200]!r} has brackets deeper than {MAX_JSON_DEPTH} levels; no key "
                "takes that"
            )
        try:
            changes[key] = json.loads(text, object_pairs_hook=partial(_unique, key))
        except ConfigError:
            raise
        except (ValueError, RecursionError):
            changes[key] = text
    return changes


def _unique(key: str, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ConfigError(f"--set {key[:200]} gives an object with a key twice; keep one")
    return values


def describe_keys() -> str:
    """Return a line for each key: name, default outside the recipes, meaning, unit or choices."""
    lines = ["keys for --set (default, where a recipe does not say otherwise):"]
    for name, field in RunConfig.model_fields.items():
        kinds = kinds_of(field.annotation)
        named = [kind for kind in kinds if kind is not None]
        if named:
            first = kinds[named[0]].model_fields["kind"]
            lines += _described(f"{name}.kind", first, choices=named, indent=2)
        for kind, section in kinds.items():
            if kind is not None:
                lines.append(f"  of {name}.kind={kind}:")
            for key, knob in section.model_fields.items():
                if kind is not None and key == "kind":
                    continue
                is_choice = get_origin(knob.annotation) is Literal
                choices = get_args(knob.annotation) if is_choice else ()
                indent = 2 if kind is None else 4
                lines += _described(f"{name}.{key}", knob, choices=choices, indent=indent)
    return "\n".join(lines)


def _described(key: str, knob: FieldInfo, *, choices: Sequence[object], indent: int) -> list[str]:
    text = " ".join((knob.description or "").split())
    if choices:
        text += f" [{', '.join(map(str, choices))}]"
    return textwrap.wrap(
        f"{key} ({json.dumps(knob.get_default())}): {text}",
        width=96,
        initial_indent=" " * indent,
        subsequent_indent=" " * (indent + 4),
    )
