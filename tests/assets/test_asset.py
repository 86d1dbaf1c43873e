from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any

import pyarrow as pa
import pytest

from assets.asset import Asset, Input, Output, Users, asset
from assets.errors import AssetError, GraphError, SchemaError

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
    """An asset with the schema of letters."""
    return asset(**{"step": "fetch", "schema": LETTERS, "code_version": "1", **options})(function)


def test_the_signature_says_everything() -> None:
    """Tables are dependencies with their columns, reserved names the engine's, and all else resources by class."""

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


def test_who_asks_for_users_observes() -> None:
    """An asset that asks for users looks at the world; one that reads no other asset is a source."""

    @letters_of
    def letters(users: Users) -> pa.Table:
        return LETTERS.empty_table()

    @letters_of
    def posted(letters: Annotated[pa.Table, "user_id"], users: Users) -> pa.Table:
        return LETTERS.empty_table()

    assert (letters.observes, letters.is_source) == (True, True)
    assert (posted.observes, posted.is_source) == (True, False)


def test_a_definition_is_called_as_it_is_written() -> None:
    """Decorated or not, the function takes its arguments by place or by name and gives what it returns."""

    @letters_of
    def letters(users: Users, now: datetime) -> Any:
        return [*users, now]

    assert letters({}, 5) == letters(users={}, now=5) == [5]


def test_a_schema_without_a_user_is_refused() -> None:
    """An asset whose rows belong to no user is refused by name, and told to add user_id."""

    def weather(users: Users) -> pa.Table:
        return LETTERS.empty_table()

    with pytest.raises(GraphError, match=r"weather has no column 'user_id'.*Add it"):
        letters_of(weather, schema=pa.schema([("city", pa.string())]))


def test_a_parameter_of_no_use_is_refused() -> None:
    """A parameter that is no annotated table and no resource is refused with what to write instead."""

    def bare(users: Users, letters) -> None: ...  # type: ignore[no-untyped-def]

    def unnamed(users: Users, letters: pa.Table) -> None: ...

    def many(users: Users, *letters: Annotated[str, "text"]) -> None: ...

    for function in (bare, unnamed, many):
        with pytest.raises(GraphError, match=rf"{function.__name__} has a parameter 'letters'.*Annotated\[pa.Table"):
            letters_of(function)


def test_reserved_names_are_not_for_other_things() -> None:
    """A reserved parameter with another annotation, or none, is refused with the annotation that it needs."""

    def wrong_users(users: dict) -> None: ...  # type: ignore[type-arg]

    def wrong_previous(previous: Annotated[pa.Table, "user_id"]) -> None: ...

    def wrong_now(now: str) -> None: ...

    def no_now(now) -> None: ...  # type: ignore[no-untyped-def]

    wanted = {wrong_users: "Users", wrong_previous: "Table", wrong_now: "datetime", no_now: "datetime"}
    for function, kind in wanted.items():
        with pytest.raises(GraphError, match=rf"{function.__name__} asks for '(\w+)' as .*reserved and is a {kind}"):
            letters_of(function)


@pytest.mark.parametrize("name", ["users", "previous", "now"])
def test_no_asset_takes_a_reserved_name(name: str) -> None:
    """An asset cannot be called as a reserved parameter is, since no other could ever read it."""

    def function(users: Users) -> pa.Table:
        return LETTERS.empty_table()

    function.__name__ = name
    with pytest.raises(GraphError, match=f"'{name}'.*reserved"):
        letters_of(function)


def test_an_asset_needs_something_to_come_from() -> None:
    """An asset that reads no other and does not ask for users is refused at import: it could never run."""

    def nothing(now: datetime) -> pa.Table:
        return LETTERS.empty_table()

    with pytest.raises(GraphError, match="nothing"):
        letters_of(nothing)


def test_an_opaque_column_must_exist() -> None:
    """A misspelt opaque column is refused with the nearest one, rather than slipping into the versions."""

    def letters(users: Users) -> pa.Table:
        return LETTERS.empty_table()

    with pytest.raises(GraphError, match=r"letters.*'txt'.*Did you mean 'text'\?"):
        letters_of(letters, opaque=("txt",))


def test_what_is_not_opaque_is_plain() -> None:
    """The plain columns are those that are not opaque, in the schema's order."""

    def letters(users: Users) -> pa.Table:
        return LETTERS.empty_table()

    assert letters_of(letters).plain == ("user_id", "letter_id", "text")
    assert letters_of(letters, opaque=("letter_id",)).plain == ("user_id", "text")


@letters_of
def letters(users: Users) -> pa.Table:
    return LETTERS.empty_table()


def table(**columns: Any) -> pa.Table:
    """One letter, with some columns replaced."""
    return pa.table({"user_id": ["ann"], "letter_id": ["l1"], "text": ["hello"], **columns})


def test_conform_puts_columns_in_order() -> None:
    """Columns come out as the schema orders them, and those that it does not name are left out."""
    given = table(extra=[1]).select(["extra", "text", "letter_id", "user_id"])
    assert letters.conform(given).schema == LETTERS
    assert letters.conform(given).to_pylist() == [{"user_id": "ann", "letter_id": "l1", "text": "hello"}]


def test_a_missing_column_is_named() -> None:
    """A table without a declared column is refused with the column, its type and the two ways out."""
    with pytest.raises(SchemaError, match=r"letters gave no column 'text' \(string\).*Return it, or take it out"):
        letters.conform(table().drop_columns(["text"]))


def test_another_type_is_named() -> None:
    """A column of another type is refused with both types and what to do."""
    with pytest.raises(SchemaError, match=r"letters gave 'text' as int64, but its schema says string\. Cast it"):
        letters.conform(table(text=[5]))


def test_a_forbidden_null_is_named() -> None:
    """A null in a column that must have a value is refused as any other breach of the schema."""
    with pytest.raises(SchemaError, match=r"letters.*'letter_id'.*null"):
        letters.conform(table(letter_id=pa.array([None], pa.string())))


def test_an_output_is_a_table_with_nothing_to_do_after() -> None:
    """An Output of only a table counts nothing and has no consequence."""
    output = Output(LETTERS.empty_table())
    assert (output.counts, output.then) == ({}, None)


def test_every_error_is_an_asset_error() -> None:
    """Whoever catches AssetError catches all that the engine raises by itself."""
    assert issubclass(GraphError, AssetError)
    assert issubclass(SchemaError, AssetError)
