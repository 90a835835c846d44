"""The README's tables say what the code says."""

from tests.tidy import tables


def test_readme_tables_are_what_the_code_says() -> None:
    text = tables.README.read_text(encoding="utf-8")
    for name in tables.TABLES:
        assert f"<!-- table: {name} -->" in text
    assert tables.rendered(text) == text, "run: python -m tests.tidy.tables"
