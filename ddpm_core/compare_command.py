"""ddpm compare: a table of how alike two sets of images are. In this process; starts no Ray."""

import argparse
import json
import re
import sys
from collections.abc import Iterator
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ddpm_core.canonical import canonical_json
from ddpm_core.cli import add_command
from ddpm_core.config import EvaluateConfig
from ddpm_core.config.explain import explain
from ddpm_core.config.feature_networks import KNOWN
from ddpm_core.errors import ConfigError, PipelineError, StorageError
from ddpm_core.output import printable, say
from ddpm_core.runs.run import DEFAULT_ROOT

COMPARE = "measure two sets of images against each other: FID, KID and the like, as a table"
_EPILOG = f"""\
A and B: a folder of images, an archive or WebDataset shards (path or s3://), a run (its samples), a
data set with :train or :test, or an .npz of statistics (path or s3://). B is the reference.

examples:
  python -m ddpm_core compare ./made ./real
  python -m ddpm_core compare digits digits:test --features trained
  python -m ddpm_core compare cifar10 statistics.npz --features inception --json numbers.json

networks: {", ".join(KNOWN)}, trained, transformers:FOLDER, or path or URL of a TorchScript file
"""


_KEY = re.compile(
    r"(?<![\w./-])(?:(?:evaluate\.)?(features_sha256|features|metrics)(?:\.\d+)?="
    r"|evaluate\.(features_sha256|features|metrics)\b|(features_sha256)\b)"
)
"""a key of `evaluate` in a message, with what follows it where a value does"""


def add_parser(stages: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the command line."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = add_command(stages, "compare", COMPARE, epilog=_EPILOG, formatter_class=raw)
    parser.add_argument("a", metavar="A", help="what is judged")
    parser.add_argument("b", metavar="B", help="what it is judged by")
    parser.add_argument(
        "--features", default="inception", metavar="NETWORK", help="see below (inception)"
    )
    parser.add_argument(
        "--features-sha256", metavar="DIGITS", help="of a file or folder of your own"
    )
    parser.add_argument(
        "--metrics", metavar="NAME,NAME", help="of evaluate.metrics; all that can be measured"
    )
    parser.add_argument("--limit", type=_count, metavar="N", help="N images of each, drawn from it")
    parser.add_argument("--by-class", action="store_true", help="of each class of both too")
    parser.add_argument("--batch-size", type=_count, default=64, help="images at once (64)")
    parser.add_argument("--seed", type=_seed, default=0, help="of subsets and directions (0)")
    parser.add_argument(
        "--json", metavar="FILE", help="write the numbers with their protocol; - is standard output"
    )
    parser.add_argument("--root", metavar="URI", help=f"where names are looked up ({DEFAULT_ROOT})")


def run_compare_command(options: argparse.Namespace) -> None:
    """Run the command.

    Raises:
        PipelineError: as it says; keys of `evaluate` are called by their options.
    """
    try:
        _run(options)
    except PipelineError as error:
        error.args = (_KEY.sub(_option, str(error)),)
        raise


def _option(key: re.Match[str]) -> str:
    name = next(filter(None, key.groups())).replace("_", "-")
    return f"--{name} " if key[0].endswith("=") else f"--{name}"


def _run(options: argparse.Namespace) -> None:
    features = _features(options)
    place = None if options.json in (None, "-") else _writable(options.json)
    import torch

    from ddpm_core.evaluation.comparing.compare import METRICS, Request, compare
    from ddpm_core.evaluation.comparing.sides import side_of

    metrics = METRICS if options.metrics is None else features.metrics
    root = DEFAULT_ROOT if options.root is None else options.root
    a, b = (side_of(text, root=root) for text in (options.a, options.b))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    request = Request(features, metrics, options.limit, options.by_class)
    # Standard output is the JSON alone where it goes there: for `| jq`.
    progress = redirect_stdout(sys.stderr) if options.json == "-" else nullcontext()
    with progress:
        found = compare(a, b, request, device=device)
    canonical_json(found)  # refuses NaN and infinity, which are no JSON
    text = json.dumps(found, indent=2, sort_keys=True)
    if options.json == "-":
        say(text)
        return
    if place is not None:
        _write(place, text)
    for line in table(found):
        say(printable(line))
    for warning in found["warnings"]:
        say(printable(f"warning: {warning}"), stream=sys.stderr)


def table(found: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of the table of what `compare` returned."""
    features = found["protocol"]["features"]
    yield f"compare  A: {found['a']}"
    yield f"compare  B: {found['b']}"
    yield f"compare  features: {features['kind']}, {features['dim']} numbers an image"
    for name, one in _rows(found["numbers"], features):
        yield f"{name:<34}{_shown(one)}"
    for name, one in found["inception_score"].items():
        if one is not None:
            spread = one["standard_deviation"]
            more = "" if spread is None else f" (+- {spread:.3f} over {one['splits']} splits)"
            yield f"{f'inception score of {name.upper()}':<34}{_shown(one)}{more}"
    for metric, reason in found["left_out"].items():
        yield f"{metric.replace('_', ' '):<34}not measured: {reason}"
    for label, numbers in found.get("classes", {}).items():
        counts = numbers["num_images"]
        yield f"class {label} ({counts['a']} and {counts['b']} images)"
        shown = {k: v for k, v in numbers.items() if k not in ("num_images", "left_out")}
        for name, one in _rows(shown, features):
            yield f"  {name:<32}{_shown(one)}"


_NAMES = {
    "intervals": "Frechet distance",
    "kernel_distance": "kernel distance",
    "gaussian_distance": "Gaussian kernel distance",
    "sliced_distance": "sliced distance",
    "spatial_distance": "spatial distance",
}
_PUBLISHED = {
    ("inception", "intervals"): " (FID)",
    ("inception", "kernel_distance"): " (KID)",
    ("inception", "sliced_distance"): " (MIND)",
    ("inception", "spatial_distance"): " (sFID)",
    ("clip_vision_model", "gaussian_distance"): " (CMMD)",
}
"""(network, metric) -> what it is published as, of that network alone"""


def _rows(
    numbers: dict[str, Any], features: dict[str, Any]
) -> Iterator[tuple[str, dict[str, Any]]]:
    network = str(features.get("network")) if features["kind"] != "inception" else "inception"
    for metric, one in numbers.items():
        if "value" in one:
            yield _NAMES[metric] + _PUBLISHED.get((network, metric), ""), one
        else:
            yield from one.items()


def _shown(one: dict[str, Any]) -> str:
    value = f"{one['value']:.6g}"
    if one["interval"] is None:
        return f"{value:<12} no interval: too few images, or features that do not vary"
    low, high = one["interval"]
    return f"{value:<12} 95 %: {low:.6g} ... {high:.6g}"


def _features(options: argparse.Namespace) -> EvaluateConfig:
    named = () if options.metrics is None else tuple(options.metrics.split(","))
    given = {
        "features": options.features,
        "features_sha256": options.features_sha256,
        "batch_size": options.batch_size,
        "seed": options.seed,
        "metrics": named,
    }
    try:
        return EvaluateConfig.model_validate(given)
    except ValidationError as error:
        lines = "; ".join(explain(EvaluateConfig, error))
        raise ConfigError(lines) from None


def _writable(text: str) -> Path:
    """Return the path of a file that could be there: it is written after all has been measured."""
    path = Path(text).expanduser()
    if path.is_dir() or not path.parent.is_dir():
        raise ConfigError(f"--json {text} must be a file in a folder that is there; give another")
    return path


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from None


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of images; give at least 1")
    return int(text)


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"{text!r} is no seed; give a whole number from 0 on")
    return int(text)
