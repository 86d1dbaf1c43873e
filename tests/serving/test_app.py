"""The HTTP routes: answers, errors, and private text that must never appear in answers and logs."""

from __future__ import annotations

import asyncio
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
from service import TOKEN, Service, ServiceHarness, is_problem

from contexts.assembly.model import UserContext
from contexts.todoist.credentials import CredentialCipher, Credentials, new_key
from local.llm import Behaviour
from local.todoist import Fault
from serving.problems import error_responder

DECISION = "9a4c1a4c-a625-4e17-ac54-c03264024d44"
TIP, CONTEXT, REACTION = "/v1/users/ann/tip", "/v1/users/ann/context", f"/v1/decisions/{DECISION}/reaction"
ACCEPTED = {"reaction": "accepted"}


@pytest.fixture
def ann(harness: ServiceHarness, account: Any) -> None:
    """A user with a few tasks and a context assembled at noon."""
    due = {"id": "t9", "content": "pay the rent", "due": {"date": "2026-11-23"}}
    harness.add_with_context("ann", account("water the plants", "call bob", due))


@pytest.fixture
def service(ann: None, harness: ServiceHarness) -> Service:
    return harness.open()


class TestTip:
    @pytest.mark.parametrize("user", ["nobody", "%20", "ann%20", "ANN", "'; DROP TABLE users; --"])
    def test_unknown_user(self, service: Service, user: str) -> None:
        """An unknown user gets 404."""
        assert is_problem(service.request("POST", f"/v1/users/{user}/tip"), 404, "there is no such user")

    @pytest.mark.parametrize("user", ["%00", "a%0Ab", "%E2%80%AE", "%ff", "x" * 257])
    def test_invalid_id(self, service: Service, user: str) -> None:
        """An invalid user id is refused with the allowed form."""
        expected = "user_id: expected 1 to 256 printable characters without '/'"
        assert is_problem(service.request("POST", f"/v1/users/{user}/tip"), 422, expected)

    def test_any_id(self, harness: ServiceHarness, service: Service, account: Any) -> None:
        """A user id may consist of any printable characters."""
        user = "anna@exämple.org +жук"
        harness.world.accounts.add(
            user, email="a@example.org", timezone="UTC", credentials=Credentials("token-of-anna")
        )
        harness.todoist.load("token-of-anna", account("call bob"), user=user)
        assert service.tip("anna%40ex%C3%A4mple.org%20+%D0%B6%D1%83%D0%BA").origin == ("inline", "called")


class TestContext:
    def test_stored_context(self, harness: ServiceHarness, service: Service) -> None:
        """The stored context is shown with its hash, its age and its freshness."""
        harness.clock.forward(hours=1)
        shown = service.request("GET", CONTEXT).body
        stored = harness.world.stored()["ann"]
        assert shown["context"] == json.loads(stored["context_json"])
        assert shown["context_hash"] == stored["context_hash"]
        assert shown["age_seconds"] == pytest.approx(3600, abs=0.01)
        assert shown["is_fresh"] is True
        assert harness.calls() == (0, 0)

    @pytest.mark.parametrize("by", [{"hours": 6, "seconds": 1}, {"hours": 13}])
    def test_not_fresh(self, harness: ServiceHarness, service: Service, by: dict[str, int]) -> None:
        """After the SLA, or after the midnight at which a task moves, the context is shown as not fresh."""
        harness.clock.forward(**by)
        assert service.request("GET", CONTEXT).body["is_fresh"] is False

    def test_none_yet(self, harness: ServiceHarness, service: Service, account: Any) -> None:
        """A user without a context is distinguished from an unknown user."""
        harness.world.add("bob", account("call ann"))
        assert is_problem(service.request("GET", "/v1/users/bob/context"), 404, "this user has no context yet")
        assert is_problem(service.request("GET", "/v1/users/nobody/context"), 404, "there is no such user")


class TestReaction:
    def test_decision_of_another_user(self, harness: ServiceHarness, service: Service) -> None:
        """Another user's decision cannot be distinguished from a missing one, and is not changed."""
        decision_id = service.tip().body["decision_id"]
        foreign = service.react(decision_id, "done", user_id="bob")
        missing = service.react(DECISION, "done", user_id="bob")
        assert is_problem(foreign, 404, "there is no such decision")
        assert foreign.text == missing.text
        assert harness.rows("SELECT FROM reactions") == []
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
        """Invalid input is named by its location, with the expected values."""
        headers = {"Content-Type": "application/json"}
        response = service.request("POST", path, content=json.dumps(body), headers=headers)
        assert is_problem(response, 422, named)

    @pytest.mark.parametrize(("content", "status"), [("{", 422), (b'{"reaction": "\xff"}', 400)])
    def test_invalid_json(self, service: Service, content: str | bytes, status: int) -> None:
        """Invalid JSON is refused as a problem too."""
        headers = {"Content-Type": "application/json"}
        assert is_problem(service.request("POST", REACTION, content=content, headers=headers), status, "")


class TestToken:
    def test_description_of_the_api(self, service: Service) -> None:
        """The start page leads to /docs, which names each route, and loads nothing from other servers."""
        start = service.request("GET", "/", headers={"Authorization": ""})
        assert (start.status, start.headers["location"]) == (307, "/docs")
        page = service.request("GET", "/docs", headers={"Authorization": ""})
        assert page.status == 200
        assert "POST /v1/users/{user_id}/tip" in page.text
        assert "http" not in page.text

    def test_all_addresses(self, service: Service) -> None:
        """Every address of the document needs a token, except those for the platform, and a callback a state."""
        paths = service.request("GET", "/openapi.json").body["paths"]
        wrong = {"Authorization": "Bearer wrong"}
        statuses = {
            path: service.request(method.upper(), path, headers=wrong).status
            for path, methods in paths.items()
            for method in methods
        }
        assert {path for path, status in statuses.items() if status == 200} == {"/healthz", "/readyz", "/metrics"}
        assert statuses.pop("/v1/todoist/callback") == 400
        assert set(statuses.values()) == {200, 401}

    @pytest.mark.parametrize("path", ["/", "/healthz", "/readyz", "/metrics", "/docs"])
    def test_head(self, service: Service, path: str) -> None:
        """HEAD is answered as GET, without the body, for monitors that ask so."""
        head, get = service.request("HEAD", path), service.request("GET", path)
        assert (head.status, head.text) == (get.status, "")
        assert head.headers["content-type" if head.status == 200 else "location"]


class TestProblems:
    @pytest.mark.parametrize(
        ("method", "path"), [("GET", "/nope"), ("POST", "/v1/users//tip"), ("POST", "/v1/users/a/b/tip")]
    )
    def test_no_such_address(self, service: Service, method: str, path: str) -> None:
        """An unknown address is distinguished from an unknown user."""
        assert is_problem(service.request(method, path), 404, "there is nothing at this address")

    def test_wrong_method(self, service: Service) -> None:
        """A wrong method is answered with the allowed one."""
        response = service.request("GET", TIP)
        assert is_problem(response, 405, "this address does not accept this method")
        assert response.headers["allow"] == "POST"

    def test_database_is_gone(self, harness: ServiceHarness, service: Service) -> None:
        """Without the database all routes that need it answer 503, and the process is alive."""
        decision_id = service.tip().body["decision_id"]
        with harness.without_database():
            failing = [
                service.request("POST", TIP),
                service.request("GET", CONTEXT),
                service.react(decision_id, "done"),
                service.request("GET", "/readyz"),
            ]
            alive = [service.request("GET", path).status for path in ("/healthz", "/metrics")]
        for response in failing:
            assert is_problem(response, 503, "the database did not answer; try again in a few seconds")
            assert response.headers["retry-after"] == "5"
        assert alive == [200, 200]
        assert service.request("GET", "/readyz").text == "ready\n"
        assert service.react(decision_id, "done").body["is_news"] is True

    def test_refused_value(self, harness: ServiceHarness, service: Service) -> None:
        """A value that Postgres refuses is a fault of the service, and not of the database: 500."""
        decision_id = service.tip().body["decision_id"]
        harness.connection.execute("ALTER TABLE reactions ADD CONSTRAINT none CHECK (reaction = 'none') NOT VALID")
        try:
            assert is_problem(service.react(decision_id, "done"), 500, "internal error")
        finally:
            harness.connection.execute("ALTER TABLE reactions DROP CONSTRAINT none")

    def test_many_reactions(self, harness: ServiceHarness, service: Service) -> None:
        """While reactions cannot be stored, those beyond a bounded number are refused at once, and tips go on."""
        decision_id = service.tip().body["decision_id"]
        path, body = f"/v1/decisions/{decision_id}/reaction", {"reaction": "done"}

        async def react() -> tuple[int, list[Any]]:
            tasks = [asyncio.create_task(service.request_async("POST", path, json=body)) for _ in range(100)]
            done: set[Any] = set()
            while len(done) < 35:
                await asyncio.wait(set(tasks) - done, return_when=asyncio.FIRST_COMPLETED)
                done = {task for task in tasks if task.done()}
            tip = await service.tip_async()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            return tip.status, [task.result().status for task in done]

        with harness.connection.transaction():
            harness.connection.execute("SELECT FROM policies FOR UPDATE")
            assert harness.run(react()) == (200, [503] * 35)

    def test_unexpected_error(self, caplog: pytest.LogCaptureFixture) -> None:
        """An unexpected error is a problem document too; the log names the place, without private text."""
        with pytest.raises(ValueError) as raised:
            UserContext.model_validate_json('{"title": "canary-4711"}')
        response = error_responder({})(raised.value)
        assert (response.status_code, response.media_type) == (500, "application/problem+json")
        assert b"internal error" in response.body
        assert "unexpected ValidationError: " in caplog.text
        assert "test_app.py" in caplog.text
        assert "canary-4711" not in caplog.text


@pytest.mark.usefixtures("ann")
class TestMetrics:
    def test_counted(self, harness: ServiceHarness) -> None:
        """Answers, calls and reactions are counted."""
        service = harness.open(llm_wait=6)
        decision_id = service.tip().body["decision_id"]
        service.tip()
        service.react(decision_id, "done")
        service.react(decision_id, "done")
        harness.clock.forward(hours=7)
        service.tip()
        harness.clock.forward(hours=41)
        harness.todoist.fail("ann", Fault.rate_limited())
        harness.llm.behaviour = Behaviour.SERVER_ERROR
        service.tip()
        service.request("POST", "/v1/users/nobody/tip")
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


class TestOpenAPI:
    def test_valid(self, harness: ServiceHarness) -> None:
        """The OpenAPI document is valid, and lists the problems of each address with their media type."""
        service = harness.open(todoist_client_secrets="secret-of-the-app")
        document = service.request("GET", "/openapi.json").body
        OpenAPI.model_validate(document)
        answers = {
            path: {status: set(answer.get("content", {})) for status, answer in each["responses"].items()}
            for path, methods in document["paths"].items()
            for each in methods.values()
        }
        ok, problem, text = {"application/json"}, {"application/problem+json"}, {"text/plain"}
        for_users = {"200": ok, **dict.fromkeys(["401", "404", "408", "413", "422", "503"], problem)}
        assert answers == {
            "/v1/users/{user_id}/tip": for_users,
            "/v1/users/{user_id}/context": for_users,
            "/v1/users/{user_id}": {"204": set(), **{status: problem for status in for_users if status != "200"}},
            "/v1/decisions/{decision_id}/reaction": for_users | dict.fromkeys(["400", "409"], problem),
            "/v1/todoist/connect": for_users,
            "/v1/todoist/callback": {
                "200": text,
                "303": set(),
                **dict.fromkeys(["400", "403", "409", "413", "422", "503"], problem),
            },
            "/v1/todoist/events": {"200": set(), **dict.fromkeys(["401", "408", "413", "503"], problem)},
            "/healthz": {"200": text},
            "/readyz": {"200": text, "503": problem},
            "/metrics": {"200": text},
        }

    def test_good_answers(self, harness: ServiceHarness, service: Service) -> None:
        """Successful answers match the document exactly."""
        schema = schemathesis.openapi.from_dict(service.request("GET", "/openapi.json").body)
        decision_id = service.tip().body["decision_id"]
        cases: list[tuple[str, str, Any, Any]] = [
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
        statuses = [
            conforming(service, schema[path][method].Case(path_parameters=ids, **body))
            for path, method, ids, body in cases
        ]
        assert statuses == [200, 200, 200, 200, 404]

    @pytest.mark.parametrize("mode", GenerationMode)
    def test_any_request(self, service: Service, mode: GenerationMode) -> None:
        """Any request, valid or not, with or without a token, gets an answer that the document lists."""
        schema = schemathesis.openapi.from_dict(service.request("GET", "/openapi.json").body)
        operations = [found.ok() for found in schema.get_all_operations()]
        cases = [each.as_strategy(generation_mode=mode) for each in operations if each.body or each.path_parameters]

        @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
        @given(case=st.one_of(cases), is_caller=st.booleans())
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
    """The status of an answer after a check against the OpenAPI document."""
    request = case.as_transport_kwargs(base_url="http://service")
    request["headers"] = {**request["headers"], **({"Authorization": f"Bearer {TOKEN}"} if is_caller else {})}
    names = {"data": "content"}
    options = {names.get(name, name): value for name, value in request.items() if name != "cookies"}
    answer = service.run(service.client.request(**options))
    case.validate_response(answer, checks=CHECKS)
    return int(answer.status_code)


TITLE, KEY, WRONG = "canary title 4711", "canary-key-4711", "canary-wrong-4711"


class TestPrivateText:
    def test_nowhere(
        self,
        harness: ServiceHarness,
        account: Any,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        capfd: pytest.CaptureFixture[str],
    ) -> None:
        """No title, token or key appears in any log line or error, whatever fails."""
        caplog.set_level(logging.INFO)
        caplog.set_level(logging.WARNING, "httpx")  # it also logs the calls of the test itself
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        harness.add_with_context(
            "ann", account(TITLE, f"{TITLE}: say it", {"id": "t9", "content": TITLE, "due": {"date": 5}})
        )
        service = harness.open(todoist_timeout=0.2, llm_timeout=0.2, request_budget=1.5)
        errors = [
            service.request("POST", TIP, headers={"Authorization": f"Bearer {WRONG}"}),
            service.request("POST", f"/v1/users/{WRONG}/tip"),
            service.request("POST", f"/v1/decisions/{WRONG}/reaction", json={"reaction": WRONG}),
            service.request("POST", REACTION, json={"reaction": WRONG, "user_id": WRONG}),
            service.request("POST", REACTION, content=WRONG, headers={"Content-Type": "application/json"}),
            service.request("GET", f"/{WRONG}"),
        ]
        for behaviour in Behaviour:
            harness.llm.behaviour = behaviour
            harness.clock.forward(minutes=6)
            service.tip()
        harness.clock.forward(hours=7)
        faults = [
            Fault.server_error(500), Fault.disconnect(), Fault.html_page(), Fault.truncated_json(),
            Fault.invalid_token(), Fault.null_items(), Fault.item_without_id(), Fault.rate_limited(1),
            Fault.slow(delay_s=5),
        ]  # fmt: skip
        for fault in faults:
            harness.todoist.fail("ann", fault)
            service.tip()
            harness.clock.forward(hours=7)
        with harness.without_database():
            errors += [service.request("POST", TIP), service.request("GET", CONTEXT), service.react(DECISION, "done")]
        sealed = CredentialCipher([new_key()]).seal("ann", Credentials(WRONG))
        harness.connection.execute("UPDATE todoist_accounts SET credentials = %s", [sealed])
        service.tip()
        harness.connection.execute("UPDATE candidate_sets SET tips = ARRAY[%s], subject_hashes = ARRAY['x']", [TITLE])
        harness.connection.execute("UPDATE context_store SET context_hash = 'x'")
        errors.append(service.request("POST", TIP))
        harness.connection.execute("UPDATE context_store SET context_json = %s, context_hash = 'y'", [TITLE])
        errors += [service.request("POST", TIP), service.request("GET", CONTEXT)]
        assert {each.status for each in errors} >= {200, 401, 404, 422, 503}
        captured = capfd.readouterr()
        texts = [caplog.text, captured.out, captured.err, *(each.text for each in errors)]
        assert "user ann" in caplog.text
        for canary in ("canary", "4711", "token-of-ann", TOKEN):
            assert [each for each in texts if canary in each] == []


class TestRemoval:
    def test_user_is_erased(self, harness: ServiceHarness, service: Service) -> None:
        """A deletion leaves no row of the user in any table; a later request gets 404."""
        service.request("POST", TIP)
        assert service.request("DELETE", "/v1/users/ann").status == 204
        assert is_problem(service.request("POST", TIP), 404, "there is no such user")
        assert is_problem(service.request("DELETE", "/v1/users/ann"), 404, "there is no such user")
        tables = harness.rows(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = current_schema()"
        )
        rows = {name: harness.rows(f'SELECT t::TEXT FROM "{name}" t') for (name,) in tables}
        assert [name for name, found in rows.items() if "ann" in str(found)] == []

    def test_token_is_required(self, harness: ServiceHarness, service: Service) -> None:
        """A deletion needs a token."""
        response = service.request("DELETE", "/v1/users/ann", headers={"Authorization": "Bearer wrong"})
        assert is_problem(response, 401, "a service token is required")
        assert harness.rows("SELECT user_id FROM users") == [("ann",)]
