"""What Prefect's forms offer, take and refuse, before any flow runs."""

import json

import pytest

from ddpm_core.recipes import RECIPES, recipe


def test_flow_parameters_offer_every_recipe_and_refuse_others():
    """Catches: a recipe that Prefect's form does not know, a typo that trains something else."""
    from typing import get_args

    from prefect.exceptions import ParameterTypeError

    from flows.stages import Recipe, train

    assert set(get_args(Recipe)) == set(RECIPES)
    assert train.should_validate_parameters
    with pytest.raises(ParameterTypeError):
        train.validate_parameters({"recipe": "digit"})


@pytest.mark.parametrize("name", RECIPES)
def test_form_takes_every_key_as_it_is(name):
    """Catches: a key that cannot be set on a server, or whose value is changed on the way."""
    from prefect.utilities.schema_tools.validation import validate

    from flows.train_ddpm import train_ddpm

    overrides = recipe(name).flat()
    given = {"recipe": name, "overrides": overrides}
    validate(given, train_ddpm.parameters.model_dump_for_openapi(), raise_on_error=True)
    taken = train_ddpm.validate_parameters(given)["overrides"]
    assert json.dumps(taken) == json.dumps(overrides)


def test_form_refuses_sections():
    """Catches: {"train": {"num_steps": 5}}, which only the flow, minutes later, would refuse."""
    from prefect.exceptions import ParameterTypeError
    from prefect.utilities.schema_tools.validation import ValidationError, validate

    from flows.train_ddpm import train_ddpm

    given = {"overrides": {"train": {"num_steps": 5}}}
    with pytest.raises(ValidationError, match=r"overrides\.train"):
        validate(given, train_ddpm.parameters.model_dump_for_openapi(), raise_on_error=True)
    with pytest.raises(ParameterTypeError):
        train_ddpm.validate_parameters(given)
