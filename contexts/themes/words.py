"""Words of short texts in many languages: splitting, stop words, empty words, articles and stems. Pure.

Languages are Todoist's codes, such as `en` or `pt_BR`.
"""

from __future__ import annotations

import unicodedata
from functools import cache, lru_cache
from itertools import chain
from typing import TYPE_CHECKING

from contexts.text import cut, without_addresses

if TYPE_CHECKING:
    from snowballstemmer import stemmer

MAX_WORD_CHARS = 24

_ARTICLES_BY_LANGUAGE = {
    "en": ("a", "an", "the", "some", "my"),
    "de": ("der", "die", "das", "den", "dem", "ein", "eine", "einen", "einem", "einer"),
    "fr, it": ("le", "la", "les", "un", "une", "il", "lo", "gli"),
    "es, pt": ("el", "los", "las", "una", "unos", "unas", "os", "um", "uma"),
    "nl": ("het", "een"),
}
ARTICLES = frozenset(article for articles in _ARTICLES_BY_LANGUAGE.values() for article in articles)
"""Words that do not change the meaning of a task, in any language."""

_VERB_LAST_LANGUAGES = {"de", "nl", "ja", "ko", "tr", "hi", "hu", "eu", "fa"}
"""Languages with the verb of "buy milk" in last position."""

_TIMES_BY_LANGUAGE = {
    "ar": "اليوم غدا أسبوع الأسبوع شهر الشهر صباحا مساء دقيقة ساعة",
    "de": "heute morgen abend woche monat jahr uhr tag minute minuten stunde stunden",
    "en": "today tomorrow tonight yesterday day days week weeks weekend month months year years morning afternoon"
    " evening night noon am pm oclock hour hours minute minutes min daily weekly monthly next last",
    "es": "hoy mañana tarde noche día días semana mes año hora horas minutos min",
    "fr": "aujourd demain matin soir jour jours semaine mois année heure heures min",
    "ja": "今日 明日 今週 来週 今月 来月 今年 来年 午前 午後 週間 毎日 毎週 毎月",
    "pt": "hoje amanhã manhã tarde noite dia dias semana mês ano hora horas min segunda terça quarta quinta sexta",
}
"""Words that say when, beside the names of weekdays and months."""

_VAGUE_WORDS_BY_LANGUAGE = {
    "ar": "جديد جديدة قديم قديمة كبير كبيرة صغير صغيرة شيء أشياء",
    "de": "neu neue neuer neues neuen alt alte alter altes alten groß große großen klein kleine kleinen sache sachen"
    " ding dinge",
    "en": "new newer old older better bad big bigger small smaller extra different stuff thing things",
    "es": "nuevo nueva nuevos nuevas viejo vieja pequeño pequeña grande bueno buena cosa cosas",
    "fr": "nouveau nouvelle nouveaux nouvelles ancien ancienne vieux vieille petit petite grand grande bon bonne"
    " chose choses truc trucs",
    "pt": "novo nova novos novas velho velha pequeno pequena grande bom boa coisa coisas",
}
"""Words that do not name a theme: all that "new shoes" and "new strings" share is an adjective."""

_LISTED_STOP_WORDS = (
    "a about above across after afterwards again against all almost alone along already also although always "
    "am among amongst amoungst amount an and another any anyhow anyone anything anyway anywhere are around as "
    "at back be became because become becomes becoming been before beforehand behind being below beside "
    "besides between beyond bill both bottom but by call can cannot cant co con could couldnt cry de describe "
    "detail do done down due during each eg eight either eleven else elsewhere empty enough etc even ever "
    "every everyone everything everywhere except few fifteen fifty fill find fire first five for former "
    "formerly forty found four from front full further get give go had has hasnt have he hence her here "
    "hereafter hereby herein hereupon hers herself him himself his how however hundred i ie if in inc indeed "
    "interest into is it its itself keep last latter latterly least less ltd made many may me meanwhile might "
    "mill mine more moreover most mostly move much must my myself name namely neither never nevertheless next "
    "nine no nobody none noone nor not nothing now nowhere of off often on once one only onto or other others "
    "otherwise our ours ourselves out over own part per perhaps please put rather re same see seem seemed "
    "seeming seems serious several she should show side since sincere six sixty so some somehow someone "
    "something sometime sometimes somewhere still such system take ten than that the their them themselves "
    "then thence there thereafter thereby therefore therein thereupon these they thick thin third this those "
    "though three through throughout thru thus to together too top toward towards twelve twenty two un under "
    "until up upon us very via was we well were what whatever when whence whenever where whereafter whereas "
    "whereby wherein whereupon wherever whether which while whither who whoever whole whom whose why will "
    "with within without would yet you your yours yourself yourselves"
)
_ENGLISH_STOP_WORDS = frozenset(_LISTED_STOP_WORDS.split())
"""The list of the Glasgow Information Retrieval Group, as in scikit-learn, whose import takes a second of CPU."""

_NOUNS_AMONG_STOP_WORDS = {"bill", "fire", "interest", "mill", "system"}
"""Nouns in the list of English stop words."""


@lru_cache(2**16)
def split_words(text: str) -> tuple[str, ...]:
    """Return the words and numbers of a text, in order and in lower case, cut to `MAX_WORD_CHARS`.

    A word is a run of letters and digits of any script. Addresses are no words.
    """
    words = unify(without_addresses(text)).translate(_BLANKS).split()
    return tuple(word if len(word) <= MAX_WORD_CHARS else cut(word, MAX_WORD_CHARS) for word in words)


def unify(text: str) -> str:
    """Return a text in lower case, with composed letters and full-width forms unified."""
    return text.lower() if text.isascii() else unicodedata.normalize("NFKC", text.lower().replace("i\u0307", "i"))


def verb_position(language: str) -> int:
    """Return the position of the verb among a task's words: 0 for the first word, -1 for the last."""
    return -1 if primary_code(language) in _VERB_LAST_LANGUAGES else 0


@lru_cache(2**16)
def stem(word: str, language: str) -> str:
    """Return a word without its endings, or the word itself if Snowball does not support the language."""
    stemmer = _stemmer(primary_code(language))
    return str(stemmer.stemWord(word)) if stemmer else word


@lru_cache(256)
def stop_words_of(language: str) -> frozenset[str]:
    """Return the stop words of a language and of English, because users of any language write English tasks.

    Sources: scikit-learn's list for English, the package `stop-words` for other languages.
    """
    import stop_words

    other = () if primary_code(language) == "en" else stop_words.safe_get_stop_words(primary_code(language))
    return frozenset({*_ENGLISH_STOP_WORDS, *other} - _NOUNS_AMONG_STOP_WORDS)


@lru_cache(256)
def primary_code(language: str) -> str:
    """Return a language's code without its country, in lower case."""
    return language.replace("-", "_").split("_")[0].lower()


@lru_cache(256)
def empty_words_of(language: str) -> frozenset[str]:
    """Return the words of a language, and the English ones, that do not say what a task is about.

    They are words about time, with the names of weekdays and months from the Unicode CLDR, and vague words.
    """
    codes = {"en", primary_code(language)}
    listed = (
        words.get(code, "").split() for words in (_TIMES_BY_LANGUAGE, _VAGUE_WORDS_BY_LANGUAGE) for code in codes
    )
    return frozenset({*chain.from_iterable(listed), *(name for code in codes for name in _day_and_month_names(code))})


def stop_word_codes() -> tuple[str, ...]:
    """Return the codes of the languages whose stop words are known."""
    return tuple(_stop_words_by_code())


@lru_cache(2**17)
def stop_word_languages(word: str) -> frozenset[str]:
    """Return the codes of the languages of which a word is a stop word."""
    return frozenset(code for code, words in _stop_words_by_code().items() if word in words)


class _Blanks(dict[int, int]):
    """A table for `str.translate` that replaces everything but letters, marks and numbers with blanks."""

    def __missing__(self, code: int) -> int:
        self[code] = code if unicodedata.category(chr(code))[0] in "LMN" else ord(" ")
        return self[code]


_BLANKS = _Blanks()


@cache
def _stop_words_by_code() -> dict[str, frozenset[str]]:
    import stop_words

    words = {code: frozenset(stop_words.safe_get_stop_words(code)) for code in stop_words.LANGUAGE_MAPPING}
    return words | {"en": _ENGLISH_STOP_WORDS}


def _day_and_month_names(code: str) -> frozenset[str]:
    from babel import Locale, UnknownLocaleError
    from babel.dates import get_day_names, get_month_names

    try:
        locale = Locale.parse(code)
    except (UnknownLocaleError, ValueError):
        return frozenset()
    names = (*get_day_names(locale=locale).values(), *get_month_names(locale=locale).values())
    return frozenset(name.lower() for name in names)


@cache
def _stemmer(code: str) -> stemmer | None:
    import snowballstemmer
    import stop_words

    name = stop_words.LANGUAGE_MAPPING.get(code)  # Snowball uses the same names of languages
    return snowballstemmer.stemmer(name) if name in snowballstemmer.algorithms() else None
