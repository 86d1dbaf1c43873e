from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any

import pyarrow as pa
import pytest

from assets.engine.asset import Asset, Input, Output, Users, asset
from assets.engine.errors import AssetError, CheckFailed, GraphError, OptionsError, SchemaError, ShardUnreadable

LETTERS = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("letter_id", pa.string(), nullable=False),
        pa.field("text", pa.string()),
    ]
)


class Postman:
    """A resource."""


def letters_of(function: Callable[..., Any], **options: Any) -> Asset:
    """Return an asset with the schema of letters."""
    return asset(**{"step": "fetch", "schema": LETTERS, "code_version": "1", **options})(function)


@letters_of
def letters(users: Users) -> pa.Table:
    return LETTERS.empty_table()


def test_the_signature_declares_inputs_and_resources() -> None:
    """Tables are inputs with their columns, reserved names belong to the engine, and the rest are resources."""

    @asset(step="sort", schema=LETTERS, code_version="7", opaque=("text",))
    def sorted_letters(
        letters: Annotated[pa.Table, "user_id", "text"],
        stamps: Annotated[pa.Table, "user_id"],
        previous: pa.Table,
        now: datetime,
        postman: Postman,
    ) -> pa.Table:
        return previous

    assert (sorted_letters.name, sorted_letters.step, sorted_letters.code_version) == ("sorted_letters", "sort", "7")
    assert sorted_letters.inputs == (Input("letters", ("user_id", "text")), Input("stamps", ("user_id",)))
    assert sorted_letters.resources == {"postman": Postman}
    assert sorted_letters.reserved == {"previous", "now"}
    assert sorted_letters.opaque == {"text"}
    assert not sorted_letters.is_source
    assert not sorted_letters.observes


def test_an_asset_with_users_observes() -> None:
    """An asset that asks for users observes the outside world; without inputs it is a source."""

    @letters_of
    def posted(letters: Annotated[pa.Table, "user_id"], users: Users) -> pa.Table:
        return LETTERS.empty_table()

    assert (letters.observes, letters.is_source) == (True, True)
    assert (posted.observes, posted.is_source) == (True, False)


def test_an_asset_on_demand_asks_for_users() -> None:
    """An asset that works on demand observes; without `users` it is refused, because it would never run."""

    @asset(step="sell", schema=LETTERS, code_version="1", on_demand=True)
    def sold(letters: Annotated[pa.Table, "user_id"], users: Users) -> pa.Table:
        return LETTERS.empty_table()

    assert (sold.on_demand, sold.observes, sold.is_source) == (True, True, False)
    with pytest.raises(GraphError, match="unasked works on demand and does not ask for 'users'"):

        @asset(step="sell", schema=LETTERS, code_version="1", on_demand=True)
        def unasked(letters: Annotated[pa.Table, "user_id"]) -> pa.Table:
            return LETTERS.empty_table()


def test_an_asset_can_be_called() -> None:
    """An asset is called like its function, with positional or named arguments, and returns the same."""

    @letters_of
    def users_and_time(users: Users, now: datetime) -> Any:
        return [*users, now]

    assert users_and_time({}, 5) == users_and_time(users={}, now=5) == [5]


def test_a_schema_without_a_user_is_refused() -> None:
    """A schema without user_id is refused with the asset's name and the column to add."""

    def weather(users: Users) -> pa.Table:
        return LETTERS.empty_table()

    with pytest.raises(GraphError, match=r"weather has no column 'user_id'.*Add it"):
        letters_of(weather, schema=pa.schema([("city", pa.string())]))


def test_an_unresolvable_parameter_is_refused() -> None:
    """A parameter that is neither an annotated table nor a resource is refused with the annotations to write."""

    def bare(users: Users, letters) -> None: ...  # type: ignore[no-untyped-def]

    def unnamed(users: Users, letters: pa.Table) -> None: ...

    def many(users: Users, *letters: Annotated[str, "text"]) -> None: ...

    for function in (bare, unnamed, many):
        message = rf"{function.__name__}: the parameter 'letters' cannot be resolved.*Annotated\[pa.Table"
        with pytest.raises(GraphError, match=message):
            letters_of(function)


def test_reserved_parameters_need_their_annotation() -> None:
    """A reserved parameter with a different annotation, or none, is refused with the annotation to write."""

    def wrong_users(users: dict) -> None: ...  # type: ignore[type-arg]

    def wrong_previous(previous: Annotated[pa.Table, "user_id"]) -> None: ...

    def wrong_now(now: str) -> None: ...

    def no_now(now) -> None: ...  # type: ignore[no-untyped-def]

    expected = {wrong_users: "Users", wrong_previous: "Table", wrong_now: "datetime", no_now: "datetime"}
    for function, kind in expected.items():
        message = (
            rf"{function.__name__} annotates the reserved parameter '(\w+)' as .*, but it is a {kind}\. Annotate"
        )
        with pytest.raises(GraphError, match=message):
            letters_of(function)


@pytest.mark.parametrize("name", ["users", "previous", "now"])
def test_an_asset_cannot_have_a_reserved_name(name: str) -> None:
    """An asset with the name of a reserved parameter is refused, because no other asset could read it."""

    def function(users: Users) -> pa.Table:
        return LETTERS.empty_table()

    function.__name__ = name
    with pytest.raises(GraphError, match=f"'{name}'.*reserved"):
        letters_of(function)


def test_an_asset_needs_an_input_or_users() -> None:
    """An asset that has no input and does not ask for users is refused, because it could never run."""

    def timeless(now: datetime) -> pa.Table:
        return LETTERS.empty_table()

    with pytest.raises(GraphError, match="timeless has no input"):
        letters_of(timeless)


def test_an_opaque_column_must_exist() -> None:
    """A misspelt opaque column is refused with the nearest column."""
    with pytest.raises(GraphError, match=r"letters.*'txt'.*Did you mean 'text'\?"):
        letters_of(letters.function, opaque=("txt",))


def test_columns_that_are_not_opaque_are_versioned() -> None:
    """The versioned columns are those that are not opaque, in the schema's order."""
    assert letters.versioned == ("user_id", "letter_id", "text")
    assert letters_of(letters.function, opaque=("letter_id",)).versioned == ("user_id", "text")


def table(**columns: Any) -> pa.Table:
    """Return one letter, with some columns replaced."""
    return pa.table({"user_id": ["ann"], "letter_id": ["l1"], "text": ["hello"], **columns})


def test_conform_puts_columns_in_order() -> None:
    """Columns are returned in the schema's order, without those that it does not declare."""
    conformed = letters.conform(table(extra=[1]).select(["extra", "text", "letter_id", "user_id"]))
    assert conformed.schema == LETTERS
    assert conformed.to_pylist() == [{"user_id": "ann", "letter_id": "l1", "text": "hello"}]


def test_a_missing_column_is_named() -> None:
    """A table without a declared column is refused with the column, its type and both ways to fix it."""
    with pytest.raises(SchemaError, match=r"letters returned no column 'text' \(string\).*Return it, or remove it"):
        letters.conform(table().drop_columns(["text"]))


def test_a_column_of_a_different_type_is_named() -> None:
    """A column of a different type is refused with both types and the fix."""
    with pytest.raises(SchemaError, match=r"letters returned 'text' as int64, but its schema says string\. Cast it"):
        letters.conform(table(text=[5]))


def test_a_forbidden_null_is_named() -> None:
    """A null in a column that is not nullable is refused with the column."""
    with pytest.raises(SchemaError, match=r"letters.*'letter_id'.*null"):
        letters.conform(table(letter_id=pa.array([None], pa.string())))


def test_an_output_needs_only_a_table() -> None:
    """An output of only a table has no counts, and nothing to call after the write."""
    output = Output(LETTERS.empty_table())
    assert (output.counts, output.after_write) == ({}, None)


@pytest.mark.parametrize("error", [GraphError, SchemaError, CheckFailed, ShardUnreadable, OptionsError])
def test_every_error_is_an_asset_error(error: type[Exception]) -> None:
    """A handler of AssetError catches every error that the engine raises."""
    assert issubclass(error, AssetError)
