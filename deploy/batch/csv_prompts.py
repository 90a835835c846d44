"""Reads prompts from the rows of a CSV: by a template over its columns, or from one column.

Columns with a meaning of their own: `custom_id` names the item (else the row's number does), and
`message` or `prompt` is the message where no template is given. Other columns are for templates.
"""

import csv
import string
from collections.abc import Callable, Iterator, Sequence
from typing import Final, TextIO

from shared.errors import Code, RequestError

_MESSAGE_COLUMNS: Final = ("message", "prompt")
_ID_COLUMN: Final = "custom_id"
# The csv module's own limit is 131,072 characters; a quote that is never closed must end somewhere.
_FIELD_CHARS_MAX: Final = 16 * 1024 * 1024


def read(
    file: TextIO, name: str, template: str | None, delimiter: str
) -> Iterator[tuple[str, str]]:
    """Yield the custom_id and the message of each row.

    Raises:
        RequestError: the template does not fit the header, or a row does not.
        UnicodeDecodeError: the file is not UTF-8.

    """
    csv.field_size_limit(_FIELD_CHARS_MAX)
    reader = csv.reader(file, delimiter=delimiter, strict=True)
    try:
        header = [cell.strip() for cell in next(reader, [])]
        message = _renderer(template, header, name)
        id_column = header.index(_ID_COLUMN) if _ID_COLUMN in header else None
        number = 0
        for row in reader:
            if not row:
                continue
            number += 1
            if len(row) != len(header):
                raise _fault(
                    f"{name}: the row that ends on line {reader.line_num} has {len(row)} cells, "
                    f"and the header {len(header)}."
                )
            custom_id = row[id_column].strip() if id_column is not None else ""
            yield custom_id or str(number), message(row)
    except csv.Error as error:
        raise _fault(f"{name}, line {reader.line_num}: {error}.") from None


def _renderer(template: str | None, header: list[str], name: str) -> Callable[[Sequence[str]], str]:
    """Return what makes a row's message. Raises RequestError naming a column that is missing."""
    if template is None:
        for column in _MESSAGE_COLUMNS:
            if column in header:
                place = _place(column, header, name)
                return lambda row: row[place]
        raise _fault(
            f"{name} has no column `message`; say how to make one, as in --template "
            f'"Translate into French: {{{header[0] if header else "text"}}}". {_columns(header)}'
        )
    parts = _parse(template, header, name)
    return lambda row: "".join(part if isinstance(part, str) else row[part] for part in parts)


def _parse(template: str, header: list[str], name: str) -> list[str | int]:
    """Return the template's texts, and its columns as their places."""
    parts: list[str | int] = []
    try:
        for text, field, spec, conversion in string.Formatter().parse(template):
            parts.append(text)
            if field is not None:
                # A column's name may contain what Python's formats give a meaning.
                column = (
                    field + (f"!{conversion}" if conversion else "") + ((spec and f":{spec}") or "")
                )
                parts.append(_place(column.strip(), header, name))
    except ValueError as error:
        raise _fault(
            f"--template: {error}. A column stands in braces; a brace itself is doubled."
        ) from None
    if not any(isinstance(part, int) for part in parts):
        raise _fault(f"--template names no column in braces. {_columns(header)}")
    return parts


def _place(column: str, header: list[str], name: str) -> int:
    if header.count(column) > 1:
        raise _fault(f"{name} has several columns `{column}`.")
    if column not in header:
        raise _fault(f"{name} has no column `{column}`. {_columns(header)}")
    return header.index(column)


def _columns(header: list[str]) -> str:
    return f"Its columns: {', '.join(header)}." if header else "It is empty."


def _fault(sentence: str) -> RequestError:
    return RequestError(sentence, Code.INVALID_FIELDS)
