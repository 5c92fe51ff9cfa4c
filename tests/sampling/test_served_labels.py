"""The registered model of classes: labels by name and number, and guidance, by request."""

import hashlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch

from ddpm_core.conditioning import Conditioning
from ddpm_core.config import SampleConfig
from ddpm_core.diffusion.wrappers.classifier_guidance import Classifier
from ddpm_core.errors import CheckpointError
from ddpm_core.inference.build import build_denoiser
from ddpm_core.inference.networks import build_network
from ddpm_core.sampling.draw import draw, to_u8
from ddpm_core.sampling.guided import guided
from ddpm_core.shards.classes import Classes
from tests.quiet_mlflow import mlflow
from tests.sampling.tiny import classifier_config, tiny_config

NAMES = [f"n{label}" for label in range(6)] + ["twice", "twice", "cat", "3"]
CONFIG = tiny_config(**{"model.conditioning": "label", "sample.batch_size": 4})
NO_ROWS = pd.DataFrame()


@pytest.fixture(scope="module")
def network():
    generator = torch.Generator().manual_seed(0)
    unet = build_network(CONFIG).eval()
    with torch.no_grad():
        for param in unet.parameters():
            param.add_(0.05 * torch.randn(param.shape, generator=generator))
    return unet


@pytest.fixture(scope="module")
def model(network, tmp_path_factory):
    """Give the model as MLflow makes it, without the packing and unpacking of its folder."""
    from ddpm_core.sampling.served_model import SampledImages

    folder = tmp_path_factory.mktemp("served")
    weights = safetensors.torch.save(network.state_dict())
    (folder / "ema.safetensors").write_bytes(weights)
    (folder / "run.json").write_text(CONFIG.to_json())
    served = SampledImages()
    served.load_context(
        SimpleNamespace(
            artifacts={
                "weights": str(folder / "ema.safetensors"),
                "run": str(folder / "run.json"),
            },
            model_config={
                "ema_sha256": hashlib.sha256(weights).hexdigest(),
                "classes": NAMES,
                "class_counts": [1] * 10,
            },
        )
    )
    return served


def drawn(network, labels, scale=1.0):
    denoiser = build_denoiser(CONFIG, network, network.null)
    given = Conditioning(label=torch.tensor(labels))
    with torch.inference_mode():
        x_0 = draw(
            guided(denoiser, given, SampleConfig(guidance_scale=scale)),
            torch.arange(len(labels)),
            CONFIG.data.shape,
            sample=CONFIG.sample,
            seed=0,
        )
    return to_u8(x_0).numpy()


@pytest.mark.parametrize(
    ("params", "labels", "scale"),
    [
        ({}, [0, 1, 2, 3], 1.0),
        ({"labels": ["cat"]}, [8, 8, 8, 8], 1.0),
        # A name goes before a number: "3" is what class 9 is called here.
        ({"labels": np.array(["3", "2"])}, [9, 2, 9, 2], 1.0),
        ({"labels": ["5"], "guidance_scale": 2.0}, [5, 5, 5, 5], 2.0),
    ],
)
def test_images_are_of_the_labels_of_the_request(model, network, params, labels, scale):
    """Catches labels that are passed over, taken for others, or not repeated; and no guidance."""
    found = model.predict(None, NO_ROWS, {"count": 4, **params})
    np.testing.assert_array_equal(found, drawn(network, labels, scale))


@pytest.mark.parametrize(
    ("params", "words"),
    [
        (
            {"labels": ["dog"]},
            "labels has 'dog', which is no class of the images; they are 0 n0, 1 n1",
        ),
        ({"labels": ["twice"]}, "the name of 2 classes"),
        ({"labels": ["10"]}, "the numbers 0 to 9"),
        ({"guidance_scale": -1.0}, "guidance_scale=-1.0: Input should be greater"),
        ({"guidance_scale": float("nan")}, "guidance_scale=NaN: Input should be a finite"),
    ],
)
def test_what_no_class_is_called_is_refused_in_words(model, params, words):
    with pytest.raises(mlflow.exceptions.MlflowException, match=words):
        model.predict(None, NO_ROWS, {"count": 4, **params})


def test_the_signature_has_labels_where_the_network_takes_them():
    """Catches a parameter that MLflow drops since the signature lacks it, and one too many."""
    from ddpm_core.tracking.saved_model import signature

    plain = [param.name for param in signature(tiny_config()).params]
    assert plain == ["seed", "count", "sampler", "num_steps", "format"]
    labelled = signature(CONFIG.replaced({"sample.guidance_scale": 1.5})).params
    assert [param.name for param in labelled] == [*plain, "labels", "guidance_scale"]
    assert labelled.params[-1].default == 1.5
    by = {"sample.guidance_by": "@5", "sample.guidance_scale": 3.0}
    unlabelled = [param.name for param in signature(tiny_config(**by)).params]
    assert unlabelled == [*plain, "guidance_scale"]


def test_a_classifier_lies_in_the_model_and_leads_to_the_labels_of_a_request(monkeypatch, tmp_path):
    """Catches: a classifier that is loaded as what draws, a model of an unconditional network that
    takes no labels, and a request's labels that reach nothing."""
    from ddpm_core.sampling.served_model import SampledImages
    from ddpm_core.tracking.saved_model import save_model

    config = tiny_config(**{"sample.guidance_by": "judge", "sample.guidance_scale": 40.0})
    runs = {"ema": config, "judge": classifier_config()}
    networks = {role: build_network(one).eval() for role, one in runs.items()}
    files = {role: tmp_path / f"{role}.safetensors" for role in runs}
    generator = torch.Generator().manual_seed(0)
    for role, network in networks.items():
        for param in network.parameters():
            param.data += 0.05 * torch.randn(param.shape, generator=generator)
        files[role].write_bytes(safetensors.torch.save(network.state_dict()))
    served, said = SampledImages(), {}

    def load(folder, *, artifacts, model_config, signature, **rest):
        served.load_context(SimpleNamespace(artifacts=artifacts, model_config=model_config))
        said["params"] = [param.name for param in signature.params]

    monkeypatch.setattr(mlflow.pyfunc, "save_model", load)
    classes = Classes(tuple("abcdefghij"), (1,) * 10)
    guide = runs["judge"], files["judge"]
    save_model(tmp_path / "model", config, files["ema"], classes=classes, weaker=guide)
    assert {"labels", "guidance_scale"} < set(said["params"])

    def drawn(labels, scale):
        sample = config.sample.model_copy(update={"guidance_scale": scale})
        denoiser = build_denoiser(config, networks["ema"])
        given = Conditioning(label=torch.tensor(labels))
        followed = guided(denoiser, given, sample, Classifier(networks["judge"]))
        x_0 = draw(followed, torch.arange(2), config.data.shape, sample=sample, seed=0)
        return to_u8(x_0).numpy()

    two = {"count": 2}
    assert np.array_equal(served.predict(None, NO_ROWS, two), drawn([0, 1], 40.0))
    asked = served.predict(None, NO_ROWS, {**two, "labels": ["d", "9"], "guidance_scale": 90.0})
    assert np.array_equal(asked, drawn([3, 9], 90.0))
    assert not np.array_equal(asked, drawn([9, 3], 90.0))
    plain = served.predict(None, NO_ROWS, {**two, "guidance_scale": 0.0})
    assert np.array_equal(plain, drawn([5, 6], 0.0))


def test_the_weights_that_guide_lie_in_the_model(network, monkeypatch, tmp_path):
    """Catches a registered model that is guided by its own null, or by nothing; a guide of other
    bytes than were registered; and one that draws in its place.
    """
    from ddpm_core.sampling.served_model import SampledImages
    from ddpm_core.tracking.saved_model import save_model

    config = CONFIG.replaced({"sample.guidance_by": "@5", "sample.guidance_scale": 3.0})
    weights = network.state_dict()
    weaker = {name: 0.8 * value for name, value in weights.items()}
    files = {role: tmp_path / f"{role}.safetensors" for role in ("ema", "weaker")}
    files["ema"].write_bytes(safetensors.torch.save(weights))
    files["weaker"].write_bytes(safetensors.torch.save(weaker))
    served = SampledImages()

    def load(folder, *, artifacts, model_config, **rest):
        served.load_context(SimpleNamespace(artifacts=artifacts, model_config=model_config))
        Path(artifacts["guide"]).write_bytes(files["ema"].read_bytes())
        with pytest.raises(CheckpointError, match="registered were"):
            SampledImages().load_context(
                SimpleNamespace(artifacts=artifacts, model_config=model_config)
            )

    monkeypatch.setattr(mlflow.pyfunc, "save_model", load)
    save_model(tmp_path / "model", config, files["ema"], weaker=(config, files["weaker"]))

    other = build_network(CONFIG).eval()
    other.load_state_dict(weaker)
    given = Conditioning(label=torch.arange(4))
    with torch.inference_mode():
        followed = guided(
            build_denoiser(CONFIG, network, network.null),
            given,
            config.sample,
            build_denoiser(CONFIG, other, other.null),
        )
        x_0 = draw(followed, torch.arange(4), CONFIG.data.shape, sample=config.sample, seed=0)
    assert np.array_equal(served.predict(None, NO_ROWS, {}), to_u8(x_0).numpy())
    with pytest.raises(mlflow.exceptions.MlflowException, match="the weaker model alone"):
        served.predict(None, NO_ROWS, {"guidance_scale": 0.0})
