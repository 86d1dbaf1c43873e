"""The parameters of a run that is started by hand."""

from __future__ import annotations

from typing import Any

import pytest

from assets.engine.errors import OptionsError
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
