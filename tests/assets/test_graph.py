from __future__ import annotations

import importlib.util
from inspect import Parameter, Signature
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pytest

from assets.asset import Asset, Users, asset
from assets.errors import GraphError
from assets.graph import Graph

SCHEMA = pa.schema([("user_id", pa.string()), ("text", pa.string())])


def toy(name: str, *reads: str, step: str = "work", columns: tuple[str, ...] = ("user_id", "text")) -> Asset:
    """An asset of this name whose parameters are the names that it reads."""

    def function(**given: Any) -> pa.Table:
        return SCHEMA.empty_table()

    parameters: dict[str, Any] = dict.fromkeys(reads, Annotated[pa.Table, *columns]) or {"users": Users}
    function.__name__ = name
    function.__annotations__ = parameters
    function.__signature__ = Signature([Parameter(each, Parameter.KEYWORD_ONLY) for each in parameters])  # type: ignore[attr-defined]
    return asset(step=step, schema=SCHEMA, code_version="1")(function)


HOUSE = Graph.of(
    [
        toy("letters", step="fetch"),
        toy("stamps", step="fetch"),
        toy("vectors", "letters", step="embed"),
        toy("themes", "vectors", "letters", step="cluster"),
        toy("pages", "letters", "themes", "stamps", step="compose"),
        toy("shelf", "pages", step="compose"),
    ]
)


def names(assets: Any) -> list[str]:
    return [each.name for each in assets]


def test_parameters_make_the_graph() -> None:
    """An asset reads whatever its parameters name, directly and through others."""
    assert HOUSE.ancestors("letters") == frozenset()
    assert HOUSE.ancestors("themes") == {"vectors", "letters"}
    assert HOUSE.ancestors("shelf") == {"pages", "letters", "themes", "stamps", "vectors"}
    assert HOUSE.descendants("stamps") == {"pages", "shelf"}
    assert HOUSE.descendants("shelf") == frozenset()


def test_each_asset_comes_after_what_it_reads() -> None:
    """However the assets are listed, each stands after all that it reads."""
    graph = Graph.of([toy("c", "b", "a"), toy("b", "a"), toy("z"), toy("a")])
    order = names(graph)
    assert sorted(order) == ["a", "b", "c", "z"]
    assert order.index("a") < order.index("b") < order.index("c")


@pytest.mark.parametrize(
    "order",
    [
        "z y x",
        "z a y<z",
        "z y<z a",
    ],
)
def test_reading_order_is_kept(order: str) -> None:
    """A list in which everything stands after what it reads is kept as it is, whatever the names."""
    listed = [each.partition("<") for each in order.split()]
    graph = Graph.of([toy(name, *filter(None, [read])) for name, _, read in listed])
    assert names(graph) == [name for name, *_ in listed]


def test_an_unknown_name_names_the_nearest() -> None:
    """A parameter that no asset makes is refused with the reader, the name and the nearest asset."""
    with pytest.raises(
        GraphError, match=r"^pages asks for 'leters', which no asset makes\. Did you mean 'letters'\?"
    ):
        Graph.of([toy("letters"), toy("stamps"), toy("pages", "leters")])


def test_an_unknown_name_near_to_nothing_lists_all() -> None:
    """Where no name is near, the error lists those that there are."""
    with pytest.raises(GraphError, match=r"pages asks for 'xyz'.* Known: letters, pages, stamps\."):
        Graph.of([toy("stamps"), toy("letters"), toy("pages", "xyz")])


def test_an_unknown_column_names_the_nearest() -> None:
    """A column that the asset read does not have is refused with both assets and the nearest column."""
    with pytest.raises(GraphError, match=r"^pages asks letters for 'texts', which it does not have\..*'text'\?$"):
        Graph.of([toy("letters"), toy("pages", "letters", columns=("user_id", "texts"))])


def test_reading_without_the_user_is_refused() -> None:
    """An edge that leaves out user_id is refused with both assets and what to write."""
    with pytest.raises(GraphError, match=r"^pages reads letters without 'user_id'\. Name it first"):
        Graph.of([toy("letters"), toy("pages", "letters", columns=("text",))])


def test_the_error_comes_at_import(tmp_path: Path) -> None:
    """Importing a module whose graph names an unknown asset fails; nothing has to run for it."""
    module = tmp_path / "definitions.py"
    module.write_text(
        "from typing import Annotated\n"
        "import pyarrow as pa\n"
        "from assets.asset import Users, asset\n"
        "from assets.graph import Graph\n"
        "RULES = dict(step='work', schema=pa.schema([('user_id', pa.string())]), code_version='1')\n"
        "@asset(**RULES)\n"
        "def tip_reactions(users: Users): ...\n"
        "@asset(**RULES)\n"
        "def user_contexts(reaction: Annotated[pa.Table, 'user_id']): ...\n"
        "GRAPH = Graph.of([tip_reactions, user_contexts])\n"
    )
    spec = importlib.util.spec_from_file_location("definitions_of_a_test", module)
    assert spec
    assert spec.loader
    with pytest.raises(GraphError, match=r"user_contexts asks for 'reaction'.*Did you mean 'tip_reactions'\?"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


def test_a_circle_is_refused() -> None:
    """Assets that read each other in a circle are refused with everyone in it."""
    with pytest.raises(GraphError, match=r"in a circle: (?=.*\ba\b)(?=.*\bb\b)(?=.*\bc\b).* -> "):
        Graph.of([toy("s"), toy("a", "c", "s"), toy("b", "a"), toy("c", "b")])


def test_an_asset_does_not_read_itself() -> None:
    """An asset that reads itself is a circle of one; its former rows are `previous`."""
    with pytest.raises(GraphError, match="in a circle: diary -> diary"):
        Graph.of([toy("diary", "diary")])


def test_a_name_is_taken_once() -> None:
    """Two assets of one name are refused: the name is a folder and a view."""
    with pytest.raises(GraphError, match="two assets are named 'letters'"):
        Graph.of([toy("letters"), toy("letters")])


def test_an_asset_by_name() -> None:
    """The graph gives an asset by its name, and for a misspelt one names the nearest."""
    assert HOUSE["themes"].name == "themes"
    for look in (HOUSE.__getitem__, HOUSE.ancestors, HOUSE.descendants):
        with pytest.raises(GraphError, match=r"there is no asset 'theme'\. Did you mean 'themes'\?"):
            look("theme")


def test_steps_in_order_of_work() -> None:
    """Every step has its assets, and both stand in order of work."""
    assert {step: names(members) for step, members in HOUSE.steps.items()} == {
        "fetch": ["letters", "stamps"],
        "embed": ["vectors"],
        "cluster": ["themes"],
        "compose": ["pages", "shelf"],
    }
    assert list(HOUSE.steps) == ["fetch", "embed", "cluster", "compose"]


def test_only_the_nearest_wake_a_step() -> None:
    """A step is woken by the nearest assets that it reads: whatever those read themselves speaks through them."""
    wakers = {step: HOUSE.wakers(step) for step in HOUSE.steps}
    assert wakers == {"fetch": set(), "embed": {"letters"}, "cluster": {"vectors"}, "compose": {"themes", "stamps"}}


def test_a_step_does_not_wake_itself() -> None:
    """What a step makes for its own later assets is no news to it."""
    graph = Graph.of([toy("a", step="one"), toy("b", "a", step="two"), toy("c", "b", "a", step="two")])
    assert graph.wakers("two") == {"a"}


@pytest.mark.parametrize(
    ("expressions", "wanted"),
    [
        (["themes"], ["themes"]),
        (["+themes"], ["letters", "vectors", "themes"]),
        (["themes+"], ["themes", "pages", "shelf"]),
        (["+themes+"], ["letters", "vectors", "themes", "pages", "shelf"]),
        (["+letters"], ["letters"]),
        (["shelf+"], ["shelf"]),
        (["shelf", "stamps"], ["stamps", "shelf"]),
        (["+vectors", "letters"], ["letters", "vectors"]),
        ([], []),
    ],
)
def test_selection(expressions: list[str], wanted: list[str]) -> None:
    """`x` is one asset, `+x` brings all that it reads, `x+` all that reads it; order of work, each once."""
    assert names(HOUSE.select(expressions)) == wanted


def test_a_misspelt_selection_names_the_nearest() -> None:
    """A selection of what is not there is refused, with the nearest name."""
    with pytest.raises(GraphError, match=r"there is no asset 'theme'\. Did you mean 'themes'\?"):
        HOUSE.select(["+theme+"])
