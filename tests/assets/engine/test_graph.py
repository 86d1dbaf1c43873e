from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from toy import reader

from assets.engine.asset import Asset
from assets.engine.errors import GraphError
from assets.engine.graph import Graph

SCHEMA = pa.schema([("user_id", pa.string()), ("text", pa.string())])


def node(name: str, *inputs: str, step: str = "work", columns: tuple[str, ...] = ("user_id", "text")) -> Asset:
    """Return an asset that reads these columns of its inputs."""
    return reader(name, *inputs, schema=SCHEMA, columns=columns, step=step)


GRAPH = Graph.from_assets(
    [
        node("letters", step="fetch"),
        node("stamps", step="fetch"),
        node("vectors", "letters", step="embed"),
        node("themes", "vectors", "letters", step="cluster"),
        node("pages", "letters", "themes", "stamps", step="compose"),
        node("shelf", "pages", step="compose"),
    ]
)


def names(assets: Any) -> list[str]:
    return [each.name for each in assets]


def test_parameters_are_the_edges() -> None:
    """An asset reads the assets that its parameters name, directly and through others."""
    assert GRAPH.ancestors("letters") == frozenset()
    assert GRAPH.ancestors("themes") == {"vectors", "letters"}
    assert GRAPH.ancestors("shelf") == {"pages", "letters", "themes", "stamps", "vectors"}
    assert GRAPH.descendants("stamps") == {"pages", "shelf"}
    assert GRAPH.descendants("shelf") == frozenset()


def test_an_asset_follows_its_inputs() -> None:
    """Assets given in any order are sorted: each after all of its inputs."""
    order = names(Graph.from_assets([node("c", "b", "a"), node("b", "a"), node("z"), node("a")]))
    assert sorted(order) == ["a", "b", "c", "z"]
    assert order.index("a") < order.index("b") < order.index("c")


@pytest.mark.parametrize("order", ["z y x", "z a y<z", "z y<z a"])
def test_a_valid_order_is_kept(order: str) -> None:
    """Assets that are given after all of their inputs keep their order, whatever their names."""
    assets = [each.partition("<") for each in order.split()]
    graph = Graph.from_assets([node(name, *filter(None, [source])) for name, _, source in assets])
    assert names(graph) == [name for name, *_ in assets]


def test_an_unknown_input_is_refused() -> None:
    """A parameter that is no asset is refused with the reader and the nearest asset."""
    with pytest.raises(
        GraphError, match=r"^pages asks for 'leters', which no asset makes\. Did you mean 'letters'\?"
    ):
        Graph.from_assets([node("letters"), node("stamps"), node("pages", "leters")])


def test_an_unknown_input_near_to_no_asset_lists_all() -> None:
    """If no name is near, the error lists all assets."""
    with pytest.raises(GraphError, match=r"pages asks for 'xyz'.* Known: letters, pages, stamps\."):
        Graph.from_assets([node("stamps"), node("letters"), node("pages", "xyz")])


def test_an_unknown_column_is_refused() -> None:
    """A column that the input does not have is refused with both assets and the nearest column."""
    with pytest.raises(GraphError, match=r"^pages asks letters for 'texts', which it does not have\..*'text'\?$"):
        Graph.from_assets([node("letters"), node("pages", "letters", columns=("user_id", "texts"))])


def test_an_edge_without_the_user_is_refused() -> None:
    """An edge that leaves out user_id is refused with both assets and the fix."""
    with pytest.raises(GraphError, match=r"^pages reads letters without 'user_id'\. Name it first"):
        Graph.from_assets([node("letters"), node("pages", "letters", columns=("text",))])


def test_the_graph_is_checked_at_import(tmp_path: Path) -> None:
    """Importing a module whose graph names an unknown asset fails."""
    module = tmp_path / "definitions.py"
    module.write_text(
        "from typing import Annotated\n"
        "import pyarrow as pa\n"
        "from assets.engine.asset import Users, asset\n"
        "from assets.engine.graph import Graph\n"
        "RULES = dict(step='work', schema=pa.schema([('user_id', pa.string())]), code_version='1')\n"
        "@asset(**RULES)\n"
        "def tip_reactions(users: Users): ...\n"
        "@asset(**RULES)\n"
        "def user_contexts(reaction: Annotated[pa.Table, 'user_id']): ...\n"
        "GRAPH = Graph.from_assets([tip_reactions, user_contexts])\n"
    )
    spec = importlib.util.spec_from_file_location("definitions_of_a_test", module)
    assert spec
    assert spec.loader
    with pytest.raises(GraphError, match=r"user_contexts asks for 'reaction'.*Did you mean 'tip_reactions'\?"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


def test_a_cycle_is_refused() -> None:
    """Assets that read each other in a cycle are refused with all assets of the cycle."""
    with pytest.raises(GraphError, match=r"in a cycle: (?=.*\ba\b)(?=.*\bb\b)(?=.*\bc\b).* -> "):
        Graph.from_assets([node("s"), node("a", "c", "s"), node("b", "a"), node("c", "b")])


def test_an_asset_does_not_read_itself() -> None:
    """An asset that reads itself is a cycle of one; its previous rows are the parameter `previous`."""
    with pytest.raises(GraphError, match="in a cycle: diary -> diary"):
        Graph.from_assets([node("diary", "diary")])


def test_names_are_unique() -> None:
    """Two assets of one name are refused, because the name is a folder and a view."""
    with pytest.raises(GraphError, match="two assets are named 'letters'"):
        Graph.from_assets([node("letters"), node("letters")])


def test_an_asset_by_name() -> None:
    """An asset is found by its name, and a misspelt name is refused with the nearest one."""
    assert GRAPH["themes"].name == "themes"
    for lookup in (GRAPH.__getitem__, GRAPH.ancestors, GRAPH.descendants):
        with pytest.raises(GraphError, match=r"there is no asset 'theme'\. Did you mean 'themes'\?"):
            lookup("theme")


def test_steps_are_in_order() -> None:
    """Steps and their assets are in the order in which they run."""
    assert {step: names(members) for step, members in GRAPH.steps.items()} == {
        "fetch": ["letters", "stamps"],
        "embed": ["vectors"],
        "cluster": ["themes"],
        "compose": ["pages", "shelf"],
    }
    assert list(GRAPH.steps) == ["fetch", "embed", "cluster", "compose"]


def test_the_source_step() -> None:
    """The step with the sources is the source step."""
    assert [step for step in GRAPH.steps if GRAPH.is_source_step(step)] == ["fetch"]


def test_the_nearest_inputs_trigger_a_step() -> None:
    """A step is triggered by its nearest inputs, and not by the ancestors of those."""
    triggers = {step: GRAPH.triggers(step) for step in GRAPH.steps}
    assert triggers == {"fetch": set(), "embed": {"letters"}, "cluster": {"vectors"}, "compose": {"themes", "stamps"}}


def test_a_step_does_not_trigger_itself() -> None:
    """An asset that is read within its own step does not trigger that step."""
    graph = Graph.from_assets([node("a", step="one"), node("b", "a", step="two"), node("c", "b", "a", step="two")])
    assert graph.triggers("two") == {"a"}


@pytest.mark.parametrize(
    ("expressions", "expected"),
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
def test_selection(expressions: list[str], expected: list[str]) -> None:
    """`x` selects an asset, `+x` also its ancestors, `x+` also its descendants: in order, each once."""
    assert names(GRAPH.select(expressions)) == expected


def test_a_misspelt_selection_is_refused() -> None:
    """A selection of an unknown asset is refused with the nearest name."""
    with pytest.raises(GraphError, match=r"there is no asset 'theme'\. Did you mean 'themes'\?"):
        GRAPH.select(["+theme+"])
