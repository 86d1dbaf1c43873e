"""The cost of a day with many users."""

from __future__ import annotations

import pytest
import yaml

from benchmarks.costs import DEFAULT_SLOTS, EMBEDDING_SLOTS, SIZES, TASK_SLOTS, USERS_PER_SHARD, Day, markdown, units
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
    """Every part of the night grows with the users, except Airflow's: the tasks are as many as the slots."""
    small, large = (Day(n_users) for n_users in SIZES)
    for few, many in zip(small.parts(), large.parts(), strict=True):
        assert many.hours / few.hours == pytest.approx(1 if "Airflow" in few.name else 10), few.name


def test_few_shards_are_few_tasks() -> None:
    """A night has no more groups of a step than shards."""
    assert Day(2 * USERS_PER_SHARD).n_tasks < Day(3 * USERS_PER_SHARD).n_tasks < Day(1_000_000).n_tasks


def test_the_slots_are_those_of_the_deployment() -> None:
    """The script reckons with the workers and with the TASK_SLOTS of astro.yaml."""
    deployment = yaml.safe_load((ROOT / "astro.yaml").read_text())["deployment"]
    variables = {each["key"]: each["value"] for each in deployment["environment_variables"]}
    slots = [each["max_worker_count"] * each["worker_concurrency"] for each in deployment["worker_queues"]]
    assert (slots, int(variables["TASK_SLOTS"])) == ([DEFAULT_SLOTS, EMBEDDING_SLOTS], TASK_SLOTS)
