"""The tables of the documentation show what is in the code, each in the one document of its own."""

import re
from typing import Final

from tests.tidy import record_fields, source, tables

_RECORD: Final = re.compile(r"## Where a field of a generation is written.*?(?=\n## )", re.DOTALL)
_FIELD: Final = re.compile(r"^\| `(\w+)` \|", re.MULTILINE)


def test_every_table_is_in_its_document_only() -> None:
    found = {
        (name, path)
        for path, text in source.documents().items()
        for name in tables.TABLE.findall(text)
    }
    assert found == set(tables.HOMES.items())
    assert set(tables.HOMES) == set(tables.TABLES)


def test_tables_are_what_the_code_renders() -> None:
    for path in sorted(set(tables.HOMES.values())):
        text = source.texts()[path]
        assert tables.rendered(text) == text, "run: python -m tests.tidy.tables"


def test_the_table_of_the_record_names_the_fields_that_the_functions_write() -> None:
    section = _RECORD.search(source.texts()["shared/README.md"])
    assert section is not None
    named = _FIELD.findall(section[0])
    assert sorted(named) == sorted(record_fields.written())
