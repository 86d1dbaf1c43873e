"""The effect of Todoist's responses on a user's mirror."""

from __future__ import annotations

import json
import unicodedata
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from contexts.assembly.assemble import Budget, assemble
from contexts.assembly.model import Signals, Task
from contexts.todoist.mirror import (
    Directory,
    Mirror,
    TodoistTask,
    clean_text,
    fold,
    parse_instant,
    text_hash,
    valid_zone,
)

CANARY = "canary-4711"


def item(task_id: str, **fields: Any) -> dict[str, Any]:
    return {"id": task_id, "content": f"Task {task_id}", "priority": 1, "labels": [], "due": None, **fields}


def full(*items: Any, **more: Any) -> dict[str, Any]:
    return {"full_sync": True, "sync_token": "s", "items": list(items), "projects": [], "sections": [], **more}


def delta(*items: Any, **more: Any) -> dict[str, Any]:
    return {"full_sync": False, "sync_token": "s", "items": list(items), **more}


def mirror_of(*items: Any, **more: Any) -> Mirror:
    return fold(Mirror(), full(*items, **more)).mirror


def task(fields: dict[str, Any]) -> TodoistTask:
    """Return the task of an item with these fields."""
    [found] = mirror_of(item("1", **fields)).tasks.values()
    return found


class TestFold:
    def test_empty_account(self) -> None:
        """A user without tasks, projects and sections has an empty mirror, and nothing is skipped."""
        folded = fold(Mirror(), full(user={}))
        assert folded.mirror == Mirror()
        assert folded.skipped == ()
        assert not folded.needs_full

    def test_full_response_replaces(self) -> None:
        """Objects that are missing from a full response are removed."""
        before = mirror_of(item("1"), item("2"), projects=[{"id": "p", "name": "Home"}])
        after = fold(before, full(item("2"))).mirror
        assert set(after.tasks) == {"2"}
        assert after.directory.projects == {}

    def test_delta_applies_by_id(self) -> None:
        """An incremental response changes the listed objects and leaves the others."""
        after = fold(mirror_of(item("1"), item("2")), delta(item("2", content="New"), item("3"))).mirror
        assert {key: each.content for key, each in after.tasks.items()} == {"1": "Task 1", "2": "New", "3": "Task 3"}

    def test_full_sync_flag(self) -> None:
        """The flag `full_sync` of the response decides whether it replaces the mirror."""
        before = mirror_of(item("1"))
        assert set(fold(before, {"items": [item("2")]}).mirror.tasks) == {"1", "2"}
        assert set(fold(before, full(item("2"))).mirror.tasks) == {"2"}

    @pytest.mark.parametrize("flag", ["checked", "is_deleted", "is_archived"])
    def test_closed_task(self, flag: str) -> None:
        """A completed, deleted or archived task is removed."""
        after = fold(mirror_of(item("1"), item("2")), delta(item("1", **{flag: True}))).mirror
        assert set(after.tasks) == {"2"}

    @pytest.mark.parametrize("flag", ["checked", "is_deleted"])
    def test_bare_tombstone(self, flag: str) -> None:
        """A tombstone with only an id is a valid item."""
        folded = fold(mirror_of(item("1")), delta({"id": "1", flag: True}))
        assert folded.mirror.tasks == {}
        assert folded.skipped == ()

    def test_reopened_task(self) -> None:
        """A task that is no longer checked is open again."""
        gone = fold(mirror_of(item("1")), delta(item("1", checked=True))).mirror
        assert set(fold(gone, delta(item("1", checked=False))).mirror.tasks) == {"1"}

    def test_recurring_task(self) -> None:
        """Completing a recurring task changes its date."""
        due = {"date": "2026-11-23", "string": "every day", "is_recurring": True}
        after = fold(mirror_of(item("1", due=due)), delta(item("1", due={**due, "date": "2026-11-24"}))).mirror
        assert after.tasks["1"].due_date == "2026-11-24"
        assert after.tasks["1"].is_recurring

    def test_same_item_twice(self) -> None:
        """If an item occurs twice in a response, the later one counts."""
        twice = mirror_of(item("1", content="first"), item("1", content="second"))
        assert {key: each.content for key, each in twice.tasks.items()} == {"1": "second"}

    def test_number_as_id(self) -> None:
        """A numeric id, as in old exports, refers to the same task as its string."""
        after = fold(mirror_of(item("7")), delta({**item("7", content="New"), "id": 7})).mirror
        assert {key: each.content for key, each in after.tasks.items()} == {"7": "New"}

    def test_unknown_fields(self) -> None:
        """Unknown fields are ignored at every level."""
        news = {"is_quantum": True, "nested": {"a": [1, None]}}
        plain = mirror_of(item("1", due={"date": "2026-12-01"}), user={"lang": "de"})
        odd = mirror_of(
            item("1", due={"date": "2026-12-01", **news}, **news), user={"lang": "de", **news}, filters=[news]
        )
        assert odd == plain


class TestInvalidItems:
    @pytest.mark.parametrize(
        ("broken", "why"),
        [
            (None, "not an object"),
            ("text", "not an object"),
            (5, "not an object"),
            ([], "not an object"),
            ({"content": "without an id"}, "id"),
            (item("1") | {"id": None}, "id"),
            (item("1") | {"id": ""}, "id"),
            (item("1") | {"id": True}, "id"),
            (item("1") | {"id": 1.5}, "id"),
            (item("1") | {"id": ["1"]}, "id"),
            (item("1", content=None), "content"),
            (item("1", content=5), "content"),
            ({"id": "1"}, "content"),
        ],
        ids=str,
    )
    def test_skipped(self, broken: Any, why: str) -> None:
        """An invalid item is skipped and reported with its fault; other items are folded."""
        folded = fold(Mirror(), full(item("a"), broken, item("z")))
        assert set(folded.mirror.tasks) == {"a", "z"}
        assert [reason for _, reason in folded.skipped] == [why]

    def test_skipped_names_the_id(self) -> None:
        """A skipped item is reported by its id."""
        assert fold(Mirror(), full(item("b7", content=None))).skipped == (("b7", "content"),)

    def test_report_contains_no_text(self) -> None:
        """The report of skipped items contains no text of the user."""
        broken = [CANARY, [CANARY], {"content": CANARY}, item("1", content=None, description=CANARY)]
        assert CANARY not in str(fold(Mirror(), full(*broken)).skipped)

    def test_report_of_an_invalid_id_contains_no_text(self) -> None:
        """The report of an id that is an object contains none of its texts."""
        assert CANARY not in str(fold(Mirror(), full({"id": {"content": CANARY}})).skipped)

    def test_invalid_update(self) -> None:
        """An invalid update is skipped, and the task is unchanged."""
        before = mirror_of(item("1"))
        assert fold(before, delta(item("1", content=None))).mirror == before

    @pytest.mark.parametrize(
        ("given", "kept"),
        [(0, 1), (-3, 1), (1, 1), (4, 4), (5, 4), (10**30, 4), ("4", 1), (None, 1), (True, 1), (2.5, 1), ([], 1)],
    )
    def test_priority(self, given: Any, kept: int) -> None:
        """A priority is clipped to 1 to 4; a priority that is not an integer is the lowest."""
        assert task({"priority": given}).priority == kept

    @pytest.mark.parametrize("key", ["due", "deadline", "duration", "labels", "description", "added_at"])
    @pytest.mark.parametrize("value", [None, 5, "x", [], {}, [None, 5], {"date": 5}, {"amount": "x"}, True], ids=str)
    def test_invalid_optional_field(self, key: str, value: Any) -> None:
        """An invalid value of any other field is ignored, and the task is kept."""
        assert task({key: value}).content == "Task 1"

    json_values = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["id", "name", "content", "due", "date", "labels", "tz_info", "timezone", "lang"]),
                inner,
                max_size=5,
            )
        ),
        max_leaves=12,
    )

    @settings(max_examples=100, deadline=None)
    @given(items=st.lists(json_values, max_size=4), others=st.tuples(*[json_values] * 3), is_full=st.booleans())
    def test_any_json(self, items: list[Any], others: tuple[Any, ...], is_full: bool) -> None:
        """A valid task is folded, whatever other JSON the response contains."""
        more = dict(zip(("projects", "sections", "user"), others, strict=True))
        answer = full(*items, item("good"), **more) if is_full else delta(*items, item("good"), **more)
        folded = fold(mirror_of(item("old")), answer)
        assert "good" in folded.mirror.tasks
        assert Directory.from_json(json.loads(json.dumps(folded.mirror.directory.to_json()))) == (
            folded.mirror.directory
        )


class TestTexts:
    @pytest.mark.parametrize(
        ("dirty", "plain"),
        [
            ("nul\x00byte", "nul byte"),
            ("bell\x07 escape\x1b[31m", "bell  escape [31m"),
            ("delete\x7f", "delete "),
            ("lone \ud83d surrogate", "lone ? surrogate"),
            ("two\nlines\tand a tab", "two\nlines\tand a tab"),
            ("family 👨‍👩‍👧 🇩🇪 ❤️", "family 👨‍👩‍👧 🇩🇪 ❤️"),
            ("קנה חלב \u200fב-5 ₪", "קנה חלב \u200fב-5 ₪"),
            ("اشترِ الحليب", "اشترِ الحليب"),
        ],
    )
    def test_titles(self, dirty: str, plain: str) -> None:
        """Control characters and lone surrogates are replaced; emoji and right-to-left text are unchanged."""
        assert task({"content": dirty}).content == plain

    @given(st.text(st.characters(exclude_categories=())))
    @settings(max_examples=100, deadline=None)
    def test_any_text_can_be_stored(self, text: str) -> None:
        """A clean text can be encoded and has no control characters; cleaning it again changes nothing."""
        cleaned = clean_text(text)
        assert cleaned.encode().decode() == cleaned
        assert "\x00" not in cleaned
        assert not [each for each in cleaned if ord(each) < 32 and each not in "\t\n"]
        assert clean_text(cleaned) == cleaned

    @pytest.mark.parametrize("control", ["\x80", "\x85", "\x9b", "\x9f"], ids=ascii)
    def test_control_characters_beyond_ascii(self, control: str) -> None:
        """Control characters beyond ASCII, such as the terminal's CSI, are replaced as well."""
        assert not [each for each in task({"content": f"a{control}b"}).content if unicodedata.category(each) == "Cc"]

    def test_every_text_is_cleaned(self) -> None:
        """Descriptions, labels, ids and names are cleaned like titles."""
        nul = "a\x00b"
        fields = {"content": nul, "description": nul, "labels": [nul], "section_id": nul, "project_id": nul}
        due = {"date": "2026-12-01", "string": nul}
        named = [{"id": nul, "name": nul}]
        mirror = mirror_of({**item(nul), **fields, "due": due}, projects=named, sections=named, user={"lang": nul})
        assert "\\u0000" not in json.dumps(mirror.directory.to_json())
        assert "\\x00" not in repr(mirror)
        assert mirror.directory.projects == {"a b": "a b"}

    @pytest.mark.parametrize(
        ("content", "description", "text"),
        [
            ("Call **Ann** about `tax`", "", "Call Ann about tax"),
            ("See [the page](https://x.org/a_b?c)", "", "See the page"),
            ("* not a task", "", "not a task"),
            ("~~old~~ __new__", "", "old new"),
            ("  two   blanks\n", "", "two blanks"),
            ("![](https://x.org/i.png)", "the\ndescription", "the description"),
            ("", "", ""),
        ],
    )
    def test_embedded_text(self, content: str, description: str, text: str) -> None:
        """The text to embed is the title without markdown, or the description if that is empty."""
        assert TodoistTask("1", content, description).text == text

    def test_text_hash(self) -> None:
        """The hash of a text is the first half of its SHA-256."""
        assert text_hash("Größe") == sha256("Größe".encode()).hexdigest()[:32]

    def test_labels(self) -> None:
        """Labels are a sorted set of texts; other values are ignored."""
        assert task({"labels": ["home", "errand", "home", None, 5]}).labels == ("errand", "home")


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

    @pytest.mark.parametrize("date", ["tomorrow", "", "2026-13-01", "2026-02-30", 5, None, [], "2026-12-01T25:00:00"])
    def test_unreadable_due(self, date: Any) -> None:
        """An invalid due date is ignored."""
        assert task({"due": {"date": date, "string": "x"}}) == task({})

    @pytest.mark.parametrize(
        "date", ["9999-12-31", "9999-12-31T23:59:59Z", "0001-01-01", "12026-01-01", "2200-01-01"]
    )
    def test_far_away_years(self, date: str) -> None:
        """A due date or deadline outside the years 1900 to 2199 is ignored."""
        found = task({"due": {"date": date}, "deadline": {"date": date}})
        assert (found.due_date, found.deadline_date) == (None, None)

    @pytest.mark.parametrize("name", ["Mars/Olympus", "", None, 5, "../../etc/passwd", "Europe", "a\x00b", "\ud800"])
    def test_due_in_an_unknown_zone(self, name: Any) -> None:
        """A due date in an unknown time zone keeps its date without the zone."""
        found = task({"due": {"date": "2026-12-06T13:00:00Z", "timezone": name}})
        assert (found.due_date, found.due_timezone) == ("2026-12-06T13:00:00Z", None)
        assert valid_zone(name) is None

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
    """Check that a due date, if the mirror keeps it, can be stored and assembled."""
    kept = task({"due": {"date": date}}).due_date
    assert kept is None or clean_text(kept) == kept
    signals = Signals("u", "Europe/Berlin", "en", (Task("1", "x", due_date=kept),))
    assert assemble(signals, datetime(2026, 11, 23, tzinfo=UTC), Budget(1000)).context_json


class TestDirectory:
    def test_names(self) -> None:
        """Projects and sections have names, and an incremental response renames them."""
        before = mirror_of(projects=[{"id": "p", "name": "Home"}], sections=[{"id": "s", "name": "Garden"}])
        after = fold(before, delta(sections=[{"id": "s", "name": "Roof"}])).mirror.directory
        assert (after.projects, after.sections) == ({"p": "Home"}, {"s": "Roof"})

    def test_removed_section(self) -> None:
        """A deleted or archived section is removed."""
        before = mirror_of(sections=[{"id": "s", "name": "Garden"}, {"id": "t", "name": "Roof"}])
        ended = delta(sections=[{"id": "s", "is_deleted": True}, {"id": "t", "is_archived": True}])
        assert fold(before, ended).mirror.directory.sections == {}

    @pytest.mark.parametrize("flag", ["is_deleted", "is_archived"])
    def test_removed_project(self, flag: str) -> None:
        """The tasks of a deleted or archived project are removed, even if the response lists none of them."""
        before = mirror_of(
            item("1", project_id="p"), item("2", project_id="q"), projects=[{"id": "p", "name": "Home"}]
        )
        folded = fold(before, delta(projects=[{"id": "p", "name": "Home", flag: True}]))
        assert set(folded.mirror.tasks) == {"2"}
        assert folded.mirror.directory.projects == {}
        assert not folded.needs_full

    def test_unarchived_project(self) -> None:
        """A project that returns from the archive needs a full sync, because its tasks are not in the response."""
        home = {"id": "p", "name": "Home"}
        before = mirror_of(item("1", project_id="p"), projects=[home])
        archived = fold(before, delta(projects=[{**home, "is_archived": True}])).mirror
        assert archived.directory.archived == {"p"}
        returned = fold(archived, delta(projects=[{**home, "is_archived": False}]))
        assert returned.needs_full
        assert returned.mirror.directory.projects == {"p": "Home"}
        assert not fold(returned.mirror, full(item("1", project_id="p"), projects=[home])).needs_full

    def test_archived_project_deleted(self) -> None:
        """An archived project that is deleted needs no full sync."""
        archived = mirror_of(projects=[{"id": "p", "is_archived": True}])
        folded = fold(archived, delta(projects=[{"id": "p", "is_deleted": True}]))
        assert not folded.needs_full
        assert folded.mirror.directory.archived == frozenset()

    def test_task_moved_out_of_a_deleted_project(self) -> None:
        """A task that moves to a different project is kept if the same response deletes its previous project."""
        before = mirror_of(item("1", project_id="p"), projects=[{"id": "p", "name": "A"}, {"id": "q", "name": "B"}])
        ended = delta(item("1", project_id="q"), projects=[{"id": "p", "is_deleted": True}])
        assert set(fold(before, ended).mirror.tasks) == {"1"}

    def test_zone_and_language(self) -> None:
        """The user's time zone and language are kept if an incremental response does not repeat them."""
        before = mirror_of(user={"lang": "de", "tz_info": {"timezone": "Europe/Berlin"}})
        after = fold(before, delta()).mirror.directory
        assert (after.timezone, after.language) == ("Europe/Berlin", "de")
        moved = fold(before, delta(user={"tz_info": {"timezone": "Asia/Tokyo"}})).mirror.directory
        assert (moved.timezone, moved.language) == ("Asia/Tokyo", "de")

    def test_unknown_zone(self) -> None:
        """An unknown time zone is ignored."""
        before = mirror_of(user={"tz_info": {"timezone": "Europe/Berlin"}})
        after = fold(before, delta(user={"tz_info": {"timezone": "Mars/Olympus"}})).mirror
        assert after.directory.timezone == "Europe/Berlin"

    def test_no_personal_data(self) -> None:
        """Only the time zone and language of the user object are kept; it can contain the API token."""
        mirror = mirror_of(user={"token": CANARY, "email": CANARY, "full_name": CANARY, "lang": "de"})
        assert CANARY not in repr(mirror)


ids = st.sampled_from(["t1", "t2", "t3"])
project_ids = st.sampled_from(["p1", "p2"])
flags = st.booleans()
items = st.builds(
    lambda key, content, project, checked, deleted: item(
        key, content=content, project_id=project, checked=checked, is_deleted=deleted
    ),
    ids,
    st.sampled_from(["a", "b", None]),
    st.none() | project_ids,
    flags,
    flags,
)
projects = st.builds(
    lambda key, archived, deleted: {"id": key, "name": key, "is_archived": archived, "is_deleted": deleted},
    project_ids,
    flags,
    flags,
)
answers = st.builds(
    lambda is_full, listed, named: {"full_sync": is_full, "items": listed, "projects": named},
    flags,
    st.lists(items, max_size=4),
    st.lists(projects, max_size=3),
)


class TestRepetition:
    @settings(max_examples=120, deadline=None)
    @given(history=st.lists(answers, max_size=3), answer=answers)
    def test_after_an_interrupted_run(self, history: list[dict[str, Any]], answer: dict[str, Any]) -> None:
        """A run that stopped between storing the data and the sync token has the same result when repeated."""
        mirror = fold_all(history)
        once = fold(mirror, answer)
        again = fold(replace(mirror, tasks=once.mirror.tasks), answer)
        assert again.mirror == once.mirror
        assert again.needs_full == once.needs_full

    @settings(max_examples=120, deadline=None)
    @given(history=st.lists(answers, max_size=3), answer=answers)
    def test_idempotent(self, history: list[dict[str, Any]], answer: dict[str, Any]) -> None:
        """Folding the same response again changes nothing."""
        ended = {each["id"] for each in answer["projects"] if each["is_deleted"]}
        assume(not any(each["project_id"] in ended for each in answer["items"]))
        once = fold(fold_all(history), answer).mirror
        assert fold(once, answer).mirror == once

    def test_open_item_of_a_deleted_project(self) -> None:
        """An open item of a response is kept even if the response deletes its project; other tasks are removed."""
        answer = delta(item("1", project_id="p"), projects=[{"id": "p", "is_deleted": True}])
        once = fold(mirror_of(item("2", project_id="p"), projects=[{"id": "p", "name": "Home"}]), answer).mirror
        assert set(once.tasks) == {"1"}
        assert fold(once, answer).mirror == once


def fold_all(history: list[dict[str, Any]]) -> Mirror:
    mirror = Mirror()
    for answer in history:
        mirror = fold(mirror, answer).mirror
    return mirror
