"""infra/Dockerfile without Docker: what it copies, what it runs, and as whom."""

import fnmatch
import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from ddpm_core import __version__

PROJECT = Path(__file__).parents[2]
DOCKERFILE = PROJECT / "infra/Dockerfile"


@pytest.fixture(scope="module")
def instructions() -> list[tuple[str, str]]:
    """Return the instructions of the file, each with its words in one line."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    found = [line.partition(" ") for line in joined.splitlines() if line.strip()]
    # Mounts are the builder's; what follows them is the shell's.
    return [(name, re.sub(r"^(--mount=\S+ )+", "", words.strip())) for name, _, words in found]


def of(instructions, name):
    return [words for one, words in instructions if one == name]


def pins():
    lines = (PROJECT / "constraints.txt").read_text().split()
    return dict(line.split("==") for line in lines)


def test_the_base_is_one_version_for_both_stages(instructions):
    """Catches `python:3`, which is another Python next year, and a Python with known holes."""
    (base,) = [one for one in of(instructions, "ARG") if one.startswith("BASE=")]
    found = re.fullmatch(r"BASE=python:3\.12\.(\d+)-slim-bookworm", base)
    assert found
    assert int(found[1]) >= 12  # CVE-2025-8194: an endless loop in tarfile
    assert of(instructions, "FROM") == ["${BASE} AS wheel", "${BASE}"]


def test_it_ends_as_nobody_and_says_whether_it_is_well(instructions):
    """Catches an image whose program is root."""
    assert of(instructions, "USER") == ["10001:10001"]
    after = instructions[instructions.index(("USER", "10001:10001")) + 1 :]
    assert not {"RUN", "COPY", "ADD"} & {name for name, _ in after}
    (health,) = of(instructions, "HEALTHCHECK")
    assert health.endswith('CMD ["ddpm", "--version"]')
    assert json.loads(of(instructions, "ENTRYPOINT")[0]) == ["ddpm-entrypoint"]
    assert f"ddpm-pipeline:{__version__}-cpu" in DOCKERFILE.read_text()


def test_what_it_copies_is_there_and_nothing_else_is_sent(instructions):
    """Catches a file that .dockerignore keeps away, and data or keys that it lets through."""
    lines = (PROJECT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    let_in = {rule[1:] for rule in rules if rule.startswith("!")}
    copied = [words.split() for words in of(instructions, "COPY") if "--from=" not in words]
    sources = {word for words in copied for word in words[:-1] if not word.startswith("--")}
    assert sources == let_in
    assert all((PROJECT / source).exists() for source in sources)
    assert not any(fnmatch.fnmatch("infra/.secrets/ray_token", f"{one}*") for one in let_in)


@pytest.mark.parametrize(
    ("variant", "index"), [("cpu", ["--index-url", "an index"]), ("cuda", None), ("rocm", 2)]
)
def test_the_variant_says_where_torch_comes_from(instructions, variant, index, tmp_path):
    """Catches gigabytes of CUDA in the image for CPUs, another torch than the pinned one, and a
    variant that is misspelt and passes."""
    (script,) = [words for words in of(instructions, "RUN") if words.startswith("case ")]
    fake = tmp_path / "bin/python"
    fake.parent.mkdir()
    fake.write_text('#!/bin/sh\nprintf "%s\\n" "$@" >"$ASKED"\n')
    fake.chmod(0o755)
    (tmp_path / "constraints.txt").write_text((PROJECT / "constraints.txt").read_text())
    asked = tmp_path / "asked"
    given = {"VARIANT": variant, "CPU_INDEX": "an index", "ASKED": str(asked)}
    path = f"{fake.parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["sh", "-c", script], env=given | {"PATH": path}, cwd=tmp_path,
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == (index if isinstance(index, int) else 0), done.stderr
    if isinstance(index, list):
        words = asked.read_text().splitlines()
        assert words == ["-m", "pip", "install", "--no-deps", *index, f"torch=={pins()['torch']}"]
    else:
        assert not asked.exists()


def test_no_index_stays_in_the_image_and_every_pip_finds_one_s_own():
    """Catches a mirror's address or password in a layer, and a step that asks elsewhere than the
    others: behind a firewall it fails at the end of the build."""
    text = DOCKERFILE.read_text()
    commands = re.findall(r"^RUN (.*?)(?<!\\)$", text, re.MULTILINE | re.DOTALL)
    asking = [one for one in commands if "-m pip install" in one or "-m build" in one]
    assert len(asking) == 4
    for one in asking:
        assert "--mount=type=secret,id=pip,target=/etc/pip.conf " in one
        assert "--mount=type=secret,id=ca " in one
    assert not re.search(
        "PIP_(INDEX_URL|EXTRA_INDEX_URL|CERT|TRUSTED_HOST)|ARG.*(TOKEN|PASS)", text
    )


def test_every_command_is_one_that_a_shell_can_read(instructions):
    """Catches a quote that is missing, which a build of minutes finds at its end."""
    commands = of(instructions, "RUN")
    assert len(commands) == 6
    for command in commands:
        subprocess.run(["sh", "-n", "-c", command], check=True, timeout=60)
    assert f"build=={pins()['build']}" in commands[0]


def test_the_server_s_packages_go_with_the_pinned_ones():
    """Catches a boto3 that wants another botocore than the store's, and a version left open."""
    lines = (PROJECT / "infra/mlflow-server.txt").read_text().splitlines()
    asked = [Requirement(line) for line in lines if line and not line.startswith("#")]
    versions = {one.name: str(one.specifier).removeprefix("==") for one in asked}
    assert set(versions) == {"boto3", "Flask-WTF", "psycopg"}
    assert versions["boto3"] == pins()["botocore"]
    assert versions["Flask-WTF"].startswith("1.")  # mlflow's extra `auth`: below 2
