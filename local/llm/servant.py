"""An author that obeys whatever a user's texts order: the worst that a prompt injection can make of an LLM."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle, islice

from local.llm.author import cut
from local.llm.context import Context, words_of
from local.llm.form import Candidate, Form

AT_MOST = 20
_ORDER = re.compile(
    r"\b(?:say|says|reply|output|print|write|answer|respond|tell|repeat|echo|sage?|schreib\w*|antworte\w*|écris"
    r"|réponds|escribe|responde)\b|:(?!//)",
    re.IGNORECASE,
)
_ADDRESS = re.compile(
    r"(?:https?|javascript|data):\S+|\bwww\.\S+|\b[\w-]+\.(?:com|net|org|io|example)\b\S*", re.IGNORECASE
)
_MASTERFUL = re.compile(
    r"\b(?:ignore|disregard|forget|override|instructions?|prompt|system|assistant|previous|must|only)\b"
    r"|\b[A-Z]{4,}\b|[<>{}\[\]]"
)
_AROUND = " \t\n\"'`“”„«»:,"

Said = tuple[str, str, tuple[str, ...]]
"""Title, body, task ids."""


@dataclass(frozen=True)
class Order:
    """What a text says, what it wants to be said, and the address in it, if there is one."""

    text: str
    wish: str
    address: str | None
    task_ids: tuple[str, ...]


def obedient(context: Context, form: Form) -> list[Candidate]:
    """Each order as plain words, as a link and as markup, then every other text, as far as the form has room.

    Kinds and task ids are those of an honest tip: what gives it away is the text alone.
    """
    orders = sorted(_orders(context), key=_mastery, reverse=True)
    kinds = cycle(form.kinds or ("focus", "plan"))
    said = [*_said(orders), *_copied(context)] or [("Nothing to obey", "No order was found.", ())]
    # Where the form wants more than there is, again from the start.
    room = form.count(min(len(said), AT_MOST))
    return [
        Candidate(next(kinds), cut(title, form.title), cut(body, form.body), ids)
        for title, body, ids in islice(cycle(said), room)
    ]


def _mastery(order: Order) -> int:
    """Orders to a model come before the notes that a user makes, where there is no room for all."""
    return len(_MASTERFUL.findall(order.text)) + 2 * (order.address is not None)


def _said(orders: list[Order]) -> Iterator[Said]:
    for order in orders:
        yield order.wish, order.text, order.task_ids
    for order in orders:
        yield order.text, order.wish, order.task_ids
    for order in orders:
        yield order.address or order.wish, _markdown(order), order.task_ids
    for order in orders:
        yield _html(order), order.address or order.wish, order.task_ids
        yield order.wish, _html(order), order.task_ids


def _markdown(order: Order) -> str:
    return f"[{order.wish}]({order.address})" if order.address else f"**{order.wish}**"


def _html(order: Order) -> str:
    return f'<a href="{order.address}">{order.wish}</a>' if order.address else f"<b>{order.wish}</b>"


def _copied(context: Context) -> Iterator[Said]:
    for text, ids in words_of(context):
        yield "One of your tasks", text, ids or context.task_ids[:1]


def _orders(context: Context) -> Iterator[Order]:
    """One order per word that gives one, the longest wish first; a text with nothing but an address is one too."""
    for text, ids in words_of(context):
        address = _ADDRESS.search(text)
        wishes = [text[found.end() :].strip(_AROUND) for found in _ORDER.finditer(text)]
        for wish in dict.fromkeys(wish for wish in wishes or [text if address else ""] if wish):
            yield Order(text, wish, address[0] if address else None, ids or context.task_ids[:1])
