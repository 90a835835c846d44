"""Which messages need rewording: a table in many languages, and properties of any text."""

# ruff: noqa: RUF001  messages are as people type them

import time
from typing import Final, get_args

import pytest
from hypothesis import given, strategies as st

from shared.clarity import CHARACTERS_MAX, reason_not_to_reword
from shared.wire.enhancement import SENTENCES, Reason, sentence

TRIVIAL: Final = (
    "hi",
    "Hello!",
    "Hello there, good morning!",
    "thanks",
    "Thank you so much!",
    "ok",
    "Yes, please.",
    "42",
    "3.14 + 2",
    "2026-11-22",
    "?",
    "...",
    "Why???",
    "🎉🎉🎉",
    "\u200b",
    "  stop  ",
    "good bot",
    "Vielen Dank!",
    "Guten Morgen",
    "Merci beaucoup",
    "¡Buenos días!",
    "muito obrigado",
    "grazie mille",
    "Спасибо большое!",
    "добрый день",
    "谢谢",
    "你好",
    "こんにちは",
    "ありがとうございます",
    "안녕하세요",
    "감사합니다",
    "สวัสดีครับ",
    "مرحبا",
    "السلام عليكم",
    "תודה רבה",
    "नमस्ते",
    "Γεια σας",
    "teşekkür ederim",
    "xin chào",
)
CLEAR: Final = (
    "What is a job queue?",
    "How do I undo the last commit without losing my changes?",
    "how do i undo the last commit in git?",
    "Write a haiku about autumn rain.",
    "Please write to my landlord. The heating has been broken since Monday.",
    "Translate to French: good morning",
    "translate this for me: ich habe keine zeit",
    "give me the planets with their moons as json",
    "why does `x = [] * 3` do that",
    "whats wrong here\n```\nfor i in range(3) print(i)\n```",
    "whats wrong here\nint main() {\n  return 0\n}",
    "look at this\n\n    def f(x):\n        return x",
    "plan my day\n- dentist\n- groceries\n- call mom",
    "do these\n1. clean up\n2. sort it\n3. send it",
    'explain why she says "nothing gold can stay" there',
    "was heißt „wes Brot ich ess“ denn",
    "> the meeting is off\nanswer him for me",
    " ".join(["and then it went on"] * 8),
    "a" * (CHARACTERS_MAX + 1),
    "Wie wechsle ich die Batterie meines Autos?",
    "Comment puis-je réparer un robinet qui fuit ?",
    "¿Cuál es la capital de Australia?",
    "¿Puedes explicarme qué es una cola de trabajos?",
    "Qual é a diferença entre tu e você?",
    "Как приготовить борщ без свёклы?",
    "Расскажи мне короткую сказку про лису.",
    "什么是消息队列？",
    "请用三句话解释什么是黑洞。",
    "日本の首都はどこですか？",
    "翻译成英文：今天天气很好",
    "대한민국의 수도는 어디 인가요?",
    "ما هي عاصمة فرنسا؟",
    "मुझे भारत के बारे में पाँच रोचक बातें बताइए।",
    "Ποια είναι η πρωτεύουσα της Ιταλίας;".replace(";", "\u037e"),
)
UNCLEAR: Final = (
    "fix it pls",
    "my code broke help",
    "how do i sort list",
    "whats the capital of france",
    "what is that?",
    "it doesnt work when i press the button and then nothing",
    "write poem about sea",
    "WHY IS MY INTERNET SO SLOW",
    "WHY IS MY INTERNET SO SLOW!!!",
    "so i tried that thing but it fails...",
    "make better website for my shop it is bad now",
    "and the other one",
    "trip to rome 3 days not expensive kids",
    "wie mach ich das mit dem auto wenn batterie leer",
    "rezept mit kartoffeln aber schnell",
    "comment faire pour le truc de la voiture",
    "como hago para q mi pc ande mas rapido",
    "como faço bolo sem ovo rapido",
    "come si fa la pasta senza glutine veloce",
    "как починить кран течет вода",
    "почему не работает вот это",
    "怎么做红烧肉好吃不油腻",
    "电脑很慢怎么办啊",
    "パソコンが動かない助けて",
    "컴퓨터가 너무 느려 어떻게 해",
    "كيف اصلح الحاسوب بطيء جدا",
    "איך מתקנים את המחשב שלי",
    "मेरा कंप्यूटर धीमा है क्या करूं",
    "อยากทำต้มยำกุ้งต้องใช้อะไรบ้าง",
    "bilgisayarım çok yavaş ne yapmalıyım",
)


@pytest.mark.parametrize("message", TRIVIAL)
def test_trivial_message_is_not_reworded(message: str) -> None:
    assert reason_not_to_reword(message) == "trivial"


@pytest.mark.parametrize("message", CLEAR)
def test_clear_message_is_not_reworded(message: str) -> None:
    assert reason_not_to_reword(message) == "clear"


@pytest.mark.parametrize("message", UNCLEAR)
def test_unclear_message_is_reworded(message: str) -> None:
    assert reason_not_to_reword(message) is None


_MARKS: Final = st.text(alphabet='aA .!?:`"-\n1{}>“”？？谢こ', min_size=1, max_size=40)


@pytest.mark.parametrize("message", [*TRIVIAL, *CLEAR, *UNCLEAR])
def test_blanks_around_a_message_change_nothing(message: str) -> None:
    assert reason_not_to_reword(f" \t{message}\n ") == reason_not_to_reword(message)


@given(st.text(min_size=1) | _MARKS)
def test_long_message_is_clear(piece: str) -> None:
    assert reason_not_to_reword((piece * (CHARACTERS_MAX + 1))[: CHARACTERS_MAX + 1]) == "clear"


@given(st.text(alphabet="0123456789 .,+-?!", max_size=CHARACTERS_MAX))
def test_message_without_letters_is_trivial(message: str) -> None:
    assert reason_not_to_reword(message) == "trivial"


@pytest.mark.parametrize(
    "piece", ['"', "`", "a:", "- ", "1. ", "> ", "? ", "{;", "谢", "a b ", "\n"]
)
def test_cpu_time_does_not_grow_with_the_message(piece: str) -> None:
    longest = (piece * CHARACTERS_MAX)[:CHARACTERS_MAX]
    began = time.process_time()
    for _ in range(20):
        reason_not_to_reword(longest)
        reason_not_to_reword(piece * 1_000_000)
    # Takes milliseconds; anything quadratic in the message would take an hour.
    assert time.process_time() - began < 5


def test_every_reason_has_its_sentence() -> None:
    assert set(SENTENCES) == set(get_args(Reason))
    assert all(text.endswith(".") and text[0].isupper() for text in SENTENCES.values())
    assert sentence("withheld") == SENTENCES["withheld"]
    assert sentence("of a later version") == "of a later version"
