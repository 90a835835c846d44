"""A Python client made from the served document, with nothing left out, and a chat through it."""

import re
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from tests.generated import conversation, python
from tests.support import openapi_document

# It starts two programs, one of which takes long to import.
pytestmark = pytest.mark.timeout(240)

_CLASS: Final = re.compile(r"^ +\"(\w+)\",$", re.MULTILINE)


def _missing_in(made: dict[str, Any], package: Path) -> set[str]:
    """Return the schemas and operations of a document that a client lacks."""
    operations = {
        f"api/{operation['tags'][0]}/{operation['operationId']}.py"
        for item in made["paths"].values()
        for operation in item.values()
    }
    files = {str(path.relative_to(package)) for path in package.rglob("*.py")}
    models = set(_CLASS.findall((package / "models" / "__init__.py").read_text()))
    schemas = {name for name, each in made["components"]["schemas"].items() if "anyOf" not in each}
    return (operations - files) | (schemas - models)


async def test_a_conversation_through_a_generated_client(tmp_path: Path) -> None:
    async with conversation.running_deployment(tmp_path) as system:
        served = await conversation.document(system)
        package = await python.generate(served, tmp_path)
        assert _missing_in(msgspec.json.decode(served), package) == set()
        outcome = await conversation.run_conversation(system, python.program(package))
    assert outcome == conversation.EXPECTED


async def test_the_operators_document_makes_a_client_too(tmp_path: Path) -> None:
    made = openapi_document.document(is_admin=True)
    package = await python.generate(msgspec.json.encode(made), tmp_path)
    assert _missing_in(made, package) == set()
