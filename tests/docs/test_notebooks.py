"""The notebooks of the docs, run on a run with random weights: their own assertions hold."""

import json
import math

import numpy as np
import pytest
import torch

from ddpm_core.runs.run import open_run
from ddpm_core.store.storage import open_store
from tests.docs.pages import ROOT, blocks
from tests.sampling.tiny import commit_random_weights, one_thread, tiny_config  # noqa: F401

NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Give a folder in which `make run` seems to have made `digits`."""
    folder = tmp_path_factory.mktemp("a user's")
    store, config = open_store(str(folder / "runs")), tiny_config(name="digits")
    commit_random_weights(store, config)
    open_run(store, config)
    return folder


def block_of(page, language):
    """Return the first block of a page in a language."""
    return next(one for one in blocks(page, (ROOT / page).read_text()) if one.language == language)


def executed(name, home, monkeypatch):
    """Return the names that a notebook leaves, all of whose cells of code were run in order."""
    monkeypatch.chdir(home)
    path = ROOT / "docs" / "notebooks" / name
    names = {"__name__": "notebook"}
    for number, cell in enumerate(json.loads(path.read_text())["cells"]):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"{name}, cell {number}", "exec"), names)  # noqa: S102
    return names


def test_use_a_run(home, monkeypatch):
    """Catches: an API that the page does not know any more."""
    found = executed("use-a-run.ipynb", home, monkeypatch)
    assert found["images"].shape == (16, 8, 8, 1)
    assert (found["near"] != found["images"][:4]).any()
    assert len(found["way"]) == len(found["received"]) == 8
    np.testing.assert_array_equal(found["moments"][-1].images.shape, (1, 8, 8, 1))
    assert found["metrics"] is None


def test_own_sampler(home, monkeypatch):
    """Catches: a solver of order 1 where the page says 2, and another start than the library's."""
    found = executed("own-sampler.ipynb", home, monkeypatch)
    assert found["images"].shape == (16, 1, 8, 8)
    assert found["images"].isfinite().all()


def test_the_page_on_samplers_has_the_solver_of_the_notebook(home, monkeypatch):
    """Catches: code on the page that does not run, or is another method."""
    found = executed("own-sampler.ipynb", home, monkeypatch)
    denoiser, sigmas = found["denoiser"], found["karras_sigmas"](found["denoiser"].path, 9)
    x_T = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))

    def slope_at(x, sigma):
        return found["eps_at_sigma"](denoiser, x, torch.full((len(x),), sigma).double())

    with torch.inference_mode():
        x = found["adams_bashforth"](slope_at, math.sqrt(1 + sigmas[0] ** 2) * x_T, sigmas)
        expected = x - sigmas[-1] * slope_at(x, sigmas[-1])
    page = {}
    exec(block_of("docs/new-sampler.md", "python").text, page)  # noqa: S102
    drawn = page["adams_bashforth_sample"](denoiser, x_T, sigmas=sigmas, clip_x_0=False)
    torch.testing.assert_close(drawn, expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())


def test_photos_of_the_tutorial(tmp_path, monkeypatch):
    """Catches: a page whose photos are not those that its output is of."""
    monkeypatch.chdir(tmp_path)
    exec(block_of("docs/tutorial.md", "python").text, {})  # noqa: S102
    found = {kind: len(list((tmp_path / "photos" / kind).iterdir())) for kind in ("day", "night")}
    assert found == {"day": 348, "night": 252}


def test_notebooks_are_whole():
    """Catches: a notebook that no test runs, and outputs that are of another version."""
    assert {path.name for path in NOTEBOOKS} == {"use-a-run.ipynb", "own-sampler.ipynb"}
    for path in NOTEBOOKS:
        found = json.loads(path.read_text())
        assert found["nbformat"] == 4
        assert not any(cell.get("outputs") for cell in found["cells"])
