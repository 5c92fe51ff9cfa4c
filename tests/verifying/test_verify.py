"""`verify` of runs and data sets, and what the stages make of what it finds.

Each swap is of whole, committed things: no digest of a file tells it.
"""

import shutil
from pathlib import Path

import pytest

from ddpm_core.errors import CheckpointError, ConfigError, DataError, PipelineError
from ddpm_core.evaluation import stage as evaluation
from ddpm_core.evaluation.stage import run_evaluate
from ddpm_core.inference.weights import read_tensors
from ddpm_core.runs import layout, previews, results
from ddpm_core.runs.run import configure, open_run
from ddpm_core.sampling import stage as sampling
from ddpm_core.sampling.stage import run_sample
from ddpm_core.sharding.stage import run_shard
from ddpm_core.store import manifest
from ddpm_core.store.commit import commit, retire, write_file
from ddpm_core.store.expected import Expected
from ddpm_core.store.manifest import DamagedError
from ddpm_core.store.storage import open_store, sha256_of
from ddpm_core.training.storing import checkpoint
from ddpm_core.verifying.verify import verify
from tests.sampling.tiny import (
    _evaluated_root,
    _sampled_root,
    _trained_root,
    commit_random_weights,
    evaluated,
    in_process,
    one_thread,
    recording_tracker,
    sampled,
    store,
    tiny_config,
    trained,
)
from tests.sharding.small import data_config, files_below, shard_dataset, splits

__all__ = [
    "_evaluated_root",
    "_sampled_root",
    "_trained_root",
    "evaluated",
    "in_process",
    "one_thread",
    "recording_tracker",
    "sampled",
    "store",
    "trained",
]
pytestmark = pytest.mark.usefixtures("in_process", "recording_tracker")


def run_json(store, config) -> str:
    """Write the run's run.json and return where it lies."""
    store.write(layout.run_json_key(config.name), config.to_json().encode())
    return store.uri_of(layout.run_json_key(config.name))


def copy(store, theirs: str, ours: str) -> None:
    """Put a folder where another one is."""
    shutil.rmtree(store.local_path(ours))
    shutil.copytree(store.local_path(theirs), store.local_path(ours))


def flip(path: Path, at: int = -20) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def files_of_run(store, config) -> list[Path]:
    """Return every file of the run and of its data set that something rests on."""
    pointer = results.dataset_pointer(store, config.name)
    folders = [store.local_path(layout.run_folder(config.name)), store.local_path(pointer.folder)]
    return sorted(path for folder in folders for path in folder.rglob("*") if path.is_file())


# -- a data set by itself --------------------------------------------------------------------------


def test_a_whole_data_set_is_said_to_be_whole(store, capfd):
    """Catches a check that looks at nothing, or that nobody can follow."""
    folder = shard_dataset(store, data_config(), splits()).folder
    report = verify(store.uri_of(folder))
    (line,) = report.looked_at
    assert "16 images" in line
    assert report.unnamed == []
    assert "verify  16/16 images" in capfd.readouterr().out


def test_a_damaged_data_set_is_refused(store):
    """Catches an exit code of 0 over damage."""
    folder = shard_dataset(store, data_config(), splits()).folder
    flip(store.local_path(f"{folder}/train-000000.tar"), at=600)
    with pytest.raises(DataError, match=r"1 thing is wrong .*\n.*train-000000\.tar is damaged"):
        verify(store.uri_of(folder))


def test_what_is_no_data_set_is_refused(tmp_path):
    """Catches a KeyError for a folder of something else."""
    with pytest.raises(DataError, match="there is no data set at"):
        verify(str(tmp_path / "digits-0123456789abcdef"))
    with pytest.raises(ConfigError, match="neither a recipe nor a run"):
        verify(str(tmp_path / "nothing"))


def test_a_data_set_under_another_s_name_is_refused(store):
    """Catches "is whole" of a folder that is another data set's, by its name alone."""
    folder = shard_dataset(store, data_config(), splits()).folder
    renamed = "datasets/digits-0123456789abcdef"
    store.local_path(folder).rename(store.local_path(renamed))
    with pytest.raises(DataError, match="is the index of another data set"):
        verify(store.uri_of(renamed))


# -- a run -----------------------------------------------------------------------------------------


def test_a_whole_run_is_said_to_be_whole(evaluated, capfd):
    """Catches a check that cries wolf, one that leaves a part out, and one that changes things."""
    store, config = evaluated
    target = run_json(store, config)
    before = files_below(Path(store.uri))
    report = verify(config.name, root=store.uri)
    assert verify(target) == report
    text = "\n".join(report.looked_at)
    for what in ("datasets/digits-", "1797 images, 1 feature network", "checkpoint of step 10",
                 "samples/", "4 units", "evaluation/"):  # fmt: skip
        assert what in text, text
    assert report.unnamed == [] == report.problems
    assert files_below(Path(store.uri)) == before


def test_every_file_that_a_result_rests_on_is_read(evaluated):
    """Catches a file, or a kind of file, that is not looked at."""
    store, config = evaluated
    target = run_json(store, config)
    not_ours = ("run.json", "begun.json", "dataset.json")
    for path in files_of_run(store, config):
        per_shard = path.parent.name.startswith("digits-") and path.suffix == ".json"
        if path.name in not_ours or (per_shard and path.name != "index.json"):
            continue  # what a shard's own manifest says, the index says too
        good = path.read_bytes()
        flip(path, at=len(good) // 2)
        with pytest.raises(PipelineError, match=path.name):
            verify(target)
        path.write_bytes(good)
    verify(target)


def test_files_that_nothing_names_are_listed(evaluated):
    """Catches an intruder, or what killed attempts left, that nobody ever sees."""
    store, config = evaluated
    target = run_json(store, config)
    samples = results.samples_of(store, config).folder
    store.write(f"{samples}/000009-0123456789abcdef.tar", b"x")
    store.write(f"{layout.checkpoint_folder('tiny', 10)}/state-0123456789abcdef.bin", b"x")
    assert len(verify(target).unnamed) == 2


def test_retired_checkpoints_are_no_damage(evaluated):
    """Catches a run that counts as damaged since retention did its work."""
    store, config = evaluated
    target = run_json(store, config)
    final = results.final_checkpoint(store, config)
    older = layout.checkpoint_folder("tiny", 5)
    commit(store, older, final.files, final.body | {"step": 5})
    retire(store, older)
    assert verify(target).problems == []


# -- swaps: what verify and the stages say ---------------------------------------------------------


def test_previews_are_looked_at_byte_by_byte_and_are_of_this_run(evaluated):
    """Catches a preview that is passed over, one of another training, and a picture that no
    manifest names taken for one that is."""
    store, config = evaluated
    last, folder = results.final_checkpoint(store, config), layout.previews_folder(config.name)

    def keep(step, **other):
        stem = previews.stem_of(step)
        files = {previews.SHEET: write_file(store, folder, stem, ".png", b"a picture")}
        body = {"step": step, **{key: last.body[key] for key in ("experiment", "dataset")}, **other}
        commit(store, folder, files, body, name=previews.name_of(step))
        return f"{folder}/{files[previews.SHEET].name}"

    pictures = [keep(4), keep(8)]
    store.write(f"{folder}/step_00000012-0123456789abcdef.png", b"of a killed attempt")
    target = store.uri_of(layout.run_folder(config.name))
    run_json(store, config)
    report = verify(target)
    assert f"{store.uri_of(folder)}: 2 previews" in report.looked_at
    assert [uri for uri in report.unnamed if "previews" in uri] == [
        store.uri_of(f"{folder}/step_00000012-0123456789abcdef.png")
    ]
    store.write(pictures[0], b"a picturE")
    keep(10, experiment="another")
    with pytest.raises(DataError, match=r"(?s)2 things are wrong.*another experiment") as error:
        verify(target)
    assert "step_00000004" in str(error.value)


def second_step(store, config, step: int):
    """Commit a checkpoint of the same run at another step, with other weights."""
    other = config.replaced({"name": "other", "train.num_steps": step})
    made = commit_random_weights(store, other, seed=1)
    parts = {role: read_tensors(store, made, role) for role in ("state", "ema")}
    return checkpoint.commit(
        store,
        config.name,
        checkpoint.Origin(
            results.final_checkpoint(store, config).body["experiment"],
            results.dataset_pointer(store, config.name).fingerprint,
        ),
        step=step,
        images_seen=1,
        written=checkpoint.write_parts(store, config.name, step, parts),
        history=checkpoint.load_history(store, made),
    )


def test_a_checkpoint_of_another_step_never_passes_as_the_last(evaluated):
    """Catches samples of step 5 that are published as those of step 10."""
    store, config = evaluated
    target = run_json(store, config)
    last = layout.checkpoint_folder(config.name, 10)
    copy(store, second_step(store, config, 5).folder, last)
    for act in (verify_of(target), results.final_checkpoint, run_sample, run_evaluate):
        with pytest.raises(PipelineError, match=r"step is 5, expected 10"):
            act(store, config)
    # The train stage sets it aside and continues from the true one of step 5.
    assert checkpoint.complete(store, config) is None
    assert results.final_checkpoint(store, config) is None


def verify_of(target):
    return lambda _store, _config: verify(target)


def test_a_checkpoint_of_another_run_never_passes(evaluated):
    """Catches weights of another experiment under this run's name."""
    store, config = evaluated
    target = run_json(store, config)
    other = config.replaced({"name": "other", "train.seed": 1})
    theirs = commit_random_weights(store, other, seed=1).folder
    copy(store, theirs, layout.checkpoint_folder(config.name, 10))
    for act in (verify_of(target), results.final_checkpoint, run_sample, run_evaluate):
        with pytest.raises(PipelineError, match=r"another experiment: .* train "):
            act(store, config)


@pytest.mark.parametrize("changes", [{"data.num_test_images": 400}, {"data.images_per_shard": 100}])
def test_an_evaluation_is_never_of_another_data_set(changes, evaluated):
    """Catches numbers that are measured on images which the network was trained on."""
    store, config = evaluated
    target = run_json(store, config)
    other = config.replaced({"name": "other", **changes})
    run_shard(store, other)
    key = layout.dataset_pointer_key(config.name)
    ours = store.read(key)
    store.write(key, store.read(layout.dataset_pointer_key("other")))
    for act in (verify_of(target), run_evaluate):
        with pytest.raises(PipelineError, match=r"dataset.* shard "):
            act(store, config)
    with pytest.raises((CheckpointError, DamagedError)):
        results.evaluation_of(store, config)
    run_shard(store, config)
    assert store.read(key) == ours
    assert results.evaluation_of(store, config) is not None
    verify(target)


def test_samples_of_another_sampler_never_pass(evaluated):
    """Catches a distance of DDIM that is published as the ancestral sampler's."""
    store, config = evaluated
    target = run_json(store, config)
    other = config.replaced({"sample.sampler": "ddim"})
    run_sample(store, other)
    ours, theirs = (results.samples_of(store, one).folder for one in (config, other))
    good = files_below(store.local_path(ours))
    copy(store, theirs, ours)
    with pytest.raises(DataError, match=ours.rpartition("/")[2]):
        verify(target)
    with pytest.raises(DamagedError, match=r'sampler is "ddim", expected "ancestral".* sample '):
        results.samples_of(store, config)
    run_sample(store, config)
    assert (
        files_below(store.local_path(results.samples_of(store, config).folder)).items()
        >= {name: data for name, data in good.items() if name.endswith(".tar")}.items()
    )


def test_an_evaluation_of_other_samples_never_passes(evaluated):
    """Catches the numbers of another protocol, copied under this one's name."""
    store, config = evaluated
    target = run_json(store, config)
    other = config.replaced({"evaluate.seed": 5})
    run_evaluate(store, other)
    ours, theirs = (results.evaluation_of(store, one).folder for one in (config, other))
    good = store.read(f"{ours}/manifest.json")
    copy(store, theirs, ours)
    with pytest.raises(DataError, match="is something else's"):
        verify(target)
    with pytest.raises(DamagedError, match=r"something else's.* evaluate "):
        results.evaluation_of(store, config)
    run_evaluate(store, config)
    assert store.read(f"{ours}/manifest.json") == good


def test_results_of_weights_that_this_run_never_had_are_found(evaluated):
    """Catches samples and numbers that were copied from another run, with their folder's name."""
    store, config = evaluated
    target = run_json(store, config)
    other = config.replaced({"name": "other", "train.seed": 1})
    commit_random_weights(store, other, seed=1)
    theirs = run_sample(store, other)
    name = theirs.rpartition("/")[2]
    shutil.copytree(store.local_path(theirs), store.local_path(f"runs/tiny/samples/{name}"))
    with pytest.raises(
        DataError, match=rf"{name} is something else's: .* no checkpoint of this run"
    ):
        verify(target)


# -- dead ends: what is damaged is made again ------------------------------------------------------


@pytest.mark.parametrize("role", ["grid", "strip", "manifest", "unit manifest"])
def test_damaged_samples_are_made_again(role, evaluated):
    """Catches a picture or a manifest that nothing mends: done already, and exit code 4."""
    store, config = evaluated
    samples = results.samples_of(store, config)
    before = files_below(store.local_path(samples.folder))
    names = {"manifest": "first-16.json", "unit manifest": "000001.json"}
    name = names.get(role) or samples.files[role].name
    flip(store.local_path(f"{samples.folder}/{name}"))
    assert run_sample(store, config) == samples.folder
    after = files_below(store.local_path(samples.folder))
    if role != "unit manifest":  # complete samples are known without it
        assert after == before
    assert results.samples_of(store, config) == samples


@pytest.mark.parametrize("name", ["manifest.json", "metrics", "loss-figure"])
def test_a_damaged_evaluation_is_made_again(name, evaluated):
    """Catches an evaluation that counts as done, and that nobody can read."""
    store, config = evaluated
    found = results.evaluation_of(store, config)
    before = files_below(store.local_path(found.folder))
    name = found.files[name].name if name in found.files else name
    flip(store.local_path(f"{found.folder}/{name}"))
    run_evaluate(store, config)
    assert files_below(store.local_path(found.folder)) == before


def test_a_damaged_unit_of_samples_ends_the_evaluation_and_is_drawn_again(sampled):
    """Catches: lengths are right, the sample stage is done already, and every evaluation fails."""
    store, config = sampled
    samples = results.samples_of(store, config)
    before = files_below(store.local_path(samples.folder))
    flip(store.local_path(f"{samples.folder}/{samples.files['unit-000002'].name}"), at=700)
    with pytest.raises(DamagedError, match="000002-"):
        run_evaluate(store, config)
    assert results.samples_of(store, config) is None
    run_sample(store, config)
    assert files_below(store.local_path(samples.folder)) == before
    run_evaluate(store, config)


@pytest.mark.parametrize(("role", "stage"), [("ema", run_sample), ("history", run_evaluate)])
def test_a_last_checkpoint_that_is_damaged_in_its_length_is_found_by_its_reader(
    role, stage, sampled
):
    """Catches: the training is done by its lengths, and every stage after it fails for ever."""
    store, config = sampled
    final = results.final_checkpoint(store, config)
    if stage is run_sample:
        shutil.rmtree(store.local_path(results.samples_of(store, config).folder))
    flip(store.local_path(f"{final.folder}/{final.files[role].name}"))
    assert results.final_checkpoint(store, config) == final
    with pytest.raises(DamagedError, match=rf"{role}-.* is damaged.* ddpm_core train "):
        stage(store, config)
    assert results.final_checkpoint(store, config) is None


def test_imported_weights_that_are_damaged_are_not_trained_again(trained):
    """Catches: a training of random weights under the name of published ones."""
    store, config = trained
    final = results.final_checkpoint(store, config)
    store.delete(f"{final.folder}/manifest.json")
    body = final.body | {"imported": {"format": "diffusers"}}
    commit(store, final.folder, final.files, body)
    checkpoint.refuse_damaged_import(store, config.replaced({"train.num_steps": 9}))
    flip(store.local_path(f"{final.folder}/{final.files['ema'].name}"))
    assert checkpoint.complete(store, config) is None
    with pytest.raises(CheckpointError, match="import-weights SOURCE RECIPE --run tiny"):
        checkpoint.refuse_damaged_import(store, config)


def test_results_of_the_version_before_go_on(evaluated, in_process):
    """Catches a run of an earlier version that is drawn and measured once more.

    It wrote neither the fingerprints nor, in a unit, which samples it is of.
    """
    store, config = evaluated
    drawn = results.samples_of(store, config)
    folder = layout.samples_folder(
        "tiny", layout.sample_fingerprint(config, drawn.body["ema_sha256"])
    )
    shutil.move(store.local_path(drawn.folder), store.local_path(folder))
    store.delete(f"{folder}/first-16.json")
    for where, found in (
        (folder, drawn),
        (results.evaluation_of(store, config).folder, results.evaluation_of(store, config)),
    ):
        body = {key: value for key, value in found.body.items() if key != "fingerprint"}
        assert body != found.body
        store.delete(f"{where}/manifest.json")
        commit(store, where, found.files, body)
    samples = results.samples_of(store, config)
    assert samples.folder == folder
    for name in store.names(samples.folder):
        if name.endswith(".json") and name != "manifest.json":
            unit = manifest.load(store, samples.folder, Expected({}), name=name)
            store.delete(f"{samples.folder}/{name}")
            body = {key: value for key, value in unit.body.items() if key != "samples"}
            commit(store, samples.folder, unit.files, body, name=name)
    run_sample(store, config)
    run_evaluate(store, config)
    assert in_process.units == []
    assert verify(run_json(store, config)).problems == []


def test_a_mark_of_retention_on_the_last_checkpoint_is_removed(evaluated, caplog):
    """Catches a run that trains its last steps again and again, and never ends."""
    store, config = evaluated
    folder = layout.checkpoint_folder("tiny", 10)
    store.write(f"{folder}/retired", b"")
    assert results.final_checkpoint(store, config) is None
    assert checkpoint.complete(store, config) is not None
    assert results.final_checkpoint(store, config) is not None
    assert "removed the mark" in caplog.text


def test_the_digests_of_a_chain_are_of_what_was_read(evaluated):
    """Catches a chain of names only: the samples name the weights whose bytes lie there."""
    store, config = evaluated
    final = results.final_checkpoint(store, config)
    assert results.samples_of(store, config).body["ema_sha256"] == sha256_of(
        final.read(store, "ema")
    )
    assert sampling.GRID_ROLE in results.samples_of(store, config).files
    assert evaluation.METRICS_ROLE in results.evaluation_of(store, config).files
    assert tiny_config() == config


@pytest.mark.parametrize("given", ["root", "default"])
def test_a_run_that_is_called_as_its_recipe_is_itself(given, tmp_path, monkeypatch):
    """Catches results of `ddpm run digits --set …` reported as another experiment's, since `digits`
    was taken for the recipe without these settings."""
    monkeypatch.chdir(tmp_path)
    root, config = configure("digits", root=None, run=None, changes={"train.num_steps": 60})
    open_run(open_store(root), config)
    seen = []
    monkeypatch.setattr(
        "ddpm_core.verifying.verify._verify_run", lambda _, config, __: seen.append(config)
    )
    verify("digits", root=str(tmp_path / "runs") if given == "root" else None)
    (found,) = seen
    assert found.train.num_steps == 60
