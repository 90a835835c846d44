"""Decides from its form alone whether a message needs rewording.

Owns the rules: a trivial message ("thanks") cannot be worded better, a clear one need not be. A
worker asks before it has a message reworded; an API process asks to explain why one was not.
Refuses to understand any language: length, punctuation, case and layout decide, and the few words
listed here only recognise a greeting.

DESIGN. In doubt a message counts as clear, because sending it as written is never wrong. At most
600 characters are examined: a longer message is clear.
"""

import re
from typing import Final, Literal

CHARACTERS_MAX: Final = 600
_CLEAR_WORDS_MIN: Final = 40
_TRIVIAL_WORDS_MAX: Final = 2
_COURTESY_WORDS_MAX: Final = 8
# A sentence of at least so many words that begins and ends like one is clear.
_QUESTION_WORDS_MIN: Final = 4
_STATEMENT_WORDS_MIN: Final = 5
_UNCAPITALISED_QUESTION_WORDS_MIN: Final = 6

# Scripts written without spaces, and about how many of their characters make a word.
_UNSPACED: Final = (
    (re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"), 2),
    (re.compile("[\u3040-\u30ff]"), 4),
    (re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]"), 5),
)
_QUESTION_MARKS: Final = "?\uff1f\u061f\u037e\u055e\u1367"
_END_MARKS: Final = ".!\u3002\uff0e\uff01\u06d4\u0964\u0589\u1362" + _QUESTION_MARKS
_CLOSING: Final = "\"')]}\u00bb\u201d\u2019\u300d\u300f\uff09"

_CODE: Final = re.compile(r"`|[{};]\s*$|^(?: {4}|\t)\s*\S|</?\w+>", re.MULTILINE)
_ITEM: Final = re.compile(r"^\s*(?:[-*+\u2022\u2013\u30fb]|\d{1,3}[.)\u3001])\s*\w", re.MULTILINE)
_QUOTED: Final = re.compile(
    r"^>|[\"\u201c\u201e\u00ab\u300c\u300e][^\"\u201c\u201d\u00bb\u300d\u300f\n]{8,}"
    r"[\"\u201c\u201d\u00bb\u300d\u300f]",
    re.MULTILINE,
)
# An instruction, a colon, and its material: "Translate: good morning".
_INSTRUCTION: Final = re.compile(r"\w\s?(?::\s+|\uff1a\s*)\S")
_FORMAT: Final = re.compile(r"\b(?:json|csv|yaml|xml|markdown|latex)\b", re.IGNORECASE)
_EDGE_PUNCTUATION: Final = re.compile(r"^[\W_]+|[\W_]+$")

_COURTESIES: Final = frozenset(
    """
    hi hello hey hiya howdy greetings good morning afternoon evening night day there again all
    thanks thank you thx ty cheers so very much a lot please sorry ok okay yes no yep nope yeah
    sure fine great cool nice perfect awesome bye goodbye see later welcome
    hallo guten morgen tag abend danke schön dankeschön bitte tschüss servus moin ja nein vielen
    sehr bonjour bonsoir salut merci beaucoup oui non au revoir hola buenos buenas días dias tardes
    noches gracias muchas adiós sí por favor olá oi bom dia boa tarde noite obrigado obrigada muito
    tchau sim não ciao buongiorno buonasera grazie mille prego sì arrivederci hoi goedemorgen
    cześć dziękuję dzień dobry bardzo merhaba selam teşekkürler teşekkür ederim çok xin chào cảm ơn
    bạn dank je wel terima kasih selamat pagi siang malam hej tack så mycket god morgon kiitos hei
    moi huomenta
    привет здравствуйте спасибо большое добрый день доброе утро вечер да нет пожалуйста привіт дякую
    γεια σας ευχαριστώ πολύ καλημέρα שלום תודה רבה مرحبا شكرا جزيلا السلام عليكم أهلا وسهلا
    नमस्ते धन्यवाद शुक्रिया आपका बहुत 안녕하세요 감사합니다 정말 고맙습니다 네 아니요
    谢谢你 非常感谢 早上好 大家好 ありがとうございます おはようございます どうもありがとう
    สวัสดีครับ สวัสดีค่ะ ขอบคุณครับ ขอบคุณค่ะ ขอบคุณมากครับ ขอบคุณมากค่ะ
    """.split()
)


def reason_not_to_reword(message: str) -> Literal["trivial", "clear"] | None:
    """Return why a message needs no rewording, or None where it does.

    The time that this takes does not grow with the message.
    """
    if len(message) > CHARACTERS_MAX:
        return "clear"
    text = message.strip()
    words = _words_in(text)
    if words <= _TRIVIAL_WORDS_MAX or not any(map(str.isalpha, text)) or _is_courtesy(text):
        return "trivial"
    is_clear = words >= _CLEAR_WORDS_MIN or _has_layout(text, words) or _is_well_formed(text, words)
    return "clear" if is_clear else None


def _words_in(text: str) -> int:
    """Count words; in scripts without spaces, estimate them from the characters."""
    share = 0.0
    for characters, per_word in _UNSPACED:
        text, count = characters.subn(" ", text)
        share += count / per_word
    return round(share) + sum(any(map(str.isalnum, word)) for word in text.split())


def _is_courtesy(text: str) -> bool:
    words = [_EDGE_PUNCTUATION.sub("", word) for word in text.casefold().split()]
    return len(words) <= _COURTESY_WORDS_MAX and all(word in _COURTESIES for word in words if word)


def _has_layout(text: str, words: int) -> bool:
    """Tell whether the text has layout: code, a list, a quotation, an instruction with material."""
    if _CODE.search(text) or _QUOTED.search(text) or len(_ITEM.findall(text)) > 1:
        return True
    if words < _QUESTION_WORDS_MIN:
        return False
    return bool(_INSTRUCTION.search(text) or _FORMAT.search(text))


def _is_well_formed(text: str, words: int) -> bool:
    """Tell whether the text begins and ends like a sentence."""
    body = text.rstrip(_CLOSING)
    mark, before = body[-1:], body[-2:-1]
    # "???" or "..." ends no sentence.
    if not mark or mark not in _END_MARKS or (before and before in _END_MARKS):
        return False
    is_question = mark in _QUESTION_MARKS
    if is_question and words >= _UNCAPITALISED_QUESTION_WORDS_MIN:
        return True
    is_careful = not next(filter(str.isalpha, text)).islower()
    return is_careful and words >= (_QUESTION_WORDS_MIN if is_question else _STATEMENT_WORDS_MIN)
