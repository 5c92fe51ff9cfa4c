"""compose.yaml against its specification, the programs it starts, and what the code reads."""

import configparser
import inspect
import json
import os
import re
import shutil
import subprocess
from importlib.resources import files
from pathlib import Path

import pytest
import yaml
from jsonschema.validators import validator_for

from ddpm_core import __version__

PROJECT = Path(__file__).parents[2]
COMPOSE = PROJECT / "infra/compose.yaml"
OURS = {"bucket", "mlflow", "prefect", "prefect-worker", "ray-head", "ray-worker"}
OTHERS = {"postgres", "s3"}


@pytest.fixture(scope="module")
def content():
    return yaml.safe_load(COMPOSE.read_text())


@pytest.fixture(scope="module")
def services(content):
    return content["services"]


def test_it_is_what_the_specification_of_compose_allows(content):
    """Catches a key that Docker refuses, or ignores, when somebody runs it."""
    schemas = files("check_jsonschema.builtin_schemas.vendor")
    schema = json.loads(schemas.joinpath("compose-spec.json").read_text())
    validator = validator_for(schema)(schema)
    assert [f"{list(e.path)}: {e.message}" for e in validator.iter_errors(content)] == []
    content["services"]["s3"]["ports_"] = []
    assert not validator.is_valid(content)
    del content["services"]["s3"]["ports_"]


def test_docker_reads_it(tmp_path):
    """Catches what the schema does not know: names that refer to nothing, and variables."""
    docker = shutil.which("docker")
    asked = [docker or "", "compose", "version"]
    if docker is None or subprocess.run(asked, capture_output=True, check=False).returncode:
        pytest.skip("docker compose is not installed")
    command = [docker, "compose", "-f", COMPOSE, "config", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_image_is_pinned_and_ours_is_this_version(services):
    """Catches `latest`, which is another program next week."""
    assert set(services) == OURS | OTHERS
    for name in OTHERS:
        assert re.fullmatch(r"[a-z/]+:\d+\.\d+[a-z0-9.-]*", services[name]["image"]), name
    for name in OURS:
        assert services[name]["image"] == f"ddpm-pipeline:{__version__}-${{VARIANT:-cpu}}"
        assert services[name]["build"]["dockerfile"] == "infra/Dockerfile"


def test_only_this_machine_reaches_it(services):
    """Catches a port that Docker opens to the network, past the firewall."""
    ports = [port for one in services.values() for port in one.get("ports", [])]
    assert len(ports) == 4
    assert all(re.fullmatch(r"127\.0\.0\.1:(\d+):\1", port) for port in ports)


def test_our_containers_can_do_nothing_but_their_work(services):
    """Catches a service that forgot the anchor: root's rights, a file system to write to."""
    for name in OURS:
        one = services[name]
        assert (one["read_only"], one["cap_drop"]) == (True, ["ALL"]), name
        assert one["security_opt"] == ["no-new-privileges:true"], name
        assert "user" not in one  # the image's, which is not root


def test_configurations_are_files_that_are_there(content, services):
    """Catches `content:`, which is copied into a container: Docker refuses that where the root is
    read-only, and the service is never made."""
    assert {tuple(one) for one in content["configs"].values()} == {("file",)}
    assert all((COMPOSE.parent / one["file"]).is_file() for one in content["configs"].values())
    used = {one["source"] for service in services.values() for one in service.get("configs", [])}
    assert used == set(content["configs"])
    auth = configparser.ConfigParser()
    auth.read(COMPOSE.parent / content["configs"]["mlflow_auth"]["file"])
    prefect = services["prefect"]["environment"]["PREFECT_SERVER_DATABASE_CONNECTION_URL"]
    named = {url.rpartition("/")[2] for url in (auth["mlflow"]["database_uri"], prefect)}
    text = (COMPOSE.parent / content["configs"]["databases"]["file"]).read_text()
    assert {f"CREATE DATABASE {name};" for name in named} == set(text.splitlines())


def test_secrets_are_files_that_infra_secrets_makes(content, services, tmp_path):
    """Catches a password in the file, a secret that a service may not read, and one that nothing
    makes; and files that the program, another user in its container, cannot read."""
    folder = tmp_path / "s e c"
    for _ in range(2):  # again: what is there stays
        subprocess.run([PROJECT / "infra/secrets", folder], check=True, timeout=60)
        made = {path.name: path.read_text() for path in folder.iterdir()}
    assert {one["file"] for one in content["secrets"].values()} == {f".secrets/{n}" for n in made}
    assert folder.stat().st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o777 == 0o644 for path in folder.iterdir())
    assert len(set(made.values())) == len(made)
    assert all(text == text.strip() for text in made.values())  # a token is what the file holds
    (identity,) = json.loads(made["s3_identities"])["identities"]
    (keys,) = identity["credentials"]
    assert made["s3_credentials"].splitlines()[1:] == [
        f"aws_access_key_id = {keys['accessKey']}",
        f"aws_secret_access_key = {keys['secretKey']}",
    ]
    used = set()
    for name, one in services.items():
        text = json.dumps([one.get("environment"), one.get("command")])
        named = set(re.findall(r"/run/secrets/(\w+)", text))
        assert named == set(one.get("secrets", [])), name
        used |= named
        for key, value in (one.get("environment") or {}).items():
            secret = re.search("PASSWORD|TOKEN|AUTH_STRING|SECRET|KEY|CREDENTIALS", key)
            assert not secret or value.startswith("/run/secrets/"), key
    assert used == set(made)


def test_every_service_says_when_it_is_well_and_waits_for_what_it_needs(services):
    """Catches a worker that starts before its head, and a wait for a service that says nothing."""
    for name, one in services.items():
        well = one["healthcheck"]
        assert well.get("disable") if name == "bucket" else well["test"][0].startswith("CMD"), name
        for other, how in one.get("depends_on", {}).items():
            ends = services[other].get("restart") == "no"
            condition = "service_completed_successfully" if ends else "service_healthy"
            assert how == {"condition": condition}, (name, other)
    waits = {name: set(one.get("depends_on", {})) for name, one in services.items()}
    assert waits["bucket"] == {"s3"}
    assert waits["mlflow"] == {"postgres", "bucket"}
    assert waits["ray-worker"] == {"ray-head"}
    assert waits["prefect-worker"] == {"prefect", "mlflow", "ray-head"}


def test_ray_asks_for_its_token_everywhere(services):
    """Catches a head that lets anybody run code: with Ray 2.60 no token is asked for by default."""
    for name in ("ray-head", "ray-worker", "prefect-worker"):
        variables = services[name]["environment"]
        expected = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": "/run/secrets/ray_token"}
        assert expected.items() <= variables.items()
    assert "--dashboard-port=8265" in services["ray-head"]["command"]
    assert "--address=ray-head:6379" in services["ray-worker"]["command"]
    assert "--port=6379" in services["ray-head"]["command"]


def test_ray_s_health_costs_little_and_needs_no_token(services):
    """Catches a look that starts a Ray client each time, which takes longer than it may on a busy
    machine, and an address that answers 401."""
    from ray.dashboard import http_server_agent, http_server_head

    where = {"ray-head": http_server_head, "ray-worker": http_server_agent}
    for name, module in where.items():
        (path,) = re.findall(
            r"http://127\.0\.0\.1:\d+(/[a-z_/]+)", services[name]["healthcheck"]["test"][-1]
        )
        open_to_all = inspect.getsource(module)
        assert f'"{path}"' in open_to_all, name


@pytest.mark.filterwarnings("ignore")  # of MLflow's command line, as it is imported
def test_options_and_variables_are_ones_that_the_programs_know(services):
    """Catches an option or a variable that is called otherwise in the pinned version."""
    from mlflow import environment_variables
    from mlflow.cli import server
    from prefect import settings
    from ray.scripts.scripts import start

    known = {"mlflow": server, "ray-head": start, "ray-worker": start}
    for name, command in known.items():
        options = {text for one in command.params for text in one.opts}
        words = services[name]["command"][2:]
        assert {word.partition("=")[0] for word in words} <= options, name
    ours = "\n".join(path.read_text() for path in (PROJECT / "ddpm_core").rglob("*.py"))
    for name in OURS:
        for key in services[name].get("environment", {}):
            variable = key.removeprefix("SECRET_")
            if variable.startswith("PREFECT_"):
                assert hasattr(settings, variable), variable
            elif variable.startswith("MLFLOW_"):
                assert hasattr(environment_variables, variable) or variable in ours, variable
            elif variable.startswith("RAY_"):
                assert variable in ours, variable
            else:
                assert variable.startswith(("PG", "AWS_")), variable


def test_the_command_of_the_first_lines_is_that_of_the_readme(services):
    """Catches a command that meets a 401: `exec` alone does not pass through the entrypoint."""
    comments = [line[1:] for line in COMPOSE.read_text().splitlines() if line.startswith("#")]
    said = " ".join(" ".join(comments).replace("\\", " ").split())
    readme = (COMPOSE.parent / "README.md").read_text()
    there = " ".join(readme.replace("\\", " ").split())
    command = (
        "exec prefect-worker ddpm-entrypoint prefect deployment run train-ddpm/cluster --watch "
        "-p recipe=digits -p root=s3://ddpm/runs -p ray_address=http://ray-head:8265"
    )
    assert command in said
    assert command in there


def test_the_entrypoint_exports_what_files_hold_and_says_which_is_missing(tmp_path):
    """Catches a secret with a space or a quote that a shell takes apart, and a service that starts
    without its password."""
    (tmp_path / "a secret").write_text("p'w $(touch bad)  `x` \"\n")
    entry = [
        PROJECT / "infra/entrypoint",
        "sh",
        "-c",
        'printf "%s|%s" "$WORD" "${SECRET_WORD-gone}"',
    ]
    there = {"PATH": os.environ["PATH"], "SECRET_WORD": str(tmp_path / "a secret")}
    options = {"cwd": tmp_path, "capture_output": True, "text": True, "timeout": 60}
    done = subprocess.run(entry, env=there, check=True, **options)
    assert done.stdout == "p'w $(touch bad)  `x` \"|gone"
    assert not (tmp_path / "bad").exists()
    there["SECRET_WORD"] = str(tmp_path / "nothing")
    done = subprocess.run(entry, env=there, check=False, **options)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"SECRET_WORD is {tmp_path}/nothing, which cannot be read" in done.stderr
