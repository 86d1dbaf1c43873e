"""The objects of Todoist's API, read for the mirror."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from contexts.assembly.assemble import Budget, assemble
from contexts.assembly.model import Signals, Task
from contexts.todoist.markup import clean_text
from contexts.todoist.objects import BadItem, Project, TodoistTask, parse_instant, read_project, read_task


def task(fields: dict[str, Any]) -> TodoistTask:
    """Return the task of an item with these fields."""
    return read_task("1", {"id": "1", "content": "Task 1", **fields})


class TestFields:
    @pytest.mark.parametrize(
        ("given", "kept"),
        [
            (0, 1),
            (-3, 1),
            (1, 1),
            (4, 4),
            (5, 4),
            (10**30, 4),
            (4.0, 4),
            ("4", 1),
            (None, 1),
            (True, 1),
            (2.5, 1),
            ([], 1),
            (float("nan"), 1),
        ],
    )
    def test_priority(self, given: Any, kept: int) -> None:
        """A priority is clipped to 1 to 4, whether JSON writes 4 or 4.0; any other value is the lowest."""
        assert task({"priority": given}).priority == kept

    @pytest.mark.parametrize(
        "key", ["duration", "labels", "description", "added_at", "updated_at", "responsible_uid", "parent_id"]
    )
    @pytest.mark.parametrize("value", [None, 5, "x", [], {}, [None, 5], {"date": 5}, {"amount": "x"}, True], ids=str)
    def test_invalid_optional_field(self, key: str, value: Any) -> None:
        """An invalid value of any other field is ignored, and the task is kept."""
        assert task({key: value}).content == "Task 1"

    def test_labels(self) -> None:
        """Labels are a sorted set of texts; other values are ignored."""
        assert task({"labels": ["home", "errand", "home", None, 5]}).labels == ("errand", "home")

    def test_people_and_times(self) -> None:
        """A task keeps whom it is assigned to, its author, and the times at which it was added and changed."""
        found = task({"responsible_uid": 7, "added_by_uid": "8", "updated_at": "2026-11-23T06:00:00.5Z"})
        assert (found.responsible_uid, found.added_by_uid) == ("7", "8")
        assert found.updated_at == datetime(2026, 11, 23, 6, 0, 0, 500_000, tzinfo=UTC)

    def test_project(self) -> None:
        """A project keeps its name, the project above it, and whether it is shared and archived."""
        assert read_project({"name": "A&amp;B", "parent_id": 5, "is_shared": True}) == Project(
            "A&B", "5", True, False
        )

    def test_every_text_is_cleaned(self) -> None:
        """Descriptions, labels, ids and names are cleaned like titles."""
        nul = "a\x00b"
        names = ("content", "description", "section_id", "project_id", "parent_id", "responsible_uid", "added_by_uid")
        due = {"date": "2026-12-01", "string": nul}
        found = task({**dict.fromkeys(names, nul), "labels": [nul], "due": due})
        assert "\\x00" not in repr((found, read_project({"name": nul, "parent_id": nul})))


class TestTexts:
    @pytest.mark.parametrize(
        ("content", "description", "title", "text"),
        [
            ("Call **Ann** about `tax`", "", "Call Ann about tax", "Call Ann about tax"),
            ("* a header", "", "a header", "a header"),
            ("Read https://x.org/a today", "", "Read https://x.org/a today", "Read today"),
            ("https://x.org/a", "about roses", "https://x.org/a", "about roses"),
            ("https://x.org/a", "", "https://x.org/a", "https://x.org/a"),
            ("![](https://x.org/i.png)", "the\ndescription", "the description", "the description"),
            ("mail ann@x.org", "", "mail ann@x.org", "mail"),
            ("[](https://x.org/a)", "", "[](https://x.org/a)", "[](https://x.org/a)"),
            ("**", "", "**", "**"),
            ("", "", "", ""),
        ],
    )
    def test_title_and_text(self, content: str, description: str, title: str, text: str) -> None:
        """The title is the content without markup, unless that is empty; the text to embed has no addresses."""
        found = TodoistTask("1", content, description)
        assert (found.title, found.text) == (title, text)

    @pytest.mark.parametrize(
        ("content", "is_header"), [("* Kitchen", True), ("*", False), ("*bold*", False), ("a * b", False)]
    )
    def test_header(self, content: str, is_header: bool) -> None:
        """An item is a header if its content begins with a star and a blank."""
        assert TodoistTask("1", content).is_header == is_header


class TestDates:
    @pytest.mark.parametrize(
        "date",
        [
            "2026-12-01",
            "2026-12-01T12:00:00",
            "2026-12-01T12:00:00.000000",
            "2026-12-01T12:00:00.5",
            "2026-12-06T13:00:00Z",
            "2026-12-06T13:00:00.000000Z",
            "2026-12-06T13:00:00.123Z",
        ],
    )
    def test_three_forms(self, date: str) -> None:
        """A date, a local time and a fixed instant are kept unchanged, with or without fractions."""
        assert task({"due": {"date": date}}).due_date == date

    @pytest.mark.parametrize("due", [None, {}, {"date": None}, {"date": "", "string": "x"}], ids=str)
    def test_no_due_date(self, due: Any) -> None:
        """A due date without a date is none."""
        assert task({"due": due, "deadline": due}) == task({})

    @pytest.mark.parametrize("key", ["due", "deadline"])
    @pytest.mark.parametrize(
        "value",
        [
            "2026-12-01",
            5,
            [],
            [None],
            True,
            *({"date": date} for date in ("tomorrow", "2026-13-01", 5, [], "0000-01-01")),
            *({"date": date} for date in ("20261201", "2026-W49-2", "20261201T120000", "2026-12-01 12:00")),
        ],
        ids=str,
    )
    def test_unreadable_date(self, key: str, value: Any) -> None:
        """A due date or deadline that cannot be read makes the item invalid, and is named."""
        with pytest.raises(BadItem, match=f"^{key}$"):
            task({key: value})

    @pytest.mark.parametrize(
        "date", ["9999-12-31", "9999-12-31T23:59:59Z", "0001-01-01", "12026-01-01", "2200-01-01"]
    )
    @pytest.mark.parametrize("key", ["due", "deadline"])
    def test_far_away_years(self, key: str, date: str) -> None:
        """A due date or deadline outside the years 1900 to 2199 makes the item invalid."""
        with pytest.raises(BadItem, match=key):
            task({key: {"date": date}})

    @pytest.mark.parametrize("name", ["Mars/Olympus", "", None, 5, "../../etc/passwd", "Europe", "a\x00b", "\ud800"])
    def test_due_in_an_unknown_zone(self, name: Any) -> None:
        """A due date in an unknown time zone keeps its date without the zone."""
        found = task({"due": {"date": "2026-12-06T13:00:00Z", "timezone": name}})
        assert (found.due_date, found.due_timezone) == ("2026-12-06T13:00:00Z", None)

    def test_due_in_a_zone(self) -> None:
        """The time zone of a fixed due date is kept."""
        assert task({"due": {"date": "2026-12-06T13:00:00Z", "timezone": "Asia/Tokyo"}}).due_timezone == "Asia/Tokyo"

    @pytest.mark.parametrize(
        "date", ["2026-12-01", "20261201", "2026-12-01T08:00:00.25Z", "2026-12-01 08:00:00+02:00"]
    )
    def test_kept_due_can_be_assembled(self, date: str) -> None:
        """A valid due date can be stored and assembled."""
        assert_usable(date)

    @pytest.mark.parametrize("date", ["2026W49T12", "2026-12-01\ud80012:00:00", "2026-12-01\x0012:00:00"], ids=ascii)
    def test_unusual_due_can_be_assembled(self, date: str) -> None:
        """A due date in a format of Python that Todoist does not document can be stored and assembled."""
        assert_usable(date)

    @pytest.mark.parametrize(
        ("duration", "minutes"),
        [
            ({"amount": 45, "unit": "minute"}, 45),
            ({"amount": 2, "unit": "day"}, 2880),
            ({"amount": 0, "unit": "minute"}, None),
            ({"amount": -5, "unit": "minute"}, None),
            ({"amount": True, "unit": "day"}, None),
            ({"amount": 10**12, "unit": "day"}, None),
            ({"amount": 30.0, "unit": "minute"}, 30),
            ({"amount": 1.5, "unit": "day"}, None),
            ({"amount": float("nan"), "unit": "minute"}, None),
            ({"amount": float("inf"), "unit": "minute"}, None),
        ],
        ids=str,
    )
    def test_duration(self, duration: Any, minutes: int | None) -> None:
        """A duration is converted to minutes, and ignored if it is invalid."""
        assert task({"duration": duration}).duration_minutes == minutes

    def test_deadline(self) -> None:
        """A deadline is a date."""
        assert task({"deadline": {"date": "2026-12-24", "lang": "en"}}).deadline_date == "2026-12-24"

    @pytest.mark.parametrize(
        ("text", "at"),
        [
            ("2026-11-23T06:00:00Z", datetime(2026, 11, 23, 6, tzinfo=UTC)),
            ("2026-11-23T06:00:00.250000Z", datetime(2026, 11, 23, 6, 0, 0, 250_000, tzinfo=UTC)),
            ("2026-11-23T06:00:00", datetime(2026, 11, 23, 6, tzinfo=UTC)),
            ("2026-11-23T06:00:00+05:30", datetime(2026, 11, 23, 0, 30, tzinfo=UTC)),
            ("yesterday", None),
            (None, None),
            (1_800_000_000, None),
        ],
    )
    def test_instants(self, text: Any, at: datetime | None) -> None:
        """Timestamps with and without fractions are parsed to UTC; other values are None."""
        assert parse_instant(text) == at


def assert_usable(date: str) -> None:
    """Check that a due date, if it can be read, can be stored and assembled."""
    try:
        kept = task({"due": {"date": date}}).due_date
    except BadItem:
        return
    assert kept is None or clean_text(kept) == kept
    signals = Signals("u", "Europe/Berlin", "en", (Task("1", "x", due_date=kept),))
    assert assemble(signals, datetime(2026, 11, 23, tzinfo=UTC), Budget(1000)).context_json
