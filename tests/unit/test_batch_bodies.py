"""Lines, items of a document, gzip and names, cut at every place that a network may cut them."""

import gzip
import json
import time
import tracemalloc
import zlib
from collections.abc import Iterator

import pytest
from hypothesis import given, settings, strategies as st

from api.batches.gzip_stream import BLOCK_BYTES, GzipUnpacker
from api.batches.item_names import ItemNames
from api.batches.json_items import JsonItems
from api.batches.lines import LineCutter, NumberedLine
from shared.errors import RefusedError, RequestError

_LONG = 1_000_000
_TEXTS = st.text(st.sampled_from('a"\\{}[],: \n\u00e9'), max_size=8)
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | _TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXTS, inner, max_size=3),
    max_leaves=8,
)


def _blocks(content: bytes, sizes: list[int]) -> Iterator[bytes]:
    """Cut a body at some places, the last ones over and over."""
    position = 0
    while position < len(content):
        size = sizes[0] if len(sizes) == 1 else sizes.pop(0)
        yield content[position : position + size]
        position += size


_SIZES = st.lists(st.integers(1, 40), min_size=1, max_size=6)


def _lines(content: bytes, sizes: list[int], longest: int = _LONG) -> list[NumberedLine]:
    cutter = LineCutter(longest)
    found = [line for block in _blocks(content, sizes) for line in cutter.cut(block)]
    return [*found, *cutter.finish()]


@given(st.lists(st.sampled_from([b"", b" ", b"a", b"bb", b"c\r", b"d" * 30]), max_size=9), _SIZES)
def test_lines_are_those_of_the_whole_body(lines: list[bytes], sizes: list[int]) -> None:
    content = b"\n".join(lines)
    expected = [
        (number, line) for number, line in enumerate(content.split(b"\n"), 1) if line.strip()
    ]
    assert _lines(content, list(sizes)) == expected
    short = [(number, line if len(line) <= 5 else None) for number, line in expected]
    assert _lines(content, list(sizes), 5) == short


def test_lines_among_very_many_blank_ones_have_their_numbers() -> None:
    blank = b" \n\r\n" * 5_000
    content = blank + b"a\n" + blank + b" b\n" + b"c" * 30 + b"\n" + blank + b"d"
    expected = [(10_001, b"a"), (20_002, b" b"), (20_003, None), (30_004, b"d")]
    assert _lines(content, [len(content)], 20) == expected
    assert _lines(content, [30_000], 20) == expected


def _document(
    content: bytes, sizes: list[int], longest: int = _LONG
) -> tuple[object, list[object]]:
    items = JsonItems(longest, 1_000)
    try:
        for block in _blocks(content, sizes):
            items.feed(block)
        rest = json.loads(items.finish())
        found = [(number, raw) for number, raw in items.items()]
        assert [number for number, _ in found] == list(range(1, len(found) + 1))
        return rest, [None if raw is None else json.loads(raw) for _, raw in found]
    finally:
        items.close()


@settings(max_examples=50)
@given(
    st.dictionaries(_TEXTS, _VALUES, max_size=3),
    st.lists(_VALUES, max_size=4),
    st.dictionaries(_TEXTS, _VALUES, max_size=3),
    st.sampled_from([None, 1]),
    _SIZES,
)
def test_items_are_those_of_the_whole_document(
    before: dict[str, object],
    items: list[object],
    after: dict[str, object],
    indent: int | None,
    sizes: list[int],
) -> None:
    before, after = ({k: v for k, v in each.items() if k != "items"} for each in (before, after))
    document = {**before, "items": items, **after}
    content = json.dumps(document, indent=indent, ensure_ascii=False).encode()
    rest, found = _document(content, list(sizes))
    assert found == items
    assert rest == {**document, "items": []}


def test_a_document_with_too_many_items_is_refused_at_the_first_of_these() -> None:
    items = JsonItems(_LONG, 2)
    items.feed(b'{"items":[1,2')
    with pytest.raises(RefusedError) as caught:
        items.feed(b",3,")
    assert caught.value.details == {"quota": "batch_items", "used": 3, "limit": 2}
    items.close()


def test_many_lists_beside_the_items_take_no_longer_than_texts() -> None:
    # In whatever order the machine is busy; a search before each bracket takes 100 times as long.
    lists, texts = (
        min(_scan_seconds(b'{"a":[' + value * 20_000 + b"1]}") for _ in range(3))
        for value in (b"[],", b'"",')
    )
    assert lists < 20 * texts


def _scan_seconds(content: bytes) -> float:
    items = JsonItems(_LONG, 1)
    began = time.process_time()
    for block in _blocks(content, [1_024]):
        items.feed(block)
    items.finish()
    items.close()
    return time.process_time() - began


def test_a_name_that_ends_with_an_escaped_quote_is_not_that_of_the_items() -> None:
    content = b'{"a\\"items": [1], "b": "items", "items" : [2]}'
    rest, found = _document(content, [5])
    assert found == [2]
    assert rest == {'a"items': [1], "b": "items", "items": []}


def test_a_long_item_is_not_kept() -> None:
    content = json.dumps({"items": ["a" * 50, "b", ["c" * 50]]}).encode()
    for size in (1, 7, 1_000):
        assert _document(content, [size], 20)[1] == [None, "b", None]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"}",
        b"{",
        b'{"items": [',
        b'{"items": [1,',
        b'{"items": [1,]}',
        b'{"items": [,1]}',
        b'{"items": [1}',
        b'{"items": ["a]}',
        b'{"a": "',
        b'{"items": [], "items": []}',
    ],
)
def test_a_document_that_cannot_be_cut_is_refused(content: bytes) -> None:
    with pytest.raises((RequestError, ValueError)):
        _document(content, [3])


@given(st.binary(max_size=400), st.integers(1, 5), _SIZES)
def test_gzip_unpacks_to_the_whole(content: bytes, members: int, sizes: list[int]) -> None:
    size = max(1, -(-len(content) // members))
    parts = [content[first : first + size] for first in range(0, max(1, len(content)), size)]
    packed = b"".join(gzip.compress(part) for part in parts)
    unpacker = GzipUnpacker()
    found = b"".join(
        piece for block in _blocks(packed, list(sizes)) for piece in unpacker.feed(block)
    )
    unpacker.finish()
    assert found == content


def test_a_body_that_unpacks_to_much_takes_no_memory() -> None:
    packed = gzip.compress(bytes(50_000_000))
    unpacker = GzipUnpacker()
    tracemalloc.start()
    try:
        sizes = [len(piece) for piece in unpacker.feed(packed)]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    unpacker.finish()
    assert sum(sizes) == 50_000_000
    assert max(sizes) <= BLOCK_BYTES
    assert peak < 1_000_000


def test_gzip_that_is_cut_or_wrong_is_refused() -> None:
    packed = gzip.compress(b"hello" * 100)
    for wrong in (b"", packed[:-1], packed + b"x", b"x" + packed, zlib.compress(b"a")):
        with pytest.raises(RequestError):
            _unpack(wrong)


def _unpack(packed: bytes) -> None:
    unpacker = GzipUnpacker()
    list(unpacker.feed(packed))
    unpacker.finish()


@given(st.lists(st.none() | st.sampled_from(["a", "b", "1", "2", "3", "4", "01"]), max_size=8))
def test_names_are_taken_once(wanted: list[str | None]) -> None:
    names, taken = ItemNames(), set()
    for line, name in enumerate(wanted, 1):
        own = str(line) if name is None else name
        assert names.take(name, line) is (own not in taken), (line, name)
        taken.add(own)
    names.close()
