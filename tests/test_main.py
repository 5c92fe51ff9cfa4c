"""The command line of the stages: what it prints, and the exit codes that others rely on."""

import json
import re
import shlex
import subprocess
import sys

import pytest
from PIL import Image

from ddpm_core import __main__ as command
from ddpm_core.config import RunConfig
from ddpm_core.config.kinds import kinds_of
from ddpm_core.errors import DataError, StorageError
from ddpm_core.runs.run import open_stage
from ddpm_core.runs.stages import Stage


def stage_that_raises(error):
    def stage(store, config):
        raise error

    return stage


@pytest.mark.parametrize(
    ("error", "code"),
    [(DataError("no shards"), 3), (StorageError("no bucket"), 6), (KeyboardInterrupt(), 130)],
)
def test_an_error_is_one_message_and_its_exit_code(error, code, tmp_path, monkeypatch, capsys):
    """Catches: a traceback as the message, or one exit code for everything."""
    monkeypatch.setattr(Stage, "load", lambda one: stage_that_raises(error))
    assert command.main(["train", "digits", "--root", str(tmp_path)]) == code
    message = capsys.readouterr().err
    assert message.startswith("train: ")
    assert "Traceback" not in message


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["train", "digit"], "neither a recipe"),
        (["train", "digits", "--set", "train.num_stps=5"], "did you mean 'num_steps'"),
        (["train", "digits", "--set", "compute.num_workers=3"], "not a multiple"),
        (["train", "digits", "--root", "gs://bucket"], "gs://bucket"),
        (["train", "digits", "--run", "../up"], "pattern"),
    ],
)
def test_bad_input_ends_with_exit_code_2_before_anything_starts(arguments, part, tmp_path, capsys):
    """Catches: input that is only found to be wrong inside a worker."""
    root = [] if "--root" in arguments else ["--root", str(tmp_path / "root")]
    assert command.main([*arguments, *root]) == 2
    assert part in capsys.readouterr().err
    assert not list(tmp_path.glob("root/*"))


def test_a_tracking_uri_that_mlflow_refuses_is_refused_before_anything_starts(
    tmp_path, monkeypatch, capsys
):
    """Catches: a mistake in the environment that only a worker finds, after the cluster started."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "./mlruns")
    assert command.main(["train", "digits", "--root", str(tmp_path)]) == 2
    assert "MLFLOW_TRACKING_URI" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_another_configuration_under_the_same_name_is_refused(tmp_path, monkeypatch, capsys):
    """Catches: a stage that goes on under a name that stands for something else."""
    monkeypatch.setattr(Stage, "load", lambda one: make_dataset)
    assert command.main(["shard", "digits", "--root", str(tmp_path)]) == 0
    assert command.main(["train", "digits", "--root", str(tmp_path), "--set", "train.seed=1"]) == 2
    assert "train.seed: 0 -> 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("stage", "given", "part"),
    [
        ("train", ["train.seed=1"], "train.seed: 0 -> 1"),
        ("train", ["evaluate.features=net.pt", f"evaluate.features_sha256={'0' * 64}"], "cannot"),
        ("sample", ["model.dropout=0.5"], "model.dropout"),
    ],
)
def test_dry_run_shows_no_plan_that_would_be_refused(
    stage, given, part, tmp_path, monkeypatch, capsys
):
    """Catches: "would run" over a run on record, or over a file, that the real run stumbles at."""
    monkeypatch.setattr(Stage, "load", lambda one: lambda store, config: None)
    assert command.main(["shard", "digits", "--root", str(tmp_path)]) == 0
    changes = [word for text in given for word in ("--set", text)]
    assert command.main([stage, "digits", "--root", str(tmp_path), "--dry-run", *changes]) == 2
    shown = capsys.readouterr()
    assert part in shown.err
    assert shown.out == ""


def test_dry_run_prints_a_run_json_and_the_plan_and_writes_nothing(tmp_path, capsys):
    """Catches: a dry run that leaves a run.json behind, which then refuses the real run."""
    root = tmp_path / "root"
    assert command.main(["train", "digits", "--root", str(root), "--dry-run"]) == 0
    shown = capsys.readouterr()
    assert RunConfig.from_dict(json.loads(shown.out)).name == "digits"
    assert shown.err.startswith("plan: train: would run on 2 worker(s)")
    assert "network: unet, 395,641 parameters" in shown.err
    assert "images: 1500 images to train on, 297 held out" in shown.err
    assert "disk: about 3.8 MB of shards, 19 MB of checkpoints" in shown.err
    assert not list(root.glob("*"))


def test_dry_run_says_that_there_will_be_no_distance(tmp_path, capsys):
    """Catches: a plan that promises a measurement which images of one class do not have."""
    (tmp_path / "photos").mkdir()
    for number in range(3):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / "photos" / f"{number}.png")
    given = [f"data.source={tmp_path / 'photos'}", "data.class_folders=false"]
    changes = [word for text in given for word in ("--set", text)]
    command_line = ["train", "images", "--root", str(tmp_path / "root"), "--dry-run", *changes]
    assert command.main(command_line) == 0
    said = "".join(capsys.readouterr())
    assert "\nwarning: no Frechet distance will be measured, bits/dim alone: " in said
    assert command.main(["train", "digits", "--root", str(tmp_path / "root"), "--dry-run"]) == 0
    assert "no Frechet distance" not in "".join(capsys.readouterr())


def test_help_explains_every_key_with_its_default():
    """Catches: a knob without a word about it, whose default nobody can look up, or whose choices
    a user has to guess.
    """
    done = subprocess.run(
        [sys.executable, "-m", "ddpm_core", "train", "--help"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    shown, keys = without_spaces(done.stdout), 0
    for name, section in RunConfig.model_fields.items():
        kinds = kinds_of(section.annotation)
        assert kinds or name in ("format_version", "name")  # the file's, and --run
        for kind in kinds.values():
            for key, knob in kind.model_fields.items():
                assert knob.description, f"{name}.{key} has no description"
                # The kind's own default is not shown: the first one's is.
                default = json.dumps(knob.default)
                line = f"{name}.{key} ({default}): {knob.description}"
                assert without_spaces(line) in shown or key == "kind", line
                keys += 1
    assert keys >= 45
    assert "train.num_steps (800000): optimiser steps" in done.stdout
    words = " ".join(done.stdout.split())
    for choices in ("[eps, x_0, x_prev, v, drift]", "[simple, vlb, hybrid]", "[none, min_snr, p2]"):
        assert choices in words


def without_spaces(text: str) -> str:
    """Return `text` as it is the same for every way of breaking it into lines, hyphens too."""
    return "".join(text.split())


def test_the_mathematics_imports_with_torch_alone():
    """Catches: an import of pydantic, numpy or a vendor that sneaks into diffusion or models."""
    script = """
import sys
class Wall:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"pydantic", "ray", "mlflow", "prefect", "PIL", "fsspec", "s3fs",
                                  "webdataset", "safetensors", "matplotlib", "sklearn"}:
            raise ImportError(name)
sys.meta_path.insert(0, Wall())
import ddpm_core.diffusion.paths.schedule, ddpm_core.diffusion.process
import ddpm_core.diffusion.objective, ddpm_core.diffusion.samplers
import ddpm_core.diffusion.measures.likelihood
import ddpm_core.models.unet, ddpm_core.models.ema, ddpm_core.models.interop, ddpm_core.seeding
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def make_dataset(store, config):
    """The result of the stage `shard`, as far as a run's name depends on it."""
    open_stage(store, config)
    store.create(f"runs/{config.name}/dataset.json", b'{"dataset":"d","fingerprint":"f"}')


def test_an_attempt_without_a_result_has_not_taken_the_name(tmp_path, monkeypatch):
    """Catches: a refused attempt after which the same command with a mended setting is refused."""
    root = ["--root", str(tmp_path)]
    monkeypatch.setattr(Stage, "load", lambda one: stage_that_raises(DataError("no images")))
    assert command.main(["train", "digits", *root, "--set", "train.num_steps=5"]) == 3
    assert not list(tmp_path.rglob("run.json"))
    monkeypatch.setattr(Stage, "load", lambda one: make_dataset)
    assert command.main(["train", "digits", *root, "--set", "train.num_steps=6"]) == 0
    run_json = json.loads((tmp_path / "runs/digits/run.json").read_text())
    assert run_json["train"]["num_steps"] == 6
    assert command.main(["train", "digits", *root, "--set", "train.num_steps=5"]) == 2


@pytest.mark.parametrize("stage", ["sample", "evaluate", "study"])
def test_a_stage_of_a_run_that_is_not_there_says_what_to_run_first_and_writes_nothing(
    stage, tmp_path, capsys
):
    """Catches: `sample` of a misspelt run, which leaves a run.json of that name behind."""
    root = tmp_path / "my runs"
    words = [stage, "digits", "--root", str(root), "--run", "shrt", "--set", "sample.seed=1"]
    for more in ([], ["--dry-run"]):
        assert command.main([*words, *more]) == 4
        shown = capsys.readouterr()
        assert shown.out == ""
        assert "no run 'shrt'" in shown.err
        (first,) = re.findall(r"train it first: python -m ddpm_core (.*)", shown.err)
        assert shlex.split(first) == ["train", *words[1:]]
    assert not root.exists()


def test_a_run_whose_run_json_was_lost_goes_on(tmp_path, monkeypatch):
    """Catches: weeks of training that a deleted file makes worthless."""
    monkeypatch.setattr(Stage, "load", lambda one: make_dataset)
    assert command.main(["shard", "digits", "--root", str(tmp_path)]) == 0
    (tmp_path / "runs/digits/run.json").unlink()
    assert command.main(["train", "digits", "--root", str(tmp_path)]) == 0
    assert (tmp_path / "runs/digits/run.json").is_file()


def test_what_the_ablations_refuse_is_refused_before_them(tmp_path, capsys):
    """Catches: a name that is too long for its ablations, found after five of them."""
    for more in ([], ["--dry-run"]):
        arguments = ["ablations", "digits", "--root", str(tmp_path), "--run", "a" * 50, *more]
        assert command.main(arguments) == 2
        assert "may have at most 49" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_run_json_that_was_changed_is_spoken_of_once(tmp_path, monkeypatch, capsys, caplog):
    """Catches: a changed digit that passes for what the run was begun with."""
    monkeypatch.setattr(Stage, "load", lambda one: make_dataset)
    assert command.main(["shard", "digits", "--root", str(tmp_path)]) == 0
    path = tmp_path / "runs/digits/run.json"
    path.write_text(path.read_text().replace('"num_grid_images": 100', '"num_grid_images": 10'))
    assert command.main(["shard", str(path), "--dry-run"]) == 0
    assert "sample.num_grid_images: 100 -> 10" in capsys.readouterr().err
    assert command.main(["shard", str(path)]) == 0
    assert "sample.num_grid_images: 100 -> 10" in caplog.text
    caplog.clear()
    assert command.main(["shard", str(path)]) == 0
    assert caplog.text == ""


def test_names_in_errors_cannot_steer_the_terminal(tmp_path, monkeypatch, capsys):
    """Catches: an escape sequence in the name of a foreign file that reaches the terminal."""
    error = DataError("cannot read \x1b[2J\u202egpj.exe\nsecond line")
    monkeypatch.setattr(Stage, "load", lambda one: stage_that_raises(error))
    assert command.main(["shard", "digits", "--root", str(tmp_path)]) == 3
    said = capsys.readouterr().err
    assert "cannot read \\x1b[2J\\u202egpj.exe\nsecond line\n" in said
    assert "\x1b" not in said


@pytest.mark.parametrize(
    "item",
    [
        "model.num_res_blocks=1000000000",
        "sample.num_images=1000000000000",
        f"train.num_steps=1{'0' * 30}",
        f"model.channel_mults={'[' * 100_000}",
        f"model.channel_mults={'[' * 500}{']' * 500}",
        "model.channel_mults=[1000000000]",
        "train.learning_rate=1e999",
        f"train.seed={'9' * 5000}",
        "data.width=1000000000",
    ],
)
@pytest.mark.timeout(60)
def test_absurd_settings_are_one_sentence_in_a_dry_run_too(item, tmp_path, capsys):
    """Catches: a traceback, all memory, or "would run"."""
    arguments = ["train", "digits", "--root", str(tmp_path), "--set", item]
    for more in (["--dry-run"], []):
        assert command.main([*arguments, *more]) == 2
        said = capsys.readouterr().err
        assert item.partition("=")[0].rpartition(".")[2] in said
        assert len(said) < 2000
