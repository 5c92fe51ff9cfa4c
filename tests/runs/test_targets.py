"""What the first argument of a command may be, and what it is taken for."""

import re

import pytest

from ddpm_core.errors import ConfigError
from ddpm_core.recipes import digits, mnist
from ddpm_core.runs.run import configure, open_run
from ddpm_core.runs.targets import read_target, require_lasting_root
from ddpm_core.store.storage import open_store


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A root with the runs `digits` and `short`, both of another seed than the recipe."""
    monkeypatch.chdir(tmp_path)
    store = open_store(str(tmp_path / "my runs"))
    for name in ("digits", "short"):
        open_run(store, digits().replaced({"name": name, "train.seed": 7}))
    return store.uri


@pytest.mark.parametrize("ending", ["", "/", "/run.json"])
def test_a_run_is_named_by_its_folder_or_its_file(ending, root):
    """Catches: a folder that is taken for neither a recipe nor a file."""
    found, home = read_target(f"{root}/runs/short{ending}", root=None)
    assert (found.name, found.train.seed, home) == ("short", 7, root)


def test_a_run_is_named_by_its_name_below_the_root(root):
    """Catches: a name that is looked up below another root than the given one."""
    found, home = read_target("short", root=root)
    assert (found.name, found.train.seed, home) == ("short", 7, root)
    open_run(open_store("runs"), mnist().replaced({"name": "mine"}))
    assert read_target("mine", root=None)[0].name == "mine"
    assert configure("mine", root=None, run=None, changes={})[0] == "./runs"
    with pytest.raises(ConfigError, match=r"nor a run below \./runs"):
        read_target("short", root=None)


def test_the_name_of_a_recipe_means_the_recipe_whatever_runs_there_are(root):
    """Catches: a command that means another thing the second time."""
    assert read_target("digits", root=root) == (digits(), None)
    assert read_target(f"{root}/runs/digits", root=root)[0].train.seed == 7


def test_a_folder_where_one_stands_is_a_run_if_it_holds_one(root, tmp_path):
    """Catches: a run's folder that is only found with a slash behind it."""
    (tmp_path / "my runs" / "runs" / "short").rename(tmp_path / "copied")
    assert read_target("copied", root=None)[0].name == "short"


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("digts", "did you mean 'digits'?"),
        ("shrt", "did you mean 'short'?"),
        ("zzz", "nor a run below"),
        ("a b", "neither a recipe"),
        ("nowhere/at/all", "there is no file nowhere/at/all/run.json"),
    ],
)
def test_what_is_nothing_is_said_with_what_it_may_have_been(target, said, root):
    """Catches: a misspelt run that is answered with a list of recipes."""
    with pytest.raises(ConfigError, match=re.escape(said)):
        read_target(target, root=root)


@pytest.mark.parametrize("place", ["./runs", "runs", "../x"])
def test_a_relative_root_is_refused_in_a_ray_job(place, monkeypatch):
    """Catches: a run that is written into the folder that Ray unpacks a job's code to."""
    require_lasting_root(place)
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    with pytest.raises(ConfigError, match=r"relative.*--root with an absolute path"):
        require_lasting_root(place)
    with pytest.raises(ConfigError, match="Ray job"):
        configure("digits", root=None, run=None, changes={})
    for lasting in ("/data/runs", "s3://bucket/prefix", "~/runs", "file:///data"):
        require_lasting_root(lasting)
