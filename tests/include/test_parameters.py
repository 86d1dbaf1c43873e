"""The parameters of a run that is started by hand."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.exceptions import ParamValidationError
from airflow.serialization.definitions.param import SerializedParam, SerializedParamsDict

from assets.engine.errors import OptionsError
from assets.options import RunOptions
from contexts.todoist.accounts import FetchScope
from include.parameters import parameters_of, read_parameters


def test_defaults() -> None:
    """A run without conf computes everything that is stale, of every active user."""
    defaults = {"select": "", "user": "", "shards": "", "force": False}
    assert read_parameters({}, parameters_of(is_source=False)) == defaults
    assert read_parameters({}, parameters_of(is_source=True)) == defaults | {"full": True}


def test_values_of_the_run() -> None:
    """The values of the run's conf replace the defaults."""
    given = read_parameters({"user": "ann", "force": True}, parameters_of(is_source=False))
    assert (given["user"], given["force"]) == ("ann", True)


@pytest.mark.parametrize(
    ("name", "value", "hint"),
    [
        ("users", "ann", "Did you mean 'user'?"),
        ("shard", "3", "Did you mean 'shards'?"),
        ("full", False, "Known: force, select, shards, user."),
        ("select", ["todoist_tasks"], "['todoist_tasks'] (list), but it is a string. Assets of this DAG"),
        ("shards", 3, "3 (int), but it is a string. Run only these shards, such as 0-3,7"),
        ("force", "yes", "'yes' (str), but it is a boolean"),
        ("user", None, "None (NoneType), but it is a string"),
    ],
)
def test_a_wrong_parameter_is_refused(name: str, value: Any, hint: str) -> None:
    """An unknown name is refused with the nearest known one, a value of another type with the expected one."""
    with pytest.raises(OptionsError) as refusal:
        read_parameters({name: value}, parameters_of(is_source=False))
    assert f"the run's conf has '{name}'" in str(refusal.value)
    assert hint in str(refusal.value)


def trigger(**conf: Any) -> None:
    """Check a conf as Airflow does when a run is triggered."""
    declared = parameters_of(is_source=True)
    params = {name: SerializedParam(each.value, each.description, **each.schema) for name, each in declared.items()}
    SerializedParamsDict(params).deep_merge(conf).validate()


@pytest.mark.parametrize("shards", ["zero", "1-", "-3", "3 4", "1,two", "0-3-7", 3])
def test_wrong_shards_start_no_run(shards: Any) -> None:
    """Airflow refuses to start a run whose shards are no list of numbers and ranges, and names the parameter."""
    with pytest.raises(ParamValidationError) as refusal:
        trigger(shards=shards)
    assert str(refusal.value).startswith(f"Invalid input for param shards: {shards!r} ")


@pytest.mark.parametrize("shards", ["", "0", "0-3,7", " 0-3 , 7 ,, 12,"])
def test_shards_that_start_a_run(shards: str) -> None:
    """Whatever the run can read is accepted when it is triggered."""
    trigger(shards=shards)
    RunOptions.parse(FetchScope.ALL, shards=shards)
