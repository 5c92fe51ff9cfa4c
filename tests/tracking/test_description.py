"""What MLflow's page of a run says of it."""

from types import SimpleNamespace

import pytest

from ddpm_core.runs import results
from ddpm_core.tracking import description
from ddpm_core.tracking.description import NOTE, log_description


class Page:
    """The tags of an MLflow run."""

    run_id = "0123"

    def __init__(self):
        self.known = {}

    def tags(self):
        return dict(self.known)

    def set_tags(self, tags):
        self.known |= tags


@pytest.fixture(autouse=True)
def _no_git(monkeypatch):
    monkeypatch.setattr(description, "git_commit", lambda: None)


def test_what_a_user_has_written_stays(store, config):
    """Catches: a description of the user's that the next stage overwrites, and one of ours that
    is never written anew."""
    page = Page()
    log_description(page, store, config)
    assert f"--run {config.name}" in page.known[NOTE]
    log_description(page, store, config.replaced({"train.num_steps": 77}))
    assert "train.num_steps=77" in page.known[NOTE]
    page.known[NOTE] += "\n\nmine"
    log_description(page, store, config)
    assert page.known[NOTE].endswith("train.num_steps=77\n\nmine")


def test_imported_weights_are_made_again_by_no_training(store, config, monkeypatch):
    """Catches: a command that trains other weights, said to make these again."""
    found = SimpleNamespace(body={"imported": {"format": "diffusers"}})
    monkeypatch.setattr(results, "final_checkpoint", lambda *_: found)
    page = Page()
    log_description(page, store, config)
    assert "imported weights, not trained here" in page.known[NOTE]
    assert "flows.train_ddpm" not in page.known[NOTE]
