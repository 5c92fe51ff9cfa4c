"""`compare A B`: folders, archives, runs, data sets and statistics against each other."""

import io
import json
import tarfile
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from ddpm_core.__main__ import main
from ddpm_core.compare_command import _rows, _shown
from ddpm_core.errors import ConfigError, DataError
from ddpm_core.evaluation.comparing import sides
from ddpm_core.evaluation.comparing.numbers import Looked, doubts_of
from ddpm_core.evaluation.distances.kernels import kernel_distance
from ddpm_core.evaluation.distances.moments import frechet_distance, moments_of
from ddpm_core.evaluation.features.statistics import Statistics, from_npz, to_npz
from ddpm_core.recipes import digits
from ddpm_core.runs import results
from ddpm_core.runs.dataset_names import give, names_of
from ddpm_core.runs.run import open_run
from ddpm_core.store.storage import open_store, sha256_of
from tests.fake_s3 import BUCKET

pytestmark = [
    # Scripting is deprecated in torch; the detectors that people compare with are such files.
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),
]


pytest_plugins = ["tests.s3_fixtures"]
_FOREIGN = ("--features", "./net", "--features-sha256", "0" * 64)


class Pooled(torch.nn.Module):
    def forward(self, images_u8: torch.Tensor) -> torch.Tensor:
        x = images_u8.float() / 255
        return torch.cat([x.mean(dim=(2, 3)), x.std(dim=(2, 3)), x[:, :, 0, 0]], dim=1)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A network, a folder of images of two classes, and the same of other levels as shards."""
    place = tmp_path_factory.mktemp("with spaces")
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(Pooled()), buffer)
    (place / "net.pt").write_bytes(buffer.getvalue())
    generator = np.random.default_rng(0)
    with tarfile.open(place / "shard-000000.tar", "w") as tar:
        for i in range(40):
            name = f"{'dogs' if i % 4 else 'cats'}/{i:03}"
            pixels = generator.integers(0, 200, (6, 5 + (i > 30), 3), dtype=np.uint8)
            path = place / "images" / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
            data = io.BytesIO()
            Image.fromarray(pixels[:, :5] + np.uint8(i)).save(data, "PNG")
            for ending, content in ((".png", data.getvalue()), (".cls", b"%d" % (i % 2))):
                member = tarfile.TarInfo(f"{i:03}{ending}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return place


def run(place, *words: str) -> int:
    sha256 = sha256_of((place / "net.pt").read_bytes())
    features = ["--features", str(place / "net.pt"), "--features-sha256", sha256]
    return main(["compare", *words, *features])


def features_of(paths) -> torch.Tensor:
    images = [torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1) for path in paths]
    return torch.cat([Pooled()(image[None]) for image in images])


def test_a_folder_beside_shards(place, tmp_path, capsys):
    """Catches: images resized before the network sees them, sides exchanged, an order by the disk,
    grey or alpha where colour was, numbers that are shown and not written.
    """
    images, shards = place / "images", place / "shard-000000.tar"
    words = ["--json", str(tmp_path / "n.json"), "--batch-size", "7"]
    assert run(place, str(images), str(shards), *words) == 0
    found = json.loads((tmp_path / "n.json").read_text())
    made = features_of(sorted(images.rglob("*.png"), key=lambda p: str(p.relative_to(images))))
    expected = frechet_distance(moments_of(made), moments_of(_of_tar(shards)))
    assert found["numbers"]["intervals"]["value"] == pytest.approx(expected, rel=1e-6)
    kernel = kernel_distance(made, _of_tar(shards), seed=0).estimate.value
    assert found["numbers"]["kernel_distance"]["value"] == pytest.approx(kernel, rel=1e-5)
    assert found["protocol"]["num_images"] == {"a": 40, "b": 40}
    assert set(found["numbers"]) == {
        *("intervals", "kernel_distance", "gaussian_distance", "sliced_distance"),
        *("precision_recall", "density_coverage"),
    }
    assert "--features inception" in found["left_out"]["spatial_distance"]
    assert any("5x6, 6x6 pixels and B of 5x6" in warning for warning in found["warnings"])
    out, err = capsys.readouterr()
    assert f"Frechet distance                  {expected:<12.6g} 95 %: " in out
    assert "compare  40/40 images  of B" in out
    assert "warning: subsets of 20 images instead of 1000" in err


def _of_tar(path) -> torch.Tensor:
    with tarfile.open(path) as tar:
        names = sorted(name for name in tar.getnames() if name.endswith(".png"))
        return features_of([io.BytesIO(tar.extractfile(name).read()) for name in names])


def test_a_long_number_stands_apart_from_its_interval():
    """Catches: -0.0001511999 and 95 % written as one number."""
    said = _shown({"value": -0.0001511999, "interval": [-1.0, 1.0]})
    assert said.split() == ["-0.0001512", "95", "%:", "-1", "...", "1"]
    assert _shown({"value": -0.000151234, "interval": [0, 1]}).startswith("-0.000151234 95 %")


def test_a_distance_has_its_published_name_of_its_own_network_alone():
    """Catches: a FID of whatever features; a CMMD of the Inception; an sFID without its name."""
    numbers = {
        metric: {"value": 1.0}
        for metric in ("intervals", "kernel_distance", "gaussian_distance", "spatial_distance")
    }
    of_inception, of_clip, of_others = (
        [name.partition(" (")[2] for name, _ in _rows(numbers, features)]
        for features in (
            {"kind": "inception"},
            {"kind": "transformers", "network": "clip_vision_model"},
            {"kind": "torchscript"},
        )
    )
    assert of_inception == ["FID)", "KID)", "", "sFID)"]
    assert of_clip == ["", "", "CMMD)", ""]
    assert of_others == [""] * 4


def test_classes_are_compared_where_both_sets_have_them(place, tmp_path):
    """Catches: labels out of step with images of several sizes; a class taken for another; the
    first class alone of fewer images.
    """
    images = str(place / "images")
    words = ["--by-class", "--metrics", "kernel_distance", "--json", str(tmp_path / "n.json")]
    assert run(place, images, images, *words) == 0
    classes = json.loads((tmp_path / "n.json").read_text())["classes"]
    assert {name: one["num_images"] for name, one in classes.items()} == {
        "cats": {"a": 10, "b": 10},
        "dogs": {"a": 30, "b": 30},
    }
    cats = features_of(sorted((place / "images" / "cats").iterdir()))
    expected = kernel_distance(cats, cats, seed=0).estimate.value
    found = classes["cats"]["kernel_distance"]["value"]
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-9)
    assert run(place, images, str(place / "shard-000000.tar"), "--by-class") == 2
    # Cats are the first ten.
    assert run(place, images, images, *words, "--limit", "8") == 0
    found = json.loads((tmp_path / "n.json").read_text())
    counts = [one["num_images"]["a"] for one in found["classes"].values()]
    assert len(counts) == 2
    assert sum(counts) == 8
    assert found["protocol"]["num_images"] == {"a": 8, "b": 8}


def test_statistics_stand_for_images(place, tmp_path, capsys):
    """Catches: a covariance divided again, numbers of single images that are none, another
    network's statistics.
    """
    paths = sorted((place / "images").rglob("*.png"))
    moments = moments_of(features_of(paths[:20]))
    np.savez(tmp_path / "s.npz", mu=moments.mean.numpy(), sigma=moments.covariance.numpy())
    words = [str(place / "images"), str(tmp_path / "s.npz"), "--json", "-"]
    assert run(place, *words) == 0
    found = json.loads(capsys.readouterr().out)  # and no line of progress
    expected = frechet_distance(moments_of(features_of(paths)), moments)
    assert found["numbers"]["intervals"]["value"] == pytest.approx(expected, rel=1e-5)
    assert set(found["numbers"]) == {"intervals"}
    assert found["protocol"]["num_images"] == {"a": 40, "b": None}
    assert not any(" real images for 9 features" in one for one in found["warnings"])
    (tmp_path / "s.npz").write_bytes(to_npz(Statistics(moments, None, 10)))
    assert run(place, *words) == 0
    assert '"10 real images for 9 features: ' in capsys.readouterr().out
    for network, code in ((sha256_of((place / "net.pt").read_bytes()), 0), ("0" * 64, 2)):
        (tmp_path / "s.npz").write_bytes(to_npz(Statistics(moments, None, 10, network)))
        assert run(place, *words) == code
    assert "is of the network 0000000000000000..., and --features" in capsys.readouterr().err
    np.savez(tmp_path / "t.npz", mu=np.zeros(4), sigma=np.eye(4))
    assert run(place, str(place / "images"), str(tmp_path / "t.npz")) == 2
    assert "is of 4 features, and --features" in capsys.readouterr().err


def test_statistics_may_lie_in_a_bucket_and_are_refused_before_a_set_is_looked_at(
    place, s3_server, tmp_path, capsys
):
    """Catches: a path of S3 taken for one of the disk; all images through the network, and then
    the refusal.
    """
    for name, dim in (("s.npz", 9), ("t.npz", 4)):
        np.savez(tmp_path / name, mu=np.zeros(dim), sigma=np.eye(dim))
        s3_server.objects[f"their things/{name}"] = (tmp_path / name).read_bytes()
    there = f"s3://{BUCKET}/their things"
    assert run(place, str(place / "images"), f"{there}/s.npz", "--metrics", "intervals") == 0
    assert "statistics s3://" in capsys.readouterr().out
    assert run(place, f"{there}/t.npz", str(place / "images")) == 2
    out, err = capsys.readouterr()
    assert "is of 4 features, and --features" in err
    assert "40 images" not in out
    assert run(place, str(place / "images"), f"{there}/none.npz") == 2
    assert "is not there" in capsys.readouterr().err


def test_a_distance_without_an_interval_says_so(place, tmp_path, capsys):
    """Catches: grey images, whose features are three times the same, with nothing said of why
    there is no interval; protocols that do not say how images reach a program.
    """
    (tmp_path / "grey").mkdir()
    for i in range(40):
        pixels = np.random.default_rng(i).integers(0, 255, (6, 5), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "grey" / f"{i}.png")
    words = [str(tmp_path / "grey"), str(place / "images"), "--metrics", "intervals"]
    assert run(place, *words, "--json", str(tmp_path / "n.json")) == 0
    assert "no interval: too few images, or features that do not vary" in capsys.readouterr().out
    protocol = json.loads((tmp_path / "n.json").read_text())["protocol"]
    assert protocol["features"]["resize"].startswith("none: ")
    assert "16 bits rounded" in protocol["images"]


@pytest.mark.parametrize("metric", ["gaussian_distance", "sliced_distance"])
def test_of_few_images_it_is_said_that_a_distance_is_too_large(metric):
    """Catches: a distance of few images that passes for one of many, where both sets are small."""
    few, many = (Looked(n, moments_of(torch.eye(3))) for n in (999, 1000))
    assert [
        "999 images: the estimate is biased upwards" in one for one in doubts_of(metric, few, few)
    ] == [True]
    assert doubts_of(metric, many, many) == []


def test_a_run_that_is_called_as_a_recipe_is_the_run(tmp_path, monkeypatch):
    """Catches: samples of the recipe's number and settings that are missed, or taken for its."""
    root = str(tmp_path / "root")
    open_run(open_store(root), digits().replaced({"sample.num_images": 8}))
    seen = []
    monkeypatch.setattr(results, "samples_of", lambda _, config: seen.append(config.sample))
    monkeypatch.chdir(tmp_path)
    for name in ("digits", f"{root}/runs/digits", "root/runs/digits/run.json"):
        with pytest.raises(DataError, match="has no complete samples"):
            sides.side_of(name, root=root)
    monkeypatch.chdir(tmp_path / "root/runs")
    with pytest.raises(DataError, match="has no complete samples"):
        sides.side_of("digits", root="nowhere")
    assert [one.num_images for one in seen] == [8, 8, 8, 8]


def test_a_run_and_a_data_set_of_no_images_are_refused(tmp_path, monkeypatch, capsys):
    """Catches: a traceback of statistics of no image."""
    root = str(tmp_path / "root")
    open_run(open_store(root), digits())
    words = ["compare", "digits", "digits", "--root", root, "--features", "trained"]
    assert main(words) == 3
    assert "has no complete samples" in capsys.readouterr().err
    empty = SimpleNamespace(num_images={"train": 5, "test": 0}, label=SimpleNamespace(names=()))
    monkeypatch.setattr(sides, "load_index", lambda *_: empty)
    with pytest.raises(DataError, match="has no test images; give its :train"):
        sides._of_dataset(open_store(root), "datasets/d", "test")


def test_statistics_are_written_exactly_and_read_without_unpickling(tmp_path):
    """Catches: a covariance that is another by its last bit; an object array; other shapes."""
    moments = moments_of(torch.randn(9, 3, generator=torch.Generator().manual_seed(0)))
    data = to_npz(Statistics(moments, moments, 9, "0123456789abcdef" * 4))
    assert data == to_npz(Statistics(moments, moments, 9, "0123456789abcdef" * 4))
    again = from_npz(data, origin="x")
    assert again.network == "0123456789abcdef" * 4
    assert again.num_images == 9
    for found in (again.moments, again.spatial):
        assert found.count == 9
        assert torch.equal(found.mean, moments.mean)
        assert torch.equal(found.scatter, moments.scatter)
    buffer = io.BytesIO()
    np.savez(buffer, mu=moments.mean, sigma=moments.covariance, num_images=np.int64(9))
    counted = from_npz(buffer.getvalue(), origin="x").moments
    torch.testing.assert_close(counted.covariance, moments.covariance, rtol=1e-14, atol=0)
    with np.load(io.BytesIO(data), allow_pickle=False) as others:
        np.testing.assert_array_equal(others["sigma"], moments.covariance.numpy())
    for wrong, said in [
        ({"mu": np.zeros(3)}, "no arrays mu and sigma"),
        ({"mu": np.zeros(3), "sigma": np.eye(2)}, r"must be \(d,\)"),
        ({"mu": np.zeros(2), "sigma": np.array([[1.0, 2], [3, 1]])}, "not symmetric"),
        ({"mu": np.array([np.nan, 0]), "sigma": np.eye(2)}, "not finite"),
        ({"mu": np.array([{}, {}]), "sigma": np.eye(2)}, "plain numbers|no .npy"),
    ]:
        buffer = io.BytesIO()
        np.savez(buffer, **wrong)
        with pytest.raises(ConfigError, match=said):
            from_npz(buffer.getvalue(), origin="x")


def test_a_run_beside_its_data_set_by_its_own_features(evaluated, capsys, tmp_path):
    """Catches: the training split for the held-out one, other samples than evaluate measures,
    names of data sets that are looked up by folders alone,
    a traceback of a network of grey images, or what it says of images of another size.
    """
    store, config = evaluated
    words = ["compare", config.name, f"{config.name}:test", "--features", "trained"]
    words += ["--root", store.uri, "--metrics", "intervals", "--json", str(tmp_path / "n.json")]
    assert main(words) == 0
    found = json.loads((tmp_path / "n.json").read_text())
    assert "Frechet distance 17.38 " in "".join(
        f"Frechet distance {found['numbers']['intervals']['value']:.2f} "
    )
    assert found["protocol"]["num_images"] == {"a": 16, "b": 297}
    assert found["inception_score"]["a"]["splits"] == 10
    # The data set by its name, pinned, by its folder's name and by its folder.
    pointer = results.dataset_pointer(store, config.name)
    (named,) = names_of(store, pointer.fingerprint)
    give(store, "renamed", pointer)
    for name in ("renamed", named.pinned, pointer.folder[9:], f"{store.uri}/{pointer.folder}"):
        other = ["compare", config.name, f"{name}:train", *words[3:], "--limit", "10"]
        assert main(other) == 0, name
        again = json.loads((tmp_path / "n.json").read_text())
        assert again["protocol"]["num_images"] == {"a": 10, "b": 10}
    assert main(["compare", config.name, "renamed@00000000:train", *words[3:]]) == 2
    assert f"give one of renamed@{pointer.fingerprint[:16]}" in capsys.readouterr().err
    # Grey images, of the size of its data set, in whatever files; and no others.
    for name, side, kind, code in (("a", 8, "L", 0), ("b", 8, "RGB", 2), ("c", 9, "L", 2)):
        (tmp_path / name).mkdir()
        made = Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3), "RGB")
        made.convert(kind).resize((side, side)).save(tmp_path / name / "x.png")
        again = ["compare", str(tmp_path / name), f"{config.name}:test", *words[3:]]
        assert main(again) == code, name
    assert "grey images of 8x8 pixels, and one of 9x9 is" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["nothing", "images"], 2, "no run and no data set below"),
        (["~nobody-of-this-name", "images"], 2, "no run and no data set below"),
        (["images", "images", "--features", "trained"], 2, "give --features inception"),
        (["images:test", "images"], 2, "only a run or a data set has splits"),
        (["images", "images", "--metrics", "fid"], 2, "kernel_distance"),
        (["images", "images", "--json", "nowhere/n.json"], 2, "folder that is there"),
        (["empty", "images"], 3, "no image"),
        (["images", "broken"], 3, '"a.png" in'),
        (["images", "images", "--features", "./net"], 2, "--features './net' is a file from out"),
        (["images", "images", *_FOREIGN], 2, "--features './net' cannot be read"),
    ],
)
def test_what_cannot_be_compared_is_said_in_a_sentence(
    words, code, said, place, tmp_path, monkeypatch, capsys
):
    """Catches: a traceback; a refusal after the first set has been looked at; a key of `evaluate`,
    which this command does not take, for an option."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").symlink_to(place / "images")
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    ran = main(["compare", *words]) if "--features" in words else run(place, *words)
    assert ran == code
    err = capsys.readouterr().err
    assert said in err
    assert "Traceback" not in err
    assert "evaluate." not in err
    assert "features_sha256" not in err


def test_words_that_are_no_numbers_are_said_by_what_they_should_be(capsys):
    """Catches: the name of a function of ours; a seed that is refused as another command's."""
    for words, said in [
        (["--limit", "few"], "'few' is no number of images"),
        (["--seed", "-1"], "'-1' is no seed"),
    ]:
        with pytest.raises(SystemExit):
            main(["compare", "a", "b", *words])
        assert said in capsys.readouterr().err
