"""Short phrases of tasks' texts that may name a theme. Pure.

A phrase is a run of up to three words without stop words, or the title of a short text. Source: Rose et al.,
"Automatic keyword extraction from individual documents", 2010 (RAKE).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from contexts.text import width
from contexts.themes.arrays import Flags, Numbers
from contexts.themes.corpus import Corpus, head_of

_MAX_PHRASE_WORDS = 3
_MAX_TITLE_WORDS = 4
_MAX_TITLE_WIDTH = 28

_WORDS_GAIN = np.array([0.0, -0.03, 0.04, 0.05])
"""Gain of a phrase, in cosine to the middle of the theme, by its number of words."""

_TITLE_GAIN = 0.05
_NAME_LOSS = 0.1
"""Loss of a phrase with a person's name."""

_TAIL_LOSS = 0.05
"""Loss of a phrase after the first meaningful part of its text."""

_STOP_WORD_LOSS, _FIRST_STOP_WORD_LOSS = 0.07, 0.03
"""Loss of a title with stop words, and of one that begins with one: "take the empties back"."""


@dataclass(frozen=True, eq=False)
class Phrases:
    """The phrases of a corpus, in the order of texts; all arrays have one element per phrase.

    text: the number of the text. key: equal for phrases of the same stems in any order.
    first, last: its words in the corpus. is_title: whether it is the first meaningful part of the text.
    gain: its worth as a label, in cosine to the middle of the theme.
    is_lone: whether it is a single word.
    n_excess: by how many words the first part of a lone word's text is too long for a title; 0 for other phrases.
    is_pure: whether it has only content words.
    is_label: whether it may become a label; others only count as occurrences.
    verb: the stem of the verb that it contains; -1 for none.
    is_repeated: whether the same text has an earlier phrase with this key.
    n_phrases: the number of phrases of each text. n_keys: the number of different keys.
    """

    corpus: Corpus
    text: Numbers
    key: Numbers
    first: Numbers
    last: Numbers
    gain: NDArray[np.float64]
    is_title: Flags
    is_lone: Flags
    n_excess: Numbers
    is_label: Flags
    verb: Numbers
    is_pure: Flags
    is_repeated: Flags
    n_phrases: Numbers
    n_keys: int

    def written(self, phrase: int) -> str:
        """Return a phrase as it is written in its text, on one line."""
        text = str(self.corpus.texts[self.text[phrase]])
        start, end = self.corpus.start[self.first[phrase]], self.corpus.end[self.last[phrase]]
        return " ".join((head_of(text) if self.is_title[phrase] else text[start:end]).split())


def find_phrases(corpus: Corpus) -> Phrases:
    """Return all phrases of a corpus."""
    first, last, is_title = _spans(corpus)
    text = corpus.text[first]
    n_verbs, n_names, n_content = (_sums(each) for each in (corpus.is_verb, corpus.is_name, corpus.is_content))
    hashes = _sums(corpus.is_content * _stem_hashes(len(corpus.stems))[corpus.stem])
    keys, key = np.unique(hashes[last + 1] - hashes[first], return_inverse=True)
    is_repeated = np.ones(len(text), bool)
    is_repeated[np.unique(text * len(keys) + key, return_index=True)[1]] = False
    n_words = last + 1 - first
    is_pure = n_content[last + 1] - n_content[first] == n_words
    has_name, has_verb = n_names[last + 1] > n_names[first], n_verbs[last + 1] > n_verbs[first]
    title_gain = _TITLE_GAIN - _STOP_WORD_LOSS * ~is_pure - _FIRST_STOP_WORD_LOSS * ~corpus.is_content[first]
    gain = np.where(is_title, title_gain, _WORDS_GAIN[np.minimum(n_words, _MAX_PHRASE_WORDS)])
    return Phrases(
        corpus=corpus,
        text=text,
        key=key,
        first=first,
        last=last,
        gain=gain - _NAME_LOSS * has_name - _TAIL_LOSS * ~corpus.is_head[first],
        is_title=is_title,
        is_lone=n_words == 1,
        n_excess=(n_words == 1) * np.maximum(_n_head_words(corpus) - _MAX_TITLE_WORDS, 0)[text],
        is_label=is_title | ~has_verb,
        verb=np.where(has_verb, _verbs(corpus)[text], -1),
        is_pure=is_pure,
        is_repeated=is_repeated,
        n_phrases=np.bincount(text, minlength=len(corpus.texts)),
        n_keys=len(keys),
    )


def _verbs(corpus: Corpus) -> Numbers:
    """Return the stem of each text's verb; -1 for none."""
    verbs = np.full(len(corpus.texts), -1, np.int64)
    verbs[corpus.text[corpus.is_verb]] = corpus.stem[corpus.is_verb]
    return verbs


def _spans(corpus: Corpus) -> tuple[Numbers, Numbers, Flags]:
    """Return the first and the last word of each phrase, in the order of texts, and whether it is a title."""
    words = np.flatnonzero(corpus.is_content & ~corpus.is_verb)  # a verb alone names nothing
    runs = [(words, words), *(_runs(corpus, length) for length in range(2, _MAX_PHRASE_WORDS + 1))]
    titles = _titles(corpus)
    first, last = (np.concatenate(each) for each in zip(*runs, titles, strict=True))
    is_title = np.arange(len(first)) >= len(first) - len(titles[0])
    order = np.argsort(first, kind="stable")
    return first[order], last[order], is_title[order]


def _runs(corpus: Corpus, length: int) -> tuple[Numbers, Numbers]:
    """Return the first and the last word of each run of content words of one part of a text."""
    first = np.arange(len(corpus.text) - length + 1)
    is_run = corpus.is_content[first]
    for step in range(1, length):
        is_run = is_run & corpus.is_content[first + step] & corpus.is_joined[first + step]
    return first[is_run], first[is_run] + length - 1


def _titles(corpus: Corpus) -> tuple[Numbers, Numbers]:
    """Return the first and the last word of each text's first part, if that part is short and has content."""
    texts = np.flatnonzero(corpus.n_words)
    first = (np.cumsum(corpus.n_words) - corpus.n_words)[texts]
    last = first + _n_head_words(corpus)[texts] - 1
    last = np.maximum(last, first)
    n_content = _sums(corpus.is_content)
    spans = zip(texts.tolist(), corpus.start[first].tolist(), corpus.head_end[texts].tolist(), strict=True)
    titles = (corpus.texts[text][start:end] for text, start, end in spans)
    is_short = np.array([width(title) <= _MAX_TITLE_WIDTH for title in titles], bool)
    is_short &= (last - first < _MAX_TITLE_WORDS) & (n_content[last + 1] > n_content[first])
    return first[is_short], last[is_short]


def _n_head_words(corpus: Corpus) -> Numbers:
    """Return the number of words of the first part of each text."""
    return np.bincount(corpus.text[corpus.is_head], minlength=len(corpus.n_words))


def _sums(values: np.ndarray) -> np.ndarray:
    """Return the sums of all values before each position, and of all values."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(values, dtype=np.int64)])


def _stem_hashes(n: int) -> Numbers:
    """Return a random number for each stem: different sets of stems have different sums."""
    return np.random.default_rng(0).integers(np.iinfo(np.int64).min, np.iinfo(np.int64).max, n)
