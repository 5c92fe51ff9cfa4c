"""Images of texts by request: from Python, of the registered model, and by the command `edit`."""

import hashlib
import json
import logging
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import safetensors.torch

from ddpm_core import __main__ as command
from ddpm_core.api import Run
from ddpm_core.errors import ConfigError
from ddpm_core.images import png
from ddpm_core.inference.weights import read_tensors
from ddpm_core.runs import results
from ddpm_core.runs.run import open_run
from ddpm_core.sampling.stage import run_sample
from ddpm_core.sampling.units import first_images
from tests.quiet_mlflow import mlflow
from tests.sampling.tiny import commit_random_weights, tiny_config
from tests.sampling.worded import TEXT_LENGTH, WordedUNet, worded_config

NO_ROWS = pd.DataFrame()


@pytest.fixture
def run(prompted):
    config = worded_config()
    open_run(prompted, config)
    return Run.load("tiny", root=prompted.uri)


@pytest.fixture
def served(prompted, worded, tmp_path, monkeypatch):
    """Give what makes the model as MLflow does, of a configuration and prompts beside it."""
    from ddpm_core.sampling import served_model

    monkeypatch.setattr(served_model, "build_network", WordedUNet)
    config = worded_config()
    weights = safetensors.torch.save(
        read_tensors(prompted, results.final_checkpoint(prompted, config), "ema")
    )
    (tmp_path / "weights").write_bytes(weights)

    def model(prompts=None, **changes):
        (tmp_path / "run.json").write_text(worded_config(**changes).to_json())
        artifacts = {"weights": str(tmp_path / "weights"), "run": str(tmp_path / "run.json")}
        if prompts is not None:
            (tmp_path / "prompts.json").write_text(json.dumps(prompts))
            artifacts["prompts"] = str(tmp_path / "prompts.json")
        made = served_model.SampledImages()
        digest = hashlib.sha256(weights).hexdigest()
        made.load_context(SimpleNamespace(artifacts=artifacts, model_config={"ema_sha256": digest}))
        return made

    return model


@pytest.mark.usefixtures("in_process", "recording_tracker")
def test_images_of_a_request_are_those_of_the_stage(run, prompted):
    """Catches prompts that are passed over, or begin anew, and a default of other texts."""
    config = worded_config()
    run_sample(prompted, config)
    samples = results.samples_of(prompted, config)
    made = first_images(prompted, samples, config.sample, config.data.shape, 4)
    assert run.takes_text
    np.testing.assert_array_equal(run.sample(4), made)
    np.testing.assert_array_equal(run.sample(4, prompts=["a red seven", "two"]), made)
    np.testing.assert_array_equal(run.sample([2], prompts="a red seven"), made[2:3])
    other = run.sample(2, prompts="two")
    np.testing.assert_array_equal(other[1], made[1])
    assert (other[0] != made[0]).any()
    assert results.prompts_of(prompted, config) == ["a red seven", "two"]


def test_an_edit_is_of_its_prompts_or_of_nothing(run):
    """Catches an edit of the run's own prompts where none is given, and of none where one is."""
    images = np.full((2, 8, 8, 1), 100, np.uint8)
    plain = run.edit(images, strength=0.8)
    np.testing.assert_array_equal(plain, run.edit(images, strength=0.8, prompts=""))
    two = run.edit(images, strength=0.8, prompts=["", "two"])
    np.testing.assert_array_equal(two[0], plain[0])
    assert (two[1] != plain[1]).any()


def test_what_is_no_prompt_of_this_model_is_refused(run, worded, store, tmp_path):
    """Catches a text that silently changes nothing, and one that no UTF-8 can say."""
    for wrong in ([1], 7, ["a", None]):
        with pytest.raises(ConfigError, match="must be a text, or texts in a list"):
            run.sample(1, prompts=wrong)
    with pytest.raises(ConfigError, match="cannot be written as UTF-8"):
        run.sample(1, prompts="\ud800")
    with pytest.raises(ConfigError, match="1025 prompts are given, at most 1024"):
        run.sample(1, prompts=["a"] * 1025)
    plain = tiny_config(name="plain")
    commit_random_weights(store, plain)
    open_run(store, plain)
    with pytest.raises(ConfigError, match="of this model are of no text; leave prompts out"):
        Run.load("plain", root=store.uri).sample(1, prompts="a red seven")


def test_a_long_prompt_is_cut_and_it_is_said(run, caplog):
    long = "x" * TEXT_LENGTH
    with caplog.at_level(logging.WARNING):
        cut = run.sample(1, prompts=long)
    assert "1 of 1 prompts are longer than the 15 bytes" in caplog.text
    np.testing.assert_array_equal(cut, run.sample(1, prompts="x" * 15))


# -- the registered model --------------------------------------------------------------------------


def test_the_registered_model_takes_prompts(served, run):
    """Catches prompts that are not passed on, and a model that forgets those of its samples."""
    model = served()
    np.testing.assert_array_equal(model.predict(None, NO_ROWS, {"count": 4}), run.sample(4))
    asked = {"count": 2, "prompts": np.array(["two"]), "guidance_scale": 3.0}
    found = model.predict(None, NO_ROWS, asked)
    np.testing.assert_array_equal(found, run.sample(2, prompts="two", guidance=3.0))
    of_data = served(["two"], **{"sample.prompts": "held_out"})
    np.testing.assert_array_equal(
        of_data.predict(None, NO_ROWS, {"count": 2}), run.sample(2, prompts="two")
    )
    none = served(**{"sample.prompts": "held_out"})
    with pytest.raises(mlflow.exceptions.MlflowException, match="no captions are known of which"):
        none.predict(None, NO_ROWS, {})


def test_the_signature_and_the_example_have_prompts(prompted, tmp_path):
    """Catches a server that refuses prompts, and an example that it would refuse."""
    from ddpm_core.tracking.saved_model import save_model, signature  # after `quiet_mlflow`

    config = worded_config()
    names = [one.name for one in signature(config).params.params]
    assert {"prompts", "guidance_scale"} <= set(names)
    assert "prompts" not in [one.name for one in signature(tiny_config()).params.params]
    (tmp_path / "w").write_bytes(b"weights")
    save_model(tmp_path / "model", config, tmp_path / "w", prompts=["a", "b", "c", "d", "e"])
    example = json.loads((tmp_path / "model" / "serving_input_example.json").read_text())
    assert example["params"]["prompts"] == ["a", "b", "c", "d"]
    kept = tmp_path / "model" / "artifacts" / "prompts.json"
    assert json.loads(kept.read_text()) == ["a", "b", "c", "d", "e"]


# -- the command edit ------------------------------------------------------------------------------


def test_the_command_edit_takes_a_prompt(run, prompted, tmp_path, capsys):
    """Catches a prompt that does not reach the model, and a record that does not say it."""
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 1)).astype(np.uint8)
    (tmp_path / "a.png").write_bytes(png.encode(image))
    words = ["edit", "tiny", "--root", prompted.uri, "--image", str(tmp_path / "a.png")]
    words += ["--strength", "0.8"]
    of_nothing = [*words, "--set", "sample.prompts=held_out", "--out", str(tmp_path / "none")]
    # Also of a run that is drawn so, where nothing can be left out.
    assert command.main([*of_nothing, "--set", "sample.guidance_scale=2"]) == 2
    assert "or --set sample.guidance_scale=1" in capsys.readouterr().err
    made = {}
    for prompt in ("", 'a "red" seven, ü'):
        out = tmp_path / f"out{len(made)}"
        assert command.main([*words, "--prompt", prompt, "--out", str(out)]) == 0
        (record,) = out.glob("edit-*.json")
        assert json.loads(record.read_text())["images"][0]["prompt"] == prompt
        (picture,) = [one for one in out.glob("*.png") if not one.name.startswith("sheet")]
        made[prompt] = png.decode(picture.read_bytes(), (8, 8, 1), origin="it")
    first, second = made.values()
    assert (first != second).any()
    assert command.main([*words, "--prompt", "a", "--prompt", "b"]) != 0
    assert "gives sample.prompts twice" in capsys.readouterr().err
