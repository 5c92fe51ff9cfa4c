"""What is done, what would run, and under which name."""

import json
import os
import shlex
import subprocess
import sys
from types import SimpleNamespace

import pytest

from ddpm_core.__main__ import _parser as stage_parser
from ddpm_core.cli import describe_keys, parse_overrides
from ddpm_core.errors import ConfigError
from ddpm_core.recipes import RECIPES, recipe
from ddpm_core.runs.dataset_names import NamedSet, enter
from ddpm_core.runs.run import configure, open_stage
from ddpm_core.runs.stages import STAGES
from ddpm_core.store.storage import open_store
from ddpm_core.tracking import receipts
from ddpm_core.tracking.place import find_home
from flows import command_line, plan
from flows.command_line import PAPER, TRAIN_DDPM, Command
from flows.command_line import main as command_main
from tests.datasets.made import made
from tests.flows.fakes import finish, is_done, recorded


def test_stages_are_done_one_after_the_other(store, config):
    """Catches: a result looked for in the wrong place, or taken for granted."""
    recorded(store, config)
    for stage in PAPER.stages():
        assert is_done(store, config, *TRAIN_DDPM.stages()) == (stage in ("study", "ablations"))
        assert not is_done(store, config, *PAPER.stages())
        assert STAGES[stage].result(store, config) is None
        finish(store, config, stage)
        assert STAGES[stage].result(store, config) is not None
    assert is_done(store, config, *PAPER.stages())


def test_ids_tell_runs_roots_stages_and_samplings_apart(store, config, tmp_path):
    """Catches: attaching to the job of another root, or to one that samples otherwise."""
    other_root = open_store(str(tmp_path / "other"))
    more_samples = config.replaced({"sample.num_images": 1000})
    wider = config.replaced({"compute.num_workers": 1})
    more_bits = config.replaced({"evaluate.num_likelihood_images": 9})
    ids = {plan.job_prefix(store, config, stage) for stage in STAGES}
    assert len(ids) == len(STAGES)
    more_pictures = config.replaced({"study.num_shown": 5})
    for stage in PAPER.stages():
        ours = plan.job_prefix(store, config, stage)
        assert ours.startswith(plan.run_prefix(store, config.name, stage))
        assert ours != plan.job_prefix(other_root, config, stage)
        assert ours == plan.job_prefix(store, wider, stage), "width is not identity"
        same = ours == plan.job_prefix(store, more_samples, stage)
        assert same == (stage in ("shard", "train"))
        same = ours == plan.job_prefix(store, more_bits, stage)
        assert same == (stage in ("shard", "train", "sample"))
        same = ours == plan.job_prefix(store, more_pictures, stage)
        assert same == (stage not in ("study", "ablations"))


def test_all_stages_of_a_flow_use_the_same_weights_of_another_run(store, config):
    """Catches @newest of a training that goes on, which is another checkpoint for each stage: the
    evaluation then lacks the samples that were just drawn."""
    ours = config.replaced({"name": "ours", "sample.model": f"{config.name}@newest"})
    recorded(store, config, "shard", "train")
    given = {"sample.model": ours.sample.model, "sample.seed": 3}
    found = plan.with_weights(store, ours, given)
    step = config.train.num_steps
    assert found["sample.model"].startswith(f"{config.name}@{step}:ema#")
    assert (found["sample.seed"], given["sample.model"]) == (3, ours.sample.model)
    own = config.replaced({"sample.model": "@newest"})
    assert plan.with_weights(store, own, None) is None  # not trained yet


def test_command_names_the_run_json_and_only_what_differs(store, config):
    """Catches: a job that runs the recorded settings although others are given."""
    recorded(store, config)
    given = config.replaced({"compute.num_workers": 1, "sample.num_images": 700})
    command = plan.job_command(store, given, "sample", python="py")
    assert command[:4] == ["py", "-m", "ddpm_core", "sample"]
    changes = parse_overrides(command[6::2])
    assert command[5::2] == ["--set"] * len(changes)
    assert changes == {"compute.num_workers": 1, "sample.num_images": 700}
    # What the stage makes of it is the configuration that was given.
    root, understood = configure(command[4], root=None, run=None, changes=changes)
    assert root == store.uri
    assert open_stage(store, understood) == given


def test_the_command_of_a_run_without_a_run_json_is_that_of_its_recipe(store, config):
    """Catches: a first job that cannot be started before the run's name is taken, or that runs the
    recipe without the given changes.
    """
    given = config.replaced({"compute.num_workers": 1, "sample.num_images": 700})
    words = plan.job_command(store, given, "shard", python="py")
    assert words[:5] == ["py", "-m", "ddpm_core", "shard", "digits"]
    options = stage_parser().parse_args(words[3:])
    root, understood = configure(
        options.target,
        root=options.root,
        run=options.run,
        changes=parse_overrides(options.overrides),
    )
    assert (root, understood) == (store.uri, given)


@pytest.mark.parametrize("is_begun", [False, True])
def test_a_job_on_a_named_data_set_is_given_the_one_that_was_meant(store, config, is_begun):
    """Catches: a job, or a flow, that looks the name up for itself and finds what it means by then;
    one that refuses the keys of the set beside its name, or those of the source on record.
    """
    pointer = made(store, "faces")
    changes = {"data.sets": "faces", "train.num_steps": 7}
    _, given = plan.resolve("digits", root=store.uri, run=config.name, overrides=changes)
    assert given.data.sets == f"faces@{pointer.fingerprint[:16]}"
    if is_begun:  # from a source, by which the images were the same
        keys = {"data.sets": None, "data.set_name": "faces", "data.licence": "CC0"}
        recorded(store, given.replaced(keys))
    enter(store, NamedSet("faces", made(store, num_train=11), 2))
    words = plan.job_command(store, given, "shard", python="py")
    options = stage_parser().parse_args(words[3:])
    _, understood = configure(
        options.target,
        root=options.root,
        run=options.run,
        changes=parse_overrides(options.overrides),
    )
    assert understood == given
    parameters = plan.parameters_of(given, store, "digits")
    assert plan.resolve(parameters.pop("recipe"), **parameters)[1] == given


def test_the_flow_has_not_taken_the_name_before_a_stage_has_a_result(store, config, monkeypatch):
    """Catches: a refused or killed first attempt, after which other settings are refused."""
    monkeypatch.setattr("ddpm_core.machine.cores", lambda: 8)
    monkeypatch.setattr(command_line, "_run_flow", lambda *_: None)
    monkeypatch.setattr(plan, "summary", lambda *_: "")
    arguments = ["digits", "--root", store.uri, "--run", config.name]
    for more in (["--set", "train.num_steps=7"], []):
        assert main([*arguments, *more]) == 0
    assert store.names("runs") == []


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_what_the_paper_s_ablations_refuse_is_refused_before_anything_starts(
    more, store, monkeypatch, capsys
):
    """Catches: a name that is too long for the ablations, found when all else is done."""
    monkeypatch.setattr("ddpm_core.machine.cores", lambda: 8)
    monkeypatch.setattr(command_line, "_run_flow", None)
    arguments = ["digits", "--root", store.uri, "--run", "n" * 50, *more]
    assert main(arguments, PAPER) == 2
    shown = capsys.readouterr()
    assert "it may have at most 49" in shown.err
    assert shown.out == ""


def test_a_dry_run_prints_json_and_beside_it_the_plan(store, config, monkeypatch, capsys):
    """Catches: a plan in the midst of the JSON, which no program can read."""
    monkeypatch.setattr("ddpm_core.machine.cores", lambda: 8)
    arguments = ["digits", "--root", store.uri, "--run", config.name, "--dry-run"]
    assert main([*arguments, "--set", "train.num_steps=300"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["train"]["num_steps"] == 300
    for part in ("395,641 parameters", "1500 images to train on", "disk: about", "holds 22 %"):
        assert part in shown.err


def test_commands_that_are_printed_are_quoted(tmp_path, monkeypatch):
    """Catches: a root with a space, whose command does something else when it is pasted."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    store = open_store(str(tmp_path / "my runs"))
    assert shlex.split(plan._make_ui(store)) == ["make", "ui", f"ROOT={store.uri}"]


def test_an_ablation_is_its_recipe_and_overrides(store):
    """Catches: a flow parameter that Prefect's form does not offer, or a run of the recipe itself
    under the ablation's name.
    """
    _, config = plan.resolve("digits:eps-l-learned", root=store.uri, run=None, overrides=None)
    given = plan.parameters_of(config, store, "digits:eps-l-learned")
    assert (given["recipe"], given["run"]) == ("digits", "digits-eps-l-learned")
    assert given["overrides"] == {"diffusion.variance": "learned", "train.loss": "vlb"}
    _, again = plan.resolve(given.pop("recipe"), **given)
    assert again == config


@pytest.mark.parametrize("name", RECIPES)
def test_parameters_resolve_to_the_configuration_they_were_made_of(name, store):
    """Catches: a flow that trains something else than the dry run showed."""
    changes = {"train.num_steps": 7}
    if recipe(name).data.name not in ("digits", "coloured_digits", "heartbeat", "swiss_roll"):
        changes["data.source"] = "/some where/else"
    _, config = plan.resolve(name, root=store.uri, run="x", overrides=changes)
    given = plan.parameters_of(config, store, "/a/run.json")
    assert given["overrides"] == changes
    _, again = plan.resolve(given.pop("recipe"), **given)
    assert again == config


def test_summary_names_places_numbers_and_the_next_step(store, config, monkeypatch):
    """Catches: a number without what it was measured on, a password of MLflow's on the screen."""
    recorded(store, config, *TRAIN_DDPM.stages())
    text = plan.summary(store, config)
    samples = STAGES["sample"].result(store, config)
    assert f"{store.uri_of(samples.folder)}/{samples.files['grid'].name}" in text
    assert "3.250 ± 0.500" in text
    assert "8 held-out" in text
    assert "floor 1.50; 80 samples" in text
    assert f"{plan.UI_URL}   (there while `make ui ROOT={shlex.quote(store.uri)}` runs)" in text
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:secret@mlflow.example/x")
    text = plan.summary(store, config)
    assert "https://mlflow.example/x" in text
    assert "secret" not in text


def test_mlflow_s_page_is_the_server_s_or_the_one_that_make_ui_opens(store, monkeypatch):
    """Catches: a page that nothing serves, the address of a database as a page, and the first page
    where the run has one of its own."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    command = f"make ui ROOT={shlex.quote(store.uri)}"
    assert plan.mlflow_page(store, "r") == (plan.UI_URL, f"there while `{command}` runs")
    on_s3 = SimpleNamespace(
        uri="s3://b", local_path=lambda key: None, uri_of=lambda key: f"s3://b/{key}"
    )
    assert plan.mlflow_page(on_s3, "r") is None
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "azureml://x")
    assert plan.mlflow_page(store, "r") is None
    for uri, page, when in (
        ("sqlite:////data/mlflow.db", plan.UI_URL, "there while `make ui` runs"),
        ("http://mlflow.example/", "http://mlflow.example", "the server of MLFLOW_TRACKING_URI"),
    ):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        assert plan.mlflow_page(store, "r") == (page, when)
        home = find_home(store)
        receipts.write_place(store, "r", home, experiment_id="1", run_id="ab")
        path = "/#/experiments/1/runs/ab?workflowType=machine_learning"
        assert plan.mlflow_page(store, "r") == (f"{page}{path}", when)
        assert plan.mlflow_page(store, "other")[0] == page


def test_more_workers_than_cores_are_refused_where_they_would_run(store, config, monkeypatch):
    """Catches: shards made, and three attempts, for a training that this machine cannot hold."""
    monkeypatch.setattr("ddpm_core.machine.cores", lambda: 4)
    asked = []
    wide = config.replaced({"compute.num_workers": 4})
    plan.check(store, wide, TRAIN_DDPM.stages(), None)
    wider = wide.replaced({"compute.cpus_per_worker": 2})
    with pytest.raises(ConfigError, match=r"4 worker\(s\) with 2 CPU each; this machine has 4"):
        plan.check(store, wider, TRAIN_DDPM.stages(), None)
    monkeypatch.setattr(plan, "require_answer", asked.append)
    plan.check(store, wider, TRAIN_DDPM.stages(), "http://head:8265")
    assert asked == ["http://head:8265"], "and a cluster is, before anything is sent to it"


def test_a_feature_network_is_looked_for_only_where_it_would_be_read(
    store, config, tmp_path, monkeypatch
):
    """Catches: a file of the cluster's that is missed on the laptop, and one that nobody checks."""
    given = {"evaluate.features": str(tmp_path / "net.pt"), "evaluate.features_sha256": "0" * 64}
    config = config.replaced({**given, "compute.num_workers": 1})
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        plan.check(store, config, TRAIN_DDPM.stages(), None)
    monkeypatch.setattr(plan, "require_answer", lambda _: None)
    plan.check(store, config, TRAIN_DDPM.stages(), "http://head:8265")


@pytest.mark.parametrize(
    ("given", "part"),
    [(["train.seed=7"], "train.seed: 0 -> 7"), (["compute.num_workers=64"], "this machine has")],
)
def test_dry_run_shows_no_plan_that_would_be_refused(
    store, config, given, part, monkeypatch, capsys
):
    """Catches: "would run with 2 workers" over another run's name, or on half as many cores."""
    recorded(store, config)
    monkeypatch.setattr("ddpm_core.machine.cores", lambda: 8)
    changes = [word for text in given for word in ("--set", text)]
    arguments = ["digits", "--root", store.uri, "--run", config.name, "--dry-run"]
    assert main(arguments) == 0
    assert "would run with 2 workers" in capsys.readouterr().err
    assert main([*arguments, *changes]) == 2
    shown = capsys.readouterr()
    assert part in shown.err
    assert shown.out == ""


def test_a_finished_run_needs_no_machine(store, config, monkeypatch, capsys):
    """Catches: results that cannot be looked up on a smaller machine than they were made on."""
    recorded(store, config, *TRAIN_DDPM.stages())
    monkeypatch.setattr("ddpm_core.machine.cores", lambda: 1)
    assert main(["digits", "--root", store.uri, "--run", config.name]) == 0
    assert "done already" in capsys.readouterr().out


def main(arguments: list[str], command: Command = TRAIN_DDPM) -> int:
    return command_main(command, arguments)


def test_the_paper_s_plan_has_two_stages_more(store, config, monkeypatch, capsys):
    """Catches: a plan that shows four stages and runs six, or another flow's done taken for this
    one's."""
    recorded(store, config, *TRAIN_DDPM.stages())
    monkeypatch.setattr("ddpm_core.machine.cores", lambda: 8)
    arguments = ["digits", "--root", store.uri, "--run", config.name, "--dry-run"]
    assert main(arguments) == 0
    pipeline = planned(capsys.readouterr().err)
    assert main(arguments, PAPER) == 0
    found = planned(capsys.readouterr().err)
    assert list(pipeline) == list(TRAIN_DDPM.stages())
    assert list(found) == list(PAPER.stages())
    assert {stage: found[stage] for stage in TRAIN_DDPM.stages()} == pipeline
    assert all(state.startswith(f"done: {store.uri}/") for state in pipeline.values())
    for stage in ("study", "ablations"):
        assert found[stage] == "would run with 2 workers on an embedded Ray on this machine"


def planned(shown: str) -> dict[str, str]:
    """Return stage -> state of a dry run, in the order of its lines."""
    _, _, lines = shown.partition("plan for run")
    return dict(line.split(maxsplit=1) for line in lines.splitlines() if line.startswith("  "))


def test_a_finished_paper_needs_no_machine_and_names_all_its_places(
    store, config, monkeypatch, capsys
):
    """Catches: six jobs for what is there, or a study that nobody finds."""
    recorded(store, config, *PAPER.stages())
    monkeypatch.setattr("ddpm_core.machine.cores", lambda: 1)
    monkeypatch.setattr(command_line, "_run_flow", None)  # is not asked
    assert main(["digits", "--root", store.uri, "--run", config.name], PAPER) == 0
    out = capsys.readouterr().out
    assert "done already" in out
    for stage in ("study", "ablations"):
        folder = STAGES[stage].result(store, config).folder
        assert f"{stage:<16}  {store.uri_of(folder)}" in out.splitlines()


def test_an_unfinished_paper_is_run_as_the_flow_paper(store, config, monkeypatch):
    """Catches: the wrong flow behind the command, parameters that resolve to something else."""
    recorded(store, config, *TRAIN_DDPM.stages(), "study")
    monkeypatch.setattr("ddpm_core.machine.cores", lambda: 8)
    asked = []
    monkeypatch.setattr(command_line, "_run_flow", lambda *given: asked.append(given))
    assert main(["digits", "--root", store.uri, "--run", config.name], PAPER) == 0
    ((command, parameters, *_),) = asked
    assert command is PAPER
    assert parameters == {
        "recipe": "digits", "root": store.uri, "run": config.name, "overrides": {},
        "ray_address": None,
    }  # fmt: skip


@pytest.mark.parametrize("command", [TRAIN_DDPM, PAPER], ids=lambda one: one.name)
def test_help_is_of_the_command_that_was_called(command, capsys):
    """Catches: examples that start another flow."""
    with pytest.raises(SystemExit):
        main(["--help"], command)
    out = capsys.readouterr().out
    other = {TRAIN_DDPM: PAPER, PAPER: TRAIN_DDPM}[command]
    assert f"usage: python -m {command.module} " in out
    assert f"  python -m {command.module} digits\n" in out
    assert other.module not in out
    assert describe_keys() in out


@pytest.mark.parametrize("command", [TRAIN_DDPM, PAPER], ids=lambda one: one.name)
def test_a_command_loads_its_own_flow(command):
    """Catches: a command whose flow is another, or is not found when all else has started."""
    assert command.load().name == command.name


def test_errors_name_the_command(store, capsys):
    """Catches: errors of another program."""
    arguments = ["digits", "--root", store.uri, "--set", "study.num_shwn=3"]
    assert main(arguments, PAPER) == 2
    assert capsys.readouterr().err.startswith("paper: ")


def run_cli(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "flows.train_ddpm", *arguments],
        capture_output=True, text=True, env=os.environ | env, check=False,
    )  # fmt: skip


def without_times(stderr: str) -> str:
    return "\n".join(line for line in stderr.splitlines() if not line.startswith("import time:"))


def test_command_line_sees_a_finished_run_without_prefect_or_ray(store, config):
    """Catches: seconds of imports and servers for nothing, and a dry run that starts them."""
    recorded(store, config, *TRAIN_DDPM.stages())
    arguments = ("digits", "--root", store.uri, "--run", config.name)
    for extra in ((), ("--dry-run",)):
        done = run_cli(*arguments, *extra)
        assert done.returncode == 0, without_times(done.stderr)
        assert ("done already" in done.stdout) == (extra == ())
        loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
        assert not loaded & {"prefect", "ray", "torch", "mlflow"}


def test_command_line_refuses_in_one_sentence_with_the_error_s_code(store, config):
    """Catches: tracebacks, a generic exit code, servers before the settings are read."""
    recorded(store, config)
    conflict = run_cli("digits", "--root", store.uri, "--run", config.name, "--set", "train.seed=7")
    assert conflict.returncode == 2
    assert "train.seed: 0 -> 7" in conflict.stderr
    typo = run_cli("digits", "--root", store.uri, "--set", "train.num_step=7")
    assert typo.returncode == 2
    assert "did you mean 'num_steps'" in typo.stderr
    assert "Traceback" not in conflict.stderr + typo.stderr


def test_help_lists_every_key(capsys):
    """Catches: a key that a user cannot find."""
    with pytest.raises(SystemExit):
        main(["--help"])
    out = capsys.readouterr().out
    assert describe_keys() in out
    assert "--ray-address" in out
