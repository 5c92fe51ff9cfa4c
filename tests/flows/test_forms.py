"""What Prefect's forms offer, take and refuse, before any flow runs."""

import json
import shlex
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ddpm_core.cli import parse_overrides
from ddpm_core.config import RUN_NAME_PATTERN
from ddpm_core.recipes import RECIPES, recipe
from ddpm_core.recipes.sizes import sized
from ddpm_core.runs.run import configure, open_run
from flows import plan

PROJECT = Path(__file__).parents[2]


def test_flow_parameters_offer_every_recipe_and_refuse_others():
    """Catches: a recipe that Prefect's form does not know, a typo that trains something else."""
    from typing import get_args

    from prefect.exceptions import ParameterTypeError

    from flows.stages import Recipe, train

    assert set(get_args(Recipe)) == set(RECIPES)
    assert train.should_validate_parameters
    with pytest.raises(ParameterTypeError):
        train.validate_parameters({"recipe": "digit"})


@pytest.mark.parametrize("entrypoint", ["flows/stages.py:", "flows.stages."])
def test_every_stage_is_a_flow_where_prefect_looks_for_it(entrypoint, monkeypatch):
    """Catches: a deployment of a user's own whose flow is gone or has another name, and a name that
    is no stage taken for one."""
    from prefect.exceptions import MissingFlowError
    from prefect.flows import load_flow_from_entrypoint

    monkeypatch.chdir(PROJECT)
    names = {}
    for attribute in ("shard_dataset", "train", "sample", "evaluate", "study", "ablations"):
        flow = load_flow_from_entrypoint(entrypoint + attribute, use_placeholder_flow=False)
        names[attribute] = flow.name
        assert flow.fn.__name__ == attribute
        assert list(flow.parameters.properties) == [
            "recipe", "root", "run", "overrides", "ray_address", "size", "scale", "data",
        ]  # fmt: skip
    assert names.pop("shard_dataset") == "shard-dataset"
    assert all(attribute == name for attribute, name in names.items())
    with pytest.raises(MissingFlowError, match="'shard' not found"):
        load_flow_from_entrypoint(f"{entrypoint}shard", use_placeholder_flow=False)


@pytest.mark.parametrize("name", RECIPES)
def test_form_takes_every_key_as_it_is(name):
    """Catches: a key that cannot be set on a server, or whose value is changed on the way."""
    from prefect.utilities.schema_tools.validation import validate

    from flows.train_ddpm import train_ddpm

    overrides = recipe(name).flat()
    sent = {"recipe": name, "overrides": overrides}
    validate(sent, train_ddpm.parameters.model_dump_for_openapi(), raise_on_error=True)
    taken = train_ddpm.validate_parameters(sent)["overrides"]
    assert json.dumps(taken) == json.dumps(overrides)


def test_dials_are_parameters_and_arrive_as_ordinary_keys(monkeypatch):
    """Catches: a size of the form that trains 32x32, a wrong one that Prefect's form takes, and a
    dial that wins over the overrides.
    """
    from prefect.utilities.schema_tools.validation import ValidationError, validate

    from flows import paper, train_ddpm

    sent = {"recipe": "images", "size": 128, "scale": "M", "overrides": {"train.num_steps": 7}}
    given = {**sized(128, "M"), "train.num_steps": 7}
    for module, flow in ((train_ddpm, train_ddpm.train_ddpm), (paper, paper.paper)):
        schema = flow.parameters.model_dump_for_openapi()
        validate(sent, schema, raise_on_error=True)
        for wrong in ({"size": 65}, {"scale": "XL"}, {"size": "64"}):
            with pytest.raises(ValidationError):
                validate(sent | wrong, schema, raise_on_error=True)
        seen = []
        monkeypatch.setattr(
            module, "run_all", lambda *parameters, seen=seen: seen.append(parameters)
        )
        flow.fn(**flow.validate_parameters(sent))
        assert seen[0][4] == given


def test_a_data_set_is_a_parameter_and_arrives_as_the_key(monkeypatch):
    """Catches: a form that trains on the recipe's own images; a wrong name that it takes."""
    from prefect.utilities.schema_tools.validation import ValidationError, validate

    from ddpm_core.errors import ConfigError
    from flows import paper, train_ddpm

    sent = {"recipe": "images", "size": 64, "data": "faces@3f2a90c1"}
    for module, flow in ((train_ddpm, train_ddpm.train_ddpm), (paper, paper.paper)):
        schema = flow.parameters.model_dump_for_openapi()
        validate(sent, schema, raise_on_error=True)
        for wrong in ("Faces", "faces@3f2a", "", 7):
            with pytest.raises(ValidationError):
                validate(sent | {"data": wrong}, schema, raise_on_error=True)
        seen = []
        monkeypatch.setattr(
            module, "run_all", lambda *parameters, seen=seen: seen.append(parameters)
        )
        flow.fn(**flow.validate_parameters(sent))
        changes = seen[0][4]
        assert changes["data.sets"] == "faces@3f2a90c1"
        # The size is to be the set's; how its images lie in shards is not the recipe's to say.
        assert {key for key in changes if key.startswith("data.")} == {
            "data.sets", "data.height", "data.width",
        }  # fmt: skip
    with pytest.raises(ConfigError, match="leave one out"):
        plan.changes_of(
            "images", overrides={"data.sets": "flowers"}, size=None, scale=None, data="faces"
        )


@pytest.mark.parametrize("labels", [["cat", "dog"], ["3"], [3, "3", "cat"], [3], [1, 0]], ids=str)
def test_form_takes_classes_by_number_and_by_name(labels):
    """Catches: names that Prefect refuses, a class called "3" taken for number 3 or the reverse."""
    from prefect.utilities.schema_tools.validation import validate

    from flows.train_ddpm import train_ddpm

    sent = {"overrides": {"sample.labels": labels}}
    validate(sent, train_ddpm.parameters.model_dump_for_openapi(), raise_on_error=True)
    taken = train_ddpm.validate_parameters(sent)["overrides"]
    assert json.dumps(taken) == json.dumps(sent["overrides"])


NAMES = st.one_of(
    st.sampled_from(["1", "007", "1e5", "0x10", "null", "true", "nan", "1.5", "a--b", "0"]),
    st.from_regex(RUN_NAME_PATTERN.replace("$", r"\Z"), fullmatch=True),
).filter(lambda name: not name.endswith(".") and ".." not in name)
# Paths of anyone: quotes, spaces, `=`, `{{ }}`, `$`, line ends, letters of all alphabets.
PLACES = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0/"), min_size=1, max_size=30
).map(lambda name: f"/data/{name}")
CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "data.source": PLACES,
        "train.learning_rate": st.floats(1e-30, 1.0, exclude_min=True),
        "train.ema_decay": st.floats(0.0, 0.999),
        "train.power_averages": st.just([0.05, 0.1]),
        "train.seed": st.integers(0, 2**31 - 1),
        "train.random_flip": st.booleans(),
        "model.channel_mults": st.lists(st.integers(1, 16), min_size=3, max_size=3),
        "model.attention_resolutions": st.lists(st.sampled_from([8, 16, 32]), max_size=3),
        "data.background": st.lists(st.integers(0, 255), min_size=3, max_size=3),
        "compute.use_gpu": st.none() | st.booleans(),
        "sample.clip_x_0": st.booleans(),
        "study.ode_tolerance": st.floats(1e-9, 0.1),
    },
)


@settings(deadline=None)
@given(run=NAMES, changes=CHANGES)
@example(run="007", changes={"data.source": '/data/it\'s "{{ a }}" = $HOME/ü\n--set b=1'})
def test_every_parameter_survives_form_json_and_command_line(tmp_path_factory, run, changes):
    """Catches: a name that comes back as a number, a list as text, a place cut at a space or `=`.

    The whole way: the flow's parameters, JSON, Prefect's check and pydantic's, the stage's command,
    the shell that Ray starts it by, its arguments.
    """
    from prefect.utilities.schema_tools.validation import validate

    from flows.train_ddpm import train_ddpm

    root = str(tmp_path_factory.mktemp("here") / 'it\'s a "root" = ü')
    store, config = plan.resolve(
        "images", root=root, run=run, overrides={"data.source": "/data/x"} | changes
    )
    parameters = plan.parameters_of(config, store, "images")
    sent = json.loads(json.dumps(parameters))
    validate(sent, train_ddpm.parameters.model_dump_for_openapi(), raise_on_error=True)
    taken = train_ddpm.validate_parameters(sent | {"ray_address": None})
    del taken["ray_address"]
    there, arrived = plan.resolve(
        taken["recipe"], root=taken["root"], run=taken["run"], overrides=taken["overrides"]
    )
    assert there.uri == store.uri
    assert arrived.to_json() == config.to_json()
    assert type(taken["run"]) is str

    open_run(store, config.replaced({"compute.max_failures": 1}))
    words = plan.job_command(store, config, "shard", python="python")
    _, _, _, _, target, *options = shlex.split(shlex.join(words))
    assert options == ["--set", "compute.max_failures=3"]
    everything = [f"{key}={json.dumps(value)}" for key, value in config.flat().items()]
    words = shlex.split(shlex.join(["--set", *everything]))[1:]
    _, arrived = configure(target, root=None, run=None, changes=parse_overrides(words))
    assert arrived.to_json() == config.to_json()


def test_flow_refuses_sections():
    """Catches: {"train": {"num_steps": 5}} from another client, refused late by the flow."""
    from prefect.exceptions import ParameterTypeError

    from flows.train_ddpm import train_ddpm

    with pytest.raises(ParameterTypeError):
        train_ddpm.validate_parameters({"overrides": {"train": {"num_steps": 5}}})


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"run": "My Run"}, r"'My Run' does not match '\^\[0-9a-z\]"),
        ({"run": "a" * 64}, "does not match"),
        ({"run": 7}, "7 is not valid"),
        (
            {"overrides": {"train.num_step": 5}},
            "'train.num_step' is not one of .*'train.num_s",
        ),
        ({"overrides": {"train": {"num_steps": 5}}}, "'train' is not one of"),
        ({"overrides": {"train.num_steps": {"a": 5}}}, r"overrides\['train.num_steps'\]"),
    ],
)
def test_form_refuses_a_wrong_name_and_a_wrong_key_with_the_reason(wrong, reason):
    """Catches: a flow run that fails when a worker takes it up, for what the form could say; "not
    valid under any of the given schemas", which says nothing."""
    from prefect.utilities.schema_tools.validation import ValidationError, validate

    from flows.paper import paper
    from flows.train_ddpm import train_ddpm

    for flow in (train_ddpm, paper):
        schema = flow.parameters.model_dump_for_openapi()
        with pytest.raises(ValidationError, match=reason):
            validate(wrong, schema, raise_on_error=True)
        assert schema["properties"]["overrides"]["description"]
        validate({"run": None, "overrides": None}, schema, raise_on_error=True)


def test_the_rule_of_a_name_is_printed_whole():
    """Catches: '^{0,62}$' as the reason of a refusal, which Prefect prints as Rich's markup."""
    from rich.text import Text

    assert Text.from_markup(RUN_NAME_PATTERN).plain == RUN_NAME_PATTERN
