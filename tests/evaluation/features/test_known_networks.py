"""Feature networks by name: their files, how images reach them, and what is said of them."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from ddpm_core.config import EvaluateConfig
from ddpm_core.config.feature_networks import KNOWN, known_by
from ddpm_core.errors import ConfigError, StorageError
from ddpm_core.evaluation.features import check, foreign, transformers_folder
from ddpm_core.evaluation.features.kept import (
    describe_network,
    feature_recipe,
    keep_foreign_network,
    load_network,
)
from ddpm_core.evaluation.features.network import looked_at
from ddpm_core.models.inception import Inception
from ddpm_core.recipes import digits
from ddpm_core.sources import download
from ddpm_core.store.storage import open_store, sha256_of
from tests.models.test_inception import random_weights

CPU = torch.device("cpu")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "ddpm_core.evaluation.features.known_files.downloads_folder", lambda: tmp_path
    )
    return tmp_path / "fetched"


def test_the_table_names_files_that_are_what_it_says():
    """Catches: a digest that is not the published name's, a network of another size."""
    one = KNOWN["inception"]
    assert one.sha256.startswith("6726825d")
    assert one.urls[0].endswith(f"/{one.file}")
    with torch.device("meta"):
        num_bytes = 4 * sum(tensor.numel() for tensor in Inception().state_dict().values())
    assert num_bytes < one.num_bytes < num_bytes + 2**18  # names, and torch's archive
    assert all(url.startswith("https://") for known in KNOWN.values() for url in known.urls)
    assert known_by(one.sha256) is one
    assert known_by("0" * 64) is None


def test_a_network_counts_by_its_digest_whether_by_name_or_by_path():
    """Catches: two evaluations of one file; one of a named network that does not say which file."""
    by_name = digits().replaced({"evaluate.features": "inception"})
    by_path = digits().replaced(
        {
            "evaluate.features": "/data/i.pth",
            "evaluate.features_sha256": KNOWN["inception"].sha256,
        }
    )
    recipes = [feature_recipe(c.evaluate, "d", "0") for c in (by_name, by_path)]
    assert recipes[0] == recipes[1]
    assert recipes[0].values == {"kind": "inception", "sha256": KNOWN["inception"].sha256}
    with pytest.raises(ConfigError, match=r"digest of its own; .* give \./clip"):
        digits().replaced({"evaluate.features": "clip", "evaluate.features_sha256": "0" * 64})


def test_without_a_network_it_is_said_where_to_put_the_file(cache, monkeypatch):
    """Catches: a traceback, or a sentence about folders of data sets."""

    def unreachable(*_args, **_options):
        raise OSError("no route to host")

    monkeypatch.setattr(download, "opened", unreachable)
    with pytest.raises(StorageError) as refused:
        check.check_feature_network(digits().replaced({"evaluate.features": "dinov2"}))
    said = str(refused.value)
    assert KNOWN["dinov2"].urls[0] in said
    assert str(cache / KNOWN["dinov2"].file) in said
    assert "no route to host" in said


def test_the_inception_is_kept_and_measures_as_its_file_says(cache, tmp_path, monkeypatch):
    """Catches: a file put in its place by hand that is fetched again; probabilities of the biased
    logits; a network that is kept pickled; three calls where one is enough.
    """
    buffer = io.BytesIO()
    state = random_weights()
    torch.save(state, buffer)
    data = buffer.getvalue()
    fake = replace(KNOWN["inception"], sha256=sha256_of(data), num_bytes=len(data))
    monkeypatch.setitem(KNOWN, "inception", fake)
    cache.mkdir()
    (cache / fake.file).write_bytes(data)
    config = digits().replaced({"evaluate.features": "inception"})
    recipe = feature_recipe(config.evaluate, "d", "0")
    store = open_store(str(tmp_path / "root"))
    keep_foreign_network(store, config, recipe)
    said = describe_network(store, recipe)
    assert said["kind"] == "inception"
    assert said["sha256"] == fake.sha256
    assert "TensorFlow 1" in said["resize"]
    assert [p.suffix for p in (tmp_path / "root").rglob("network*")] == [".safetensors"]
    _, network = load_network(
        store, recipe, load_train=pytest.fail, load_test=pytest.fail, device=CPU
    )
    grey = torch.randint(0, 256, (1, 1, 8, 8), dtype=torch.uint8)
    found = looked_at(
        network, grey, views={"features", "probabilities", "spatial"}, batch_size=1, device=CPU
    )
    with torch.device("meta"):
        direct = Inception()
    direct.load_state_dict(state, assign=True)
    with torch.inference_mode():
        taps = direct.eval()(grey.expand(-1, 3, -1, -1))
    torch.testing.assert_close(found["features"], taps.pooled)
    torch.testing.assert_close(found["spatial"], taps.spatial)
    torch.testing.assert_close(found["probabilities"], taps.logits_unbiased.softmax(1))


def test_a_file_that_is_no_state_of_tensors_is_refused_unrun(cache, monkeypatch):
    """Catches: an unpickled object; a traceback of torch's loader."""
    buffer = io.BytesIO()
    torch.save({"weights": CPU}, buffer)  # no tensor, and nothing that torch's loader runs
    for data in (
        buffer.getvalue(),
        b"\x80\x02cos\nsystem\nq\x00X\x04\x00\x00\x00echoq\x01\x85q\x02R.",
    ):
        fake = replace(KNOWN["inception"], sha256=sha256_of(data), num_bytes=len(data))
        monkeypatch.setitem(KNOWN, "inception", fake)
        cache.mkdir(exist_ok=True)
        (cache / fake.file).write_bytes(data)
        with pytest.raises(ConfigError, match="tensors"):
            foreign.fetch(EvaluateConfig(features="inception"))


@pytest.mark.parametrize(("size", "side"), [((40, 40), 28), ((12, 12), 30)])
def test_images_are_made_square_as_pillow_does(size, side):
    """Catches: torch's bicubic of another coefficient, no antialiasing, levels beyond 0...255,
    bytes kept as floats for CLIP.
    """
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 2, (*size, 3), dtype=np.uint8) * 255  # the hardest edges
    images = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    floats = [
        np.asarray(
            Image.fromarray(pixels[..., c].astype(np.float32)).resize((side, side), Image.BICUBIC)
        ).clip(0, 255)
        for c in range(3)
    ]
    ours = transformers_folder.squared(images, side, is_clip=False)[0]
    np.testing.assert_allclose(ours.numpy(), np.stack(floats), atol=1e-2)
    by_bytes = np.asarray(Image.fromarray(pixels).resize((side, side), Image.BICUBIC))
    ours = transformers_folder.squared(images, side, is_clip=True)[0].permute(1, 2, 0)
    assert np.abs(ours.numpy() - by_bytes.astype(np.float32)).max() <= 1
    assert torch.equal(ours, ours.round())


def test_clip_sees_the_middle_of_what_is_no_square():
    """Catches: an image that is squeezed; one that is cut from its corner."""
    wide = torch.zeros(1, 3, 4, 10, dtype=torch.uint8)
    wide[..., 3:7] = 200
    assert bool((transformers_folder.squared(wide, 4, is_clip=True) == 200).all())
    assert not bool((transformers_folder.squared(wide, 4, is_clip=False) == 200).all())


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders of tiny networks as transformers writes them, with what they are."""
    from transformers import (
        CLIPVisionConfig,
        CLIPVisionModelWithProjection,
        Dinov2Config,
        Dinov2Model,
    )

    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    shape |= {"image_size": 28, "patch_size": 14}
    # The constructors draw from torch's default generator.
    with torch.random.fork_rng():
        models = {
            "dinov2": Dinov2Model(Dinov2Config(**shape)).eval(),
            "clip": CLIPVisionModelWithProjection(
                CLIPVisionConfig(**shape, intermediate_size=32, projection_dim=8)
            ).eval(),
        }
    found = {}
    for name, model in models.items():
        folder = tmp_path_factory.mktemp(name)
        model.save_pretrained(folder)
        (folder / "preprocessor_config.json").write_text(
            '{"crop_size": {"height": 28, "width": 28}, "image_mean": [0.5, 0.4, 0.3], '
            '"image_std": [0.2, 0.3, 0.4]}'
        )
        found[name] = (folder, model)
    return found


def evaluate_of(folder, sha256="0" * 64):
    return EvaluateConfig(features=f"transformers:{folder}", features_sha256=sha256)


def digest_said(folder) -> str:
    with pytest.raises(ConfigError, match="or its digest if you trust it") as refused:
        foreign.fetch(evaluate_of(folder))
    return str(refused.value).partition("has the digest ")[2][:64]


def test_known_networks_are_as_large_as_their_files(folders):
    """Catches: a layer, a width or a patch of another network in the table."""
    from transformers import CLIPConfig, CLIPModel, Dinov2Config, Dinov2Model

    tower = {key: value for key, value in KNOWN["clip"].network.items() if key != "model_type"}
    text = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12}
    with torch.device("meta"):
        networks = {
            "dinov2": Dinov2Model(Dinov2Config(**KNOWN["dinov2"].network)),
            # The file has both towers; of the text's 12 layers each default is CLIP's.
            "clip": CLIPModel(
                CLIPConfig(vision_config=tower, text_config=text, projection_dim=768)
            ),
        }
    for name, network in networks.items():
        num_bytes = 4 * sum(one.numel() for one in network.state_dict().values())
        assert num_bytes < KNOWN[name].num_bytes < num_bytes + 2**18, name


@pytest.mark.parametrize("name", ["dinov2", "clip"])
def test_a_folder_of_transformers_gives_its_models_features(folders, name):
    """Catches: patches instead of the class token, the embedding before its projection or of any
    length, means and deviations left out or exchanged.
    """
    folder, model = folders[name]
    kept = foreign.fetch(evaluate_of(folder, digest_said(folder)))
    network = foreign.load("transformers", kept.data, CPU)
    images = torch.randint(0, 256, (2, 3, 28, 28), dtype=torch.uint8)
    mean, std = (torch.tensor(v)[:, None, None] for v in ([0.5, 0.4, 0.3], [0.2, 0.3, 0.4]))
    with torch.inference_mode():
        found = model(pixel_values=(images / 255 - mean) / std)
        ours = network.embed(images)
    expected = found.pooler_output if name == "dinov2" else found.image_embeds
    if name == "clip":
        expected = expected / expected.norm(dim=1, keepdim=True)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)
    assert kept.about["side"] == 28


def test_a_folder_that_is_none_is_refused_in_one_sentence(folders, tmp_path):
    """Catches: a KeyError; weights that are pickled read in place of safetensors."""
    folder, _ = folders["dinov2"]
    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"model\.safetensors is not there"):
        foreign.fetch(evaluate_of(tmp_path))
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ConfigError, match=r"'bert'.* as TorchScript"):
        foreign.fetch(evaluate_of(tmp_path, digest_said(tmp_path)))


def test_weights_of_another_network_are_refused(folders):
    """Catches: layers that transformers draws anew where a file lacks them."""
    kept = foreign.fetch(evaluate_of(folders["clip"][0], digest_said(folders["clip"][0])))
    weights, about = foreign.unpacked(kept.data)
    del weights["visual_projection.weight"]
    with pytest.raises(ConfigError, match=r"visual_projection\.weight"):
        transformers_folder.network_of(weights, about, CPU)
