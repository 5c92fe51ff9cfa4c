"""What a later stage would refuse is refused before the first one."""

import pytest
from PIL import Image

from ddpm_core.errors import CheckpointError, ConfigError, DataError, RunConflictError, StorageError
from ddpm_core.preflight import preflight
from ddpm_core.recipes import ablation_runs, digits, mnist, recipe
from ddpm_core.runs.run import open_run
from ddpm_core.runs.stages import stages_of
from ddpm_core.store.storage import open_store
from tests.flows.fakes import recorded
from tests.images.image_files import files, write_folder
from tests.sharding.small import write_mnist

PIPELINE, PAPER = stages_of("train-ddpm"), stages_of("paper")


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path / "root"))


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch):
    monkeypatch.setattr("ddpm_core.machine.cores", lambda: 8)


def look(store, config, stages=PAPER, *, here=True):
    return preflight(store, config, stages, command=lambda stage: f"run {stage}", here=here)


def photos(folder, count):
    """A folder with images."""
    folder.mkdir()
    for number in range(count):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / f"{number}.png")
    return str(folder)


def test_a_training_is_rehearsed_where_this_machine_would_do_it(store, monkeypatch):
    """Catches: seconds of measuring for stages that train nothing, or train for minutes, and the
    speed of a laptop said of a cluster.
    """
    monkeypatch.setattr("ddpm_core.preflight.rehearsed", lambda config: [f"time: {config.name}"])
    config = digits()
    few = look(store, config, PIPELINE).lines(config)
    assert few[-1].startswith("memory and time: less than 1 GiB a worker, and minutes")
    config = config.replaced({"train.num_steps": 20 * config.train.num_steps})
    assert look(store, config, PIPELINE).lines(config)[-1] == "time: digits"
    large = config.replaced({"train.num_steps": 1, "train.global_batch_size": 1024})
    assert "time: digits" in look(store, large, PIPELINE).lines(large)
    away = look(store, config, PIPELINE, here=False).lines(config)
    assert away[-1] == "memory and time: not known here; the training says them, on its cluster"
    assert not any("time" in line for line in look(store, config, ["shard"]).lines(config))


@pytest.mark.parametrize(
    ("config", "kind", "said"),
    [
        (digits().replaced({"name": "n" * 50}), ConfigError, r"it may have at most 49"),
        (
            digits().replaced({"diffusion.prediction": "v", "diffusion.zero_terminal_snr": True}),
            ConfigError,
            r"the ablations of run 'digits' cannot be run: (.|\n)*predict v or x_0",
        ),
        (digits().replaced({"compute.num_workers": 64}), ConfigError, "this machine has 8"),
        (
            digits().replaced(
                {"evaluate.features": "/no/net.pt", "evaluate.features_sha256": "0" * 64}
            ),
            ConfigError,
            "/no/net.pt.*cannot be read",
        ),
        (mnist().replaced({"data.source": "/no/folder"}), DataError, "no folder on this machine"),
        (
            recipe("images").replaced({"data.source": "/no/folder"}),
            DataError,
            "no file or folder here",
        ),
    ],
)
def test_what_any_stage_refuses_is_refused_before_the_first(config, kind, said, store, tmp_path):
    """Catches: days of training before a name, a file or an objective is found to be impossible."""
    with pytest.raises(kind, match=said):
        look(store, config)
    assert not (tmp_path / "root").exists()


def test_a_name_that_is_as_long_as_it_may_be_is_taken(store):
    """Catches: a limit that is one too low, or that counts where no ablation is to run."""
    look(store, digits().replaced({"name": "n" * 49}))
    look(store, digits().replaced({"name": "n" * 63}), PIPELINE)


def test_a_name_of_an_ablation_that_stands_for_another_run_is_refused(store):
    """Catches: five ablations before the sixth finds its name taken."""
    other = ablation_runs(digits())["eps-l-simple"].replaced({"train.seed": 9})
    open_run(store, other)
    with pytest.raises(RunConflictError, match=r"digits-eps-l-simple.*\n.*train.seed: 9 -> 0"):
        look(store, digits())
    look(store, digits(), PIPELINE)


def test_what_is_done_is_not_checked(store, monkeypatch):
    """Catches: results that cannot be looked up on a smaller machine than they were made on."""
    recorded(store, digits(), *PAPER)
    monkeypatch.setattr("ddpm_core.machine.cores", lambda: 1)
    found = look(store, digits())
    assert (found.missing, found.source, found.doubts) == ([], None, [])


def test_a_root_that_cannot_be_written_is_refused_before_anything(store, monkeypatch):
    """Catches: a Ray that is started, and a stage tried three times, on a read-only disk.

    What is done can be looked up there, and a cluster may write where this machine may not.
    """
    monkeypatch.setattr("os.access", lambda _path, _mode: False)
    with pytest.raises(StorageError, match="cannot write below"):
        look(store, digits())
    assert look(store, digits(), here=False).missing == list(PAPER)
    recorded(store, digits(), *PAPER)
    assert look(store, digits()).missing == []


def test_a_cluster_s_cores_and_files_are_its_own(store):
    """Catches: a laptop that refuses what the cluster has."""
    files = {"evaluate.features": "/no/net.pt", "evaluate.features_sha256": "0" * 64}
    config = mnist().replaced({**files, "compute.num_workers": 64, "data.source": "/no/folder"})
    assert look(store, config, here=False).missing == list(PAPER)


@pytest.mark.parametrize("stage", ["sample", "evaluate", "study"])
def test_a_stage_without_its_input_is_refused_with_the_command_that_makes_it(stage, store):
    """Catches: a plan that says "would run", and a refusal that does not say what to do."""
    with pytest.raises(CheckpointError, match=r"there is no run 'digits' .* first: run train"):
        look(store, digits(), (stage,))
    recorded(store, digits(), "shard")
    with pytest.raises(CheckpointError, match=r"no checkpoint of step 800 .* first: run train"):
        look(store, digits(), (stage,))
    recorded(store, digits(), "train")
    if stage == "sample":
        look(store, digits(), (stage,))
        return
    with pytest.raises(DataError, match="they are not there; draw them first: run sample"):
        look(store, digits(), (stage,))
    recorded(store, digits(), "sample")
    look(store, digits(), (stage,))


def test_the_source_is_looked_at_until_it_is_sharded(store, tmp_path):
    """Catches: a plan without a word about the images; and a look at what nobody reads again."""
    source = photos(tmp_path / "photos", 5)
    config = recipe("images").replaced({"data.source": source, "data.num_test_images": 2})
    found = look(store, config, PIPELINE)
    assert (found.source.num_train, found.source.num_test) == (3, 2)
    text = "\n".join(found.lines(config))
    assert f"images: 3 images to train on, 2 held out, 1 class(es), in {source}" in text
    assert "warning: evaluate.num_likelihood_images=64, but 2 images are held out" in text
    with pytest.raises(DataError, match="give at most 4"):
        look(store, config.replaced({"data.num_test_images": 5}), PIPELINE)
    recorded(store, config, "shard")
    assert look(store, config.replaced({"data.source": "/gone"}), PIPELINE).source is None


def test_the_files_of_a_bundle_are_counted_and_a_download_is_announced(
    store, tmp_path, monkeypatch
):
    """Catches: a dry run that downloads."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    found = look(store, mnist(), PIPELINE)
    assert found.source.text == "mnist, 12 MB to be downloaded"
    assert not (tmp_path / "cache").exists()
    source = write_mnist(tmp_path / "mnist", num_train=10, num_test=6)
    found = look(store, mnist().replaced({"data.source": str(source)}), PIPELINE)
    assert (found.source.num_train, found.source.num_test) == (10, 6)


def test_classes_are_shown_with_their_counts_and_how_to_train_on_them(store, tmp_path):
    """Catches: classes that nobody hears of, counts with held-out images, and a network of another
    number of classes, or samples of a class that there is not, refused after days of training.
    """
    source = str(write_folder(tmp_path / "pets", files(num_train=9, num_test=5)))
    config = recipe("images").replaced({"data.source": source, "compute.num_workers": 1})
    lines = look(store, config).lines(config)
    assert "classes: 0 cat (4), 1 dog (5)" in lines
    (offer,) = (line for line in lines if line.startswith("labels: "))
    changes = {"model.conditioning": "label", "model.num_classes": 2}
    assert offer.endswith("--set model.conditioning=label --set model.num_classes=2")
    labelled = config.replaced(changes)
    lines = look(store, labelled).lines(labelled)
    assert "classes: 0 cat (4), 1 dog (5)" in lines
    assert not [line for line in lines if line.startswith("labels: ")]
    for wrong, words in (
        ({"model.num_classes": 3}, r"have 2 classes \(cat, dog\); set model.num_classes=2"),
        ({"sample.labels": ["cow"]}, "'cow', which is no class of the images"),
    ):
        with pytest.raises(ConfigError, match=words):
            look(store, labelled.replaced(wrong))
    # Where nothing is trained: weights that were imported.
    wrong = labelled.replaced({"name": "imported", "model.num_classes": 3})
    recorded(store, wrong, "train")
    for stages in (PIPELINE, ("shard",)):
        with pytest.raises(ConfigError, match=r"set model\.num_classes=2"):
            look(store, wrong, stages)
    one = recipe("images").replaced({"data.source": photos(tmp_path / "one", 12)})
    assert not [line for line in look(store, one).lines(one) if line.startswith("classes")]


def test_names_and_shares_of_classes_are_refused_where_nothing_will_say_them(store):
    """Catches: a name that no class of a bundle has, found after its training; and imported weights
    without a data set, whose refusal comes from a worker.
    """
    config = recipe("digits-classes")
    with pytest.raises(ConfigError, match="'x', which is no class of the images"):
        look(store, config.replaced({"sample.labels": ["x"]}))
    recorded(store, config, "train")
    for labels, words in ((["3"], "give the number of the class"), ("training", "no data set")):
        labelled = config.replaced({"sample.labels": labels})
        with pytest.raises(ConfigError, match=words):
            look(store, labelled, ("sample",))
        look(store, labelled, PIPELINE)
    look(store, config.replaced({"sample.labels": [3]}), ("sample",))
