"""Folders of diffusers: found in both layouts, written whole, read within bounds."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from ddpm_core.errors import CheckpointError, ConfigError, RunConflictError
from ddpm_core.exchange.folder import exact_float32, read_folder, write_folder
from ddpm_core.exchange.networks import Written
from tests.exchange.theirs import GOOGLE_SCHEDULER, GOOGLE_UNET

WEIGHTS = {"conv_in.weight": torch.arange(6.0).reshape(2, 3), "conv_in.bias": torch.ones(2)}
WRITTEN = Written("unet", GOOGLE_UNET, "DDPMPipeline")
FILES = {
    "model_index.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "scheduler/scheduler_config.json",
}


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "pipeline"
    write_folder(str(path), network=WRITTEN, scheduler=GOOGLE_SCHEDULER, weights=WEIGHTS)
    return path


def files_in(path) -> set[str]:
    return {str(one.relative_to(path)) for one in path.rglob("*") if one.is_file()}


def at_the_top(folder):
    """Bring a pipeline's files to where google/ddpm-cifar10-32 has them."""
    for part in ("unet", "scheduler"):
        for file in (folder / part).iterdir():
            file.rename(folder / file.name)
        (folder / part).rmdir()


@pytest.mark.parametrize("flat", [False, True])
def test_what_is_written_is_read_in_either_layout(folder, flat):
    """Catches: the folder of google/ddpm-cifar10-32 itself, which has all its files at the top."""
    assert files_in(folder) == FILES
    if flat:
        at_the_top(folder)
    found = read_folder(str(folder))
    assert found.network == GOOGLE_UNET
    assert found.scheduler == GOOGLE_SCHEDULER
    assert all(torch.equal(found.weights[name], WEIGHTS[name]) for name in WEIGHTS)
    assert {len(digest) for digest in found.digests.values()} == {64}
    assert len(set(found.digests.values())) == 3


def test_a_network_with_its_scheduler_beside_it_needs_no_index(folder):
    """Catches: a bare UNet2DModel that is refused for what it does not need."""
    at_the_top(folder)
    (folder / "model_index.json").unlink()
    assert read_folder(str(folder)).network == GOOGLE_UNET


def test_writing_the_same_again_is_fine_and_other_weights_are_not_written_over_it(folder):
    """Catches: somebody's folder that is lost, or one that is half of this and half of that."""
    written = {"network": WRITTEN, "scheduler": GOOGLE_SCHEDULER}
    write_folder(str(folder), **written, weights=WEIGHTS)
    with pytest.raises(RunConflictError, match="holds other bytes"):
        write_folder(str(folder), **written, weights={"conv_in.bias": torch.zeros(2)})
    assert files_in(folder) == FILES
    loaded = load_file(folder / "unet/diffusion_pytorch_model.safetensors")
    assert torch.equal(loaded["conv_in.bias"], WEIGHTS["conv_in.bias"])


def test_pickled_weights_are_never_read(folder):
    """Catches: torch.load of a file from the internet."""
    path = folder / "unet/diffusion_pytorch_model.safetensors"
    path.unlink()
    torch.save(WEIGHTS, folder / "unet/diffusion_pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"diffusion_pytorch_model\.bin would have to be unp"):
        read_folder(str(folder))


@pytest.mark.parametrize(
    ("gone", "part"),
    [
        ("unet/config.json", "nor transformer/config.json nor config.json, which describes the n"),
        ("scheduler/scheduler_config.json", "nor scheduler_config.json, which describes the chain"),
        ("unet/diffusion_pytorch_model.safetensors", "is not there (beside it: config.json)"),
    ],
)
def test_a_file_that_is_not_there_is_named(folder, gone, part):
    """Catches: the recipe's chain for a network that was trained on another, without a word."""
    (folder / gone).unlink()
    with pytest.raises((ConfigError, CheckpointError)) as caught:
        read_folder(str(folder))
    assert part in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "part"),
    [
        ("unet/config.json", '{"act_fn": "silu", "act_fn": "gelu"}', "gives act_fn more than once"),
        ("unet/config.json", "[]", "must hold one JSON object"),
        ("scheduler/scheduler_config.json", '{"beta_end": NaN}', "contains NaN"),
        ("model_index.json", '{"unet": [], "scheduler": [], "vqvae": []}', "pipeline of scheduler"),
        ("unet/diffusion_pytorch_model.safetensors", "no", "is no safetensors file"),
    ],
)
def test_a_file_that_is_not_what_it_should_be_is_refused(folder, name, text, part):
    """Catches: json.load, which takes anything; a latent model whose images are no images."""
    (folder / name).write_text(text)
    with pytest.raises((ConfigError, CheckpointError)) as caught:
        read_folder(str(folder))
    assert part in str(caught.value)


def test_an_oversized_file_is_not_read_to_its_end(folder, monkeypatch):
    """Catches: a bound that is looked at after everything is in memory."""
    monkeypatch.setattr("ddpm_core.exchange.folder.MAX_WEIGHT_BYTES", 100)
    with pytest.raises(CheckpointError, match="over 100 bytes"):
        read_folder(str(folder))


def test_the_weights_file_carries_the_mark_that_old_versions_ask_for(folder):
    """Catches: 'invalid metadata', the refusal of an older diffusers."""
    data = (folder / "unet/diffusion_pytorch_model.safetensors").read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert header["__metadata__"] == {"format": "pt"}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_weights_become_float32_without_a_loss(dtype):
    """Catches: weights that go on in half precision."""
    values = torch.tensor([1.5, -0.1, 3e-5]).to(dtype)
    found = exact_float32({"a": values}, origin="here")["a"]
    assert found.dtype == torch.float32
    assert torch.equal(found.to(dtype), values)


@pytest.mark.parametrize(
    ("value", "part"),
    [
        (torch.ones(2, dtype=torch.float64), "conv_in.bias is torch.float64"),
        (torch.ones(2, dtype=torch.int64), "conv_in.bias is torch.int64"),
        (torch.tensor([1.0, float("nan")]), "conv_in.bias holds a NaN"),
    ],
)
def test_weights_that_would_be_rounded_or_are_no_numbers_are_refused(value, part):
    """Catches: a quiet rounding, or images that are NaN from the first step on."""
    with pytest.raises(CheckpointError, match=part):
        exact_float32({"conv_in.bias": value}, origin="here")


def test_a_folder_that_is_not_there_is_an_error_that_says_so(tmp_path):
    """Catches: an empty folder that is made, and then read."""
    with pytest.raises(ConfigError, match="it has nothing: give a folder that diffusers"):
        read_folder(str(tmp_path / "nowhere"))
    assert not (tmp_path / "nowhere").exists()


def test_extra_files_beside_the_pipeline_do_not_matter(folder):
    """Catches: a README or a second copy of the weights that stops an import."""
    (folder / "README.md").write_text("a model")
    save_file(WEIGHTS, folder / "unet/diffusion_pytorch_model.fp16.safetensors")
    assert read_folder(str(folder)).network == GOOGLE_UNET
