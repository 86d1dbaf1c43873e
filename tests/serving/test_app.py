"""The HTTP face: who may ask, what is answered, and what no answer and no log line ever holds."""

from __future__ import annotations

import json
import logging
from typing import Any
from uuid import uuid4

import pytest
import schemathesis
from fastapi.openapi.models import OpenAPI
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)
from service import TOKEN, Answered, House, Service

from contexts.todoist import Credentials
from contexts.vault import Vault, new_key
from local.llm import Behaviour
from local.todoist import Fault

DECISION = "9a4c1a4c-a625-4e17-ac54-c03264024d44"
TIP, CONTEXT, REACTION = "/v1/users/ann/tip", "/v1/users/ann/context", f"/v1/decisions/{DECISION}/reaction"
ACCEPTED = {"reaction": "accepted"}


@pytest.fixture
def ann(house: House, account: Any) -> None:
    """A user with a few tasks, whose context was made ahead at noon."""
    due = {"id": "t9", "content": "pay the rent", "due": {"date": "2026-11-23"}}
    house.prepare("ann", account("water the plants", "call bob", due))


@pytest.fixture
def service(ann: None, house: House) -> Service:
    return house.open()


def is_problem(answered: Answered, status: int, detail: str) -> bool:
    """Whether it is a problem document as RFC 9457 has it, that says this."""
    assert answered.headers["content-type"] == "application/problem+json"
    assert set(answered.body) == {"type", "title", "status", "detail"}
    assert answered.body["status"] == answered.status
    return answered.status == status and detail in answered.body["detail"]


class TestCallers:
    @pytest.mark.parametrize(
        "authorization",
        ["", "Bearer", "Bearer ", "Bearer no", f"Bearer {TOKEN}x", f"Basic {TOKEN}", TOKEN, "Bearer café".encode()],
    )
    def test_refused(self, house: House, service: Service, authorization: str | bytes) -> None:
        """Without one of the tokens nothing is told but that one is needed, whatever is asked."""
        headers = {"Authorization": authorization}
        for answered in (
            service.ask("POST", TIP, headers=headers),
            service.ask("GET", CONTEXT, headers=headers),
            service.ask("POST", REACTION, headers=headers, json=ACCEPTED),
        ):
            assert is_problem(answered, 401, "a service token is needed: Authorization: Bearer TOKEN")
            assert answered.headers["www-authenticate"] == "Bearer"
        assert house.rows("SELECT FROM decisions") == []

    def test_refused_before_all_else(self, service: Service) -> None:
        """Whoever has no token does not learn which users and decisions there are."""
        headers = {"Authorization": "Bearer wrong"}
        paths = ["/v1/users/nobody/tip", "/v1/users/%00/tip", TIP]
        assert {service.ask("POST", path, headers=headers).text for path in paths} == {
            service.ask("POST", REACTION, headers=headers, json=ACCEPTED).text
        }

    def test_two_tokens(self, house: House, ann: None) -> None:
        """While a token is rotated out both it and the next one are good, and no third."""
        service = house.open(service_tokens="the-former-token-1, the-coming-token-2")
        found = [
            service.ask("POST", TIP, headers={"Authorization": f"bearer {token}"}).status
            for token in ("the-former-token-1", "the-coming-token-2", "the-former-token-1, the-coming-token-2", TOKEN)
        ]
        assert found == [200, 200, 401, 401]

    @pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/openapi.json"])
    def test_pages_for_machines(self, service: Service, path: str) -> None:
        """Probes and Prometheus need no token."""
        assert service.ask("GET", path, headers={"Authorization": ""}).status == 200


class TestTip:
    @pytest.mark.parametrize("user", ["nobody", "%ff", "%20", "ann%20", "ANN", "'; DROP TABLE users; --"])
    def test_unknown_user(self, service: Service, user: str) -> None:
        """For somebody unknown there is no tip, and the answer says so."""
        assert is_problem(service.ask("POST", f"/v1/users/{user}/tip"), 404, "there is no such user")

    @pytest.mark.parametrize("user", ["%00", "a%0Ab", "%E2%80%AE", "x" * 257])
    def test_no_id(self, service: Service, user: str) -> None:
        """What cannot be an id is refused with what one is."""
        wanted = "user_id: up to 256 printable characters are wanted"
        assert is_problem(service.ask("POST", f"/v1/users/{user}/tip"), 422, wanted)

    def test_any_id(self, house: House, service: Service, account: Any) -> None:
        """An id may be of any printable letters."""
        user = "anna@exämple.org +жук"
        house.world.accounts.add(
            user, email="a@example.org", timezone="UTC", credentials=Credentials("token-of-anna")
        )
        house.todoist.load("token-of-anna", account("call bob"), user=user)
        assert service.tip("anna%40ex%C3%A4mple.org%20+%D0%B6%D1%83%D0%BA").how == ("inline", "called")


class TestContext:
    def test_shown(self, house: House, service: Service) -> None:
        """The context is shown as it is stored, with its hash, its age, and whether a tip would be made of it."""
        house.clock.forward(hours=1)
        shown = service.ask("GET", CONTEXT).body
        stored = house.world.stored()["ann"]
        assert shown["context"] == json.loads(stored["context_json"])
        assert shown["context_hash"] == stored["context_hash"]
        assert shown["age_seconds"] == pytest.approx(3600, abs=0.01)
        assert shown["is_fresh"] is True
        assert house.calls() == (0, 0)

    @pytest.mark.parametrize("by", [{"hours": 6, "seconds": 1}, {"hours": 13}])
    def test_not_fresh(self, house: House, service: Service, by: dict[str, int]) -> None:
        """After the SLA, and after the midnight at which a task moves, it is not fresh; it is shown all the same."""
        house.clock.forward(**by)
        assert service.ask("GET", CONTEXT).body["is_fresh"] is False

    def test_none_yet(self, house: House, service: Service, account: Any) -> None:
        """A user without a context is told from one who does not exist."""
        house.world.add("bob", account("call ann"))
        assert is_problem(service.ask("GET", "/v1/users/bob/context"), 404, "this user has no context yet")
        assert is_problem(service.ask("GET", "/v1/users/nobody/context"), 404, "there is no such user")


class TestReaction:
    def test_of_another_user(self, house: House, service: Service) -> None:
        """A decision of somebody else can be told from none at all by nobody, and is not touched."""
        decision_id = service.tip().body["decision_id"]
        foreign = service.react(decision_id, "done", user_id="bob")
        missing = service.react(DECISION, "done", user_id="bob")
        assert is_problem(foreign, 404, "there is no such decision of this user")
        assert foreign.text == missing.text
        assert house.rows("SELECT FROM reactions") == []
        assert service.react(decision_id, "done", user_id="ann").body["is_news"] is True

    @pytest.mark.parametrize(
        ("path", "body", "named"),
        [
            (REACTION, {"reaction": "liked"}, "body.reaction: Input should be 'accepted', 'done', 'snoozed'"),
            (REACTION, {}, "body.reaction: Field required"),
            (REACTION, [], "body: Input should be"),
            (REACTION, None, "body: Field required"),
            (REACTION, {"reaction": "done", "user_id": 5}, "body.user_id: Input should be a valid string"),
            ("/v1/decisions/5/reaction", ACCEPTED, "path.decision_id: Input should be a valid UUID"),
        ],
    )
    def test_bad_input(self, service: Service, path: str, body: Any, named: str) -> None:
        """What was wrong is named by its place, with what would be right."""
        headers = {"Content-Type": "application/json"}
        answered = service.ask("POST", path, content=json.dumps(body), headers=headers)
        assert is_problem(answered, 422, named)

    @pytest.mark.parametrize(("content", "status"), [("{", 422), (b'{"reaction": "\xff"}', 400)])
    def test_no_json(self, service: Service, content: str | bytes, status: int) -> None:
        """What is no JSON is refused as a problem too."""
        headers = {"Content-Type": "application/json"}
        assert is_problem(service.ask("POST", REACTION, content=content, headers=headers), status, "")


class TestProblems:
    @pytest.mark.parametrize(
        ("method", "path"), [("GET", "/nope"), ("POST", "/v1/users//tip"), ("POST", "/v1/users/a/b/tip")]
    )
    def test_no_such_address(self, service: Service, method: str, path: str) -> None:
        """An address at which there is nothing is told from a user whom there is not."""
        assert is_problem(service.ask(method, path), 404, "there is nothing at this address")

    def test_other_method(self, service: Service) -> None:
        """A wrong method is answered with the right one."""
        answered = service.ask("GET", TIP)
        assert is_problem(answered, 405, "this address takes another method")
        assert answered.headers["allow"] == "POST"

    def test_database_is_gone(self, house: House, service: Service) -> None:
        """Without the database everything that needs it says so, and the process is alive all the same."""
        decision_id = service.tip().body["decision_id"]
        with house.without_database():
            failing = [
                service.ask("POST", TIP),
                service.ask("GET", CONTEXT),
                service.react(decision_id, "done"),
                service.ask("GET", "/readyz"),
            ]
            alive = [service.ask("GET", path).status for path in ("/healthz", "/metrics")]
        for answered in failing:
            assert is_problem(answered, 503, "the database did not answer; try again in a while")
            assert answered.headers["retry-after"] == "5"
        assert alive == [200, 200]
        assert service.ask("GET", "/readyz").text == "ready\n"
        assert service.react(decision_id, "done").body["is_news"] is True

    def test_unforeseen(self, house: House, service: Service, caplog: pytest.LogCaptureFixture) -> None:
        """What nobody foresaw is a problem document too; the log says where it was, and not what was read there."""
        house.connection.execute("""UPDATE context_store SET context_json = '{"title": "canary-4711"}'""")
        assert is_problem(service.ask("POST", TIP), 500, "something failed here")
        assert "unforeseen ValidationError: " in caplog.text
        assert "recommend.py" in caplog.text
        assert "canary-4711" not in caplog.text


class TestMetrics:
    def test_counted(self, house: House, service: Service) -> None:
        """What was answered, asked of others and learned is counted."""
        decision_id = service.tip().body["decision_id"]
        service.tip()
        service.react(decision_id, "done")
        service.react(decision_id, "done")
        house.clock.forward(hours=7)
        service.tip()
        house.clock.forward(hours=41)
        house.todoist.fail("ann", Fault.invalid_token())
        house.llm.behaviour = Behaviour.SERVER_ERROR
        service.tip()
        service.ask("POST", "/v1/users/nobody/tip")
        counted = {
            ("tip_seconds_count", "source", "stored"): 2,
            ("tip_seconds_count", "source", "inline"): 1,
            ("tip_seconds_count", "source", "stale"): 1,
            ("tip_llm_total", "llm", "called"): 1,
            ("tip_llm_total", "llm", "skipped"): 2,
            ("tip_llm_total", "llm", "fallback"): 1,
            ("llm_calls_total", "outcome", "answered"): 1,
            ("llm_calls_total", "outcome", "failed"): 1,
            ("inline_assemblies_total", "outcome", "assembled"): 1,
            ("inline_assemblies_total", "outcome", "failed"): 1,
            ("reactions_total", "reaction", "done"): 1,
        }
        assert {key: service.metric(key[0], **{key[1]: key[2]}) for key in counted} == counted
        assert service.metric("stale_served_total") == 1
        assert service.metric("todoist_calls_total") == 2


class TestDocument:
    def test_valid(self, service: Service) -> None:
        """The OpenAPI document is one, and says which problems each address may answer with, in their media type."""
        document = service.ask("GET", "/openapi.json").body
        OpenAPI.model_validate(document)
        answers = {
            path: {status: set(answer.get("content", {})) for status, answer in each["responses"].items()}
            for path, methods in document["paths"].items()
            for each in methods.values()
        }
        ok, problem, text = {"application/json"}, {"application/problem+json"}, {"text/plain"}
        for_users = {"200": ok, **dict.fromkeys(["401", "404", "422", "503"], problem)}
        assert answers == {
            "/v1/users/{user_id}/tip": for_users,
            "/v1/users/{user_id}/context": for_users,
            "/v1/users/{user_id}": {"204": set(), **{status: problem for status in for_users if status != "200"}},
            "/v1/decisions/{decision_id}/reaction": for_users | dict.fromkeys(["400", "409"], problem),
            "/healthz": {"200": text},
            "/readyz": {"200": text, "503": problem},
            "/metrics": {"200": text},
        }

    def test_good_answers(self, house: House, service: Service) -> None:
        """Good answers are what the document says of them, to the last member."""
        schema = schemathesis.openapi.from_dict(service.ask("GET", "/openapi.json").body)
        decision_id = service.tip().body["decision_id"]
        told: list[tuple[str, str, Any, Any]] = [
            ("/v1/users/{user_id}/tip", "POST", {"user_id": "ann"}, {}),
            ("/v1/users/{user_id}/context", "GET", {"user_id": "ann"}, {}),
            ("/v1/decisions/{decision_id}/reaction", "POST", {"decision_id": decision_id}, {"body": ACCEPTED}),
            (
                "/v1/decisions/{decision_id}/reaction",
                "POST",
                {"decision_id": decision_id},
                {"body": {"reaction": "done"}},
            ),
            ("/v1/decisions/{decision_id}/reaction", "POST", {"decision_id": str(uuid4())}, {"body": ACCEPTED}),
        ]
        found = [
            conforming(service, schema[path][method].Case(path_parameters=ids, **body))
            for path, method, ids, body in told
        ]
        assert found == [200, 200, 200, 200, 404]

    @pytest.mark.parametrize("mode", GenerationMode)
    def test_whatever_is_asked(self, service: Service, mode: GenerationMode) -> None:
        """Whatever is asked, allowed or not, with a token or without, the answer is one that the document names."""
        schema = schemathesis.openapi.from_dict(service.ask("GET", "/openapi.json").body)
        operations = [found.ok() for found in schema.get_all_operations()]
        asked = [each.as_strategy(generation_mode=mode) for each in operations if each.body or each.path_parameters]

        @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
        @given(case=st.one_of(asked), is_caller=st.booleans())
        def ask(case: schemathesis.Case[Any], is_caller: bool) -> None:
            conforming(service, case, is_caller=is_caller)

        ask()


CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
]


def conforming(service: Service, case: schemathesis.Case[Any], *, is_caller: bool = True) -> int:
    """The status of an answer, which is as the OpenAPI document says."""
    asked = case.as_transport_kwargs(base_url="http://service")
    asked["headers"] = {**asked["headers"], **({"Authorization": f"Bearer {TOKEN}"} if is_caller else {})}
    known = {"data": "content"}
    options = {known.get(name, name): value for name, value in asked.items() if name != "cookies"}
    answer = service.run(service.client.request(**options))
    case.validate_response(answer, checks=CHECKS)
    return int(answer.status_code)


TITLE, KEY, WRONG = "canary title 4711", "canary-key-4711", "canary-wrong-4711"


class TestCanaries:
    def test_nowhere(
        self,
        house: House,
        account: Any,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        capfd: pytest.CaptureFixture[str],
    ) -> None:
        """No title of a task, no token and no key is in any log line or error, however things fail."""
        caplog.set_level(logging.INFO)
        caplog.set_level(logging.WARNING, "httpx")  # it also tells of the calls that the test makes
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        house.prepare("ann", account(TITLE, f"{TITLE}: say it", {"id": "t9", "content": TITLE, "due": {"date": 5}}))
        service = house.open(todoist_timeout=0.2, llm_timeout=0.2, request_budget=1.5)
        errors = [
            service.ask("POST", TIP, headers={"Authorization": f"Bearer {WRONG}"}),
            service.ask("POST", f"/v1/users/{WRONG}/tip"),
            service.ask("POST", f"/v1/decisions/{WRONG}/reaction", json={"reaction": WRONG}),
            service.ask("POST", REACTION, json={"reaction": WRONG, "user_id": WRONG}),
            service.ask("POST", REACTION, content=WRONG, headers={"Content-Type": "application/json"}),
            service.ask("GET", f"/{WRONG}"),
        ]
        for behaviour in Behaviour:
            house.llm.behaviour = behaviour
            house.clock.forward(minutes=6)
            service.tip()
        house.clock.forward(hours=7)
        faults = [
            Fault.server_error(500), Fault.cut(), Fault.html_page(), Fault.truncated_json(), Fault.null_items(),
            Fault.item_without_id(), Fault.invalid_token(), Fault.rate_limited(1), Fault.slow(before=5),
        ]  # fmt: skip
        for fault in faults:
            house.todoist.fail("ann", fault)
            service.tip()
            house.clock.forward(hours=7)
        with house.without_database():
            errors += [service.ask("POST", TIP), service.ask("GET", CONTEXT), service.react(DECISION, "done")]
        sealed = Vault([new_key()]).seal("ann", Credentials(WRONG))
        house.connection.execute("UPDATE todoist_accounts SET credentials = %s", [sealed])
        service.tip()
        house.connection.execute("UPDATE candidate_sets SET tips = ARRAY[%s], bases = ARRAY['x']", [TITLE])
        house.connection.execute("UPDATE context_store SET context_hash = 'x'")
        errors.append(service.ask("POST", TIP))
        house.connection.execute("UPDATE context_store SET context_json = %s, context_hash = 'y'", [TITLE])
        errors.append(service.ask("POST", TIP))
        assert {each.status for each in errors} >= {401, 404, 422, 500, 503}
        captured = capfd.readouterr()
        said = [caplog.text, captured.out, captured.err, *(each.text for each in errors)]
        assert "user ann" in caplog.text
        for canary in ("canary", "4711", "token-of-ann", TOKEN):
            assert [each for each in said if canary in each] == []


class TestRemoval:
    def test_a_user_is_forgotten(self, house: House, service: Service) -> None:
        """A deletion leaves no row of the user in any table, and a later request finds nobody."""
        service.ask("POST", TIP)
        assert service.ask("DELETE", "/v1/users/ann").status == 204
        assert is_problem(service.ask("POST", TIP), 404, "there is no such user")
        assert is_problem(service.ask("DELETE", "/v1/users/ann"), 404, "there is no such user")
        tables = house.rows("SELECT table_name FROM information_schema.tables WHERE table_schema = current_schema()")
        rows = {name: house.rows(f'SELECT t::TEXT FROM "{name}" t') for (name,) in tables}
        assert [name for name, found in rows.items() if "ann" in str(found)] == []

    def test_nobody_deletes_without_a_token(self, house: House, service: Service) -> None:
        """Whoever has no token deletes nobody."""
        answered = service.ask("DELETE", "/v1/users/ann", headers={"Authorization": "Bearer wrong"})
        assert is_problem(answered, 401, "a service token is needed")
        assert house.rows("SELECT user_id FROM users") == [("ann",)]
