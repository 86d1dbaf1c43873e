"""An asset: a plain function from Arrow tables and resources to an Arrow table, described by its signature."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from inspect import signature
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import pyarrow as pa

from assets.engine.checks import Check
from assets.engine.errors import GraphError, SchemaError, did_you_mean

KEY = "user_id"
"""Every row of every asset belongs to one user; shards, rows and selections are by this column."""

VALID_UNTIL = "valid_until"
"""Optional column: a row is recomputed once its instant in this column has passed, even with unchanged inputs."""

Users = Mapping[str, datetime]
"""The users whom an observing asset receives, each with an instant (aware, UTC).

It is that of their last fetch, or, if the asset works on demand, that of the request that its output is for.
"""

RowDigests = Mapping[str, bytes]
"""A digest of each user's rows, without the opaque columns; users without rows have one, too."""

CurrentUsers = frozenset[str]
"""The users of a source whose stored rows its present code and resources made, and which are not to be made again."""

DueUsers = frozenset[str]
"""Those of the users to observe for whom the asset has work even if its inputs did not change."""

RESERVED: Mapping[str, object] = {
    "previous": pa.Table,
    "previous_digests": RowDigests,
    "current_users": CurrentUsers,
    "users": Users,
    "due_users": DueUsers,
    "now": datetime,
}
"""Parameters that the engine fills.

They are the previous rows, sorted by user, their digests, the users whose rows are current, the users to observe, the
due ones among these, and the time of the run.
"""


@dataclass(frozen=True)
class Input:
    """One edge of the graph: the columns that an asset reads from another asset."""

    asset: str
    columns: tuple[str, ...]


@dataclass(frozen=True)
class WorkUnit:
    """The unit in which the work of an asset is counted.

    name: the key in an output's counts. per: what a plan counts it by. is_upper_bound: even with known inputs the
    work can be less than planned (rows that are stored already).
    """

    name: str
    per: Literal["user", "row"]
    is_upper_bound: bool = False


@dataclass(frozen=True)
class Output:
    """A table with extras, which an asset function may return instead of a bare table.

    counts: numbers for the result of the run. after_write: called once the table is stored durably, with the
    digests of the stored rows, to save the position up to which the outside world was read (sync tokens). An asset
    that finds other `previous_digests` than those saved reads the file of another time, such as a restored one.
    """

    table: pa.Table
    counts: Mapping[str, int] = field(default_factory=dict)
    after_write: Callable[[RowDigests], None] | None = None


@dataclass(frozen=True)
class Asset:
    """A named function with the edges, resources and rules that its decorator and signature declare."""

    name: str
    function: Callable[..., pa.Table | Output]
    step: str
    schema: pa.Schema
    code_version: str
    opaque: frozenset[str]
    checks: tuple[Check, ...]
    work: WorkUnit | None
    inputs: tuple[Input, ...]
    resources: Mapping[str, type]
    reserved: frozenset[str]
    on_demand: bool = False

    def __call__(self, *args: Any, **kwargs: Any) -> pa.Table | Output:
        """Call the asset's own function, as if it were not decorated."""
        return self.function(*args, **kwargs)

    @property
    def observes(self) -> bool:
        """Whether the asset asks for `users` with the instants of their fetches; it then writes its whole shard."""
        return "users" in self.reserved

    @property
    def is_source(self) -> bool:
        """Whether the asset has no inputs."""
        return not self.inputs

    @property
    def versioned(self) -> tuple[str, ...]:
        """The columns that count in `data_version`: all but the opaque ones."""
        return tuple(name for name in self.schema.names if name not in self.opaque)

    def conform(self, table: pa.Table) -> pa.Table:
        """Return `table` with exactly the declared columns, in order; SchemaError names the first that differs."""
        for declared in self.schema:
            if declared.name not in table.column_names:
                raise SchemaError(
                    f"{self.name} returned no column '{declared.name}' ({declared.type})."
                    f" Return it, or remove it from the asset's schema."
                )
            kind = table.schema.field(declared.name).type
            if kind != declared.type:
                raise SchemaError(
                    f"{self.name} returned '{declared.name}' as {kind}, but its schema says {declared.type}."
                    f" Cast it, or change the schema and raise code_version."
                )
            if not declared.nullable and table[declared.name].null_count:
                raise SchemaError(f"{self.name} returned '{declared.name}' with a null, which its schema forbids.")
        return table.select(self.schema.names).cast(self.schema)


@dataclass(frozen=True, kw_only=True)
class asset:
    """Decorator that makes an `Asset` of a function.

    step: the DAG of the asset. schema: its columns; the first ones identify a row and give the order.
    code_version: raise it when the meaning of the function changes. opaque: columns that follow from the others and
    the code, left out of versions (the last bits of a vector depend on the batch size). checks: rules that a new
    shard must meet before it replaces the old one. work: the unit that plans and run logs count. on_demand: the asset
    runs for the users for whom its output is demanded, whether or not its inputs changed.
    """

    step: str
    schema: pa.Schema
    code_version: str
    opaque: tuple[str, ...] = ()
    checks: tuple[Check, ...] = ()
    work: WorkUnit | None = None
    on_demand: bool = False

    def __call__(self, function: Callable[..., pa.Table | Output]) -> Asset:
        """Read the signature: tables are inputs, reserved names are the engine's, anything else is a resource."""
        name = function.__name__
        self._check_names(name)
        hints = get_type_hints(function, include_extras=True)
        inputs: list[Input] = []
        resources: dict[str, type] = {}
        reserved: set[str] = set()
        for parameter in signature(function).parameters:
            hint = hints.get(parameter)
            if parameter in RESERVED:
                _check_reserved(name, parameter, hint)
                reserved.add(parameter)
            elif get_origin(hint) is Annotated and get_args(hint)[0] is pa.Table:
                inputs.append(Input(parameter, get_args(hint)[1:]))
            elif isinstance(hint, type) and hint is not pa.Table:
                resources[parameter] = hint
            else:
                raise GraphError(
                    f"{name}: the parameter '{parameter}' cannot be resolved. Annotate an asset as"
                    f" Annotated[pa.Table, 'column', ...], or a resource with its class."
                )
        if "users" not in reserved and (self.on_demand or not inputs):
            lack = "works on demand" if self.on_demand else "has no input"
            raise GraphError(f"{name} {lack} and does not ask for 'users', so it would never run. Add one.")
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
            on_demand=self.on_demand,
        )

    def _check_names(self, name: str) -> None:
        columns = self.schema.names
        if name in RESERVED:
            raise GraphError(f"an asset cannot be named '{name}': as a parameter the name is reserved. Rename it.")
        if KEY not in columns:
            raise GraphError(f"{name} has no column '{KEY}': every row belongs to a user. Add it to the schema.")
        for column in self.opaque:
            if column not in columns:
                raise GraphError(
                    f"{name} declares '{column}' opaque, but has no such column." + did_you_mean(column, columns)
                )


def _check_reserved(name: str, parameter: str, hint: object) -> None:
    if hint != RESERVED[parameter]:
        expected = {
            "previous": "Table",
            "previous_digests": "RowDigests",
            "current_users": "CurrentUsers",
            "users": "Users",
            "due_users": "DueUsers",
            "now": "datetime",
        }[parameter]
        raise GraphError(
            f"{name} annotates the reserved parameter '{parameter}' as {hint}, but it is a {expected}."
            f" Annotate it as {expected}, or rename the parameter."
        )


def check_columns(reader: Asset, edge: Input, source: Asset) -> None:
    """Raise GraphError if `reader` asks `source` for a column that it lacks, or does not ask for the user's id."""
    for column in edge.columns:
        if column not in source.schema.names:
            raise GraphError(
                f"{reader.name} asks {source.name} for '{column}', which it does not have."
                + did_you_mean(column, source.schema.names)
            )
    if KEY not in edge.columns:
        raise GraphError(f"{reader.name} reads {source.name} without '{KEY}'. Name it first among the columns.")
