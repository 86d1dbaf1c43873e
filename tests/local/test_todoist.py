import json
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from itertools import count
from time import monotonic
from typing import Any

import httpx
import pytest
from clock import Clock

from benchmarks.todoist import todoist_process
from local.todoist import Fault, FaultKind, LocalTodoist, TodoistCall, running_todoist
from local.todoist.faults import fault_from
from local.todoist.requests import RESOURCE_TYPES

TYPES = ["items", "projects", "sections", "labels", "user"]
NIGHT = datetime(2026, 11, 24, 2, 0, tzinfo=UTC)


class Client:
    """One user's client of a running stand-in."""

    def __init__(self, http: httpx.Client, user: str, token: str) -> None:
        self.http, self.user, self.token = http, user, token

    def call(self, sync_token: str = "*", types: Any = TYPES, timeout: float = 5.0) -> httpx.Response:
        form = {"sync_token": sync_token, "resource_types": json.dumps(types)}
        return self.http.post("/api/v1/sync", data=form, headers=self.auth, timeout=timeout)

    def sync(self, sync_token: str = "*", types: Any = TYPES) -> dict[str, Any]:
        answer: dict[str, Any] = self.call(sync_token, types).raise_for_status().json()
        return answer

    @property
    def auth(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}


Connect = Callable[..., Client]


def item(id: str, **fields: Any) -> dict[str, Any]:
    owners = {"project_id": "p1", "section_id": None, "parent_id": None}
    rest = {"labels": [], "priority": 1, "due": None, "checked": False, "is_deleted": False}
    return {"id": id, "content": f"Task {id}", **owners, **rest, **fields}


def project(id: str, **fields: Any) -> dict[str, Any]:
    return {"id": id, "name": id, "parent_id": None, "is_archived": False, "is_deleted": False, **fields}


def section(id: str, **fields: Any) -> dict[str, Any]:
    return {"id": id, "project_id": "p1", "name": id, "is_archived": False, "is_deleted": False, **fields}


def document(*items: Any, **kinds: Any) -> dict[str, Any]:
    user = {"id": "1", "full_name": "Ada", "tz_info": {"timezone": "Europe/Berlin"}}
    plain = {"projects": [project("p1")], "sections": [], "labels": [], "user": user}
    return {"full_sync": True, "sync_token": "theirs", "items": list(items), **plain, **kinds}


def ids(values: list[Any]) -> set[str]:
    return {value["id"] for value in values}


@pytest.fixture(scope="module")
def clock() -> Clock:
    return Clock(NIGHT)


@pytest.fixture(scope="module")
def todoist(clock: Clock) -> LocalTodoist:
    return LocalTodoist(clock=clock, full_limit=5, incremental_limit=8)


@pytest.fixture(scope="module")
def http(todoist: LocalTodoist) -> Iterator[httpx.Client]:
    with running_todoist(todoist) as base_url, httpx.Client(base_url=base_url) as client:
        yield client


@pytest.fixture(scope="module")
def connect(todoist: LocalTodoist, http: httpx.Client) -> Connect:
    """Adds a new user per call, because faults and limits apply per user."""
    numbers = count(1)

    def connect(initial: Mapping[str, Any] | None = None, **kwargs: Any) -> Client:
        user = f"user-{next(numbers)}"
        todoist.load(f"token-{user}", initial or document(item("1"), item("2")), user=user, **kwargs)
        return Client(http, user, f"token-{user}")

    return connect


class TestRequests:
    def test_full_answer_has_the_shape_of_the_api(self, connect: Connect) -> None:
        """The answer to `*` has every requested key, full_sync, the time in UTC, and a sync token of the stand-in."""
        answer = connect().sync()
        assert ids(answer["items"]) == {"1", "2"}
        assert answer["user"]["tz_info"] == {"timezone": "Europe/Berlin"}
        assert answer["full_sync"] is True
        assert answer["full_sync_date_utc"] == "2026-11-24T02:00:00Z"
        assert len(answer["sync_token"]) == 60
        assert set(answer) == {*TYPES, "full_sync", "full_sync_date_utc", "sync_token", "temp_id_mapping"}

    def test_json_body(self, connect: Connect) -> None:
        """The arguments may be a JSON object instead of a form."""
        client = connect()
        body = {"sync_token": "*", "resource_types": ["items"]}
        answer = client.http.post("/api/v1/sync", json=body, headers=client.auth).json()
        assert ids(answer["items"]) == {"1", "2"}

    @pytest.mark.parametrize("body", ["{", "[]", '{"sync_token": 1, "resource_types": []}'])
    def test_bad_json_is_refused(self, connect: Connect, body: str) -> None:
        """A JSON body that is not an object, or has a sync_token that is not a string, gets a 400."""
        client = connect()
        headers = {**client.auth, "Content-Type": "application/json"}
        assert client.http.post("/api/v1/sync", content=body, headers=headers).status_code == 400

    def test_get_is_not_allowed(self, http: httpx.Client) -> None:
        """/sync accepts POST only: GET gets a 405."""
        assert http.get("/api/v1/sync").status_code == 405

    def test_unknown_resource_type_is_refused(self, connect: Connect) -> None:
        """An unknown resource type gets a 400 INVALID_ARGUMENT_VALUE."""
        response = connect().call(types=["items", "tasks"])
        assert response.status_code == 400
        assert response.json()["error_tag"] == "INVALID_ARGUMENT_VALUE"
        assert response.json()["error_extra"]["argument"] == "resource_types"
        assert "tasks" in response.json()["error_extra"]["expected"]

    @pytest.mark.parametrize("types", ['["items"', "items", '{"items": 1}', "[1]"])
    def test_resource_types_must_be_a_list_of_names(self, connect: Connect, types: str) -> None:
        """resource_types that is not a JSON list of strings gets a 400."""
        client = connect()
        form = {"sync_token": "*", "resource_types": types}
        assert client.http.post("/api/v1/sync", data=form, headers=client.auth).status_code == 400

    @pytest.mark.parametrize("given", ["sync_token", "resource_types"])
    def test_both_arguments_are_required(self, connect: Connect, given: str) -> None:
        """A call without sync_token or without resource_types gets a 400 ARGUMENT_MISSING."""
        client = connect()
        response = client.http.post("/api/v1/sync", data={given: "[]"}, headers=client.auth)
        assert (response.status_code, response.json()["error_tag"]) == (400, "ARGUMENT_MISSING")

    def test_other_types_of_todoist_are_empty_lists(self, connect: Connect) -> None:
        """Resource types that were not loaded are empty lists."""
        answer = connect().sync(types=["notes", "filters", "workspaces"])
        assert [answer[kind] for kind in ("notes", "filters", "workspaces")] == [[], [], []]

    def test_all_types_but_one(self, connect: Connect) -> None:
        """`all` includes every type, and a leading - excludes one."""
        answer = connect().sync(types=["all", "-labels"])
        assert set(RESOURCE_TYPES) - set(answer) == {"labels"}

    @pytest.mark.parametrize("given", [None, "Bearer nobody", "Basic x"])
    def test_missing_or_unknown_token_is_unauthorized(self, http: httpx.Client, given: str | None) -> None:
        """Without a known bearer token the response is 401 UNAUTHORIZED with a challenge."""
        headers = {"Authorization": given} if given else {}
        response = http.post("/api/v1/sync", data={"sync_token": "*"}, headers=headers)
        assert response.status_code == 401
        assert response.json()["error_tag"] == "UNAUTHORIZED"
        assert response.headers["WWW-Authenticate"].startswith("Bearer")

    def test_revoked_token_gets_the_recorded_403(self, todoist: LocalTodoist, connect: Connect) -> None:
        """A revoked token gets HTTP 403 with error_code 401 and a meaningless retry_after."""
        client = connect()
        todoist.revoke(client.user)
        response = client.call()
        assert response.status_code == 403
        assert response.json() == {
            "error": "Invalid token",
            "error_code": 401,
            "error_extra": {"access_type": "none", "retry_after": 4},
            "error_tag": "AUTH_INVALID_TOKEN",
            "http_code": 403,
        }

    @pytest.mark.parametrize("path", ["/rest/v2/tasks", "/sync/v9/sync"])
    def test_removed_apis_are_gone(self, connect: Connect, path: str) -> None:
        """REST v2 and Sync v9 respond with 410 in plain text to any method."""
        client = connect()
        for method in ("GET", "POST"):
            response = client.http.request(method, path, headers=client.auth)
            assert response.status_code == 410
            assert response.headers["Content-Type"].startswith("text/plain")

    def test_responses_have_the_date_of_the_injected_clock(self, connect: Connect) -> None:
        """The Date header follows the injected clock, because clients compare a Retry-After date with it."""
        response = connect().call()
        assert parsedate_to_datetime(response.headers["Date"]) == NIGHT


class TestObjects:
    def test_full_answer_holds_active_objects_only(self, connect: Connect) -> None:
        """A full answer has no completed, deleted or archived objects."""
        loaded = document(
            item("1"),
            item("2", checked=True),
            item("3", is_deleted=True),
            projects=[project("p1"), project("p2", is_archived=True)],
        )
        answer = connect(loaded).sync()
        assert ids(answer["items"]) == {"1"}
        assert ids(answer["projects"]) == {"p1"}

    def test_archived_objects_may_be_loaded(self, todoist: LocalTodoist, connect: Connect) -> None:
        """A document may hold archived projects and sections, whose contents come with their un-archiving."""
        loaded = document(
            item("1"),
            item("2", section_id="s1"),
            item("3", project_id="p2"),
            projects=[project("p1"), project("p2", is_archived=True)],
            sections=[section("s1", is_archived=True), section("s2", project_id="p2")],
        )
        client = connect(loaded)
        assert (ids(client.sync()["items"]), client.sync()["sections"]) == ({"1"}, [])
        todoist.advance(client.user, {"projects": [project("p2")], "sections": [section("s1")]})
        answer = client.sync()
        assert (ids(answer["items"]), ids(answer["sections"])) == ({"1", "2", "3"}, {"s1", "s2"})

    def test_broken_objects_are_served_as_they_are(self, connect: Connect) -> None:
        """Broken objects are served as loaded: without id, with a wrong priority, null, twice."""
        odd = [{"content": "no id"}, item("1", priority=0), item("2", content=None), None, "text", item("1")]
        assert connect(document(*odd)).sync()["items"] == odd

    @pytest.mark.parametrize("items", [None, {}, "text"])
    def test_invalid_lists_load_as_empty(self, connect: Connect, items: Any) -> None:
        """A document with items that are null or not a list loads without items."""
        assert connect({"items": items, "user": None}).sync()["items"] == []

    def test_the_document_is_copied(self, todoist: LocalTodoist, connect: Connect) -> None:
        """load() and document() copy the document."""
        loaded = document(item("1"))
        client = connect(loaded)
        loaded["items"][0]["content"] = todoist.document(client.user)["items"][0]["content"] = "Mine"
        assert client.sync()["items"] == [item("1")]

    def test_document_is_a_full_answer(self, todoist: LocalTodoist, connect: Connect) -> None:
        """document() equals a full answer, and can be loaded into a second user unchanged."""
        client = connect()
        loaded = todoist.document(client.user)
        assert {**loaded, "sync_token": ""} == {**client.sync(), "sync_token": ""}
        assert connect(loaded).sync()["items"] == loaded["items"]

    def test_delta_has_changed_objects(self, todoist: LocalTodoist, connect: Connect) -> None:
        """A known sync token gets the complete objects with a later revision, and every requested key but user."""
        client = connect()
        token = client.sync()["sync_token"]
        changed = item("2", content="Changed")
        todoist.advance(client.user, {"items": [changed, item("3")], "user": {}})
        delta = client.sync(token)
        assert delta["items"] == [changed, item("3")]
        assert (delta["projects"], delta["sections"], delta["labels"]) == ([], [], [])
        assert delta["full_sync"] is False
        assert "user" not in delta
        assert "full_sync_date_utc" not in delta

    def test_delta_has_the_user_if_it_changed(self, todoist: LocalTodoist, connect: Connect) -> None:
        """A delta has `user` only after a change of the user object."""
        client = connect()
        token = client.sync()["sync_token"]
        todoist.advance(client.user, {"user": document()["user"]})
        assert "user" not in client.sync(token)
        todoist.advance(client.user, {"user": {"id": "1", "tz_info": {"timezone": "Asia/Tokyo"}}})
        assert client.sync(token)["user"]["tz_info"] == {"timezone": "Asia/Tokyo"}

    def test_a_token_may_be_repeated(self, todoist: LocalTodoist, connect: Connect) -> None:
        """An old sync token stays valid and gets all later changes each time; a new one gets none."""
        client = connect()
        token = client.sync()["sync_token"]
        todoist.advance(client.user, {"items": [item("3")]})
        todoist.advance(client.user, {"items": [item("4")]})
        first, again = client.sync(token), client.sync(token)
        assert ids(first["items"]) == ids(again["items"]) == {"3", "4"}
        assert client.sync(first["sync_token"])["items"] == []

    @pytest.mark.parametrize("mark", ["checked", "is_deleted"])
    def test_tombstones_are_complete(self, todoist: LocalTodoist, connect: Connect, mark: str) -> None:
        """A completed or deleted item has all its fields in deltas, and is not in full answers."""
        client = connect()
        token = client.sync()["sync_token"]
        todoist.advance(client.user, {"items": [{"id": "1", mark: True}]})
        assert client.sync(token)["items"] == [item("1", **{mark: True})]
        assert ids(client.sync()["items"]) == {"2"}

    def test_recurring_task_moves_when_completed(self, todoist: LocalTodoist, connect: Connect) -> None:
        """A completed recurring task stays active, with a later date."""
        daily = {"date": "2026-11-24", "string": "every day", "lang": "en", "is_recurring": True}
        client = connect(document(item("1", due=daily)))
        todoist.advance(client.user, {"items": [item("1", due={**daily, "date": "2026-11-25"})]})
        assert client.sync()["items"][0]["due"]["date"] == "2026-11-25"

    def test_full_delta_replaces_everything(self, todoist: LocalTodoist, connect: Connect) -> None:
        """A delta with full_sync replaces all objects, and older sync tokens get a full answer."""
        client = connect()
        token = client.sync()["sync_token"]
        todoist.advance(client.user, document(item("9")))
        answer = client.sync(token)
        assert answer["full_sync"] is True
        assert ids(answer["items"]) == {"9"}

    def test_broken_objects_of_a_delta_are_served(self, todoist: LocalTodoist, connect: Connect) -> None:
        """An item without id in a delta is served to older sync tokens, not to later ones."""
        client = connect()
        token = client.sync()["sync_token"]
        todoist.advance(client.user, {"items": [{"content": "no id"}, 7, {"id": [], "content": "odd"}]})
        delta = client.sync(token)
        assert delta["items"] == [{"content": "no id"}, 7, {"id": [], "content": "odd"}]
        assert client.sync(delta["sync_token"])["items"] == []

    @pytest.mark.parametrize("mark", ["checked", "is_deleted"])
    def test_sub_tasks_follow_their_task(self, todoist: LocalTodoist, connect: Connect, mark: str) -> None:
        """Deleting or completing an item also deletes or completes its sub-tasks at any depth, but no other items."""
        gone = item("5", parent_id="1", is_deleted=True)
        loaded = document(item("1"), item("2", parent_id="1"), item("3", parent_id="2"), item("4"), gone)
        client = connect(loaded)
        token = client.sync()["sync_token"]
        todoist.advance(client.user, {"items": [item("1", **{mark: True})]})
        changed = client.sync(token)["items"]
        assert ids(changed) == {"1", "2", "3"}
        assert all(each[mark] for each in changed)
        assert ids(client.sync()["items"]) == {"4"}

    def test_item_moved_to_a_different_project_survives(self, todoist: LocalTodoist, connect: Connect) -> None:
        """An item is not deleted with its old project if the same delta moves it to a different one."""
        client = connect(document(item("1"), projects=[project("p1"), project("p2")]))
        delta = {"projects": [project("p1", is_deleted=True)], "items": [item("1", project_id="p2")]}
        todoist.advance(client.user, delta)
        assert ids(client.sync()["items"]) == {"1"}

    def test_deleted_label_is_removed_from_items(self, todoist: LocalTodoist, connect: Connect) -> None:
        """Deleting a label changes only the items with that label."""
        label = {"id": "l1", "name": "home", "item_order": 1, "is_deleted": False}
        items = [item("1", labels=["home", "now"]), item("2", labels=["now"]), item("3", labels=None)]
        client = connect(document(*items, labels=[label]))
        token = client.sync()["sync_token"]
        todoist.advance(client.user, {"labels": [{"id": "l1", "is_deleted": True}]})
        delta = client.sync(token)
        assert delta["items"] == [item("1", labels=["now"])]
        assert delta["labels"] == [{**label, "is_deleted": True}]

    def test_integers_are_valid_ids(self, todoist: LocalTodoist, connect: Connect) -> None:
        """Exports from before API v1, with integers as ids, can be loaded and advanced."""
        client = connect({"items": [{"id": 1, "content": "old"}, {"id": 0, "content": "older"}]})
        todoist.advance(client.user, {"items": [{"id": 1, "content": "new"}]})
        assert {each["id"]: each["content"] for each in client.sync()["items"]} == {0: "older", 1: "new"}

    def test_updated_at_moves_with_every_change(self, todoist: LocalTodoist, connect: Connect, clock: Clock) -> None:
        """A change sets `updated_at` to the clock's time, unless the delta has a later value than before."""
        old, new = "2026-11-20T08:00:00Z", "2026-11-21T08:00:00.123456Z"
        label = {"id": "l1", "name": "home", "is_deleted": False}
        items = [item(str(number), updated_at=old, labels=["home"] * (number == 5)) for number in range(7)]
        items[4] |= {"parent_id": "3", "updated_at": None}
        client = connect(document(*items, labels=[label]))
        token = client.sync()["sync_token"]
        changes = [{**items[0], "priority": 4}, {**items[1], "updated_at": new}, {**items[2], "updated_at": "2026"}]
        todoist.advance(client.user, {"items": [*changes, {"id": "3", "checked": True}]})
        todoist.advance(client.user, {"labels": [{**label, "is_deleted": True}]})
        now = clock().strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        moved = {each["id"]: each["updated_at"] for each in client.sync(token)["items"]}
        assert moved == {"0": now, "1": new, "2": now, "3": now, "4": now, "5": now}
        assert [each["updated_at"] for each in client.sync()["items"] if each["id"] == "6"] == [old]


OWNED = document(
    item("1"),
    item("2", project_id="p2"),
    item("3", project_id="p3"),
    item("4", project_id="p2", checked=True),
    item("5", section_id="s1"),
    item("6", section_id="s2", project_id="p2"),
    item("7", parent_id="5", section_id="s1"),
    {"content": "no id", "project_id": "p2"},
    None,
    projects=[project("p1"), project("p2", parent_id="p1"), project("p3")],
    sections=[section("s1"), section("s2", project_id="p2")],
)
"""The project p1 owns the project p2; both have a section with an item."""


@pytest.fixture(scope="module", params=[False, True], ids=["unlisted", "listed"])
def lists_descendants(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(scope="module")
def owner(lists_descendants: bool) -> Iterator[Callable[[], Client]]:
    """Adds a new user with the objects `OWNED` to a stand-in of either mode."""
    todoist = LocalTodoist(clock=lambda: NIGHT, lists_descendants=lists_descendants)
    numbers = count(1)

    with running_todoist(todoist) as base_url, httpx.Client(base_url=base_url) as http:

        def owner() -> Client:
            user = f"user-{next(numbers)}"
            todoist.load(user, OWNED, user=user)
            return Client(http, user, user)

        yield owner


def ids_by_kind(answer: Mapping[str, Any]) -> dict[str, set[str]]:
    """The ids of an answer's items, projects and sections, without broken values."""
    return {kind: ids([each for each in answer[kind] if each and "id" in each]) for kind in TYPES[:3]}


class TestEndedOwners:
    """Deleted and archived projects and sections, with deltas that list their contents, and that do not."""

    ENDED = pytest.mark.parametrize("mark", ["is_deleted", "is_archived"])

    @staticmethod
    def advance(client: Client, **delta: Any) -> None:
        body = {"user": client.user, "delta": delta}
        client.http.post("/_control/advance", json=body).raise_for_status()

    @ENDED
    def test_project(self, owner: Callable[[], Client], lists_descendants: bool, mark: str) -> None:
        """An ended project ends its sub-projects, sections and tasks; a delta lists them all, or the project only."""
        client = owner()
        token = client.sync()["sync_token"]
        self.advance(client, projects=[project("p1", **{mark: True})])
        delta, full = client.sync(token), client.sync()
        assert full["items"] == [item("3", project_id="p3"), None]
        assert ids_by_kind(full) == {"items": {"3"}, "projects": {"p3"}, "sections": set()}
        contents = {"items": {"1", "2", "4", "5", "6", "7"}, "projects": {"p1", "p2"}, "sections": {"s1", "s2"}}
        alone = {"items": set(), "projects": {"p1"}, "sections": set()}
        assert ids_by_kind(delta) == (contents if lists_descendants else alone)
        assert all(each[mark] for kind in contents for each in delta[kind])

    @ENDED
    def test_section(self, owner: Callable[[], Client], lists_descendants: bool, mark: str) -> None:
        """An ended section ends its tasks and their sub-tasks; a delta lists them all, or the section only."""
        client = owner()
        token = client.sync()["sync_token"]
        self.advance(client, sections=[section("s1", **{mark: True})])
        assert ids_by_kind(client.sync())["items"] == {"1", "2", "3", "6"}
        delta = client.sync(token)
        assert ids_by_kind(delta) == {
            "items": {"5", "7"} if lists_descendants else set(),
            "projects": set(),
            "sections": {"s1"},
        }
        assert all(each[mark] for each in [*delta["items"], *delta["sections"]])

    @pytest.mark.parametrize(
        ("kind", "archived", "back"),
        [("projects", project("p1"), {"1", "2", "4", "5", "6", "7"}), ("sections", section("s1"), {"5", "7"})],
        ids=["project", "section"],
    )
    def test_unarchiving(
        self,
        owner: Callable[[], Client],
        lists_descendants: bool,
        kind: str,
        archived: dict[str, Any],
        back: set[str],
    ) -> None:
        """Un-archiving brings the contents back; a delta lists them all, or the project or section only."""
        client = owner()
        before = client.sync()
        self.advance(client, **{kind: [{**archived, "is_archived": True}]})
        token = client.sync()["sync_token"]
        self.advance(client, **{kind: [archived]})
        assert ids_by_kind(client.sync()) == ids_by_kind(before)
        delta = client.sync(token)
        assert archived["id"] in ids(delta[kind])
        assert ids_by_kind(delta)["items"] == (back if lists_descendants else set())
        assert not any(each.get("is_archived") for each in [*delta["items"], *delta[kind]])

    def test_archived_twice(self, owner: Callable[[], Client]) -> None:
        """A section that was archived before its project stays archived when the project is un-archived."""
        client = owner()
        self.advance(client, sections=[section("s1", is_archived=True)])
        self.advance(client, projects=[project("p1", is_archived=True)])
        self.advance(client, projects=[project("p1")])
        assert ids_by_kind(client.sync())["items"] == {"1", "2", "3", "6"}

    def test_deleted_objects_stay_deleted(self, owner: Callable[[], Client]) -> None:
        """An active object with the id of a deleted project has none of its tasks."""
        client = owner()
        self.advance(client, projects=[project("p1", is_deleted=True)])
        self.advance(client, projects=[project("p1")])
        assert ids_by_kind(client.sync()) == {"items": {"3"}, "projects": {"p1", "p3"}, "sections": set()}

    @ENDED
    def test_sub_tasks_are_always_listed(self, owner: Callable[[], Client], mark: str) -> None:
        """Deleting a task of a section lists the task and its sub-tasks in both modes."""
        client = owner()
        token = client.sync()["sync_token"]
        self.advance(client, items=[{"id": "5", "is_deleted": True}], sections=[section("s2", **{mark: True})])
        assert ids_by_kind(client.sync(token))["items"] >= {"5", "7"}

    @ENDED
    def test_task_that_leaves_in_time(self, owner: Callable[[], Client], mark: str) -> None:
        """A task that the same delta moves out of an ended project or section stays active."""
        client = owner()
        moved = [item("2", project_id="p3"), item("5", project_id="p3")]
        ended = {"projects": [project("p2", **{mark: True})], "sections": [section("s1", **{mark: True})]}
        self.advance(client, items=moved, **ended)
        assert ids_by_kind(client.sync())["items"] >= {"1", "2", "3", "5"}


class TestReads:
    """The paged reads, as used by the official Python SDK."""

    PATHS = ("tasks", "projects", "sections", "labels", "user")

    @staticmethod
    def get(client: Client, name: str, **query: Any) -> httpx.Response:
        return client.http.get(f"/api/v1/{name}", params=query, headers=client.auth)

    def pages(self, client: Client, name: str, **query: Any) -> list[list[Any]]:
        pages, cursor = [], ""
        while cursor is not None:
            answer = self.get(client, name, **query, **({"cursor": cursor} if cursor else {}))
            pages.append(answer.raise_for_status().json()["results"])
            cursor = answer.json()["next_cursor"]
        return pages

    def test_pages_have_all_active_objects(self, connect: Connect) -> None:
        """Following next_cursor gets every active object once, in the order of a full answer."""
        items = [item(str(n), checked=n % 4 == 0) for n in range(10)]
        client = connect(document(*items))
        pages = self.pages(client, "tasks", limit=3)
        assert [len(page) for page in pages] == [3, 3, 1]
        assert [result for page in pages for result in page] == client.sync()["items"]

    @pytest.mark.parametrize(
        ("query", "sizes"), [({}, [50, 50, 20]), ({"limit": 200}, [120]), ({"limit": 60}, [60, 60])]
    )
    def test_sizes_of_pages(self, connect: Connect, query: dict[str, int], sizes: list[int]) -> None:
        """A page has 50 objects, or up to 200 on request; no empty page follows a full last page."""
        client = connect(document(*(item(str(n)) for n in range(120))))
        assert [len(page) for page in self.pages(client, "tasks", **query)] == sizes

    def test_every_kind_and_the_user(self, connect: Connect) -> None:
        """Projects, sections and labels are paged too; the user is returned as an object."""
        kinds = {"sections": [{"id": "s1", "name": "S"}], "labels": [{"id": "l1", "name": "L", "is_deleted": True}]}
        client = connect(document(**kinds))
        assert self.pages(client, "projects") == [[project("p1")]]
        assert self.pages(client, "sections") == [kinds["sections"]]
        assert self.pages(client, "labels") == [[]]
        assert self.get(client, "user").json() == document()["user"]

    def test_labels_have_an_order(self, connect: Connect) -> None:
        """The field item_order of a label in /sync is called order in a read."""
        client = connect(document(labels=[{"id": "l1", "name": "L", "item_order": 3}]))
        assert self.pages(client, "labels") == [[{"id": "l1", "name": "L", "order": 3}]]

    @pytest.mark.parametrize(
        ("argument", "value"),
        [("limit", "0"), ("limit", "201"), ("limit", "x"), ("cursor", "x"), ("cursor", "é"), ("project_id", "p1")],
    )
    def test_bad_arguments_are_refused(self, connect: Connect, argument: str, value: str) -> None:
        """A limit outside 1 to 200, an invalid cursor, and a filter, which is not supported, get a 400."""
        response = self.get(connect(), "tasks", **{argument: value})
        assert (response.status_code, response.json()["error_tag"]) == (400, "INVALID_ARGUMENT_VALUE")
        assert response.json()["error_extra"]["argument"] == argument

    def test_a_cursor_belongs_to_one_resource(self, connect: Connect) -> None:
        """A cursor of tasks is refused for projects."""
        client = connect()
        cursor = self.get(client, "tasks", limit=1).json()["next_cursor"]
        assert ids(self.get(client, "tasks", cursor=cursor).json()["results"]) == {"2"}
        assert self.get(client, "projects", cursor=cursor).status_code == 400

    @pytest.mark.parametrize("name", PATHS)
    def test_only_valid_tokens_may_read(self, todoist: LocalTodoist, connect: Connect, name: str) -> None:
        """An unknown token gets a 401, a revoked token a 403, and any method but GET a 405."""
        client = connect()
        assert client.http.get(f"/api/v1/{name}", headers={"Authorization": "Bearer x"}).status_code == 401
        assert client.http.post(f"/api/v1/{name}", headers=client.auth).status_code == 405
        todoist.revoke(client.user)
        assert self.get(client, name).status_code == 403

    def test_reads_are_logged_and_limited(self, todoist: LocalTodoist, connect: Connect) -> None:
        """Each page and each refusal is logged; pages count against the limit of incremental calls."""
        client = connect()
        assert [self.get(client, name).status_code for name in [*self.PATHS, *self.PATHS]] == [200] * 8 + [429] * 2
        calls = [call for call in todoist.calls if call.user == client.user]
        assert [call.path for call in calls] == [f"/api/v1/{name}" for name in [*self.PATHS, *self.PATHS]]
        assert not [call for call in calls if call.full]
        assert client.call().status_code == 200


class TestSyncTokens:
    @pytest.mark.parametrize("reason", ["forgotten", "foreign", "empty"])
    def test_unknown_sync_token_gets_a_full_answer(
        self, todoist: LocalTodoist, connect: Connect, reason: str
    ) -> None:
        """By default a forgotten, foreign or empty sync token gets a full answer."""
        client, other = connect(), connect()
        answer = client.sync(unknown_token(todoist, client, other, reason))
        assert answer["full_sync"] is True
        assert ids(answer["items"]) == {"1", "2"}

    @pytest.mark.parametrize("reason", ["forgotten", "foreign", "empty"])
    def test_unknown_sync_token_can_be_refused(self, reason: str) -> None:
        """With "refuse", the same sync tokens get a 400, and `*` a full answer."""
        todoist = LocalTodoist(unknown_sync_token="refuse")
        with running_todoist(todoist) as base_url, httpx.Client(base_url=base_url) as http:
            client, other = Client(http, "a", "token-a"), Client(http, "b", "token-b")
            for each in (client, other):
                todoist.load(each.token, document(item("1")), user=each.user)
            assert client.call(unknown_token(todoist, client, other, reason)).status_code == 400
            assert client.call("*").status_code == 200

    def test_tokens_are_the_same_for_the_same_seed(self) -> None:
        """Stand-ins with the same seed issue the same tokens, with a different seed different ones."""

        def token(seed: int) -> Any:
            todoist = LocalTodoist(seed=seed)
            todoist.load("t", document(), user="a")
            return todoist.document("a")["sync_token"]

        assert token(1) == token(1) != token(2)


def unknown_token(todoist: LocalTodoist, client: Client, other: Client, reason: str) -> str:
    forgotten: str = client.sync()["sync_token"]
    foreign: str = other.sync()["sync_token"]
    if reason == "forgotten":
        todoist.forget_sync_tokens(client.user)
    return {"forgotten": forgotten, "foreign": foreign, "empty": ""}[reason]


class TestLimits:
    def test_full_calls_are_limited(self, connect: Connect, clock: Clock) -> None:
        """Beyond the limit of full calls the response is 429, with the seconds to wait in header and body."""
        client = connect()
        client.sync()
        clock.forward(seconds=60)
        for _ in range(4):
            client.sync()
        response = client.call()
        assert response.status_code == 429
        assert response.headers["Retry-After"] == "840"
        assert response.json()["error_tag"] == "LIMITS_REACHED"
        assert response.json()["error_extra"] == {"retry_after": 840}

    def test_window_slides(self, connect: Connect, clock: Clock) -> None:
        """After the named seconds, as many calls are allowed as have left the window; refusals do not count."""
        client = connect()
        client.sync()
        clock.forward(seconds=60)
        for _ in range(4):
            client.sync()
        clock.forward(seconds=float(client.call().headers["Retry-After"]))
        assert [client.call().status_code for _ in range(2)] == [200, 429]

    def test_incremental_calls_have_a_separate_limit(self, connect: Connect) -> None:
        """Limits apply per user, and separately to full and incremental calls."""
        client, other = connect(), connect()
        token = client.sync()["sync_token"]
        assert [client.call(token).status_code for _ in range(9)] == [200] * 8 + [429]
        assert client.call().status_code == other.call().status_code == 200

    def test_limit_of_zero(self) -> None:
        """With a limit of 0 every call has to wait a whole window."""
        todoist = LocalTodoist(full_limit=0)
        todoist.load("t", document(), user="a")
        reply = todoist.sync("/api/v1/sync", "t", {"sync_token": "*", "resource_types": "[]"})
        assert (reply.status, dict(reply.headers)) == (429, {"Retry-After": "900"})


Failing = Callable[[Fault], Client]


@pytest.fixture
def failing(todoist: LocalTodoist, connect: Connect) -> Failing:
    def failing(fault: Fault) -> Client:
        client = connect()
        todoist.fail(client.user, fault)
        return client

    return failing


class TestFaults:
    def test_queued_faults_come_one_per_call(self, todoist: LocalTodoist, connect: Connect) -> None:
        """Queued faults apply to the next calls of their user in order, one each."""
        client, other = connect(), connect()
        todoist.fail(client.user, Fault.server_error(502), Fault.invalid_token())
        assert other.call().status_code == 200
        assert [client.call().status_code for _ in range(3)] == [502, 403, 200]

    @pytest.mark.parametrize("status", [408, 425, 500, 502, 503, 504, 520, 521, 522, 523, 524])
    def test_server_error(self, failing: Failing, status: int) -> None:
        """A passing error has an HTML page with its status, also one of Cloudflare's own."""
        response = failing(Fault.server_error(status)).call()
        assert response.status_code == status
        assert f"<title>{status} " in response.text
        assert response.headers["Content-Type"].startswith("text/html")
        assert response.text.startswith("<!DOCTYPE html>")

    def test_invalid_token_once(self, failing: Failing) -> None:
        """A valid token is refused once with 403 AUTH_INVALID_TOKEN and then accepted."""
        client = failing(Fault.invalid_token())
        response = client.call()
        assert (response.status_code, response.json()["error_tag"]) == (403, "AUTH_INVALID_TOKEN")
        assert client.call().status_code == 200

    def test_outage_of_tokens(self) -> None:
        """At the rate 1, every user's valid token is refused with 401 or 403, until the outage ends."""
        todoist = LocalTodoist()
        arguments = {"sync_token": "*", "resource_types": "[]"}
        for user in ("a", "b"):
            todoist.load(user, document(), user=user)
        for status in (401, 403):
            todoist.fail_at_rate(1, fault_from({"kind": "invalid_token", "status": status}))
            assert {todoist.sync("/api/v1/sync", user, arguments).status for user in ("a", "b")} == {status}
        todoist.fail_at_rate(0)
        assert {todoist.sync("/api/v1/sync", user, arguments).status for user in ("a", "b")} == {200}

    def test_rate_limited(self, failing: Failing) -> None:
        """A 429 has the seconds to wait in header and body, and the two may be different."""
        response = failing(Fault.rate_limited(5, header_after=7)).call()
        assert response.status_code == 429
        assert response.headers["Retry-After"] == "7"
        assert response.json()["error_extra"]["retry_after"] == 5

    def test_rate_limited_without_header(self, failing: Failing) -> None:
        """A 429 may have the seconds to wait only in the body."""
        response = failing(Fault.rate_limited(5, header="none")).call()
        assert "Retry-After" not in response.headers
        assert response.json()["error_extra"]["retry_after"] == 5

    def test_rate_limited_with_a_date(self, failing: Failing, clock: Clock) -> None:
        """Retry-After may be an HTTP date by the stand-in's clock."""
        response = failing(Fault.rate_limited(30, header="date")).call()
        assert parsedate_to_datetime(response.headers["Retry-After"]) == clock() + timedelta(seconds=30)

    def test_rate_limited_in_plain_text(self, failing: Failing) -> None:
        """The body of a 429 may be plain text."""
        response = failing(Fault.rate_limited(5, body="text")).call()
        assert (response.status_code, response.headers["Retry-After"]) == (429, "5")
        assert response.headers["Content-Type"].startswith("text/plain")
        with pytest.raises(json.JSONDecodeError):
            response.json()

    def test_slow_answer(self, failing: Failing) -> None:
        """A slow answer is correct, but late."""
        client = failing(Fault.slow(delay_s=0.2))
        began = monotonic()
        assert ids(client.sync()["items"]) == {"1", "2"}
        assert 0.2 <= monotonic() - began < 1

    def test_slow_answer_runs_into_the_read_timeout(self, failing: Failing) -> None:
        """A client with a shorter time-out than the delay gets no answer, and its next call succeeds."""
        client = failing(Fault.slow(delay_s=0.3))
        with pytest.raises(httpx.ReadTimeout):
            client.call(timeout=0.1)
        assert client.call().status_code == 200

    def test_slow_body(self, failing: Failing) -> None:
        """The headers and half of the body are sent at once, the rest after the delay."""
        client = failing(Fault.slow(body_delay_s=0.2))
        began = monotonic()
        form = {"sync_token": "*", "resource_types": '["items"]'}
        with client.http.stream("POST", "/api/v1/sync", data=form, headers=client.auth) as response:
            parts = [(monotonic() - began, part) for part in response.iter_raw()]
        assert parts[0][0] < 0.2 <= parts[-1][0]
        assert ids(json.loads(b"".join(part for _, part in parts))["items"]) == {"1", "2"}

    def test_any_fault_may_be_slow(self, failing: Failing) -> None:
        """Every other fault can be delayed."""
        client = failing(replace(Fault.server_error(503), delay_s=0.1))
        began = monotonic()
        assert client.call().status_code == 503
        assert monotonic() - began >= 0.1

    def test_disconnect_before_the_headers(self, failing: Failing) -> None:
        """The connection is closed without an answer."""
        client = failing(Fault.disconnect())
        with pytest.raises(httpx.RemoteProtocolError, match="without sending a response"):
            client.call()
        assert client.call().status_code == 200

    def test_disconnect_in_the_body(self, failing: Failing) -> None:
        """The connection is closed after half of the body."""
        client = failing(Fault.disconnect(in_body=True))
        with pytest.raises(httpx.RemoteProtocolError, match="without sending complete message body"):
            client.call()
        assert client.call().status_code == 200

    def test_truncated_json(self, failing: Failing) -> None:
        """A complete HTTP response may have only half of the JSON."""
        response = failing(Fault.truncated_json()).call()
        assert response.status_code == 200
        assert response.text.startswith('{"full_sync": true')
        with pytest.raises(json.JSONDecodeError):
            response.json()

    def test_deep_json(self, failing: Failing) -> None:
        """A complete answer may be nested deeper than a JSON parser can follow."""
        response = failing(Fault.deep_json(2_000)).call()
        assert response.text.count("[") > 2_000
        with pytest.raises(RecursionError):
            response.json()
        assert json.loads(failing(Fault.deep_json(50)).call().text)["labels"]

    def test_html_page(self, failing: Failing) -> None:
        """A 200 may have an HTML page."""
        response = failing(Fault.html_page()).call()
        assert response.status_code == 200
        assert response.headers["Content-Type"].startswith("text/html")

    def test_empty_object(self, failing: Failing) -> None:
        """The answer may be {}."""
        assert failing(Fault.empty_object()).sync() == {}

    def test_null_items(self, failing: Failing) -> None:
        """The list of items may be null while the rest is correct."""
        answer = failing(Fault.null_items()).sync()
        assert answer["items"] is None
        assert ids(answer["projects"]) == {"p1"}

    def test_item_without_id(self, failing: Failing) -> None:
        """One item may have no id, once: it has one in the next full answer."""
        client = failing(Fault.item_without_id())
        assert ["id" in each for each in client.sync()["items"]] == [False, True]
        assert ids(client.sync()["items"]) == {"1", "2"}

    def test_unreadable_item(self, failing: Failing) -> None:
        """One item may have no content, once: it has one in the next full answer."""
        client = failing(Fault.unreadable_item())
        assert ["content" in each for each in client.sync()["items"]] == [False, True]
        assert [each["content"] for each in client.sync()["items"]] == ["Task 1", "Task 2"]

    def test_unreadable_item_that_stays(self, todoist: LocalTodoist, connect: Connect) -> None:
        """An item that was added without content is served so in each delta and each full answer."""
        client = connect()
        token = client.sync()["sync_token"]
        todoist.advance(client.user, {"items": [item("9", content=None)]})
        for answer in (client.sync(token), client.sync(), client.sync()):
            assert answer["items"][-1] == item("9", content=None)

    def test_float_numbers(self, todoist: LocalTodoist, connect: Connect) -> None:
        """All numbers of items may have a decimal point, also those of a sample in an empty delta."""
        client = connect(document(item("1", priority=4, duration={"amount": 30, "unit": "minute"})))
        todoist.fail(client.user, Fault.float_numbers(), Fault.float_numbers())
        response = client.call()
        assert '"priority": 4.0' in response.text
        assert '"amount": 30.0' in response.text
        assert response.json()["items"][0]["checked"] is False
        assert '"amount": 30.0' in client.call(response.json()["sync_token"]).text

    @pytest.mark.parametrize("priority", [0, 5])
    def test_wrong_priority(self, failing: Failing, priority: int) -> None:
        """One item may have a priority outside 1 to 4."""
        answer = failing(Fault.wrong_priority(priority)).sync()
        assert [each["priority"] for each in answer["items"]] == [priority, 1]

    def test_same_item_twice(self, failing: Failing) -> None:
        """One item may occur twice."""
        answer = failing(Fault.same_item_twice()).sync()
        assert [each["id"] for each in answer["items"]] == ["1", "1", "2"]

    def test_damaged_item_in_an_empty_delta(self, todoist: LocalTodoist, connect: Connect) -> None:
        """A fault of an item adds a sample item to an empty delta."""
        client = connect()
        token = client.sync()["sync_token"]
        todoist.fail(client.user, Fault.wrong_priority(5))
        assert [each["priority"] for each in client.sync(token)["items"]] == [5]

    def test_empty_sync_token(self, failing: Failing) -> None:
        """The new sync token may be empty."""
        assert failing(Fault.empty_sync_token()).sync()["sync_token"] == ""

    def test_unexpected_full_sync(self, todoist: LocalTodoist, connect: Connect) -> None:
        """A valid sync token may get a full answer."""
        client = connect()
        token = client.sync()["sync_token"]
        todoist.fail(client.user, Fault.unexpected_full_sync())
        answer = client.sync(token)
        assert answer["full_sync"] is True
        assert ids(answer["items"]) == {"1", "2"}
        assert client.sync(token)["full_sync"] is False

    def test_no_full_sync(self, failing: Failing) -> None:
        """The answer may not say whether it is a full one."""
        answer = failing(Fault.no_full_sync()).sync()
        assert "full_sync" not in answer
        assert ids(answer["items"]) == {"1", "2"}

    def test_every_kind_has_its_constructor(self) -> None:
        """Every kind of fault can be parsed from JSON with the name of its constructor."""
        assert {fault_from({"kind": kind.value}).kind for kind in FaultKind} == set(FaultKind)
        assert fault_from({"kind": "rate_limited", "retry_after": 3}) == Fault.rate_limited(3)

    def test_faults_at_a_rate_depend_on_seed_and_user_only(self) -> None:
        """With the same seed the same calls of a user fail, in any order of users, at about the given rate."""

        def statuses(seed: int, others: int) -> list[int]:
            todoist = LocalTodoist(seed=seed, full_limit=1000)
            for user in ("a", "b"):
                todoist.load(user, document(), user=user)
            todoist.fail_at_rate(0.3, Fault.server_error(500), Fault.server_error(503))
            for user in ["b"] * others + ["a"] * 200:
                todoist.sync("/api/v1/sync", user, {"sync_token": "*", "resource_types": "[]"})
            return [call.status for call in todoist.calls if call.user == "a"]

        assert statuses(1, others=0) == statuses(1, others=7) != statuses(2, others=0)
        assert set(statuses(1, others=0)) == {200, 500, 503}
        assert 30 < sum(status != 200 for status in statuses(1, others=0)) < 90

    def test_a_rate_needs_a_fault(self) -> None:
        """A rate without faults is refused, except for rate 0, which ends the faults."""
        todoist = LocalTodoist()
        with pytest.raises(ValueError, match="name at least one"):
            todoist.fail_at_rate(0.5)
        todoist.fail_at_rate(0)


class TestDelays:
    def test_answers_are_delayed(self) -> None:
        """Every answer is delayed within the given range, without blocking others; /_control/ is not delayed."""
        todoist = LocalTodoist(answer_seconds=(0.2, 0.4))
        todoist.load("t", document(), user="a")
        took: list[float] = []

        def call(base_url: str, number: int) -> None:
            began = monotonic()
            with httpx.Client(base_url=base_url) as http:
                client = Client(http, "a", "t" if number % 2 else "nobody's")
                client.call() if number % 3 else client.http.get("/api/v1/tasks", headers=client.auth)
            took.append(monotonic() - began)

        with running_todoist(todoist) as base_url:
            began = monotonic()
            httpx.get(f"{base_url}/_control/calls")
            assert monotonic() - began < 0.2
            threads = [threading.Thread(target=call, args=(base_url, number)) for number in range(12)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert monotonic() - began < 2
        assert len(took) == 12
        assert min(took) >= 0.2

    def test_delays_depend_on_seed_and_user_only(self) -> None:
        """With the same seed a user's delays are the same in any order of users; delays of faults are added."""

        def delays(seed: int, others: int) -> list[float]:
            todoist = LocalTodoist(seed=seed, answer_seconds=(0.15, 0.4))
            for user in ("a", "b"):
                todoist.load(user, document(), user=user)
            replies = [todoist.read("/api/v1/user", user, "user", {}) for user in ["b"] * others + ["a"] * 50]
            todoist.fail("a", Fault.slow(delay_s=60))
            replies.append(todoist.sync("/api/v1/sync", "a", {"sync_token": "*", "resource_types": "[]"}))
            return [reply.delay_s for reply in replies[others:]]

        assert delays(1, others=0) == delays(1, others=7) != delays(2, others=0)
        assert all(0.15 <= delay <= 0.4 for delay in delays(1, others=0)[:-1])
        assert 60.15 <= delays(1, others=0)[-1] <= 60.4


class TestCalls:
    def test_every_call_is_logged(self, todoist: LocalTodoist, connect: Connect) -> None:
        """The log has the time, user, path and status of every call, except for /_control/."""
        client, idle = connect(), connect()
        token = client.sync()["sync_token"]
        todoist.fail(client.user, Fault.disconnect())
        with pytest.raises(httpx.TransportError):
            client.call(token)
        client.http.get("/_control/calls")
        at = todoist.now()
        assert [call for call in todoist.calls if call.user == client.user] == [
            TodoistCall(at, client.user, "/api/v1/sync", True, 200),
            TodoistCall(at, client.user, "/api/v1/sync", False, 0),
        ]
        assert not [call for call in todoist.calls if call.user == idle.user]

    def test_refused_calls_are_logged(self, todoist: LocalTodoist, connect: Connect) -> None:
        """A call with a revoked token is logged for its user, one with an unknown token without user."""
        client = connect()
        todoist.revoke(client.user)
        client.call()
        client.token = "nobody's"
        client.call()
        assert [(call.user, call.status) for call in todoist.calls[-2:]] == [(client.user, 403), (None, 401)]

    def test_unknown_users_are_refused(self) -> None:
        """The error for a user that was not loaded names the loaded users."""
        todoist = LocalTodoist()
        todoist.load("t", document(), user="ada")
        with pytest.raises(LookupError, match="no user 'bob' is loaded, only ada"):
            todoist.advance("bob", {})


class TestTokens:
    @staticmethod
    def exchange(http: httpx.Client, **form: str) -> httpx.Response:
        return http.post("/oauth/access_token", data={"client_id": "app", "client_secret": "s", **form})

    def refresh(self, http: httpx.Client, token: str) -> httpx.Response:
        return self.exchange(http, grant_type="refresh_token", refresh_token=token)

    def test_code_is_exchanged_once(self, todoist: LocalTodoist, connect: Connect) -> None:
        """A code is exchanged only once, for an access token that is valid for /sync."""
        client = connect()
        code = todoist.authorize(client.user)
        answer = self.exchange(client.http, grant_type="authorization_code", code=code).json()
        assert (answer["token_type"], answer["expires_in"]) == ("Bearer", 3600)
        client.token = answer["access_token"]
        assert client.call().status_code == 200
        again = self.exchange(client.http, grant_type="authorization_code", code=code)
        assert (again.status_code, again.json()) == (400, {"error": "bad_authorization_code"})

    def test_refresh_tokens_rotate(self, connect: Connect) -> None:
        """Each refresh issues a new access token and a new refresh token, and both are valid."""
        client = connect(refresh_token="first-rotating")
        first = self.refresh(client.http, "first-rotating").json()
        second = self.refresh(client.http, first["refresh_token"]).json()
        assert len({"first-rotating", first["refresh_token"], second["refresh_token"]}) == 3
        client.token = second["access_token"]
        assert client.call().status_code == 200

    def test_used_refresh_token_is_refused(self, connect: Connect) -> None:
        """A used refresh token gets a 400 invalid_grant, and revokes all grants of the user."""
        client = connect(refresh_token="first-used")
        second = self.refresh(client.http, "first-used").json()
        again = self.refresh(client.http, "first-used")
        assert (again.status_code, again.json()) == (400, {"error": "invalid_grant"})
        assert self.refresh(client.http, second["refresh_token"]).json() == {"error": "invalid_grant"}
        assert client.call().status_code == 403

    def test_used_refresh_token_in_the_grace_time(self, clock: Clock) -> None:
        """Within the grace time, a repeated refresh gets the same access token and no refresh token."""
        todoist = LocalTodoist(clock=clock, refresh_grace=timedelta(seconds=60))
        todoist.load("t", document(), user="a", refresh_token="first")
        with running_todoist(todoist) as base_url, httpx.Client(base_url=base_url) as http:
            first = self.refresh(http, "first").json()
            again = self.refresh(http, "first").json()
            clock.forward(seconds=60)
            late = self.refresh(http, "first")
        assert again["access_token"] == first["access_token"]
        assert "refresh_token" not in again
        assert late.status_code == 400

    def test_issued_access_tokens_expire_after_an_hour(self, connect: Connect, clock: Clock) -> None:
        """An issued access token gets a 401 after an hour; its refresh token stays valid."""
        client = connect(refresh_token="first-hour")
        answer = self.refresh(client.http, "first-hour").json()
        client.token = answer["access_token"]
        clock.forward(seconds=answer["expires_in"])
        assert client.call().status_code == 401
        client.token = self.refresh(client.http, answer["refresh_token"]).json()["access_token"]
        assert client.call().status_code == 200

    def test_revoked_user_cannot_refresh(self, todoist: LocalTodoist, connect: Connect) -> None:
        """A revocation also ends refresh tokens and codes; a new authorization is valid."""
        client = connect(refresh_token="first-revoked")
        code = todoist.authorize(client.user)
        todoist.revoke(client.user)
        assert self.refresh(client.http, "first-revoked").json() == {"error": "invalid_grant"}
        assert self.exchange(client.http, code=code).status_code == 400
        answer = self.exchange(client.http, code=todoist.authorize(client.user)).json()
        client.token = answer["access_token"]
        assert client.call().status_code == 200

    @pytest.mark.parametrize(
        ("form", "error"),
        [
            ({"grant_type": "refresh_token", "refresh_token": "nobody's"}, "invalid_grant"),
            ({"grant_type": "refresh_token"}, "invalid_grant"),
            ({"grant_type": "password"}, "unsupported_grant_type"),
            ({"client_id": ""}, "invalid_client"),
        ],
    )
    def test_bad_requests_for_tokens(self, http: httpx.Client, form: dict[str, str], error: str) -> None:
        """An invalid token request gets a 400 with OAuth's error code."""
        response = self.exchange(http, **form)
        assert (response.status_code, response.json()) == (400, {"error": error})

    def test_exchanges_are_logged(self, todoist: LocalTodoist, connect: Connect) -> None:
        """Token requests are logged with their path."""
        client = connect(refresh_token="first-logged")
        self.refresh(client.http, "first-logged")
        assert todoist.calls[-1] == TodoistCall(todoist.now(), client.user, "/oauth/access_token", False, 200)


class TestControl:
    @pytest.fixture
    def http(self) -> Iterator[httpx.Client]:
        todoist = LocalTodoist(clock=lambda: NIGHT)
        with running_todoist(todoist) as base_url, httpx.Client(base_url=base_url) as http:
            yield http

    @staticmethod
    def post(http: httpx.Client, name: str, **body: Any) -> Any:
        return http.post(f"/_control/{name}", json=body).raise_for_status().json()

    def test_everything_can_be_controlled_over_http(self, http: httpx.Client) -> None:
        """Users, deltas, faults, revocation, codes and the clock can be set over HTTP, and the calls can be read."""
        client = Client(http, "ada", "token")
        self.post(http, "load", user="ada", token="token", document=document(item("1")))
        token = client.sync()["sync_token"]
        self.post(http, "advance", user="ada", delta={"items": [item("2")]})
        assert ids(client.sync(token)["items"]) == {"2"}
        self.post(http, "faults", user="ada", faults=[{"kind": "server_error", "status": 502}])
        assert client.call().status_code == 502
        self.post(http, "faults", rate=1, faults=[{"kind": "empty_object"}])
        assert client.sync() == {}
        self.post(http, "faults", rate=0, faults=[])
        self.post(http, "forget_sync_tokens", user="ada")
        assert client.sync(token)["full_sync"] is True
        code = self.post(http, "authorize", user="ada")["code"]
        assert http.post("/oauth/access_token", data={"client_id": "app", "code": code}).status_code == 200
        assert self.post(http, "clock", at="2026-11-25T02:00:00+00:00") == {"at": "2026-11-25T02:00:00+00:00"}
        assert client.sync()["full_sync_date_utc"] == "2026-11-25T02:00:00Z"
        self.post(http, "revoke", user="ada")
        assert client.call().status_code == 403
        calls = http.get("/_control/calls").json()
        assert [call["status"] for call in calls] == [200, 200, 502, 200, 200, 200, 200, 403]
        assert calls[-1] == {
            "at": "2026-11-25T02:00:00+00:00",
            "user": "ada",
            "path": "/api/v1/sync",
            "full": True,
            "status": 403,
        }

    def test_calls_can_be_counted(self, http: httpx.Client) -> None:
        """count=1 returns the number of calls, in total and by user, without the calls."""
        for user in ("ada", "bob"):
            self.post(http, "load", user=user, token=user, document=document())
        for token in ("ada", "bob", "ada", "nobody's"):
            Client(http, token, token).call()
        counted = http.get("/_control/calls", params={"count": 1}).json()
        assert counted == {"count": 4, "by_user": {"ada": 2, "bob": 1}}
        assert len(http.get("/_control/calls").json()) == 4

    def test_setting_the_clock_resets_limits(self, http: httpx.Client) -> None:
        """Setting the clock forward empties the windows of the limits, as real time does."""
        self.post(http, "load", user="ada", token="t", document=document())
        client = Client(http, "ada", "t")
        for quarter in range(4):
            self.post(http, "clock", at=(NIGHT + timedelta(minutes=15 * quarter)).isoformat())
            assert {client.call(types=[]).status_code for _ in range(100)} == {200}
            assert client.call(types=[]).status_code == 429

    @pytest.mark.parametrize(
        ("name", "body"),
        [
            ("advance", {"user": "nobody", "delta": {}}),
            ("load", {"user": "ada"}),
            ("faults", {"user": "ada", "faults": [{"kind": "earthquake"}]}),
            ("faults", {"faults": []}),
            ("faults", {"rate": 0.5, "faults": []}),
            ("clock", {"at": "tomorrow"}),
        ],
    )
    def test_invalid_control_calls(self, http: httpx.Client, name: str, body: dict[str, Any]) -> None:
        """An invalid control call gets a 400 with the error."""
        response = http.post(f"/_control/{name}", json=body)
        assert response.status_code == 400
        assert response.json()["error"]


class TestRunning:
    def test_everything_stops_with_the_block(self) -> None:
        """After the block the thread has ended and the port is free, even with a slow answer in progress."""
        threads = threading.active_count()
        todoist = LocalTodoist()
        todoist.load("t", document(), user="a")
        todoist.fail("a", Fault.slow(delay_s=60))
        began = monotonic()
        with running_todoist(todoist) as base_url, httpx.Client(base_url=base_url) as http:
            with pytest.raises(httpx.ReadTimeout):
                Client(http, "a", "t").call(timeout=0.1)
            port = int(base_url.rpartition(":")[2])
        assert base_url == f"http://127.0.0.1:{port}"
        assert threading.active_count() == threads
        assert monotonic() - began < 1.2
        with running_todoist(todoist, port) as again:
            assert httpx.get(f"{again}/_control/calls").status_code == 200

    def test_an_exception_stops_the_server(self) -> None:
        """The server stops if the block raises an exception."""
        threads = threading.active_count()
        with pytest.raises(RuntimeError, match="inside"), running_todoist(LocalTodoist()):
            raise RuntimeError("inside")
        assert threading.active_count() == threads

    def test_concurrent_users(self) -> None:
        """Concurrent calls of many users get each user's own objects."""
        todoist = LocalTodoist()
        for number in range(20):
            todoist.load(f"token-{number}", document(item(str(number))), user=str(number))
        items_by_user: dict[int, set[str]] = {}

        def call(base_url: str, number: int) -> None:
            with httpx.Client(base_url=base_url) as http:
                items_by_user[number] = ids(Client(http, str(number), f"token-{number}").sync()["items"])

        with running_todoist(todoist) as base_url:
            threads = [threading.Thread(target=call, args=(base_url, number)) for number in range(20)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert items_by_user == {number: {str(number)} for number in range(20)}

    def test_separate_process(self) -> None:
        """The benchmarks' stand-in accepts delays and limits, counts calls and sets the clock."""
        limits = {"full_limit": 2, "incremental_limit": 3}
        with (
            todoist_process(answer_seconds=(0.1, 0.2), **limits) as todoist,
            httpx.Client(base_url=todoist.url) as http,
        ):
            todoist.load("ada", "t", document())
            client, began = Client(http, "ada", "t"), monotonic()
            assert [client.call().status_code for _ in range(3)] == [200, 200, 429]
            assert monotonic() - began >= 0.3
            assert (todoist.n_calls(), todoist.n_calls("ada"), todoist.n_calls("bob")) == (3, 3, 0)
            todoist.set_clock(datetime.now(UTC) + timedelta(minutes=16))
            assert client.call().status_code == 200
            assert todoist.cpu_seconds() > 0
