"""Access tokens, rotating refresh tokens and authorization codes of the stand-in for Todoist."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from random import Random
from typing import Any

from local.todoist.replies import invalid_token, oauth_error, unauthorized
from local.wire import RefusedError

ACCESS_LIFETIME = timedelta(hours=1)


@dataclass(frozen=True)
class Access:
    user: str
    expires_at: datetime | None = None
    revoked: bool = False


@dataclass(frozen=True)
class Consumed:
    user: str
    at: datetime
    answer: Mapping[str, Any]


class Grants:
    """Who may call, with which tokens. Source of the rules: API v1, "Refreshing access tokens"."""

    def __init__(self, random: Random, refresh_grace: timedelta) -> None:
        self._random = random
        self._grace = refresh_grace
        self._access: dict[str, Access] = {}
        self._refresh: dict[str, str] = {}
        self._consumed: dict[str, Consumed] = {}
        self._codes: dict[str, str] = {}

    def add(self, user: str, token: str, refresh_token: str | None) -> None:
        """A token given from outside lives until it is revoked."""
        self._access[token] = Access(user)
        if refresh_token is not None:
            self._refresh[refresh_token] = user

    def authorize(self, user: str) -> str:
        """The one-time code that Todoist hands over when `user` agrees."""
        code = self._secret()
        self._codes[code] = user
        return code

    def revoke(self, user: str) -> None:
        """Take back all that `user` ever granted."""
        for token, access in self._access.items():
            if access.user == user:
                self._access[token] = replace(access, revoked=True)
        self._refresh = {token: owner for token, owner in self._refresh.items() if owner != user}
        self._codes = {code: owner for code, owner in self._codes.items() if owner != user}

    def bearer(self, token: str | None) -> str | None:
        """Whose access token it is or was, valid or not."""
        access = self._access.get(token or "")
        return access.user if access else None

    def check(self, token: str | None, now: datetime) -> str:
        """The user of a valid access token; raises RefusedError (401, or 403 when revoked)."""
        access = self._access.get(token or "")
        if access is None or (access.expires_at is not None and access.expires_at <= now):
            raise RefusedError(unauthorized())
        if access.revoked:
            raise RefusedError(invalid_token())
        return access.user

    def applicant(self, arguments: Mapping[str, Any]) -> str | None:
        """Whose code or refresh token stands in a request for tokens."""
        consumed = self._consumed.get(arguments.get("refresh_token", ""))
        return (
            self._codes.get(arguments.get("code", ""))
            or self._refresh.get(arguments.get("refresh_token", ""))
            or (consumed.user if consumed else None)
        )

    def exchange(self, arguments: Mapping[str, Any], now: datetime) -> Mapping[str, Any]:
        """The answer of /oauth/access_token; raises RefusedError (400)."""
        if not arguments.get("client_id"):
            raise RefusedError(oauth_error("invalid_client"))
        match arguments.get("grant_type", "authorization_code"):
            case "authorization_code":
                return self._redeem(arguments.get("code", ""), now)
            case "refresh_token":
                return self._rotate(arguments.get("refresh_token", ""), now)
            case _:
                raise RefusedError(oauth_error("unsupported_grant_type"))

    def _redeem(self, code: str, now: datetime) -> Mapping[str, Any]:
        user = self._codes.pop(code, None)
        if user is None:
            raise RefusedError(oauth_error("bad_authorization_code"))
        return self._issue(user, now)

    def _rotate(self, token: str, now: datetime) -> Mapping[str, Any]:
        if token in self._consumed:
            return self._again(self._consumed[token], now)
        user = self._refresh.pop(token, None)
        if user is None:
            raise RefusedError(oauth_error("invalid_grant"))
        answer = self._issue(user, now)
        self._consumed[token] = Consumed(user, now, answer)
        return answer

    def _again(self, consumed: Consumed, now: datetime) -> Mapping[str, Any]:
        """In the grace time the same access token without a refresh token; later, a replay that ends all."""
        if now - consumed.at < self._grace:
            return {key: value for key, value in consumed.answer.items() if key != "refresh_token"}
        self.revoke(consumed.user)
        raise RefusedError(oauth_error("invalid_grant"))

    def _issue(self, user: str, now: datetime) -> Mapping[str, Any]:
        access_token, refresh_token = self._secret(), self._secret()
        self._access[access_token] = Access(user, now + ACCESS_LIFETIME)
        self._refresh[refresh_token] = user
        return {
            "access_token": access_token,
            "token_type": "Bearer",
            "expires_in": int(ACCESS_LIFETIME.total_seconds()),
            "refresh_token": refresh_token,
            "scope": "data:read",
        }

    def _secret(self) -> str:
        return f"{self._random.getrandbits(160):040x}"
