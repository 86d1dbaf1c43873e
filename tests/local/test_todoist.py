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

from benchmarks.todoist import standing_in
from local.todoist import Call, Fault, FaultKind, LocalTodoist, running
from local.todoist.faults import fault_from
from local.todoist.requests import RESOURCE_TYPES

TYPES = ["items", "projects", "sections", "labels", "user"]
NIGHT = datetime(2026, 11, 24, 2, 0, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.at = NIGHT

    def __call__(self) -> datetime:
        return self.at

    def forward(self, **by: float) -> None:
        self.at += timedelta(**by)


class Client:
    """A user's view of a running stand-in."""

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


def document(*items: Any, **kinds: Any) -> dict[str, Any]:
    user = {"id": "1", "full_name": "Ada", "tz_info": {"timezone": "Europe/Berlin"}}
    plain = {"projects": [project("p1")], "sections": [], "labels": [], "user": user}
    return {"full_sync": True, "sync_token": "theirs", "items": list(items), **plain, **kinds}


def ids(values: list[Any]) -> set[str]:
    return {value["id"] for value in values}


@pytest.fixture(scope="module")
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="module")
def todoist(clock: Clock) -> LocalTodoist:
    return LocalTodoist(clock=clock, full_limit=5, incremental_limit=8)


@pytest.fixture(scope="module")
def http(todoist: LocalTodoist) -> Iterator[httpx.Client]:
    with running(todoist) as base_url, httpx.Client(base_url=base_url) as client:
        yield client


@pytest.fixture(scope="module")
def connect(todoist: LocalTodoist, http: httpx.Client) -> Connect:
    """A new user per call, since all that goes wrong or runs out does so per user."""
    numbers = count(1)

    def connect(held: Mapping[str, Any] | None = None, **kwargs: Any) -> Client:
        user = f"user-{next(numbers)}"
        todoist.load(f"token-{user}", held or document(item("1"), item("2")), user=user, **kwargs)
        return Client(http, user, f"token-{user}")

    return connect


class TestRequests:
    def test_full_answer_has_the_shape_of_the_api(self, connect: Connect) -> None:
        """`*` gives every asked key, full_sync, the time in UTC and a sync token of the server's own."""
        answer = connect().sync()
        assert ids(answer["items"]) == {"1", "2"}
        assert answer["user"]["tz_info"] == {"timezone": "Europe/Berlin"}
        assert answer["full_sync"] is True
        assert answer["full_sync_date_utc"] == "2026-11-24T02:00:00Z"
        assert len(answer["sync_token"]) == 60
        assert set(answer) == {*TYPES, "full_sync", "full_sync_date_utc", "sync_token", "temp_id_mapping"}

    def test_json_body_is_as_good_as_a_form(self, connect: Connect) -> None:
        """The same call as a JSON object is answered the same."""
        client = connect()
        body = {"sync_token": "*", "resource_types": ["items"]}
        answer = client.http.post("/api/v1/sync", json=body, headers=client.auth).json()
        assert ids(answer["items"]) == {"1", "2"}

    @pytest.mark.parametrize("body", ["{", "[]", '{"sync_token": 1, "resource_types": []}'])
    def test_bad_json_is_refused(self, connect: Connect, body: str) -> None:
        """A JSON body that is no object, or whose sync_token is no string, is a 400."""
        client = connect()
        headers = {**client.auth, "Content-Type": "application/json"}
        assert client.http.post("/api/v1/sync", content=body, headers=headers).status_code == 400

    def test_get_is_not_allowed(self, http: httpx.Client) -> None:
        """/sync takes POST only: GET gets 405."""
        assert http.get("/api/v1/sync").status_code == 405

    def test_unknown_resource_type_is_refused(self, connect: Connect) -> None:
        """A resource type that Todoist does not have is a 400 INVALID_ARGUMENT_VALUE."""
        response = connect().call(types=["items", "tasks"])
        assert response.status_code == 400
        assert response.json()["error_tag"] == "INVALID_ARGUMENT_VALUE"
        assert response.json()["error_extra"]["argument"] == "resource_types"
        assert "tasks" in response.json()["error_extra"]["expected"]

    @pytest.mark.parametrize("types", ['["items"', "items", '{"items": 1}', "[1]"])
    def test_resource_types_must_be_a_list_of_names(self, connect: Connect, types: str) -> None:
        """resource_types that is no JSON list of strings is a 400."""
        client = connect()
        form = {"sync_token": "*", "resource_types": types}
        assert client.http.post("/api/v1/sync", data=form, headers=client.auth).status_code == 400

    @pytest.mark.parametrize("given", ["sync_token", "resource_types"])
    def test_both_arguments_are_required(self, connect: Connect, given: str) -> None:
        """A call without sync_token or without resource_types is a 400 ARGUMENT_MISSING."""
        client = connect()
        response = client.http.post("/api/v1/sync", data={given: "[]"}, headers=client.auth)
        assert (response.status_code, response.json()["error_tag"]) == (400, "ARGUMENT_MISSING")

    def test_other_types_of_todoist_are_empty_lists(self, connect: Connect) -> None:
        """Types that Todoist has and nobody loaded are answered with []."""
        answer = connect().sync(types=["notes", "filters", "workspaces"])
        assert [answer[kind] for kind in ("notes", "filters", "workspaces")] == [[], [], []]

    def test_all_types_but_one(self, connect: Connect) -> None:
        """`all` stands for every type and a leading - takes one away."""
        answer = connect().sync(types=["all", "-labels"])
        assert set(RESOURCE_TYPES) - set(answer) == {"labels"}

    @pytest.mark.parametrize("given", [None, "Bearer nobody", "Basic x"])
    def test_missing_or_unknown_token_is_unauthorized(self, http: httpx.Client, given: str | None) -> None:
        """Without a known bearer token the answer is 401 UNAUTHORIZED with a challenge."""
        headers = {"Authorization": given} if given else {}
        response = http.post("/api/v1/sync", data={"sync_token": "*"}, headers=headers)
        assert response.status_code == 401
        assert response.json()["error_tag"] == "UNAUTHORIZED"
        assert response.headers["WWW-Authenticate"].startswith("Bearer")

    def test_revoked_token_gets_the_recorded_403(self, todoist: LocalTodoist, connect: Connect) -> None:
        """After a revocation the answer is HTTP 403 with error_code 401 and a meaningless retry_after."""
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
        """REST v2 and Sync v9 answer 410 in plain text to any method."""
        client = connect()
        for method in ("GET", "POST"):
            response = client.http.request(method, path, headers=client.auth)
            assert response.status_code == 410
            assert response.headers["Content-Type"].startswith("text/plain")

    def test_answers_are_dated_by_the_injected_clock(self, connect: Connect) -> None:
        """The Date header follows the clock, so that a Retry-After date can be compared with it."""
        response = connect().call()
        assert parsedate_to_datetime(response.headers["Date"]) == NIGHT


class TestObjects:
    def test_full_answer_holds_active_objects_only(self, connect: Connect) -> None:
        """What is completed, deleted or archived stays out of a full answer."""
        held = document(
            item("1"),
            item("2", checked=True),
            item("3", is_deleted=True),
            projects=[project("p1"), project("p2", is_archived=True)],
        )
        answer = connect(held).sync()
        assert ids(answer["items"]) == {"1"}
        assert ids(answer["projects"]) == {"p1"}

    def test_archived_project_keeps_its_tasks(self, todoist: LocalTodoist, connect: Connect) -> None:
        """The tasks and sections of an archived project stay out of a full answer, and come back with the project."""
        held = document(
            item("1", project_id="p1"),
            item("2", project_id="p2"),
            projects=[project("p1"), project("p2", is_archived=True)],
            sections=[{"id": "s2", "project_id": "p2", "name": "Now"}],
        )
        client = connect(held)
        answer = client.sync()
        assert (ids(answer["items"]), ids(answer["sections"])) == ({"1"}, set())
        todoist.advance(client.user, {"projects": [project("p2", is_archived=False)]})
        assert ids(client.sync()["items"]) == {"1", "2"}

    def test_broken_objects_are_served_as_they_are(self, connect: Connect) -> None:
        """A loaded document comes back with its oddities: no id, wrong priority, null, twice."""
        odd = [{"content": "no id"}, item("1", priority=0), item("2", content=None), None, "text", item("1")]
        assert connect(document(*odd)).sync()["items"] == odd

    @pytest.mark.parametrize("items", [None, {}, "text"])
    def test_kinds_that_are_no_lists_load_as_empty(self, connect: Connect, items: Any) -> None:
        """A document whose items are null or no list loads, with no items."""
        assert connect({"items": items, "user": None}).sync()["items"] == []

    def test_the_document_is_copied(self, todoist: LocalTodoist, connect: Connect) -> None:
        """The stand-in holds a copy of what was loaded, and document() gives one."""
        held = document(item("1"))
        client = connect(held)
        held["items"][0]["content"] = todoist.document(client.user)["items"][0]["content"] = "Mine"
        assert client.sync()["items"] == [item("1")]

    def test_document_is_a_full_answer(self, todoist: LocalTodoist, connect: Connect) -> None:
        """document() has what a full call brings, and loads into another user unchanged."""
        client = connect()
        held = todoist.document(client.user)
        assert {**held, "sync_token": ""} == {**client.sync(), "sync_token": ""}
        assert connect(held).sync()["items"] == held["items"]

    def test_delta_holds_what_changed(self, todoist: LocalTodoist, connect: Connect) -> None:
        """A known token brings the objects with a later revision, whole, with every asked key but user."""
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

    def test_delta_brings_the_user_when_it_changed(self, todoist: LocalTodoist, connect: Connect) -> None:
        """`user` stands in a delta only after a change of the user."""
        client = connect()
        token = client.sync()["sync_token"]
        todoist.advance(client.user, {"user": document()["user"]})
        assert "user" not in client.sync(token)
        todoist.advance(client.user, {"user": {"id": "1", "tz_info": {"timezone": "Asia/Tokyo"}}})
        assert client.sync(token)["user"]["tz_info"] == {"timezone": "Asia/Tokyo"}

    def test_a_token_may_be_repeated(self, todoist: LocalTodoist, connect: Connect) -> None:
        """An old token stays valid and brings all that came after it, each time; a new one brings nothing."""
        client = connect()
        token = client.sync()["sync_token"]
        todoist.advance(client.user, {"items": [item("3")]})
        todoist.advance(client.user, {"items": [item("4")]})
        first, again = client.sync(token), client.sync(token)
        assert ids(first["items"]) == ids(again["items"]) == {"3", "4"}
        assert client.sync(first["sync_token"])["items"] == []

    @pytest.mark.parametrize("mark", ["checked", "is_deleted"])
    def test_tombstones_come_whole(self, todoist: LocalTodoist, connect: Connect, mark: str) -> None:
        """A completed or deleted item is whole in deltas, however little was said, and in no full answer."""
        client = connect()
        token = client.sync()["sync_token"]
        todoist.advance(client.user, {"items": [{"id": "1", mark: True}]})
        assert client.sync(token)["items"] == [item("1", **{mark: True})]
        assert ids(client.sync()["items"]) == {"2"}

    def test_recurring_task_moves_when_completed(self, todoist: LocalTodoist, connect: Connect) -> None:
        """Completing a recurring task is an item with a later date that stays active."""
        daily = {"date": "2026-11-24", "string": "every day", "lang": "en", "is_recurring": True}
        client = connect(document(item("1", due=daily)))
        todoist.advance(client.user, {"items": [item("1", due={**daily, "date": "2026-11-25"})]})
        assert client.sync()["items"][0]["due"]["date"] == "2026-11-25"

    def test_full_delta_replaces_everything(self, todoist: LocalTodoist, connect: Connect) -> None:
        """A delta that says full_sync is all there is, and older tokens get a full answer."""
        client = connect()
        token = client.sync()["sync_token"]
        todoist.advance(client.user, document(item("9")))
        answer = client.sync(token)
        assert answer["full_sync"] is True
        assert ids(answer["items"]) == {"9"}

    def test_broken_objects_of_a_delta_are_seen(self, todoist: LocalTodoist, connect: Connect) -> None:
        """An item without id that a delta brings is served to tokens from before it, not to later ones."""
        client = connect()
        token = client.sync()["sync_token"]
        todoist.advance(client.user, {"items": [{"content": "no id"}, 7, {"id": [], "content": "odd"}]})
        delta = client.sync(token)
        assert delta["items"] == [{"content": "no id"}, 7, {"id": [], "content": "odd"}]
        assert client.sync(delta["sync_token"])["items"] == []

    @pytest.mark.parametrize("mark", ["checked", "is_deleted"])
    def test_sub_tasks_follow_their_task(self, todoist: LocalTodoist, connect: Connect, mark: str) -> None:
        """Deleting or completing an item does the same to its sub-tasks at any depth, and to no others."""
        gone = item("5", parent_id="1", is_deleted=True)
        held = document(item("1"), item("2", parent_id="1"), item("3", parent_id="2"), item("4"), gone)
        client = connect(held)
        token = client.sync()["sync_token"]
        todoist.advance(client.user, {"items": [item("1", **{mark: True})]})
        changed = client.sync(token)["items"]
        assert ids(changed) == {"1", "2", "3"}
        assert all(found[mark] for found in changed)
        assert ids(client.sync()["items"]) == {"4"}

    def test_deleted_project_takes_all_that_is_in_it(self, todoist: LocalTodoist, connect: Connect) -> None:
        """Deleting a project deletes its sub-projects, sections and items, broken and completed ones too."""
        client = connect(
            document(
                item("1"),
                item("2", project_id="p2"),
                item("3", project_id="p3"),
                item("4", section_id="s1", project_id="p1", checked=True),
                {"content": "no id", "project_id": "p1"},
                None,
                projects=[project("p1"), project("p2", parent_id="p1"), project("p3")],
                sections=[{"id": "s1", "project_id": "p1", "name": "S", "is_deleted": False}],
            )
        )
        token = client.sync()["sync_token"]
        todoist.advance(client.user, {"projects": [project("p1", is_deleted=True)]})
        delta, full = client.sync(token), client.sync()
        assert len(delta["items"]) == 4
        assert all(found["is_deleted"] for kind in TYPES[:3] for found in delta[kind])
        assert full["items"] == [item("3", project_id="p3"), None]
        assert (ids(full["projects"]), full["sections"]) == ({"p3"}, [])

    def test_deleted_section_takes_its_items(self, todoist: LocalTodoist, connect: Connect) -> None:
        """Deleting a section deletes the items in it."""
        section = {"id": "s1", "project_id": "p1", "name": "S", "is_deleted": False}
        client = connect(document(item("1", section_id="s1"), item("2"), sections=[section]))
        todoist.advance(client.user, {"sections": [{**section, "is_deleted": True}]})
        assert ids(client.sync()["items"]) == {"2"}

    def test_item_moved_out_in_time_survives(self, todoist: LocalTodoist, connect: Connect) -> None:
        """An item that the same delta moves to another project is not deleted with its old one."""
        client = connect(document(item("1"), projects=[project("p1"), project("p2")]))
        delta = {"projects": [project("p1", is_deleted=True)], "items": [item("1", project_id="p2")]}
        todoist.advance(client.user, delta)
        assert ids(client.sync()["items"]) == {"1"}

    def test_deleted_label_leaves_the_items(self, todoist: LocalTodoist, connect: Connect) -> None:
        """Deleting a label changes the items that had it, and only those."""
        label = {"id": "l1", "name": "home", "item_order": 1, "is_deleted": False}
        items = [item("1", labels=["home", "now"]), item("2", labels=["now"]), item("3", labels=None)]
        client = connect(document(*items, labels=[label]))
        token = client.sync()["sync_token"]
        todoist.advance(client.user, {"labels": [{"id": "l1", "is_deleted": True}]})
        delta = client.sync(token)
        assert delta["items"] == [item("1", labels=["now"])]
        assert delta["labels"] == [{**label, "is_deleted": True}]

    def test_whole_numbers_are_ids(self, todoist: LocalTodoist, connect: Connect) -> None:
        """Exports from before the API v1, whose ids are numbers, can be loaded and advanced."""
        client = connect({"items": [{"id": 1, "content": "old"}, {"id": 0, "content": "older"}]})
        todoist.advance(client.user, {"items": [{"id": 1, "content": "new"}]})
        assert {found["id"]: found["content"] for found in client.sync()["items"]} == {0: "older", 1: "new"}


class TestReads:
    """The paged reads of the REST part, which the official Python SDK uses."""

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

    def test_pages_hold_all_that_is_active(self, connect: Connect) -> None:
        """Following next_cursor brings every active object once, in the order of a full answer."""
        items = [item(str(n), checked=n % 4 == 0) for n in range(10)]
        client = connect(document(*items))
        pages = self.pages(client, "tasks", limit=3)
        assert [len(page) for page in pages] == [3, 3, 1]
        assert [each for page in pages for each in page] == client.sync()["items"]

    @pytest.mark.parametrize(
        ("query", "sizes"), [({}, [50, 50, 20]), ({"limit": 200}, [120]), ({"limit": 60}, [60, 60])]
    )
    def test_sizes_of_pages(self, connect: Connect, query: dict[str, int], sizes: list[int]) -> None:
        """A page has 50 objects, or up to 200 if asked; no empty page follows a full last one."""
        client = connect(document(*(item(str(n)) for n in range(120))))
        assert [len(page) for page in self.pages(client, "tasks", **query)] == sizes

    def test_every_kind_and_the_user(self, connect: Connect) -> None:
        """Projects, sections and labels come as pages too, the user as the object itself."""
        kinds = {"sections": [{"id": "s1", "name": "S"}], "labels": [{"id": "l1", "name": "L", "is_deleted": True}]}
        client = connect(document(**kinds))
        assert self.pages(client, "projects") == [[project("p1")]]
        assert self.pages(client, "sections") == [kinds["sections"]]
        assert self.pages(client, "labels") == [[]]
        assert self.get(client, "user").json() == document()["user"]

    def test_labels_have_an_order(self, connect: Connect) -> None:
        """What /sync calls the item_order of a label is its order in a read."""
        client = connect(document(labels=[{"id": "l1", "name": "L", "item_order": 3}]))
        assert self.pages(client, "labels") == [[{"id": "l1", "name": "L", "order": 3}]]

    @pytest.mark.parametrize(
        ("argument", "value"),
        [("limit", "0"), ("limit", "201"), ("limit", "x"), ("cursor", "x"), ("cursor", "é"), ("project_id", "p1")],
    )
    def test_bad_arguments_are_refused(self, connect: Connect, argument: str, value: str) -> None:
        """A limit outside 1 to 200, a made-up cursor and a filter, which the stand-in has not, are a 400."""
        response = self.get(connect(), "tasks", **{argument: value})
        assert (response.status_code, response.json()["error_tag"]) == (400, "INVALID_ARGUMENT_VALUE")
        assert response.json()["error_extra"]["argument"] == argument

    def test_a_cursor_is_of_one_kind(self, connect: Connect) -> None:
        """The cursor of tasks is none of projects."""
        client = connect()
        cursor = self.get(client, "tasks", limit=1).json()["next_cursor"]
        assert ids(self.get(client, "tasks", cursor=cursor).json()["results"]) == {"2"}
        assert self.get(client, "projects", cursor=cursor).status_code == 400

    @pytest.mark.parametrize("name", PATHS)
    def test_only_who_may(self, todoist: LocalTodoist, connect: Connect, name: str) -> None:
        """An unknown token gets 401, a revoked one 403, and any method but GET 405."""
        client = connect()
        assert client.http.get(f"/api/v1/{name}", headers={"Authorization": "Bearer x"}).status_code == 401
        assert client.http.post(f"/api/v1/{name}", headers=client.auth).status_code == 405
        todoist.revoke(client.user)
        assert self.get(client, name).status_code == 403

    def test_reads_are_calls(self, todoist: LocalTodoist, connect: Connect) -> None:
        """Each page and each refusal stands in the log; pages use up the limit of incremental calls."""
        client = connect()
        assert [self.get(client, name).status_code for name in [*self.PATHS, *self.PATHS]] == [200] * 8 + [429] * 2
        mine = [call for call in todoist.calls if call.user == client.user]
        assert [call.path for call in mine] == [f"/api/v1/{name}" for name in [*self.PATHS, *self.PATHS]]
        assert not [call for call in mine if call.full]
        assert client.call().status_code == 200


class TestSyncTokens:
    @pytest.mark.parametrize("dead", ["forgotten", "foreign", "empty"])
    def test_dead_token_gets_a_full_answer(self, todoist: LocalTodoist, connect: Connect, dead: str) -> None:
        """By default a forgotten, another user's or an empty sync token gets a full answer."""
        client, other = connect(), connect()
        answer = client.sync(dead_token(todoist, client, other, dead))
        assert answer["full_sync"] is True
        assert ids(answer["items"]) == {"1", "2"}

    @pytest.mark.parametrize("dead", ["forgotten", "foreign", "empty"])
    def test_dead_token_can_be_refused(self, dead: str) -> None:
        """Told to refuse, the stand-in answers the same tokens with 400, and `*` as ever."""
        todoist = LocalTodoist(dead_token="refuse")
        with running(todoist) as base_url, httpx.Client(base_url=base_url) as http:
            client, other = Client(http, "a", "token-a"), Client(http, "b", "token-b")
            for each in (client, other):
                todoist.load(each.token, document(item("1")), user=each.user)
            assert client.call(dead_token(todoist, client, other, dead)).status_code == 400
            assert client.call("*").status_code == 200

    def test_tokens_are_the_same_for_the_same_seed(self) -> None:
        """Two stand-ins with one seed give out the same tokens, with another seed others."""

        def token(seed: int) -> Any:
            todoist = LocalTodoist(seed=seed)
            todoist.load("t", document(), user="a")
            return todoist.document("a")["sync_token"]

        assert token(1) == token(1) != token(2)


def dead_token(todoist: LocalTodoist, client: Client, other: Client, dead: str) -> str:
    mine: str = client.sync()["sync_token"]
    theirs: str = other.sync()["sync_token"]
    if dead == "forgotten":
        todoist.forget_sync_tokens(client.user)
    return {"forgotten": mine, "foreign": theirs, "empty": ""}[dead]


class TestLimits:
    def test_full_calls_are_limited(self, connect: Connect, clock: Clock) -> None:
        """Past the limit of full calls the answer is 429, with the seconds to wait in header and body."""
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
        """After the seconds named there is room for as many calls as left the window; refusals are free."""
        client = connect()
        client.sync()
        clock.forward(seconds=60)
        for _ in range(4):
            client.sync()
        clock.forward(seconds=float(client.call().headers["Retry-After"]))
        assert [client.call().status_code for _ in range(2)] == [200, 429]

    def test_incremental_calls_have_a_limit_of_their_own(self, connect: Connect) -> None:
        """Incremental calls do not use up full ones, nor one user another's."""
        client, other = connect(), connect()
        token = client.sync()["sync_token"]
        assert [client.call(token).status_code for _ in range(9)] == [200] * 8 + [429]
        assert client.call().status_code == other.call().status_code == 200

    def test_a_limit_of_nothing(self) -> None:
        """With a limit of 0 every call is told to wait a whole window."""
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
        """Faults hit the next calls of their user in order, and then it is over."""
        client, other = connect(), connect()
        todoist.fail(client.user, Fault.server_error(502), Fault.invalid_token())
        assert other.call().status_code == 200
        assert [client.call().status_code for _ in range(3)] == [502, 403, 200]

    @pytest.mark.parametrize("status", [500, 502, 503])
    def test_server_error(self, failing: Failing, status: int) -> None:
        """A server error comes with an HTML page."""
        response = failing(Fault.server_error(status)).call()
        assert response.status_code == status
        assert response.headers["Content-Type"].startswith("text/html")
        assert response.text.startswith("<!DOCTYPE html>")

    def test_invalid_token_once(self, failing: Failing) -> None:
        """A valid token is refused once with 403 AUTH_INVALID_TOKEN and accepted after."""
        client = failing(Fault.invalid_token())
        response = client.call()
        assert (response.status_code, response.json()["error_tag"]) == (403, "AUTH_INVALID_TOKEN")
        assert client.call().status_code == 200

    def test_rate_limited(self, failing: Failing) -> None:
        """A 429 names its seconds in header and body, which may differ."""
        response = failing(Fault.rate_limited(5, header_after=7)).call()
        assert response.status_code == 429
        assert response.headers["Retry-After"] == "7"
        assert response.json()["error_extra"]["retry_after"] == 5

    def test_rate_limited_without_header(self, failing: Failing) -> None:
        """A 429 may name its seconds in the body only."""
        response = failing(Fault.rate_limited(5, header="none")).call()
        assert "Retry-After" not in response.headers
        assert response.json()["error_extra"]["retry_after"] == 5

    def test_rate_limited_with_a_date(self, failing: Failing, clock: Clock) -> None:
        """A 429 may give Retry-After as an HTTP date by the stand-in's clock."""
        response = failing(Fault.rate_limited(30, header="date")).call()
        assert parsedate_to_datetime(response.headers["Retry-After"]) == clock() + timedelta(seconds=30)

    def test_rate_limited_in_plain_text(self, failing: Failing) -> None:
        """The body of a 429 may be no JSON."""
        response = failing(Fault.rate_limited(5, body="text")).call()
        assert (response.status_code, response.headers["Retry-After"]) == (429, "5")
        assert response.headers["Content-Type"].startswith("text/plain")
        with pytest.raises(json.JSONDecodeError):
            response.json()

    def test_slow_answer(self, failing: Failing) -> None:
        """An answer may be late, and right."""
        client = failing(Fault.slow(before=0.2))
        began = monotonic()
        assert ids(client.sync()["items"]) == {"1", "2"}
        assert 0.2 <= monotonic() - began < 1

    def test_slow_answer_runs_into_the_read_timeout(self, failing: Failing) -> None:
        """A client that waits less than the delay gets no answer, and the next call works."""
        client = failing(Fault.slow(before=0.3))
        with pytest.raises(httpx.ReadTimeout):
            client.call(timeout=0.1)
        assert client.call().status_code == 200

    def test_slow_body(self, failing: Failing) -> None:
        """The headers and half of the body come at once, the rest after the delay."""
        client = failing(Fault.slow(inside=0.2))
        began = monotonic()
        form = {"sync_token": "*", "resource_types": '["items"]'}
        with client.http.stream("POST", "/api/v1/sync", data=form, headers=client.auth) as response:
            parts = [(monotonic() - began, part) for part in response.iter_raw()]
        assert parts[0][0] < 0.2 <= parts[-1][0]
        assert ids(json.loads(b"".join(part for _, part in parts))["items"]) == {"1", "2"}

    def test_any_fault_may_be_slow(self, failing: Failing) -> None:
        """Delays go together with every other fault."""
        client = failing(replace(Fault.server_error(503), before=0.1))
        began = monotonic()
        assert client.call().status_code == 503
        assert monotonic() - began >= 0.1

    def test_connection_cut_before_the_answer(self, failing: Failing) -> None:
        """The connection closes with no answer."""
        client = failing(Fault.cut())
        with pytest.raises(httpx.RemoteProtocolError, match="without sending a response"):
            client.call()
        assert client.call().status_code == 200

    def test_connection_cut_in_the_body(self, failing: Failing) -> None:
        """The connection closes after half of the body."""
        client = failing(Fault.cut(in_body=True))
        with pytest.raises(httpx.RemoteProtocolError, match="without sending complete message body"):
            client.call()
        assert client.call().status_code == 200

    def test_truncated_json(self, failing: Failing) -> None:
        """A whole HTTP answer may hold half of the JSON."""
        response = failing(Fault.truncated_json()).call()
        assert response.status_code == 200
        assert response.text.startswith('{"full_sync": true')
        with pytest.raises(json.JSONDecodeError):
            response.json()

    def test_html_page(self, failing: Failing) -> None:
        """200 may come with a web page."""
        response = failing(Fault.html_page()).call()
        assert response.status_code == 200
        assert response.headers["Content-Type"].startswith("text/html")

    def test_empty_object(self, failing: Failing) -> None:
        """The answer may be {}."""
        assert failing(Fault.empty_object()).sync() == {}

    def test_null_items(self, failing: Failing) -> None:
        """items may be null while the rest is right."""
        answer = failing(Fault.null_items()).sync()
        assert answer["items"] is None
        assert ids(answer["projects"]) == {"p1"}

    def test_item_without_id(self, failing: Failing) -> None:
        """One item may lack its id, once: the next full answer has it again."""
        client = failing(Fault.item_without_id())
        assert ["id" in found for found in client.sync()["items"]] == [False, True]
        assert ids(client.sync()["items"]) == {"1", "2"}

    @pytest.mark.parametrize("priority", [0, 5])
    def test_wrong_priority(self, failing: Failing, priority: int) -> None:
        """One item may have a priority outside 1 to 4."""
        answer = failing(Fault.wrong_priority(priority)).sync()
        assert [found["priority"] for found in answer["items"]] == [priority, 1]

    def test_same_item_twice(self, failing: Failing) -> None:
        """One item may stand there twice."""
        answer = failing(Fault.same_item_twice()).sync()
        assert [found["id"] for found in answer["items"]] == ["1", "1", "2"]

    def test_damaged_item_in_an_empty_delta(self, todoist: LocalTodoist, connect: Connect) -> None:
        """Where no item is to be sent, a fault of an item brings a sample."""
        client = connect()
        token = client.sync()["sync_token"]
        todoist.fail(client.user, Fault.wrong_priority(5))
        assert [found["priority"] for found in client.sync(token)["items"]] == [5]

    def test_empty_sync_token(self, failing: Failing) -> None:
        """The new sync token may be empty."""
        assert failing(Fault.empty_sync_token()).sync()["sync_token"] == ""

    def test_unasked_full_sync(self, todoist: LocalTodoist, connect: Connect) -> None:
        """A valid sync token may get a full answer."""
        client = connect()
        token = client.sync()["sync_token"]
        todoist.fail(client.user, Fault.unasked_full_sync())
        answer = client.sync(token)
        assert answer["full_sync"] is True
        assert ids(answer["items"]) == {"1", "2"}
        assert client.sync(token)["full_sync"] is False

    def test_every_kind_has_its_constructor(self) -> None:
        """A fault can be written as JSON by the name of its constructor, and no kind is left without."""
        assert {fault_from({"kind": kind.value}).kind for kind in FaultKind} == set(FaultKind)
        assert fault_from({"kind": "rate_limited", "retry_after": 3}) == Fault.rate_limited(3)

    def test_faults_at_a_rate_depend_on_seed_and_user_only(self) -> None:
        """One seed spoils the same calls of a user in whatever order users call, about as many as asked."""

        def spoiled(seed: int, others: int) -> list[int]:
            todoist = LocalTodoist(seed=seed, full_limit=1000)
            for user in ("a", "b"):
                todoist.load(user, document(), user=user)
            todoist.fail_at_rate(0.3, Fault.server_error(500), Fault.server_error(503))
            for user in ["b"] * others + ["a"] * 200:
                todoist.sync("/api/v1/sync", user, {"sync_token": "*", "resource_types": "[]"})
            return [call.status for call in todoist.calls if call.user == "a"]

        assert spoiled(1, others=0) == spoiled(1, others=7) != spoiled(2, others=0)
        assert set(spoiled(1, others=0)) == {200, 500, 503}
        assert 30 < sum(status != 200 for status in spoiled(1, others=0)) < 90

    def test_a_rate_needs_a_fault(self) -> None:
        """A rate without any fault is a mistake, said at once; rate 0 ends the faults."""
        todoist = LocalTodoist()
        with pytest.raises(ValueError, match="name at least one"):
            todoist.fail_at_rate(0.5)
        todoist.fail_at_rate(0)


class TestPace:
    def test_answers_take_their_time(self) -> None:
        """Every answer waits within the range asked for, the waits of many side by side, and steering never."""
        todoist = LocalTodoist(answer_seconds=(0.2, 0.4))
        todoist.load("t", document(), user="a")
        took: list[float] = []

        def call(base_url: str, number: int) -> None:
            began = monotonic()
            with httpx.Client(base_url=base_url) as http:
                client = Client(http, "a", "t" if number % 2 else "nobody's")
                client.call() if number % 3 else client.http.get("/api/v1/tasks", headers=client.auth)
            took.append(monotonic() - began)

        with running(todoist) as base_url:
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

    def test_waits_depend_on_seed_and_user_only(self) -> None:
        """One seed lets a user's calls wait the same in whatever order users call; faults keep their own delay."""

        def waits(seed: int, others: int) -> list[float]:
            todoist = LocalTodoist(seed=seed, answer_seconds=(0.15, 0.4))
            for user in ("a", "b"):
                todoist.load(user, document(), user=user)
            replies = [todoist.read("/api/v1/user", user, "user", {}) for user in ["b"] * others + ["a"] * 50]
            todoist.fail("a", Fault.slow(before=60))
            replies.append(todoist.sync("/api/v1/sync", "a", {"sync_token": "*", "resource_types": "[]"}))
            return [reply.before for reply in replies[others:]]

        assert waits(1, others=0) == waits(1, others=7) != waits(2, others=0)
        assert all(0.15 <= wait <= 0.4 for wait in waits(1, others=0)[:-1])
        assert 60.15 <= waits(1, others=0)[-1] <= 60.4


class TestCalls:
    def test_every_call_is_logged(self, todoist: LocalTodoist, connect: Connect) -> None:
        """The log has who called when, what for and how it ended, and nothing of /_control/."""
        client, idle = connect(), connect()
        token = client.sync()["sync_token"]
        todoist.fail(client.user, Fault.cut())
        with pytest.raises(httpx.TransportError):
            client.call(token)
        client.http.get("/_control/calls")
        at = todoist.now()
        assert [call for call in todoist.calls if call.user == client.user] == [
            Call(at, client.user, "/api/v1/sync", True, 200),
            Call(at, client.user, "/api/v1/sync", False, 0),
        ]
        assert not [call for call in todoist.calls if call.user == idle.user]

    def test_refused_calls_are_logged(self, todoist: LocalTodoist, connect: Connect) -> None:
        """A call with a revoked token counts for its user, one with an unknown token for nobody."""
        client = connect()
        todoist.revoke(client.user)
        client.call()
        client.token = "nobody's"
        client.call()
        assert [(call.user, call.status) for call in todoist.calls[-2:]] == [(client.user, 403), (None, 401)]

    def test_unknown_users_are_named(self) -> None:
        """Asking for a user who was never loaded says who is."""
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
        """A code brings an access token that works for /sync, and works but once."""
        client = connect()
        code = todoist.authorize(client.user)
        answer = self.exchange(client.http, grant_type="authorization_code", code=code).json()
        assert (answer["token_type"], answer["expires_in"]) == ("Bearer", 3600)
        client.token = answer["access_token"]
        assert client.call().status_code == 200
        again = self.exchange(client.http, grant_type="authorization_code", code=code)
        assert (again.status_code, again.json()) == (400, {"error": "bad_authorization_code"})

    def test_refresh_tokens_rotate(self, connect: Connect) -> None:
        """Each refresh brings a new access token and a new refresh token, and both work."""
        client = connect(refresh_token="first-rotating")
        first = self.refresh(client.http, "first-rotating").json()
        second = self.refresh(client.http, first["refresh_token"]).json()
        assert len({"first-rotating", first["refresh_token"], second["refresh_token"]}) == 3
        client.token = second["access_token"]
        assert client.call().status_code == 200

    def test_used_refresh_token_is_refused(self, connect: Connect) -> None:
        """A used refresh token is a 400 invalid_grant, and ends all that the user granted."""
        client = connect(refresh_token="first-used")
        second = self.refresh(client.http, "first-used").json()
        again = self.refresh(client.http, "first-used")
        assert (again.status_code, again.json()) == (400, {"error": "invalid_grant"})
        assert self.refresh(client.http, second["refresh_token"]).json() == {"error": "invalid_grant"}
        assert client.call().status_code == 403

    def test_used_refresh_token_in_the_grace_time(self, clock: Clock) -> None:
        """In a grace time a repeated refresh brings the same access token and no refresh token."""
        todoist = LocalTodoist(clock=clock, refresh_grace=timedelta(seconds=60))
        todoist.load("t", document(), user="a", refresh_token="first")
        with running(todoist) as base_url, httpx.Client(base_url=base_url) as http:
            first = self.refresh(http, "first").json()
            again = self.refresh(http, "first").json()
            clock.forward(seconds=60)
            late = self.refresh(http, "first")
        assert again["access_token"] == first["access_token"]
        assert "refresh_token" not in again
        assert late.status_code == 400

    def test_issued_access_tokens_live_an_hour(self, connect: Connect, clock: Clock) -> None:
        """An access token from OAuth is a 401 after the hour that it named; its refresh token goes on."""
        client = connect(refresh_token="first-hour")
        answer = self.refresh(client.http, "first-hour").json()
        client.token = answer["access_token"]
        clock.forward(seconds=answer["expires_in"])
        assert client.call().status_code == 401
        client.token = self.refresh(client.http, answer["refresh_token"]).json()["access_token"]
        assert client.call().status_code == 200

    def test_revoked_user_cannot_refresh(self, todoist: LocalTodoist, connect: Connect) -> None:
        """A revocation ends refresh tokens and codes too; agreeing again connects again."""
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
        """A request for tokens that cannot be granted is a 400 with OAuth's name of the error."""
        response = self.exchange(http, **form)
        assert (response.status_code, response.json()) == (400, {"error": error})

    def test_exchanges_are_logged(self, todoist: LocalTodoist, connect: Connect) -> None:
        """Requests for tokens stand in the log under their own path."""
        client = connect(refresh_token="first-logged")
        self.refresh(client.http, "first-logged")
        assert todoist.calls[-1] == Call(todoist.now(), client.user, "/oauth/access_token", False, 200)


class TestControl:
    @pytest.fixture
    def http(self) -> Iterator[httpx.Client]:
        todoist = LocalTodoist(clock=lambda: NIGHT)
        with running(todoist) as base_url, httpx.Client(base_url=base_url) as http:
            yield http

    @staticmethod
    def post(http: httpx.Client, name: str, **body: Any) -> Any:
        return http.post(f"/_control/{name}", json=body).raise_for_status().json()

    def test_another_process_can_steer_everything(self, http: httpx.Client) -> None:
        """Users, deltas, faults, revocation, codes and the clock can be set over HTTP, and the calls read."""
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
        """count=1 gives the number of calls in all and by user, without the calls themselves."""
        for user in ("ada", "bob"):
            self.post(http, "load", user=user, token=user, document=document())
        for token in ("ada", "bob", "ada", "nobody's"):
            Client(http, token, token).call()
        counted = http.get("/_control/calls", params={"count": 1}).json()
        assert counted == {"count": 4, "by_user": {"ada": 2, "bob": 1}}
        assert len(http.get("/_control/calls").json()) == 4

    def test_time_can_be_compressed(self, http: httpx.Client) -> None:
        """Setting the clock forward empties the windows of the limits, as the hours between two syncs would."""
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
    def test_mistakes_are_explained(self, http: httpx.Client, name: str, body: dict[str, Any]) -> None:
        """A control call that makes no sense is a 400 that says why."""
        response = http.post(f"/_control/{name}", json=body)
        assert response.status_code == 400
        assert response.json()["error"]


class TestRunning:
    def test_nothing_is_left_behind(self) -> None:
        """After the block no thread is left and the port is free again, slow answers or not."""
        threads = threading.active_count()
        todoist = LocalTodoist()
        todoist.load("t", document(), user="a")
        todoist.fail("a", Fault.slow(before=60))
        began = monotonic()
        with running(todoist) as base_url, httpx.Client(base_url=base_url) as http:
            with pytest.raises(httpx.ReadTimeout):
                Client(http, "a", "t").call(timeout=0.1)
            port = int(base_url.rpartition(":")[2])
        assert base_url == f"http://127.0.0.1:{port}"
        assert threading.active_count() == threads
        assert monotonic() - began < 1.2
        with running(todoist, port) as again:
            assert httpx.get(f"{again}/_control/calls").status_code == 200

    def test_an_exception_inside_stops_it_too(self) -> None:
        """The server ends when the block fails, even with an answer still open."""
        threads = threading.active_count()
        with pytest.raises(RuntimeError, match="inside"), running(LocalTodoist()):
            raise RuntimeError("inside")
        assert threading.active_count() == threads

    def test_many_users_at_once(self) -> None:
        """Calls of many users at the same time get each their own objects."""
        todoist = LocalTodoist()
        for number in range(20):
            todoist.load(f"token-{number}", document(item(str(number))), user=str(number))
        found: dict[int, set[str]] = {}

        def call(base_url: str, number: int) -> None:
            with httpx.Client(base_url=base_url) as http:
                found[number] = ids(Client(http, str(number), f"token-{number}").sync()["items"])

        with running(todoist) as base_url:
            threads = [threading.Thread(target=call, args=(base_url, number)) for number in range(20)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert found == {number: {str(number)} for number in range(20)}

    def test_a_process_of_its_own(self) -> None:
        """A benchmark's stand-in waits as long and allows as much as it was told, counts calls and sets the clock."""
        limits = {"full_limit": 2, "incremental_limit": 3}
        with standing_in(answer_seconds=(0.1, 0.2), **limits) as todoist, httpx.Client(base_url=todoist.url) as http:
            todoist.load("ada", "t", document())
            client, began = Client(http, "ada", "t"), monotonic()
            assert [client.call().status_code for _ in range(3)] == [200, 200, 429]
            assert monotonic() - began >= 0.3
            assert (todoist.n_calls(), todoist.n_calls("ada"), todoist.n_calls("bob")) == (3, 3, 0)
            todoist.set_clock(datetime.now(UTC) + timedelta(minutes=16))
            assert client.call().status_code == 200
            assert todoist.cpu_seconds() > 0
