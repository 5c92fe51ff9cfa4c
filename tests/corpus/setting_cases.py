"""Configuration: --set, run.json, run names."""

from functools import partial
from pathlib import Path

from ddpm_core.recipes import digits
from tests.corpus.case import Case


def _dry(*words: str, target: str = "digits", root: str = "{here}/root") -> tuple[str, ...]:
    return ("train", target, "--root", root, "--dry-run", *words)


def _set(name: str, item: str, *says: str) -> Case:
    return Case(f"set {name}", says, 2, arguments=_dry("--set", item))


def _write(content: str | bytes, here: Path, name: str = "given.json") -> None:
    path = here / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def _json(name: str, content: str | bytes, *says: str) -> Case:
    return Case(
        f"run.json {name}",
        says,
        2,
        partial(_write, content),
        arguments=_dry(target="{here}/given.json"),
    )


def _recorded(name: str, content: str | bytes, *says: str) -> Case:
    return Case(
        f"run.json on record {name}",
        says,
        2,
        partial(_write, content, name="root/runs/digits/run.json"),
        arguments=_dry(),
    )


def _run(name: str, run: str, *says: str) -> Case:
    return Case(f"run name {name}", says, 2, arguments=_dry(f"--run={run}"))


_STEPS = ("train.num_steps", "integer", "optimiser steps", "e.g. 800000")
_NAMES = ("name", "at most 63 of a-z", "e.g. run")
_OTHER = digits().replaced({"train.seed": 1}).to_json()

CASES = (
    _set("no value", "train.num_steps", "'train.num_steps'", "section.key=value"),
    _set("no key", "=5", "'=5'", "section.key=value"),
    _set("empty", "", "section.key=value"),
    _set("a misspelt key", "train.num_stps=5", "train.num_stps", "did you mean 'num_steps'"),
    _set("a misspelt section", "trian.num_steps=5", "trian", "did you mean 'train'"),
    _set("no section", "num_steps=5", "num_steps"),
    _set("a section", "train=5", "train=5", "train.KEY=VALUE"),
    _set("too many dots", "train.num_steps.x=5", "train.num_steps"),
    _set("dots only", "..=5", "no section '.'", "known: format_version"),
    _set("text for a number", "train.num_steps=many", '"many"', *_STEPS),
    _set("an exponent for an integer", 'train.num_steps="1e3"', '"1e3"', *_STEPS),
    _set("a fraction for an integer", "train.num_steps=1.5", "1.5", *_STEPS),
    _set("true for 1", "train.num_steps=true", "true", *_STEPS),
    _set("null", "train.num_steps=null", "null", *_STEPS),
    _set("a list", "train.num_steps=[1]", "[1]", *_STEPS),
    _set("an object", 'train.num_steps={"a":1}', *_STEPS),
    _set("zero", "train.num_steps=0", "train.num_steps=0", "greater than or equal to 1"),
    _set("negative", "train.num_steps=-5", "train.num_steps=-5", "greater than or equal to 1"),
    _set("5000 digits", f"train.num_steps={'9' * 5000}", "train.num_steps"),
    _set("a huge float", "train.learning_rate=1e400", "train.learning_rate", "e.g. 0.0002"),
    _set("NaN", "train.learning_rate=NaN", "train.learning_rate", "e.g. 0.0002"),
    _set("Infinity", "train.learning_rate=Infinity", "train.learning_rate", "e.g. 0.0002"),
    _set("minus zero", "train.learning_rate=-0.0", "train.learning_rate", "greater than 0"),
    _set("brackets", f"train.num_steps={'[' * 100_000}", "train.num_steps"),
    _set("balanced brackets", f"train.num_steps={'[' * 90_000}{']' * 90_000}", "train.num_steps"),
    _set("duplicate keys in an object", 'train={"seed":1,"seed":2}', "--set train", "keep one"),
    _set("NUL", "data.name=dig\0its", "data.name", "'digits'"),
    _set("a wrong choice", "diffusion.beta_schedule=cos", "diffusion.beta_schedule", "'cosine'"),
    _set("a shell", "diffusion.beta_schedule=$(touch canary)", "diffusion.beta_schedule"),
    _set("python", 'train.loss=__import__("os").system("touch canary")', "train.loss", "'simple'"),
    _set("a format string", "train.loss={0.__class__}", "train.loss", "'simple'"),
    _set("an escape sequence", "train.loss=\x1b[2J\x1b[31m", "train.loss", "'simple'"),
    _set("emoji", "train.loss=🎲", "train.loss", "'simple'"),
    _set("a lone surrogate", "train.loss=\ud800", "--set 'train.loss'", "UTF-8"),
    _set("workers that do not divide", "compute.num_workers=3", "num_workers=3", "change one"),
    _set("an image of no size", "data.height=0", "data.height=0", "greater than or equal to 1"),
    Case(
        "set twice",
        ("--set gives train.seed twice", "keep one"),
        2,
        arguments=_dry("--set", "train.seed=1", "--set", "train.seed=2"),
    ),
    Case(
        "set two wrong keys",
        ("train.num_steps=0", "sample.num_images=0"),
        2,
        arguments=_dry("--set", "train.num_steps=0", "--set", "sample.num_images=0"),
    ),
    Case("no stage", ("usage:",), 2, arguments=()),
    Case("no such stage", ("usage:", "invalid choice"), 2, arguments=("tain", "digits")),
    Case("no recipe", ("usage:",), 2, arguments=("train",)),
    Case("an unknown option", ("usage:", "--steps"), 2, arguments=_dry("--steps", "5")),
    Case("no such recipe", ("'digit'", "digits"), 2, arguments=_dry(target="digit")),
    Case(
        "no such ablation",
        ("no ablation 'eps' of digits", "eps-l-simple"),
        2,
        arguments=_dry(target="digits:eps"),
    ),
    Case("no such file", ("absent.json", "give a recipe"), 2, arguments=_dry(target="absent.json")),
    Case("a file that is no json", ("neither a recipe",), 2, arguments=_dry(target="/etc/passwd")),
    _json("empty", "", "given.json", "not JSON"),
    _json("of text", "hello", "given.json", "not JSON"),
    _json("cut", '{"name": "a"', "given.json", "not JSON"),
    _json("with a mark of byte order", "\ufeff{}", "given.json"),
    _json("in UTF-16", "{}".encode("utf-16"), "given.json", "not UTF-8"),
    _json("with duplicate keys", '{"name": "a", "name": "b"}', "given.json", "name more than once"),
    _json("with NaN", '{"train": {"learning_rate": NaN}}', "given.json", "NaN", "finite"),
    _json("with Infinity", '{"train": {"learning_rate": -Infinity}}', "Infinity", "finite"),
    _json("of 10^5 brackets", "[" * 100_000 + "]" * 100_000, "given.json", "nested deeper than 32"),
    _json("of 10^5 objects", '{"a":' * 100_000, "given.json", "nested deeper than 32"),
    _json("of 5000 digits", '{"name": ' + "1" * 5000 + "}", "given.json"),
    _json("of a megabyte", " " * (2**20 + 1), "given.json", "at most 1048576"),
    _json("of a list", "[1]", "given.json", "one JSON object"),
    _json("of null", "null", "given.json", "one JSON object"),
    _json("of an unknown key", '{"format_version": 1, "nmae": "a"}', "nmae", "did you mean 'name'"),
    _json("of a future version", '{"format_version": 99, "name": "a"}', "format_version"),
    _json("of wrong types", '{"format_version": 1, "name": ["a"], "train": 5}', "name", "train"),
    _recorded("damaged", "{", "root/runs/digits/run.json", "not JSON"),
    _recorded("of bytes", b"\0\xff" * 9, "root/runs/digits/run.json"),
    _recorded("of another experiment", _OTHER, "train.seed: 1 -> 0", "--run NAME"),
    _run("of nothing", "", *_NAMES),
    _run("of dots", "..", "name"),
    _run("of a dot", ".", *_NAMES),
    _run("with a slash", "a/b", *_NAMES),
    _run("that climbs", "../../etc/cron.d/a", *_NAMES),
    _run("like an option", "-x", *_NAMES),
    _run("of 300 letters", "a" * 300, *_NAMES),
    _run("in capitals", "Foo", *_NAMES),
    _run("with two dots", "a..b", "name='a..b'", "dot"),
    _run("with a space", "a b", *_NAMES),
    _run("with a newline", "a\nb", *_NAMES),
    _run("with a newline at the end", "a\n", *_NAMES),
    _run("with a NUL", "a\0b", *_NAMES),
    _run("of Cyrillic twins", "dіgits", *_NAMES),
    _run("of another digit", "run²", *_NAMES),
    _run("of a shell", "$(touch canary)", *_NAMES),
    _run("of a device of Windows", "CON", *_NAMES),
)
