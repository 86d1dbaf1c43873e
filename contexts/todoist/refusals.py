"""The verdict on the refused tokens of a run: single accounts to reconnect, or an outage of Todoist."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from contexts.todoist.client import TodoistError

OUTAGE_ACCOUNTS = 5
"""A run over fewer accounts than this is no evidence of an outage."""


class MostRefused(TodoistError):
    """Todoist refused the tokens of most accounts of a run; no account was disconnected by that."""


@dataclass(frozen=True)
class RefusalVerdict:
    """The numbers of accounts of a run, over all its shards, by the outcome of their fetch.

    n_failed: accounts that were not fetched, including the refused ones.
    """

    n_fetched: int
    n_failed: int
    n_refused: int

    @classmethod
    def of(cls, counts: Iterable[Mapping[str, Any]]) -> RefusalVerdict:
        """Sum the counts of the run's assets; those of other assets than `todoist_tasks` do not matter."""
        names, listed = ("users_fetched", "users_failed", "users_refused"), list(counts)
        return cls(*(sum(each.get(name, 0) for each in listed) for name in names))

    @property
    def has_evidence(self) -> bool:
        """Whether the run looked at enough accounts to recognise an outage."""
        return self.n_fetched + self.n_failed >= OUTAGE_ACCOUNTS

    @property
    def is_outage(self) -> bool:
        """Whether most accounts were refused, of those that Todoist either served or refused."""
        return self.has_evidence and self.n_refused > self.n_fetched

    def raise_if_outage(self) -> None:
        """Raise MostRefused if this is an outage; call it after everything else of the run is done."""
        if self.is_outage:
            raise MostRefused(
                f"Todoist refused the tokens of {self.n_refused} of {self.n_fetched + self.n_failed} accounts,"
                f" and {self.n_fetched} could be fetched."
                " That is an outage: no account was disconnected, and the fetched users are published."
                " Check Todoist's status, TODOIST_API_URL and the OAuth app; the next run asks again."
                " If the tokens really are invalid: python -m contexts accounts deactivate USER"
            )
