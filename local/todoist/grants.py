"""OAuth grants of the stand-in for Todoist: access tokens, rotating refresh tokens and authorization codes."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from random import Random
from typing import Any

from local.faulty_http import RefusedError
from local.todoist.replies import invalid_token, oauth_error, unauthorized

ACCESS_LIFETIME = timedelta(hours=1)


@dataclass(frozen=True)
class AccessToken:
    """An access token; it does not expire if `expires_at` is None."""

    user: str
    expires_at: datetime | None = None
    revoked: bool = False


@dataclass(frozen=True)
class ConsumedToken:
    """A refresh token that was used at `at`, and the response to that request."""

    user: str
    at: datetime
    body: Mapping[str, Any]


class Grants:
    """All current and previous tokens and codes. Source of the rules: API v1, "Refreshing access tokens".

    refresh_grace: time in which a used refresh token gets its access token again.
    """

    def __init__(self, rng: Random, refresh_grace: timedelta) -> None:
        self._rng = rng
        self._refresh_grace = refresh_grace
        self._access: dict[str, AccessToken] = {}
        self._refresh: dict[str, str] = {}
        self._consumed: dict[str, ConsumedToken] = {}
        self._codes: dict[str, str] = {}
        self._signed_in: set[str] = set()

    def to_json(self) -> dict[str, Any]:
        """All tokens, codes and agreements."""
        return {
            "access": {
                token: [each.user, each.expires_at and each.expires_at.isoformat(), each.revoked]
                for token, each in self._access.items()
            },
            "refresh": self._refresh,
            "consumed": {
                token: [each.user, each.at.isoformat(), each.body] for token, each in self._consumed.items()
            },
            "codes": self._codes,
            "signed_in": sorted(self._signed_in),
        }

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Replace everything by that of `to_json`; later tokens are different from these."""
        self._access = {
            token: AccessToken(user, datetime.fromisoformat(until) if until else None, revoked)
            for token, (user, until, revoked) in saved["access"].items()
        }
        self._refresh, self._codes = dict(saved["refresh"]), dict(saved["codes"])
        self._consumed = {
            token: ConsumedToken(user, datetime.fromisoformat(at), body)
            for token, (user, at, body) in saved["consumed"].items()
        }
        self._signed_in = set(saved["signed_in"])
        self._rng.seed(f"{self._rng.random()}/{sorted(self._access)}")

    def add(self, user: str, token: str, refresh_token: str | None) -> None:
        """Add an access token, valid until it is revoked, and optionally a refresh token."""
        self._access[token] = AccessToken(user)
        if refresh_token is not None:
            self._refresh[refresh_token] = user

    def authorize(self, user: str) -> str:
        """A new one-time code, as Todoist issues it when a user agrees."""
        code = self._secret()
        self._codes[code] = user
        return code

    def has_agreed(self, user: str) -> bool:
        """Whether a user signed in through the app, and has not revoked it; a personal token is no such thing."""
        return user in self._signed_in

    def revoke(self, user: str) -> None:
        """Revoke all tokens and codes of a user."""
        self._signed_in.discard(user)
        for token, access in self._access.items():
            if access.user == user:
                self._access[token] = replace(access, revoked=True)
        self._refresh = {token: owner for token, owner in self._refresh.items() if owner != user}
        self._codes = {code: owner for code, owner in self._codes.items() if owner != user}

    def owner(self, token: str | None) -> str | None:
        """The user of an access token, also if it is revoked or expired; None if it is unknown."""
        access = self._access.get(token or "")
        return access.user if access else None

    def check(self, token: str | None, now: datetime) -> str:
        """The user of a valid access token; raises RefusedError (403 if it is revoked, else 401)."""
        access = self._access.get(token or "")
        if access is None or (access.expires_at is not None and access.expires_at <= now):
            raise RefusedError(unauthorized())
        if access.revoked:
            raise RefusedError(invalid_token())
        return access.user

    def requester(self, arguments: Mapping[str, Any]) -> str | None:
        """The user of the code or refresh token in a token request, or None."""
        consumed = self._consumed.get(arguments.get("refresh_token", ""))
        return (
            self._codes.get(arguments.get("code", ""))
            or self._refresh.get(arguments.get("refresh_token", ""))
            or (consumed.user if consumed else None)
        )

    def exchange(self, arguments: Mapping[str, Any], now: datetime) -> Mapping[str, Any]:
        """The body of a token response; raises RefusedError (400) if the grant is invalid."""
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
        self._signed_in.add(user)
        return self._issue(user, now)

    def _rotate(self, token: str, now: datetime) -> Mapping[str, Any]:
        if token in self._consumed:
            return self._answer_reuse(self._consumed[token], now)
        user = self._refresh.pop(token, None)
        if user is None:
            raise RefusedError(oauth_error("invalid_grant"))
        body = self._issue(user, now)
        self._consumed[token] = ConsumedToken(user, now, body)
        return body

    def _answer_reuse(self, consumed: ConsumedToken, now: datetime) -> Mapping[str, Any]:
        """Answer a used refresh token: with the same access token within the grace time, else revoke all grants."""
        if now - consumed.at < self._refresh_grace:
            return {key: value for key, value in consumed.body.items() if key != "refresh_token"}
        self.revoke(consumed.user)
        raise RefusedError(oauth_error("invalid_grant"))

    def _issue(self, user: str, now: datetime) -> Mapping[str, Any]:
        access_token, refresh_token = self._secret(), self._secret()
        self._access[access_token] = AccessToken(user, now + ACCESS_LIFETIME)
        self._refresh[refresh_token] = user
        return {
            "access_token": access_token,
            "token_type": "Bearer",
            "expires_in": int(ACCESS_LIFETIME.total_seconds()),
            "refresh_token": refresh_token,
            "scope": "data:read",
        }

    def _secret(self) -> str:
        return f"{self._rng.getrandbits(160):040x}"
