"""Reasons not to show a tip that an LLM wrote: unknown ids, links and markup, copied words. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache

from contexts.assembly.model import UserContext, tasks_shown
from tips.addresses import has_links_or_markup
from tips.candidates import GENERIC, KINDS, Tip
from tips.own_texts import without_texts_of_others
from tips.references import names_reference
from tips.texts import padded, plain_words, visible_text, word_runs
from tips.worked_examples import repeats_example

_COPIED_WORDS = 4
_FEWEST_WORDS = 3
"""Four words of the context in a row are a copy, and so are all words of a text of three; two are a coincidence."""

_SENTENCE_END = re.compile(r"(?<=[.!?\u2026\u061f\u0964])\s+|[\u3002\uff01\uff1f]")


def violations(tip: Tip, context: UserContext) -> list[str]:
    """Reasons not to show a candidate that an LLM wrote; empty if there are none.

    Anybody may have written the title of a task, and copied words may be an attacker's text, so links, markup and
    words copied from the context are refused; the product shows the tasks themselves. Up to three words in a row may
    be the same as in the context. Words of the prompt's worked examples are refused, because they are about tasks
    that the user does not have.
    """
    reasons = []
    tasks, themes = tasks_shown(context), {theme.id for theme in context.themes}
    if unknown := [task_id for task_id in tip.task_ids if task_id not in tasks]:
        reasons.append(f"task_ids {unknown} are not in the context")
    if tip.theme is not None and tip.theme not in themes:
        reasons.append("theme is no id of a theme of the context")
    if len(set(tip.named_tasks)) < len(tip.named_tasks):
        reasons.append("body names a task twice")
    return [
        *reasons,
        *_text_violations("title", (tip.title,), context),
        *_text_violations("body", tip.texts, context),
    ]


def _text_violations(name: str, texts: Sequence[str], context: UserContext) -> Iterator[str]:
    """The violations of the texts of a field, each reason once.

    The texts are checked one by one and joined, so that a task between two texts does not hide their common words.
    """
    in_a_row = " ".join(" ".join(texts).split())
    if any(text.strip() != visible_text(text) for text in texts):
        yield f"{name} holds invisible characters"
    if any(map(has_links_or_markup, {*texts, in_a_row})):
        yield f"{name} holds a link, an address, a number to call or markup; plain words only"
    if any(map(names_reference, texts)):
        yield f"{name} holds a reference to a task or theme inside a text; only a part of its own names a task"
    if not plain_words(in_a_row):
        yield f"{name} holds no word"
    elif any(copies_context(text, context) for text in {in_a_row, ". ".join(texts)}):
        yield f"{name} copies words of the context; say it in your own words"
    elif repeats_example(in_a_row):
        yield f"{name} repeats an example; speak of the tasks of the context"


def copies_context(text: str, context: UserContext) -> bool:
    """Whether a text repeats untrusted words of the context.

    True if it contains four words in a row of one text of the context, or all words of one with three; or if the
    text, or a sentence of it with at least two words, occurs as a whole in the context.
    """
    context_words, copied_runs = _copyable(tuple(_untrusted_texts(without_texts_of_others(context))))
    text_words = padded(plain_words(text))
    sentences = [words for part in _SENTENCE_END.split(text) if len(words := plain_words(part)) > 1]
    return any(run in text_words for run in copied_runs) or any(
        phrase in context_words for phrase in (text_words, *map(padded, sentences))
    )


def _untrusted_texts(context: UserContext) -> Iterator[str]:
    """Every text of the context that somebody else may have written."""
    for _, view in tasks_shown(context).values():
        yield view.title
        yield from (name for name in (view.project, view.section, view.parent, *view.labels) if name)
    for theme in context.themes:
        yield from (theme.label, *theme.tags)
    yield from sorted({*context.reactions.by_kind, *context.reactions.by_theme}.difference(KINDS, (GENERIC,)))


@lru_cache(maxsize=8)
def _copyable(texts: tuple[str, ...]) -> tuple[str, frozenset[str]]:
    """All words of the texts, and the runs of words that count as a copy; cached for the other tips of one answer."""
    words_of_texts = [plain_words(text) for text in texts]
    runs = (run for words in words_of_texts for run in word_runs(words, _COPIED_WORDS, _FEWEST_WORDS))
    return "|".join(map(padded, words_of_texts)), frozenset(map(padded, runs))
