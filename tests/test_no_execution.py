"""Nothing in the package can run what it reads."""

import re
from pathlib import Path

import pytest

import ddpm_core
import flows

FORBIDDEN = {
    "unpickles": r"\b(?:import|from) +_?(?:c?[pP]ickle|dill|cloudpickle|shelve|marshal|joblib)\b",
    "unpickles objects": r"allow_pickle *= *True",
    "unpickles with torch": r"(?<!safetensors\.)torch\.load\("
    r"(?!(?s:[^()]|\([^()]*\))*weights_only *= *True)",
    "loads programs of torch": r"torch\.(?:export\.load|package)\b",
    "makes objects of YAML": r"yaml\.(?:load|unsafe_load|full_load)\(",
    "runs text": r"(?<![\w.])(?:eval|exec)\(",
    "runs a shell": r"shell *= *True|os\.(?:system|popen)\(|getoutput\(",
    "unpacks to where an archive says": r"\.extract(?:all)?\(",
    "follows an archive": r"\b(?:import|from) +tarfile\b|shutil\.unpack_archive",
    "loads what is cut short": r"LOAD_TRUNCATED_IMAGES",
}


def sources():
    for package in (ddpm_core, flows):
        top = Path(package.__file__).parent
        yield from ((f"{top.name}/{path.relative_to(top)}", path) for path in top.rglob("*.py"))


@pytest.mark.parametrize("what", FORBIDDEN)
def test_nothing_that_is_read_can_run(what):
    """Catches: a call that runs foreign data, brought in by one line of convenience."""
    pattern, num_files = re.compile(FORBIDDEN[what]), 0
    for name, path in sources():
        num_files += 1
        for found in pattern.finditer(path.read_text()):
            pytest.fail(f"{name} {what}: {found[0]!r}")
    assert num_files > 100


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("unpickles", "import pickle"),
        ("unpickles", "from pickle import loads"),
        ("unpickles objects", "np.load(path, allow_pickle = True)"),
        ("unpickles with torch", "torch.load(path)"),
        ("unpickles with torch", "torch.load(io.BytesIO(data),\n  weights_only=False)"),
        ("makes objects of YAML", "yaml.load(text)"),
        ("runs text", "value = eval(text)"),
        ("runs a shell", "subprocess.run(line, shell=True)"),
        ("runs a shell", "os.system(line)"),
        ("unpacks to where an archive says", "archive.extractall(folder)"),
        ("unpacks to where an archive says", "archive.extract(member, folder)"),
        ("loads what is cut short", "ImageFile.LOAD_TRUNCATED_IMAGES = True"),
    ],
)
def test_the_patterns_find_what_they_are_for(what, text):
    """Catches: a pattern that matches nothing."""
    assert re.search(FORBIDDEN[what], text)


def test_a_safe_call_is_not_found():
    """Catches: a pattern that forbids what is needed."""
    safe = "torch.load(io.BytesIO(data), map_location=device, weights_only=True)"
    assert not re.search(FORBIDDEN["unpickles with torch"], safe)
    assert not re.search(FORBIDDEN["unpickles with torch"], "safetensors.torch.load(data)")
    assert not re.search(FORBIDDEN["runs text"], "model.eval()")
