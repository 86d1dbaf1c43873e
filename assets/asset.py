"""An asset: a plain function from Arrow tables and resources to an Arrow table, and what its signature says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from inspect import signature
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import pyarrow as pa

from assets.checks import Check
from assets.errors import GraphError, SchemaError, did_you_mean

KEY = "user_id"
"""Every row of every asset belongs to one user; shards, rows and selections go by this column."""

VALID_UNTIL = "valid_until"
"""A row whose instant in this column (optional) has come is computed again, whatever its inputs say."""

Users = Mapping[str, datetime]
"""The users to look at, each with the instant (aware, UTC) at which their signals were last fetched."""

RESERVED: Mapping[str, object] = {"previous": pa.Table, "users": Users, "now": datetime}
"""Parameters that the engine fills itself: the shard's former rows, the users to look at, the time."""


@dataclass(frozen=True)
class Input:
    """One edge of the graph: the columns that an asset reads of another."""

    asset: str
    columns: tuple[str, ...]


@dataclass(frozen=True)
class Work:
    """What an asset's work is counted in: the name in an output's counts, and what a plan counts it by.

    is_bound: even where the inputs are known it may come to less (rows that are stored already).
    """

    count: str
    per: Literal["user", "row"]
    is_bound: bool = False


@dataclass(frozen=True)
class Output:
    """What an asset function may return in place of a bare table.

    `counts` go into the record of the run; `then` is called once the data is safely stored (sync tokens).
    """

    table: pa.Table
    counts: Mapping[str, int] = field(default_factory=dict)
    then: Callable[[], None] | None = None


@dataclass(frozen=True)
class Asset:
    """A named function with its edges, resources and rules, read from its signature."""

    name: str
    function: Callable[..., pa.Table | Output]
    step: str
    schema: pa.Schema
    code_version: str
    opaque: frozenset[str]
    checks: tuple[Check, ...]
    work: Work | None
    inputs: tuple[Input, ...]
    resources: Mapping[str, type]
    reserved: frozenset[str]

    def __call__(self, *args: Any, **kwargs: Any) -> pa.Table | Output:
        """The asset's own function, so that a definition can be called as it is written."""
        return self.function(*args, **kwargs)

    @property
    def observes(self) -> bool:
        """Whether it looks at the world outside the graph: it asks for `users` and writes its whole shard."""
        return "users" in self.reserved

    @property
    def plain(self) -> tuple[str, ...]:
        """The columns that are not opaque."""
        return tuple(name for name in self.schema.names if name not in self.opaque)

    @property
    def is_source(self) -> bool:
        """Whether no other asset feeds it."""
        return not self.inputs

    def conform(self, table: pa.Table) -> pa.Table:
        """`table` with exactly the declared columns, in order; SchemaError names the first that differs."""
        for wanted in self.schema:
            if wanted.name not in table.column_names:
                raise SchemaError(
                    f"{self.name} gave no column '{wanted.name}' ({wanted.type})."
                    f" Return it, or take it out of the asset's schema."
                )
            found = table.schema.field(wanted.name).type
            if found != wanted.type:
                raise SchemaError(
                    f"{self.name} gave '{wanted.name}' as {found}, but its schema says {wanted.type}."
                    f" Cast it, or change the schema and raise code_version."
                )
            if not wanted.nullable and table[wanted.name].null_count:
                raise SchemaError(f"{self.name} gave '{wanted.name}' with a null, which its schema forbids.")
        return table.select(self.schema.names).cast(self.schema)


@dataclass(frozen=True, kw_only=True)
class asset:
    """Decorator that makes an `Asset` of a function.

    step: the DAG that it belongs to. schema: its columns; the first ones name a row and give the order.
    code_version: raise it when the function's meaning changes. opaque: columns that follow from the others and the
    code (vectors differ in their last bit with the batch size), left out of versions. checks: rules that a new
    shard must meet before it replaces the old one. work: what a plan and the ledger count its work in.
    """

    step: str
    schema: pa.Schema
    code_version: str
    opaque: tuple[str, ...] = ()
    checks: tuple[Check, ...] = ()
    work: Work | None = None

    def __call__(self, function: Callable[..., pa.Table | Output]) -> Asset:
        """Read the signature: tables are dependencies, reserved names the engine's, all else resources by type."""
        name = function.__name__
        self._refuse_names(name)
        hints = get_type_hints(function, include_extras=True)
        inputs: list[Input] = []
        resources: dict[str, type] = {}
        reserved: set[str] = set()
        for parameter in signature(function).parameters:
            hint = hints.get(parameter)
            if parameter in RESERVED:
                _refuse_misuse(name, parameter, hint)
                reserved.add(parameter)
            elif get_origin(hint) is Annotated and get_args(hint)[0] is pa.Table:
                inputs.append(Input(parameter, get_args(hint)[1:]))
            elif isinstance(hint, type) and hint is not pa.Table:
                resources[parameter] = hint
            else:
                raise GraphError(
                    f"{name} has a parameter '{parameter}' of no use: annotate it Annotated[pa.Table, 'column', ...]"
                    f" if it is an asset, or with the class of a resource."
                )
        if not inputs and "users" not in reserved:
            raise GraphError(
                f"{name} reads no asset and looks at no users: it would never run. Let it ask for 'users'."
            )
        return Asset(
            name=name,
            function=function,
            step=self.step,
            schema=self.schema,
            code_version=self.code_version,
            opaque=frozenset(self.opaque),
            checks=self.checks,
            work=self.work,
            inputs=tuple(inputs),
            resources=resources,
            reserved=frozenset(reserved),
        )

    def _refuse_names(self, name: str) -> None:
        columns = self.schema.names
        if name in RESERVED:
            raise GraphError(f"an asset cannot be called '{name}': as a parameter the name is reserved. Rename it.")
        if KEY not in columns:
            raise GraphError(f"{name} has no column '{KEY}': every row belongs to a user. Add it to the schema.")
        for column in self.opaque:
            if column not in columns:
                raise GraphError(
                    f"{name} calls '{column}' opaque, but has no such column." + did_you_mean(column, columns)
                )


def _refuse_misuse(name: str, parameter: str, hint: object) -> None:
    if hint != RESERVED[parameter]:
        wanted = {"previous": "Table", "users": "Users", "now": "datetime"}[parameter]
        raise GraphError(
            f"{name} asks for '{parameter}' as {hint}, but the name is reserved and is a {wanted}."
            f" Annotate it so, or rename the parameter."
        )


def check_columns(reader: Asset, edge: Input, source: Asset) -> None:
    """GraphError when `reader` asks `source` for a column that it does not have, or leaves out the user's id."""
    for column in edge.columns:
        if column not in source.schema.names:
            raise GraphError(
                f"{reader.name} asks {source.name} for '{column}', which it does not have."
                + did_you_mean(column, source.schema.names)
            )
    if KEY not in edge.columns:
        raise GraphError(f"{reader.name} reads {source.name} without '{KEY}'. Name it first among the columns.")
