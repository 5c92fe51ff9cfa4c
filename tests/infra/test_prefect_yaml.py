"""prefect.yaml against the code: Prefect itself ignores keys that it does not know."""

import inspect
from pathlib import Path
from typing import Any

import pytest
import yaml

from ddpm_core.recipes import RECIPES

PROJECT = Path(__file__).parents[2]
PREFECT_YAML = PROJECT / "infra/prefect.yaml"


@pytest.fixture(scope="module")
def deployments() -> list[dict[str, Any]]:
    return yaml.safe_load(PREFECT_YAML.read_text())["deployments"]


def load(entrypoint: str):
    """Import the flow as Prefect does, from the file."""
    from prefect.flows import load_flow_from_entrypoint

    return load_flow_from_entrypoint(str(PROJECT / entrypoint), use_placeholder_flow=False)


def test_every_key_is_one_that_prefect_reads():
    """Catches: `parameter:` for `parameters:`, which Prefect takes without a word."""
    from prefect.cli.deploy._models import DeploymentConfig, PrefectYamlModel, WorkPoolConfig

    content = yaml.safe_load(PREFECT_YAML.read_text())
    assert set(content) <= names_of(PrefectYamlModel) | {"definitions"}
    for deployment in content["deployments"]:
        assert set(deployment) <= names_of(DeploymentConfig)
        assert set(deployment["work_pool"]) <= names_of(WorkPoolConfig)
    PrefectYamlModel.model_validate(content)


def names_of(model) -> set[str]:
    fields = model.model_fields
    return {name.replace("_", "-") if name == "prefect_version" else name for name in fields}


def test_version_is_the_one_that_is_installed():
    """Catches: a file written for another Prefect."""
    import prefect

    assert yaml.safe_load(PREFECT_YAML.read_text())["prefect-version"] == prefect.__version__


def test_deployments_are_those_that_the_readme_names(deployments):
    """Catches: `prefect deployment run train-ddpm/local` of one called otherwise."""
    names = {f"{load(d['entrypoint']).name}/{d['name']}" for d in deployments}
    assert names == {"train-ddpm/local", "train-ddpm/cluster", "paper/local"}
    assert {d["work_pool"]["name"] for d in deployments} == {"local"}
    comments = PREFECT_YAML.read_text()
    assert "prefect work-pool create local --type process" in comments
    assert "prefect deployment run train-ddpm/local" in comments


def test_parameters_are_the_flow_s_and_valid(deployments):
    """Catches: a parameter renamed in the code and not here: a run that fails when it is due."""
    for deployment in deployments:
        flow = load(deployment["entrypoint"])
        assert set(deployment["parameters"]) <= set(inspect.signature(flow.fn).parameters)
        flow.validate_parameters(deployment["parameters"])


def test_form_explains_every_parameter(deployments):
    """Catches: a form in Prefect's page that asks for `root` and does not say what that is."""
    properties = load(deployments[0]["entrypoint"]).parameters.properties
    names = {"recipe", "root", "run", "overrides", "size", "scale", "data", "ray_address"}
    assert set(properties) == names
    for name, shown in properties.items():
        assert shown.get("description"), name
    assert properties["recipe"]["enum"] == list(RECIPES)


def test_descriptions_say_what_a_cluster_needs(deployments):
    """Catches: a cluster deployment whose parameter for the address is missing."""
    described = {d["name"]: d["description"] for d in deployments}
    assert "ray_address" in described["cluster"]
    assert "root" in described["cluster"]


def test_nothing_holds_a_lease_on_the_server(deployments):
    """Catches: a `concurrency_limit`, whose lease a restarted server has forgotten: Prefect ends
    the flow for it in mid-training, and after a killed flow run the next one waits for minutes."""
    for deployment in deployments:
        assert "concurrency_limit" not in deployment
        assert set(deployment["work_pool"]) == {"name", "job_variables"}
    assert "prefect worker start --pool local --type process --limit 1" in PREFECT_YAML.read_text()


def test_a_server_that_is_away_for_minutes_is_waited_for(deployments):
    """Catches: a variable that Prefect does not read, in a deployment whose flow would not wait."""
    from prefect.settings import PREFECT_CLIENT_MAX_RETRIES

    for deployment in deployments:
        variables = deployment["work_pool"]["job_variables"]["env"]
        assert set(variables) == {PREFECT_CLIENT_MAX_RETRIES.name}
        retries = int(variables[PREFECT_CLIENT_MAX_RETRIES.name])
        assert sum(2**number for number in range(1, retries + 1)) > 4 * 60
