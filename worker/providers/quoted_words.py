"""What an upstream says of a request that it refuses, as far as the request's caller may read it.

Owns which words are quoted, and what is removed from them: control characters and markup, keys and
what looks like one, addresses, ids, every sentence about the deployment's own account, and every
sentence that repeats what the deployment itself has sent. The result is one line of at most 300
characters. Pure.

DESIGN. Whole sentences go where they may be about the deployment, since no pattern knows every name
in them. Within the rest, each word that may be a secret is masked as a whole: a part of a key is
removed with the word that it stands in, and long runs of letters and digits need no known prefix.
Words are normalized first, so that invisible or unusual characters hide nothing.
"""

import html
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

CHARACTERS_MAX: Final = 300
_MASK: Final = "***"
# More is not read: what is quoted stands at the beginning.
_READ_MAX: Final = 1_024
# So many characters of a key in a row are a part of it, and no coincidence.
_PART_OF_KEY: Final = 5
# So many letters in a row repeat a text of the deployment.
_PART_OF_OWN: Final = 16

# A sentence about the deployment: its keys, its money, its account, its place, its servers.
_ABOUT_DEPLOYMENT: Final = re.compile(
    r"api[\s_-]?keys?|\b(?:access|secret|private|your|this)[\s_-]?keys?\b|credential|password"
    r"|authenti|authori[sz]|permission|\bbearer\b|\baccounts?\b|billing|\bbilled\b|invoice|payment"
    r"|\bpaid\b|\bcredits?\b|balance|quota|\bplans?\b|subscri|\btiers?\b|spend|organi[sz]ation"
    r"|\borgs?\b|\bprojects?\b|workspace|tenant|\bregions?\b|countr(?:y|ies)|territor"
    r"|jurisdiction|sanction|deployment|cluster|\bip\b|firewall|proxy|gateway|\binternal\b"
    r"|\bservers?\b|\bhosts?\b|hostname|\blocation\b|rate.?limit|per minute|\b[tr]p[md]\b"
    r"|账[户号]|密钥|余额|欠费|项目|组织|地区",
    re.IGNORECASE,
)
_SENTENCE_END: Final = re.compile(r"(?<=[.!?;])\s+|(?<=。)|\s+[|]\s+")
_TAG: Final = re.compile(r"<[^<>=\s\d][^<>]{0,512}>|<\d*>")
# No tag begins with a blank, a digit or an equals sign: these are comparisons.
_OPEN_TAG: Final = re.compile(r"<(?![\s\d=])")
_LINK: Final = re.compile(r"!?\[([^\[\]]{0,256})\]\([^()\s]{0,512}\)")
_BLANKS: Final = re.compile(r"\s+")
# Line breaks in a text that is quoted by a program.
_ESCAPE: Final = re.compile(r"\\[nrt]")
_NAMES: Final = "com|net|org|edu|gov|info|biz|cloud|app|dev|xyz|site|online|tech"
_INNER_NAMES: Final = "local|localhost|localdomain|internal|intranet|intra|lan|corp|home|svc|arpa"
_TEST_NAMES: Final = "example|test|invalid"
# A value under the name of a secret, also behind a blank.
_NAMED_SECRET: Final = re.compile(
    r"\w{0,32}(?:key|token|secret|signature)\s?[=:]\s?\S{1,512}", re.IGNORECASE
)
# What makes a word one that is masked. All repetitions are bounded: a message may be hostile.
_SECRET: Final = re.compile(
    "|".join(
        (
            # Addresses, also without a scheme: of mail, of hosts, of machines.
            r"[a-z][a-z0-9+.-]{0,31}://|[^@]@[^@]",
            rf"[\w-]\.(?:{_NAMES}|{_INNER_NAMES}|{_TEST_NAMES})\b|\blocalhost\b",
            r"^[(\"'`\[]{0,3}(?:[a-z][a-z0-9-]{0,62}\.){1,8}[a-z]{2}(?![\w.])",
            r"\d{1,3}(?:\.\d{1,3}){3}|[0-9a-f]{0,4}:[0-9a-f]{0,4}:[0-9a-f]",
            r"[a-z0-9]-[a-z0-9-]{1,62}:\d{2,5}\b",
            # Paths of files and of an API.
            r"(?:^|[^\w.])/[\w.@%+-]{1,255}/[\w.@%+-]|\b[a-z]:\\|\\\\",
            # Keys by their prefix, tokens, and what is hidden in part already.
            r"\b(?:[sprc]k|key|xai|pplx|nvapi|gsk|hf|r8|tgp|ghp|gho|ghs|xox[a-z]|glpat)[-_]\w",
            r"pollux_live|github_pat|AIza|ya29\.|AKIA|ASIA|eyJ",
            r"\*{2}|•{2}|x{4}|\.{3}\w|…\w",
            # Ids of accounts and the like, and long numbers.
            r"\b(?:org|proj|project|acct|account|user|team|ws|wrkspc|workspace|tenant|cus|sub|req"
            r"|request|trace|ray|arn|aws)[-_:#][\w:/-]{0,64}\d",
            r"\d{9}|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]",
        )
    ),
    # In a language without blanks, a word begins where a letter of ours does.
    re.IGNORECASE | re.ASCII,
)
# A run of this length that mixes letters with digits, or both cases within it, is no word.
_LONG_RUN: Final = re.compile(r"[A-Za-z0-9+/_=%-]{16,}")
_WORDS_OF_RUN: Final = re.compile(r"[A-Za-z]?[a-z]+|[A-Z]+(?![a-z])")
_LETTERS_PER_WORD: Final = 4
_LETTERS_OF_WORD_MAX: Final = 20
_RUN_MAX: Final = 64


def quotable_words(
    messages: Iterable[str], key: str = "", host: str = "", own_texts: Iterable[str] = ()
) -> str:
    """Return what may be quoted of an upstream's messages, `""` if nothing.

    The first message of which anything is left is taken. No part of the key is quoted, nor the name
    of the host, nor any sentence with a part of `own_texts`, which the caller has not written.
    """
    key_parts, host_names = _parts_of_key(key.lower()), _names_of_host(host.lower())
    own = [letters for text in own_texts if (letters := _letters(text)[0])]
    quoted = (_quotable(message, key_parts, host_names, own) for message in messages)
    return next((words for words in quoted if words), "")


def _quotable(
    message: str, key_parts: frozenset[str], host_names: frozenset[str], own: Sequence[str]
) -> str:
    text = _one_line(message[:_READ_MAX])
    if len(message) > _READ_MAX:
        text = text.rpartition(" ")[0]
    repeated = _repeated(text, own) if own else frozenset[int]()
    sentences = [
        text[start:end]
        for start, end in _sentences(text)
        if not _ABOUT_DEPLOYMENT.search(text, start, end) and repeated.isdisjoint(range(start, end))
    ]
    words = _masked(" ".join(sentences), key_parts, host_names)
    # What is left beside a mask must say something.
    least = 2 if _MASK in words else 1
    return _cut(words) if len(re.findall(r"\w{2,}", words)) >= least else ""


def _sentences(text: str) -> Iterator[tuple[int, int]]:
    """Yield where each sentence begins and ends."""
    start = 0
    for found in _SENTENCE_END.finditer(text):
        yield start, found.start()
        start = found.end()
    yield start, len(text)


def _letters(text: str) -> tuple[str, list[int]]:
    """Return the letters and digits of a text without their case, and where each stands."""
    found = [
        (letter, at)
        for at, character in enumerate(_ESCAPE.sub("  ", unicodedata.normalize("NFKC", text)))
        for letter in character.casefold()
        if letter.isalnum()
    ]
    return "".join(letter for letter, _ in found), [at for _, at in found]


def _repeated(text: str, own: Sequence[str]) -> frozenset[int]:
    """Return the places in a text that repeat a long part of our own texts, or a whole one."""
    letters, places = _letters(text)
    found = set[int]()
    for each in own:
        size = min(_PART_OF_OWN, len(each))
        for at in range(len(letters) - size + 1):
            if letters[at : at + size] in each:
                found.update(places[at : at + size])
    return frozenset(found)


def _one_line(text: str) -> str:
    """Return a text without markup, invisible and control characters; quotes are single ones."""
    text = unicodedata.normalize("NFKC", html.unescape(text))
    shown = "".join(_visible(character) for character in text)
    plain = _TAG.sub(" ", _LINK.sub(r"\1", shown))
    return _BLANKS.sub(" ", _OPEN_TAG.sub(" ", plain).replace('"', "'")).strip()


def _visible(character: str) -> str:
    """Return a character, a blank in place of control characters, or nothing."""
    category = unicodedata.category(character)
    if category in {"Cc", "Zl", "Zp"}:
        return " "
    # Above all invisible ones, which would split a key; and signs that are drawn over others.
    return "" if category[0] == "C" or category == "Me" else character


def _masked(text: str, key_parts: frozenset[str], host_names: frozenset[str]) -> str:
    words = _NAMED_SECRET.sub(_MASK, text).split(" ")
    shown = (_MASK if _is_private(word, key_parts, host_names) else word for word in words)
    return re.sub(r"\*{3}(?: \*{3})+", _MASK, " ".join(shown))


def _is_private(word: str, key_parts: frozenset[str], host_names: frozenset[str]) -> bool:
    lower = word.lower()
    parts = (lower[at : at + _PART_OF_KEY] for at in range(len(lower) - _PART_OF_KEY + 1))
    return (
        _SECRET.search(word) is not None
        or not all(map(_is_word, _LONG_RUN.findall(word)))
        or not key_parts.isdisjoint(parts)
        or any(name in lower for name in host_names)
    )


def _is_word(run: str) -> bool:
    """Tell whether a long run is made of words, as in `max_completion_tokens` or `inputLength`."""
    if len(run) > _RUN_MAX or any(character.isdigit() for character in run):
        return False
    words = _WORDS_OF_RUN.findall(run)
    # Random letters change their case at every second one, or are longer than any word.
    is_random = len(run) < _LETTERS_PER_WORD * len(words)
    return bool(words) and not is_random and max(map(len, words)) <= _LETTERS_OF_WORD_MAX


def _parts_of_key(key: str) -> frozenset[str]:
    """Return all parts of a key that are long enough to be known again."""
    return frozenset(key[at : at + _PART_OF_KEY] for at in range(len(key) - _PART_OF_KEY + 1))


def _names_of_host(host: str) -> frozenset[str]:
    """Return a host's name, and the parts of it that are no ordinary words."""
    labels = (label for label in host.split(".") if re.search(r"[a-z].*[0-9-]", label))
    return frozenset(name for name in (host, *labels) if len(name) > 1)


def _cut(words: str) -> str:
    """Return the words within the limit; where they are cut, that is after a word."""
    if len(words) <= CHARACTERS_MAX:
        return words
    head = words[: CHARACTERS_MAX - 1]
    before, blank, _ = head.rpartition(" ")
    # Some languages write no blanks.
    return (before if blank and len(before) > CHARACTERS_MAX // 2 else head) + "…"
