"""What an upstream says of a bad request reaches its caller; nothing of the deployment does."""

import base64
import json
import random
import re
import string
import time
import unicodedata
from collections.abc import Callable
from typing import Final, TypeVar
from urllib.parse import quote

import httpx
import pytest
from hypothesis import given, strategies as st

from shared import ids
from shared.settings import Secret
from worker.providers.failures import FailureTranslator
from worker.providers.quoted_words import CHARACTERS_MAX, quotable_words

_KEY: Final = "sk-wholly-secret-4Qz81LmRt0aV"
_HOST: Final = "llm-7.eu.acme-models.net"
_FAULT: Final = "Invalid value for `temperature`: must be at most 2."
T = TypeVar("T")
_LETTERS: Final = string.ascii_letters + string.digits


def _message(
    said: object, status: int = 400, *, key: str = _KEY, title: str | None = "OpenAI"
) -> str:
    """Return the sentence that a caller reads of a refusal."""
    failures = FailureTranslator("openai", title=title, key=Secret(key), host=_HOST)
    return failures.refusal(httpx.Response(status), json.dumps(said).encode()).failure.message


def _error(message: str, **fields: object) -> dict[str, object]:
    return {"error": {"message": message, **fields}}


@pytest.mark.parametrize(
    "words",
    [
        _FAULT,
        "prompt is too long: 99 tokens > 9 maximum",
        "`inputs` tokens + `max_new_tokens` must be <= 9. Given: 99 `inputs` tokens",
        "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
        "'max_completion_tokens' instead.",
        "messages.0.content.1.image.source.base64: invalid base64 data",
        "Invalid schema for response_format 'math_response': In context=('properties', 'steps'), "
        "'additionalProperties' is required to be supplied and to be false.",
        "Invalid 'messages[3].tool_calls[0].function.arguments': expected a string",
        "No tool output found for function call call_abc123.",
        "This model's maximum context length is 128000 tokens. However, your messages resulted in "
        "137321 tokens.",
        "Prompt 超长",
        "系统检测到输入或生成内容可能包含不安全或敏感内容",
        "Der Wert für »temperature« ist ungültig.",
    ],
)
def test_what_is_about_the_request_is_quoted_as_it_stands(words: str) -> None:
    assert quotable_words([words], _KEY, _HOST) == words


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ('Unknown role "x".', "Unknown role 'x'."),
        ("a\x00b\r\n\tc\x1b[31m d\u2028e \u202eright", "a b c [31m d e right"),
        ("<b>Bad</b> <script>x()</script>input &lt;i&gt;here&lt;/i&gt;", "Bad x() input here"),
        ("<400> InternalError.Algo: too long", "InternalError.Algo: too long"),
        ("See [the guide](https://docs.acme.com/x) for `n`.", "See the guide for `n`."),
        ("Bad input. Ask ann@acme.com about it", "Bad input. Ask *** about it"),
        ("Bad input (https://a.example/x?key=1).", "Bad input ***"),
        ("Bad input. Your account is suspended.", "Bad input."),
        ("Bad input. Country not supported. Billing is off.", "Bad input."),
        ("Failed at /srv/app/models/run.py: bad input", "Failed at *** bad input"),
        ("Bad input at 10.3.2.1:8000, fe80::1f or llm-9:8080", "Bad input at *** or ***"),
        ("Bad input of acct_29s in req_011CX", "Bad input of *** in ***"),
        ("Bad input at backend.models.svc.cluster.local today", ""),
        ("Bad input at backend.models.svc today", "Bad input at *** today"),
        ("Bad input for us.anthropic.io/models", "Bad input for ***"),
        ("Bad input on llm-7 now", "Bad input on *** now"),
        ("https://a.example/x", ""),
        ("", ""),
    ],
)
def test_what_is_not_about_the_request_is_removed(said: str, expected: str) -> None:
    assert quotable_words([said], _KEY, _HOST) == expected


_PERSONA: Final = "You are Ada, of the Acme desk. Never name a price. Be kind."


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (
            "Bad input [type=string_type, input_value='You are Ada, of the Acm...', input_type=x]",
            "",
        ),
        ("Bad input. Got: you ARE ada,\\nof the acme desk", "Bad input."),
        ("Bad role of 'You are Ada, of the Acme desk. Never name a price. Be kind.'.", ""),
        ("Bad role. 'Never name a price, be kind' is too long", "Bad role."),
        # So few words are no part of it.
        ("You are over the maximum. Be kind to `n`.", "You are over the maximum. Be kind to `n`."),
        ("Short: Straße.", ""),
    ],
)
def test_what_the_caller_has_not_written_is_not_quoted(said: str, expected: str) -> None:
    assert quotable_words([said], own_texts=["", _PERSONA, "strasse"]) == expected
    assert quotable_words([said]) == " ".join(said.replace('"', "'").split())


def test_the_first_message_of_which_anything_is_left_is_quoted() -> None:
    assert quotable_words(["Your account is closed.", _FAULT, "No."]) == _FAULT
    assert quotable_words([]) == ""


# Sentences

_CREDENTIALS: Final = "The provider refused the deployment's credentials."
_UNPAID: Final = "The deployment's account with the provider has no credit left."
_UNAFFORDABLE: Final = "The deployment cannot pay the provider for so long a request."


@pytest.mark.parametrize(
    ("said", "status", "expected"),
    [
        (_error(_FAULT), 400, f'OpenAI refused the request: "{_FAULT}".'),
        (_error(_FAULT), 422, f'OpenAI refused the request: "{_FAULT}".'),
        (
            _error("prompt is too long: 99 tokens > 9 maximum"),
            400,
            "The conversation is too long for the model: "
            '"prompt is too long: 99 tokens > 9 maximum".',
        ),
        (
            _error("Your prompt was flagged."),
            403,
            'OpenAI\'s content policy forbids the answer: "Your prompt was flagged.".',
        ),
        # What a gateway wraps is quoted, and not what it says itself.
        (
            _error("Provider returned error", metadata={"raw": json.dumps(_error(_FAULT))}),
            400,
            f'OpenAI refused the request: "{_FAULT}".',
        ),
        (
            _error(f"litellm.BadRequestError: {_error(_FAULT)}"),
            400,
            f'OpenAI refused the request: "{_FAULT}".',
        ),
        # Nothing is left, or nothing was said.
        (_error("See https://a.example/"), 400, "The provider refused the request."),
        ({"object": "error"}, 400, "The provider refused the request."),
        # Only of the request's own fault.
        (_error("Bad key."), 401, _CREDENTIALS),
        (_error("Blocked."), 403, "The provider refused the request."),
        (_error("No."), 402, "The provider refused the request."),
        (_error("Slow down."), 429, "The provider limits how often it may be asked."),
        (_error("We are down."), 500, "The provider failed."),
        (_error("No model `m`."), 404, "The provider does not serve this model."),
        (_error("Your account has no credits left. Buy more!"), 400, _UNPAID),
        (_error("Requires fewer max_tokens: you can only afford 7 tokens"), 402, _UNAFFORDABLE),
        (_error("User location is not supported for the API use."), 400, _CREDENTIALS),
    ],
)
def test_the_sentence_quotes_what_the_provider_says_of_a_bad_request_alone(
    said: object, status: int, expected: str
) -> None:
    assert _message(said, status) == expected


def test_a_web_page_or_a_bare_text_is_not_quoted() -> None:
    failures = FailureTranslator("openai", title="OpenAI")
    for body in (b"<html><body>Bad input</body></html>", b"Bad input"):
        error = failures.refusal(httpx.Response(400), body)
        assert error.failure.message == "The provider refused the request."


def test_nothing_is_quoted_without_a_title() -> None:
    assert _message(_error(_FAULT), title=None) == "The provider refused the request."


# Bounds


@given(st.text(max_size=600) | st.text("ab <>[]()'\"\\/.:@=*-_%&;#\u200b\x00", max_size=2_500))
def test_the_words_are_one_short_line_of_visible_characters(text: str) -> None:
    words = quotable_words([text], _KEY, _HOST)
    assert len(words) <= CHARACTERS_MAX
    assert not any(
        unicodedata.category(character)[0] in "CZ" for character in words.replace(" ", "")
    )
    assert words == words.strip()
    assert '"' not in words
    assert not re.search(r"<[a-z/!?]", words, re.IGNORECASE)


def test_long_words_are_cut_after_a_word() -> None:
    words = quotable_words(["bear " * 200])
    assert CHARACTERS_MAX - 6 <= len(words) <= CHARACTERS_MAX
    assert re.fullmatch(r"(bear )*bear…", words)
    assert quotable_words(["输" * 900]) == "输" * (CHARACTERS_MAX - 1) + "…"


_PIECES: Final = (
    "a",
    "a.",
    "a-",
    "a:",
    "<",
    "[",
    "/a",
    "\\",
    "*",
    "x=",
    "a b ",
    "ab:",
    "0.",
    "A1",
    ".",
)


@pytest.mark.parametrize("piece", _PIECES)
def test_odd_messages_are_read_in_a_moment(piece: str) -> None:
    began = time.process_time()
    quotable_words([piece * 40_000], "k" * 200, _HOST)
    assert time.process_time() - began < 1.0


# Secrets


class _Secrets:
    """Makes secrets of every form, the same in each run."""

    def __init__(self, form: str) -> None:
        self._chance = random.Random(form)

    def letters(self, length: int, alphabet: str = _LETTERS) -> str:
        """Return random characters."""
        return "".join(self._chance.choices(alphabet, k=length))

    def small(self, length: int) -> str:
        """Return random small letters."""
        return self.letters(length, string.ascii_lowercase)

    def hex(self, length: int) -> str:
        """Return random hexadecimal digits."""
        return self.letters(length, "0123456789abcdef")

    def wrapped(self, secret: str, among: int) -> str:
        """Return a message with the secret in one of the first wrappings."""
        return self.one_of(*_TEMPLATES).format(self.one_of(*_WRAPPINGS[:among])(secret))

    def one_of(self, *choices: T) -> T:
        """Return one of the values."""
        return self._chance.choice(choices)


_SAFE: Final = _LETTERS + "_-"
_FORMS: Final[dict[str, Callable[[_Secrets], str]]] = {
    "ours": lambda _: ids.new_key(),
    "openai": lambda make: "sk-" + make.letters(48),
    "openai project": lambda make: "sk-proj-" + make.letters(90, _SAFE),
    "anthropic": lambda make: "sk-ant-api03-" + make.letters(60, _SAFE),
    "short": lambda make: "sk-" + make.letters(6),
    "google": lambda make: "AIza" + make.letters(35, _SAFE),
    "aws": lambda make: "AKIA" + make.letters(16, string.ascii_uppercase),
    "github": lambda make: "ghp_" + make.letters(36),
    "groq": lambda make: "gsk_" + make.letters(20),
    "hex": lambda make: make.hex(32) + "7a",
    "base64": lambda make: base64.b64encode(make.letters(24).encode()).decode() + "1a==",
    "letters": lambda make: make.small(24),
    "jwt": lambda make: f"eyJhbGciOi.{make.letters(30)}.{make.letters(30)}",
    "uuid": lambda make: "-".join(make.hex(length) for length in (8, 4, 4, 4, 12)),
    "hidden": lambda make: f"sk-{make.letters(5)}{make.one_of('***', '*' * 20)}{make.letters(5)}",
    "organisation": lambda make: "org-" + make.letters(10) + "7",
    "project": lambda make: "proj_" + make.letters(12) + "3",
    "account": lambda make: make.letters(12, string.digits),
    "url": lambda make: f"https://{make.small(8)}/{make.letters(6)}",
    "host": lambda make: f"{make.small(8)}.{make.one_of('acme.com', 'internal', 'local', 'svc')}",
    "machine": lambda make: ".".join(make.one_of("172", "255", "100") for _ in range(4)),
    "mail": lambda make: f"{make.small(6)}@acme.example",
}
_WRAPPINGS: Final[tuple[Callable[[str], str], ...]] = (
    *("{}".format, "'{}'".format, "`{}`".format, '"{}"'.format, "({}).".format, "[{}]".format),
    *("x={}".format, "value: {}".format, "{},".format, "<b>{}</b>".format, "**{}**".format),
    *("[here]({})".format, "中文{}中文".format, "{}\n".format, "\u202e{}".format),
    "\u200b".join,
    lambda secret: "\u00ad".join((secret[:3], secret[3:])),
    lambda secret: "".join(f"&#{ord(character)};" for character in secret),
    lambda secret: secret.translate({n: n + 0xFEE0 for n in range(0x21, 0x7F)}),
    lambda secret: quote(secret, safe=""),
)
_TEMPLATES: Final = (
    "{}",
    "Bad input {} here.",
    "{} is not a valid value for messages.0.content.",
    "Invalid value; received {}",
    "prompt is too long: {} tokens",
    " ".join(["word"] * 57) + " {} word",
)


@pytest.mark.parametrize("form", _FORMS)
def test_no_secret_of_any_form_is_quoted_wherever_it_stands(form: str) -> None:
    make = _Secrets(form)
    for _ in range(300):
        secret = _FORMS[form](make)
        said = make.wrapped(secret, len(_WRAPPINGS))
        _check_absent(secret, quotable_words([said]), said)


@pytest.mark.parametrize("length", [8, 16, 40, 120])
def test_no_part_of_the_provider_s_own_key_is_quoted(length: int) -> None:
    make = _Secrets(f"{length}")
    for _ in range(300):
        key = make.letters(length, _LETTERS + "-_.")
        begin = make.one_of(*range(length - 4))
        part = key[begin : make.one_of(*range(begin + 5, length + 1))]
        said = make.wrapped(make.one_of(part, part.upper()), 14)
        assert part.lower() not in quotable_words([said], key).lower(), said


def _check_absent(secret: str, words: str, said: str) -> None:
    """Check that no telling part of a secret is left; its prefix alone says nothing."""
    hidden = re.split(r"[*.@/:-]+|_", secret)
    for part in (piece for piece in hidden if len(piece) > 4):
        if part not in {"https", "acme", "example", "internal", "local"}:
            assert part.lower() not in words.lower(), said
