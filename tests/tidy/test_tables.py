"""The tables of the documentation show what is in the code, each in the one document of its own."""

from tests.tidy import source, tables


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
