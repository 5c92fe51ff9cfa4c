import base64
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from fastapi.testclient import TestClient

from ddpm_core.errors import CheckpointError, ConfigError
from ddpm_core.images import png
from ddpm_core.inference.build import build_denoiser
from ddpm_core.inference.networks import build_network
from ddpm_core.recipes import recipe
from ddpm_core.runs import layout
from ddpm_core.runs.run import open_run
from ddpm_core.runs.weights import Weights
from ddpm_core.sampling.draw import draw, to_u8
from ddpm_core.sampling.loaded import Model
from ddpm_core.store.commit import commit, write_file
from ddpm_core.store.manifest import Manifest
from ddpm_core.store.storage import open_store, sha256_of
from ddpm_core.tracking import open_tracker, tracking_uri
from tests.quiet_mlflow import mlflow
from tests.sampling.tiny import tiny_config


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """On a busy machine two threads wait for each other at every layer of these small networks."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def config():
    return tiny_config(**{"sample.unit_size": 4, "sample.batch_size": 4})


def random_weights(config, seed=0):
    """A fresh network's output is 0; these weights do something to the image."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: value.detach() + 0.05 * torch.randn(value.shape, generator=generator)
        for name, value in build_network(config).named_parameters()
    }


@pytest.fixture(scope="module")
def ema(config):
    return safetensors.torch.save(random_weights(config))


def save_model(path, config, ema):
    from ddpm_core.tracking.saved_model import save_model as save  # imports mlflow.pyfunc itself

    weights = path.parent / f"{path.name}.safetensors"
    weights.write_bytes(ema)
    save(path, config, weights)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, config, ema):
    path = tmp_path_factory.mktemp("model") / "model"
    save_model(path, config, ema)
    return path


@pytest.fixture(scope="module")
def model(folder):
    return mlflow.pyfunc.load_model(str(folder))


def test_image_i_of_a_seed_is_the_one_that_sampling_draws(model, config, ema):
    """Catches other noise, other weights or another chain than the sampling stage's, and batches
    whose images depend on what stands beside them."""
    network = build_network(config).eval()
    network.load_state_dict(safetensors.torch.load(ema))
    with torch.inference_mode():
        expected = to_u8(
            draw(
                build_denoiser(config, network),
                torch.arange(4),
                config.data.shape,
                sample=config.sample,
                seed=3,
            )
        ).numpy()
    images_u8 = model.predict([], params={"seed": 3, "count": 6})
    assert (images_u8.shape, images_u8.dtype) == ((6, 8, 8, 1), np.uint8)
    np.testing.assert_array_equal(images_u8[:4], expected)
    np.testing.assert_array_equal(model.predict([], params={"seed": 3}), expected)
    one = model.predict({"index": [2]}, params={"seed": 3})
    # Another batch size may round the network's sums otherwise.
    np.testing.assert_allclose(one[0].astype(int), expected[2], atol=1)
    assert (model.predict([], params={"seed": 4}) != expected).any()


def test_a_request_may_name_sampler_steps_and_form(model):
    """Catches: a sampler that MLflow drops on the way, steps of the run's, and a PNG of other
    pixels than the array."""
    request = {"seed": 3, "count": 2, "sampler": "unipc", "num_steps": 4}
    drawn = model.predict([], params=request)
    assert (drawn != model.predict([], params={"seed": 3, "count": 2})).any()
    files = model.predict([], params={**request, "format": "png"})
    for file, image in zip(files, drawn, strict=True):
        content = base64.b64decode(file)
        np.testing.assert_array_equal(png.decode(content, image.shape, origin="answer"), image)
    for params, words in (
        ({"sampler": "best"}, "sample.sampler"),
        ({"num_steps": 400}, "num_steps=400"),
        ({"format": "gif"}, "array or png"),
    ):
        with pytest.raises(mlflow.exceptions.MlflowException, match=words):
            model.predict([], params=params)


def test_a_small_network_runs_on_one_thread(folder, monkeypatch):
    """Catches threads that wait for each other on a busy machine (minutes instead of seconds), and
    a caller's number of threads that is changed for good."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    model, seen = mlflow.pyfunc.load_model(str(folder)), set()
    hook = torch.nn.modules.module.register_module_forward_pre_hook(
        lambda *_: seen.add(torch.get_num_threads())
    )
    torch.set_num_threads(2)
    try:
        model.predict([], params={"count": 1})
        assert (seen, torch.get_num_threads()) == ({1}, 2)
    finally:
        hook.remove()
        torch.set_num_threads(1)


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"count": 0}, "count=0 must be 1 to 1024"),
        ({"count": 1025}, "count=1025 must be 1 to 1024"),
        ({"seed": -1}, "seed=-1 must be 0 to"),
    ],
)
def test_a_number_out_of_range_is_refused_in_words(model, params, words):
    """Catches a request that fills the memory, and an error that says nothing."""
    with pytest.raises(mlflow.exceptions.MlflowException, match=words):
        model.predict([], params=params)


def test_a_model_of_bits_draws_bits_and_refuses_guidance(tmp_path):
    """Catches a chain of bits that cannot be served, and a request that is answered unguided."""
    changes = {"diffusion.num_timesteps": 5, "model.conditioning": "label"}
    bits = recipe("heartbeat").replaced(changes)
    save_model(tmp_path / "bits", bits, safetensors.torch.save(random_weights(bits)))
    served = mlflow.pyfunc.load_model(str(tmp_path / "bits"))
    drawn = served.predict([], params={"count": 3})
    assert drawn.shape == (3, 1, 20, 1)
    assert set(np.unique(drawn)) == {0, 255}
    with pytest.raises(mlflow.exceptions.MlflowException, match="bits: it takes no guidance"):
        served.predict([], params={"count": 1, "guidance_scale": 2.0})


def test_the_server_takes_the_documented_requests(model, folder):
    """Catches an input that JSON over HTTP cannot express, and an example that does not work."""
    with TestClient(mlflow.pyfunc.scoring_server.init(model)) as client:
        for body in (
            {"inputs": [], "params": {"seed": 3, "count": 4}},
            {"dataframe_records": [{}], "params": {"seed": 3, "count": 4}},
            {"inputs": {"index": [0, 1, 2, 3]}, "params": {"seed": 3}},
        ):
            answer = client.post("/invocations", json=body)
            assert answer.status_code == 200, answer.text
            images = np.array(answer.json()["predictions"], dtype=np.uint8)
            np.testing.assert_array_equal(images, model.predict([], params={"seed": 3}))
        answer = client.post("/invocations", json={"inputs": [], "params": {"count": 0}})
        assert answer.status_code == 400
        assert "count=0 must be 1 to 1024" in answer.json()["message"]
        example = (folder / "serving_input_example.json").read_text()
        answer = client.post("/invocations", json=json.loads(example))
        assert answer.status_code == 200


def test_the_model_is_code_json_and_tensors(folder, config, ema):
    """Catches a pickle in the model, tests or caches shipped with it, and requirements that no
    index has."""
    names = files_of(folder)
    assert not [name for name in names if name.endswith((".pkl", ".pickle", ".pt", ".pt2", ".pyc"))]
    assert (folder / "artifacts" / "model.safetensors").read_bytes() == ema
    assert (folder / "artifacts" / "run.json").read_text() == config.to_json()
    requirements = (folder / "requirements.txt").read_text()
    assert "torch==" in requirements
    assert "+" not in requirements


def files_of(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.fixture
def _writes_bytecode(monkeypatch):
    """What an ordinary shell does."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    monkeypatch.setattr(sys, "pycache_prefix", None)


@pytest.mark.usefixtures("_writes_bytecode")
def test_loading_leaves_nothing_in_the_model_s_folder(folder, tmp_path, config, ema):
    """Catches .pyc files in a folder that others load from, or that is compared by its digests; and
    a program that writes none of its own any more, because it loaded a model."""
    before = files_of(folder)
    mlflow.pyfunc.load_model(str(folder)).predict([], params={"count": 1})
    assert files_of(folder) == before
    assert not sys.dont_write_bytecode
    save_model(tmp_path / "saved", config, ema)
    assert not [name for name in files_of(tmp_path) if "__pycache__" in name]
    assert not sys.dont_write_bytecode


def test_changed_weights_are_refused(folder, tmp_path, config):
    """Catches images from weights that nobody registered."""
    copy = tmp_path / "model"
    subprocess.run(["cp", "-r", folder, copy], check=True)
    weights = copy / "artifacts" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(CheckpointError, match="SHA-256"):
        mlflow.pyfunc.load_model(str(copy))
    other = safetensors.torch.save(random_weights(config.replaced({"model.base_channels": 64})))
    save_model(tmp_path / "other", config, other)
    with pytest.raises(CheckpointError, match="do not fit"):
        mlflow.pyfunc.load_model(str(tmp_path / "other"))


@pytest.mark.slow
def test_the_model_runs_where_only_its_requirements_are(folder, tmp_path):
    """Catches a served model that needs this checkout, Ray, Prefect, S3 or the figures."""
    script = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"ray", "prefect", "s3fs", "matplotlib", "flows"}:
            raise ModuleNotFoundError(f"{name} is not a requirement of the model", name=name)
sys.meta_path.insert(0, Refuse())
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in repr(finder).lower()]
sys.path[:] = [path for path in sys.path if path and path != sys.argv[2]]
import mlflow.pyfunc
images = mlflow.pyfunc.load_model(sys.argv[1]).predict([], params={"count": 2})
import ddpm_core
assert ddpm_core.__file__.startswith(sys.argv[1]), ddpm_core.__file__
print(images.shape)
"""
    checkout = Path(__file__).parents[2]
    before = files_of(folder)
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder), str(checkout)],
        cwd=tmp_path,
        env={k: v for k, v in os.environ.items() if not k.startswith("PYTHON")},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.stdout == "(2, 8, 8, 1)\n", done.stderr[-2000:]
    assert files_of(folder) == before, "no .pyc of the code that travels with the model"


def numbers(distance, num_images=256):
    """What an evaluation says, as far as versions are compared by it."""
    protocol = {"dataset": "d", "features": {"kind": "trained"}, "num_images": num_images}
    said = {"step": 10, "ema_sha256": "of this model"}
    return {"frechet_distance": {"value": distance, "protocol": {**protocol, **said}}}


def register(store, config, weights, *, step=10, guide=None, measured=None):
    """Do what the end of an evaluation does; return the committed weights."""
    folder = f"{layout.run_folder(config.name)}/weights/{sha256_of(weights)[:16]}"
    record = write_file(store, folder, "ema", ".safetensors", weights)
    checkpoint = commit(store, folder, {"ema": record}, {"step": step})
    weaker = None if guide is None else Weights(guide, config)
    tracker = open_tracker(store, config, stage="evaluate", machine_every_s=None)
    tracker.log_points([{"step": 10, "loss": 0.1}])
    tracker.log_metrics({"fid": 12.5}, step=step)
    tracker.register_model(Weights(checkpoint, config, weaker=weaker), measured or {})
    assert tracker.close(120)
    return checkpoint


def test_the_champion_is_the_best_of_one_protocol(tmp_path, config, ema, monkeypatch, capsys):
    """Catches two people with one server of whom the later takes the other's alias, a number of
    another protocol that is compared, a better one that is passed over, and of two with the same
    weights the second without a version."""
    server = f"sqlite:///{tmp_path}/server.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    monkeypatch.setattr("ddpm_core.tracking.place.ARTIFACTS_KEY", "files")
    newer = safetensors.torch.save(random_weights(config, seed=1))
    mine, other = (open_store(str(tmp_path / name)) for name in ("mine", "other"))
    client = mlflow.MlflowClient(server)

    def champion():
        return int(client.get_model_version_by_alias("ddpm-digits", "champion").version)

    register(mine, config, ema, measured=numbers(12.5))
    assert "stays at version" not in capsys.readouterr().err
    register(other, config, ema, measured=numbers(12.5))
    assert champion() == 1
    printed = capsys.readouterr().err
    assert "ddpm-digits@champion stays at version 1" in printed
    assert f"{mine.uri}/runs/tiny, frechet_distance 12.5, and this one's is 12.5" in printed
    assert "this one is models:/ddpm-digits/2" in printed
    register(other, config, newer, measured=numbers(3.0, num_images=9))
    assert champion() == 1
    assert "measured by another protocol" in capsys.readouterr().err
    register(other, config, newer, measured=numbers(9.0))
    assert champion() == 3
    register(mine, config, newer, measured=numbers(9.5))
    assert champion() == 3
    # The champion measured that too, before; now the last of its two protocols is the other.
    register(mine, config, newer, measured=numbers(2.5, num_images=9))
    assert champion() == 4
    register(other, config, newer, measured=numbers(9.0))
    assert champion() == 3
    register(mine, config, newer, measured=numbers(9.5))
    # Registered when versions did not say what they measured, nor whose they are: their run does.
    for tag in client.get_model_version("ddpm-digits", "3").tags:
        if tag.startswith("ddpm."):
            client.delete_model_version_tag("ddpm-digits", "3", tag)
    register(mine, config, ema, measured=numbers(1.0))
    assert champion() == 3
    assert "nothing to compare it by" in capsys.readouterr().err
    register(other, config, ema, measured=numbers(20.0))
    assert champion() == 2
    assert len(client.search_model_versions("name = 'ddpm-digits'")) == 4


def test_weights_are_read_when_they_are_sent(tmp_path, config, ema, monkeypatch):
    """Catches weights that wait in the queue, of which a gigabyte is too many, and those that are
    read again although they are registered."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    store, read = open_store(str(tmp_path / "root")), []
    monkeypatch.setattr(
        Manifest, "read", lambda self, store, role: read.append(role) or pytest.fail("in memory")
    )
    checkpoint = register(store, config, ema)
    record = checkpoint.files["ema"]
    store.delete(f"{checkpoint.folder}/{record.name}")
    tracker = open_tracker(store, config, stage="evaluate", machine_every_s=None)
    tracker.register_model(Weights(checkpoint, config), {})
    assert tracker.close(120)
    assert not read


def test_damaged_weights_are_not_registered(tmp_path, config, ema, monkeypatch, capsys):
    """Catches a copy that nobody compared with what was committed."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    store = open_store(str(tmp_path / "root"))
    record = write_file(store, "runs/tiny/w", "ema", ".safetensors", ema)
    checkpoint = commit(store, "runs/tiny/w", {"ema": record}, {"step": 10})
    store.write(f"runs/tiny/w/{record.name}", ema[:-1] + b"?")
    tracker = open_tracker(store, config, stage="evaluate", machine_every_s=None)
    tracker.register_model(Weights(checkpoint, config), {})
    assert not tracker.close(120)
    printed = capsys.readouterr().err
    assert "did not get the model of tiny (" in printed
    assert "it refused" in printed
    assert "is damaged" in printed
    assert not mlflow.MlflowClient(tracking_uri(store)).search_model_versions()


def test_the_champion_is_registered_once_with_its_metrics(tmp_path, config, ema, monkeypatch):
    """Catches a version for each repetition of the evaluation, one that does not say which weights
    it is, none for another guide of the same weights, and an alias that stays behind, or that goes
    to weights of an earlier step."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    store = open_store(str(tmp_path / "root"))
    newer = safetensors.torch.save(random_weights(config, seed=1))
    for weights in (ema, ema, newer):
        register(store, config, weights)
    client = mlflow.MlflowClient(tracking_uri(store))
    versions = client.search_model_versions("name = 'ddpm-digits'")
    assert sorted(int(one.version) for one in versions) == [1, 2]
    champion = client.get_model_version_by_alias("ddpm-digits", "champion")
    assert int(champion.version) == 2
    (run,) = client.search_runs([client.get_experiment_by_name("ddpm").experiment_id])
    assert champion.run_id == run.info.run_id
    for key in ("fid", "loss"):
        assert len(client.get_metric_history(run.info.run_id, key)) == 1
    models = client.search_logged_models([run.info.experiment_id])
    assert len(models) == 2
    assert all({one.key: one.value for one in model.metrics}["fid"] == 12.5 for model in models)
    assert champion.tags["weights"] == "tiny@10:ema"
    assert "`tiny@10:ema`" in champion.description
    assert "models:/ddpm-digits/" in champion.description
    assert run.data.tags["mlflow.source.name"] == "python -m ddpm_core"

    open_run(store, config)  # of its own weights; those of an earlier step are another evaluation
    earlier = safetensors.torch.save(random_weights(config, seed=2))
    guide = register(store, config.replaced({"sample.model": "@5"}), earlier, step=5)
    assert client.get_model_version_by_alias("ddpm-digits", "champion").version == champion.version
    third = client.get_model_version("ddpm-digits", "3")
    assert (third.tags["weights"], third.tags["step"]) == ("tiny@5:ema", "5")
    assert third.tags["ema_sha256"] == sha256_of(earlier)
    assert third.run_id != champion.run_id
    for _ in range(2):
        register(store, config, newer, guide=guide)
    fourth = client.get_model_version_by_alias("ddpm-digits", "champion")
    assert int(fourth.version) == 4, "the same weights, guided by others since"
    assert fourth.tags["guide_sha256"] == sha256_of(earlier)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri(store))
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", tracking_uri(store))
    loaded = mlflow.pyfunc.load_model("models:/ddpm-digits@champion")
    first = loaded.predict([], params={"seed": 1, "count": 2})
    np.testing.assert_array_equal(first, loaded.predict([], params={"seed": 1, "count": 2}))


def test_what_is_refused_while_it_is_drawn_is_answered_in_words(model, monkeypatch):
    """Catches a refusal that the server answers with an error of its own."""

    def refuse(*_, **__):
        raise ConfigError("eps says nothing of the image there")

    monkeypatch.setattr(Model, "images", refuse)
    with pytest.raises(mlflow.exceptions.MlflowException, match="eps says nothing"):
        model.predict([])
