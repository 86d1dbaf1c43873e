"""The cost of a day with many users."""

from __future__ import annotations

from benchmarks.costs import SIZES, Day, markdown, units
from local.paths import ROOT


def test_the_page_has_the_tables_of_the_script() -> None:
    """docs/operations.md has the tables as `python -m benchmarks.costs` prints them."""
    assert markdown() in (ROOT / "docs" / "operations.md").read_text()


def test_every_unit_cost_has_a_source() -> None:
    """Each unit cost is positive and says where it comes from; commands that it names exist."""
    assert len(units()) > 20
    for name, unit in units().items():
        assert unit.value > 0, name
        for word in unit.source.replace(":", " ").replace(",", " ").split():
            if word.startswith("benchmarks."):
                path = ROOT / word.replace(".", "/")
                assert path.with_suffix(".py").exists() or path.is_dir(), name


def test_ten_times_the_users_cost_ten_times_as_much() -> None:
    """Every part of the night grows with the users, and no slower than what is done for each of them."""
    small, large = (Day(n_users) for n_users in SIZES)
    for few, many in zip(small.parts(), large.parts(), strict=True):
        assert 9 < many.hours / few.hours <= 10.001, few.name
