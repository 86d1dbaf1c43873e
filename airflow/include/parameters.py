"""The parameters of a run that is started by hand; each DAG runs its own assets and triggers the downstream DAGs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow.sdk import Param

from assets.engine.errors import OptionsError, did_you_mean

_SHARD_RANGE = "[0-9]+(-[0-9]+)?"

PARAMS = {
    "select": Param("", type="string", description="Assets of this DAG, comma-separated; empty: all."),
    "user": Param("", type="string", description="Compute only these users, comma-separated; empty: everybody."),
    "shards": Param(
        "",
        type="string",
        pattern=rf"^\s*({_SHARD_RANGE})?(\s*,\s*({_SHARD_RANGE})?)*\s*$",
        description="Run only these shards, such as 0-3,7; empty: all.",
    ),
    "force": Param(False, type="boolean", description="Compute up-to-date users, too."),
}
FULL_PARAM = {
    "full": Param(True, type="boolean", description="Fetch every active user, not only the users likely to ask.")
}
"""The parameter of the step that fetches."""

_TYPES: Mapping[str, type] = {"string": str, "boolean": bool}


def parameters_of(*, is_source: bool) -> dict[str, Param]:
    """Return the parameters of a DAG. is_source: whether its step fetches."""
    return PARAMS | (FULL_PARAM if is_source else {})


def read_parameters(conf: Mapping[str, Any], declared: Mapping[str, Param]) -> dict[str, Any]:
    """Return the values of a run: those of its `conf`, else the defaults.

    Raises OptionsError if `conf` has an unknown name or a value of another type. Airflow itself ignores unknown
    names, so that a run for one user would silently compute everybody.
    """
    for name, value in conf.items():
        if name not in declared:
            raise OptionsError(f"the run's conf has '{name}', which is no parameter.{did_you_mean(name, declared)}")
        expected = declared[name].schema["type"]
        if not isinstance(value, _TYPES[expected]):
            found = f"{value!r} ({type(value).__name__})"
            hint = declared[name].description
            raise OptionsError(f"the run's conf has '{name}': {found}, but it is a {expected}. {hint}")
    return {name: conf.get(name, param.value) for name, param in declared.items()}
