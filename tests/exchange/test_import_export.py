"""Weights from outside as a run, and a run as a folder: the same images, the same bits."""

import json

import diffusers
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import SiglipTextModel

from ddpm_core import __main__ as command
from ddpm_core.conditioning import NOTHING, Conditioning
from ddpm_core.config import RunConfig
from ddpm_core.diffusion.samplers.ancestral import ddpm_sample
from ddpm_core.errors import CheckpointError, ConfigError, RunConflictError
from ddpm_core.evaluation.stage import run_evaluate
from ddpm_core.exchange.described import read_network
from ddpm_core.exchange.networks import write_network
from ddpm_core.import_export import export_weights, import_weights, read_weights
from ddpm_core.inference.denoiser import load_denoiser
from ddpm_core.inference.networks import build_network
from ddpm_core.inference.weights import load_average
from ddpm_core.models.interop import original_name
from ddpm_core.models.text_interop import input_ids
from ddpm_core.recipes import digits
from ddpm_core.runs import base, layout, results
from ddpm_core.sampling.stage import run_sample
from ddpm_core.sharding.stage import run_shard
from ddpm_core.store.storage import open_store
from ddpm_core.text.tokens import encode
from ddpm_core.training.stage import run_train
from flows import plan
from tests import quiet_mlflow  # noqa: F401 - run_train opens a tracker in this process
from tests.exchange.theirs import SMALL_SCHEDULER, their_folder
from tests.models.adm_oracle import SMALL, TEXT
from tests.models.test_interop import original_variables
from tests.sampling.tiny import commit_random_weights, tiny_config

CPU = torch.device("cpu")
FEW = {
    "sample.num_images": 8,
    "sample.unit_size": 4,
    "sample.batch_size": 4,
    "sample.num_grid_images": 4,
    "sample.num_strip_images": 2,
    "evaluate.num_likelihood_images": 4,
    "evaluate.batch_size": 16,
    "evaluate.feature_steps": 5,
    "compute.num_workers": 1,
}


OF_DIGITS = {"data.name": "digits", "data.captions": "classes", "data.num_test_images": 297}


def imported(folder, root, *, run="theirs", recipe="digits", **changes) -> RunConfig:
    """Import a folder below `root` and return the run's configuration, read back."""
    found = read_weights(str(folder), recipe, root=str(root), run=run, changes=FEW | changes)
    import_weights(open_store(found.root), found)
    return RunConfig.from_json((root / f"runs/{run}/run.json").read_bytes())


@pytest.fixture
def folder(tmp_path):
    """Give a small pipeline in the shape of google/ddpm-cifar10-32, and its network."""
    path = tmp_path / "pipeline"
    return path, their_folder(path)


def exported(root, target, **changes):
    """Commit a run with random weights below `root` and write its folder."""
    store = open_store(str(root))
    config = tiny_config(
        **{
            "model.channel_mults": [1, 2, 1],
            "model.num_res_blocks": 2,
            "model.attention_resolutions": [2, 8],
            "model.base_channels": 16,
            **changes,
        }
    )
    store.create(layout.run_json_key(config.name), config.to_json().encode())
    checkpoint = commit_random_weights(store, config)
    export_weights(str(root / layout.run_json_key(config.name)), str(target))
    return config, load_average(store, checkpoint)


def test_a_run_of_labels_goes_to_diffusers_and_back(tmp_path):
    """Catches: a table of classes that is lost, a null that becomes a class, labels of others."""
    labels = {"model.conditioning": "label"}
    config, ema = exported(tmp_path / "ours", tmp_path / "folder", **labels)
    assert not (tmp_path / "folder/model_index.json").exists(), "DDPMPipeline gives no labels"
    theirs = diffusers.UNet2DModel.from_pretrained(tmp_path / "folder" / "unet").eval()
    ours = build_network(config).eval()
    ours.load_state_dict(ema)
    x_t, t, label = torch.randn(3, 1, 8, 8), torch.tensor([0, 7, 20]), torch.tensor([0, 9, 10])
    with torch.no_grad():
        expected = theirs(x_t, t, class_labels=label).sample
        found = ours(x_t, t, Conditioning(label=label))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    back = imported(tmp_path / "folder", tmp_path / "again")
    assert back.num_classes == 10
    store = open_store(str(tmp_path / "again"))
    again = load_average(store, results.final_checkpoint(store, back))
    assert torch.equal(again["class_embed.weight"], ema["class_embed.weight"])


@pytest.mark.parametrize(
    "model",
    [{"model.text_pool": "last"}, {"model.text_pool": "attention"}, {"model.conditioning": "none"}],
)
def test_guided_diffusion_goes_to_diffusers_and_back_with_its_encoder(tmp_path, model):
    """Catches: an encoder that stays behind, a folder that neither library loads, other texts than
    ours; other weights or keys when it comes back; a recipe of texts whose keys stand in the way.
    """
    kinds = TEXT if "model.text_pool" in model else SMALL
    changes = kinds | {"model.num_res_blocks": [1], "model.attention_resolutions": [8, 2]} | model
    changes |= {"data.captions": "classes"}
    config, ema = exported(tmp_path / "ours", tmp_path / "folder", **changes)
    folder, ours = tmp_path / "folder", build_network(config).eval()
    ours.load_state_dict(ema)
    x_t, t, given = torch.randn(2, 1, 8, 8), torch.tensor([0, 20]), NOTHING
    if config.model.uses_text:
        text = encode(["the seven", ""], 12)
        given = Conditioning(text=text)
        encoder = SiglipTextModel.from_pretrained(folder / "text_encoder").eval()
        theirs = diffusers.UNet2DConditionModel.from_pretrained(folder / "unet").eval()
        with torch.no_grad():
            states = encoder(input_ids(text))
            labels = states.pooler_output if config.model.text_pool == "last" else None
            found = theirs(x_t, t, states.last_hidden_state, class_labels=labels).sample
    else:
        pipeline = diffusers.DDPMPipeline.from_pretrained(folder)
        with torch.no_grad():
            found = pipeline.unet.eval()(x_t, t).sample
    with torch.no_grad():
        torch.testing.assert_close(found, ours(x_t, t, given), rtol=1e-4, atol=1e-5)
    back = imported(
        folder,
        tmp_path / "again",
        recipe="glide-small" if config.model.uses_text else "digits",
        **OF_DIGITS if config.model.uses_text else {},
    )
    assert back.model == config.model
    store = open_store(str(tmp_path / "again"))
    again = load_average(store, results.final_checkpoint(store, back))
    assert again.keys() == ema.keys()
    assert all(torch.equal(again[name], ema[name]) for name in ema)
    if config.model.uses_text:
        start = {"train.start_from": str(folder)}
        with pytest.raises(ConfigError, match="make it a run by import-weights"):
            base.base_of(store, config.replaced(start))
        (folder / "text_encoder/config.json").unlink()
        with pytest.raises(ConfigError, match="networks of texts are taken with the encoder"):
            imported(folder, tmp_path / "third", recipe="glide-small", **OF_DIGITS)


def test_our_run_written_for_diffusers_and_imported_again_has_the_same_bits(tmp_path):
    """Catches: a rounded weight, a level that moved, a chain that is nearly the same."""
    config, ema = exported(tmp_path / "ours", tmp_path / "folder")
    back = imported(tmp_path / "folder", tmp_path / "again")
    assert back.model == config.model.model_copy(
        update={"attention_resolutions": back.model.attention_resolutions}
    )
    assert set(back.model.attention_resolutions) == set(config.model.attention_resolutions)
    assert back.diffusion == config.diffusion
    store = open_store(str(tmp_path / "again"))
    checkpoint = results.final_checkpoint(store, back)
    again = load_average(store, checkpoint)
    assert again.keys() == ema.keys()
    assert all(torch.equal(again[name], ema[name]) for name in ema)
    first = results.final_checkpoint(open_store(str(tmp_path / "ours")), config)
    assert checkpoint.files["ema"].sha256 == first.files["ema"].sha256


@pytest.mark.parametrize(
    ("variance", "prediction", "loss"),
    [("fixed_small", "eps", "simple"), ("learned_range", "v", "hybrid")],
)
def test_diffusers_loads_our_folder_and_computes_the_same(tmp_path, variance, prediction, loss):
    """Catches: a folder that diffusers loads with other defaults than we have; in float64."""
    config, ema = exported(
        tmp_path / "ours",
        tmp_path / "folder",
        **{
            "diffusion.variance": variance,
            "diffusion.prediction": prediction,
            "train.loss": loss,
        },
    )
    pipeline = diffusers.DDPMPipeline.from_pretrained(tmp_path / "folder")
    alone = diffusers.UNet2DModel.from_pretrained(tmp_path / "folder/unet").double()
    scheduler = diffusers.DDPMScheduler.from_pretrained(tmp_path / "folder/scheduler")
    assert type(pipeline.scheduler) is diffusers.DDPMScheduler
    assert scheduler.config.variance_type == variance
    assert scheduler.config.num_train_timesteps == config.diffusion.num_timesteps

    ours = build_network(config).double().eval()
    ours.load_state_dict(ema)
    theirs = pipeline.unet.double().eval()
    x_t = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    t = torch.tensor([0, 20])
    with torch.no_grad():
        expected = ours(x_t, t)
        assert expected.shape[1] == config.out_channels
        assert float(expected.std()) > 0.1
        assert float((theirs(x_t, t).sample - expected).abs().max()) < 1e-10
        assert float((alone.eval()(x_t, t).sample - expected).abs().max()) < 1e-10


@pytest.mark.parametrize("kind", ["flow", "edm"])
def test_a_run_in_continuous_time_goes_to_diffusers_and_back(tmp_path, kind):
    """Catches: an index of a pipeline that does not scale EDM's images, a chain in the place of the
    path, a layer of the augmentation that diffusers does not know, and another run that begins from
    the folder as if it were of a chain."""
    changes = {"diffusion.kind": kind, "train.augment": 0.1}
    config, ema = exported(tmp_path / "ours", tmp_path / "folder", **changes)
    if kind == "flow":
        pipeline = diffusers.DDPMPipeline.from_pretrained(tmp_path / "folder")
        assert type(pipeline.scheduler) is diffusers.FlowMatchEulerDiscreteScheduler
        pipeline.set_progress_bar_config(disable=True)
        assert pipeline(2, num_inference_steps=3, output_type="np").images.shape == (2, 8, 8, 1)
    else:
        assert not (tmp_path / "folder/model_index.json").exists()
        scheduler = diffusers.EDMEulerScheduler.from_pretrained(tmp_path / "folder/scheduler")
        assert scheduler.config.sigma_data == config.diffusion.sigma_data
    back = imported(tmp_path / "folder", tmp_path / "again", recipe="digits-edm")
    default = 1000 if kind == "flow" else config.diffusion.num_timesteps
    assert back.diffusion == config.diffusion.model_copy(update={"num_timesteps": default})
    store = open_store(str(tmp_path / "again"))
    again = load_average(store, results.final_checkpoint(store, back))
    assert ema.keys() - again.keys() == {"augment_embed.weight"}
    assert all(torch.equal(again[name], ema[name]) for name in again)

    begun = config.replaced({"name": "new", "train.start_from": str(tmp_path / "folder")})
    assert base.require_fit(store, begun) is None
    with pytest.raises(ConfigError, match=f'diffusion.kind: "{kind}" there, "chain" here'):
        base.require_fit(store, begun.replaced({"diffusion.kind": "chain"}))


TRANSFORMER = {
    "model.kind": "dit",
    "model.patch_size": 4,
    "model.hidden_size": 16,
    "model.num_layers": 2,
    "model.num_heads": 2,
    "diffusion.variance": "learned_range",
    "train.loss": "hybrid",
}


def of_transformer(**changes) -> RunConfig:
    return digits().replaced(TRANSFORMER | changes)


def test_a_transformer_is_loaded_by_diffusers_and_imported_again(tmp_path, in_process):
    """Catches: a U-Net's folder for a network that is none; an epsilon or a size that diffusers has
    otherwise; a weight that is lost on the way back."""
    store, config = open_store(str(tmp_path / "ours")), of_transformer()
    store.create(layout.run_json_key(config.name), config.to_json().encode())
    ema = load_average(store, commit_random_weights(store, config))
    export_weights(store.uri_of(layout.run_json_key(config.name)), str(tmp_path / "folder"))
    assert not (tmp_path / "folder/model_index.json").exists()
    theirs = diffusers.DiTTransformer2DModel.from_pretrained(tmp_path / "folder/transformer")
    assert diffusers.DDPMScheduler.from_pretrained(tmp_path / "folder/scheduler")
    ours = build_network(config).double().eval()
    ours.load_state_dict(ema)
    x_t = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    t = torch.tensor([0, 20])
    with torch.no_grad():
        expected, labels = ours(x_t, t), torch.tensor([0, 1])
        assert expected.shape[1] == 2
        assert float(expected.std()) > 0.1
        found = theirs.double().eval()(x_t, t, class_labels=labels).sample
    assert float((found - expected).abs().max()) < 1e-10

    back = imported(tmp_path / "folder", tmp_path / "again")
    assert back.model == config.model
    assert back.diffusion == config.diffusion
    store = open_store(str(tmp_path / "again"))
    again = load_average(store, results.final_checkpoint(store, back))
    assert again.keys() == ema.keys()
    assert all(torch.equal(again[name], ema[name]) for name in ema)
    run_sample(store, back.replaced({"sample.sampler": "ddim", "sample.num_steps": 2}))
    assert len(in_process.units) == 2


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"norm_eps": 1e-5}, "norm_eps=1e-05: must be 1e-06"),
        ({"activation_fn": "gelu"}, 'activation_fn="gelu": must be "gelu-approximate"'),
        ({"out_channels": 3}, "must be in_channels=1, or twice that"),
        ({"caption_channels": 7}, "does not know what that changes"),
    ],
)
def test_a_transformer_that_is_another_function_is_refused(changes, part):
    """Catches: weights that are taken for those of another network."""
    for conditioning in ("label", "none"):
        config = of_transformer(**{"model.conditioning": conditioning})
        values = write_network(config).config
        found = config.replaced({"model.num_classes": config.num_classes}).model.model_dump()
        assert read_network(values, origin="ours").model == found
    with pytest.raises(ConfigError) as caught:
        read_network(values | changes, origin="ours")
    assert part in str(caught.value)


def test_what_diffusers_or_the_original_has_not_is_refused(tmp_path):
    """Catches: an image that diffusers takes for a square; a traceback of a transformer's keys."""
    with pytest.raises(ConfigError, match="8x16: a DiTTransformer2DModel is for square ones"):
        write_network(of_transformer(**{"data.width": 16}))
    with pytest.raises(ConfigError, match="no pipeline of diffusers gives a network on pixels the"):
        write_network(digits().replaced({"model.known": True}))
    source, changes = str(tmp_path / "weights.npz"), {"model.kind": "dit"}
    with pytest.raises(ConfigError, match=r"model\.kind=dit: the original's variables"):
        read_weights(source, "digits", root=str(tmp_path), run="x", changes=changes)
    with pytest.raises(ConfigError, match="takes no labels; take a recipe without them"):
        read_weights(source, "digits-classes", root=None, run="x", changes={})


@pytest.mark.parametrize(
    "scheduler",
    [
        {},
        {"variance_type": "fixed_small", "beta_schedule": "squaredcos_cap_v2"},
        {"prediction_type": "sample", "variance_type": "fixed_small_log"},
        {"prediction_type": "v_prediction", "variance_type": "learned_range"},
    ],
)
def test_their_folder_draws_the_images_that_diffusers_draws_with_the_same_noise(
    tmp_path, scheduler
):
    """Catches: another variance, prediction or chain than the folder says; betas scaled by 1000/T.

    The chain's numbers in diffusers are float32; in float64 they are its formulas, exactly.
    """
    learned = scheduler.get("variance_type") == "learned_range"
    unet = their_folder(
        tmp_path / "folder", unet={"out_channels": 2 if learned else 1}, scheduler=scheduler
    )
    config = imported(tmp_path / "folder", tmp_path / "root")
    store = open_store(str(tmp_path / "root"))
    denoiser = load_denoiser(store, config, results.final_checkpoint(store, config), CPU)
    generator = torch.Generator().manual_seed(2)
    x_T = torch.randn(3, 1, 8, 8, generator=generator, dtype=torch.float64)
    noise = torch.randn(20, 3, 1, 8, 8, generator=generator, dtype=torch.float64)
    found = ddpm_sample(denoiser, x_T, noise=lambda t: noise[t])

    chain = diffusers.DDPMScheduler(**(SMALL_SCHEDULER | scheduler))
    chain.alphas_cumprod = (1 - denoiser.schedule.betas).cumprod(0)
    torch.testing.assert_close(chain.betas.double(), denoiser.schedule.betas, rtol=1e-5, atol=0)
    chain.set_timesteps(20)
    x = x_T
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        for t in chain.timesteps.tolist():
            patch.setattr(
                "diffusers.schedulers.scheduling_ddpm.randn_tensor",
                lambda shape, t=t, **options: noise[t],
            )
            output = unet(x.float(), torch.tensor(t)).sample.double()
            x = chain.step(output, t, x).prev_sample
    assert float(found.std()) > 0.1
    assert float((found - x).abs().max()) < 1e-4


def test_an_imported_run_is_trained_and_says_where_it_is_from(folder, tmp_path, capsys):
    """Catches: a training of one step over the weights; weights that pass for our training's."""
    path, unet = folder
    config = imported(path, tmp_path / "root")
    assert config.name == "theirs"
    assert config.train.num_steps == 1
    assert config.diffusion.variance == "fixed_large"
    assert config.model.attention_resolutions == (4,)
    store = open_store(str(tmp_path / "root"))
    checkpoint = results.final_checkpoint(store, config)
    assert checkpoint.body["imported"].keys() == {
        "format",
        "weights_sha256",
        "unet_sha256",
        "scheduler_sha256",
    }
    assert checkpoint.body["imported"]["format"] == "diffusers"
    assert checkpoint.body["images_seen"] == 0
    assert len(load_average(store, checkpoint)) == len(unet.state_dict())
    run_train(store, config)
    assert "done already" in capsys.readouterr().out
    before = store.read(f"{checkpoint.folder}/manifest.json")
    imported(path, tmp_path / "root")
    assert store.read(f"{checkpoint.folder}/manifest.json") == before


def test_an_imported_run_samples_and_evaluates(folder, tmp_path, in_process, recording_tracker):
    """Catches: a stage that needs something of a checkpoint that only a training leaves."""
    config = imported(folder[0], tmp_path / "root")
    store = open_store(str(tmp_path / "root"))
    run_sample(store, config)  # for this, no data set has to be there
    assert results.samples_of(store, config).body["variance"] == "fixed_large"
    run_shard(store, config)
    numbers = run_evaluate(store, config)
    assert np.isfinite(numbers["bits_per_dim"]["value"])
    assert np.isfinite(numbers["frechet_distance"]["value"])
    ema = results.final_checkpoint(store, config).files["ema"].sha256
    assert numbers["bits_per_dim"]["protocol"]["ema_sha256"] == ema
    assert recording_tracker.files["pictures/loss-figure.png"].startswith(b"\x89PNG")


def test_old_names_and_half_precision_become_the_same_run(folder, tmp_path):
    """Catches: a folder as it was published in 2022 that is refused, or read as something else."""
    path, _ = folder
    file = path / "unet/diffusion_pytorch_model.safetensors"
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    halved = {name: tensor.half() for name, tensor in load_file(file).items()}
    save_file(halved, file)
    now = read_weights(str(path), "digits", root=str(tmp_path / "a"), run="a", changes={})
    for new_part, old_part in old.items():
        halved = {
            name.replace(f".{new_part}.", f".{old_part}."): tensor
            for name, tensor in halved.items()
        }
    assert any(".proj_attn." in name for name in halved)
    save_file(halved, file)
    then = read_weights(str(path), "digits", root=str(tmp_path / "a"), run="a", changes={})
    assert all(torch.equal(then.weights[name], now.weights[name]) for name in now.weights)
    assert then.provenance["weights_sha256"] != now.provenance["weights_sha256"]


def test_a_checkpoint_of_the_original_becomes_the_run_of_its_recipe(tmp_path):
    """Catches: raw weights for averages, or an .npz that brings half a network."""
    changes = FEW | {"train.num_steps": 790_000}
    state = build_network(tiny_config(**changes)).state_dict()
    weights = {
        name: tensor + torch.arange(tensor.numel()).reshape(tensor.shape) / 7
        for name, tensor in state.items()
    }
    arrays = {name: value.numpy() for name, value in original_variables(weights, 1).items()}
    dump = {f"{name}/ExponentialMovingAverage": array for name, array in arrays.items()}
    dump |= {name: np.zeros_like(array) for name, array in arrays.items()}
    dump |= {f"{name}/Adam": np.zeros_like(array) for name, array in arrays.items()}
    path = tmp_path / "ddpm.npz"
    np.savez(path, **dump, global_step=np.int64(790_000))
    tiny = {
        key: value
        for key, value in tiny_config(**changes).flat().items()
        if key.startswith(("model.", "diffusion."))
    }
    config = imported(path, tmp_path / "root", **tiny, **{"train.num_steps": 790_000})
    store = open_store(str(tmp_path / "root"))
    checkpoint = results.final_checkpoint(store, config)
    assert checkpoint.body["step"] == 790_000
    assert checkpoint.body["imported"]["format"] == "tensorflow-npz"
    ema = load_average(store, checkpoint)
    assert all(torch.equal(ema[name], weights[name]) for name in weights)

    name = original_name("middle.attention.key.weight", 1)
    del dump[f"{name}/ExponentialMovingAverage"]
    np.savez(path, **dump)
    with pytest.raises(CheckpointError, match=r"1 missing \(model/mid/attn_1/k/W\)"):
        imported(path, tmp_path / "root", run="half", **tiny)
    assert not (tmp_path / "root/runs/half").exists()


@pytest.mark.parametrize(
    ("recipe", "changes", "part"),
    [
        ("cifar10", {}, "draws images of 1x8x8 (channels, height, width), the recipe cifar10 has"),
        ("digits", {"data.height": 16}, "the recipe digits has 1x16x8"),
        ("digits", {"model.dropout": 0.5}, "--set model.dropout: the folder says what network"),
        ("digits", {"diffusion.num_timesteps": 50}, "--set diffusion.num_timesteps: the folder"),
        ("digits", {"train.augment": 0.1}, "begin an augmented run from theirs"),
        ("runs/x/run.json", {}, "no recipe 'runs/x/run.json'"),
    ],
)
def test_a_recipe_that_does_not_fit_the_folder_is_refused(folder, tmp_path, recipe, changes, part):
    """Catches: a network that is asked for images of a size that it was not trained on."""
    with pytest.raises(ConfigError) as caught:
        read_weights(
            str(folder[0]), recipe, root=str(tmp_path / "root"), run="theirs", changes=changes
        )
    assert part in str(caught.value)


@pytest.mark.parametrize(
    ("unet", "scheduler"),
    [({"out_channels": 2}, {}), ({}, {"variance_type": "learned_range"})],
)
def test_an_output_that_does_not_fit_the_variance_is_refused(tmp_path, unet, scheduler):
    """Catches: half of an output that is thrown away, or a second half that is not there."""
    their_folder(tmp_path / "folder", unet=unet, scheduler=scheduler)
    with pytest.raises(ConfigError, match=r"out_channels=\d, and with its scheduler's variance"):
        imported(tmp_path / "folder", tmp_path / "root")


def test_a_name_is_required_and_no_other_run_is_written_over(folder, tmp_path):
    """Catches: imported weights that pass for the result of the training they stand beside."""
    path, _ = folder
    with pytest.raises(ConfigError, match="give --run NAME"):
        read_weights(str(path), "digits", root=str(tmp_path / "root"), run=None, changes={})
    imported(path, tmp_path / "root")
    their_folder(tmp_path / "other", unet={"dropout": 0.25})
    with pytest.raises(RunConflictError, match=r"model\.dropout: 0\.0 -> 0\.25"):
        imported(tmp_path / "other", tmp_path / "root")
    file = path / "unet/diffusion_pytorch_model.safetensors"
    save_file({name: 2 * tensor for name, tensor in load_file(file).items()}, file)
    with pytest.raises(RunConflictError, match="has other weights, imported from other files"):
        imported(path, tmp_path / "root")


def test_imported_weights_do_not_end_a_training(folder, tmp_path):
    """Catches: a run in training that is suddenly done."""
    path, _ = folder
    found = read_weights(str(path), "digits", root=str(tmp_path / "root"), run="x", changes=FEW)
    store = open_store(found.root)
    commit_random_weights(store, found.config)
    with pytest.raises(RunConflictError, match="has checkpoints of a training"):
        import_weights(store, found)


@pytest.mark.parametrize("more", [["--dry-run"], []])
@pytest.mark.parametrize("stage", ["train", "shard"])
def test_imported_weights_are_not_trained_on_under_another_name(
    stage, more, folder, tmp_path, capsys
):
    """Catches: `train` of an imported run's file that begins with random weights without a word."""
    root = tmp_path / "root"
    imported(folder[0], root)
    run_json = str(root / "runs/theirs/run.json")
    words = [stage, run_json, "--run", "more", "--set", "train.num_steps=5", *more]
    assert command.main(words) == 2
    said = capsys.readouterr().err
    assert "is a run of imported weights" in said
    assert "'more' would begin with random ones" in said
    assert not (root / "runs/more").exists()
    with pytest.raises(ConfigError, match="imported weights"):
        plan.resolve(run_json, root=None, run="more", overrides={})
    plan.resolve(run_json, root=None, run=None, overrides={})


def test_an_import_that_was_killed_leaves_no_run_to_train(folder, tmp_path, monkeypatch):
    """Catches: run.json before the weights: `train` would then make weights of its own."""
    path, _ = folder

    def killed(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("ddpm_core.import_export.checkpoint.commit", killed)
    with pytest.raises(KeyboardInterrupt):
        imported(path, tmp_path / "root")
    assert not (tmp_path / "root/runs/theirs/run.json").exists()


def test_a_run_without_its_last_checkpoint_is_not_exported(tmp_path):
    """Catches: a folder of weights that are still in training."""
    store = open_store(str(tmp_path / "root"))
    config = tiny_config()
    store.create(layout.run_json_key(config.name), config.to_json().encode())
    with pytest.raises(CheckpointError, match="has no checkpoint of step 10"):
        export_weights(str(tmp_path / "root/runs/tiny/run.json"), str(tmp_path / "folder"))
    assert not (tmp_path / "folder").exists()


def test_the_commands_import_and_export(folder, tmp_path, capsys):
    """Catches: a command that is not wired, a dry run that writes, an error with a traceback."""
    path, root = str(folder[0]), str(tmp_path / "root")
    importing = ["import-weights", path, "digits", "--root", root, "--run", "theirs"]
    assert command.main([*importing, "--dry-run"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["diffusion"]["num_timesteps"] == 20
    assert shown.err.startswith("plan: import-weights: ")
    assert not list(tmp_path.glob("root/*"))

    assert command.main(importing) == 0
    run_json = f"{root}/runs/theirs/run.json"
    assert capsys.readouterr().out.endswith(f"python -m ddpm_core sample {run_json}\n")
    assert command.main(["sample", run_json, "--dry-run"]) == 0
    # Its one step is the user's word, and ema_decay decayed nothing.
    assert "first weights" not in capsys.readouterr().err
    assert command.main(["export-weights", run_json, str(tmp_path / "back")]) == 0
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith("weights: theirs@1:ema ")
    assert "first weights" not in first
    assert last == f"export-weights  {tmp_path / 'back'}"
    assert command.main(["export-weights", run_json, "x", "--model", "@2"]) == 4
    assert "there are those of step 1" in capsys.readouterr().err
    assert command.main(["export-weights", run_json, "x", "--model", ":raw"]) == 4
    assert "no weights 'raw'; it has ema" in capsys.readouterr().err
    first = load_file(f"{path}/unet/diffusion_pytorch_model.safetensors")
    back = load_file(tmp_path / "back/unet/diffusion_pytorch_model.safetensors")
    assert first.keys() == back.keys()
    assert all(torch.equal(first[name], back[name]) for name in first)

    assert command.main([*importing[:3], "--root", root]) == 2
    assert capsys.readouterr().err.startswith("import-weights: the run of imported weights has no")
