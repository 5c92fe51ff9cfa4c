import pytest
import torch

from ddpm_core.config import EvaluateConfig, RunConfig
from ddpm_core.errors import ConfigError, DataError, StorageError
from ddpm_core.evaluation.features import classifier, torchscript
from ddpm_core.evaluation.features.kept import (
    describe_network,
    feature_recipe,
    keep_foreign_network,
    load_network,
)
from ddpm_core.evaluation.features.network import extract
from ddpm_core.loading.loader import ImageSet
from ddpm_core.recipes import digits
from ddpm_core.store import manifest
from ddpm_core.store.commit import commit, write_file
from ddpm_core.store.expected import Expected
from ddpm_core.store.storage import sha256_of

CPU = torch.device("cpu")
DATASET = "datasets/d-0123"


def stripes(num: int, seed: int, *, channels: int = 1, size: int = 8) -> ImageSet:
    """Return images of two classes, horizontal and vertical stripes, with noise."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(num) % 2
    rows = torch.arange(size)[:, None].expand(size, size) % 2
    pattern = torch.where(labels[:, None, None] == 0, rows, rows.T)[:, None] * 160.0
    noise = 60 * torch.rand(num, channels, size, size, generator=generator)
    return ImageSet(
        (pattern + noise).to(torch.uint8), {"label": labels}, num_classes=2, counts=(num,)
    )


def loaded(store, recipe, *, calls=None):
    def load(split):
        if calls is not None:
            calls.append(split)
        return stripes(64, seed=0 if split == "train" else 1)

    return load_network(
        store,
        recipe,
        load_train=lambda: load("train"),
        load_test=lambda: load("test"),
        device=CPU,
    )[1]


def recipe_of(evaluate: EvaluateConfig, fingerprint="f" * 64):
    return feature_recipe(evaluate, DATASET, fingerprint)


def run_of(evaluate: EvaluateConfig) -> RunConfig:
    return digits().replaced(
        {f"evaluate.{key}": value for key, value in evaluate.model_dump().items()}
    )


# -- the trained network ---------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 8), (3, 28)])
def test_classifier_learns_and_is_the_same_each_time(shape):
    """Catches: labels and images drawn apart, initial weights or order from a global generator."""
    channels, size = shape
    train, test = (stripes(96, seed, channels=channels, size=size) for seed in (0, 1))
    first = classifier.train_classifier(train, num_steps=25, device=CPU)
    torch.rand(7)  # whatever else has drawn from torch's generator
    second = classifier.train_classifier(train, num_steps=25, device=CPU)
    assert classifier.to_bytes(first) == classifier.to_bytes(second)
    assert classifier.accuracy(first, test, CPU) > 0.95
    assert first.embed(test.pixels).shape == (96, classifier.FEATURE_DIM)


def test_classifier_survives_its_file():
    """Catches: a layer that is not written, features after the nonlinearity for those before."""
    network = classifier.train_classifier(stripes(64, 0), num_steps=2, device=CPU)
    copy = classifier.from_bytes(classifier.to_bytes(network))
    images_u8 = stripes(8, 2).pixels
    assert torch.equal(copy.embed(images_u8), network.embed(images_u8))
    assert (network.embed(images_u8) < 0).any()
    logits = network(images_u8)
    torch.testing.assert_close(network.classify(images_u8), logits.softmax(dim=1))


def test_the_network_is_trained_once_and_then_read(store):
    """Catches: a network per run or per worker, with which no two distances compare."""
    recipe, calls = recipe_of(EvaluateConfig(feature_steps=5)), []
    first, second = loaded(store, recipe, calls=calls), loaded(store, recipe, calls=calls)
    assert calls == ["train", "test"]
    images_u8 = stripes(8, 2).pixels
    assert torch.equal(first.embed(images_u8), second.embed(images_u8))
    about = describe_network(store, recipe)
    assert 0 <= about["held_out_accuracy"] <= 1
    assert (about["kind"], about["num_steps"], about["dataset"]) == ("trained", 5, "f" * 64)
    kept = manifest.load(store, recipe.folder, Expected({"recipe": recipe.values}))
    assert about["network_sha256"] == kept.files["network"].sha256


def test_other_recipes_are_kept_apart():
    """Catches: a network of fewer steps, or of another data set, taken for this one."""
    folders = {
        recipe_of(EvaluateConfig(feature_steps=5)).folder,
        recipe_of(EvaluateConfig(feature_steps=6)).folder,
        recipe_of(EvaluateConfig(feature_steps=5), fingerprint="e" * 64).folder,
        recipe_of(EvaluateConfig(features="a.pt", features_sha256="0" * 64)).folder,
    }
    assert len(folders) == 4
    same = recipe_of(EvaluateConfig(feature_steps=5, seed=9))
    assert same.folder in folders  # the seed of the noise is none of the instrument's


def test_a_network_that_another_process_published_meanwhile_is_taken(store):
    """Catches: two workers that measure with two networks."""
    recipe, calls = recipe_of(EvaluateConfig(feature_steps=5)), []

    def publish_another_one():
        if not calls:
            calls.append("other")
            other = classifier.train_classifier(stripes(64, 7), num_steps=3, device=CPU)
            data = classifier.to_bytes(other)
            record = write_file(store, recipe.folder, "network", ".safetensors", data)
            body = {"recipe": recipe.values, "about": {}}
            commit(store, recipe.folder, {"network": record}, body)
        return stripes(64, seed=0)

    embed = load_network(
        store,
        recipe,
        load_train=publish_another_one,
        load_test=lambda: stripes(64, seed=1),
        device=CPU,
    )[1].embed
    images_u8 = stripes(8, 2).pixels
    other = classifier.train_classifier(stripes(64, 7), num_steps=3, device=CPU)
    assert torch.equal(embed(images_u8), other.embed(images_u8))


@pytest.mark.parametrize(
    "name", [lambda kept: kept.files["network"].name, lambda _kept: "manifest.json"],
    ids=["weights", "manifest"],
)  # fmt: skip
def test_a_damaged_network_is_trained_again(name, store):
    """Catches: features of flipped bits, or an evaluation that nothing can mend."""
    recipe, calls = recipe_of(EvaluateConfig(feature_steps=5)), []
    first = loaded(store, recipe, calls=calls)
    kept = manifest.load(store, recipe.folder, Expected({"recipe": recipe.values}))
    path = store.local_path(f"{recipe.folder}/{name(kept)}")
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    second = loaded(store, recipe, calls=calls)
    assert calls == ["train", "test"] * 2
    images_u8 = stripes(8, 2).pixels
    assert torch.equal(first.embed(images_u8), second.embed(images_u8))


def test_extract_gives_every_image_its_row():
    """Catches: a last batch that is dropped."""
    images_u8 = torch.arange(7, dtype=torch.uint8).reshape(7, 1, 1, 1)
    found = extract(lambda x: x.flatten(1).double(), images_u8, batch_size=3, device=CPU)
    assert found.dtype == torch.float32
    assert found[:, 0].tolist() == list(range(7))


# -- a network from outside ------------------------------------------------------------------------


class Outside(torch.nn.Module):
    """Has the signature of the detectors of StyleGAN and EDM."""

    def forward(self, x: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        x = x.float()
        pooled = torch.stack([x.mean(dim=(2, 3))[:, 0], x[:, 2, 0, 0], x.sum(dim=(1, 2, 3))], dim=1)
        return pooled if return_features else pooled[:, :1] * 0


class Detector(torch.nn.Module):
    """Has both arguments of the detector of the published inception scores."""

    def forward(
        self, x: torch.Tensor, return_features: bool = False, no_output_bias: bool = False
    ) -> torch.Tensor:
        if return_features:
            return torch.full([x.shape[0], 5], 7.0)
        first = 0.25 if no_output_bias else 0.5
        return torch.tensor([first, 1 - first]).repeat(x.shape[0], 1)


class Plain(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.float().mean(dim=(2, 3), keepdim=True)


class Whole(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.float().sum()


def scripted(module, path) -> EvaluateConfig:
    module.eval()
    torch.jit.script(module).save(str(path))
    return EvaluateConfig(features=str(path), features_sha256=sha256_of(path.read_bytes()))


# Scripting is deprecated in torch; the detectors that people compare with are TorchScript files.
deprecated = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")


@deprecated
def test_a_scripted_network_gets_colour_and_return_features(store, tmp_path):
    """Catches: grey images of one channel, logits for features, images in [-1, 1]."""
    evaluate = scripted(Outside(), tmp_path / "net.pt")
    recipe = recipe_of(evaluate)
    keep_foreign_network(store, run_of(evaluate), recipe)
    (tmp_path / "net.pt").unlink()  # from now on it lies beside the data set
    network = loaded(store, recipe)
    assert network.classify is None
    images_u8 = stripes(4, 0).pixels
    found = extract(network.embed, images_u8, batch_size=3, device=CPU)
    grey = images_u8.float()
    expected = [grey.mean(dim=(1, 2, 3)), grey[:, 0, 0, 0], 3 * grey.sum(dim=(1, 2, 3))]
    torch.testing.assert_close(found, torch.stack(expected, dim=1))
    assert describe_network(store, recipe)["sha256"] == evaluate.features_sha256


@deprecated
def test_a_scripted_network_without_that_argument_is_called_without(store, tmp_path):
    """Catches: an argument that the network does not have, features with spatial axes."""
    evaluate = scripted(Plain(), tmp_path / "net.pt")
    keep_foreign_network(store, run_of(evaluate), recipe_of(evaluate))
    assert loaded(store, recipe_of(evaluate)).embed(stripes(4, 0).pixels).shape == (4, 3)


@deprecated
def test_a_detector_with_classes_returns_their_probabilities(tmp_path):
    """Catches: features, or logits with the bias, scored as probabilities."""
    scripted(Detector(), tmp_path / "net.pt")
    network = torchscript.load((tmp_path / "net.pt").read_bytes(), CPU)
    assert network.embed(stripes(4, 0).pixels).tolist() == [[7.0] * 5] * 4
    assert network.classify(stripes(4, 0).pixels).tolist() == [[0.25, 0.75]] * 4


@deprecated
def test_a_network_that_gives_no_features_per_image_is_refused(tmp_path):
    """Catches: moments of something else."""
    scripted(Whole(), tmp_path / "net.pt")
    network = torchscript.load((tmp_path / "net.pt").read_bytes(), CPU)
    with pytest.raises(ConfigError, match="one row of features per image"):
        network.embed(stripes(4, 0).pixels)


def test_a_file_of_another_digest_is_never_loaded(store, tmp_path, monkeypatch):
    """Catches: running a program before, or without, asking whether it is the trusted one."""
    path = tmp_path / "net.pt"
    path.write_bytes(b"not the file that was trusted")
    evaluate = EvaluateConfig(features=str(path), features_sha256="0" * 64)

    def load(*arguments, **options):
        pytest.fail("loaded")

    monkeypatch.setattr(torch.jit, "load", load)
    with pytest.raises(ConfigError, match="features_sha256 is 0000") as refused:
        keep_foreign_network(store, run_of(evaluate), recipe_of(evaluate))
    assert sha256_of(path.read_bytes()) in str(refused.value)
    assert store.names(DATASET) == []


def test_a_url_goes_through_the_one_downloader(tmp_path, monkeypatch):
    """Catches: a download of our own, without the guards of the other: redirects that are checked,
    public hosts, a deadline, a bound."""
    data, asked = b"a network", []
    path = tmp_path / "cached.pt"
    path.write_bytes(data)

    def fetch_pinned(url, sha256, cache, **words):
        asked.append((url, sha256, words["key"], words["max_bytes"]))
        return path

    monkeypatch.setattr(torchscript, "fetch_pinned", fetch_pinned)
    url, sha256 = "https://example.org/net.pt", sha256_of(data)
    assert torchscript.fetch(url, sha256) == data
    assert asked == [(url, sha256, "evaluate.features", 2**31)]


@pytest.mark.parametrize("host", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "[::1]"])
def test_a_host_of_a_private_network_is_refused(host, tmp_path, monkeypatch):
    """Catches: a request to this machine, or to where a cloud's machines get their credentials."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(DataError, match="no public address"):
        torchscript.fetch(f"https://{host}:9/net.pt", "0" * 64)


def test_a_network_that_vanished_is_reported(store):
    """Catches: training a classifier where another network is configured."""
    recipe = recipe_of(EvaluateConfig(features="a.pt", features_sha256="0" * 64))
    with pytest.raises(StorageError, match="emptied meanwhile"):
        loaded(store, recipe)


@pytest.mark.gpu
def test_classifier_learns_on_a_gpu_and_is_read_on_a_cpu(gpu):
    """Catches images or labels on another device, and weights that stay there."""
    train, test = stripes(512, 0), stripes(96, 1)
    network = classifier.train_classifier(train, num_steps=25, device=gpu)
    assert classifier.accuracy(network, test, gpu) > 0.95
    copy = classifier.from_bytes(classifier.to_bytes(network))
    there = extract(network.embed, test.pixels, batch_size=40, device=gpu)
    here = extract(copy.embed, test.pixels, batch_size=40, device=CPU)
    assert there.device == here.device == CPU
    torch.testing.assert_close(there, here, rtol=1e-3, atol=1e-3)
