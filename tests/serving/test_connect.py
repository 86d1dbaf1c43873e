"""Users who connect their Todoist by OAuth: the product's call, Todoist's page, and the callback."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
import pytest
from service import Service, ServiceHarness, is_problem, task_ids

from contexts.todoist.credentials import Credentials
from local.todoist import RegisteredApp
from serving.connect_state import STATE_PERIOD

CONNECT, CALLBACK = "/v1/todoist/connect", "/v1/todoist/callback"
APP = {"todoist_client_id": "ours", "todoist_client_secret": "secret", "todoist_timeout": 3}
OURS = ("serving", "contexts")
"""The loggers of the service; the test's own client logs addresses."""


class Browser:
    """The browser of a user, whom the product sends to Todoist and Todoist back to the service."""

    def __init__(self, harness: ServiceHarness, service: Service) -> None:
        self.harness, self.service = harness, service
        harness.todoist.register(RegisteredApp("ours", "secret", f"{service.url}{CALLBACK}"))

    def url(self, user: str = "bob") -> str:
        """The address that the product gets for its user."""
        response = self.service.request("GET", CONNECT, params={"user_id": user})
        assert response.status == 200, response.text
        return str(response.body["url"])

    def follow(self, url: str) -> str:
        """The address to which the page of an address sends the browser."""
        location: str = self.harness.run(asyncio.to_thread(httpx.get, url)).headers["location"]
        return location

    def get(self, url: str) -> Any:
        """The service's response to the browser, which has no token."""
        parts = urlsplit(url)
        return self.service.request("GET", f"{parts.path}?{parts.query}", headers={"Authorization": ""})

    def connect(self, user: str = "bob") -> Any:
        """The end of the whole flow of a user who agrees."""
        return self.get(self.follow(self.url(user)))

    def state(self, user: str = "bob") -> str:
        return parse_qs(urlsplit(self.url(user)).query)["state"][0]

    def callback(self, **query: str) -> Any:
        return self.get(f"{CALLBACK}?{urlencode(query)}")


@pytest.fixture
def service(harness: ServiceHarness) -> Service:
    return harness.open(listens=True, new_users_interval_s=0.05, **APP)


@pytest.fixture
def browser(harness: ServiceHarness, service: Service, account: Any) -> Browser:
    """Bob has a Todoist, and is signed in there; the service does not know him."""
    user = {"id": "77", "email": "bob@x.org", "lang": "en", "tz_info": {"timezone": "Europe/Berlin"}}
    harness.todoist.load("personal", account("call ann", "buy bread", user=user), user="bob")
    harness.todoist.visit("bob")
    return Browser(harness, service)


def account_of(harness: ServiceHarness, user: str = "bob") -> tuple[Any, ...] | None:
    """The owner at Todoist, whether signed in through the app, and whether connected."""
    columns = "todoist_user_id, oauth_connected_at IS NOT NULL, connected"
    found = harness.rows(f"SELECT {columns} FROM todoist_accounts WHERE user_id = %s", user)
    return found[0] if found else None


class TestConnected:
    def test_new_user(self, harness: ServiceHarness, browser: Browser) -> None:
        """A user whom the service did not know is added, prepared, and gets a tip about an own task."""
        assert browser.connect().text == "Todoist is connected. You can close this page.\n"
        assert account_of(harness) == ("77", True, True)
        assert harness.rows("SELECT user_id, email, timezone FROM users") == [("bob", "bob@x.org", "Europe/Berlin")]
        harness.until(lambda: harness.rows("SELECT FROM context_store WHERE user_id = 'bob'"))
        assert task_ids([browser.service.tip("bob").body["tip"]]) <= {"t0", "t1"}

    def test_address(self, browser: Browser) -> None:
        """The product gets the address of Todoist's page with the app's id, the least scope and a signed state."""
        parts = urlsplit(browser.url())
        query = parse_qs(parts.query)
        assert parts.path == "/oauth/authorize"
        assert (query["client_id"], query["scope"], set(query)) == (
            ["ours"],
            ["data:read"],
            {"client_id", "scope", "state"},
        )

    def test_replaced_account(self, harness: ServiceHarness, browser: Browser, account: Any) -> None:
        """A user with a personal token gets the new account; the email of the product stays."""
        harness.add_with_context("bob", account("water the plants"))
        before = harness.one("SELECT connection_number FROM todoist_accounts")
        assert browser.connect().status == 200
        assert account_of(harness) == ("1", True, True)
        assert harness.one("SELECT connection_number FROM todoist_accounts") > before
        assert harness.one("SELECT email FROM users") == "bob@example.org"

    def test_personal_token_afterwards(self, harness: ServiceHarness, browser: Browser) -> None:
        """An account that is replaced by one with a personal token no longer counts as signed in through the app."""
        browser.connect()
        harness.world.accounts.add("bob", email="b@x.org", timezone="UTC", credentials=Credentials("personal"))
        assert account_of(harness) == (None, False, True)

    def test_redirect(self, harness: ServiceHarness, browser: Browser) -> None:
        """With TODOIST_CONNECTED_URL the user is sent back to the product, which is told the outcome."""
        service = harness.open(listens=True, todoist_connected_url="https://product.example/done?page=1", **APP)
        browser = Browser(harness, service)
        response = browser.connect()
        location = response.headers["location"]
        assert (response.status, location) == (303, "https://product.example/done?page=1&outcome=connected")
        harness.todoist.visit(None)
        assert browser.connect().headers["location"].endswith("&outcome=denied")
        assert response.headers["referrer-policy"] == "no-referrer"

    def test_sealed(self, harness: ServiceHarness, browser: Browser, caplog: pytest.LogCaptureFixture) -> None:
        """Tokens, codes and states are neither stored in plain text nor logged."""
        caplog.set_level("DEBUG")
        callback = browser.follow(browser.url())
        browser.get(callback)
        query = parse_qs(urlsplit(callback).query)
        sealed = harness.one("SELECT credentials FROM todoist_accounts")
        token = harness.world.accounts.load(["bob"])[0][0].credentials.access_token
        assert token not in sealed

        def logged() -> str:
            return " ".join(record.getMessage() for record in caplog.records if record.name.startswith(OURS))

        harness.until(lambda: CALLBACK in logged())
        assert [text for text in (token, *query["code"], *query["state"]) if text in logged()] == []


class TestRefused:
    @pytest.mark.parametrize("change", ["", "another", "cut", "last character", "not base64", "long"])
    def test_wrong_state(self, harness: ServiceHarness, browser: Browser, change: str) -> None:
        """A callback without a state that this service signed is refused before Todoist is called."""
        good = browser.state()
        states = {
            "": "",
            "another": "A" * len(good),
            "cut": good[:-8],
            "last character": good[:60] + ("A" if good[60] != "A" else "B") + good[61:],
            "not base64": "\u00e4",
            "long": good * 100,
        }
        response = browser.callback(state=states[change], code="x")
        assert is_problem(response, 400, "this link is not from this service")
        assert (len(harness.todoist.calls), account_of(harness)) == (0, None)

    def test_another_users_state(self, harness: ServiceHarness, browser: Browser) -> None:
        """A state connects the user for whom it was signed, and nobody else."""
        browser.get(browser.follow(browser.url("ann")))
        assert harness.rows("SELECT user_id FROM users") == [("ann",)]

    def test_expired(self, harness: ServiceHarness, browser: Browser) -> None:
        """After ten minutes a state is worthless."""
        callback = browser.follow(browser.url())
        harness.clock.forward(seconds=STATE_PERIOD.total_seconds())
        assert is_problem(browser.get(callback), 400, "this link has expired")
        assert account_of(harness) is None

    def test_used_once(self, harness: ServiceHarness, browser: Browser) -> None:
        """A state connects one account: with another code it is refused, also by another process."""
        state = browser.state()
        assert browser.callback(state=state, code=harness.todoist.authorize("bob")).status == 200
        other = Browser(harness, harness.open(listens=True, **APP))
        for each in (browser, other):
            response = each.callback(state=state, code=harness.todoist.authorize("bob"))
            assert is_problem(response, 409, "connected an account")

    def test_at_the_same_time(self, harness: ServiceHarness, browser: Browser) -> None:
        """Of two callbacks with one state that come together, one connects."""
        state, path = browser.state(), CALLBACK
        codes = [harness.todoist.authorize("bob") for _ in range(2)]
        urls = [f"{path}?{urlencode({'state': state, 'code': code})}" for code in codes]
        answers = harness.together(*(browser.service.request_async("GET", url) for url in urls))
        assert sorted(answer.status for answer in answers) == [200, 409]

    def test_removed_meanwhile(self, harness: ServiceHarness, browser: Browser, account: Any) -> None:
        """A user who was removed since the flow began is not added again."""
        harness.add_with_context("bob", account("water the plants"))
        callback = browser.follow(browser.url())
        browser.service.request("DELETE", "/v1/users/bob")
        assert is_problem(browser.get(callback), 409, "the user was removed")
        assert harness.rows("SELECT FROM users") == []

    def test_denied(self, harness: ServiceHarness, browser: Browser) -> None:
        """A user who does not agree is told so, and nothing is connected."""
        harness.todoist.visit(None)
        assert is_problem(browser.connect(), 403, "the user did not agree")
        assert account_of(harness) is None

    def test_wrong_code(self, harness: ServiceHarness, browser: Browser) -> None:
        """A code that Todoist does not know connects nothing."""
        response = browser.callback(state=browser.state(), code="guessed")
        assert is_problem(response, 400, "Todoist refused its own code")
        assert account_of(harness) is None

    def test_todoist_down(self, harness: ServiceHarness, browser: Browser) -> None:
        """While Todoist does not answer nothing is connected, and the user can begin again."""
        callback, url = browser.follow(browser.url()), "http://127.0.0.1:9"
        service = harness.open(listens=True, todoist_api_url=url, **APP)
        assert is_problem(Browser(harness, service).get(callback), 503, "Todoist does not answer")
        assert account_of(harness) is None
        assert browser.get(callback).status == 200

    def test_without_app(self, harness: ServiceHarness) -> None:
        """Without the settings of the OAuth app there is no flow."""
        response = harness.open().request("GET", CONNECT, params={"user_id": "bob"})
        assert is_problem(response, 404, "set TODOIST_CLIENT_ID and TODOIST_CLIENT_SECRET")

    @pytest.mark.parametrize("user", ["a/b", "..", ""])
    def test_user_id(self, browser: Browser, user: str) -> None:
        """An id that no user can have is refused."""
        assert browser.service.request("GET", CONNECT, params={"user_id": user}).status == 422

    def test_token(self, browser: Browser) -> None:
        """The address for a user is for callers with a token only."""
        wrong = {"Authorization": "Bearer wrong"}
        assert browser.service.request("GET", CONNECT, params={"user_id": "bob"}, headers=wrong).status == 401

    def test_body(self, browser: Browser) -> None:
        """A callback takes no body."""
        response = browser.service.request("GET", f"{CALLBACK}?state={browser.state()}", content=b"x")
        assert response.status == 413
