"""Lines, items of a document, gzip and names, cut at every place that a network may cut them."""

import gzip
import json
import tracemalloc
import zlib
from collections.abc import Iterator

import pytest
from hypothesis import given, settings, strategies as st

from api.batches.gzip_stream import BLOCK_BYTES, GzipUnpacker
from api.batches.item_names import ItemNames
from api.batches.json_items import JsonItems
from api.batches.lines import LineCutter, NumberedLine
from shared.errors import RequestError

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


def _document(
    content: bytes, sizes: list[int], longest: int = _LONG
) -> tuple[object, list[object]]:
    items = JsonItems(longest)
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
