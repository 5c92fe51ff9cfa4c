"""The command `edit`, from its words to its files."""

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from ddpm_core import __main__ as command
from ddpm_core.editing import edit, outputs
from ddpm_core.editing.method import Method
from ddpm_core.editing.request import Request
from ddpm_core.errors import ConfigError
from ddpm_core.images import png
from ddpm_core.recipes import recipe
from ddpm_core.runs.run import open_stage
from tests.fake_s3 import BUCKET
from tests.sampling.tiny import commit_random_weights, tiny_config

pytest_plugins = ["tests.s3_fixtures"]

SHAPE = (8, 8, 1)
RIGHT = np.arange(8) >= 4
GUIDED = ["--set", "sample.guidance_scale=2", "--set", "sample.guidance_by=:raw"]


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, SHAPE).astype(np.uint8)


def mask_file() -> bytes:
    buffer = io.BytesIO()
    levels = np.broadcast_to(np.where(RIGHT, 255, 0), (8, 8)).astype(np.uint8)
    Image.fromarray(levels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def place(trained, tmp_path):
    """Give the folder of a user: images, two of them in a folder, and a mask."""
    store, config = trained
    open_stage(store, config)
    folder = tmp_path / "my photos"
    (folder / "in here").mkdir(parents=True)
    for seed, name in enumerate(["a.png", "in here/b c.png", "in here/d.png"]):
        (folder / name).write_bytes(png.encode(picture(seed)))
    (folder / "notes.txt").write_text("no image")
    (tmp_path / "mask.png").write_bytes(mask_file())
    return tmp_path


def run(place, *words: str) -> int:
    return command.main(["edit", "tiny", "--root", str(place / "root"), *words])


def pixels(path) -> np.ndarray:
    return png.decode(path.read_bytes(), SHAPE, origin=str(path))


def test_a_folder_is_edited_and_nothing_is_written_over(place, capsys):
    """Catches known pixels that change, variants that are one, a result that depends on its
    neighbours in the batch, names that a store refuses, and files that are overwritten."""
    out = place / "out"
    words = ["--image", str(place / "my photos"), "--mask", str(place / "mask.png")]
    assert run(place, *words, "--variants", "2", "--out", str(out)) == 0
    assert "edit  6/6 images" in capsys.readouterr().out
    names = ["a", "in_here/b_c", "in_here/d"]
    for seed, name in enumerate(names):
        found = [pixels(out / f"{name}-inpainted-seed0-{one}.png") for one in (1, 2)]
        for one in found:
            assert np.array_equal(one[:, ~RIGHT], picture(seed)[:, ~RIGHT])
            assert not np.array_equal(one[:, RIGHT], picture(seed)[:, RIGHT])
        assert not np.array_equal(*found)
    with Image.open(out / "sheet-inpainted-seed0.png") as sheet:
        assert sheet.size[0] > 300
    record = json.loads((out / "edit-inpainted-seed0.json").read_text())
    assert record["weights"]["name"] == "tiny@10:ema"
    assert [one["name"] for one in record["images"]] == [
        "a.png",
        "in here/b c.png",
        "in here/d.png",
    ]

    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    alone = ["--image", str(place / "my photos" / "in here"), *words[2:]]
    assert run(place, *words, "--out", str(out)) == 2
    assert (
        "is there already, and 4 more; give another --out, or --overwrite"
        in capsys.readouterr().err
    )
    assert run(place, *words, "--variants", "2", "--out", str(out), "--overwrite") == 0
    assert before == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    # The name below the folder that is given keys the noise: a.png alone is a.png among others.
    alone = ["--image", str(place / "my photos" / "a.png"), *words[2:], "--out", str(place / "1")]
    assert run(place, *alone) == 0
    assert (place / "1" / "a-inpainted-seed0-1.png").read_bytes() == before[
        out / "a-inpainted-seed0-1.png"
    ]
    assert run(place, *alone, "--seed", "1") == 0
    assert not np.array_equal(
        pixels(place / "1" / "a-inpainted-seed1-1.png"),
        pixels(place / "1" / "a-inpainted-seed0-1.png"),
    )


@pytest.mark.parametrize(
    ("words", "code", "part"),
    [
        ([], 2, "nothing says what to make anew"),
        (["--extend", "left=2", "--strength", "0.5"], 2, "do not go together"),
        (["--strength", "1.5"], 2, "strength 1.5 must be above 0"),
        (["--strength", "0.5", "--method", "repaint"], 2, "is for what is known of an image"),
        (["--strength", "0.5", "--jump", "3"], 2, "are of --method repaint"),
        (["--strength", "0.5", "--variants", "0"], 2, "--variants 0 must be"),
        (["--strength", "0.5", "--out", "my photos/out"], 2, "it would be edited itself"),
        (["--mask", "my photos/a.png"], 2, "it would be edited itself"),
        (
            ["--strength", "0.5", "--set", "diffusion.beta_start=0.0002"],
            2,
            "beta_start: 0.0001 -> 0.0002",
        ),
        (["--mask", "nowhere.png"], 3, '--mask "nowhere.png": there is no such file or folder'),
        (["--mask", "masks"], 3, 'has no mask for "in here/b c.png"'),
        (["--strength", "0.5", "--model", "@7"], 4, "no checkpoint of step 7"),
        (
            ["--strength", "0.5", *GUIDED, "--set", "sample.guidance_interval=[4,null]"],
            2,
            "none of the 10 steps, which have sigma from",
        ),
    ],
)
def test_what_cannot_be_done_is_one_sentence_before_any_work(
    place, words, code, part, capsys, monkeypatch
):
    """Catches a traceback, a network that is loaded first, and a folder that is made."""
    (place / "masks").mkdir()
    (place / "masks" / "a.png").write_bytes(mask_file())
    monkeypatch.chdir(place)
    monkeypatch.setattr(edit, "load_denoiser", None)
    given = ["--image", "my photos", "--out", "out", *words]
    assert run(place, *given) == code
    message = capsys.readouterr().err
    assert part in message
    assert len(message.splitlines()) == 1 + 2 * ("->" in message)
    assert not (place / "out").exists()


def test_two_images_of_one_name_are_refused(place, capsys):
    """Catches a result that takes the place of another's."""
    (place / "my photos" / "a.jpg").write_bytes((place / "my photos" / "a.png").read_bytes())
    words = ["--image", str(place / "my photos"), "--strength", "0.5", "--out", str(place / "out")]
    assert run(place, *words) == 3
    assert '"a.jpg" and "a.png" would both be written as a-changed' in capsys.readouterr().err


def test_an_edit_that_was_cut_off_goes_on_and_another_does_not(place, capsys, monkeypatch):
    """Catches the same command that is refused by its own first files, results of another edit that
    are taken for its own, and a network that is loaded where nothing is left to do."""
    out = place / "out"
    words = ["--image", str(place / "my photos"), "--mask", str(place / "mask.png")]
    words += ["--variants", "2", "--out", str(out)]
    assert run(place, *words) == 0
    whole = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    kept, *rest = sorted(path for path in whole if path.parent.name == "in_here")
    made = kept.stat().st_mtime_ns
    for path in (*rest, out / "sheet-inpainted-seed0.png"):
        path.unlink()
    capsys.readouterr()
    assert run(place, *words) == 0
    assert "edit  3/6 images" in capsys.readouterr().out
    assert kept.stat().st_mtime_ns == made
    assert whole == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with monkeypatch.context() as patched:
        patched.setattr(edit, "load_denoiser", None)
        assert run(place, *words) == 0
    # Another mask of the same name is another edit.
    turned = np.ascontiguousarray(np.broadcast_to(np.where(RIGHT, 0, 255), (8, 8)).astype(np.uint8))
    Image.fromarray(turned).save(place / "mask.png")
    assert run(place, *words) == 2
    # Cut off while it writes over another's results: those that are left are not its own.
    monkeypatch.setattr(edit, "_sheet", None)
    with pytest.raises(TypeError):
        run(place, *words, "--overwrite")
    assert run(place, *words) == 2


def test_names_of_other_scripts_stay_apart():
    """Catches two names of one length, of whose letters none is left, that are one."""
    stems = ["\u56fe\u4e00", "\u56fe\u4e8c"]
    keys = outputs.keys_of([f"{stem}.png" for stem in stems], stems, "changed", 1)
    assert keys == [["__-d3fb9f12-changed-1.png"], ["__-e5d0a660-changed-1.png"]]


def test_a_chain_of_bits_is_refused_before_anything_is_read():
    """Catches a refusal after the record is written."""
    request = Request("nowhere", "out", method=Method(strength=0.5))
    with pytest.raises(ConfigError, match="a chain of bits; give another model"):
        request.require_possible(recipe("heartbeat"))


def test_a_dry_run_names_the_files_and_writes_none(place, capsys, monkeypatch):
    """Catches a plan that is not what is done, and a batch of minutes without a sign of life."""
    words = ["--image", str(place / "my photos"), "--extend", "left=2", "--out", str(place / "out")]
    assert run(place, *words, "--dry-run") == 0
    planned = [line.rpartition(" ")[2] for line in capsys.readouterr().out.splitlines()[1:]]
    assert not (place / "out").exists()
    monkeypatch.setattr(edit, "_SHOW_EVERY_S", 0.0)
    assert run(place, *words) == 0
    assert "edit  0/3 images  step 21 of the next" in capsys.readouterr().out
    there = sorted(str(path) for path in (place / "out").rglob("*") if path.is_file())
    assert sorted(planned) == there


def test_images_masks_and_results_may_lie_in_buckets(place, s3_server, capsys):
    """Catches a path that is taken for a file of this machine, and a prefix for one object."""
    s3_server.objects["their things/x y/a.png"] = png.encode(picture(0))
    s3_server.objects["their things/mask.png"] = mask_file()
    there = f"s3://{BUCKET}/their things"
    words = ["--image", f"{there}/x y", "--mask", f"{there}/mask.png"]
    assert run(place, *words, "--out", f"s3://{BUCKET}/mine") == 0, capsys.readouterr().err
    found = s3_server.objects["mine/a-inpainted-seed0-1.png"]
    local = ["--image", str(place / "my photos" / "a.png"), "--mask", str(place / "mask.png")]
    assert run(place, *local, "--out", str(place / "out")) == 0
    assert found == (place / "out" / "a-inpainted-seed0-1.png").read_bytes()
    assert run(place, *words, "--out", f"s3://{BUCKET}/mine", "--set", "sample.num_steps=9") == 2
    assert run(place, "--image", there, *words[2:], "--out", f"s3://{BUCKET}/mine") == 2
    assert "lies in the folder of --image" in capsys.readouterr().err
    s3_server.objects["their things/empty/notes.txt"] = b""
    assert run(place, "--image", f"{there}/empty", *words[2:], "--out", "out") == 3
    assert "no image" in capsys.readouterr().err


def test_a_model_of_labels_and_of_known_parts_is_given_both(store, tmp_path, monkeypatch, capsys):
    """Catches labels that are not passed on, what is known that guidance drops, a mask that is
    not given to a network that takes it, and guidance away from no label that does nothing."""
    config = tiny_config(**{"model.conditioning": "label", "model.known": True})
    commit_random_weights(store, config)
    open_stage(store, config)
    (tmp_path / "a.png").write_bytes(png.encode(picture(0)))
    (tmp_path / "mask.png").write_bytes(mask_file())
    seen = []
    load = edit.load_denoiser

    def watched(*words, **options):
        denoiser = load(*words, **options)
        network = denoiser.network

        def call(x_t, t, conditioning):
            seen.append(conditioning)
            return network(x_t, t, conditioning)

        return type(denoiser)(
            call, denoiser.path, denoiser.prediction, denoiser.variance, denoiser.conditioning,
            denoiser.null,
        )  # fmt: skip

    monkeypatch.setattr(edit, "load_denoiser", watched)
    words = ["--image", str(tmp_path / "a.png"), "--mask", str(tmp_path / "mask.png")]
    words += ["--set", 'sample.labels=["3"]', "--set", "sample.guidance_scale=2"]
    for without, other in (
        (words[:-4] + words[-2:], "sample.guidance_scale=1"),
        ([*words[:-4], "--set", "sample.labels=training"], "sample.labels=balanced"),
    ):
        assert run(tmp_path, *without, "--out", str(tmp_path / "out")) == 2
        said = capsys.readouterr().err
        assert "has no effect on images without labels" in said
        assert f"or --set {other}" in said
    assert run(tmp_path, *words, "--out", str(tmp_path / "out")) == 0
    given = seen[0]
    assert given.label.tolist() == [3, 3, 3, 3, 10, 10, 10, 10]
    assert given.known.mask.shape == (8, 1, 8, 8)
    assert torch.equal(given.known.mask[7, 0, 0], torch.from_numpy(~RIGHT))
    level = float(picture(0)[2, 3, 0])
    assert float(given.known.values[7, 0, 2, 3]) == pytest.approx(level / 127.5 - 1)
