"""The command `upscale`, from its words to its files, and the same from Python."""

import json

import numpy as np
import pytest
import torch

from ddpm_core import __main__ as command
from ddpm_core import seeding
from ddpm_core.api import Run
from ddpm_core.conditioning import Conditioning, LowRes
from ddpm_core.diffusion.low_resolution import enlarged
from ddpm_core.editing.edit import position_of
from ddpm_core.errors import ConfigError
from ddpm_core.images import png
from ddpm_core.images.resize import resized
from ddpm_core.inference.denoiser import load_denoiser
from ddpm_core.runs import results
from ddpm_core.runs.run import open_run
from ddpm_core.sampling.draw import to_u8
from ddpm_core.sampling.sampler import run_sampler
from ddpm_core.store.storage import open_store
from tests.sampling.tiny import commit_random_weights, tiny_config

CONFIG = tiny_config(
    name="larger",
    **{"model.low_size": [4, 4], "diffusion.num_timesteps": 8},
    **{"diffusion.beta_schedule": "cosine", "train.low_levels": [0, 0.5]},
)
SMALL = np.random.default_rng(0).integers(0, 256, (4, 4, 1)).astype(np.uint8)
PHOTO = np.random.default_rng(1).integers(0, 256, (12, 16, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Give the folder of a user: a run that enlarges, and two images."""
    folder = tmp_path_factory.mktemp("a user")
    store = open_store(str(folder / "root"))
    open_run(store, CONFIG)
    commit_random_weights(store, CONFIG)
    (folder / "small").mkdir()
    (folder / "small" / "a.png").write_bytes(png.encode(SMALL))
    (folder / "small" / "b.png").write_bytes(png.encode(PHOTO))
    return folder


def run(place, *words):
    return command.main(["upscale", "larger", "--root", str(place / "root"), *words])


def pixels(path):
    return png.decode(path.read_bytes(), (8, 8, 1), origin=str(path))


def test_images_are_enlarged_as_the_network_was_trained(place, capsys):
    """Catches a low resolution that is enlarged otherwise than in training, noise of another key,
    an image in the model's full size, and a photograph that is not cut and made small."""
    out = place / "out"
    words = ["--images", str(place / "small"), "--variants", "2", "--batch-size", "3"]
    assert run(place, *words, "--out", str(out)) == 0
    assert "upscale  4/4 images" in capsys.readouterr().out
    store = open_store(str(place / "root"))
    checkpoint = results.final_checkpoint(store, CONFIG)
    denoiser = load_denoiser(store, CONFIG, checkpoint, torch.device("cpu"))
    grey = Run.load("larger", root=str(place / "root")).read_low(place / "small" / "b.png")
    assert grey.shape == (4, 4, 1)
    key = seeding.key(0, "edit", 1)
    for name, low in (("a", SMALL), ("b", grey)):
        image = torch.from_numpy(low).permute(2, 0, 1)[None].float() / 127.5 - 1
        shown = Conditioning(low=_low(enlarged(image, (8, 8))))
        positions = torch.tensor([position_of(f"{name}.png", 0)])
        x_T = seeding.normal(seeding.key(0, "edit", 0), 0, positions, (1, 8, 8))
        with torch.inference_mode():
            x_0 = run_sampler(
                denoiser.given(shown),
                CONFIG.sample,
                x_T,
                lambda n, p=positions: seeding.normal(key, n, p, (1, 8, 8)),
                None,
            )
        found = pixels(out / f"{name}-upscaled-seed0-1.png").astype(int)
        assert np.abs(found - to_u8(x_0)[0].numpy()).max() <= 1  # another batch size
        assert not np.array_equal(found, pixels(out / f"{name}-upscaled-seed0-2.png"))
    record = json.loads((out / "upscale-upscaled-seed0.json").read_text())
    assert (record["low_size"], record["low_level"]) == ([4, 4], 0.0)
    assert (out / "sheet-upscaled-seed0.png").is_file()
    before = (out / "a-upscaled-seed0-1.png").read_bytes()
    assert run(place, *words, "--out", str(out)) == 0  # it is all there
    assert run(place, *words, "--low-level", "0.5", "--out", str(out)) == 0
    assert (out / "a-upscaled-level0.5-seed0-1.png").read_bytes() != before


def _low(image):
    return LowRes(image, torch.zeros(len(image), dtype=torch.int64))


def test_it_refuses_what_it_cannot_enlarge(place, capsys):
    """Catches a noise that the network has not seen, and an edit of a model that only enlarges."""
    images = ["--images", str(place / "small")]
    assert run(place, *images, "--low-level", "0.75") == 2
    assert "--low-level 0.75 is a noise that the network was not shown" in capsys.readouterr().err
    words = ["edit", "larger", "--root", str(place / "root"), "--image", str(place / "small")]
    assert command.main([*words, "--strength", "0.5"]) == 2
    assert "this one enlarges those of 4x4" in capsys.readouterr().err
    assert run(place, *images, "--out", str(place / "small" / "out")) == 2
    assert "lies in the folder of --images" in capsys.readouterr().err


def test_from_python_it_is_one_call(place):
    """Catches a level that is not handed on, and acts of models that draw from noise alone."""
    model = Run.load("larger", root=str(place / "root"))
    small = np.stack([SMALL, SMALL])
    first = model.upscale(small)
    assert first.shape == (2, 8, 8, 1)
    assert not np.array_equal(first[0], first[1])  # variants
    assert np.array_equal(first, model.upscale(small))
    assert not np.array_equal(first, model.upscale(small, low_level=0.5))
    assert model.sample(2).shape == (2, 8, 8, 1)
    with pytest.raises(ConfigError, match="is a noise that the network is not shown"):
        model.upscale(small, low_level=0.75)
    with pytest.raises(ConfigError, match="this one enlarges those of 4x4"):
        model.edit(np.zeros((1, 8, 8, 1), np.uint8), strength=0.5)
    with pytest.raises(ConfigError, match="the network is given no label"):
        model.upscale(small, labels=[3])
    assert np.array_equal(model.read_low(place / "small" / "a.png"), resized(SMALL, (4, 4), "box"))
