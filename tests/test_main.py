"""The command line of the stages: what it prints, and the exit codes that others rely on."""

import json
import subprocess
import sys

import pytest

from ddpm_core import __main__ as command
from ddpm_core.config import RunConfig
from ddpm_core.errors import DataError, StorageError


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
    monkeypatch.setattr(command, "_stage", lambda name: stage_that_raises(error))
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
    monkeypatch.setattr(command, "_stage", lambda name: lambda store, config: None)
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
    monkeypatch.setattr(command, "_stage", lambda name: lambda store, config: None)
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
    text, _, plan = capsys.readouterr().out.partition("plan: ")
    assert RunConfig.from_dict(json.loads(text)).name == "digits"
    assert plan.startswith("train: would run on 2 worker(s)")
    assert not list(root.glob("*"))


def test_dry_run_says_that_there_will_be_no_distance(tmp_path, capsys):
    """Catches: a plan that promises a measurement which images of one class do not have."""
    (tmp_path / "photos").mkdir()
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
        if not hasattr(section.annotation, "model_fields"):
            assert name in ("format_version", "name")  # the file's, and --run
            continue
        for key, knob in section.annotation.model_fields.items():
            assert knob.description, f"{name}.{key} has no description"
            line = f"{name}.{key} ({json.dumps(knob.default)}): {knob.description}"
            assert without_spaces(line) in shown, line
            keys += 1
    assert keys >= 45
    assert "train.num_steps (800000): optimiser steps" in done.stdout
    words = " ".join(done.stdout.split())
    for choices in ("[eps, x_0, x_prev, v]", "[simple, vlb, hybrid]", "[none, min_snr, p2]"):
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
import ddpm_core.diffusion.schedule, ddpm_core.diffusion.process, ddpm_core.diffusion.objective
import ddpm_core.diffusion.samplers, ddpm_core.diffusion.likelihood
import ddpm_core.models.unet, ddpm_core.models.ema, ddpm_core.models.interop, ddpm_core.seeding
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
