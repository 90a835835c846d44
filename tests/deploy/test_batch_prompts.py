"""Files of prompts as they are sent: JSONL, CSV with templates, plain lines, encodings, memory."""

import json
import re
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from deploy.batch.prompts import Format, Prompts, opened
from shared.errors import RequestError


def _sent(path: Path, **options: str) -> list[Any]:
    """Return the items that a file is sent as."""
    delimiter = options.get("delimiter", ",")
    with opened(str(path), None, options.get("template"), delimiter) as prompts:
        fingerprint = prompts.fingerprint({}, lambda _: None)
        items = [json.loads(line) for line in b"".join(prompts.pieces()).splitlines()]
        assert fingerprint.items == len(items)
        assert [json.loads(line) for line in filter(None, prompts.lines())] == items
        return items


def _file(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "with a mark"])
@pytest.mark.parametrize("end", [b"", b"\n"])
def test_jsonl_is_sent_as_it_stands(tmp_path: Path, mark: bytes, end: bytes) -> None:
    content = '{"message": "Wär es?"}\r\n{ "message":"b" }'.encode() + end
    path = _file(tmp_path, "prompts.jsonl", mark + content)
    with opened(str(path), None, None, ",") as prompts:
        assert b"".join(prompts.pieces()) == content
        assert prompts.fingerprint({}, lambda _: None).items == 2


def test_a_line_of_text_is_a_message_named_by_its_number(tmp_path: Path) -> None:
    path = _file(tmp_path, "questions.txt", b'\xef\xbb\xbfWhat "is" it?\r\n\n  \n  {b}\n')
    assert _sent(path) == [
        {"custom_id": "1", "message": 'What "is" it?'},
        {"custom_id": "4", "message": "  {b}"},
    ]


def test_a_template_is_filled_from_the_columns_of_a_csv(tmp_path: Path) -> None:
    content = '\ufeffcustom_id, text,a.b:c\r\nx,"Two\nlines, ""quoted""",1\r\n\r\n,é,2\r\n'
    path = _file(tmp_path, "words.csv", content)
    sent = _sent(path, template="{{ {text} }} {a.b:c}!")
    assert sent == [
        {"custom_id": "x", "message": '{ Two\nlines, "quoted" } 1!'},
        {"custom_id": "2", "message": "{ é } 2!"},
    ]


def test_without_a_template_a_csv_has_a_column_of_messages(tmp_path: Path) -> None:
    path = _file(tmp_path, "words.csv", "topic;prompt\na;b\n")
    assert _sent(path, delimiter=";") == [{"custom_id": "1", "message": "b"}]


@pytest.mark.parametrize(
    ("name", "content", "options", "sentence"),
    [
        ("a.csv", "x,y\n1,2\n", {"template": "{z}"}, "no column `z`. Its columns: x, y."),
        ("a.csv", "x,y\n1,2\n", {"template": "Hello"}, "names no column in braces"),
        ("a.csv", "x,y\n1,2\n", {"template": "{x"}, "A column stands in braces"),
        ("a.csv", "x,x\n1,2\n", {"template": "{x}"}, "several columns `x`"),
        ("a.csv", "x,y\n1,2\n", {}, "no column `message`"),
        ("a.csv", "x,y\n1,2\n3\n", {"template": "{x}"}, "ends on line 3 has 1 cells"),
        ("a.csv", 'x\n"a"b\n', {"template": "{x}"}, "line 2: "),
        ("a.csv", 'x\n"a\nb\n', {"template": "{x}"}, "unexpected end"),
        ("a.csv", b"x\n\xe9\n", {"template": "{x}"}, "a.csv is not UTF-8 text"),
        ("a.csv", "", {}, "It is empty."),
        ("a.csv", "message\n", {}, "has no prompts"),
        ("a.jsonl", "", {}, "has no prompts"),
        ("a.jsonl", b"{}\n{}\n{'\xe9'}\n", {}, "Line 3 of"),
        ("a.jsonl", "{}".encode("utf-16"), {}, "is UTF-16 text; convert it first, as in `iconv"),
        ("a.txt", b"a\n\xff\n", {}, "Line 2 of"),
        ("a.txt", "\n \n", {}, "has no prompts"),
        ("a.txt", "a\n", {"template": "{x}"}, "--template is for the columns of a CSV"),
        ("a.json", "[]", {}, "--format jsonl, csv or lines"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(
    tmp_path: Path, name: str, content: str | bytes, options: dict[str, str], sentence: str
) -> None:
    path = _file(tmp_path, name, content)
    with pytest.raises(RequestError, match=re.escape(sentence)):
        _sent(path, **options)


def test_a_character_across_two_pieces_is_one(tmp_path: Path) -> None:
    path = _file(tmp_path, "a.jsonl", b"a" * 262_143 + "é\n".encode() + b"b" * 262_143 + b"\xc3")
    with (
        pytest.raises(RequestError, match="Line 2 of"),
        opened(str(path), None, None, ",") as prompts,
    ):
        prompts.fingerprint({}, lambda _: None)


def test_content_and_options_name_a_batch(tmp_path: Path) -> None:
    path = _file(tmp_path, "a.jsonl", '{"message": "a"}\n')
    other = _file(tmp_path, "b.jsonl", '{"message": "b"}\n')

    def digest(of: Path, options: object) -> str:
        return Prompts(of, "", "jsonl").fingerprint(options, lambda _: None).digest

    assert digest(path, {"x": 1, "y": 2}) == digest(path, {"y": 2, "x": 1})
    assert len({digest(path, {}), digest(path, {"x": 1}), digest(other, {})}) == 3


@pytest.mark.parametrize("file_format", ["jsonl", "lines", "csv"])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, file_format: Format) -> None:
    path = tmp_path / "large"
    with path.open("w") as file:
        file.write("message\n")
        for _ in range(200):
            file.write(("word " * 20_000) + "\n")
    tracemalloc.start()
    try:
        found = Prompts(path, "large", file_format).fingerprint({}, lambda _: None)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found.size > 20_000_000
    assert peak < 3_000_000
