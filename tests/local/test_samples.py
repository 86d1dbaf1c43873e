from __future__ import annotations

import copy
import json
import re
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from local.samples import SampleUser, changed_users, night_changes, plain_users, sample_texts, sample_users
from local.samples.kinds import KIND_BY_NUMBER, Document, kind_of
from local.todoist import LocalTodoist

TODAY = date(2026, 12, 1)
NIGHT = TODAY + timedelta(days=1)
ITEM_KEYS = {
    "id", "user_id", "project_id", "content", "description", "section_id", "parent_id", "labels", "priority",
    "due", "deadline", "duration", "checked", "is_deleted", "child_order", "day_order", "added_at",
    "updated_at", "completed_at", "added_by_uid", "responsible_uid",
}  # fmt: skip
PROJECT_KEYS = {"id", "name", "parent_id", "is_shared", "is_archived", "is_deleted", "created_at", "updated_at"}
SECTION_KEYS = {"id", "name", "project_id", "is_archived", "is_deleted", "added_at", "updated_at"}
WHOLE_DAY = re.compile(r"\d{4}-\d\d-\d\d")
FLOATING = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?")
FIXED = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")


@pytest.fixture(scope="module")
def users() -> list[SampleUser]:
    return sample_users(120, today=TODAY)


@pytest.fixture(scope="module")
def plain() -> list[SampleUser]:
    return plain_users(120, today=TODAY)


def documents_of_kind(users: Iterable[SampleUser], name: str) -> list[Document]:
    """The accounts of a kind of `local.samples.kinds`."""
    kinds = ((user, kind_of(number)) for number, user in enumerate(users))
    return [user.document for user, kind in kinds if kind and kind.__name__ == name]


def items_of(users: Iterable[SampleUser]) -> list[dict[str, Any]]:
    return [item for user in users for item in user.document["items"]]


def dues_of(users: Iterable[SampleUser]) -> list[dict[str, Any]]:
    return [item["due"] for item in items_of(users) if item["due"]]


def applied(document: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The account after the changes, as in the next full answer."""
    by_id = {item["id"]: item for item in [*document["items"], *changes["items"]]}
    archived = {section["id"] for section in changes["sections"]}
    items = [item for item in by_id.values() if not item["checked"] and item["section_id"] not in archived]
    sections = [section for section in document["sections"] if section["id"] not in archived]
    return {**document, "items": items, "sections": sections}


def test_the_same_seed_gives_the_same_users() -> None:
    """Equal arguments give equal users; a different seed gives different users."""
    assert sample_users(5, today=TODAY, seed=3) == sample_users(5, today=TODAY, seed=3)
    assert sample_users(5, today=TODAY, seed=3) != sample_users(5, today=TODAY, seed=4)


def test_a_user_does_not_depend_on_the_number_of_users() -> None:
    """The first users are the same if more users are generated."""
    assert sample_users(9, today=TODAY)[:4] == sample_users(4, today=TODAY)


def test_ids_and_tokens_of_users() -> None:
    """The first user is user-0001 at example.org; the token has 40 hex characters and is in the account too."""
    user = sample_users(1, today=TODAY)[0]
    assert (user.user_id, user.email) == ("user-0001", "user-0001@example.org")
    assert re.fullmatch(r"[0-9a-f]{40}", user.api_token)
    assert user.document["user"]["token"] == user.api_token


def test_a_document_is_a_full_sync_answer(users: list[SampleUser]) -> None:
    """A document has the keys of a full `/sync` answer; each user has a different sync token."""
    keys = {"sync_token", "full_sync", "full_sync_date_utc"}
    keys |= {"items", "projects", "sections", "labels", "user"}
    assert all(set(user.document) == keys and user.document["full_sync"] is True for user in users)
    assert len({user.document["sync_token"] for user in users}) == len(users)


def test_every_user_has_twenty_to_sixty_open_tasks(users: list[SampleUser], plain: list[SampleUser]) -> None:
    """Every plain account has 20 to 60 tasks; all tasks of all accounts are open."""
    assert all(20 <= len(user.document["items"]) <= 60 for user in plain)
    assert not any(item["checked"] or item["is_deleted"] or item["completed_at"] for item in items_of(users))


def test_every_item_has_the_fields_of_the_api(users: list[SampleUser]) -> None:
    """Every item has the documented keys, a text, and a priority from 1 to 4, mostly 1."""
    items = items_of(users)
    assert all(item.keys() >= ITEM_KEYS and item["content"].strip() for item in items)
    assert all(project.keys() >= PROJECT_KEYS for user in users for project in user.document["projects"])
    assert all(section.keys() >= SECTION_KEYS for user in users for section in user.document["sections"])
    priorities = Counter(item["priority"] for item in items)
    assert set(priorities) == {1, 2, 3, 4}
    assert priorities[1] > len(items) / 2


def test_ids_are_unique_across_users(users: list[SampleUser]) -> None:
    """All objects of all kinds and accounts have different ids."""
    kinds = ("items", "projects", "sections", "labels")
    ids = [obj["id"] for user in users for kind in kinds for obj in user.document[kind]]
    ids += [user.document["user"]["id"] for user in users]
    assert len(ids) == len(set(ids))


def test_items_refer_only_to_their_own_account(users: list[SampleUser]) -> None:
    """An item's project and labels exist in its account, its section and its parent in its project."""
    for document in (user.document for user in users):
        projects = {project["id"] for project in document["projects"]}
        sections = {(section["id"], section["project_id"]) for section in document["sections"]}
        parents = {(item["id"], item["project_id"]) for item in document["items"]}
        labels = {label["name"] for label in document["labels"]}
        for item in document["items"]:
            assert item["user_id"] == document["user"]["id"]
            assert item["project_id"] in projects
            assert item["section_id"] is None or (item["section_id"], item["project_id"]) in sections
            assert item["parent_id"] is None or (item["parent_id"], item["project_id"]) in parents
            assert set(item["labels"]) <= labels


def test_every_user_has_an_inbox_and_two_to_five_topics(plain: list[SampleUser]) -> None:
    """A plain account has one Inbox with a few tasks, and two to five other projects."""
    for document in (user.document for user in plain):
        inbox = [project for project in document["projects"] if project["inbox_project"]]
        assert [p["id"] for p in inbox] == [document["user"]["inbox_project_id"]]
        assert 2 <= len(document["projects"]) - 1 <= 5
        assert 2 <= sum(item["project_id"] == inbox[0]["id"] for item in document["items"]) <= 5


def test_users_differ_in_topic_zone_and_language() -> None:
    """Thirty users have at least ten topics, eight time zones and five languages."""
    users = sample_users(30, today=TODAY)
    by_name = {topic.project: topic for topic in sample_texts().topics}
    names = {project["name"] for user in users for project in user.document["projects"]} - {"Inbox"}
    assert len({by_name[name].key for name in names}) >= 10
    assert len({user.timezone for user in users}) >= 8
    assert len({user.document["user"]["lang"] for user in users}) >= 5


def test_most_users_write_one_language_and_some_two(users: list[SampleUser]) -> None:
    """More than half of the accounts have projects in one language only; some have one in a second language."""
    by_name = {topic.project: topic.lang for topic in sample_texts().topics}
    n_mixed = 0
    for document in (user.document for user in users):
        langs = [by_name[p["name"]] for p in document["projects"] if not p["inbox_project"]]
        n_mixed += any(lang != document["user"]["lang"] for lang in langs)
    assert 0 < n_mixed < len(users) / 2


def test_due_dates_come_in_all_three_forms(users: list[SampleUser]) -> None:
    """Whole-day, floating and fixed dates all occur; only fixed dates have a zone, the user's."""
    for user in users:
        zone = user.document["user"]["tz_info"]["timezone"]
        for due in dues_of([user]):
            assert due["timezone"] == (zone if FIXED.fullmatch(due["date"]) else None)
    dates = [due["date"] for due in dues_of(users)]
    n_by_form = [sum(bool(form.fullmatch(d)) for d in dates) for form in (WHOLE_DAY, FLOATING, FIXED)]
    assert all(n_by_form)
    assert sum(n_by_form) == len(dates)
    assert any("." in d for d in dates)


def test_due_dates_are_around_today_and_some_are_missing(users: list[SampleUser]) -> None:
    """Dates are from 20 days before today to 60 days after it; about two in five tasks have none."""
    days = [(date.fromisoformat(due["date"][:10]) - TODAY).days for due in dues_of(users)]
    assert -20 <= min(days) < 0 < max(days) <= 60
    assert 0.3 < 1 - len(days) / len(items_of(users)) < 0.5


def test_about_a_tenth_of_the_tasks_recur_on_a_day_of_their_rule(users: list[SampleUser]) -> None:
    """A recurring date has its rule in words of its language, and is on a day that the rule allows."""
    recurring = [due for due in dues_of(users) if due["is_recurring"]]
    assert 0.05 < len(recurring) / len(items_of(users)) < 0.2
    for due in recurring:
        [rule] = [r for r in sample_texts().recurrences if r.texts[due["lang"]] == due["string"]]
        assert rule.fits(date.fromisoformat(due["date"][:10]))


def test_the_rare_fields_occur(users: list[SampleUser]) -> None:
    """Deadlines, durations of both units, sub-tasks, descriptions, sections and labels all occur."""
    items = items_of(users)
    for field in ("deadline", "duration", "parent_id", "description", "section_id", "labels"):
        assert 0 < sum(bool(item[field]) for item in items) < len(items), field
    assert {item["duration"]["unit"] for item in items if item["duration"]} == {"minute", "day"}


def test_timestamps_are_in_both_formats_and_in_the_past(users: list[SampleUser]) -> None:
    """`added_at` has microseconds in some items; `updated_at` is null or between `added_at` and today."""
    items = items_of(users)
    assert {"." in item["added_at"] for item in items} == {True, False}
    assert {item["updated_at"] is None for item in items} == {True, False}
    for item in items:
        last = item["updated_at"] or item["added_at"]
        assert item["added_at"][:19] <= last[:19] < TODAY.isoformat()


@pytest.mark.parametrize(("zone", "gmt"), [("Asia/Kolkata", "+05:30"), ("America/New_York", "-05:00")])
def test_the_user_object_has_the_zone(plain: list[SampleUser], zone: str, gmt: str) -> None:
    """`tz_info` has the zone with its offset on that day, and signed hours."""
    tz_info = next(user.document["user"]["tz_info"] for user in plain if user.timezone == zone)
    hours, minutes = gmt.split(":")
    expected = {"timezone": zone, "gmt_string": gmt, "hours": int(hours), "minutes": int(minutes), "is_dst": 0}
    assert tz_info == expected


def test_every_zone_exists(users: list[SampleUser]) -> None:
    """Every user's zone is in the IANA database."""
    assert all(ZoneInfo(user.timezone).utcoffset(datetime(2026, 12, 1)) is not None for user in users)


def test_five_hundred_users_are_generated_quickly() -> None:
    """Five hundred users, all with different ids and tokens, are generated within five seconds."""
    started = time.perf_counter()
    users = sample_users(500, today=TODAY)
    assert time.perf_counter() - started < 5
    assert len({user.user_id for user in users}) == len({user.api_token for user in users}) == 500


def test_there_are_enough_texts_and_no_duplicates() -> None:
    """At least 18 topics have 16 English texts each, at least 8 topics have texts in a different language too.

    No text occurs twice.
    """
    topics = sample_texts().topics
    texts = [text for topic in topics for text in topic.texts]
    english = [topic for topic in topics if topic.lang == "en"]
    assert len(english) >= 18
    assert all(len(topic.texts) >= 16 for topic in english)
    assert len({topic.key for topic in topics if topic.lang != "en"}) >= 8
    assert all(len(topic.texts) >= 8 for topic in topics)
    assert len(texts) == len(set(texts)) >= 450
    assert len({topic.project for topic in topics}) == len(topics)


def test_some_texts_have_links_and_some_run_right_to_left() -> None:
    """Markdown links, emoji and Arabic are among the texts."""
    texts = " ".join(text for topic in sample_texts().topics for text in topic.texts)
    assert re.search(r"\[[^]]+\]\(https://example\.org/[^)]+\)", texts)
    assert re.search("[\u0600-\u06ff]", texts)
    assert re.search("[\U0001f300-\U0001faff]", texts)


def test_the_kinds_are_among_the_first_users(users: list[SampleUser], plain: list[SampleUser]) -> None:
    """Every kind is among 25 users and repeats with the next 25; the accounts of all other users are plain."""
    assert max(KIND_BY_NUMBER) < 25
    for number, (user, plain_user) in enumerate(zip(users, plain, strict=True)):
        assert (user == plain_user) == (number % 25 not in KIND_BY_NUMBER)
        assert (user.user_id, user.api_token) == (plain_user.user_id, plain_user.api_token)


def test_shared_projects(users: list[SampleUser]) -> None:
    """One project is shared; its tasks are a colleague's, the user's or nobody's, each also written by either."""
    documents = documents_of_kind(users, "shared_project")
    for document in documents:
        owner = document["user"]["id"]
        [shared] = [project["id"] for project in document["projects"] if project["is_shared"]]
        items = [item for item in document["items"] if item["project_id"] == shared]
        uids = {uid for item in items for uid in (item["responsible_uid"], item["added_by_uid"])}
        [colleague] = uids - {owner, None}
        assert colleague not in {user.document["user"]["id"] for user in users}
        assert {item["responsible_uid"] for item in items} == {owner, colleague, None}
        assert {item["added_by_uid"] for item in items} == {owner, colleague}
    others = [user.document for user in users if user.document not in documents]
    assert not any(project["is_shared"] for document in others for project in document["projects"])
    assert {item["responsible_uid"] for document in others for item in document["items"]} == {None}


def test_all_pairs_of_assignee_and_author(users: list[SampleUser]) -> None:
    """A colleague wrote tasks for the user, for nobody and for the colleague; the user did so, too."""
    document = users[1].document
    owner = document["user"]["id"]
    items = [item for item in document["items"] if item["responsible_uid"] or item["added_by_uid"] != owner]
    pairs = {(item["responsible_uid"] == owner, item["responsible_uid"] is None) for item in items}
    assert pairs == {(True, False), (False, True), (False, False)}
    assert {item["added_by_uid"] == owner for item in items if item["responsible_uid"] == owner} == {True, False}
    assert {item["added_by_uid"] == owner for item in items if item["responsible_uid"] != owner} == {True, False}


def test_offset_zones(users: list[SampleUser]) -> None:
    """Two of 25 users have an offset for a zone, one of them with a half hour; the product knows only UTC."""
    zones = [
        (user.timezone, user.document["user"]["tz_info"])
        for user in users[:25]
        if user.document["user"]["tz_info"]["timezone"].startswith("GMT")
    ]
    assert zones == [
        ("UTC", {"timezone": name, "gmt_string": gmt, "hours": hours, "minutes": minutes, "is_dst": 0})
        for name, gmt, hours, minutes in [("GMT +5:30", "+05:30", 5, 30), ("GMT -3:00", "-03:00", -3, 0)]
    ]


def test_deadlines(users: list[SampleUser]) -> None:
    """Deadlines without a due date are past, today and later; others are before and after the due date."""
    for document in documents_of_kind(users, "deadlines"):
        with_deadline = [item for item in document["items"] if item["deadline"]]
        days = [date.fromisoformat(item["deadline"]["date"]) for item in with_deadline if not item["due"]]
        assert min(days) < TODAY < max(days)
        assert TODAY in days
        dues = [(item["due"]["date"][:10], item["deadline"]["date"]) for item in with_deadline if item["due"]]
        assert {due < deadline for due, deadline in dues if due != deadline} == {True, False}


def test_headers(users: list[SampleUser]) -> None:
    """One item of the account is a header, without a date, and has several tasks of its section below it."""
    for document in documents_of_kind(users, "headers"):
        [header] = [item for item in document["items"] if item["content"].startswith("* ")]
        below = [item for item in document["items"] if item["parent_id"] == header["id"]]
        assert len(below) >= 2
        assert {(item["project_id"], item["section_id"]) for item in below} == {
            (header["project_id"], header["section_id"])
        }
        assert (header["due"], header["deadline"], header["parent_id"]) == (None, None, None)


def test_equal_sub_tasks(users: list[SampleUser]) -> None:
    """Two tasks have two sub-tasks each, with the same words."""
    for document in documents_of_kind(users, "equal_sub_tasks"):
        words: dict[str, set[str]] = {}
        for item in document["items"]:
            if item["parent_id"]:
                words.setdefault(item["content"], set()).add(item["parent_id"])
        assert sum(len(parents) == 2 for parents in words.values()) == 2


def test_noted_twice(users: list[SampleUser]) -> None:
    """Three tasks are in the inbox again, with the same words."""
    documents = documents_of_kind(users, "noted_twice")
    assert documents
    for document in documents:
        inbox_id = document["user"]["inbox_project_id"]
        others = {item["content"].casefold() for item in document["items"] if item["project_id"] != inbox_id}
        inbox = [item["content"] for item in document["items"] if item["project_id"] == inbox_id]
        assert len([text for text in inbox if text.removesuffix("!").casefold() in others]) == 3


def test_unusual_texts(users: list[SampleUser]) -> None:
    """HTML escapes, six lone escaped links, a link with brackets in its text, emoji and directional marks occur."""
    for document in documents_of_kind(users, "unusual_texts"):
        texts = [item["content"] for item in document["items"]]
        assert any("Q&amp;A" in text for text in texts)
        assert sum(text.startswith("https:&#x2F;&#x2F;example.com&#x2F;") for text in texts) == 6
        assert any(re.fullmatch(r"\[[^]]*\[[^]]*\][^]]*\]\(https://\S+\)", text) for text in texts)
        assert any(len(text) > 200 and not re.search(r"\w", text) for text in texts)
        assert any(re.search("[\u0600-\u06ff]", text) and re.match("[\u200f\u202b]", text) for text in texts)


def test_a_night_is_deterministic_and_does_not_modify_the_document(users: list[SampleUser]) -> None:
    """The same night gives the same changes, a different night different ones; the document is not modified."""
    user = users[0]
    before = copy.deepcopy(user.document)
    first = night_changes(user, user.document, today=NIGHT, night=1)
    assert first == night_changes(user, user.document, today=NIGHT, night=1)
    assert first != night_changes(user, user.document, today=NIGHT, night=2)
    assert user.document == before


def test_a_night_is_an_incremental_answer(users: list[SampleUser]) -> None:
    """Changes have `full_sync` false, a new sync token and a list of every type."""
    for user in users:
        changes = night_changes(user, user.document, today=NIGHT, night=1)
        assert set(changes) == {"sync_token", "full_sync", "items", "projects", "sections", "labels"}
        assert changes["full_sync"] is False
        assert changes["sync_token"] != user.document["sync_token"]


def is_assigned(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Whether a task was assigned to a different user."""
    return bool(before["responsible_uid"] != after["responsible_uid"])


def test_a_night_adds_completes_rewords_and_moves(users: list[SampleUser]) -> None:
    """A night adds one to three tasks, and completes one, rewords one and moves one to a later day."""
    for user in users:
        old = {item["id"]: item for item in user.document["items"]}
        changed = night_changes(user, user.document, today=NIGHT, night=1)["items"]
        assert len({item["id"] for item in changed}) == len(changed)
        assert 1 <= sum(item["id"] not in old for item in changed) <= 3
        existing = [item for item in changed if item["id"] in old and not is_assigned(old[item["id"]], item)]
        completed, reworded, moved = [(old[item["id"]], item) for item in existing]
        assert completed[1]["checked"] or completed[1]["due"]["date"] > completed[0]["due"]["date"]
        assert reworded[1]["content"].startswith(reworded[0]["content"])
        assert reworded[1]["content"] != reworded[0]["content"]
        assert NIGHT.isoformat() < moved[1]["due"]["date"]
        assert moved[1]["due"]["date"] > moved[0]["due"]["date"]


def test_a_night_of_a_shared_project(users: list[SampleUser]) -> None:
    """One task of the shared project is assigned to the colleague; a section elsewhere with tasks may be archived."""
    for user in users:
        old = {item["id"]: item for item in user.document["items"]}
        shared = {project["id"] for project in user.document["projects"] if project["is_shared"]}
        changes = night_changes(user, user.document, today=NIGHT, night=1)
        existing = [item for item in changes["items"] if item["id"] in old]
        assigned = [item for item in existing if is_assigned(old[item["id"]], item)]
        assert len(assigned) == len(shared)
        assert all(item["project_id"] in shared for item in assigned)
        assert all(item["responsible_uid"] not in (None, user.document["user"]["id"]) for item in assigned)
        assert len(changes["sections"]) <= len(shared)
        for section in changes["sections"]:
            assert section["is_archived"] is True
            assert section["project_id"] not in shared
            assert any(item["section_id"] == section["id"] for item in old.values())
            assert not any(item["section_id"] == section["id"] for item in changes["items"])


def test_nights_leave_headers_and_tasks_of_others_alone(users: list[SampleUser]) -> None:
    """In thirty nights no header and no task of a colleague changes, and no header is completed by its tasks."""
    for user in users[:25]:
        document: dict[str, Any] = user.document
        for night in range(1, 31):
            changes = night_changes(user, document, today=TODAY + timedelta(days=night), night=night)
            before = {item["id"]: item for item in document["items"]}
            for item in changes["items"]:
                former = before.get(item["id"], item)
                assert former["responsible_uid"] in (None, user.document["user"]["id"])
                assert not former["content"].startswith("* ")
            document = applied(document, changes)


def test_a_night_in_the_local_todoist(users: list[SampleUser]) -> None:
    """The next delta has all changes with a later `updated_at`, and the archived section without its tasks."""
    user = users[1]
    todoist = LocalTodoist(clock=lambda: datetime(2026, 12, 2, 2, tzinfo=UTC))
    todoist.load(user.api_token, user.document, user=user.user_id)
    before = todoist.document(user.user_id)
    changes = night_changes(user, before, today=NIGHT, night=1)
    todoist.advance(user.user_id, changes)
    after = todoist.document(user.user_id)
    [section] = changes["sections"]
    gone = {item["id"] for item in before["items"] if item["section_id"] == section["id"]}
    gone |= {item["id"] for item in changes["items"] if item["checked"]}
    new = {item["id"] for item in changes["items"]} - {item["id"] for item in before["items"]}
    assert {item["id"] for item in after["items"]} == {item["id"] for item in before["items"]} - gone | new
    assert section["id"] not in {each["id"] for each in after["sections"]}
    old = {item["id"]: item for item in before["items"]}
    for item in after["items"]:
        if item != old.get(item["id"], item):
            assert item["updated_at"][:19] > (old[item["id"]]["updated_at"] or "")[:19]
    reply = todoist.sync(
        "/api/v1/sync",
        user.api_token,
        {"sync_token": before["sync_token"], "resource_types": '["items", "sections"]'},
    )
    delta = json.loads(reply.body)
    assert {item["id"] for item in delta["items"]} == {item["id"] for item in changes["items"]}
    assert [each["id"] for each in delta["sections"]] == [section["id"]]


def test_completing_a_recurring_task_only_moves_its_date(users: list[SampleUser]) -> None:
    """A completed recurring task stays open; its next date is after today, and its rule is unchanged."""
    n_recurring = 0
    for user in users:
        old = {item["id"]: item for item in user.document["items"]}
        for item in night_changes(user, user.document, today=NIGHT, night=1)["items"]:
            due = item["due"] or {}
            before = old.get(item["id"], item)
            if not due.get("is_recurring") or before["due"]["date"] == due["date"]:
                continue
            n_recurring += 1
            assert not item["checked"]
            assert due["date"] > NIGHT.isoformat()
            assert {**due, "date": None} == {**before["due"], "date": None}
    assert n_recurring


def test_a_completed_task_has_no_open_sub_task(users: list[SampleUser]) -> None:
    """A completed task is not the parent of any task, old or new."""
    for user in users:
        changed = night_changes(user, user.document, today=NIGHT, night=1)["items"]
        parents = {item["parent_id"] for item in [*user.document["items"], *changed]}
        assert not any(item["checked"] and item["id"] in parents for item in changed)


def test_thirty_nights_in_a_row_keep_the_account_consistent(users: list[SampleUser]) -> None:
    """After each night, new ids are unique over all nights, and projects and parents exist in the account."""
    for user in users[:20]:
        document: dict[str, Any] = user.document
        all_ids = {item["id"] for item in document["items"]}
        for night in range(1, 31):
            today = TODAY + timedelta(days=night)
            changes = night_changes(user, document, today=today, night=night)
            before = {item["id"] for item in document["items"]}
            new = {item["id"] for item in changes["items"]} - before
            assert not new & all_ids
            all_ids |= new
            document = applied(document, changes)
            ids = {item["id"] for item in document["items"]}
            assert {item["parent_id"] for item in document["items"]} <= ids | {None}
            assert {i["project_id"] for i in document["items"]} <= {p["id"] for p in document["projects"]}


@pytest.mark.parametrize("n_items", [0, 1, 2])
def test_small_accounts_change_less(users: list[SampleUser], n_items: int) -> None:
    """An account with fewer tasks than changes gets fewer changes to existing tasks, and new ones as always."""
    document = {**users[0].document, "items": users[0].document["items"][:n_items]}
    existing = {item["id"] for item in document["items"]}
    changed = night_changes(users[0], document, today=NIGHT, night=1)["items"]
    assert sum(item["id"] in existing for item in changed) <= n_items
    assert 1 <= sum(item["id"] not in existing for item in changed) <= 3


def test_an_account_without_projects_gets_no_new_tasks(users: list[SampleUser]) -> None:
    """Without projects there is no place for new tasks, and an empty account does not change."""
    empty = {**users[0].document, "items": [], "projects": [], "sections": [], "labels": []}
    assert night_changes(users[0], empty, today=NIGHT, night=1)["items"] == []


@pytest.mark.parametrize(("share", "n_changed"), [(0.0, 1), (0.001, 1), (0.25, 30), (1.0, 120)])
def test_the_share_of_changed_users(users: list[SampleUser], share: float, n_changed: int) -> None:
    """The share is rounded to a number of users, at least one; each changes once, and their order is kept."""
    changed = changed_users(users, share=share, night=1)
    assert len(changed) == n_changed
    ids = [user.user_id for user in changed]
    assert ids == sorted(set(ids))


def test_a_different_night_changes_different_users(users: list[SampleUser]) -> None:
    """The changed users depend only on the night."""
    assert changed_users(users, share=0.2, night=1) == changed_users(users, share=0.2, night=1)
    assert changed_users(users, share=0.2, night=1) != changed_users(users, share=0.2, night=2)


def test_no_users() -> None:
    """Without users, no user changes."""
    assert changed_users([], share=0.5, night=1) == []
